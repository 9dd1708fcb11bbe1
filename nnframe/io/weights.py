"""Weights on disk, as safetensors: a format that holds arrays and nothing that runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from nnframe._version import __version__
from nnframe.core.layer import Layer


def save(model: Layer, path: str | os.PathLike[str]) -> None:
    """Write a model's parameters to a safetensors file, under names such as `0.weight`.

    The file is replaced as a whole: it is never left half written.

    Parameters
    ----------
    model : Layer
        With at least one parameter.
    path : path
        Its folder must exist.
    """
    from safetensors.numpy import save as to_bytes

    state = model.state_dict()
    if not state:
        raise ValueError(f"model: expected at least one parameter, {model!r} has none")
    content = to_bytes(state, metadata={"nnframe": __version__})
    target = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(model: Layer, path: str | os.PathLike[str]) -> None:
    """Set a model's parameters from a safetensors file; nothing is changed unless everything fits.

    Values are converted to the model's dtype, so that float64 weights may be loaded into a float32 model.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no safetensors file, or its names or shapes are not those of the model; the message names the file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    try:
        state = from_bytes(Path(path).read_bytes())
    except (SafetensorError, KeyError, TypeError) as error:  # damaged, or a dtype that NumPy does not have
        raise ValueError(f"{path}: expected a safetensors file of float32 or float64 arrays, got {error}") from error
    try:
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error.args[0]}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
