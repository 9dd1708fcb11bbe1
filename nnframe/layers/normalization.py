"""Layers that bring their input to mean 0 and variance 1: over the mini-batch, or over each row.

Both are y = d / a w + b with d = x - m and a = sqrt(v + eps), where m and v are the mean and the (biased) variance of x
over some axes. docs/derivations/normalization.md derives the passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe._checks import as_count, as_dtype, as_flag, in_range
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Buffer, Parameter
from nnframe.layers.windows import flat_rows

Doubles = npt.NDArray[np.float64]


class Axes(NamedTuple):
    """Axes over which means are taken, counted from the end, so that they are the same ones in a stack.

    rows : the axis of the rows, where one of them is that
    of_one, of_product : the sum over them of one array, and of two multiplied, as einsum takes it
    kept : the index that puts axes of length 1 in place of those that are gone
    """

    rows: int | None
    of_one: str
    of_product: str
    kept: Any


ROWS = Axes(-2, "...nc->...c", "...nc,...nc->...c", np.s_[..., None, :])
ROWS_OF_IMAGES = Axes(-4, "...nchw->...c", "...nchw,...nchw->...c", np.s_[..., None, :, None, None])
ROWS_OF_SERIES = Axes(-3, "...ncl->...c", "...ncl,...ncl->...c", np.s_[..., None, :, None])
COLUMNS = Axes(None, "...i->...", "...i,...i->...", np.s_[..., None])
BLOCK = 256  # rows that are summed in the dtype of x, before they are added in float64


class _BatchNorm(Layer):
    """What BatchNorm1d and BatchNorm2d share, which say what it is and takes."""

    _forms: ClassVar[dict[int, str]]  # shapes of x by the number of its axes

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.num_features = as_count("num_features", num_features)
        self.eps = in_range("eps", eps)
        if momentum is not None and in_range("momentum", momentum) > 1:
            raise ValueError(f"momentum: expected a number in [0, 1] or None, got {momentum!r}")
        self.momentum = momentum
        self.affine = as_flag("affine", affine)
        self.track_running_stats = as_flag("track_running_stats", track_running_stats)
        dtype, zeros, ones = as_dtype(dtype), np.zeros(self.num_features), np.ones(self.num_features)
        self.weight = Parameter(ones, dtype) if affine else None
        self.bias = Parameter(zeros, dtype) if affine else None
        self.running_mean = Buffer(zeros, dtype) if track_running_stats else None
        self.running_var = Buffer(ones, dtype) if track_running_stats else None
        self.num_batches_tracked = Buffer(np.int64(0)) if track_running_stats else None

    @property
    def couples(self) -> str:  # type: ignore[override]
        """Which entries depend on which: all those of the mini-batch, or each on itself alone."""
        return "batch" if self._by_batch else "entries"

    @property
    def _by_batch(self) -> bool:
        return self.training or self.running_mean is None

    def forward(self, x: Array) -> Array:
        return self.forward_saving(x)[0]

    def forward_saving(self, x: Array) -> tuple[Array, Any]:
        if self._in_c(x):
            weight, bias = (None if p is None else p.value for p in (self.weight, self.bias))
            return kernels.batch_norm(x, weight, bias, eps=self.eps)
        d, a = self._centred(x)
        if self.weight is None or self.bias is None:
            return d / a, (d, a)
        y = d * (self._spread(self.weight.value, x) / a)
        y += self._spread(self.bias.value, x)
        return y, (d, a)

    def backward(self, x: Array, y: Array, dy: Array, saved: Any = None) -> Array:
        if self._in_c(x):
            return self._backward_in_c(x, dy, saved)
        d, a = self._centred(x) if saved is None else saved
        total, along = sum_over(dy, self._axes(x)), sum_over(dy, self._axes(x), d)
        scale = 1 / a
        if self.weight is not None and self.bias is not None:
            self.weight.grad += (along * scale).reshape(-1)
            self.bias.grad += total.reshape(-1)
            scale *= self._spread(self.weight.value, x)
        if not self._by_batch:
            return dy * scale
        count = x.size // self.num_features
        dx = d * (along / (-count * a * a)).astype(x.dtype)
        dx += dy
        dx -= (total / count).astype(x.dtype)
        dx *= scale
        return dx

    def _in_c(self, x: Array) -> bool:
        """Whether C takes x: channels of several positions, by the statistics of the mini-batch."""
        self._refuse_other_shapes(x)
        if x.ndim == 2 or not self._by_batch:
            return False
        self._count(x)
        return True

    def _backward_in_c(self, x: Array, dy: Array, moments: npt.NDArray[np.float64] | None) -> Array:
        if moments is None:
            moments = kernels.batch_norm(x, eps=self.eps, with_output=False)[1]
        if self.weight is None or self.bias is None:
            return kernels.batch_norm_backward(x, dy, moments, eps=self.eps)
        given = {"weight_grad": self.weight.grad, "bias_grad": self.bias.grad}
        return kernels.batch_norm_backward(x, dy, moments, self.weight.value, eps=self.eps, **given)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        d, a = self._centred(x)
        change = change_of(d, a, dx, self._axes(x), self.eps) if self._by_batch else dx / a
        if self.weight is not None:
            change *= self._spread(self.weight.value, x)
        return change

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Array, y: Array) -> Array:
        """Return one changed feature for each entry: `step` times (x - m) / sqrt(v + eps), or `step`."""
        dy = np.zeros((len(indices), *y.shape), y.dtype)
        d, a = self._centred(x)
        moved = step * np.moveaxis(d / a, 1, 0)[indices] if parameter is self.weight else step
        dy[np.arange(len(indices)), :, indices] = moved
        return dy

    def stage_of_planes(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        d, a = self._centred(x)
        if not self._by_batch:
            return (
                "factors",
                (1 / a if self.weight is None else self._spread(self.weight.value, x) / a).reshape(1, -1),
                {},
            )
        weight = None if self.weight is None else np.repeat(self.weight.value, math.prod(x.shape[2:]))
        return norm_stage(d, a, sum_over(d, self._axes(x)), weight, self.eps, by_batch=True)

    def normal_planes(self, x: Array) -> Array:
        """Return (x - m) / sqrt(v + eps), which the weight multiplies channel by channel, (N, C, 1, positions)."""
        d, a = self._centred(x)
        return (d / a).reshape(len(x), self.num_features, 1, math.prod(x.shape[2:]))

    def observe(self, x: Array, y: Array) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.value += 1
        step = 1 / int(self.num_batches_tracked.value) if self.momentum is None else self.momentum
        count = self._count(x)
        mean, variance = self._moments(x)
        for running, found in ((self.running_mean, mean), (self.running_var, variance * (count / (count - 1)))):
            running.value[...] = (1 - step) * running.value + step * found.reshape(-1)

    def _moments(self, x: Array) -> tuple[Array, Array]:
        """Return mean and biased variance of each feature."""
        if x.ndim > 2:
            mean, variance = kernels.batch_norm(x, eps=self.eps, with_output=False)[1]
            return mean, variance
        mean = mean_over(x, ROWS)
        d = x - mean
        return mean, mean_over(d, ROWS, d)

    def _refuse_other_shapes(self, x: Array) -> None:
        if x.ndim not in self._forms or x.shape[1] != self.num_features:
            forms = " or ".join(form.format(self.num_features) for form in self._forms.values())
            raise ValueError(f"x: expected shape {forms}, got {x.shape}")

    def _centred(self, x: Array) -> tuple[Array, Array]:
        """Return x - m, and sqrt(v + eps) for each feature; ValueError where x has another shape."""
        self._refuse_other_shapes(x)
        if not self._by_batch:
            assert self.running_mean is not None
            assert self.running_var is not None
            mean, variance = (
                self._spread(running.value.astype(x.dtype, copy=False), x)
                for running in (self.running_mean, self.running_var)
            )
            return x - mean, np.sqrt(variance + x.dtype.type(self.eps))
        self._count(x)
        return centred(x, self._axes(x), self.eps)

    def _count(self, x: Array) -> int:
        """How many values of each feature there are."""
        count = x.size // self.num_features
        if count < 2:
            raise ValueError(
                "x: expected more than 1 value for each feature in training, as one alone has no variance, got shape "
                f"{x.shape}; choose a batch_size that leaves no mini-batch of one row"
            )
        return count

    def _axes(self, x: Array) -> Axes:
        return {2: ROWS, 3: ROWS_OF_SERIES, 4: ROWS_OF_IMAGES}[x.ndim]

    def _spread(self, values: Array, x: Array) -> Array:
        """Values of the features as they stand along x."""
        return values.reshape(-1, *[1] * (x.ndim - 2))

    def __repr__(self) -> str:
        defaults = {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True}
        return shown(self, str(self.num_features), defaults)


class BatchNorm1d(_BatchNorm):
    """y = (x - m) / sqrt(v + eps) w + b, for each feature c of x (N, C) or (N, C, L) (Ioffe and Szegedy 2015).

    In training mode m and v are the mean and the biased variance of the mini-batch, over N (and L), and each step moves
    the running ones: running <- (1 - momentum) running + momentum found, with the unbiased variance. In evaluation mode
    m and v are the running ones, so that no row depends on another.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        At least 0.
    momentum : float or None
        In [0, 1]. None: the running statistics are the plain mean of those of all steps.
    affine : bool
        Whether there are w and b; they start at 1 and 0.
    track_running_stats : bool
        False: there are no running statistics, and those of the mini-batch are taken in evaluation mode, too.
    dtype : float32 or float64

    Attributes
    ----------
    weight, bias : Parameter (C,), or None
    running_mean, running_var : Buffer (C,), or None
        They start at 0 and 1.
    num_batches_tracked : Buffer (), int64, or None
        How many steps have been seen.

    Raises
    ------
    ValueError
        A mini-batch has a single value for each feature, of which there is no variance.
    """

    _forms: ClassVar[dict[int, str]] = {2: "(N, {})", 3: "(N, {}, L)"}


class BatchNorm2d(_BatchNorm):
    """y = (x - m) / sqrt(v + eps) w + b, for each channel c of x (N, C, H, W) (Ioffe and Szegedy 2015).

    As `BatchNorm1d`, m and v being taken over N, H and W. Parameters, attributes and errors are those of that layer.
    """

    _forms: ClassVar[dict[int, str]] = {4: "(N, {}, H, W)"}


class LayerNorm(Layer):
    """y = (x - m) / sqrt(v + eps) w + b, m and v taken over the last axes of each row (Ba, Kiros and Hinton 2016).

    The same in training and in evaluation mode. x has the shape (N, ..., *normalized_shape), and so has y.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        Lengths of the axes over which mean and (biased) variance are taken: one at least, the last ones of x.
    eps : float
        At least 0.
    elementwise_affine : bool
        Whether there is w, which starts at 1.
    bias : bool
        Whether there is b, too, which starts at 0.
    dtype : float32 or float64

    Attributes
    ----------
    weight, bias : Parameter (*normalized_shape), or None
    """

    couples = "rows"

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.normalized_shape = as_normalized_shape(normalized_shape)
        self.eps = in_range("eps", eps)
        self.elementwise_affine = as_flag("elementwise_affine", elementwise_affine)
        dtype, shape = as_dtype(dtype), self.normalized_shape
        with_bias = as_flag("bias", bias) and elementwise_affine
        self.weight = Parameter(np.ones(shape), dtype) if elementwise_affine else None
        self.bias = Parameter(np.zeros(shape), dtype) if with_bias else None

    def forward(self, x: Array) -> Array:
        return self.forward_saving(x)[0]

    def forward_saving(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        normal, a = self._normal(x)
        y = normal if self.weight is None else normal * self.weight.value.reshape(-1)
        if self.bias is not None:
            y += self.bias.value.reshape(-1)
        return y.reshape(x.shape), (normal, a)

    def backward(self, x: Array, y: Array, dy: Array, saved: tuple[Array, Array] | None = None) -> Array:
        normal, a = self._normal(x) if saved is None else saved
        g = dy.reshape(normal.shape)
        by_row = g.reshape(-1, math.prod(self.normalized_shape))
        if self.bias is not None:
            self.bias.grad += sum_over(by_row, ROWS).reshape(self.normalized_shape)
        if self.weight is not None:
            self.weight.grad += sum_over(by_row, ROWS, normal.reshape(by_row.shape)).reshape(self.normalized_shape)
            g = g * self.weight.value.reshape(-1)
        dx = normal * -mean_over(g, COLUMNS, normal)
        dx += g
        dx -= mean_over(g, COLUMNS)
        dx *= 1 / a
        return dx.reshape(x.shape)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        d, a = self._centred(x)
        change = change_of(d, a, self._flat(dx), COLUMNS, self.eps)
        if self.weight is not None:
            change *= self.weight.value.reshape(-1)
        return change.reshape(dx.shape)

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Array, y: Array) -> Array:
        """Return one changed column for each entry: `step` times (x - m) / sqrt(v + eps), or `step`."""
        normal, _ = self._normal(x)
        dy = np.zeros((len(indices), *normal.shape), y.dtype)
        moved = step * np.moveaxis(normal, -1, 0)[indices] if parameter is self.weight else step
        dy[np.arange(len(indices)), ..., indices] = moved
        return dy.reshape(len(indices), *y.shape)

    def stage_of_planes(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        d, a = self._centred(x)
        weight = None if self.weight is None else np.tile(self.weight.value.reshape(-1), math.prod(a.shape[1:]))
        return norm_stage(d, a, sum_over(d, COLUMNS), weight, self.eps)

    def normal_planes(self, x: Array) -> Array | None:
        """Return (x - m) / sqrt(v + eps) as channels of one position each; None where a row is more than one group."""
        normal = self._normal(x)[0]
        return normal.reshape(*normal.shape, 1, 1) if normal.ndim == 2 else None

    def _normal(self, x: Array) -> tuple[Array, Array]:
        """Return (x - m) / sqrt(v + eps), and what was divided by."""
        d, a = self._centred(x)
        d *= 1 / a
        return d, a

    def _centred(self, x: Array) -> tuple[Array, Array]:
        """Return x - m and sqrt(v + eps), the normalized axes as one; ValueError where x does not end in them."""
        shape = self.normalized_shape
        if x.ndim <= len(shape) or x.shape[-len(shape) :] != shape:
            raise ValueError(f"x: expected shape (N, ..., {', '.join(map(str, shape))}), got {x.shape}")
        return centred(self._flat(x), COLUMNS, self.eps)

    def _flat(self, x: Array) -> Array:
        return x.reshape(*x.shape[: x.ndim - len(self.normalized_shape)], math.prod(self.normalized_shape))

    def __repr__(self) -> str:
        shape = self.normalized_shape
        defaults = {"eps": 1e-5, "elementwise_affine": True}
        without = ", bias=False" if self.elementwise_affine and self.bias is None else ""
        return shown(self, str(shape[0] if len(shape) == 1 else shape), defaults)[:-1] + f"{without})"


# ---- what they share ----


def as_normalized_shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """Lengths of the axes that are normalized, at least one; TypeError, ValueError otherwise."""
    lengths = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
    shape = tuple(as_count("normalized_shape", length) for length in lengths)
    if not shape:
        raise ValueError("normalized_shape: expected at least one axis, got ()")
    return shape


def sum_over(x: Array, over: Axes, times: Array | None = None) -> Doubles:
    """Sum of x, or of its product with another array, over some axes, each kept with length 1."""
    total: Any
    if over.rows is None or x.shape[over.rows] <= BLOCK:
        total = np.einsum(over.of_one, x) if times is None else np.einsum(over.of_product, x, times)
        return total.astype(np.float64)[over.kept]  # type: ignore[no-any-return]
    total = 0.0
    for first in range(0, x.shape[over.rows], BLOCK):
        some: Any = (..., slice(first, first + BLOCK), *[slice(None)] * (-1 - over.rows))
        total = total + sum_over(x[some], over, None if times is None else times[some])
    return total  # type: ignore[no-any-return]


def mean_over(x: Array, over: Axes, times: Array | None = None) -> Array:
    """Return the mean of what `sum_over` sums, in x's dtype."""
    found = sum_over(x, over, times)
    found /= x.size // max(1, found.size)
    return found.astype(x.dtype)


