"""Elementwise layers. Their formulas live in the kernels: reference.py shows each in NumPy."""

from __future__ import annotations

from typing import ClassVar

from nnframe import kernels
from nnframe.layer import Array, Layer


class Activation(Layer):
    """What the elementwise layers share: y = f(x) for the kernel's function called `name`."""

    elementwise = True
    name: ClassVar[str]

    def forward(self, x: Array) -> Array:
        return kernels.activation(self.name, x)

    def backward(self, x: Array, y: Array, dy: Array) -> Array:
        return kernels.activation_backward(self.name, x, y, dy)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return kernels.activation_difference(self.name, x, y, dx)


class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x)), elementwise."""

    name = "sigmoid"


class Tanh(Activation):
    """y = tanh(x), elementwise."""

    name = "tanh"


class ReLU(Activation):
    """y = max(x, 0), elementwise; its derivative at 0 is taken as 0."""

    name = "relu"


class Step(Activation):
    """y = 1 where x > 0, else 0, elementwise.

    Its derivative is 0 almost everywhere, so it has no backward: train it by `CentralDifference` with a step that is
    large enough for inputs to cross 0.
    """

    name = "step"
    backward = Layer.backward
