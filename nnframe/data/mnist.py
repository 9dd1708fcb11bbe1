"""MNIST from its four IDX files (Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits")."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_dtype
from nnframe._files import as_path
from nnframe.data.loader import Pair

FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
         "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip
GZIP = b"\x1f\x8b"
MOST_BYTES = 2**30  # of the elements of a file: MNIST has 47 MB, the largest set of its family (EMNIST) 0.64 GB

Bytes = npt.NDArray[np.uint8]


def mnist(
    folder: str | os.PathLike[str] | None = None, *, flatten: bool = True, dtype: npt.DTypeLike = np.float32
) -> tuple[Pair, Pair]:
    """Return MNIST as (x_train, t_train), (x_test, t_test).

    Parameters
    ----------
    folder : path, optional
        Holds the four files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
        t10k-labels-idx1-ubyte, or train-images.idx3-ubyte and so on, each compressed by gzip or not, and with or
        without .gz; the environment variable NNFRAME_DATA if not given. ~ stands for the home folder.
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
        A file is truncated, damaged, of another kind, or does not match its partners. The message names it.
    """
    kind = as_dtype(dtype)
    place = folder if folder is not None else os.environ.get("NNFRAME_DATA")
    if not place:
        raise FileNotFoundError("MNIST: expected the folder of its four IDX files, as an argument or in NNFRAME_DATA")
    paths = {part: [_find(as_path(place, "folder"), name) for name in names] for part, names in FILES.items()}
    train, test = (_read_part(*found) for found in paths.values())
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(
            f"{paths['test'][0]}: expected images of {_size(train[0])} pixels like those of "
            f"{paths['train'][0].name}, got {_size(test[0])}"
        )
    train_pair, test_pair = (_as_pair(*part, flatten, kind) for part in (train, test))
    return train_pair, test_pair


def _as_pair(images: Bytes, labels: Bytes, flatten: bool, kind: np.dtype[Any]) -> Pair:
    x = np.divide(images, kind.type(255), dtype=kind)
    return x.reshape(len(x), -1) if flatten else x, labels.astype(np.int64)


def _read_part(images_path: Path, labels_path: Path) -> tuple[Bytes, Bytes]:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.size == 0:
        raise ValueError(f"{images_path}: expected at least one image of at least one pixel, got shape {images.shape}")
    if len(images) != len(labels):
        raise ValueError(
            f"{labels_path}: expected a label for each of the {len(images)} images of {images_path.name}, "
            f"got {len(labels)}"
        )
    if labels.max() > 9:
        raise ValueError(
            f"{labels_path}: expected labels from 0 to 9, got {labels.max()} at position {labels.argmax()}"
        )
    return images, labels


def _size(images: Bytes) -> str:
    return f"{images.shape[1]}x{images.shape[2]}"


def _find(folder: Path, name: str) -> Path:
    spellings = (name, name.replace("-idx", ".idx"))  # as on the web page, and as some archives have it
    for spelling in spellings:
        for path in (folder / f"{spelling}.gz", folder / spelling):
            if path.is_file():
                return path
    where = "no such file" if folder.is_dir() else "no such folder"
    raise FileNotFoundError(
        f"{folder / name}.gz: {where}, nor without .gz, nor {spellings[1]}; MNIST has four IDX files in one folder"
    )


def read_idx(path: Path, ndim: int) -> Bytes:
    """Read an array of unsigned bytes from an IDX file, compressed by gzip or not, whatever it is called.

    IDX: two zero bytes, the element type (8: unsigned byte), the number of axes, each axis's length as a big-endian
    32-bit integer, then the elements. No more is decompressed than the header says.

    Raises
    ------
    ValueError
        The file is no such array of `ndim` axes; the message names it.
    """
    import gzip
    import zlib

    with path.open("rb") as file:
        compressed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        if not compressed:
            return _read_stream(path, ndim, file)
        try:
            with gzip.open(file) as stream:
                return _read_stream(path, ndim, stream)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: expected a whole gzip file, got a truncated or damaged one ({error})") from error


def _read_stream(path: Path, ndim: int, stream: io.BufferedIOBase) -> Bytes:
    length = 4 + 4 * ndim
    magic = bytes((0, 0, 8, ndim))
    header = stream.read(length)
    if header[:4] != magic:
        raise ValueError(
            f"{path}: expected an IDX file, compressed by gzip or not, with magic number {magic.hex()}, got "
            f"{header[:4].hex() or 'nothing'}"
        )
    if len(header) < length:
        raise ValueError(f"{path}: expected a header of {length} bytes, got a file of {len(header)}")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", ndim, 4))
    size = math.prod(shape)
    if size > MOST_BYTES:
        raise ValueError(f"{path}: expected at most {MOST_BYTES:,} bytes, got {size:,} for shape {shape}")
    elements = stream.read(size + 1)  # one more, to see whether it ends there
    if len(elements) != size:
        came = f"{len(elements)}" if len(elements) < size else "more"
        raise ValueError(f"{path}: expected {size} bytes for shape {shape}, got {came}")
    return np.frombuffer(elements, np.uint8).reshape(shape)
