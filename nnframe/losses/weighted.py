"""`WeightedLoss`: a weight for each row, which travels with its label."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.core.parameter import Array
from nnframe.losses.base import Doubles, Loss, row_changes, value_and_gradient
from nnframe.losses.cross_entropy import CrossEntropyLoss


class WeightedLoss(Loss):
    """Another loss with a weight for each row: sum_n w_n rows_n, for "mean" over sum_n w_n divisor_n.

    A row of weight 0 is as good as absent, one of weight 2 as good as there twice. Labels come from `with_weights`.

    Parameters
    ----------
    loss : Loss
        A sum over rows: one that writes `rows`.
    """

    def __init__(self, loss: Loss) -> None:
        if not isinstance(loss, Loss) or not loss.is_sum_over_rows:
            raise TypeError(f"sample_weight, class_weight: expected a loss that is a sum over rows, got {loss!r}")
        super().__init__(loss.reduction if loss.reduction == "sum" else "mean")
        self.loss = loss
        self.summed = copy.copy(loss)
        self.summed.reduction = "sum"
        staged = isinstance(loss, CrossEntropyLoss) and loss._traits.stage
        self._traits = self._traits._replace(stage=staged)  # type: ignore[misc]

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        labels, weights = parts(t)
        return with_weights(self.loss.prepare(y, labels), weights)

    def rows(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        labels, weights = parts(t)
        return np.asarray(self.loss.rows(y, labels), np.float64) * weights

    def divisor(self, y: Array, t: npt.NDArray[Any]) -> float:
        labels, weights = parts(t)
        return float(np.dot(self.loss.row_divisors(y, labels), weights))

    def backward(self, y: Array, t: npt.NDArray[Any]) -> Array:
        labels, weights = parts(t)
        _, gradient = value_and_gradient(self.summed, y, labels, None)
        scale = (weights * self.row_scale(y, t)).astype(y.dtype).reshape(-1, *[1] * (y.ndim - 1))
        found: Array = gradient * scale
        return found

    def row_differences(self, y: Array, t: npt.NDArray[Any], dy: Array) -> Doubles:
        labels, weights = parts(t)
        return row_changes(self.summed, y, labels, dy) * weights

    def stage(self, y: Array, t: npt.NDArray[Any]) -> dict[str, Any]:
        """Return the description for C: that of the cross-entropy, which is linear in its targets."""
        labels, weights = parts(t)
        found: dict[str, Any] = self.loss.stage(y, labels)  # type: ignore[attr-defined]
        each = np.repeat(weights, len(found["targets"]) // max(1, len(weights)))[:, None].astype(y.dtype)
        return found | {name: found[name] * each for name in ("targets", "residual")}

    def counted(self, t: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        return self.loss.counted(parts(t)[0])

    def right(self, y: Array, t: npt.NDArray[Any]) -> Doubles | None:
        return self.loss.right(y, parts(t)[0])

    def __repr__(self) -> str:
        return f"WeightedLoss({self.loss!r})"


def with_weights(t: npt.NDArray[Any], weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return labels with a weight each, as one array of N rows that can be indexed, cut and joined like labels."""
    made = np.empty(len(t), [("t", t.dtype, t.shape[1:]), ("weight", np.float64)])
    made["t"], made["weight"] = t, weights
    return made


def parts(t: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Return the labels and the weights of what `with_weights` made."""
    array = np.asarray(t)
    if array.dtype.names != ("t", "weight"):
        raise TypeError(f"labels: expected labels with weights, got {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array["t"]), np.ascontiguousarray(array["weight"])
