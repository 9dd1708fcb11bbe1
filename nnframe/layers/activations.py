"""Elementwise layers. Their formulas live in the kernels: reference.py shows each in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe._checks import as_count, as_dtype
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Parameter


class Activation(Layer):
    """What elementwise layers share: y = f(x) for the kernel's function called `name` with its parameter `alpha`."""

    couples = "entries"
    name: str
    alpha = 0.0

    def forward(self, x: Array) -> Array:
        return kernels.activation(self.name, x, alpha=self.alpha)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        return kernels.activation_backward(self.name, x, y, dy, alpha=self.alpha)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return kernels.activation_difference(self.name, x, y, dx, alpha=self.alpha)

    def stage(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        return (self.name, self.alpha, x, y)

    def in_network(self) -> tuple[str, float]:
        """Return the description of this layer for `core.network`."""
        return self.name, self.alpha


class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x)), elementwise."""

    name = "sigmoid"


class Tanh(Activation):
    """y = tanh(x), elementwise."""

    name = "tanh"


class ReLU(Activation):
    """y = max(x, 0), elementwise; its derivative at 0 is taken as 0."""

    name = "relu"


class LeakyReLU(Activation):
    """y = x where x >= 0, else negative_slope * x, elementwise (Maas, Hannun and Ng 2013).

    Its derivative at 0 is taken as `negative_slope`.
    """

    name = "leaky_relu"

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.alpha = _finite("negative_slope", negative_slope)

    @property
    def negative_slope(self) -> float:
        """The slope below 0."""
        return self.alpha

    def __repr__(self) -> str:
        return f"LeakyReLU({self.alpha:g})"


class ELU(Activation):
    """y = x where x >= 0, else alpha * (exp(x) - 1), elementwise (Clevert, Unterthiner and Hochreiter 2016)."""

    name = "elu"

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = _finite("alpha", alpha)

    def __repr__(self) -> str:
        return f"ELU({self.alpha:g})"


class GELU(Activation):
    """y = x P(Z < x) for a standard normal Z, elementwise (Hendrycks and Gimpel 2016).

    Parameters
    ----------
    approximate : {"none", "tanh"}
        "none": x (1 + erf(x / sqrt(2))) / 2; "tanh": x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate: expected 'none' or 'tanh', got {approximate!r}")
        self.name = "gelu" if approximate == "none" else "gelu_tanh"

    @property
    def approximate(self) -> str:
        """Which of the two formulas."""
        return "none" if self.name == "gelu" else "tanh"

    def __repr__(self) -> str:
        return "GELU()" if self.name == "gelu" else "GELU('tanh')"


class SiLU(Activation):
    """y = x / (1 + exp(-x)), elementwise; also called swish (Elfwing, Uchibe and Doya 2018)."""

    name = "silu"


class Softplus(Activation):
    """y = log(1 + exp(x)), elementwise: a smooth ReLU."""

    name = "softplus"


class SELU(Activation):
    """y = scale x where x >= 0, else scale alpha (exp(x) - 1), elementwise (Klambauer et al. 2017, eq. 14).

    scale = 1.0507009873554805 and alpha = 1.6732632423543772 keep mean 0 and variance 1 from layer to layer.
    """

    name = "selu"


class Mish(Activation):
    """y = x tanh(log(1 + exp(x))), elementwise (Misra 2019)."""

    name = "mish"


class Hardswish(Activation):
    """y = x min(max(x + 3, 0), 6) / 6, elementwise (Howard et al. 2019, section 5.2): SiLU from straight pieces.

    Its derivative is taken as 0 at -3, and as 1 at 3.
    """

    name = "hardswish"


class Step(Activation):
    """y = 1 where x > 0, else 0, elementwise.

    Its derivative is 0 almost everywhere, so it has no backward: train it by `CentralDifference` with a step that is
    large enough for inputs to cross 0.
    """

    name = "step"
    backward = Layer.backward  # none was written: it is found by differences


class PReLU(Layer):
    """y = x where x > 0, else weight * x: a leaky ReLU whose slope is trained (He et al. 2015, eq. 1).

    Its derivative at 0 is taken as `weight`.

    Parameters
    ----------
    num_parameters : int
        1: one slope for all entries. More: one for each channel, axis 1 of x (N, C, ...).
    init : float
        What the slopes start at.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter (num_parameters,)

    Raises
    ------
    ValueError
        x has not as many channels as there are slopes.
    """

    couples = "entries"

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: npt.DTypeLike = np.float32) -> None:
        self.num_parameters = as_count("num_parameters", num_parameters)
        self.init = _finite("init", init)
        self.weight = Parameter(np.full(self.num_parameters, self.init), as_dtype(dtype))

    def forward(self, x: Array) -> Array:
        return np.where(x > 0, x, self._slopes(x) * x)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        self.backward_parameters(x, y, dy)
        return np.where(x > 0, dy, self._slopes(x) * dy)

    def backward_parameters(self, x: Array, y: Array, dy: Array, *saved: object) -> None:
        below = np.ascontiguousarray(dy * np.minimum(x, 0))
        axes = tuple(range(x.ndim)) if self.num_parameters == 1 else (0, *range(2, x.ndim))
        self.weight.grad += below.sum(axis=axes, dtype=np.float64)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        slopes, moved = self._slopes(x), x + dx
        below = np.where(moved > 0, moved - slopes * x, slopes * dx)
        return np.where(x > 0, np.where(moved > 0, dx, slopes * moved - x), below)

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Array, y: Array) -> Array:
        """Return `step` times min(x, 0), in one channel for each entry."""
        change = x.dtype.type(step) * np.minimum(x, 0)
        if self.num_parameters == 1:
            return np.repeat(change[None], len(indices), axis=0)
        dy = np.zeros((len(indices), *y.shape), y.dtype)
        dy[np.arange(len(indices)), :, indices] = np.moveaxis(change, 1, 0)[indices]
        return dy

    def _slopes(self, x: Array) -> Array:
        """Return the slopes as they stand along x, in its dtype."""
        slopes = self.weight.value.astype(x.dtype, copy=False)
        if self.num_parameters == 1:
            return slopes[0]  # type: ignore[no-any-return]
        if x.ndim < 2 or x.shape[1] != self.num_parameters:
            raise ValueError(
                f"x: expected shape (N, {self.num_parameters}, ...), a slope for each channel, got {x.shape}"
            )
        return slopes.reshape(-1, *[1] * (x.ndim - 2))

    def __repr__(self) -> str:
        init = "" if self.init == 0.25 else f", init={self.init:g}"
        return f"PReLU({self.num_parameters}{init})"


