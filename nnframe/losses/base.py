"""The loss protocol: what each row gives, then one reduction; and the passes through a loss, written or found."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe._checks import unwrapped
from nnframe.core.local import STEP, chunks
from nnframe.core.parameter import Array
from nnframe.core.protocol import LayerError
from nnframe.core.run import read_only

Doubles = npt.NDArray[np.float64]

BENT = 1e-8  # of the largest entry: how much a difference may lack before a smaller step is tried
SMALLER = 1 / 16
MOST_TRIES = 8


class Traits(NamedTuple):
    """Which methods of a loss count: those that no more derived class contradicts by another `forward` or `rows`."""

    forward: bool
    rows: bool
    backward: bool
    forward_backward: bool
    difference: bool
    row_differences: bool
    divisor: bool
    stage: bool
    in_network: bool
    own: bool


class Loss:
    """A function of a network's output and the labels. A custom loss needs `rows` or `forward` only.

    `y` is the network's output, axis 0 counting the N rows of a mini-batch; `t` holds the labels. Most losses are a sum
    over rows: they write `rows`, which returns what each row gives, and inherit the reduction. A loss that is anything
    else writes `forward`.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Whether the loss is the sum of its rows, or that over `divisor`. A loss that writes `forward` may ignore it.

    Attributes
    ----------
    reductions : tuple of str
        What `reduction` may be. A class may add "none": calling the loss then returns what `unreduced` does, and a
        strategy refuses it.
    """

    reduction: str = "mean"
    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum")
    _traits: ClassVar[Traits]

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in self.reductions:
            words = f"{', '.join(map(repr, self.reductions[:-1]))} or {self.reductions[-1]!r}"
            raise ValueError(f"reduction: expected {words}, got {reduction!r}")
        self.reduction = reduction

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._traits = _traits_of_class(cls)

    # ---- what a loss may write ----

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        """Check the labels against an output, and bring them into the shape and dtype that the passes take."""
        return np.asarray(unwrapped(t))

    def rows(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        """Return what each row gives, (N,): the loss is their sum, for "mean" over `divisor`."""
        raise NotImplementedError(f"{type(self).__name__} has no rows")

    def unreduced(self, y: Array, t: npt.NDArray[Any]) -> Array:
        """Return what calling the loss gives for the reduction "none": `rows`."""
        return self.rows(y, t).astype(y.dtype, copy=False)

    def divisor(self, y: Array, t: npt.NDArray[Any]) -> float:
        """Return what the mean divides by: N."""
        return float(len(y))

    def row_divisors(self, y: Array, t: npt.NDArray[Any]) -> Doubles:
        """Return which part of `divisor` each row gives, (N,)."""
        if not self._traits.divisor:
            return np.ones(len(y))
        if self._traits.own:
            return np.array([self.total_divisor(y[n : n + 1], t[n : n + 1]) for n in range(len(y))], np.float64)
        return np.full(len(y), self.total_divisor(y, t) / max(1, len(y)))

    def forward(self, y: Array, t: npt.NDArray[Any]) -> float:
        """Return the loss, a float."""
        self._refuse_unreduced()
        total, divisor = self.total(y, t)
        if self.reduction == "sum":
            return total
        return total / divisor if divisor else float("nan")

    def backward(self, y: Array, t: npt.NDArray[Any]) -> Array:
        """Return the gradient of the loss with respect to y, of y's shape."""
        return gradient_by_differences(self, y, t, None)

    def forward_backward(self, y: Array, t: npt.NDArray[Any]) -> tuple[float, Array]:
        """Return both of the above; a loss that gets them in one pass overrides this."""
        return self.forward(y, t), self.backward(y, t)

    def row_differences(self, y: Array, t: npt.NDArray[Any], dy: Array) -> Doubles:
        """Return by how much each row of each dy of a stack changes `rows`, (S, N).

        This default subtracts, in float64. A loss that knows a form without cancellation overrides it.
        """
        wide = y.astype(np.float64, copy=False)
        moved = (wide + dy).reshape(-1, *y.shape[1:])
        labels = np.concatenate([t] * len(dy)) if len(dy) else t[:0]
        return _rows_of(self, moved, labels).reshape(len(dy), len(y)) - _rows_of(self, wide, t)

    def difference(self, y: Array, t: npt.NDArray[Any], dy: Array) -> Doubles:
        """forward(y + dy[s]) - forward(y) for each s of a stack dy (S, *y.shape); returns (S,).

        This default subtracts, in float64, or sums `row_differences` where there are any.
        """
        if type(self).row_differences is not Loss.row_differences or self._traits.rows:
            total: Doubles = np.asarray(self.row_differences(y, t, dy)).sum(axis=-1) * self.row_scale(y, t)
            return total
        return _subtracted(self, y, t, dy)

    def counted(self, t: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        """Which rows count when it is measured how many are right; None: all of them."""
        return None

    def right(self, y: Array, t: npt.NDArray[Any]) -> Doubles | None:
        """Which share of each row is right, (N,); None where that is whether its largest output is its label."""
        return None

    # ---- what follows ----

    def total(self, y: Array, t: npt.NDArray[Any]) -> tuple[float, float]:
        """Return the sum over rows, and what the mean divides it by: what adds up over mini-batches."""
        return float(np.sum(_rows_of(self, y, t), dtype=np.float64)), self.total_divisor(y, t)

    def row_scale(self, y: Array, t: npt.NDArray[Any]) -> float:
        """Return the loss over the sum of its rows."""
        self._refuse_unreduced()
        if self.reduction == "sum":
            return 1.0
        divisor = self.total_divisor(y, t)
        return 1 / divisor if divisor else float("nan")

    def total_divisor(self, y: Array, t: npt.NDArray[Any]) -> float:
        """Return `divisor` where it counts, else N."""
        self._refuse_unreduced()
        return float(self.divisor(y, t)) if self._traits.divisor else float(len(y))

    @property
    def is_sum_over_rows(self) -> bool:
        """Whether the loss is given by what each row gives."""
        return self._traits.rows

    @property
    def has_backward(self) -> bool:
        """Whether a backward pass was written for this loss."""
        return self._traits.backward

    def __call__(self, y: npt.ArrayLike, t: npt.ArrayLike) -> float:
        """Return the loss of an output and labels; for the reduction "none" an array, see `unreduced`."""
        array, t = np.asarray(unwrapped(y)), unwrapped(t)
        if self.reduction == "none":
            return self.unreduced(array, self.prepare(array, t))  # type: ignore[return-value]
        return value_of(self, array, self.prepare(array, t))

    def _refuse_unreduced(self) -> None:
        if self.reduction == "none":
            raise ValueError(
                f"reduction: expected one that gives a number, got 'none': {self!r} can be called, but not trained with"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self.reduction == 'mean' else repr(self.reduction)})"


