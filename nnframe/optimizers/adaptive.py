"""AdaGrad, RMSprop and Rprop: a rate for each entry, from the squares of its gradients."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nnframe._checks import as_flag, in_range
from nnframe.core.parameter import Parameter
from nnframe.optimizers.base import Optimizer


class AdaGrad(Optimizer):
    """AdaGrad (Duchi, Hazan and Singer 2011): s += g^2, value -= lr g / (sqrt(s) + eps)."""

    def __init__(
        self, parameters: Iterable[Parameter], lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.eps = self.constant("eps", eps)
        self.squares = self.state()

    def update(self) -> None:
        self.apply("adagrad", self.lr, [], self.squares, decay=self.weight_decay, eps=self.eps)


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012): s = alpha s + (1 - alpha) g^2, value -= lr g / (sqrt(s) + eps).

    With `centered` (Graves 2013, eq. 38 to 41) s - m^2 takes the place of s, where m = alpha m + (1 - alpha) g.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.alpha = self.constant("alpha", alpha, below=1.0)
        self.eps = self.constant("eps", eps)
        self.centered = as_flag("centered", centered)
        self.means = self.state() if centered else []
        self.squares = self.state()

    def update(self) -> None:
        if self.centered and not self.means:
            raise ValueError("centered: expected what the optimizer was made with, False, got True")
        rule = "centered" if self.centered else "rmsprop"
        self.apply(rule, self.lr, self.means, self.squares, decay=self.weight_decay, beta2=self.alpha, eps=self.eps)


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
    ) -> None:
        super().__init__(parameters, lr, 0.0)
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
