"""Weights on disk, as safetensors: a format that holds arrays and nothing that runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_flag
from nnframe._files import as_path, read_file, write_atomically
from nnframe._state import fill
from nnframe._version import __version__
from nnframe.core.layer import Layer
from nnframe.core.parameter import Buffer, Parameter

_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
           "float16", "float32", "float64")  # fmt: skip


def save(model: Layer, path: str | os.PathLike[str]) -> None:
    """Write a model's parameters and buffers to a safetensors file, under names such as `0.weight`.

    The file is replaced as a whole: it is never left half written. It keeps its mode if it is there already; where
    `path` is a symbolic link, the file that it leads to is replaced.

    Parameters
    ----------
    model : Layer
        With at least one parameter or buffer.
    path : path
        Its folder must exist; ~ stands for the home folder.

    Raises
    ------
    OSError
        The file cannot be written, or `path` is a directory, a device or a FIFO.
    ValueError
        The model has no array, two of one name, or one of a dtype that the format does not have.
    """
    _refuse_swapped("save", model, path)
    write_atomically(path, to_bytes(model))


def to_bytes(model: Layer) -> bytes:
    """Return the content of the file that `save` writes."""
    from safetensors.numpy import save as serialize

    arrays = _arrays(model)
    if not arrays:
        raise ValueError(f"model: expected at least one parameter or buffer, {model!r} has none")
    for name, array in arrays.items():
        if name == "__metadata__":
            raise ValueError(f"model: expected names that safetensors does not use itself, got {name!r}")
        if array.dtype.name not in _DTYPES:
            raise ValueError(f"{name}: expected a dtype that safetensors has, got {array.dtype}")
    # safetensors writes the bytes of an array as they lie in memory: in C order, then
    ordered = {name: np.array(array, order="C") for name, array in arrays.items()}
    return serialize(ordered, metadata={"nnframe": __version__})


def load(model: Layer, path: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> None:
    """Set a model's parameters and buffers from a safetensors file; nothing is changed unless everything fits.

    Values are converted to the dtypes of the model, so that float64 weights may be loaded into a float32 model.

    Parameters
    ----------
    model : Layer
    path : path
        ~ stands for the home folder.
    allow_nonfinite : bool
        Take NaN and infinity, also where a number becomes infinite in the model's dtype.

    Raises
    ------
    OSError
        There is no such file (FileNotFoundError), or it cannot be read.
    ValueError
        The file is no safetensors file; its names, shapes or dtypes are not those of the model; an array of the model
        is read-only; or there are values that are not finite. The message names the file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialize

    _refuse_swapped("load", model, path)
    accept = as_flag("allow_nonfinite", allow_nonfinite)
    where, own = as_path(path), _arrays(model)
    try:
        state = deserialize(read_file(where))
    except (SafetensorError, KeyError, TypeError) as error:  # damaged, or a dtype that NumPy does not have
        raise ValueError(f"{where}: expected a safetensors file of a dtype that NumPy has, got {error}") from error
    try:
        fill(own, state, allow_nonfinite=accept)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error.args[0]}") from error


def _arrays(model: Layer) -> dict[str, npt.NDArray[Any]]:
    """Every parameter's and buffer's own array, by name; ValueError where two of them have one name."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    named: Iterator[tuple[str, Parameter | Buffer]] = chain(model.named_parameters(), model.named_buffers())
    for name, held in named:
        if name in arrays:
            raise ValueError(f"model: expected a name for each array, got two of the name {name!r}")
        arrays[name] = held.value
    return arrays


def _refuse_swapped(function: str, model: object, path: object) -> None:
    if isinstance(model, Layer):
        return
    hint = f"; the model comes first: nn.{function}(model, path)" if isinstance(path, Layer) else ""
    raise TypeError(f"model: expected a Layer, got {model!r}{hint}")