def _traits_of_class(cls: type[Loss]) -> Traits:
    def depth(name: str) -> int | None:
        if getattr(cls, name, None) is getattr(Loss, name, None):
            return None
        return next(i for i, c in enumerate(cls.__mro__) if name in vars(c))

    values = [d for d in (depth("forward"), depth("rows")) if d is not None]
    lead = min(values, default=len(cls.__mro__))

    def counts(name: str) -> bool:
        found = depth(name)
        return found is not None and found <= lead

    found = {name: counts(name) for name in Traits._fields if name != "own"}
    found["in_network"] &= counts("forward_backward") or counts("backward")
    found["own"] = not cls.__module__.startswith("nnframe.")
    # a gradient in one pass stands for the loss and for its backward
    found["forward_backward"] &= depth("backward") is None or (depth("forward_backward") or 0) <= (
        depth("backward") or 0
    )
    return Traits(**found)


Loss._traits = Traits(*[False] * len(Traits._fields))


# ---- the passes, written or found ----


def as_float(value: object, loss: Loss) -> float:
    """`value` as a float; TypeError where a loss returned something else."""
    if type(value) is float:
        return value
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise TypeError(f"{loss!r}: expected a single number, got {type(value).__name__} of shape {array.shape}")
    return float(array.reshape(()))


