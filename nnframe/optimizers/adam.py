"""Adam, and AdamW with decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from nnframe._checks import in_range
from nnframe.core.parameter import Parameter
from nnframe.optimizers.base import Optimizer


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
        self.betas = _as_betas(betas)
        self.eps = in_range("eps", eps)
        self.steps = 0
        self.means = self.state()
        self.squares = self.state()

    def check_settings(self) -> None:
        super().check_settings()
        _as_betas(self.betas)

    def update(self) -> None:
        self.adam(decay=self.weight_decay)

    def adam(self, **decay: float) -> None:
        """Take an optimizer step; the bias corrections, 1 - b^t, go into the rate and eps."""
        b1, b2 = self.betas
        steps = self.steps + 1
        scale = math.sqrt(1 - b2**steps)
        rate = self.lr * scale / (1 - b1**steps)
        self.apply("adam", rate, self.means, self.squares, beta1=b1, beta2=b2, eps=self.eps * scale, **decay)
        object.__setattr__(self, "steps", steps)  # no setting: it is not looked for among them


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


def _as_betas(betas: Any) -> tuple[float, float]:
    """`betas` as two floats in [0, 1)."""
    if not isinstance(betas, tuple | list | np.ndarray) or np.shape(betas) != (2,):
        raise TypeError(f"betas: expected two numbers in [0, 1), got {betas!r}")
    return in_range("betas[0]", betas[0], below=1.0), in_range("betas[1]", betas[1], below=1.0)
