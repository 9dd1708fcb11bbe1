"""Elementwise layers. Their formulas live in the kernels: reference.py shows each in NumPy."""

from __future__ import annotations

import math

from nnframe import kernels
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array


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

    def __repr__(self) -> str:
        return "GELU()" if self.name == "gelu" else "GELU('tanh')"


class SiLU(Activation):
    """y = x / (1 + exp(-x)), elementwise; also called swish (Elfwing, Uchibe and Doya 2018)."""

    name = "silu"


class Softplus(Activation):
    """y = log(1 + exp(x)), elementwise: a smooth ReLU."""

    name = "softplus"


class Step(Activation):
    """y = 1 where x > 0, else 0, elementwise.

    Its derivative is 0 almost everywhere, so it has no backward: train it by `CentralDifference` with a step that is
    large enough for inputs to cross 0.
    """

    name = "step"
    backward = Layer.backward  # none was written: it is found by differences


def _finite(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)
