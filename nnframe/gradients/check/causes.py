"""Why a written gradient is wrong: what people get wrong, tried one by one against the right numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.gradients.check.differences import Differences, moved
from nnframe.gradients.check.noise import Doubles
from nnframe.gradients.check.report import WRONG
from nnframe.gradients.check.subjects import LayerSubject, LossSubject, Subjects

CLOSE = 1e-6  # of what an entry is added up from: how near two numbers must be to be taken for the same
MOST_JACOBIAN = 1 << 18  # entries of a Jacobian that is computed to find a cause


class Case:
    """One wrong array, and what can be known about it.

    g, true : the written gradient and the right one, of one shape
    wrong : which entries are wrong
    """

    def __init__(
        self, subject: Subjects, differences: Differences, name: str, written: Doubles, judged: Any, dy: Doubles
    ) -> None:
        self.subject, self.differences, self.name, self.dy = subject, differences, name, dy
        known = np.isfinite(judged.numerical)
        self.g, self.true = np.where(known, written, 0), np.where(known, judged.numerical, 0)
        largest = float(np.abs(self.true).max(initial=0))
        self.near = np.maximum(10 * np.where(known, judged.bound, 0), np.maximum(CLOSE * judged.size, 1e-13 * largest))
        self.wrong = judged.verdicts == WRONG
        self.array = subject.arrays[name]
        self.is_input = name in ("x", "y") or name.startswith("x[")

    def same(self, a: Doubles, b: Doubles | None = None) -> bool:
        """Whether two arrays are the same number for number, as near as the right one is known."""
        other = self.true if b is None else b
        if a.shape != other.shape or not np.isfinite(a).all():
            return False
        scale = np.maximum(1.0, np.abs(a) / np.maximum(np.abs(self.true), 1e-300)) if b is None else 1.0
        return bool((np.abs(a - other) <= self.near * np.minimum(scale, 1e3)).all())

    def mostly_zero(self, a: Doubles) -> bool:
        """Whether all entries of an array are nothing beside the right ones."""
        return bool((np.abs(a) <= self.near).all())


def explain(case: Case) -> str:
    """Return a sentence on what is wrong with an array; "" where nothing that is known fits."""
    if not np.isfinite(case.g).all():
        return "it is not finite."
    if case.mostly_zero(case.true) and not case.mostly_zero(case.g):
        return "it should be 0: nothing that it stands for moves the output."
    for hypothesis in HYPOTHESES:
        try:
            found = hypothesis(case)
        except Exception:  # a layer may refuse what a hypothesis asks of it: then that is not the cause
            continue
        if found:
            return found
    return ""


# ---- the same numbers, multiplied ----


def _zero(case: Case) -> str:
    if case.g.any():
        return ""
    return "it is zero: the gradient is not computed, or not added to `.grad`."


def _multiple(case: Case) -> str:
    ratio = _ratio(case.g, case.true)
    if ratio is None or abs(ratio - 1) < 1e-7 or not case.same(case.g / ratio):
        return ""
    if abs(ratio + 1) < 1e-6:
        return "every entry has the wrong sign."
    sign = "" if ratio > 0 else " and of the wrong sign"
    size = abs(ratio)
    direction, factor = ("large", size) if size > 1 else ("small", 1 / size)
    for count, letter, what in _counts(case):
        if count > 1 and abs(factor - count) <= 1e-5 * count:
            if direction == "large":
                why = f"1/{letter} missing, an average over the {count} {what}"
            else:
                why = f"it is divided by the {count} {what} once too often"
            return f"every entry is {factor:.1f} = {letter} times too {direction}{sign}: {why}."
    return f"every entry is {factor:.6g} times too {direction}{sign}: a factor is missing, or one too many."


def _ratio(a: Doubles, b: Doubles) -> float | None:
    length = float((b * b).sum())
    if not length or not np.isfinite(length):
        return None
    ratio = float((a * b).sum()) / length
    return ratio if ratio and np.isfinite(ratio) else None


def _counts(case: Case) -> Iterator[tuple[int, str, str]]:
    """Numbers that a mean may have been taken over, with their names."""
    first = next(iter(case.subject.arrays.values()))
    yield (len(first) if first.ndim else 1), "N", "rows"
    if first.ndim > 2:
        yield first.shape[1], "T", "time steps (axis 1)"
    for axis in range(1, first.ndim):
        yield first.shape[axis], f"x.shape[{axis}]", f"entries along axis {axis} of x"
    for axis in range(1, case.dy.ndim):
        yield case.dy.shape[axis], f"y.shape[{axis}]", f"entries along axis {axis} of y"
    yield first.size, "x.size", "entries of x"
    yield case.dy.size, "y.size", "entries of y"


# ---- the same numbers, elsewhere ----


def _transposed(case: Case) -> str:
    if case.g.ndim == 2 and case.g.shape[0] == case.g.shape[1] > 1 and case.same(case.g.T):
        return "it is transposed."
    if case.g.ndim == 2 and case.same(case.g.reshape(case.g.shape[::-1]).T.reshape(case.g.shape)):
        return "it is transposed, and then given another shape."
    return ""


def _order(case: Case) -> str:
    for axis in range(case.g.ndim):
        if case.g.shape[axis] < 2:
            continue
        if case.same(np.flip(case.g, axis)):
            return f"its entries are in another order: reversed along axis {axis}."
        for shift in (1, -1):
            if case.same(np.roll(case.g, shift, axis)):
                return f"its entries are in another order: shifted by one along axis {axis}."
            rolled = np.roll(case.true, shift, axis)
            edge = 0 if shift == 1 else -1
            inner = np.delete(np.arange(case.g.shape[axis]), edge)
            if len(inner) > 2 and (np.take(np.abs(case.g - rolled) <= case.near, inner, axis)).all():
                return f"its entries are in another order: shifted by one along axis {axis}."
    if case.g.ndim > 1:
        for axes in _swaps(case.g.ndim):
            swapped = case.g.transpose(axes)
            if swapped.shape == case.g.shape and case.same(swapped):
                return f"its entries are in another order: axes {axes} are swapped."
    if case.same(np.sort(case.g.reshape(-1)), np.sort(case.true.reshape(-1))) and case.g.size > 2:
        return "its entries are right, but in another order."
    return ""


def _swaps(ndim: int) -> Iterator[tuple[int, ...]]:
    for i in range(ndim):
        for j in range(i + 1, ndim):
            axes = list(range(ndim))
            axes[i], axes[j] = axes[j], axes[i]
            yield tuple(axes)


# ---- summed wrongly ----


def _summed(case: Case) -> str:
    for axis in range(case.g.ndim):
        if case.g.shape[axis] < 2 or np.ptp(case.g, axis=axis).any():
            continue
        for kind, total in (("summed", case.true.sum), ("averaged", case.true.mean)):
            if case.same(case.g, np.broadcast_to(total(axis=axis, keepdims=True), case.g.shape)):
                return f"it is {kind} over axis {axis}, and broadcast back: every entry along it is the same."
    return ""


def _rows_forgotten(case: Case) -> str:
    if case.dy.ndim == 0 or len(case.dy) < 2:
        return ""
    if case.dy.ndim > 1 and case.array.shape[-1:] != case.dy.shape[-1:]:
        for column in (0, -1):
            one = np.zeros_like(case.dy)
            one[..., column] = case.dy[..., column]
            if case.same(case.g, _right_for(case, one)):
                return "it is that of one column of dy alone: not summed over the columns."
    if case.is_input and case.array.shape[:1] == case.dy.shape[:1]:
        return ""
    for row, words in ((-1, "the last"), (0, "the first")):
        if case.same(case.g, _right_for(case, _only_row(case.dy, row))):
            return f"it is that of {words} row alone: not summed over rows."
        if case.same(case.g, case.true - _right_for(case, _only_row(case.dy, row))):
            return f"{words} row is left out: not summed over rows completely."
    return ""


def _other_row(case: Case) -> str:
    if case.dy.ndim == 0 or len(case.dy) < 2 or not case.is_input:
        return ""
    for row, words in ((0, "first"), (-1, "last")):
        same = np.broadcast_to(case.dy[row], case.dy.shape)
        if case.same(case.g, _right_for(case, np.array(same))):
            return f"every row gets dy of the {words} row."
    for dy in (np.roll(case.dy, 1, axis=0), np.roll(case.dy, -1, axis=0), case.dy[::-1]):
        if case.same(case.g, _right_for(case, np.ascontiguousarray(dy))):
            return "it is right for dy of another row: the rows of dy are in another order."
    return ""


def _only_row(dy: Doubles, row: int) -> Doubles:
    one = np.zeros_like(dy)
    one[row] = dy[row]
    return one


def _right_for(case: Case, dy: Doubles) -> Doubles:
    """Return the right gradient for another dy."""
    other = Differences(case.subject, dy, None, np.random.default_rng(1))
    judged = other.judge(case.name, np.zeros(case.g.shape))
    return np.nan_to_num(judged.numerical)


# ---- what backward was given ----


def _arguments(case: Case) -> str:
    """See what comes out where x and y are exchanged, or dy is multiplied."""
    subject = case.subject
    if not isinstance(subject, LayerSubject) or subject.several:
        return ""
    x, y = subject.parts[0], subject.y
    if x.shape != y.shape or x.dtype != y.dtype:
        return ""
    if case.same(_backward_alone(case, y, y)):
        return "the input is taken in place of its output: with y in place of x it is right."
    if case.same(_backward_alone(case, x, x)):
        return "the output is taken in place of its input: with x in place of y it is right."
    return ""


def _backward_alone(case: Case, x: Any, y: Doubles) -> Doubles:
    """Return what a layer's backward makes of any x and y."""
    subject = case.subject
    assert isinstance(subject, LayerSubject)
    if subject.link.traits.forward_saving:
        return np.full(case.g.shape, np.nan)
    for parameter in subject.parameters.values():
        parameter.grad.fill(0)
    with np.errstate(all="ignore"), subject.outside_frames():
        dx = subject.layer.backward(x.copy(), y.copy(), case.dy.copy())
    found = dx if case.is_input else subject.parameters[case.name].grad.copy()
    return np.asarray(found, np.float64)


