"""Losses: functions of a network's output and the labels, with the same three passes as a layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.layer import Array
from nnframe.reference import cross_entropy_targets


class Loss:
    """The loss protocol. A custom loss needs `forward` only.

    `y` is the network's output, axis 0 counting the N rows of a mini-batch; `t` holds the labels.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Whether the loss is the mean or the sum of what it sums over. A custom loss that is neither leaves it at "mean".
    """

    reduction: str = "mean"

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
        self.reduction = reduction

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        """Check the labels against an output, and bring them into the shape and dtype that the passes take."""
        return np.asarray(t)

    def forward(self, y: Array, t: npt.ArrayLike) -> float:
        """Return the loss, a float."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, y: Array, t: npt.ArrayLike) -> Array:
        """Return the gradient of the loss with respect to y, of y's shape."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def forward_backward(self, y: Array, t: npt.ArrayLike) -> tuple[float, Array]:
        """Return both of the above; a loss that gets them in one pass overrides this."""
        return self.forward(y, t), self.backward(y, t)

    def difference(self, y: Array, t: npt.ArrayLike, dy: Array) -> npt.NDArray[np.float64]:
        """forward(y + dy[s]) - forward(y) for each s of a stack dy (S, *y.shape); returns (S,).

        This default subtracts, in float64. A loss that knows a form without cancellation overrides this, or
        `row_differences` where it is a sum over rows.
        """
        if self.is_sum_over_rows:
            total: npt.NDArray[np.float64] = self.row_differences(y, t, dy).sum(axis=-1) * self.row_scale(y, t)
            return total
        y = y.astype(np.float64, copy=False)
        base = float(self.forward(y, t))
        return np.array([float(self.forward(y + one, t)) - base for one in dy], np.float64)

    def row_differences(self, y: Array, t: npt.ArrayLike, dy: Array) -> npt.NDArray[np.float64]:
        """Return what each row of each dy of a stack adds to the loss, (S, N), up to the factor `row_scale`.

        For losses that are a sum over rows; with it `CentralDifference` needs few evaluations for many weights.
        """
        raise NotImplementedError(f"{type(self).__name__} has no row_differences")

    def row_scale(self, y: Array, t: npt.ArrayLike) -> float:
        """Return the loss over the sum of what `row_differences` counts."""
        if self.reduction == "sum":
            return 1.0
        return 1 / len(y) if len(y) else math.nan

    @property
    def is_sum_over_rows(self) -> bool:
        """Whether `row_differences` was written for this loss."""
        return type(self).row_differences is not Loss.row_differences

    @property
    def has_backward(self) -> bool:
        """Whether a backward pass was written for this loss."""
        return type(self).backward is not Loss.backward

    def __call__(self, y: npt.ArrayLike, t: npt.ArrayLike) -> float:
        """Forward."""
        return self.forward(np.asarray(y), t)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self.reduction == 'mean' else repr(self.reduction)})"


class CrossEntropyLoss(Loss):
    """Cross-entropy of softmax(logits) against labels: log(sum_c exp(y_c)) - sum_c t_c y_c, for each row.

    `y` holds logits (N, C): no softmax layer stands before this loss. `t` holds class indices (N,), or one-hot or soft
    labels (N, C) whose rows are non-negative and sum to 1. "mean" divides by N.

    Parameters
    ----------
    reduction : {"mean", "sum"}
    weight : array (C,), optional
        Of each class, >= 0. With class indices the mean is then a weighted one: it divides by the sum of the weights.
    label_smoothing : float in [0, 1]
        How much of each label is spread evenly over all classes (Szegedy et al. 2016, section 7).
    ignore_index : int, optional
        Rows with this class index count for nothing.
    """

    def __init__(
        self,
        reduction: str = "mean",
        weight: npt.ArrayLike | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else np.array(weight, np.float64)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        one = np.zeros((0, 1 if self.weight is None else max(1, self.weight.size)))
        kernels.softmax_cross_entropy_loss(one, np.zeros(0, int), **self.options())  # refuses what does not fit

    def options(self) -> dict[str, Any]:
        """Return what the kernel takes besides logits and labels."""
        return {
            "reduction": self.reduction,
            "weight": self.weight,
            "label_smoothing": self.label_smoothing,
            "ignore_index": self.ignore_index,
        }

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        return kernels.check_labels(y, t, ignore_index=self.ignore_index)

    def forward(self, y: Array, t: npt.ArrayLike) -> float:
        return kernels.softmax_cross_entropy_loss(y, t, **self.options())

    def backward(self, y: Array, t: npt.ArrayLike) -> Array:
        return self.forward_backward(y, t)[1]

    def forward_backward(self, y: Array, t: npt.ArrayLike) -> tuple[float, Array]:
        return kernels.softmax_cross_entropy(y, t, **self.options())

    def targets(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return q (N, C), a row's loss being sum_c q_c (log(sum_k exp(y_k)) - y_c), up to `row_scale`."""
        labels = self.prepare(y, t)
        return cross_entropy_targets(y.shape[1], labels, self.weight, self.label_smoothing, self.ignore_index)

    def row_differences(self, y: Array, t: npt.ArrayLike, dy: Array) -> npt.NDArray[np.float64]:
        # sum(q) log1p(sum_k p_k expm1(d_k)) - sum_k q_k d_k; beyond 1 by log(sum_k p_k exp(d_k)), shifted
        q = self.targets(y, t)
        p = kernels.softmax(y.astype(np.float64, copy=False))
        dy = dy.astype(np.float64, copy=False)
        largest = dy.max(axis=-1, keepdims=True)
        wide = np.abs(dy).max(axis=-1) > 1
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            change = np.log1p(np.einsum("nk,...nk->...n", p, np.expm1(dy)))
            if wide.any():
                large = largest[..., 0] + np.log((p * np.exp(dy - largest)).sum(axis=-1))
                change = np.where(wide, large, change)
        rows: npt.NDArray[np.float64] = q.sum(axis=1) * change - np.einsum("nk,...nk->...n", q, dy)
        return rows

    def row_scale(self, y: Array, t: npt.ArrayLike) -> float:
        labels = self.prepare(y, t)
        if self.reduction == "sum" or labels.ndim == 2 or (self.weight is None and self.ignore_index is None):
            return super().row_scale(y, labels)
        counted = labels[labels != self.ignore_index] if self.ignore_index is not None else labels
        total = len(counted) if self.weight is None else self.weight[counted].sum()
        return 1 / total if total else math.nan

    def __repr__(self) -> str:
        default = {"reduction": "mean", "weight": None, "label_smoothing": 0.0, "ignore_index": None}
        given = {name: value for name, value in self.options().items() if value is not default[name]}
        given = {name: value for name, value in given.items() if name == "weight" or value != default[name]}
        shown = [
            repr(value) if name == "reduction" else f"{name}={value.tolist() if name == 'weight' else value}"
            for name, value in given.items()
        ]
        return f"CrossEntropyLoss({', '.join(shown)})"


