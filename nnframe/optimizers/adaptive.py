"""AdaGrad, RMSprop and Rprop: a rate for each entry, from the squares of its gradients."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nnframe._checks import as_flag, in_range
from nnframe.core.parameter import Parameter
from nnframe.optimizers.base import Optimizer


class AdaGrad(Optimizer):
    """AdaGrad (Duchi, Hazan and Singer 2011): s += g^2, value -= lr g / (sqrt(s) + eps).

    s starts at `initial_accumulator_value`. In step t, counted from 0, the rate is lr / (1 + t lr_decay).
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay, maximize=maximize)
        self.eps = in_range("eps", eps)
        self.lr_decay = in_range("lr_decay", lr_decay)
        start = in_range("initial_accumulator_value", initial_accumulator_value)
        self.squares = [np.full_like(p.value, start) for p in self.parameters]
        self.steps = 0

    def update(self) -> None:
        rate = self.lr / (1 + self.steps * self.lr_decay)
        self.apply("adagrad", rate, [], self.squares, decay=self.weight_decay, eps=self.eps)
        object.__setattr__(self, "steps", self.steps + 1)


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012): s = alpha s + (1 - alpha) g^2, value -= lr g / (sqrt(s) + eps).

    With `centered` (Graves 2013, eq. 38 to 41) s - m^2 takes the place of s, where m = alpha m + (1 - alpha) g. With
    `momentum`, as in PyTorch, value -= lr b, where b = momentum b + g / (sqrt(s) + eps).
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay, maximize=maximize)
        self.alpha = in_range("alpha", alpha, below=1.0)
        self.eps = in_range("eps", eps)
        self.momentum = in_range("momentum", momentum, below=1.0)
        self.centered = as_flag("centered", centered)
        self.means = self.state() if centered else []
        self.squares = self.state()
        self.velocities = self.state() if momentum else []

    def update(self) -> None:
        if self.centered and not self.means:
            raise ValueError("centered: expected what the optimizer was made with, False, got True")
        if self.momentum and not self.velocities:  # assigned since
            self.velocities = self.state()
        rule, states = ("centered", [self.means]) if self.centered else ("rmsprop", [])
        if self.velocities:
            rule, states = f"{rule}_momentum", [*states, self.velocities]
        means, largest = [*states, [], []][:2]
        constants = {"beta1": self.momentum, "beta2": self.alpha, "eps": self.eps}
        self.apply(rule, self.lr, means, self.squares, largest, decay=self.weight_decay, **constants)


class Rprop(Optimizer):
    """Rprop (Riedmiller and Braun 1993), as in PyTorch: each entry has a step of its own, value -= step sign(g).

    The step is multiplied by etas[1] where g has the sign that it had before, by etas[0] where that has changed: then
    the entry rests, and counts as one without a sign in the next step. For gradients of all rows: those of mini-batches
    change their signs by themselves.

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
        What each step starts at, finite and not negative.
    etas : (float, float)
        Below 1 and above 0; above 1.
    step_sizes : (float, float)
        The least and the largest step.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(parameters, lr, 0.0, maximize=maximize)
        self.etas, self.step_sizes = etas, step_sizes
        self.check_settings()
        self.gradients = self.state()
        self.steps = [np.full_like(p.value, self.lr) for p in self.parameters]

    def check_settings(self) -> None:
        super().check_settings()
        for name in ("etas", "step_sizes"):
            pair = getattr(self, name)
            if not isinstance(pair, tuple | list | np.ndarray) or np.shape(pair) != (2,):
                raise TypeError(f"{name}: expected two numbers, got {pair!r}")
            for i in range(2):
                in_range(f"{name}[{i}]", pair[i])
        if not 0 < self.etas[0] < 1 < self.etas[1]:
            raise ValueError(f"etas: expected one between 0 and 1, then one above 1, got {self.etas!r}")
        if not self.step_sizes[0] <= self.step_sizes[1]:
            raise ValueError(f"step_sizes: expected the least, then the largest, got {self.step_sizes!r}")

    def update(self) -> None:
        (shorter, longer), (least, most) = self.etas, self.step_sizes
        self.apply("rprop", 0.0, self.gradients, self.steps, beta1=shorter, beta2=longer, eps=least, gain=most)
