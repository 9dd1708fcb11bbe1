"""Optimizers: each changes parameters in place from their gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from nnframe.layer import Array, Parameter


class Optimizer:
    """What optimizers share: the parameters, and the checks before a step.

    Parameters
    ----------
    parameters : iterable of Parameter
        At least one, each once: `model.parameters()`.
    lr : float
        Learning rate, finite and not negative.
    weight_decay : float
        Adds weight_decay * value to each gradient (L2 regularisation).
    """

    def __init__(self, parameters: Iterable[Parameter], lr: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("parameters: expected at least one Parameter, got none")
        for parameter in self.parameters:
            if not isinstance(parameter, Parameter):
                raise TypeError(f"parameters: expected Parameter objects, got {type(parameter).__name__}")
        if len({id(parameter) for parameter in self.parameters}) < len(self.parameters):
            raise ValueError("parameters: expected each Parameter once, got one of them twice")
        self.lr = in_range("lr", lr)
        self.weight_decay = in_range("weight_decay", weight_decay)

    def zero_grad(self) -> None:
        """Set every gradient to zero. The gradient strategies overwrite gradients by themselves."""
        for parameter in self.parameters:
            parameter.grad[...] = 0

    def step(self) -> None:
        """Change every parameter by its gradient; nothing is changed when a gradient does not fit its parameter."""
        for i, parameter in enumerate(self.parameters):
            if parameter.grad.shape != parameter.value.shape:
                raise ValueError(
                    f"parameter {i}: expected a gradient of shape {parameter.value.shape}, got {parameter.grad.shape}"
                )
        self.update()

    def update(self) -> None:
        """Change every parameter; the part of `step` that an optimizer writes."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def decayed(self, parameter: Parameter) -> Array:
        """Return the gradient with the weight decay added."""
        if not self.weight_decay:
            return parameter.grad
        return parameter.grad + parameter.value * parameter.value.dtype.type(self.weight_decay)


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum v + g, value -= lr v; with `nesterov`, value -= lr (g + momentum v).

    As in PyTorch, the first v is g itself. `lr` may be changed between steps.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.momentum = in_range("momentum", momentum, below=1.0)
        if nesterov and not momentum:
            raise ValueError("nesterov: expected a momentum above 0 with it, got 0")
        self.nesterov = nesterov
        self.velocities = [np.zeros_like(p.value) for p in self.parameters] if momentum else []

    def update(self) -> None:
        if not self.momentum:
            for parameter in self.parameters:
                parameter.value -= parameter.value.dtype.type(self.lr) * self.decayed(parameter)
            return
        for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
            kind = parameter.value.dtype.type
            gradient = self.decayed(parameter)
            velocity *= kind(self.momentum)
            velocity += gradient
            direction = gradient + kind(self.momentum) * velocity if self.nesterov else velocity
            parameter.value -= kind(self.lr) * direction


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1).

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, value -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.betas = (in_range("betas[0]", betas[0], below=1.0), in_range("betas[1]", betas[1], below=1.0))
        self.eps = in_range("eps", eps)
        self.steps = 0
        self.means = [np.zeros_like(p.value) for p in self.parameters]
        self.squares = [np.zeros_like(p.value) for p in self.parameters]

    def update(self) -> None:
        self.steps += 1
        b1, b2 = self.betas
        scale = math.sqrt(1 - b2**self.steps)
        rate = self.lr * scale / (1 - b1**self.steps)
        for parameter, mean, square in zip(self.parameters, self.means, self.squares, strict=True):
            kind = parameter.value.dtype.type
            gradient = self.decayed(parameter)
            mean += kind(1 - b1) * (gradient - mean)
            square += kind(1 - b2) * (gradient * gradient - square)
            parameter.value -= kind(rate) * mean / (np.sqrt(square) + kind(self.eps * scale))


def in_range(name: str, value: float, below: float = math.inf) -> float:
    """`value` as a float in [0, below); an error that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not 0 <= value < below:
        limit = "a finite number >= 0" if below == math.inf else f"a number in [0, {below:g})"
        raise ValueError(f"{name}: expected {limit}, got {value!r}")
    return float(value)
