"""Cross-entropy of softmax(logits)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.core.parameter import Array
from nnframe.kernels.reference_differences import cross_entropy_differences
from nnframe.kernels.reference_losses import cross_entropy_rows, cross_entropy_targets
from nnframe.losses.base import Loss


class CrossEntropyLoss(Loss):
    """Cross-entropy of softmax(logits) against labels: log(sum_c exp(y_c)) - sum_c t_c y_c, for each row.

    `y` holds logits (N, C): no softmax layer stands before this loss. `t` holds class indices (N,), or one-hot or soft
    labels (N, C) whose rows are non-negative and sum to 1. "mean" divides by N.

    Outputs of more axes, (N, ..., C) with labels (N, ...) or (N, ..., C), have a label at each position: all positions
    count alike, and "mean" divides by how many there are. Classes are on the last axis, as `Linear` gives them.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "none": calling the loss returns a number for each position, (N, ...); a strategy refuses it.
    weight : array (C,), optional
        Of each class, >= 0. With class indices the mean is then a weighted one: it divides by the sum of the weights.
    label_smoothing : float in [0, 1]
        How much of each label is spread evenly over all classes (Szegedy et al. 2016, section 7).
    ignore_index : int, optional
        Rows with this class index count for nothing.
    """

    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")

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
            "reduction": "sum" if self.reduction == "none" else self.reduction,
            "weight": self.weight,
            "label_smoothing": self.label_smoothing,
            "ignore_index": self.ignore_index,
        }

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        given: Any = t
        if y.ndim > 2:
            given = np.asarray(t)
            if given.shape not in (y.shape[:-1], y.shape):
                raise ValueError(
                    f"labels: expected class indices of shape {y.shape[:-1]} or one-hot or soft labels of shape "
                    f"{y.shape} for logits with their classes on the last axis, got shape {given.shape}"
                )
            given = given.reshape(-1, *given.shape[y.ndim - 1 :])
        labels = kernels.check_labels(_positions(y), given, ignore_index=self.ignore_index)
        if self.ignore_index is not None and labels.ndim == 2:
            raise ValueError(
                f"labels: expected class indices (N,) where there is an ignore_index, got shape {np.shape(t)}; "
                "a one-hot row is ignored by a label of its own, np.where(rows, t.argmax(1), ignore_index)"
            )
        return labels if y.ndim <= 2 else labels.reshape(np.shape(t))

    def rows(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        found = cross_entropy_rows(_positions(y), self.targets(y, t))
        return found if y.ndim == 2 else found.reshape(len(y), -1).sum(axis=1)

    def unreduced(self, y: Array, t: npt.NDArray[Any]) -> Array:
        found = cross_entropy_rows(_positions(y), self.targets(y, t))
        return found.reshape(y.shape[:-1]).astype(y.dtype, copy=False)

    def divisor(self, y: Array, t: npt.NDArray[Any]) -> float:
        """Return what the mean divides by: N, or with class indices the sum of the weights of those that count."""
        rows = float(math.prod(y.shape[:-1]))
        if self.weight is None and self.ignore_index is None:
            return rows
        labels = self.prepare(y, t)
        if labels.ndim == y.ndim:
            return rows
        counted = labels[labels != self.ignore_index] if self.ignore_index is not None else labels
        return float(counted.size if self.weight is None else self.weight[counted].sum())

    def counted(self, t: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        if self.ignore_index is None or t.dtype.kind not in "iu":
            return None
        found: npt.NDArray[np.bool_] = t != self.ignore_index
        return found

    def forward(self, y: Array, t: npt.NDArray[Any]) -> float:
        self._refuse_unreduced()
        return kernels.softmax_cross_entropy_loss(*self._flat(y, t), **self.options())

    def total(self, y: Array, t: npt.NDArray[Any]) -> tuple[float, float]:
        if not self._traits.forward:
            return super().total(y, t)
        summed = kernels.softmax_cross_entropy_loss(*self._flat(y, t), **(self.options() | {"reduction": "sum"}))
        return summed, self.total_divisor(y, t)

    def backward(self, y: Array, t: npt.NDArray[Any]) -> Array:
        return self.forward_backward(y, t)[1]

    def forward_backward(self, y: Array, t: npt.NDArray[Any]) -> tuple[float, Array]:
        self._refuse_unreduced()
        value, gradient = kernels.softmax_cross_entropy(*self._flat(y, t), **self.options())
        return value, gradient if y.ndim == 2 else gradient.reshape(y.shape)

    def targets(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return q (positions, C), each one's loss being sum_c q_c (log(sum_k exp(y_k)) - y_c), up to `row_scale`."""
        _, labels = self._flat(y, self.prepare(y, t))
        return cross_entropy_targets(y.shape[-1], labels, self.weight, self.label_smoothing, self.ignore_index)

    def row_differences(self, y: Array, t: npt.NDArray[Any], dy: Array) -> npt.NDArray[np.float64]:
        if y.ndim == 2:
            return cross_entropy_differences(y, self.targets(y, t), dy)
        stack = dy.reshape(len(dy), math.prod(y.shape[:-1]), y.shape[-1])
        change = cross_entropy_differences(_positions(y), self.targets(y, t), stack)
        found: npt.NDArray[np.float64] = change.reshape(len(dy), len(y), math.prod(y.shape[1:-1])).sum(axis=2)
        return found

    def _flat(self, y: Array, t: npt.NDArray[Any]) -> tuple[Array, Any]:
        """Logits (positions, C), and their labels likewise."""
        if y.ndim == 2:
            return y, t
        labels = self.prepare(y, t)
        return _positions(y), labels.reshape(-1, *labels.shape[y.ndim - 1 :])

    def stage(self, y: Array, t: npt.NDArray[Any]) -> dict[str, Any]:
        """Return the description of this loss for C: see `kernels._kernels.Above`."""
        self._refuse_unreduced()
        q = self.targets(y, t).astype(y.dtype)
        logits, labels = self._flat(y, t)
        residual = kernels.softmax_cross_entropy(logits, labels, **(self.options() | {"reduction": "sum"}))[1]
        return {
            "loss": "cross_entropy",
            "logits": logits,
            "probabilities": kernels.softmax(logits),
            "targets": q,
            "residual": residual,
        }

    def in_network(self, t: npt.ArrayLike) -> tuple[object, ...] | None:
        """Describe this loss for C, see `kernels._kernels.Network.gradient`; None for labels that `prepare` refuses."""
        self._refuse_unreduced()
        if self.ignore_index is not None and np.ndim(t) == 2:
            return None
        return "cross_entropy", self.reduction, self.weight, self.label_smoothing, self.ignore_index

    def __repr__(self) -> str:
        default = {"reduction": "mean", "weight": None, "label_smoothing": 0.0, "ignore_index": None}
        now = self.options() | {"reduction": self.reduction}
        given = {name: value for name, value in now.items() if value is not default[name]}
        given = {name: value for name, value in given.items() if name == "weight" or value != default[name]}
        shown = [
            repr(value) if name == "reduction" else f"{name}={value.tolist() if name == 'weight' else value}"
            for name, value in given.items()
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _positions(y: Array) -> Array:
    """Logits (N, ..., C) as (positions, C)."""
    return y if y.ndim <= 2 else y.reshape(math.prod(y.shape[:-1]), y.shape[-1])


def _as_weight(weight: npt.ArrayLike) -> npt.NDArray[np.float64]:
    hint = "; pass [weight[c] for c in range(C)]" if isinstance(weight, dict) else ""
    try:
        return np.array(weight, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"weight: expected an array, one number for each class, got {weight!r}{hint}") from error
