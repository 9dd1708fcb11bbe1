"""The squared error."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.core.layer import Array
from nnframe.losses.base import Loss


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
