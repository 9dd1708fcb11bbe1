"""The loss protocol: a function of a network's output and the labels, with the same passes as a layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.core.layer import Array


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
