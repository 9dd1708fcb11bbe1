"""Stochastic gradient descent, with momentum and Nesterov's."""

from __future__ import annotations

from collections.abc import Iterable

from nnframe._checks import as_flag, in_range
from nnframe.core.parameter import Parameter
from nnframe.optimizers.base import Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum v + (1 - dampening) g, value -= lr v.

    With `nesterov`, value -= lr (g + momentum v). As in PyTorch, the first v is g itself, whatever the dampening is.
    `lr` may be changed between steps.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay, maximize=maximize)
        nesterov = as_flag("nesterov", nesterov)
        self.momentum = in_range("momentum", momentum, below=1.0)
        if nesterov and not momentum:
            raise ValueError("nesterov: expected a momentum above 0 with it, got 0")
        self.dampening = in_range("dampening", dampening)
        if nesterov and dampening:
            raise ValueError(f"nesterov: expected a dampening of 0 with it, got {dampening!r}")
        self.nesterov = nesterov
        self.velocities = self.state() if momentum else []

    _moving = False  # whether the velocities hold a gradient

    def check_settings(self) -> None:
        super().check_settings()
        if self.nesterov and self.dampening:
            raise ValueError(f"dampening: expected 0 with nesterov, got {self.dampening!r}")

    def update(self) -> None:
        if (self.momentum or self.nesterov) and not self.velocities:  # assigned since
            self.velocities = self.state()
        rule = "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"
        gain = 1 - self.dampening if self._moving else 1.0
        self.apply(rule, self.lr, self.velocities, [], decay=self.weight_decay, beta1=self.momentum, gain=gain)
        if rule != "sgd" and not self._moving:
            self._moving = True
