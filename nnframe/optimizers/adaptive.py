"""AdaGrad and RMSprop: a rate for each entry, from the squares of its gradients."""

from __future__ import annotations

from collections.abc import Iterable

from nnframe._checks import in_range
from nnframe.core.parameter import Parameter
from nnframe.optimizers.base import Optimizer


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
