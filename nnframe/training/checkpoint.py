"""The state of a training run in one file: safetensors, with everything that is no array as JSON in its header."""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe._files import as_path, read_file, write_atomically
from nnframe._version import __version__

Arrays = dict[str, npt.NDArray[Any]]
KEY = "nnframe.training"  # of the header: where the JSON is


def pack(value: Any, name: str, arrays: Arrays) -> Any:
    """Return `value` as JSON, its arrays put into `arrays` under names that begin with `name`.

    Takes None, bools, whole and floating-point numbers, text, NumPy's arrays and numbers, and lists,
    tuples and dicts of these; TypeError, which names what else there is.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        arrays[name] = np.asarray(value, order="C")
        return {"$number" if isinstance(value, np.generic) else "$array": name}
    if isinstance(value, list | tuple):
        items = [pack(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict) and all(isinstance(key, str) and key[:1] != "$" for key in value):
        return {key: pack(item, f"{name}.{key}", arrays) for key, item in value.items()}
    raise TypeError(f"{name}: expected numbers, text, arrays, or lists and dicts of them, got {value!r}")


def unpack(value: Any, arrays: Arrays) -> Any:
    """Return what `pack` was given."""
    if isinstance(value, list):
        return [unpack(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (kind, item), *_ = value.items()
        if kind == "$float":
            return float(item)
        if kind == "$tuple":
            return tuple(unpack(one, arrays) for one in item)
        if kind == "$array":
            return arrays[item]
        if kind == "$number":
            return arrays[item][()]
    return {key: unpack(item, arrays) for key, item in value.items()}


def to_bytes(state: dict[str, Any]) -> bytes:
    """Return the content of a file that holds `state`."""
    import json

    from safetensors.numpy import save

    arrays: Arrays = {}
    tree = {key: pack(value, key, arrays) for key, value in state.items()}
    return save(arrays, metadata={KEY: json.dumps(tree), "nnframe": __version__})


def write(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write `state`: beside, flushed, renamed; the file that was there stays until the new one is whole."""
    write_atomically(path, to_bytes(state))


class Writer:
    """Writes files as a whole, one after another, while the caller goes on: flushing to a disk takes milliseconds."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def write(self, path: str | os.PathLike[str], content: bytes) -> None:
        """Begin to write, once the file before is on the disk; raise what went wrong with that one."""
        self.wait()
        self.thread = threading.Thread(target=self._write, args=(path, content), name="nnframe checkpoint")
        self.thread.start()

    def wait(self) -> None:
        """Wait until the file is on the disk; raise what went wrong."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def _write(self, path: str | os.PathLike[str], content: bytes) -> None:
        try:
            write_atomically(path, content)
        except BaseException as error:
            self.error = error


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `write` was given.

    Raises
    ------
    OSError
        No such file, or it cannot be read.
    ValueError
        It is damaged, or holds no training.
    """
    import json

    from safetensors import SafetensorError
    from safetensors.numpy import load

    where = as_path(path)
    content = read_file(where)
    try:
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        state = unpack(json.loads(header["__metadata__"][KEY]), arrays)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected a file that Trainer.save wrote, got {error!r}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{where}: expected a file that Trainer.save wrote, got {type(state).__name__} in its header")
    return state