def _used_transposed(case: Case) -> str:
    """See whether it would be right with a square parameter transposed."""
    subject = case.subject
    if not isinstance(subject, LayerSubject):
        return ""
    for name, parameter in subject.parameters.items():
        value = parameter.value
        if value.ndim != 2 or value.shape[0] != value.shape[1] or name == case.name:
            continue
        saved = value.copy()
        try:
            # y is that of the layer as it is, and handed to backward as such
            value[...] = saved.T
            found = _backward_alone(case, subject.parts[0], subject.y)
        finally:
            value[...] = saved
        if case.same(found):
            return f"{name} is to be transposed: with its transpose it is right."
    return ""


def _dy(case: Case) -> str:
    if isinstance(case.subject, LossSubject):
        return ""

    def with_dy(dy: Doubles) -> Doubles:
        found = case.subject.backward(dy)[case.name]
        return np.asarray(found, np.float64)

    twice = with_dy(2 * case.dy)
    if (np.abs(twice - case.g) <= case.near).all():
        return "dy is not used: it stays the same when dy is doubled."
    if (np.abs(twice - 4 * case.g) <= 4 * case.near).all():
        return "dy is used twice: it grows fourfold when dy is doubled."
    if case.g.shape == case.dy.shape and (np.abs(case.g - case.dy) <= case.near).all():
        return "it is dy itself: the factor of the function's derivative is missing."
    return ""


