"""MNIST from its four IDX files (Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits")."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_dtype
from nnframe.data.loader import Pair

FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
         "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip


def mnist(
    folder: str | os.PathLike[str] | None = None, *, flatten: bool = True, dtype: npt.DTypeLike = np.float32
) -> tuple[Pair, Pair]:
    """Return MNIST as (x_train, t_train), (x_test, t_test).

    Parameters
    ----------
    folder : path, optional
        Holds the four files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
        t10k-labels-idx1-ubyte, each with or without .gz; the environment variable NNFRAME_DATA if not given.
    flatten : bool
        Images as rows of 784 numbers; otherwise (28, 28).
    dtype : float32 or float64

    Returns
    -------
    x_train : array (60000, 784), in [0, 1]
    t_train : array (60000,) of int64, in [0, 10)
    x_test, t_test : arrays of 10,000 rows

    Raises
    ------
    FileNotFoundError
        No folder given, or a file is missing.
    ValueError
        A file is truncated, damaged, of another kind, or does not match its partner. The message names it.
    """
    kind = as_dtype(dtype)
    place = folder if folder is not None else os.environ.get("NNFRAME_DATA")
    if not place:
        raise FileNotFoundError("MNIST: expected the folder of its four IDX files, as an argument or in NNFRAME_DATA")
    parts = [_read_part(Path(place), *names) for names in FILES.values()]
    scaled = [(images.astype(kind) / kind.type(255), labels.astype(np.int64)) for images, labels in parts]
    train, test = ((x.reshape(len(x), -1) if flatten else x, t) for x, t in scaled)
    return train, test


def _read_part(folder: Path, images_name: str, labels_name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    images_path, labels_path = _find(folder, images_name), _find(folder, labels_name)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"{labels_path}: expected a label for each of the {len(images)} images of {images_path.name}, "
            f"got {len(labels)}"
        )
    if labels.max() > 9:
        raise ValueError(
            f"{labels_path}: expected labels from 0 to 9, got {labels.max()} at position {labels.argmax()}"
        )
    return images, labels


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    where = "no such folder" if not folder.is_dir() else "no such file"
    raise FileNotFoundError(f"{folder / name}.gz: {where}; MNIST needs its four IDX files in one folder")


def read_idx(path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    """Read an array of unsigned bytes from an IDX file, compressed by gzip or not.

    IDX: two zero bytes, the element type (8: unsigned byte), the number of axes, each axis's length as a big-endian
    32-bit integer, then the elements.

    Raises
    ------
    ValueError
        The file is no such array of `ndim` axes; the message names it.
    """
    import gzip
    import zlib

    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, got a truncated or damaged one ({error})") from error
    header = 4 + 4 * ndim
    magic = bytes((0, 0, 8, ndim))
    if content[:4] != magic:
        raise ValueError(
            f"{path}: expected an IDX file with magic number {magic.hex()}, got {content[:4].hex() or 'nothing'}"
        )
    if len(content) < header:
        raise ValueError(f"{path}: expected a header of {header} bytes, got a file of {len(content)}")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", ndim, 4))
    if len(content) - header != math.prod(shape):
        raise ValueError(f"{path}: expected {math.prod(shape)} bytes for shape {shape}, got {len(content) - header}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
