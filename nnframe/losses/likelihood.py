"""Losses of logarithms of probabilities: what a LogSoftmax gives."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe._checks import as_flag
from nnframe.core.parameter import Array
from nnframe.losses.base import Loss
from nnframe.losses.elementwise import Doubles, ElementwiseLoss, as_row_weight, as_targets, shown


class NLLLoss(Loss):
    """Negative log-likelihood: -w_t y_t for each row, where t is its class.

    `y` holds logarithms of probabilities (N, C), as `LogSoftmax` returns them; `t` class indices (N,). Outputs of more
    axes, (N, ..., C) with class indices (N, ...), have a class at each position, and all positions count alike. Classes
    are on the last axis, as `Linear` gives them; PyTorch has them on axis 1. For logits, `CrossEntropyLoss` does both
    at once.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights of the classes of the positions that count. "none": calling the loss
        returns a number for each position, (N, ...); a strategy refuses it.
    weight : array (C,), optional
        Of each class, >= 0.
    ignore_index : int, optional
        Positions with this class index count for nothing.
    """

    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")

    def __init__(
        self, reduction: str = "mean", weight: npt.ArrayLike | None = None, ignore_index: int | None = None
    ) -> None:
        super().__init__(reduction)
        self.weight = as_class_weight(weight)
        self.ignore_index = ignore_index
        kernels.check_labels(np.zeros((0, 1)), np.zeros(0, int), ignore_index=ignore_index)  # refuses what does not fit

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        given = np.asarray(t)
        if y.ndim < 2 or given.shape != y.shape[:-1]:
            raise ValueError(
                f"labels: expected class indices of shape {y.shape[:-1]} for outputs {y.shape}, whose last axis counts "
                f"classes, got shape {given.shape}"
            )
        flat = class_indices(y.reshape(-1, y.shape[-1]), given.reshape(-1), self.weight, self.ignore_index)
        return flat.reshape(given.shape)

    def rows(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        found: Doubles = self._positions(y, t).reshape(len(y), math.prod(y.shape[1:-1])).sum(axis=1)
        return found

    def unreduced(self, y: Array, t: npt.NDArray[Any]) -> Array:
        return self._positions(y, t).astype(y.dtype, copy=False)

    def divisor(self, y: Array, t: npt.NDArray[Any]) -> float:
        return float(self._weighted(y, t)[1].sum())

    def backward(self, y: Array, t: npt.NDArray[Any]) -> Array:
        classes, weight = self._weighted(y, t)
        gradient = np.zeros(y.shape, y.dtype)
        slopes = np.where(weight > 0, -weight * self.row_scale(y, t), 0)
        np.put_along_axis(gradient, classes[..., None], slopes[..., None].astype(y.dtype), axis=-1)
        return gradient

    def row_differences(self, y: Array, t: npt.NDArray[Any], dy: Array) -> Doubles:
        classes, weight = self._weighted(y, t)
        own = np.take_along_axis(dy, np.broadcast_to(classes[..., None], (*dy.shape[:-1], 1)), axis=-1)[..., 0]
        found: Doubles = (-weight * own).reshape(len(dy), len(y), math.prod(y.shape[1:-1])).sum(axis=-1)
        return found

    def counted(self, t: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        if self.ignore_index is None:
            return None
        found: npt.NDArray[np.bool_] = t != self.ignore_index
        return found

    def _positions(self, y: Array, t: npt.NDArray[Any]) -> Doubles:
        """Return what each position gives, (N, ...)."""
        classes, weight = self._weighted(y, t)
        own = np.take_along_axis(y, classes[..., None], axis=-1)[..., 0]
        found: Doubles = -weight * np.where(weight > 0, own, 0)
        return found

    def _weighted(self, y: Array, t: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Doubles]:
        """Return the class of each position, and its weight: 0 for one that is ignored, whose class is then 0."""
        classes = self.prepare(y, t)
        counts = np.ones(classes.shape, bool) if self.ignore_index is None else classes != self.ignore_index
        classes = np.where(counts, classes, 0)
        return classes, counts * (1.0 if self.weight is None else self.weight[classes])

    def __repr__(self) -> str:
        return shown(self, weight=None, ignore_index=None)


class KLDivLoss(ElementwiseLoss):
    """Kullback-Leibler divergence (Kullback and Leibler 1951): t (log(t) - y) for each entry, 0 where t is 0.

    `y` holds logarithms of probabilities, as `LogSoftmax` returns them, (N, C) or any shape; `t` has its shape and
    holds probabilities, or with `log_target` their logarithms.

    Parameters
    ----------
    reduction : {"mean", "batchmean", "sum", "none"}
        "batchmean" divides by N: the divergence, averaged over rows. "mean", the default as in PyTorch, divides by the
        number of all entries, which is C times too much for that. "none": calling the loss returns a number for each
        entry; a strategy refuses it.
    log_target : bool
    """

    reductions: ClassVar[tuple[str, ...]] = ("mean", "batchmean", "sum", "none")

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = as_flag("log_target", log_target)

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        targets = as_targets(y, t)
        if not self.log_target and not (targets >= 0).all():
            wrong = targets[~(targets >= 0)][0]
            raise ValueError(f"labels: expected probabilities >= 0, got {wrong!r}; log_target=True takes logarithms")
        return targets

    def divisor(self, y: Array, t: npt.NDArray[Any]) -> float:
        return float(len(y) if self.reduction == "batchmean" else y.size)

    def entries(self, y: Array, t: Array) -> Array:
        share = self._shares(t)
        logs = t if self.log_target else np.log(np.where(t > 0, t, 1))
        return np.where(share > 0, share * (logs - y), 0).astype(y.dtype, copy=False)

    def slopes(self, y: Array, t: Array) -> Array:
        return np.broadcast_to(-self._shares(t), y.shape)

    def changes(self, y: Array, t: Array, dy: Array) -> Array:
        change: Array = -self._shares(t) * dy
        return change

    def _shares(self, t: Array) -> Array:
        return np.exp(t) if self.log_target else t

    def __repr__(self) -> str:
        return shown(self, log_target=False)


def as_class_weight(weight: npt.ArrayLike | None) -> Doubles | None:
    """Weights of classes, (C,), or None; TypeError, ValueError otherwise."""
    found = as_row_weight("weight", weight)
    if found is not None and (found.ndim != 1 or not found.size):
        raise ValueError(f"weight: expected shape (C,), one number for each class, got {found.shape}")
    return found


def class_indices(y: Array, t: npt.ArrayLike, weight: Doubles | None, ignored: int | None) -> npt.NDArray[Any]:
    """Labels as class indices (N,) for outputs (N, C), one weight for each of the classes."""
    classes = kernels.check_labels(y, t, ignore_index=ignored)
    if classes.ndim != 1:
        raise ValueError(f"labels: expected class indices, shape ({len(y)},), got shape {np.shape(t)}")
    if weight is not None and len(weight) != y.shape[1]:
        raise ValueError(f"weight: expected shape ({y.shape[1]},), one number for each class, got {weight.shape}")
    return classes