# ---- one factor ----


def _factor(case: Case) -> str:
    """Compare entry by entry with factors made of x and y, where these have its shape."""
    tried = list(_factors(case))
    for words, factor in tried:
        with np.errstate(all="ignore"):
            if case.same(case.g * factor):
                return f"the factor {words} is missing."
            if case.same(case.g, case.true * factor):
                return f"there is a factor {words} too many."
    for words, factor in tried:
        for other_words, other in tried:
            with np.errstate(all="ignore"):
                if words != other_words and case.same(case.g * factor, case.true * other):
                    return f"there is a factor {other_words} in place of {words}."
    return ""


def _factors(case: Case) -> Iterator[tuple[str, Doubles]]:
    y = case.subject.y
    shape = case.g.shape
    if case.is_input and y.shape == shape:
        yield "y", y
        yield "(1 - y)", 1 - y
        yield "(1 + y)", 1 + y
        yield "(1 - y^2)", 1 - y * y
        yield "y^2", y * y
        yield "dy", case.dy
    if case.is_input and case.array.shape == shape:
        x = case.array
        yield "x", x
        yield "x^2", x * x
    for name, other in case.subject.arrays.items():
        if name != case.name and other.size > 1:
            broadcast = _broadcast(other, shape)
            if broadcast is not None:
                yield name, broadcast


def _broadcast(a: Doubles, shape: tuple[int, ...]) -> Doubles | None:
    try:
        return np.broadcast_to(a, shape)
    except ValueError:
        return None


