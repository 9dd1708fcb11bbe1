"""Normalisation of each row by itself: over groups of channels, and by the root mean square alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_count, as_dtype, as_flag, in_range
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Parameter
from nnframe.layers.normalization import (
    COLUMNS,
    ROWS,
    ROWS_OF_SERIES,
    as_normalized_shape,
    centred,
    change_of,
    mean_over,
    norm_stage,
    scaled_change,
    shown,
    sum_over,
)


class GroupNorm(Layer):
    """y = (x - m) / sqrt(v + eps) w + b, m and v taken over each group of channels of each row (Wu and He 2018).

    x has the shape (N, C, ...), and so has y. The same in training and in evaluation mode.

    Parameters
    ----------
    num_groups : int
        Divides the channels into as many groups of neighbours. 1: over all channels; C: over each by itself.
    num_channels : int
        C, a multiple of `num_groups`.
    eps : float
        At least 0.
    affine : bool
        Whether there are w and b, one for each channel; they start at 1 and 0.
    dtype : float32 or float64

    Attributes
    ----------
    weight, bias : Parameter (C,), or None
    """

    couples = "rows"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.num_groups, self.num_channels = as_count("num_groups", num_groups), as_count("num_channels", num_channels)
        if self.num_channels % self.num_groups:
            raise ValueError(f"num_channels: expected a multiple of num_groups {num_groups}, got {num_channels}")
        self.eps = in_range("eps", eps)
        self.affine = as_flag("affine", affine)
        dtype = as_dtype(dtype)
        self.weight = Parameter(np.ones(self.num_channels), dtype) if affine else None
        self.bias = Parameter(np.zeros(self.num_channels), dtype) if affine else None

    def forward(self, x: Array) -> Array:
        return self.forward_saving(x)[0]

    def forward_saving(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        normal, a = self._normal(x)
        y = normal.reshape(x.shape)
        if self.weight is None or self.bias is None:
            return y.copy(), (normal, a)
        return y * self._spread(self.weight.value, x) + self._spread(self.bias.value, x), (normal, a)

    def backward(self, x: Array, y: Array, dy: Array, saved: tuple[Array, Array] | None = None) -> Array:
        normal, a = self._normal(x) if saved is None else saved
        g = dy
        if self.weight is not None and self.bias is not None:
            series = (len(x), self.num_channels, math.prod(x.shape[2:]))
            by_channel = np.ascontiguousarray(dy).reshape(series)
            self.bias.grad += sum_over(by_channel, ROWS_OF_SERIES).reshape(-1)
            self.weight.grad += sum_over(by_channel, ROWS_OF_SERIES, normal.reshape(series)).reshape(-1)
            g = dy * self._spread(self.weight.value, x)
        g = self._grouped(g)
        dx = normal * -mean_over(g, COLUMNS, normal)
        dx += g
        dx -= mean_over(g, COLUMNS)
        dx /= a
        return dx.reshape(x.shape)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        d, a = self._centred(x)
        grouped = self._grouped(dx, 1 + dx.ndim - x.ndim)  # one axis more in a stack
        change = change_of(d, a, grouped, COLUMNS, self.eps).reshape(dx.shape)
        return change if self.weight is None else change * self._spread(self.weight.value, x)

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Array, y: Array) -> Array:
        """Return one changed channel for each entry: `step` times (x - m) / sqrt(v + eps), or `step`."""
        dy = np.zeros((len(indices), *y.shape), y.dtype)
        normal = self._normal(x)[0].reshape(x.shape)
        moved = step * np.moveaxis(normal, 1, 0)[indices] if parameter is self.weight else step
        dy[np.arange(len(indices)), :, indices] = moved
        return dy

    def stage_of_planes(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        d, a = self._centred(x)
        weight = None if self.weight is None else np.repeat(self.weight.value, math.prod(x.shape[2:]))
        return norm_stage(d, a, sum_over(d, COLUMNS), weight, self.eps)

    def normal_planes(self, x: Array) -> Array:
        """Return (x - m) / sqrt(v + eps), which the weight multiplies channel by channel, (N, C, 1, positions)."""
        return self._normal(x)[0].reshape(len(x), self.num_channels, 1, math.prod(x.shape[2:]))

    def _normal(self, x: Array) -> tuple[Array, Array]:
        """Return (x - m) / sqrt(v + eps), (N, groups, entries), and what was divided by."""
        d, a = self._centred(x)
        d /= a
        return d, a

    def _centred(self, x: Array) -> tuple[Array, Array]:
        """Return x - m and sqrt(v + eps) for each group; ValueError where x has another shape."""
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"x: expected shape (N, {self.num_channels}, ...), got {x.shape}")
        return centred(self._grouped(x), COLUMNS, self.eps)

    def _grouped(self, x: Array, axis: int = 1) -> Array:
        """Return x as (..., N, groups, entries of a group); axis: that of the channels."""
        entries = math.prod(x.shape[axis:]) // self.num_groups
        return np.ascontiguousarray(x).reshape(*x.shape[:axis], self.num_groups, entries)

    def _spread(self, values: Array, x: Array) -> Array:
        """Values of the channels as they stand along x."""
        return values.reshape(-1, *[1] * (x.ndim - 2))

    def __repr__(self) -> str:
        return shown(self, f"{self.num_groups}, {self.num_channels}", {"eps": 1e-5, "affine": True})


class RMSNorm(Layer):
    """y = x / sqrt(mean(x^2) + eps) w, the mean taken over the last axes of each row (Zhang and Sennrich 2019).

    The same in training and in evaluation mode. x has the shape (N, ..., *normalized_shape), and so has y.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        Lengths of the axes over which the mean is taken: one at least, the last ones of x.
    eps : float, optional
        At least 0; the distance from 1 to the next number of `dtype` if not given.
    elementwise_affine : bool
        Whether there is w, which starts at 1.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter (*normalized_shape), or None
    """

    couples = "rows"

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.normalized_shape = as_normalized_shape(normalized_shape)
        dtype = as_dtype(dtype)
        self._least = float(np.finfo(dtype).eps)
        self.eps = self._least if eps is None else in_range("eps", eps)
        self.elementwise_affine = as_flag("elementwise_affine", elementwise_affine)
        self.weight = Parameter(np.ones(self.normalized_shape), dtype) if elementwise_affine else None

    def forward(self, x: Array) -> Array:
        return self.forward_saving(x)[0]

    def forward_saving(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        flat, a = self._scaled(x)
        normal = flat / a
        y = normal if self.weight is None else normal * self.weight.value.reshape(-1)
        return y.reshape(x.shape), (normal, a)

    def backward(self, x: Array, y: Array, dy: Array, saved: tuple[Array, Array] | None = None) -> Array:
        normal, a = self.forward_saving(x)[1] if saved is None else saved
        g = np.ascontiguousarray(dy).reshape(normal.shape)
        if self.weight is not None:
            by_row = (-1, math.prod(self.normalized_shape))
            self.weight.grad += sum_over(g.reshape(by_row), ROWS, normal.reshape(by_row)).reshape(self.normalized_shape)
            g = g * self.weight.value.reshape(-1)
        dx = (g - normal * mean_over(g, COLUMNS, normal)) / a
        return dx.reshape(x.shape)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        flat, a = self._scaled(x)
        change = scaled_change(flat, a, self._flat(dx).copy(), COLUMNS, self.eps)
        if self.weight is not None:
            change *= self.weight.value.reshape(-1)
        return change.reshape(dx.shape)

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Array, y: Array) -> Array:
        """Return one changed column for each entry: `step` times x / sqrt(mean(x^2) + eps)."""
        normal = self.forward_saving(x)[1][0]
        dy = np.zeros((len(indices), *normal.shape), y.dtype)
        dy[np.arange(len(indices)), ..., indices] = step * np.moveaxis(normal, -1, 0)[indices]
        return dy.reshape(len(indices), *y.shape)

    def stage_of_planes(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        flat, a = self._scaled(x)
        weight = None if self.weight is None else np.tile(self.weight.value.reshape(-1), math.prod(a.shape[1:]))
        return norm_stage(flat, a, None, weight, self.eps)

    def normal_planes(self, x: Array) -> Array | None:
        """Return x / sqrt(mean(x^2) + eps) as channels of one position; None where a row is more than one group."""
        normal = self.forward_saving(x)[1][0]
        return normal.reshape(*normal.shape, 1, 1) if normal.ndim == 2 else None

    def _scaled(self, x: Array) -> tuple[Array, Array]:
        """Return x, the normalized axes as one, and sqrt(mean(x^2) + eps); ValueError where x does not end in them."""
        shape = self.normalized_shape
        if x.ndim <= len(shape) or x.shape[-len(shape) :] != shape:
            raise ValueError(f"x: expected shape (N, ..., {', '.join(map(str, shape))}), got {x.shape}")
        flat = self._flat(np.ascontiguousarray(x))
        return flat, np.sqrt(mean_over(flat, COLUMNS, flat) + x.dtype.type(self.eps))

    def _flat(self, x: Array) -> Array:
        return x.reshape(*x.shape[: x.ndim - len(self.normalized_shape)], math.prod(self.normalized_shape))

    def __repr__(self) -> str:
        shape = self.normalized_shape
        defaults = {"eps": self._least, "elementwise_affine": True}
        return shown(self, str(shape[0] if len(shape) == 1 else shape), defaults)