def centred(x: Array, over: Axes, eps: float) -> tuple[Array, Array]:
    """Return x - m and sqrt(v + eps); from C order, so that the same numbers give the same bits in every layout."""
    if not (x.flags.c_contiguous and x.flags.aligned):
        x = x.copy()
    mean = mean_over(x, over)
    d = x - mean
    variance = mean_over(d, over, d)
    if (mean * mean > 64 * variance).any():  # what its rounding has left counts beside sqrt(v)
        d -= mean_over(d, over)
        variance = mean_over(d, over, d)
    return d, np.sqrt(variance + x.dtype.type(eps))


def change_of(d: Array, a: Array, dx: Array, over: Axes, eps: float) -> Array:
    """How d / a changes when x moves by dx, alone or in a stack.

    With d' = d + dd and b = sqrt(v' + eps): d' / b - d / a = (dd - d (v' - v) / (a (a + b))) / b, where
    v' - v = mean(dd (d + d')) has no cancellation.
    """
    return scaled_change(d, a, dx - mean_over(dx, over), over, eps)


def scaled_change(d: Array, a: Array, dd: Array, over: Axes, eps: float) -> Array:
    """How d / a changes, a being sqrt(mean(d^2) + eps), when d moves by dd, which is overwritten."""
    moved = d + dd
    grown = mean_over(dd, over, d) + mean_over(dd, over, moved)
    b = np.sqrt(mean_over(moved, over, moved) + dd.dtype.type(eps))
    dd -= np.multiply(d, grown / (a * (a + b)), out=moved)
    dd /= b
    return dd


def norm_stage(
    d: Array, a: Array, total: Doubles | None, weight: Array | None, eps: float, by_batch: bool = False
) -> tuple[object, ...]:
    """Describe y = w d / a + b for C: see `kernels._kernels.Above`.

    total : the sums of d of each group, which rounding has left; None where x itself is d
    """
    a = a.reshape(1, -1) if by_batch else flat_rows(a)
    left = None if total is None else total.astype(d.dtype).reshape(a.shape)
    options = {"by_batch": by_batch, "centred": total is not None, "eps": float(d.dtype.type(eps))}
    return "norm", flat_rows(d), a, left, weight, options


def shown(layer: Layer, first: str, defaults: Mapping[str, object]) -> str:
    """Return words for a layer: how it is made, without the arguments that have their default values."""
    given = [f"{name}={getattr(layer, name)!r}" for name, value in defaults.items() if getattr(layer, name) != value]
    return f"{type(layer).__name__}({', '.join([first, *given])})"