def _factor_of_axis(case: Case) -> str:
    """Look for a factor that is the same along all axes but one: a scale of each column, a count of each row."""
    if case.g.ndim < 2 or case.g.size < 6:
        return ""
    for axis in range(case.g.ndim):
        others = tuple(i for i in range(case.g.ndim) if i != axis)
        if case.g.shape[axis] < 2 or min(case.g.shape[i] for i in others) < 2:
            continue
        squares = (case.true * case.true).sum(axis=others, keepdims=True)
        with np.errstate(all="ignore"):
            factor = np.where(squares > 0, (case.g * case.true).sum(axis=others, keepdims=True) / squares, 1)
        if case.same(case.g, case.true * factor):
            wrong = np.flatnonzero(np.abs(factor.reshape(-1) - 1) > 1e-6)
            where = _words_for_indices(wrong, case.g.shape[axis], axis)
            return (
                f"a factor is wrong {where}, the same for all others: {factor.reshape(-1)[wrong[0]]:.6g} at {wrong[0]}."
            )
    return ""


# ---- the Jacobian ----


def _jacobian(case: Case) -> str:
    if not case.is_input or case.g.shape != case.dy.shape or case.g.size * case.dy.size > MOST_JACOBIAN:
        return ""
    jacobian = _jacobian_of(case)  # [entry, output]
    dy = case.dy.reshape(-1)
    diagonal = (np.diagonal(jacobian) * dy).reshape(case.g.shape)
    if case.same(case.g, diagonal):
        return "only the diagonal of the Jacobian is used: an entry moves other outputs as well."
    if case.same(case.g, (jacobian.T @ dy).reshape(case.g.shape)):
        return "the Jacobian is not transposed: it is J dy, where the gradient is J^T dy."
    return ""


def _jacobian_of(case: Case) -> Doubles:
    entries = np.arange(case.g.size)[:, None]
    start = case.array.reshape(-1)[entries]
    h = 1e-5 * np.maximum(1, np.abs(start))
    up = moved(case.subject, case.name, entries, start + h)
    down = moved(case.subject, case.name, entries, start - h)
    return np.asarray((up - down) / (2 * h))


# ---- a term ----


def _added(case: Case) -> str:
    off = case.g - case.true
    constant = off.size > 2 and bool((np.abs(off - off.mean()) <= case.near).all())
    if constant and not case.mostly_zero(off):
        return f"a constant is added to it, {off.reshape(-1)[0]:.6g}."
    if case.is_input and off.shape == case.dy.shape:
        for sign, words in (
            (-1, "dy is missing in it, as that of a shortcut (skip connection)"),
            (1, "dy is added to it"),
        ):
            if case.same(off, sign * case.dy):
                return f"{words}."
    ratio = _ratio(off, case.array)
    if ratio is not None and not case.is_input and case.same(off, ratio * case.array):
        return f"{ratio:.6g} times the value itself is added to it, a constant factor: weight decay, or a penalty."
    return ""


def _mean_or_variance(case: Case) -> str:
    """See whether what is missing is the same for all entries along an axis, or proportional to the output there."""
    y = case.subject.y
    if not case.is_input or case.g.shape != y.shape or case.g.ndim < 1:
        return ""
    off = case.g - case.true
    for axis, over in ((0, "the rows"), (-1, "the entries of a row")):
        if case.g.shape[axis] < 4 or (case.g.ndim == 1 and axis == -1):
            continue
        size = np.abs(off).max()
        constant = off.mean(axis=axis, keepdims=True)
        if np.abs(off - constant).max() <= 1e-5 * size:
            return f"the part through the mean over {over} is missing: it is off by the same number for all of them."
        centred = y - y.mean(axis=axis, keepdims=True)
        squares = (centred * centred).sum(axis=axis, keepdims=True)
        slope = ((off - constant) * centred).sum(axis=axis, keepdims=True) / np.where(squares > 0, squares, 1)
        if np.abs(off - constant - slope * centred).max() <= 1e-5 * size:
            what = "the variance" if np.abs(constant).max() <= 1e-5 * size else "the mean and through the variance"
            return f"the part through {what} over {over} is missing: it is off in proportion to the output there."
    return ""


# ---- rounding ----


