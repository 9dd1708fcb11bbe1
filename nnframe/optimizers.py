"""Optimizers: each changes parameters in place from their gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from nnframe import kernels
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

    def state(self) -> list[Array]:
        """Return an array of zeros for each parameter: what a rule remembers."""
        return [np.zeros_like(p.value) for p in self.parameters]

    def apply(self, rule: str, rate: float, means: list[Array], squares: list[Array], **constants: float) -> None:
        """Run the kernel of a rule over all parameters."""
        kernels.optimizer_update(
            rule,
            [p.value for p in self.parameters],
            [p.grad for p in self.parameters],
            means,
            squares,
            rate=rate,
            **constants,
        )


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
        self.velocities = self.state() if momentum else []

    def update(self) -> None:
        rule = "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"
        self.apply(rule, self.lr, self.velocities, [], decay=self.weight_decay, beta1=self.momentum)


class AdaGrad(Optimizer):
    """AdaGrad (Duchi, Hazan and Singer 2011): s += g^2, value -= lr g / (sqrt(s) + eps)."""

    def __init__(
        self, parameters: Iterable[Parameter], lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.eps = in_range("eps", eps)
        self.squares = self.state()

    def update(self) -> None:
        self.apply("adagrad", self.lr, [], self.squares, decay=self.weight_decay, eps=self.eps)


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012): s = alpha s + (1 - alpha) g^2, value -= lr g / (sqrt(s) + eps)."""

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.alpha = in_range("alpha", alpha, below=1.0)
        self.eps = in_range("eps", eps)
        self.squares = self.state()

    def update(self) -> None:
        self.apply("rmsprop", self.lr, [], self.squares, decay=self.weight_decay, beta2=self.alpha, eps=self.eps)


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
        self.means = self.state()
        self.squares = self.state()

    def update(self) -> None:
        self.adam(decay=self.weight_decay)

    def adam(self, **decay: float) -> None:
        """Take a step; the bias corrections, 1 - b^t, go into the rate and eps."""
        b1, b2 = self.betas
        steps = self.steps + 1
        scale = math.sqrt(1 - b2**steps)
        rate = self.lr * scale / (1 - b1**steps)
        self.apply("adam", rate, self.means, self.squares, beta1=b1, beta2=b2, eps=self.eps * scale, **decay)
        self.steps = steps


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): value -= lr weight_decay value, then Adam."""

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def update(self) -> None:
        self.adam(shrink=self.lr * self.weight_decay)


def in_range(name: str, value: float, below: float = math.inf) -> float:
    """`value` as a float in [0, below); an error that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not 0 <= value < below:
        limit = "a finite number >= 0" if below == math.inf else f"a number in [0, {below:g})"
        raise ValueError(f"{name}: expected {limit}, got {value!r}")
    return float(value)
