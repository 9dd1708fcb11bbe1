"""What adds up over mini-batches: the loss, and how many rows are right."""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt

from nnframe.core.chain import ForwardPass
from nnframe.core.parameter import Array
from nnframe.losses.base import Loss
from nnframe.losses.weighted import WeightedLoss, parts
from nnframe.training.metrics import accuracy


class Sums:
    """What adds up over the mini-batches of an epoch."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.total = self.divisor = self.right = self.counted = 0.0

    def divisor_of(self, passed: ForwardPass) -> float:
        """Return what a mini-batch's mean was divided by; 1 for a sum."""
        if self.loss.reduction == "sum":
            return 1.0
        if self.loss.is_sum_over_rows:
            return self.loss.total_divisor(passed.output, passed.labels)
        return float(len(passed.output))

    def add(self, passed: ForwardPass, loss: float, divisor: float) -> None:
        """Add a mini-batch."""
        if divisor:
            self.total += loss * divisor
            self.divisor += divisor
        right, counted = rows_right(self.loss, passed.output, passed.labels)
        self.right += right
        self.counted += counted

    def state_dict(self) -> list[float]:
        """Return the sums."""
        return [self.total, self.divisor, self.right, self.counted]

    def load_state_dict(self, state: list[float]) -> None:
        """Go on from the sums that `state_dict` returned."""
        self.total, self.divisor, self.right, self.counted = state

    def means(self) -> dict[str, float]:
        """Loss and accuracy so far; the loss itself where it is a sum."""
        if self.loss.reduction == "sum" and self.loss.is_sum_over_rows:
            loss = self.total
        else:
            loss = self.total / self.divisor if self.divisor else math.nan
        return {"loss": loss, "accuracy": self.right / self.counted if self.counted else math.nan}


def rows_right(loss: Loss, y: Array, t: npt.NDArray[Any]) -> tuple[float, float]:
    """How many rows, or positions in them, have the right class, and of how many; NaN where labels are no classes."""
    if isinstance(loss, WeightedLoss):
        loss, t = loss.loss, parts(t)[0]
    shares = loss.right(y, t) if len(y) else None
    if shares is not None:
        return float(shares.sum()), float(len(y))
    classes = t.shape == y.shape[:-1] and t.dtype.kind in "iu"
    if y.ndim < 2 or y.shape[-1] < 2 or not (classes or (t.shape == y.shape and _is_one_hot(t))):
        return math.nan, float(len(y))
    counted = loss.counted(t)
    if counted is not None and not counted.all():
        y, t = y[counted], t[counted]
    rows = math.prod(y.shape[:-1])
    return (accuracy(y, t) * rows if rows else 0.0), float(rows)


def _is_one_hot(t: npt.NDArray[Any]) -> bool:
    return t.shape[-1] > 1 and bool(((t == 0) | (t == 1)).all() and (t.sum(axis=-1) == 1).all())
