"""What losses share that are a sum over the entries of the output: each is a function of one output and one label."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nnframe.core.parameter import Array
from nnframe.losses.base import Loss

Doubles = npt.NDArray[np.float64]


class ElementwiseLoss(Loss):
    """A sum, or the mean, over all entries of the output of f(y, t), t being of y's shape.

    A loss writes `entries`, `slopes` and `changes`. Labels (N,) stand for (N, 1) where there is one output.
    """

    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")

    # ---- what a loss writes ----

    def entries(self, y: Array, t: Array) -> Array:
        """Return f(y, t), of y's shape."""
        raise NotImplementedError(f"{type(self).__name__} has no entries")

    def slopes(self, y: Array, t: Array) -> Array:
        """Return the derivative of f with respect to y, of y's shape."""
        raise NotImplementedError(f"{type(self).__name__} has no slopes")

    def changes(self, y: Array, t: Array, dy: Array) -> Array:
        """Return f(y + dy, t) - f(y, t) without cancellation, dy (S, *y.shape)."""
        raise NotImplementedError(f"{type(self).__name__} has no changes")

    # ---- what follows ----

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        return as_targets(y, t)

    def unreduced(self, y: Array, t: npt.NDArray[Any]) -> Array:
        return self.entries(y, as_targets(y, t))

    def rows(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        found: Doubles = self.entries(y, as_targets(y, t)).reshape(len(y), _row(y)).sum(axis=1, dtype=np.float64)
        return found

    def divisor(self, y: Array, t: npt.NDArray[Any]) -> float:
        return float(y.size)

    def backward(self, y: Array, t: npt.NDArray[Any]) -> Array:
        gradient: Array = self.slopes(y, as_targets(y, t)) * y.dtype.type(self.row_scale(y, t))
        return gradient

    def row_differences(self, y: Array, t: npt.NDArray[Any], dy: Array) -> Doubles:
        change = self.changes(y, as_targets(y, t), dy)
        found: Doubles = change.reshape(len(dy), len(y), _row(y)).sum(axis=-1, dtype=np.float64)
        return found


def as_targets(y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
    """Labels as real numbers of y's shape and dtype; (N,) stands for (N, 1). TypeError, ValueError otherwise."""
    targets = np.asarray(t)
    if targets.dtype.kind not in "biuf":
        raise TypeError(f"labels: expected real numbers, got {targets.dtype}")
    if y.ndim == 2 and targets.shape == (len(y),) and y.shape[1] == 1:
        targets = targets[:, None]
    if targets.shape != y.shape:
        raise ValueError(f"labels: expected the shape of the output {y.shape}, got {targets.shape}")
    return targets.astype(y.dtype, copy=False)


def as_row_weight(name: str, weight: npt.ArrayLike | None) -> Doubles | None:
    """Weights as a float64 array of finite numbers >= 0, or None; TypeError, ValueError otherwise."""
    if weight is None:
        return None
    try:
        found = np.array(weight, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array of numbers, got {weight!r}") from error
    if not (np.isfinite(found) & (found >= 0)).all():
        raise ValueError(f"{name}: expected finite numbers >= 0, got {found.reshape(-1)[:8].tolist()}")
    return found


def fitted(name: str, weight: Doubles | None, y: Array) -> Any:
    """Return weights in y's dtype, 1 for None; ValueError unless they fit each row of y."""
    if weight is None:
        return y.dtype.type(1)
    row = y.shape[1:]
    if weight.ndim > len(row) or any(
        one not in (1, size) for one, size in zip(weight.shape[::-1], row[::-1], strict=False)
    ):
        raise ValueError(f"{name}: expected a shape that fits each row of the output {row}, got {weight.shape}")
    return weight.astype(y.dtype)


def shown(loss: Loss, **defaults: object) -> str:
    """Return words for a loss: how it is made, without the arguments that have their default values."""
    given = [] if loss.reduction == "mean" else [repr(loss.reduction)]
    for name, default in defaults.items():
        value = getattr(loss, name)
        value = value.tolist() if isinstance(value, np.ndarray) else value
        if value != default:
            given.append(f"{name}={value!r}")
    return f"{type(loss).__name__}({', '.join(given)})"


def _row(y: Array) -> int:
    return int(np.prod(y.shape[1:], dtype=np.intp))
