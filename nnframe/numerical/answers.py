"""What a function returns, checked: one number, or an array of numbers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def as_number(value: object, where: str, lenient: bool = False) -> float:
    """`value` as a float, finite unless lenient; errors name where it came from."""
    if not isinstance(value, float):
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise TypeError(f"f: expected a single number, got {type(value).__name__} of shape {array.shape}{where}")
        value = float(array.reshape(()))
    if not lenient and not math.isfinite(value):
        raise FloatingPointError(f"f: expected a finite number, got {value}{where}")
    return float(value)


def as_values(value: object, where: str, lenient: bool = False, like: tuple[int, ...] | None = None) -> Doubles:
    """`value` as a new array of numbers, finite unless lenient, of the shape `like` where that is known."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"f: expected an array of numbers, got {type(value).__name__} of dtype {array.dtype}{where}")
    if lenient and like and not array.ndim and math.isnan(array):
        return np.full(like, np.nan)
    if like is not None and array.shape != like:
        raise ValueError(f"f: expected shape {like} as at x itself, got {array.shape}{where}")
    if not lenient and not np.isfinite(array).all():
        raise FloatingPointError(
            f"f: expected finite numbers, got {array.reshape(-1)[~np.isfinite(array.reshape(-1))][0]}{where}"
        )
    return array.astype(np.float64)


def moved_to(name: str, index: int, value: float) -> str:
    """Words for an error at a moved entry."""
    return f" for entry {index} of {name} at {value:g}"
