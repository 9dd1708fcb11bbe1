"""The linear (fully connected) layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe._checks import as_dtype, as_flag, as_generator
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Parameter
from nnframe.initializers import Xavier, initial

if TYPE_CHECKING:
    from nnframe.initializers import Initializer


class Linear(Layer):
    """y = x W^T + b, for x (..., in_features) and y (..., out_features).

    Parameters
    ----------
    in_features, out_features : int
        At least 1.
    bias : bool
        Whether there is a b; it starts at zero.
    init : callable
        What the weight starts at: `init(shape, rng)`, for instance `nn.Normal(0.01)`; `nn.Xavier()` if not given.
    dtype : float32 or float64
    rng : np.random.Generator or int, optional
        Draws the weight; an int seeds a new generator, None takes a fresh one.

    Attributes
    ----------
    weight : Parameter (out_features, in_features)
    bias : Parameter (out_features,), or None
    """

    couples = "rows"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        init: Initializer | None = None,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if not isinstance(size, int | np.integer) or isinstance(size, bool):
                raise TypeError(f"{name}: expected an integer, got {size!r}")
            if size < 1:
                raise ValueError(f"{name}: expected at least 1, got {size}")
        dtype = as_dtype(dtype)
        shape = (int(out_features), int(in_features))
        bias = as_flag("bias", bias)
        self.weight = Parameter(initial(init, Xavier(), shape, as_generator(rng)), dtype)
        self.bias = Parameter(np.zeros(shape[0]), dtype) if bias else None

    @property
    def in_features(self) -> int:
        """Length of the last axis of x."""
        return int(self.weight.value.shape[1])

    @property
    def out_features(self) -> int:
        """Length of the last axis of y."""
        return int(self.weight.value.shape[0])

    def forward(self, x: Array) -> Array:
        return kernels.linear(x, self.weight.value, None if self.bias is None else self.bias.value)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        dx = self._gradients(x, dy, True)
        return dx if x.ndim == 2 else dx.reshape(x.shape)  # type: ignore[union-attr, return-value]

    def backward_parameters(self, x: Array, y: Array, dy: Array, *saved: object) -> None:
        self._gradients(x, dy, False)

    def _gradients(self, x: Array, dy: Array, input_gradient: bool) -> Array | None:
        weight, bias = self.weight, self.bias
        if x.ndim != 2:
            x, dy = x.reshape(-1, self.in_features), dy.reshape(-1, self.out_features)
        return kernels.linear_backward(
            x,
            weight.value,
            dy,
            weight_grad=weight.grad,
            bias_grad=None if bias is None else bias.grad,
            input_gradient=input_gradient,
        )

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return kernels.linear(dx, self.weight.value)

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Array, y: Array) -> Array:
        """Return one changed column for each entry: `step` times x[:, i] in column o for weight[o, i]."""
        dy = np.zeros((len(indices), *y.shape), y.dtype)
        every = np.arange(len(indices))
        if parameter is self.weight:
            outputs, inputs = np.divmod(indices, self.in_features)
            dy[every, ..., outputs] = step * np.moveaxis(x, -1, 0)[inputs]
        else:
            dy[every, ..., indices] = step
        return dy

    def stage(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        return (self.weight.value,)

    def in_network(self) -> tuple[Parameter, Parameter | None]:
        """Return the description of this layer for `core.network`."""
        return self.weight, self.bias

    def __repr__(self) -> str:
        bias = ", bias=False" if self.bias is None else ""
        return f"{type(self).__name__}({self.in_features}, {self.out_features}{bias})"