def as_labels(loss: Loss, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
    """Labels checked and prepared; TypeError where `loss` is no loss."""
    if not isinstance(loss, Loss):
        raise TypeError(f"loss: expected a Loss such as nn.CrossEntropyLoss(), got {loss!r}")
    loss._refuse_unreduced()
    labels = loss.prepare(y, t)
    if loss._traits.own and y.ndim == 2 and y.shape[1] == 1 and labels.shape in ((len(y),), y.shape):
        _tell_broadcast(loss, y, labels)
    return labels


def _tell_broadcast(loss: Loss, y: Array, t: npt.NDArray[Any]) -> None:
    """Warn where outputs (N, 1) and labels (N,) meet as (N, N): then it is all one which label belongs to which output.

    Seen from outputs that are the labels themselves, against these and against the least with the largest.
    """
    met = vars(loss).setdefault("_met", set())
    ordered = np.sort(t, axis=0)
    if t.ndim in met or t.dtype.kind not in "biuf" or not (ordered[:1] < ordered[-1:]).all():
        return
    same = read_only(ordered.astype(np.float64).reshape(y.shape))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right, wrong, other = (
            value_of(loss, one, labels)
            for one, labels in ((same, ordered), (same, ordered[::-1].copy()), (same + 1, ordered))
        )
    if not np.isfinite([right, wrong, other]).all():
        return
    met.add(t.ndim)
    bound = 1e-9 * max(abs(right), abs(other))
    if abs(right - wrong) <= bound < abs(right - other):
        shape, cure = ("(N,)", "t[:, None]") if t.ndim == 1 else ("(N, 1)", "t[:, 0]")
        warnings.warn(
            f"{loss!r}: it is the same in whichever order labels come: y of shape (N, 1) and t of shape {shape} are "
            f"broadcast to (N, N); pass {cure}, or give both one shape in the loss",
            RuntimeWarning,
            stacklevel=4,
        )


def value_of(loss: Loss, y: Array, t: npt.NDArray[Any]) -> float:
    """Return the loss of prepared labels, as a float."""
    given = read_only(y) if loss._traits.own else y
    if loss._traits.forward or not loss._traits.rows:
        return as_float(loss.forward(given, t), loss)
    return Loss.forward(loss, given, t)


def value_and_gradient(loss: Loss, y: Array, t: npt.NDArray[Any], step: float | None) -> tuple[float, Array]:
    """Return the loss, and its gradient with respect to y: written, or by differences."""
    if loss._traits.forward_backward and not loss._traits.own:
        return loss.forward_backward(y, t)
    if not loss._traits.backward:
        return value_of(loss, y, t), gradient_by_differences(loss, y, t, step)
    given = read_only(y)
    if loss._traits.forward_backward:
        found: Any = loss.forward_backward(given, t)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"{loss!r}: forward_backward: expected (loss, gradient), got {type(found).__name__}")
        value, gradient = as_float(found[0], loss), found[1]
    else:
        value, gradient = value_of(loss, y, t), loss.backward(given, t)
    if gradient is None:
        raise LayerError(f"{loss!r}: backward: expected the gradient of y, got None; is `return` missing?")
    gradient = np.asarray(gradient)
    if gradient.shape != y.shape or gradient.dtype.kind not in "fiub":
        raise LayerError(
            f"{loss!r}: backward: expected numbers of the shape of y {y.shape}, got {gradient.dtype} of shape "
            f"{gradient.shape}"
        )
    return value, gradient.astype(y.dtype, copy=False)


def change_of(loss: Loss, y: Array, t: npt.NDArray[Any], dy: Array) -> Doubles:
    """forward(y + dy[s]) - forward(y) for each s of a stack: written, summed over rows, or subtracted."""
    if loss._traits.difference:
        return loss.difference(y, t, dy)
    if loss._traits.rows:
        total: Doubles = row_changes(loss, y, t, dy).sum(axis=-1) * loss.row_scale(y, t)
        return total
    return _subtracted(loss, y, t, dy)


def _subtracted(loss: Loss, y: Array, t: npt.NDArray[Any], dy: Array) -> Doubles:
    wide = y.astype(np.float64, copy=False)
    base = value_of(loss, wide, t)
    return np.array([value_of(loss, wide + one, t) - base for one in dy], np.float64)


def row_changes(loss: Loss, y: Array, t: npt.NDArray[Any], dy: Array) -> Doubles:
    """By how much each row changes, (S, N), for a loss that is a sum over rows."""
    if not loss._traits.row_differences:
        return Loss.row_differences(loss, y, t, dy)
    found = loss.row_differences(y, t, dy)
    if np.shape(found) != (len(dy), len(y)):
        raise LayerError(f"{loss!r}: row_differences: expected shape {(len(dy), len(y))}, got {np.shape(found)}")
    return found


