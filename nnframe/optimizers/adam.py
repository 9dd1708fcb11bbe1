"""Adam and its relatives: AdamW, NAdam, RAdam and Lion."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from nnframe._checks import as_flag, in_range
from nnframe.core.parameter import Parameter
from nnframe.optimizers.base import Optimizer


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1).

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, value -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
    With `amsgrad` the largest v so far takes its place (Reddi, Kale and Kumar 2018, algorithm 2). With
    `decoupled_weight_decay` it is `AdamW`.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay, maximize=maximize)
        self.decoupled_weight_decay = as_flag("decoupled_weight_decay", decoupled_weight_decay)
        self.betas = betas if callable(betas) else _as_betas(betas)
        self.eps = self.constant("eps", eps)
        self.steps = 0
        self.means = self.state()
        self.squares = self.state()
        self.amsgrad = as_flag("amsgrad", amsgrad)
        self.largest = self.state() if amsgrad else []

    def check_settings(self) -> None:
        super().check_settings()
        _as_betas(self.betas)

    def update(self) -> None:
        b1, b2 = self.betas  # the bias corrections, 1 - b^t, go into the rate and eps
        steps = self.steps + 1
        scale = math.sqrt(1 - b2**steps)
        rate = self.lr * scale / (1 - b1**steps)
        if self.amsgrad and not self.largest:
            raise ValueError("amsgrad: expected what the optimizer was made with, False, got True")
        rule, largest = ("amsgrad", self.largest) if self.amsgrad else ("adam", [])
        constants = {"beta1": b1, "beta2": b2, "eps": self.eps * scale, **self.decay()}
        self.apply(rule, rate, self.means, self.squares, largest, **constants)
        vars(self)["steps"] = steps

    def decay(self) -> dict[str, float]:
        """Return weight decay as a rule takes it: of the value itself, or added to the gradient."""
        if self.decoupled_weight_decay:
            return {"shrink": self.lr * self.weight_decay}
        return {"decay": self.weight_decay}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): value -= lr weight_decay value, then Adam."""

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            parameters, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True
        )


class NAdam(Adam):
    """Adam with Nesterov's momentum (Dozat 2016), as in PyTorch.

    With u_t = b1 (1 - 0.96^(t momentum_decay) / 2) and p_t = u_1 ... u_t: m and v as for Adam, and

        value -= lr (u_(t+1) m / (1 - p_(t+1)) + (1 - u_t) g / (1 - p_t)) / (sqrt(v / (1 - b2^t)) + eps).
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            parameters,
            lr,
            betas,
            eps,
            weight_decay,
            maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        self.momentum_decay = self.constant("momentum_decay", momentum_decay)
        self.product = 1.0  # of u_1 to u_t

    def check_settings(self) -> None:
        super().check_settings()
        in_range("momentum_decay", self.momentum_decay)

    def update(self) -> None:
        steps, (b1, b2) = self.steps + 1, self.betas
        now, then = (b1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay)) for t in (steps, steps + 1))
        product, scale = self.product * now, math.sqrt(1 - b2**steps)
        of_mean, of_gradient = then / (1 - product * then), (1 - now) / (1 - product)
        constants = {"beta1": b1, "beta2": b2, "eps": self.eps * scale, **self.decay()}
        if of_mean:
            constants["gain"] = of_gradient / of_mean
            self.apply("nadam", self.lr * scale * of_mean, self.means, self.squares, [], **constants)
        else:  # b1 = 0: m is g
            self.apply("adam", self.lr * scale * of_gradient, self.means, self.squares, [], **constants)
        object.__setattr__(self, "product", product)
        object.__setattr__(self, "steps", steps)


class RAdam(Adam):
    """Rectified Adam (Liu et al. 2020, algorithm 2), as in PyTorch.

    With r = 2 / (1 - b2) - 1 and r_t = r - 2 t b2^t / (1 - b2^t): m and v as for Adam, and

        value -= lr c m / (1 - b1^t) sqrt(1 - b2^t) / (sqrt(v) + eps) where r_t > 5, else lr m / (1 - b1^t),

    c being sqrt((r_t - 4) (r_t - 2) r / ((r - 4) (r - 2) r_t)).
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            parameters,
            lr,
            betas,
            eps,
            weight_decay,
            maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
        )

    def update(self) -> None:
        steps, (b1, b2) = self.steps + 1, self.betas
        rate = self.lr / (1 - b1**steps)
        most, left = 2 / (1 - b2) - 1, 1 - b2**steps
        length = most - 2 * steps * b2**steps / left
        constants = {"beta1": b1, "beta2": b2, "gain": 0.0, "eps": 1.0, **self.decay()}
        if length > 5:
            c = (length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)
            rate *= math.sqrt(c * left)
            constants |= {"gain": 1.0, "eps": self.eps}
        self.apply("radam", rate, self.means, self.squares, [], **constants)
        object.__setattr__(self, "steps", steps)


class Lion(Optimizer):
    """Lion (Chen et al. 2023, algorithm 2): the sign of a momentum.

    value -= lr (sign(b1 m + (1 - b1) g) + weight_decay value), then m = b2 m + (1 - b2) g.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay, maximize=maximize)
        self.betas = betas if callable(betas) else _as_betas(betas)
        self.means = self.state()

    def check_settings(self) -> None:
        super().check_settings()
        _as_betas(self.betas)

    def update(self) -> None:
        b1, b2 = self.betas
        self.apply("lion", self.lr, self.means, [], beta1=b1, beta2=b2, shrink=self.lr * self.weight_decay)


def _as_betas(betas: Any) -> tuple[float, float]:
    """`betas` as two floats in [0, 1)."""
    if not isinstance(betas, tuple | list | np.ndarray) or np.shape(betas) != (2,):
        raise TypeError(f"betas: expected two numbers in [0, 1), got {betas!r}")
    return in_range("betas[0]", betas[0], below=1.0), in_range("betas[1]", betas[1], below=1.0)
