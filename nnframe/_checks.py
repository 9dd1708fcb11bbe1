"""Checks of arguments that several rooms share: errors name the argument, what was expected and what came."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt


def as_dtype(dtype: npt.DTypeLike) -> np.dtype[np.floating]:
    """`dtype` as one of the two that nnframe computes in; ValueError for any other."""
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype!r}") from error
    if found not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, got {found}")
    return found


_PLAIN = (np.ndarray, list, tuple, int, float)


def unwrapped(value: Any) -> Any:
    """Return a NumPy array for an array of another library that `np.asarray` does not understand; others as they are.

    That is a tensor of PyTorch that tracks gradients, is on another device or in bfloat16; a column or table of pandas
    whose numbers may be missing (NaN) or are of several types; and what speaks DLPack only. Others have `__array__`.
    """
    if type(value) is np.ndarray or isinstance(value, _PLAIN):
        return value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return (value.float() if value.dtype is torch.bfloat16 else value).numpy(force=True)
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series)):
        dtypes = list(value.dtypes) if value.ndim == 2 else [value.dtype]
        plain = len({dtype.kind for dtype in dtypes}) == 1 and all(isinstance(dtype, np.dtype) for dtype in dtypes)
        numbers = all(dtype.kind in "biuf" for dtype in dtypes)
        return value if plain or not numbers else _numbers(value, dtypes)
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    return value


def _numbers(value: Any, dtypes: list[Any]) -> npt.NDArray[Any]:
    """Return the numbers of pandas: integers where all are and none is missing, else float64 with NaN for what is."""
    if all(dtype.kind in "iu" for dtype in dtypes) and not value.isna().to_numpy().any():
        found: npt.NDArray[Any] = value.to_numpy(np.uint64 if all(d.kind == "u" for d in dtypes) else np.int64)
        return found
    doubles: npt.NDArray[Any] = value.to_numpy(np.float64, na_value=np.nan)
    return doubles


def as_count(name: str, value: int) -> int:
    """`value` as an int of at least 1; an error that names the argument otherwise."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    return int(value)


def as_flag(name: str, value: bool) -> bool:
    """`value` as a bool; an error that names the argument for anything but True and False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def as_generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    """`rng` itself, a generator seeded by an int, or a fresh one; never NumPy's global random state."""
    if rng is None or isinstance(rng, int | np.integer | np.random.Generator):
        return np.random.default_rng(rng)
    raise TypeError(f"rng: expected np.random.Generator, an int or None, got {type(rng).__name__}")


def in_range(name: str, value: float, below: float = math.inf) -> float:
    """`value` as a float in [0, below); an error that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not 0 <= value < below:
        limit = "a finite number >= 0" if below == math.inf else f"a number in [0, {below:g})"
        raise ValueError(f"{name}: expected {limit}, got {value!r}")
    return float(value)
