"""Cross-entropy of softmax(logits)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.core.parameter import Array
from nnframe.kernels.reference import cross_entropy_targets
from nnframe.losses.base import Loss


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
        self.weight = None if weight is None else _as_weight(weight)
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
        labels = kernels.check_labels(y, t, ignore_index=self.ignore_index)
        if self.ignore_index is not None and labels.ndim == 2:
            raise ValueError(
                f"labels: expected class indices (N,) where there is an ignore_index, got shape {labels.shape}; "
                "a one-hot row is ignored by a label of its own, np.where(rows, t.argmax(1), ignore_index)"
            )
        return labels

    def rows(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        # sum_c q_c (log(sum_k exp(y_k)) - y_c), shifted by the largest logit
        q = self.targets(y, t)
        shifted = y.astype(np.float64, copy=False)
        shifted = shifted - shifted.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            weighted = np.where(q > 0, q * shifted, 0).sum(axis=1)
            found: npt.NDArray[np.floating] = q.sum(axis=1) * np.log(np.exp(shifted).sum(axis=1)) - weighted
        return found

    def divisor(self, y: Array, t: npt.NDArray[Any]) -> float:
        """Return what the mean divides by: N, or with class indices the sum of the weights of those that count."""
        if self.weight is None and self.ignore_index is None:
            return float(len(y))
        labels = self.prepare(y, t)
        if labels.ndim == 2:
            return float(len(y))
        counted = labels[labels != self.ignore_index] if self.ignore_index is not None else labels
        return float(len(counted) if self.weight is None else self.weight[counted].sum())

    def counted(self, t: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        if self.ignore_index is None or t.ndim != 1:
            return None
        found: npt.NDArray[np.bool_] = t != self.ignore_index
        return found

    def forward(self, y: Array, t: npt.NDArray[Any]) -> float:
        return kernels.softmax_cross_entropy_loss(
            y,
            t,
            reduction=self.reduction,
            weight=self.weight,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )

    def total(self, y: Array, t: npt.NDArray[Any]) -> tuple[float, float]:
        if not self._traits.forward:
            return super().total(y, t)
        return kernels.softmax_cross_entropy_loss(y, t, **(self.options() | {"reduction": "sum"})), self.total_divisor(
            y, t
        )

    def backward(self, y: Array, t: npt.NDArray[Any]) -> Array:
        return self.forward_backward(y, t)[1]

    def forward_backward(self, y: Array, t: npt.NDArray[Any]) -> tuple[float, Array]:
        return kernels.softmax_cross_entropy(
            y,
            t,
            reduction=self.reduction,
            weight=self.weight,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )

    def targets(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return q (N, C), a row's loss being sum_c q_c (log(sum_k exp(y_k)) - y_c), up to `row_scale`."""
        labels = self.prepare(y, t)
        return cross_entropy_targets(y.shape[1], labels, self.weight, self.label_smoothing, self.ignore_index)

    def row_differences(self, y: Array, t: npt.NDArray[Any], dy: Array) -> npt.NDArray[np.float64]:
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

    def stage(self, y: Array, t: npt.NDArray[Any]) -> dict[str, Any] | None:
        """Describe this loss for C, see `kernels._kernels.Above`; None where rows have different weights."""
        if self.weight is not None or self.ignore_index is not None:
            return None
        smoothing = self.label_smoothing
        return {
            "loss": "cross_entropy",
            "probabilities": kernels.softmax(y),
            "targets": cross_entropy_targets(y.shape[1], t, None, smoothing, None).astype(y.dtype),
            "residual": kernels.softmax_cross_entropy(y, t, reduction="sum", label_smoothing=smoothing)[1],
        }

    def in_network(self, t: npt.ArrayLike) -> tuple[object, ...] | None:
        """Describe this loss for C, see `kernels._kernels.Network.gradient`; None for labels that `prepare` refuses."""
        if self.ignore_index is not None and np.ndim(t) == 2:
            return None
        return "cross_entropy", self.reduction, self.weight, self.label_smoothing, self.ignore_index

    def __repr__(self) -> str:
        default = {"reduction": "mean", "weight": None, "label_smoothing": 0.0, "ignore_index": None}
        given = {name: value for name, value in self.options().items() if value is not default[name]}
        given = {name: value for name, value in given.items() if name == "weight" or value != default[name]}
        shown = [
            repr(value) if name == "reduction" else f"{name}={value.tolist() if name == 'weight' else value}"
            for name, value in given.items()
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _as_weight(weight: npt.ArrayLike) -> npt.NDArray[np.float64]:
    hint = "; pass [weight[c] for c in range(C)]" if isinstance(weight, dict) else ""
    try:
        return np.array(weight, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"weight: expected an array, one number for each class, got {weight!r}{hint}") from error
