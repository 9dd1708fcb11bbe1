"""Losses of numbers: the absolute error, and those that are squared near 0 and straight further out."""

from __future__ import annotations

import numpy as np

from nnframe._checks import in_range
from nnframe.core.parameter import Array
from nnframe.losses.elementwise import ElementwiseLoss, shown


class L1Loss(ElementwiseLoss):
    """Absolute error: the mean of |y - t| over all entries, or the sum; its derivative at 0 is taken as 0.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "none": calling the loss returns |y - t| of each entry; a strategy refuses it.

    `t` has the shape of `y`; (N,) stands for (N, 1).
    """

    def entries(self, y: Array, t: Array) -> Array:
        return np.abs(y - t)

    def slopes(self, y: Array, t: Array) -> Array:
        return np.sign(y - t)

    def changes(self, y: Array, t: Array, dy: Array) -> Array:
        return _size_change(y - t, y - t + dy, dy)


class HuberLoss(ElementwiseLoss):
    """The mean, or the sum, over all entries of r^2 / 2 where |r| < delta, else delta (|r| - delta / 2), r = y - t.

    (Huber 1964, eq. 3.1)

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "none": calling the loss returns a number for each entry; a strategy refuses it.
    delta : float
        Above 0.

    `t` has the shape of `y`; (N,) stands for (N, 1).
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = in_range("delta", delta)
        if not self.delta:
            raise ValueError(f"delta: expected a finite number > 0, got {delta!r}")

    def entries(self, y: Array, t: Array) -> Array:
        return _huber(y - t, self.delta)

    def slopes(self, y: Array, t: Array) -> Array:
        return np.clip(y - t, -self.delta, self.delta).astype(y.dtype, copy=False)

    def changes(self, y: Array, t: Array, dy: Array) -> Array:
        return _huber_change(y - t, dy, self.delta)

    def __repr__(self) -> str:
        return shown(self, delta=1.0)


class SmoothL1Loss(ElementwiseLoss):
    """The mean, or the sum, over all entries of r^2 / (2 beta) where |r| < beta, else |r| - beta / 2, r = y - t.

    (Girshick 2015, eq. 3, with PyTorch's beta): `HuberLoss` over beta.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "none": calling the loss returns a number for each entry; a strategy refuses it.
    beta : float
        At least 0; at 0 it is `L1Loss`.

    `t` has the shape of `y`; (N,) stands for (N, 1).
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = in_range("beta", beta)

    def entries(self, y: Array, t: Array) -> Array:
        return _huber(y - t, self.beta) / y.dtype.type(self.beta) if self.beta else np.abs(y - t)

    def slopes(self, y: Array, t: Array) -> Array:
        r = y - t
        return np.clip(r / y.dtype.type(self.beta), -1, 1) if self.beta else np.sign(r)

    def changes(self, y: Array, t: Array, dy: Array) -> Array:
        if not self.beta:
            return _size_change(y - t, y - t + dy, dy)
        return _huber_change(y - t, dy, self.beta) / y.dtype.type(self.beta)

    def __repr__(self) -> str:
        return shown(self, beta=1.0)


def _size_change(r: Array, moved: Array, d: Array) -> Array:
    """Return |moved| - |r|, where moved = r + d."""
    return np.where((r > 0) & (moved > 0), d, np.where((r < 0) & (moved < 0), -d, np.abs(moved) - np.abs(r)))


def _huber(r: Array, delta: float) -> Array:
    inside = np.minimum(np.abs(r), r.dtype.type(delta))
    found: Array = inside * (np.abs(r) - inside / 2)  # r^2 / 2, or delta (|r| - delta / 2)
    return found


def _huber_change(r: Array, d: Array, delta: float) -> Array:
    """How much r^2 / 2, and what is further out, change when r moves by d.

    With c = r within [-delta, delta]: (c' - c) (c' + c) / 2 + delta (|r' - c'| - |r - c|), where c' - c is d inside.
    """
    limit = np.result_type(r, d).type(delta)
    moved = r + d
    start, end = np.clip(r, -limit, limit), np.clip(moved, -limit, limit)
    way = np.where((start == r) & (end == moved), d, end - start)
    right, left = (r >= limit) & (moved >= limit), (r <= -limit) & (moved <= -limit)
    out = np.where(right, d, np.where(left, -d, np.abs(moved - end) - np.abs(r - start)))
    found: Array = way * ((start + end) / 2) + limit * out
    return found
