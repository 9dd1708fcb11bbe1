"""Layers that keep one number of each window of a channel: its largest, or its mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe._checks import as_flag
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array
from nnframe.layers.windows import Sizes, as_sizes, pair, planes, shown, stacked

Indices = npt.NDArray[np.int32]


class Pooling(Layer):
    """Windows of `kernel_size` entries, every `stride` of them, of x with `padding` before and after.

    axes : how many axes a channel has
    """

    axes: ClassVar[int]
    couples = "rows"
    dilation: Sizes

    def _set(self, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> None:
        self.kernel_size = as_sizes("kernel_size", kernel_size, self.axes, 1)
        self.stride = self.kernel_size if stride is None else as_sizes("stride", stride, self.axes, 1)
        self.padding = as_sizes("padding", padding, self.axes, 0)
        self.dilation = as_sizes("dilation", dilation, self.axes, 1)
        self.ceil_mode = as_flag("ceil_mode", ceil_mode)
        for p, k in zip(self.padding, self.kernel_size, strict=True):
            if 2 * p > k:
                raise ValueError(f"padding: expected at most half of kernel_size {k}, got {p}")

    def _size(self, x: Array) -> Sizes:
        """Lengths of y's axes, as PyTorch has them: with `ceil_mode` the last window must begin in x or before it."""
        if x.ndim != 2 + self.axes:
            names = "H, W" if self.axes == 2 else "L"
            raise ValueError(f"x: expected shape (N, C, {names}), got {x.shape}")
        found = []
        for n, k, s, p, d in zip(x.shape[2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True):
            rest = n + 2 * p - d * (k - 1) - 1
            many = (rest + (s - 1) * self.ceil_mode) // s + 1
            if self.ceil_mode and (many - 1) * s >= n + p:
                many -= 1
            if rest < 0 or many < 1:
                raise ValueError(
                    f"x: expected axes that a window fits into, {d * (k - 1) + 1} entries with padding, got "
                    f"shape {x.shape}"
                )
            found.append(many)
        return tuple(found)

    @property
    def _windows(self) -> dict[str, Any]:
        one = (1,) * (2 - self.axes)
        return {
            "kernel_size": one + self.kernel_size,
            "stride": one + self.stride,
            "padding": (0,) * (2 - self.axes) + self.padding,
        }

    def _repr(self, **others: Any) -> str:
        zero, one = (0,) * self.axes, (1,) * self.axes
        defaults = {"stride": self.kernel_size, "padding": zero, "dilation": one, "ceil_mode": False, **others}
        named = {name: getattr(self, name) for name, default in defaults.items() if getattr(self, name) != default}
        rest = "".join(f", {name}={shown(value)}" for name, value in named.items())
        return f"{type(self).__name__}({shown(self.kernel_size)}{rest})"


class MaxPool1d(Pooling):
    """y[n, c, i] = the largest of x[n, c, i s - p + a d] over a < kernel_size, for x (N, C, L).

    Of equal entries the first one counts: it alone gets the gradient. A window with a NaN is NaN.

    Parameters
    ----------
    kernel_size : int
    stride : int, optional
        s; kernel_size if not given.
    padding : int
        p: entries before and after x that are never the largest; at most half of kernel_size.
    dilation : int
        d: how far apart the entries of a window are.
    return_indices : bool
        False: a layer returns one array.
    ceil_mode : bool
        Whether the last window may reach beyond the padding, as long as it begins in x or before it.
    """

    axes = 1

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        if as_flag("return_indices", return_indices):
            raise ValueError("return_indices: expected False, as a layer returns one array; see kernels.max_pooling")
        self._set(kernel_size, stride, padding, dilation, ceil_mode)

    @property
    def _windows(self) -> dict[str, Any]:
        return super()._windows | {"dilation": (1,) * (2 - self.axes) + self.dilation}

    def forward(self, x: Array) -> Array:
        return self.forward_saving(x)[0]

    def forward_saving(self, x: Array) -> tuple[Array, Indices]:
        size = self._size(x)
        y, index = kernels.max_pooling(planes(x, self.axes), out_size=pair(size), **self._windows)
        return y.reshape(*x.shape[:2], *size), index

    def backward(self, x: Array, y: Array, dy: Array, saved: Indices | None = None) -> Array:
        index = self.forward_saving(x)[1] if saved is None else saved
        dx = kernels.max_pooling_backward(planes(dy, self.axes), index, in_size=pair(x.shape[2:]))
        return dx.reshape(x.shape)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        """Return the largest of (x - y) + dx of each window: nothing cancels."""
        index = self.forward_saving(x)[1]
        lead = dx.shape[: dx.ndim - x.ndim]
        change = dx.reshape(*lead, *planes(x, self.axes).shape)
        dy = kernels.max_pooling_difference(planes(x, self.axes), change, index, **self._windows)
        return dy.reshape(*lead, *y.shape)

    def stage_of_planes(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        return "max", planes(x, self.axes), self.forward_saving(x)[1], self._windows

    def __repr__(self) -> str:
        return self._repr()


class MaxPool2d(MaxPool1d):
    """y[n, c, i, j] = the largest of x[n, c, i s - p + a d, j s - p + b d] over a window, for x (N, C, H, W).

    As `MaxPool1d` along two axes: arguments are one number for both, or a pair.
    """

    axes = 2


class AvgPool1d(Pooling):
    """y[n, c, i] = the mean of x[n, c, i s - p + a] over a < kernel_size, for x (N, C, L).

    Parameters
    ----------
    kernel_size : int
    stride : int, optional
        s; kernel_size if not given.
    padding : int
        p: zeros before and after x; at most half of kernel_size.
    ceil_mode : bool
        Whether the last window may reach beyond the padding, as long as it begins in x or before it; what is beyond
        does not count.
    count_include_pad : bool
        Whether zeros of the padding count for the mean.
    """

    axes = 1
    divisor_override: int | None = None

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self._set(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = as_flag("count_include_pad", count_include_pad)

    @property
    def _windows(self) -> dict[str, Any]:
        divisor = float(self.divisor_override or 0)
        return super()._windows | {"count_padding": self.count_include_pad, "divisor": divisor}

    def forward(self, x: Array) -> Array:
        size = self._size(x)
        y = kernels.mean_pooling(planes(x, self.axes), out_size=pair(size), **self._windows)
        return y.reshape(*x.shape[:2], *size)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        size = pair(x.shape[2:])
        return kernels.mean_pooling_backward(planes(dy, self.axes), in_size=size, **self._windows).reshape(x.shape)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return stacked(self.forward, dx, x, y)

    def stage_of_planes(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        return "mean", planes(x, self.axes).shape[1:], planes(y, self.axes).shape[1:], self._windows

    def __repr__(self) -> str:
        return self._repr(count_include_pad=True)


class AvgPool2d(AvgPool1d):
    """y[n, c, i, j] = the mean of x[n, c, i s - p + a, j s - p + b] over a window, for x (N, C, H, W).

    As `AvgPool1d` along two axes: arguments are one number for both, or a pair. `divisor_override`: a number at least 1
    that sums are divided by instead of how many entries they have.
    """

    axes = 2

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        if divisor_override is not None:
            (self.divisor_override,) = as_sizes("divisor_override", divisor_override, 1, 1)

    def __repr__(self) -> str:
        return self._repr(count_include_pad=True, divisor_override=None)


class AdaptiveAvgPool2d(Layer):
    """The means of `output_size` windows side by side, which x (N, C, H, W) is cut into; 1: the mean of each channel.

    Parameters
    ----------
    output_size : int or pair of int
        Must divide H and W.
    """

    couples = "rows"

    def __init__(self, output_size: int | Sequence[int]) -> None:
        self.output_size = as_sizes("output_size", output_size, 2, 1)

    def _pool(self, x: Array) -> AvgPool2d:
        if x.ndim != 4 or any(n % m or n < m for n, m in zip(x.shape[2:], self.output_size, strict=True)):
            by = " and ".join(map(str, self.output_size))
            raise ValueError(f"x: expected shape (N, C, H, W) with H and W divided by {by}, got {x.shape}")
        return AvgPool2d([n // m for n, m in zip(x.shape[2:], self.output_size, strict=True)])

    def forward(self, x: Array) -> Array:
        return self._pool(x).forward(x)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        return self._pool(x).backward(x, y, dy)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return self._pool(x).difference(x, y, dx)

    def stage_of_planes(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        return self._pool(x).stage_of_planes(x, y)

    def __repr__(self) -> str:
        return f"AdaptiveAvgPool2d({shown(self.output_size)})"
