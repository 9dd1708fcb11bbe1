"""What differences at several steps say of a written gradient, entry by entry.

Each step gives an extrapolated derivative with a bound of its error. The step of the least bound counts, unless a finer
one contradicts it: two steps may agree with each other and both be longer than what the function varies over.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe.gradients.check.noise import Doubles, Indices
from nnframe.gradients.check.report import FLAT, KINK, RIGHT, UNCHECKED, WRONG

CLEAR = 1e-4  # of what an entry is added up from: bounds below need no other step
TELLING = 0.05  # bounds above say nothing


class Quotients(NamedTuple):
    """Of some entries at one step: the extrapolated derivative, its bound, and what one-sided quotients allow.

    size : what the derivative is added up from, in absolute values
    low, high : between these lies what any choice of sides gives
    bent : whether low and high stay apart when the step is halved
    """

    value: Doubles
    bound: Doubles
    size: Doubles
    low: Doubles
    high: Doubles
    bent: npt.NDArray[np.bool_]


class Judged(NamedTuple):
    """A written gradient, entry by entry: all of one shape.

    numerical, bound : nan where an entry was not looked at
    """

    verdicts: npt.NDArray[np.int8]
    numerical: Doubles
    bound: Doubles
    size: Doubles
    sampled: int


class Findings:
    """What differences at several steps say of each entry."""

    def __init__(self, written: Doubles, rounding: Doubles, tolerance: float | None, first: float) -> None:
        n = written.size
        self.first = first  # step
        self.written, self.rounding, self.tolerance = written, rounding, tolerance
        self.levels: dict[float, Quotients] = {}  # by the step
        self.right, self.seen, self.doubtful = np.zeros((3, n), bool)
        self.least = np.full(n, np.inf)  # bound so far

    def add(self, step: float, entries: Indices, found: Quotients) -> None:
        """Note what was found for some entries at a step."""
        at = entries.reshape(-1)
        n = self.written.size
        level = self.levels.get(step)
        if level is None:
            value, bound, size, low, high = np.full((5, n), np.nan)
            level = self.levels[step] = Quotients(value, bound, size, low, high, np.zeros(n, bool))
        for known, new in zip(level, found, strict=True):
            known[at] = new.reshape(-1)
        value, bound, size = (part.reshape(-1) for part in found[:3])
        written = self.written[at]
        self.seen[at] = True
        # a wider bound at another step excuses nothing
        clear = np.isfinite(value) & (bound <= CLEAR * size) & ~(bound > self.least[at])
        self.least[at] = np.fmin(self.least[at], bound)
        near = np.abs(written - value) <= self._allowed(bound, size, at)
        still = np.isfinite(value) & (size == 0) & (written == 0)  # nothing moves, and that is what was written
        self.right[at] |= (clear & near) | still
        self.doubtful[at] = ~self.right[at]

    def _allowed(self, bound: Doubles, size: Doubles, at: Any = slice(None)) -> Doubles:
        allowed: Doubles = bound + self.rounding[at]
        return allowed if self.tolerance is None else np.maximum(allowed, self.tolerance * size)

    def judged(self, shape: tuple[int, ...]) -> Judged:
        """Give each entry its verdict."""
        value, bound, size = self._chosen()
        with np.errstate(invalid="ignore"):
            off = np.abs(self.written - value)
            near = off <= self._allowed(bound, size)
            telling = bound <= TELLING * np.maximum(size, np.abs(self.written))
        verdicts = np.full(self.written.size, FLAT, np.int8)
        verdicts[telling & near] = RIGHT
        verdicts[telling & ~near & (off > 2 * bound + self.rounding) & self._contradicted(off)] = WRONG
        verdicts[~np.isfinite(self.written) & np.isfinite(value)] = WRONG
        verdicts[self._at_kink() & (verdicts != RIGHT)] = KINK
        verdicts[self.right] = RIGHT
        verdicts[~self.seen] = UNCHECKED
        value, bound, size = (part.reshape(shape) for part in (value, bound, size))
        return Judged(verdicts.reshape(shape), value, bound, size, int(self.seen.sum()))

    def _contradicted(self, apart: Doubles) -> npt.NDArray[np.bool_]:
        """Whether the finest step that can tell numbers so far apart says so too, and not a longer one alone."""
        found, decided = np.zeros((2, self.written.size), bool)
        with np.errstate(invalid="ignore"):
            for step in sorted(self.levels):
                if step >= self.first:
                    break
                level = self.levels[step]
                off = np.abs(self.written - level.value)
                informs = 4 * level.bound < apart
                found |= informs & ~decided & (off > 2 * level.bound + self.rounding)
                decided |= informs
        return found

    def _chosen(self) -> tuple[Doubles, Doubles, Doubles]:
        """Return value, bound and size at the step of the least bound that no finer one contradicts."""
        n = self.written.size
        value, bound, size = np.full(n, np.nan), np.full(n, np.inf), np.zeros(n)
        finer: list[Quotients] = []
        with np.errstate(invalid="ignore"):
            for step in sorted(self.levels):
                level = self.levels[step]
                better = np.isfinite(level.value) & (level.bound < bound)
                for other in finer:
                    apart = np.abs(level.value - other.value) > level.bound + other.bound
                    better &= ~(apart & np.isfinite(other.value))
                for kept, new in ((value, level.value), (bound, level.bound), (size, level.size)):
                    kept[better] = new[better]
                finer.append(level)
        return value, bound, size

    def _at_kink(self) -> npt.NDArray[np.bool_]:
        """Whether a number is between the slopes of both sides, where these stay apart at the finest step of use."""
        kink, decided = np.zeros((2, self.written.size), bool)
        with np.errstate(invalid="ignore"):
            for step in sorted(self.levels):
                level = self.levels[step]
                tells = level.high > level.low
                between = (level.low <= self.written) & (self.written <= level.high)
                kink |= tells & ~decided & level.bent & between
                decided |= tells
        return kink

    def bent(self) -> npt.NDArray[np.bool_]:
        """Whether the slopes of both sides stay apart at some step."""
        return np.asarray(np.any([level.bent for level in self.levels.values()], axis=0))
