"""Hinge losses: 0 where an output is right by a margin."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.core.parameter import Array
from nnframe.losses.base import Loss
from nnframe.losses.elementwise import Doubles, ElementwiseLoss, as_targets, shown
from nnframe.losses.likelihood import as_class_weight, class_indices


class HingeEmbeddingLoss(ElementwiseLoss):
    """The mean over all entries, or the sum, of y where t = 1, and of max(0, margin - y) where t = -1.

    `y` holds distances, `t` has its shape and holds 1 for what is alike and -1 for what is not; (N,) stands for (N, 1).
    The derivative at y = margin is taken as 0.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "none": calling the loss returns a number for each entry; a strategy refuses it.
    margin : float
        Finite.
    """

    def __init__(self, reduction: str = "mean", margin: float = 1.0) -> None:
        super().__init__(reduction)
        self.margin = _as_margin(margin)

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        targets = as_targets(y, t)
        if not (np.abs(targets) == 1).all():
            raise ValueError(f"labels: expected 1 or -1, got {targets[np.abs(targets) != 1][0]!r}")
        return targets

    def entries(self, y: Array, t: Array) -> Array:
        return np.where(t > 0, y, np.maximum(0, y.dtype.type(self.margin) - y))

    def slopes(self, y: Array, t: Array) -> Array:
        return np.where(t > 0, 1, np.where(y < y.dtype.type(self.margin), -1, 0)).astype(y.dtype)

    def changes(self, y: Array, t: Array, dy: Array) -> Array:
        return np.where(t > 0, dy, _relu_change(y.dtype.type(self.margin) - y, -dy))

    def __repr__(self) -> str:
        return shown(self, margin=1.0)


class MultiMarginLoss(Loss):
    """Hinge loss of classes (Crammer and Singer 2001; Weston and Watkins 1999), for each row

        w_t / C times the sum over classes c other than t of max(0, margin - y_t + y_c)^p.

    `y` holds scores (N, C), `t` class indices (N,). The derivative at the edge of the margin is taken as 0.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "mean" divides by N. "none": calling the loss returns a number for each row, (N,); a strategy refuses it.
    p : {1, 2}
    margin : float
        Finite.
    weight : array (C,), optional
        Of each class, >= 0.
    """  # noqa: D400

    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")

    def __init__(
        self,
        reduction: str = "mean",
        p: int = 1,
        margin: float = 1.0,
        weight: npt.ArrayLike | None = None,
    ) -> None:
        super().__init__(reduction)
        if isinstance(p, bool) or p not in (1, 2):
            raise ValueError(f"p: expected 1 or 2, got {p!r}")
        self.p, self.margin, self.weight = int(p), _as_margin(margin), as_class_weight(weight)

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        return class_indices(y, t, self.weight, None)

    def rows(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        z, scale, _ = self._reached(y, t)
        found: Doubles = (np.maximum(z, 0) ** self.p).sum(axis=1, dtype=np.float64) * scale
        return found

    def backward(self, y: Array, t: npt.NDArray[Any]) -> Array:
        z, scale, classes = self._reached(y, t)
        slopes = (z > 0) * (1.0 if self.p == 1 else 2.0 * z) * (scale * self.row_scale(y, t))[:, None]
        slopes[np.arange(len(y)), classes] = -slopes.sum(axis=1)
        return slopes.astype(y.dtype)

    def row_differences(self, y: Array, t: npt.NDArray[Any], dy: Array) -> Doubles:
        z, scale, classes = self._reached(y, t)
        change = _relu_change(z, dy - dy[:, np.arange(len(y)), classes][..., None])
        if self.p == 2:
            change = change * (2 * np.maximum(z, 0) + change)
        change[:, np.arange(len(y)), classes] = 0
        found: Doubles = change.sum(axis=-1, dtype=np.float64) * scale
        return found

    def _reached(self, y: Array, t: npt.NDArray[Any]) -> tuple[Array, Doubles, npt.NDArray[Any]]:
        """Return margin - y_t + y_c, -1 for c = t; w_t / C of each row; and its class."""
        classes = self.prepare(y, t)
        rows = np.arange(len(y))
        z = y.dtype.type(self.margin) - y[rows, classes][:, None] + y
        z[rows, classes] = -1
        weight = np.ones(len(y)) if self.weight is None else self.weight[classes]
        return z, weight / y.shape[1], classes

    def __repr__(self) -> str:
        return shown(self, p=1, margin=1.0, weight=None)


def _relu_change(z: Array, d: Array) -> Array:
    """Return how much max(0, z) changes, (S, *z.shape), for d of that shape."""
    wide = np.result_type(z, d)
    z = z.astype(wide, copy=False)
    return kernels.activation_difference("relu", z, np.maximum(z, 0), d.astype(wide, copy=False))


def _as_margin(margin: float) -> float:
    if isinstance(margin, bool) or not isinstance(margin, int | float | np.number) or not np.isfinite(margin):
        raise ValueError(f"margin: expected a finite number, got {margin!r}")
    return float(margin)
