"""The squared error."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nnframe.core.parameter import Array
from nnframe.losses.base import Loss
from nnframe.losses.elementwise import as_targets


class MSELoss(Loss):
    """Squared error: the mean of (y - t)^2 over all entries (or the sum).

    `t` has the shape of `y`, and holds finite numbers; (N,) stands for (N, 1).

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "none": calling the loss returns (y - t)^2 of each entry; a strategy refuses it.
    """

    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        return as_targets(y, t)

    def unreduced(self, y: Array, t: npt.NDArray[Any]) -> Array:
        squares: Array = (y - self.prepare(y, t)) ** 2
        return squares

    def rows(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        residual = (y - self.prepare(y, t)).reshape(len(y), -1)
        return np.einsum("ni,ni->n", residual, residual, dtype=np.float64)  # type: ignore[no-any-return]

    def divisor(self, y: Array, t: npt.NDArray[Any]) -> float:
        return float(y.size)

    def forward(self, y: Array, t: npt.NDArray[Any]) -> float:
        residual = y - self.prepare(y, t)
        return float(np.vdot(residual, residual)) * self.row_scale(y, t)

    def backward(self, y: Array, t: npt.NDArray[Any]) -> Array:
        gradient: Array = (y - self.prepare(y, t)) * y.dtype.type(2 * self.row_scale(y, t))
        return gradient

    def row_differences(self, y: Array, t: npt.NDArray[Any], dy: Array) -> npt.NDArray[np.float64]:
        # (r + d)^2 - r^2 = d (2 r + d)
        residual = y - self.prepare(y, t)
        change = dy * (2 * residual + dy)
        rows: npt.NDArray[np.float64] = change.reshape(*change.shape[:2], -1).sum(axis=-1, dtype=np.float64)
        return rows

    def stage(self, y: Array, t: npt.NDArray[Any]) -> dict[str, Any]:
        """Return the description of this loss for C: see `kernels._kernels.Above`."""
        return {"loss": "squared_error", "residual": y - self.prepare(y, t)}

    def in_network(self, t: npt.ArrayLike) -> tuple[object, ...] | None:
        """Describe this loss for C: see `kernels._kernels.Network.gradient`; None for "none", which is refused."""
        return None if self.reduction == "none" else ("squared_error", self.reduction)
