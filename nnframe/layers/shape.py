"""Layers that put the entries of each row in another shape or order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nnframe.core.layer import Layer
from nnframe.core.parameter import Array
from nnframe.layers.windows import Sizes, stacked


class Shaping(Layer):
    """A layer whose entries keep their order, and their values: its difference is itself."""

    couples = "rows"

    def forward(self, x: Array) -> Array:
        return self._shaped(x)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        return dy.reshape(x.shape)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return dx.reshape(*dx.shape[: dx.ndim - x.ndim], *y.shape)

    def stage_of_planes(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: nothing, as entries keep their order."""
        return ()

    def _shaped(self, x: Array) -> Array:
        """Return x in its new shape; ValueError where it has none."""
        raise NotImplementedError


class Identity(Shaping):
    """y = x: in the place of a layer that is left out."""

    couples = "entries"

    def _shaped(self, x: Array) -> Array:
        return x


class Flatten(Shaping):
    """Axes `start_dim` to `end_dim` of x as one axis: (N, C, H, W) becomes (N, C H W).

    Parameters
    ----------
    start_dim, end_dim : int
        The first and the last of them; negative ones count from the end. Axis 0, the rows, stays.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        for name, axis in (("start_dim", start_dim), ("end_dim", end_dim)):
            if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
                raise TypeError(f"{name}: expected a whole number, got {axis!r}")
            if axis == 0:
                raise ValueError(f"{name}: expected another axis than 0, which counts the rows")
        self.start_dim, self.end_dim = int(start_dim), int(end_dim)

    def _shaped(self, x: Array) -> Array:
        first, last = (axis + x.ndim if axis < 0 else axis for axis in (self.start_dim, self.end_dim))
        if not 0 < first <= last < x.ndim:
            if x.ndim == 1 and (self.start_dim, self.end_dim) == (1, -1):
                return x.reshape(len(x), 1)
            raise ValueError(f"x: expected axes {self.start_dim} to {self.end_dim}, got shape {x.shape}")
        return x.reshape(*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :])

    def __repr__(self) -> str:
        axes = (self.start_dim, self.end_dim)
        return "Flatten()" if axes == (1, -1) else f"Flatten({axes[0]}, {axes[1]})"


class Reshape(Shaping):
    """Each row in the shape `shape`: x (N, ...) becomes (N, *shape).

    Parameters
    ----------
    *shape : int, or one sequence of int
        One of them may be -1: what is left.
    """

    def __init__(self, *shape: int | Sequence[int]) -> None:
        lengths = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
        self.shape: Sizes = tuple(_as_whole("shape", n) for n in lengths)
        if any(n < 1 and n != -1 for n in self.shape) or self.shape.count(-1) > 1:
            raise ValueError(f"shape: expected lengths of at least 1, or -1 once, got {self.shape}")

    def _shaped(self, x: Array) -> Array:
        size, known = math.prod(x.shape[1:]), math.prod(n for n in self.shape if n != -1)
        if size % known or (-1 not in self.shape and size != known):
            raise ValueError(f"x: expected rows that have the shape {self.shape}, got shape {x.shape}")
        return x.reshape(len(x), *(size // known if n == -1 else n for n in self.shape))

    def __repr__(self) -> str:
        return f"Reshape({', '.join(map(str, self.shape))})"


class Unflatten(Shaping):
    """Axis `dim` of x as several axes: (N, C H W) becomes (N, C, H, W).

    Parameters
    ----------
    dim : int
        Not 0, which counts the rows; a negative one counts from the end.
    unflattened_size : sequence of int
        One of them may be -1: what is left.
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        self.dim = _as_whole("dim", dim)
        self.unflattened_size: Sizes = Reshape(*unflattened_size).shape
        if self.dim == 0:
            raise ValueError("dim: expected another axis than 0, which counts the rows")

    def _shaped(self, x: Array) -> Array:
        dim = self.dim + x.ndim if self.dim < 0 else self.dim
        size, known = (x.shape[dim] if 0 < dim < x.ndim else 0), math.prod(n for n in self.unflattened_size if n != -1)
        if size == 0 or size % known or (-1 not in self.unflattened_size and size != known):
            raise ValueError(f"x: expected an axis {self.dim} of {self.unflattened_size} entries, got shape {x.shape}")
        lengths = (size // known if n == -1 else n for n in self.unflattened_size)
        return x.reshape(*x.shape[:dim], *lengths, *x.shape[dim + 1 :])

    def __repr__(self) -> str:
        return f"Unflatten({self.dim}, {self.unflattened_size})"


class Permute(Layer):
    """The axes of x in another order: `Permute(0, 2, 3, 1)` makes (N, H, W, C) of (N, C, H, W).

    Parameters
    ----------
    *dims : int, or one sequence of int
        All axes of x; the first is 0, as rows stay rows.
    """

    couples = "rows"

    def __init__(self, *dims: int | Sequence[int]) -> None:
        axes = dims[0] if len(dims) == 1 and isinstance(dims[0], Sequence) else dims
        self.dims: Sizes = tuple(_as_whole("dims", axis) for axis in axes)
        if sorted(self.dims) != list(range(len(self.dims))) or self.dims[:1] != (0,):
            raise ValueError(f"dims: expected 0 and then each of the other axes once, got {self.dims}")

    def forward(self, x: Array) -> Array:
        if x.ndim != len(self.dims):
            raise ValueError(f"x: expected {len(self.dims)} axes, got shape {x.shape}")
        return np.ascontiguousarray(x.transpose(self.dims))

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        return np.ascontiguousarray(dy.transpose(np.argsort(self.dims)))

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return stacked(self.forward, dx, x, y)

    def __repr__(self) -> str:
        return f"Permute({', '.join(map(str, self.dims))})"


def _as_whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected whole numbers, got {value!r}")
    return int(value)