class _AlongAxis(Layer):
    """What Softmax and LogSoftmax share: a function of the numbers along one axis of x."""

    def __init__(self, dim: int) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer):
            raise TypeError(f"dim: expected an axis of x, an integer, got {dim!r}")
        self.dim = int(dim)

    @property
    def couples(self) -> str:  # type: ignore[override]
        """Which entries depend on which: those of a row, or, along axis 0, of all rows."""
        return "batch" if self.dim == 0 else "rows"

    def forward(self, x: Array) -> Array:
        return _along(self._of_rows, x, self._axis(x))

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        axis = self._axis(x)
        e = np.expm1(np.clip(dx, -NEAR, NEAR))
        near = self._near(y, dx, e, axis)
        small = (np.abs(dx) <= NEAR).all(axis=axis, keepdims=True)
        return near if small.all() else np.where(small, near, _along(self._of_rows, x + dx, axis) - y)

    def _of_rows(self, x: Array) -> Array:
        """Return the function of each row of x (M, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no function")

    def _near(self, y: Array, dx: Array, e: Array, axis: int) -> Array:
        """Return how y changes, without cancellation, given e = exp(dx) - 1 of changes that are small."""
        raise NotImplementedError(f"{type(self).__name__} has no differences")

    def _axis(self, x: Array) -> int:
        """Return the axis counted from the end, the same one in a stack; ValueError where there is none."""
        axis = self.dim if self.dim < 0 else self.dim - x.ndim
        if not -x.ndim <= axis < 0:
            raise ValueError(f"x: expected an axis {self.dim}, got shape {x.shape}")
        if axis == -x.ndim and self.dim < 0:
            raise ValueError(
                f"x: expected axis {self.dim} to be one of each row, got shape {x.shape}, where it is that of rows; "
                "dim=0 says that it is meant"
            )
        return axis

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dim})"


NEAR = 1.0  # changes up to this size are taken without cancellation; of others the ends are subtracted


class Softmax(_AlongAxis):
    """y = exp(x) / sum(exp(x)), the sum along one axis (Bridle 1990).

    `CrossEntropyLoss` takes logits: it has its own softmax.

    Parameters
    ----------
    dim : int
        The axis of x, of which 0 counts the rows of a mini-batch: along it every row depends on every other one. A
        negative one counts from the end.

    Raises
    ------
    ValueError
        x has no such axis.
    """

    def _of_rows(self, x: Array) -> Array:
        return kernels.softmax(x)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        dx: Array = y * (dy - _total(dy * y, self._axis(x)))
        return dx

    def _near(self, y: Array, dx: Array, e: Array, axis: int) -> Array:
        # y' = y (1 + e) / (1 + sum(y e))
        total = _total(y * e, axis)
        change: Array = y * ((e - total) / (1 + total))
        return change


class LogSoftmax(_AlongAxis):
    """y = x - log(sum(exp(x))), the sum along one axis: the logarithm of `Softmax`, for `NLLLoss`.

    Parameters
    ----------
    dim : int
        As for `Softmax`.

    Raises
    ------
    ValueError
        x has no such axis.
    """

    def _of_rows(self, x: Array) -> Array:
        d: Array = x - x.max(axis=1, keepdims=True, initial=-np.inf)
        d -= np.log(np.exp(d).sum(axis=1, keepdims=True))
        return d

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        dx: Array = dy - np.exp(y) * _total(dy, self._axis(x))
        return dx

    def _near(self, y: Array, dx: Array, e: Array, axis: int) -> Array:
        # log(sum(exp(x + dx))) - log(sum(exp(x))) = log(1 + sum(p e)), p = exp(y)
        change: Array = dx - np.log1p(_total(np.exp(y) * e, axis))
        return change


def _along(function: Callable[[Array], Array], x: Array, axis: int) -> Array:
    """Apply a function of rows (M, C) to the numbers along an axis of x; the same bits whatever the layout of x."""
    if not x.size:
        return x.copy()
    lines = np.moveaxis(x, axis, -1)
    flat = np.ascontiguousarray(lines).reshape(-1, x.shape[axis])
    return np.ascontiguousarray(np.moveaxis(function(flat).reshape(lines.shape), -1, axis))


def _total(x: Array, axis: int) -> Array:
    """Return the sum along an axis, kept with length 1; the same bits whatever the layout of x."""
    total: Array = np.sum(np.ascontiguousarray(x), axis=axis, keepdims=True)
    return total


def _finite(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)
