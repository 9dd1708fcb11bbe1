"""Stochastic gradient descent, with momentum and Nesterov's."""

from __future__ import annotations

from collections.abc import Iterable

from nnframe._checks import in_range
from nnframe.core.parameter import Parameter
from nnframe.optimizers.base import Optimizer


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
        if (self.momentum or self.nesterov) and not self.velocities:  # assigned since
            self.velocities = self.state()
        rule = "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"
        self.apply(rule, self.lr, self.velocities, [], decay=self.weight_decay, beta1=self.momentum)
