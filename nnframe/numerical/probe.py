"""What is learnt of a function before it is differentiated: that it repeats itself, what it reads, its noise.

The noise is estimated as by Moré and Wild, Estimating computational noise (SIAM J. Sci. Comput. 33, 2011): of values at
equally spaced points, differences of a high order leave nothing of a smooth function, only its rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnframe.numerical.answers import Doubles, as_values
from nnframe.numerical.evaluators import (
    CompiledEvaluator,
    Evaluator,
    Floats,
    InPlaceEvaluator,
    StackEvaluator,
)

POINTS = 4  # beside x itself, of a difference table
TINY, SMALL = 1e-10, 1e-4  # spacing of a difference table in units of x; the second where f does not see the first


class Known(NamedTuple):
    """What is known of f near x.

    evaluator : the way in which it can be evaluated
    base : f at x, the shape of f's values
    noise : how far f's values are off at random (a standard deviation), of the same shape
    eps : relative precision of f's values
    look : learns what is only assumed so far, and returns it; None where nothing is
    given : the leaves as they came
    """

    evaluator: Evaluator
    base: Doubles
    noise: Doubles
    eps: float
    look: Callable[[], Known] | None = None
    given: Sequence[Any] = ()

    def with_values(self, values: Doubles) -> Known:
        """Return the same with the precision that these values show."""
        eps = _eps(self.evaluator, self.base, values)
        return self._replace(eps=eps, noise=np.maximum(self.noise, 0.3 * eps * np.abs(self.base)))

    def follows(self, values: Doubles) -> bool:
        """Whether f, of which these are values at copies of x that were moved, follows its argument and that alone.

        Puts back what it may have changed where x lives.
        """
        untouched = not _put_back(self.given, self.evaluator.start)
        return untouched and _differs(values, self.base, np.zeros_like(self.base))


def look(
    evaluator: Evaluator,
    given: Sequence[Any],
    rooms: Sequence[tuple[Floats, Floats]],
    noise: Any,
    measure: bool,
    later: bool = False,
) -> Known:
    """Evaluate f at x twice and, unless it is compiled, at a point near it; at POINTS of them to measure its noise.

    Where it does not change at these, as many points again that are farther away; and if it still does not, one more,
    moved where the array lives. given: the leaves as they came, which a function may read where they live.
    later: evaluate f at x once, and the rest when `Known.look` is called.
    """
    base = _at(evaluator, [evaluator.start], given, " at x itself")[0]
    if evaluator.read is as_values:
        evaluator.read = functools.partial(as_values, like=base.shape)
    rest = functools.partial(
        _look_closer, evaluator, base, given, rooms, noise, POINTS if measure or noise is True else 1
    )
    if not later:
        return rest()
    eps = _eps(evaluator, base)
    return Known(evaluator, base, 0.3 * eps * np.abs(base), eps, rest, given)


def _look_closer(
    evaluator: Evaluator,
    base: Doubles,
    given: Sequence[Any],
    rooms: Sequence[tuple[Floats, Floats]],
    noise: Any,
    count: int,
) -> Known:
    again = _at(evaluator, [evaluator.start], given, " at x itself")[0]
    repeated = _check_repeats(evaluator, base, again, noise)
    if not sum(each.size for each in evaluator.start) or (count == 1 and isinstance(evaluator, CompiledEvaluator)):
        eps = _eps(evaluator, base)  # what is compiled is given its argument, and nothing else
        return Known(evaluator, base, np.maximum(0.3 * eps * np.abs(base), noise or 0.0), eps)
    for spacing in (TINY, SMALL):
        points = _points(evaluator.start, rooms, spacing, count)
        near = _near(evaluator, points, given)
        if _differs(near, base, repeated):
            break
    else:
        evaluator = _reading(evaluator, given, points[-1], base, repeated)
    eps = _eps(evaluator, base, near)
    floor = 0.3 * eps * np.abs(base)
    if noise is not None and noise is not True:
        return Known(evaluator, base, np.maximum(floor, noise), eps)
    if noise is True:
        floor = np.maximum(floor, np.abs(base - again) / math.sqrt(2))
    return Known(evaluator, base, np.maximum(floor, _noise(base, near)) if count > 1 else floor, eps)


def _at(evaluator: Evaluator, points: Sequence[Sequence[Floats]], given: Sequence[Any], where: str) -> Doubles:
    """Return f at points, and put back what it may change where x lives."""
    if type(evaluator) is not Evaluator:
        return evaluator.at(points, where)
    found = []
    for point in points:
        found.append(evaluator.at([point], where)[0])
        _put_back(given, evaluator.start)
    return np.array(found, np.float64)


def _put_back(given: Sequence[Any], start: Sequence[Floats]) -> bool:
    """Put back what f has changed where x lives; return whether it has."""
    changed = False
    for leaf, before in zip(given, start, strict=True):
        if isinstance(leaf, np.ndarray) and leaf.flags.writeable and not np.array_equal(leaf, before):
            leaf[...] = before
            changed = True
    return changed


def _check_repeats(evaluator: Evaluator, base: Doubles, again: Doubles, noise: Any) -> Doubles:
    """Return how far f may be from itself at one x; ValueError if it is farther, unless a noise is given."""
    change = np.abs(base - again)
    if noise is not None:
        return change if noise is True else np.maximum(change, 4 * noise)
    if not change.any():
        return change
    eps = max(float(np.finfo(each.dtype).eps) for each in evaluator.start) if evaluator.start else 0.0
    allowed = 16 * max(eps, _eps(evaluator, base)) * np.maximum(np.abs(base), np.abs(again))
    if (change > allowed).any():
        a, b = base.reshape(-1), again.reshape(-1)
        i = int(np.argmax(np.abs(a - b)))
        raise ValueError(
            f"f: expected the same value for the same x, got {a[i]:.17g} and then {b[i]:.17g} at x itself; make "
            "randomness inside f the same at each call, or give the size of f's noise: noise=1e-3, or noise='auto' to "
            "have it measured"
        )
    return change


def _eps(evaluator: Evaluator, *values: Doubles) -> float:
    """Relative precision of what f gives: that of its dtype, and of float32 where all its values are such."""
    if isinstance(evaluator, CompiledEvaluator):
        return float(np.finfo(np.float64).eps)
    kinds = [float(np.finfo(kind).eps) for kind in evaluator.kinds]
    eps = max([float(np.finfo(np.float64).eps), *kinds])
    with np.errstate(over="ignore"):
        coarse = [value[np.isfinite(value) & (value != 0)].astype(np.float32) for value in values]
    fine = [value[np.isfinite(value) & (value != 0)] for value in values]
    if all((a == b).all() for a, b in zip(coarse, fine, strict=True)) and not _short(np.concatenate(fine or [[]])):
        return max(eps, float(np.finfo(np.float32).eps))
    return eps


def _short(values: Doubles) -> bool:
    """Whether numbers have so few digits that float32 holds them by chance: integers, halves, ..."""
    mantissas = np.frexp(values)[0] * 2.0**16
    return bool((mantissas == np.rint(mantissas)).any() or not len(values))


def grain_of(values: Doubles) -> Doubles:
    """Return the largest power of 2 of which each number is a multiple; inf for 0 and what is not finite."""
    mantissas, exponents = np.frexp(np.where(np.isfinite(values), values, 0.0))
    whole = (mantissas * 2.0**53).astype(np.int64)
    return np.where(whole == 0, np.inf, np.ldexp((whole & -whole).astype(np.float64), exponents - 53))


def _points(
    start: Sequence[Floats], rooms: Sequence[tuple[Floats, Floats]], spacing: float, count: int
) -> list[list[Floats]]:
    """Equally spaced points on a line from x on which all entries are moved, within the bounds."""
    moves = []
    for array, (below, above) in zip(start, rooms, strict=True):
        flat = array.reshape(-1)
        size = np.abs(flat).astype(np.float64)
        least = max(spacing, 8 * float(np.finfo(flat.dtype).eps))
        length = least * _sizes(size, spacing) * (0.5 + 0.5 * _scattered(len(flat), math.sqrt(2)))
        sign = scattered_signs(len(flat))
        if np.isfinite(below).any() or np.isfinite(above).any():
            length = np.minimum(length, np.maximum(below, above).astype(np.float64) / (2 * count))
            sign = np.where(below >= above, -1, 1) * np.where(np.minimum(below, above) > count * length, sign, 1)
        unit = np.spacing(
            np.maximum(size, length).astype(flat.dtype.newbyteorder("="))
        )  # that of x: the points are equally far from one another
        moves.append((sign * np.rint(length / unit) * unit).reshape(array.shape))
    return [
        [np.asarray(array + k * move, array.dtype) for array, move in zip(start, moves, strict=True)]
        for k in range(1, count + 1)
    ]


def _sizes(size: Doubles, spacing: float) -> Doubles:
    """Return what a spacing is a part of."""
    return np.maximum(size, 1.0) if spacing == SMALL else np.where(size == 0, 1.0, size)


@functools.lru_cache(maxsize=8)
def _scattered(count: int, factor: float) -> Doubles:
    """Return numbers in [0, 1) that are spread evenly and without a pattern (Weyl)."""
    found = np.asarray(factor * np.arange(1, count + 1) ** 2.0 % 1.0, np.float64)
    found.flags.writeable = False
    return found


@functools.lru_cache(maxsize=8)
def scattered_signs(count: int) -> Doubles:
    """Return signs without a pattern."""
    found = np.where(_scattered(count, (math.sqrt(5) - 1) / 2) < 0.5, -1.0, 1.0)
    found.flags.writeable = False
    return found


def _near(evaluator: Evaluator, points: list[list[Floats]], given: Sequence[Any]) -> Doubles:
    evaluator.lenient = True
    try:
        return _at(evaluator, points, given, " near x")
    finally:
        evaluator.lenient = False


def _differs(values: Doubles, base: Doubles, repeated: Doubles) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((~(np.abs(values - base) <= 4 * repeated)).any())


def _reading(
    evaluator: Evaluator, given: Sequence[Any], point: list[Floats], base: Doubles, repeated: Doubles
) -> Evaluator:
    """Return the way to evaluate an f that does not change with its argument: it may read the array where it lives."""
    if isinstance(evaluator, StackEvaluator | CompiledEvaluator) or not any(each.size for each in evaluator.start):
        return evaluator
    numbers = [isinstance(leaf, float | np.floating) for leaf in given]
    writeable = [isinstance(leaf, np.ndarray) and leaf.flags.writeable for leaf in given]
    if not all(number or can for number, can in zip(numbers, writeable, strict=True)):
        raise ValueError(
            f"f: gave {base.reshape(-1)[:1]} at x as well as at copies of x in which all entries were moved. Does it "
            "read x where it lives? Then x has to be a writeable array, not a list, a pandas object or a read-only "
            "array"
        )
    if not all(writeable):
        return evaluator  # numbers cannot be moved where they live
    in_place = InPlaceEvaluator(evaluator.f, list(given), evaluator.argument, evaluator.read)
    in_place.kinds, in_place.report = evaluator.kinds, evaluator.report
    moves = _differs(_near(in_place, [point], given), base, repeated)
    if type(evaluator) is not Evaluator:
        if moves:
            raise ValueError(
                "f: expected one that follows its argument, as workers are given copies; this one gives the same at a "
                "copy of x in which all entries were moved, and another value when x itself is: it reads the array "
                "where it lives. Use workers=1"
            )
        return evaluator
    if moves:
        _refuse_tied(given)
    return in_place  # what does not change at all is moved both ways


def _refuse_tied(given: Sequence[Any]) -> None:
    for i, leaf in enumerate(given):
        for j in range(i):
            if np.may_share_memory(leaf, given[j]) and np.shares_memory(leaf, given[j]):
                raise ValueError(
                    f"x: expected arrays apart from one another for a function that reads them where they live, but "
                    f"leaves {j} and {i} share memory: their derivatives cannot be told apart"
                )


def _noise(base: Doubles, near: Doubles) -> Doubles:
    """Return the standard deviation of f's rounding from its values at equally spaced points."""
    table = np.concatenate([base[None], near])
    with np.errstate(invalid="ignore", over="ignore"):
        third = (np.diff(table, 3, axis=0) ** 2).mean(axis=0) / 20  # the sum of the squares of 1, 3, 3, 1
        fourth = (np.diff(table, 4, axis=0) ** 2).mean(axis=0) / 70
        found = np.sqrt((2 * third + fourth) / 3)
    return np.where(np.isfinite(found), found, 0.0)