def _rounded(case: Case) -> str:
    if case.g.size and (case.g == np.round(case.g)).all() and (np.abs(case.g - case.true) <= 1).all():
        return "it is cut off to integers: a constant loss of digits, an array of another dtype in between."
    size = np.abs(case.true) + case.near
    if 2 * int(case.wrong.sum()) < case.g.size:
        return ""
    if (np.abs(case.g - case.true) <= 1e-5 * size).all():
        return "it is right to some digits only: rounded to float32 in between, or a small constant is wrong."
    return ""


def _clipped(case: Case) -> str:
    top = float(np.abs(case.g).max(initial=0))
    if top and case.same(case.g, np.clip(case.true, -top, top)):
        return f"it is clipped to {top:.6g}, which belongs to the optimizer: only where it is larger it is wrong."
    return ""


# ---- where ----


def _where(case: Case) -> str:
    wrong = case.wrong
    count = int(wrong.sum())
    right_is_zero, is_zero = np.abs(case.true) <= case.near, np.abs(case.g) <= case.near
    if wrong.size > 3 and right_is_zero.any() and (right_is_zero != is_zero).all():
        return "it is 0 where it should not be, and not 0 where it should: the wrong side of a threshold."
    if not count or count == wrong.size:
        return ""
    there = _there(case)
    if count == 1 and case.g.size > 1:
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        return f"only in one entry, {list(index)}, it is wrong{there}."
    several = wrong.ndim > 1 and wrong.shape[-1] > 2 and len(np.unique(np.argwhere(wrong)[:, -1])) > 1
    if several and (wrong.sum(axis=-1) == 1).all():
        return f"it is wrong only in one entry of each row, as at a label{there}."
    for axis in range(wrong.ndim):
        others = tuple(i for i in range(wrong.ndim) if i != axis)
        indices = np.flatnonzero(wrong.any(axis=others))
        if len(indices) <= max(1, wrong.shape[axis] // 2) and wrong.shape[axis] > 1:
            return f"it is wrong {_words_for_indices(indices, wrong.shape[axis], axis)}{there}."
    for words, condition in _conditions(case):
        nonzero = np.abs(case.true) + np.abs(case.g) > case.near
        within = condition.any() and not condition.all() and bool((wrong <= condition).all())
        if within and count >= 0.5 * (condition & nonzero).sum():
            return f"it is wrong only where {words}{there}."
    return ""


def _conditions(case: Case) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    if case.is_input:
        yield from _conditions_of_input(case)
    yield "it should be 0", np.abs(case.true) <= case.near
    yield "it is 0, and should not be", np.abs(case.g) <= case.near


def _conditions_of_input(case: Case) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    x, y = case.array, case.subject.y
    yield "x < 0", x < 0
    yield "x > 0", x > 0
    yield "x is 0", x == 0
    yield "|x| > 1", np.abs(x) > 1
    yield "|x| < 1", np.abs(x) < 1
    if y.shape == x.shape:
        yield "y < 0", y < 0
        yield "y > 0", y > 0
        yield "y is 0", y == 0
        yield "dy < 0", case.dy < 0
        yield "dy > 0", case.dy > 0


def _there(case: Case) -> str:
    g, true = case.g[case.wrong], case.true[case.wrong]
    if not g.any():
        return ", where it is zero"
    ratio = _ratio(g, true)
    if ratio is not None and np.abs(g - ratio * true).max() <= 1e-6 * np.abs(g).max():
        return ", where it has the wrong sign" if abs(ratio + 1) < 1e-6 else f", by the factor {ratio:.6g}"
    return ""


def _words_for_indices(indices: npt.NDArray[np.intp], length: int, axis: int) -> str:
    names = {0: "row", 1: "column"}
    what = names.get(axis, f"index of axis {axis}")
    if len(indices) == 1:
        i = int(indices[0])
        place = "the last" if i == length - 1 else "the first" if i == 0 else f"the {i}th"
        return f"only in {place} {what} ({i})"
    shown = ", ".join(str(int(i)) for i in indices[:5]) + (" ..." if len(indices) > 5 else "")
    return f"only in {what}s {shown}"


HYPOTHESES: tuple[Callable[[Case], str], ...] = (
    _zero,
    _rounded,
    _multiple,
    _clipped,
    _dy,
    _other_row,
    _transposed,
    _arguments,
    _used_transposed,
    _added,
    _summed,
    _jacobian,
    _mean_or_variance,
    _rows_forgotten,
    _factor,
    _order,
    _where,
    _factor_of_axis,
)
