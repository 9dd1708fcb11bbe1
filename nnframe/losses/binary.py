"""Losses of yes and no: one logit, or several labels at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.core.parameter import Array
from nnframe.losses.elementwise import ElementwiseLoss, as_row_weight, as_targets, fitted, shown


class BCEWithLogitsLoss(ElementwiseLoss):
    """Binary cross-entropy of s(y) = 1 / (1 + exp(-y)): the mean over all entries, or the sum, of

        -w (p t log(s(y)) + (1 - t) log(1 - s(y))),  w being `weight` and p `pos_weight`.

    `y` holds logits: no sigmoid stands before this loss. `t` in [0, 1] has the shape of `y`: one logit (N, 1), or one
    for each of several labels (N, C). (N,) stands for (N, 1).

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of entries, whatever the weights are. "none": calling the loss returns a number for
        each entry; a strategy refuses it.
    weight : array, optional
        Of the entries of a row, >= 0: of a shape that fits each row, such as (C,).
    pos_weight : array, optional
        Of t = 1 beside t = 0, likewise.

    Raises
    ------
    TypeError, ValueError
        Labels or weights that do not fit.
    """  # noqa: D400

    def __init__(
        self,
        reduction: str = "mean",
        weight: npt.ArrayLike | None = None,
        pos_weight: npt.ArrayLike | None = None,
    ) -> None:
        super().__init__(reduction)
        self.weight = as_row_weight("weight", weight)
        self.pos_weight = as_row_weight("pos_weight", pos_weight)

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        targets = as_targets(y, t)
        if not ((targets >= 0) & (targets <= 1)).all():
            wrong = targets[~((targets >= 0) & (targets <= 1))][0]
            raise ValueError(f"labels: expected numbers in [0, 1], got {wrong!r}; -1 and 1 become (t + 1) / 2")
        return targets

    def entries(self, y: Array, t: Array) -> Array:
        no, yes = self._factors(y, t)
        found: Array = no * kernels.activation("softplus", y) + yes * kernels.activation("softplus", -y)
        return found

    def slopes(self, y: Array, t: Array) -> Array:
        no, yes = self._factors(y, t)
        found: Array = no * kernels.activation("sigmoid", y) - yes * kernels.activation("sigmoid", -y)
        return found

    def changes(self, y: Array, t: Array, dy: Array) -> Array:
        no, yes = self._factors(y, t)
        found: Array = no * _softplus_change(y, dy) + yes * _softplus_change(-y, -dy)
        return found

    def right(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
        """Return which share of the labels of each row its logits get right; None where labels are not 0 and 1."""
        return _right_sides(y, t, 0.0)

    def _factors(self, y: Array, t: Array) -> tuple[Array, Array]:
        """Return what log(1 + exp(y)) and log(1 + exp(-y)) count: (1 - t) w, and p t w."""
        weight = fitted("weight", self.weight, y)
        return weight * (1 - t), weight * fitted("pos_weight", self.pos_weight, y) * t

    def __repr__(self) -> str:
        return shown(self, weight=None, pos_weight=None)


class BCELoss(ElementwiseLoss):
    """Binary cross-entropy of probabilities: the mean over all entries, or the sum, of

        -w (t log(y) + (1 - t) log(1 - y)),  w being `weight`.

    `y` in [0, 1] holds probabilities, as `Sigmoid` gives them; `t` in [0, 1] has its shape, and (N,) stands for (N, 1).
    As in PyTorch no logarithm is below -100, so that the loss stays finite, and y (1 - y) is at least 1e-12 in the
    gradient. `BCEWithLogitsLoss` does both at once, and is exact for probabilities near 0 and 1 as well.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of entries, whatever the weights are. "none": calling the loss returns a number for
        each entry; a strategy refuses it.
    weight : array, optional
        Of the entries of a row, >= 0: of a shape that fits each row, such as (C,).
    """  # noqa: D400

    def __init__(self, reduction: str = "mean", weight: npt.ArrayLike | None = None) -> None:
        super().__init__(reduction)
        self.weight = as_row_weight("weight", weight)

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        targets = as_targets(y, t)
        for name, values in (("labels", targets), ("y", y)):
            outside = values[(values < 0) | (values > 1)]
            if outside.size:
                hint = "; a Sigmoid goes below this loss, or take BCEWithLogitsLoss" if name == "y" else ""
                raise ValueError(f"{name}: expected numbers in [0, 1], got {outside[0]!r}{hint}")
        return targets

    def entries(self, y: Array, t: Array) -> Array:
        found: Array = -fitted("weight", self.weight, y) * (t * _log(y) + (1 - t) * _log(1 - y))
        return found

    def slopes(self, y: Array, t: Array) -> Array:
        found: Array = fitted("weight", self.weight, y) * (y - t) / np.maximum(y * (1 - y), y.dtype.type(1e-12))
        return found

    def changes(self, y: Array, t: Array, dy: Array) -> Array:
        change = t * _log_change(y, dy) + (1 - t) * _log_change(1 - y, -dy)
        found: Array = -fitted("weight", self.weight, y) * change
        return found

    def right(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
        """Return which share of the labels of each row is on its side of 1/2; None where labels are not 0 and 1."""
        return _right_sides(y, t, 0.5)

    def __repr__(self) -> str:
        return shown(self, weight=None)


class MultiLabelSoftMarginLoss(BCEWithLogitsLoss):
    """Binary cross-entropy of several labels, the mean over the C labels of each row, then over rows, or the sum.

    As `BCEWithLogitsLoss` but that "sum" adds up means over labels. `y` is (N, ..., C), `t` in [0, 1] has its shape.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        "none": calling the loss returns a number for each row, (N, ...); a strategy refuses it.
    weight : array (C,), optional
        Of each label, >= 0.
    """

    def __init__(self, reduction: str = "mean", weight: npt.ArrayLike | None = None) -> None:
        super().__init__(reduction, weight)

    def unreduced(self, y: Array, t: npt.NDArray[Any]) -> Array:
        found: Array = self.entries(y, as_targets(y, t)).sum(axis=-1)
        return found

    def divisor(self, y: Array, t: npt.NDArray[Any]) -> float:
        return float(y.size / y.shape[-1])

    def _factors(self, y: Array, t: Array) -> tuple[Array, Array]:
        if y.ndim < 2:
            raise ValueError(f"y: expected a logit for each label, (N, ..., C), got shape {y.shape}")
        no, yes = super()._factors(y, t)
        return no / y.dtype.type(y.shape[-1]), yes / y.dtype.type(y.shape[-1])

    def __repr__(self) -> str:
        return shown(self, weight=None)


def _softplus_change(x: Array, dx: Array) -> Array:
    """Return how much log(1 + exp(x)) changes, (S, *x.shape), for dx of that shape."""
    wide = np.result_type(x, dx)
    x = x.astype(wide, copy=False)
    return kernels.activation_difference("softplus", x, kernels.activation("softplus", x), dx.astype(wide, copy=False))


def _log(p: Array) -> Array:
    """log(p), at least -100."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.maximum(np.log(p), -100)
    return found


def _log_change(p: Array, dp: Array) -> Array:
    """Return _log(p + dp) - _log(p), without cancellation where neither of them is held at -100."""
    least = 1e-43  # below exp(-100), 3.7e-44, one of them is
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.where(np.minimum(p, p + dp) > least, np.log1p(dp / p), _log(p + dp) - _log(p))
    return found


def _right_sides(y: Array, t: npt.NDArray[Any], edge: float) -> npt.NDArray[np.float64] | None:
    """Return which share of each row is above the edge where its label is 1, below where it is 0; None for others."""
    targets = as_targets(y, t)
    if not ((targets == 0) | (targets == 1)).all():
        return None
    found: npt.NDArray[np.float64] = ((y > edge) == (targets == 1)).reshape(len(y), -1).mean(axis=1)
    return found
