"""How much a written gradient is rounded: by the last digits of its numbers, or to float32 where forward is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.gradients.check.noise import EPS, Doubles, Line, put_back
from nnframe.gradients.check.subjects import LossSubject, Subjects

BELOW_FLOAT32 = 2.0**-38  # moves of this size, of the numbers themselves, are lost where they are rounded to float32
ABOVE_FLOAT32 = 2.0**-16
MOST = 0.6  # of the numbers that are not 0
RESOLVED = 1e4  # times the rounding of a number: below this it is not looked at
NOISE = 2.0**-6  # of a number: most that it may move by where everything moves by ABOVE_FLOAT32
LARGE = 0.1  # of the largest: what is said to be rounded

Mask = npt.NDArray[np.bool_]


def rounding_of(
    subject: Subjects, gradients: dict[str, Any], dy: Doubles, typical: float, rng: np.random.Generator
) -> dict[str, Doubles]:
    """How much the written numbers are rounded: how they differ where dy is changed in its last digits.

    But no more than forward rounds as well: a backward in float32 of a forward in float64 is wrong.

    typical : noise of forward, of its largest output
    """
    allowed = 1e-11 + 64 * typical
    numbers = {name: np.asarray(g) for name, g in gradients.items() if g is not None}
    found = {name: 4 * EPS * np.abs(g.astype(np.float64)) for name, g in numbers.items() if g.dtype.kind in "fiub"}
    if isinstance(subject, LossSubject):
        return {name: own + 4 * EPS * own.max(initial=0) for name, own in found.items()}
    for _ in range(2):
        try:
            beside = subject.backward(dy * (1 + rng.uniform(-4, 4, dy.shape) * EPS))
        except Exception:  # what it does for one dy, it may refuse for another
            return found
        for name, own in found.items():
            if np.shape(beside[name]) == own.shape:
                with np.errstate(invalid="ignore"):
                    off = np.abs(np.asarray(beside[name]) - gradients[name])
                most = allowed * max(float(np.abs(gradients[name]).max(initial=0)), float(np.abs(dy).max(initial=0)))
                found[name] = np.maximum(own, np.minimum(np.where(np.isfinite(off), 8 * off, 0), most))
    return found


def unresolved(subject: Subjects, name: str, written: Doubles, dy: Doubles, rng: np.random.Generator) -> Mask:
    """Which entries are others where everything moves by its last digits: no difference can tell what they are."""
    nothing = np.zeros(written.shape, bool)
    try:
        again = np.asarray(subject.backward(dy)[name], np.float64)
        with put_back(subject.arrays):
            for a in subject.arrays.values():
                a *= 1 + rng.uniform(-8, 8, a.shape) * EPS
            beside = np.asarray(subject.backward(dy)[name], np.float64)
    except Exception:  # what it does for one x, it may refuse for another
        return nothing
    if beside.shape != written.shape or not np.array_equal(again, written, equal_nan=True):
        return nothing
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(beside - written) > 0.1 * np.abs(written))


def rounded_to_float32(
    subject: Subjects,
    gradients: dict[str, Any],
    rounding: Callable[[], dict[str, Doubles]],
    dy: Doubles,
    line: Line,
    rng: np.random.Generator,
) -> dict[str, Mask]:
    """Which numbers are rounded to float32 (or less), though forward is not; by the array that they are in.

    A gradient is linear in dy: where dy moves, each number moves that is not 0, unless it is rounded. For a loss it is
    y that moves.

    rounding : returns how much the numbers are rounded by their last digits: what is lost in it says nothing
    line : along which the arrays are moved
    """
    doubles = {name: g for name, g in gradients.items() if g is not None and np.asarray(g).dtype == np.float64}
    if not doubles or min(np.size(g) for g in doubles.values()) == 0:
        return {}
    is_loss = isinstance(subject, LossSubject)
    factors = rng.random(dy.shape) + 0.5

    def beside(distance: float) -> dict[str, Any]:
        moved = dy if is_loss else dy * (1 + distance * factors)
        found: dict[str, Any] = line.values(lambda: dict(subject.backward(moved)), [distance])[0]
        return found

    try:
        near = beside(BELOW_FLOAT32)
        still = {name: g == near[name] for name, g in doubles.items()}
        some = [name for name in still if _most(still[name], doubles[name] != 0)]
        if not some:
            return {}
        for name in some:
            # of a loss 1 - p has lost digits by itself where it is small
            least = 1e-3 / max(1, len(doubles[name])) if is_loss else RESOLVED * rounding()[name]
            still[name] &= np.abs(doubles[name]) > least
        y = line.values(lambda: subject.value().copy(), [BELOW_FLOAT32])[0]
        some = [name for name in some if _most(still[name], doubles[name] != 0)]
        if not some or _most(subject.y == y, subject.y != 0):
            return {}
        far = beside(ABOVE_FLOAT32)
        changes = {name: np.abs(far[name] - doubles[name]) for name in some}
    except Exception:  # what it does for one x, it may refuse for another
        return {}
    found = {}
    for name, change in changes.items():
        g = doubles[name]
        seen = still[name] & (change > 0) & (change <= NOISE * np.abs(g))  # what is nothing but noise moves by more
        if _most(seen, g != 0):
            found[name] = seen & (np.abs(g) > LARGE * np.abs(g).max())
    return found


def _most(some: Any, of: Any) -> bool:
    return bool(np.count_nonzero(some) > MOST * np.count_nonzero(of))