class MSELoss(Loss):
    """Squared error: the mean of (y - t)^2 over all entries (or the sum).

    `t` has the shape of `y`.
    """

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        targets = np.asarray(t)
        if targets.dtype.kind not in "biuf":
            raise TypeError(f"labels: expected real numbers, got {targets.dtype}")
        if targets.shape != y.shape:
            raise ValueError(f"labels: expected the shape of the output {y.shape}, got {targets.shape}")
        return targets.astype(y.dtype, copy=False)

    def forward(self, y: Array, t: npt.ArrayLike) -> float:
        residual = y - self.prepare(y, t)
        return float(np.vdot(residual, residual)) * self.row_scale(y, t)

    def backward(self, y: Array, t: npt.ArrayLike) -> Array:
        gradient: Array = (y - self.prepare(y, t)) * y.dtype.type(2 * self.row_scale(y, t))
        return gradient

    def row_differences(self, y: Array, t: npt.ArrayLike, dy: Array) -> npt.NDArray[np.float64]:
        # (r + d)^2 - r^2 = d (2 r + d)
        residual = y - self.prepare(y, t)
        change = dy * (2 * residual + dy)
        rows: npt.NDArray[np.float64] = change.reshape(*change.shape[:2], -1).sum(axis=-1, dtype=np.float64)
        return rows

    def row_scale(self, y: Array, t: npt.ArrayLike) -> float:
        return 1 / y.size if self.reduction == "mean" else 1.0