def _rows_of(loss: Loss, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
    rows = np.asarray(loss.rows(read_only(y), t))
    if rows.shape != (len(y),):
        raise LayerError(
            f"{loss!r}: rows: expected one number for each of {len(y)} rows, got shape {rows.shape}"
            + ("; do y and t have the same shape?" if rows.ndim > 1 else "")
        )
    return rows.astype(np.float64, copy=False)


def gradient_by_differences(loss: Loss, y: Array, t: npt.NDArray[Any], step: float | None) -> Array:
    """Gradient of a loss with respect to y, by central differences of every entry.

    Where the two sides are not each other's opposite (a logarithm near 0) or one is not finite, the step is made
    smaller until they are.
    """
    sizes = (STEP * np.maximum(1, np.abs(y.astype(np.float64))) if step is None else np.full(y.shape, step)).reshape(-1)
    up, down = _both_sides(loss, y, t, sizes, np.arange(y.size))
    gradient = _quotient(up, down, sizes)
    for _ in range(MOST_TRIES if step is None else 0):
        bent = _lacking(up, down, sizes, gradient)
        if not len(bent):
            break
        sizes[bent] *= SMALLER
        up[bent], down[bent] = _both_sides(loss, y, t, sizes[bent], bent)
        gradient[bent] = _quotient(up[bent], down[bent], sizes[bent])
    one_sided = np.isfinite(up) != np.isfinite(down)
    if one_sided.any():
        warnings.warn(
            f"{loss!r}: on one side of {int(one_sided.sum())} differences it is not finite; the other is taken alone",
            RuntimeWarning,
            stacklevel=3,
        )
        gradient = np.where(one_sided, np.where(np.isfinite(up), up, -down) / sizes, gradient)
    return gradient.reshape(y.shape).astype(y.dtype)


def _both_sides(
    loss: Loss, y: Array, t: npt.NDArray[Any], sizes: Doubles, entries: npt.NDArray[np.intp]
) -> list[Doubles]:
    sides = [np.zeros(len(entries)), np.zeros(len(entries))]
    wide = y.astype(np.float64)
    if loss.is_sum_over_rows:
        return _sides_of_rows(loss, wide, t, sizes, entries)
    for some in chunks(len(entries), y.size):
        moved = np.zeros((len(some), y.size))
        moved[np.arange(len(some)), entries[some]] = sizes[some]
        stack = moved.reshape(-1, *y.shape)
        with np.errstate(all="ignore"):
            for side, sign in zip(sides, (1, -1), strict=True):
                side[some] = change_of(loss, wide, t, sign * stack)
    return sides


def _sides_of_rows(
    loss: Loss, y: Doubles, t: npt.NDArray[Any], sizes: Doubles, entries: npt.NDArray[np.intp]
) -> list[Doubles]:
    """Do the same for a sum over rows: one entry of each row moves at a time, in all rows at once."""
    scale, width = loss.row_scale(y, t), max(1, y[:1].size)
    row, column = entries // width, entries % width
    if len(entries) < y.size:
        rows, row = np.unique(row, return_inverse=True)
        y, t = y[rows], t[rows]
    moved = np.zeros((width, 2, len(y), width))
    moved[column, 0, row, column], moved[column, 1, row, column] = sizes, -sizes
    found = np.empty((width, 2, len(y)))
    with np.errstate(all="ignore"):
        for some in chunks(width, 2 * y.size):
            found[some] = row_changes(loss, y, t, moved[some].reshape(-1, *y.shape)).reshape(-1, 2, len(y))
    return [found[column, side, row] * scale for side in (0, 1)]


def _quotient(up: Doubles, down: Doubles, sizes: Doubles) -> Doubles:
    with np.errstate(invalid="ignore"):
        return (up - down) / (2 * sizes)


def _lacking(up: Doubles, down: Doubles, sizes: Doubles, gradient: Doubles) -> npt.NDArray[np.intp]:
    """Entries whose two sides are so far from each other's opposite that the third derivative shows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        bend = np.abs(up + down) / (2 * sizes)
        most = np.abs(gradient[np.isfinite(gradient)]).max(initial=0)
        lacking = bend * bend / np.maximum(np.abs(gradient), 1e-300)
        return np.flatnonzero(~np.isfinite(gradient) | ((lacking > BENT * most) & (bend < 4 * np.abs(gradient))))
