"""What layers share that slide a window along the last axes of x (N, C, ...): sizes, and how kernels see arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from nnframe.core.parameter import Array

Sizes = tuple[int, ...]


def as_sizes(name: str, value: int | Sequence[int], axes: int, least: int) -> Sizes:
    """`value` as one whole number for each axis, each at least `least`."""
    many = [value] * axes if isinstance(value, int | np.integer) else value
    whole = isinstance(many, Sequence) and all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) for n in many
    )
    if not whole or isinstance(many, str) or len(many) != axes:
        one = "a whole number" if axes == 1 else f"a whole number, or {axes} of them"
        raise (ValueError if whole else TypeError)(f"{name}: expected {one}, got {value!r}")
    if any(n < least for n in many):
        raise ValueError(f"{name}: expected at least {least}, got {value!r}")
    return tuple(int(n) for n in many)


def planes(x: Array, axes: int) -> Array:
    """Return an array (N, C, L) as (N, C, 1, L), and one of two axes as it is."""
    return x if axes == 2 else x.reshape(*x.shape[:2], 1, *x.shape[2:])


def flat_rows(x: Array) -> Array:
    """Return (N, ...) as (N, width)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def stacked(function: Callable[[Array], Array], dx: Array, x: Array, y: Array) -> Array:
    """Return what a linear function of rows makes of dx, which has the shape of x, or is a stack of such."""
    return function(dx.reshape(-1, *x.shape[1:])).reshape(*dx.shape[: dx.ndim - x.ndim], *y.shape)


def pair(sizes: Sizes) -> tuple[int, int]:
    """Return the lengths of two axes; of one, that of the first is 1."""
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def shown(value: object) -> str:
    """Return words for an argument: one number where a tuple holds the same for each axis."""
    return repr(value[0]) if isinstance(value, tuple) and len(set(value)) == 1 else repr(value)
