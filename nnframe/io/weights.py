"""Weights on disk, as safetensors: a format that holds arrays and nothing that runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_flag
from nnframe._files import as_path, read_file, write_atomically
from nnframe._state import fill
from nnframe._version import __version__
from nnframe.core.layer import Layer
from nnframe.core.parameter import Buffer, Parameter
from nnframe.core.random import Random
from nnframe.core.tree import aliases

_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
           "float16", "float32", "float64")  # fmt: skip
_READ = {
    "BOOL": "?", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "u1", "U16": "<u2", "U32": "<u4",
    "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2",
}  # fmt: skip


class Loaded(NamedTuple):
    """What did not fit, as PyTorch's `load_state_dict` returns it: both empty unless `strict=False` let them pass."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def save(model: Layer, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's parameters and buffers to a safetensors file, under names such as `0.weight`.

    Names, shapes and layouts are those of PyTorch. An array with several names is there once, under the first; the
    header says which further ones it has, as safetensors.torch.save_model does. It also holds what PyTorch has no
    array for, the state of random layers, and, if all layers are nnframe's own, what `load_model` makes the model from.

    The file is replaced as a whole: it is never left half written. It keeps its mode if it is there already; where
    `path` is a symbolic link, the file that it leads to is replaced.

    Parameters
    ----------
    model : Layer
        With at least one parameter or buffer.
    path : path
        Its folder must exist; ~ stands for the home folder.
    metadata : mapping of str to str, optional
        More for the header.

    Raises
    ------
    OSError
        The file cannot be written, or `path` is a directory, a device or a FIFO.
    ValueError
        The model has no array, two of one name, or one of a dtype that the format does not have.
    """
    _refuse_swapped("save", model, path)
    write_atomically(path, to_bytes(model, metadata))


def to_bytes(model: Layer, metadata: Mapping[str, str] | None = None) -> bytes:
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
    states = {name: arrays.pop(name).tolist() for name in _random_states(model)}
    # safetensors writes the bytes of an array as they lie in memory: in C order, then
    ordered = {name: np.array(array, order="C") for name, array in arrays.items()}
    header = {"nnframe": __version__, **aliases(model), **_architecture(model)}
    return _in_order(serialize(ordered, metadata={**header, "random": json.dumps(states), **(metadata or {})}))


def _in_order(content: bytes) -> bytes:
    """Return a file with its metadata in order, which safetensors leaves to chance: equal models make equal files."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


def _architecture(model: Layer) -> dict[str, str]:
    """Return what the header says of the layers: the description, or why there is none."""
    from nnframe.io.architecture import NotDescribed, describe

    try:
        return {"architecture": json.dumps(describe(model))}
    except NotDescribed as error:
        return {"no_architecture": str(error)}


def _random_states(model: Layer) -> list[str]:
    return [f"{path}.state" if path else "state" for path, tree in model.named_trees() if isinstance(tree, Random)]


def load(model: Layer, path: str | os.PathLike[str], *, strict: bool = True, allow_nonfinite: bool = False) -> Loaded:
    """Set a model's parameters and buffers from a safetensors file; nothing is changed unless everything fits.

    Values are converted to the dtypes of the model, so that float64 weights, or half precision ones (float16,
    bfloat16), may be loaded into a float32 model. A parameter with several names may come under any of them. The state
    of random layers, which files of PyTorch do not have, stays where there is none.

    Parameters
    ----------
    model : Layer
    path : path
        ~ stands for the home folder.
    strict : bool
        False: names that the file does not have stay what they are, and those that the model does not have are left
        out. What has the same name must fit.
    allow_nonfinite : bool
        Take NaN and infinity, also where a number becomes infinite in the model's dtype.

    Returns
    -------
    Loaded
        The names that were missing and those that were left out.

    Raises
    ------
    OSError
        There is no such file (FileNotFoundError), or it cannot be read.
    ValueError
        The file is no safetensors file; its names, shapes or dtypes are not those of the model; an array of the model
        is read-only; or there are values that are not finite. The message names the file.
    """
    _refuse_swapped("load", model, path)
    exact, accept = as_flag("strict", strict), as_flag("allow_nonfinite", allow_nonfinite)
    where = as_path(path)
    _arrays(model)  # errors of the model come before those of the file
    return _fill(model, where, read_file(where), exact, accept)


def load_model(path: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> Layer:
    """Make the model that `save` wrote, layers and weights: nothing in the file is run, only nnframe's layers are made.

    Parameters
    ----------
    path, allow_nonfinite
        As for `load`.

    Raises
    ------
    OSError
        There is no such file (FileNotFoundError), or it cannot be read.
    ValueError
        As for `load`; or the file does not say which layers there are, as one of PyTorch, or one of a model with a
        layer that somebody wrote: make that model, and use `load`.
    """
    from nnframe.io.architecture import build

    where = as_path(path)
    content = read_file(where)
    header = read_metadata(content, where)
    if "architecture" not in header:
        why = header.get("no_architecture", "it was not written by nnframe.save")
        raise ValueError(f"{where}: expected a file that says what its layers are; {why}; make the model and load it")
    try:
        model = build(json.loads(header["architecture"]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from error
    _fill(model, where, content, True, allow_nonfinite)
    return model


def read_metadata(content: bytes, where: object) -> dict[str, str]:
    """Return what the header of a safetensors file says besides arrays; ValueError where it is no such file."""
    _deserialized(content, where)
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    return found


def _fill(model: Layer, where: object, content: bytes, strict: bool, allow_nonfinite: bool) -> Loaded:
    own, optional = _arrays(model), set(_random_states(model))
    state = _read(content, where)
    try:
        _unite(state, aliases(model))
        own = {name: array for name, array in own.items() if name in state or name not in optional}
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if not strict:
            own = {name: array for name, array in own.items() if name in state}
            state = {name: array for name, array in state.items() if name in own}
        fill(own, state, allow_nonfinite=allow_nonfinite)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error.args[0]}") from error
    return Loaded(missing, unknown)


def _unite(state: dict[str, npt.NDArray[Any]], several: Mapping[str, str]) -> None:
    """Bring arrays under their first names; ValueError where two that are one array here differ."""
    for alias, first in several.items():
        if alias not in state:
            continue
        given = state.pop(alias)
        if not np.array_equal(state.setdefault(first, given), given, equal_nan=given.dtype.kind == "f"):
            raise ValueError(f"{alias}: expected the values of {first}, which is the same array here, got others")


def _read(content: bytes, where: object) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a file, and the states of random layers from its header; bfloat16 as float32."""
    found = {}
    for name, one in _deserialized(content, where):
        if one["dtype"] not in _READ:
            raise ValueError(f"{where}: {name}: expected a dtype that NumPy has, or BF16, got {one['dtype']}")
        array = np.frombuffer(one["data"], _READ[one["dtype"]]).reshape(one["shape"])
        if one["dtype"] == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        found[name] = array
    try:
        states = json.loads(read_metadata(content, where).get("random", "{}"))
        found |= {name: np.array(state, np.uint64) for name, state in states.items()}
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: random: expected the states of random layers, got {error}") from error
    return found


def _deserialized(content: bytes, where: object) -> list[tuple[str, dict[str, Any]]]:
    import safetensors

    try:
        found: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except (safetensors.SafetensorError, KeyError, TypeError) as error:  # damaged
        raise ValueError(f"{where}: expected a safetensors file of a dtype that NumPy has, got {error}") from error
    return found


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
