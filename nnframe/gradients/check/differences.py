"""Central differences of every entry with a bound of their error, and what they say of a written gradient.

For an entry w and outputs y, weighted by dy, with h and h/2 (D, and the one-sided quotients F+ and F-):

    E = (4 D(h/2) - D(h)) / 3                      the derivative, to the fourth order
    |E - dL/dw| <= |D(h) - D(h/2)| + noise / h     the bound: three times what D(h/2) is off where D behaves like h^2

A written number further away than that is wrong, unless the function has a kink there: then F+ and F- stay apart
however small h is, and any number between them is right. Where the bound is too wide to tell, other steps are tried.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nnframe.gradients.check.report import FLAT, KINK, RIGHT, UNCHECKED, WRONG

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

EPS = float(np.finfo(np.float64).eps)
STEP = 2.0**-13  # of the size of what is moved
OTHER_STEPS = (2.0**-5, 2.0**-10, 2.0**-15, 2.0**-20, 2.0**-27, 2.0**5, 2.0**10)  # times that, where it does not tell
UPWARDS = 2.0**8  # and further up, where all numbers are small
RESOLVED = 2.0**-22  # steps at which nothing moves below this may be lost beside larger numbers
BESIDE = 2.0**-24  # of the size: how far away points beside a kink are
POINTS_BESIDE = 24
LENGTHS = 2.0 ** -np.arange(2, 48, 2, dtype=np.float64)  # of the size, at which a number is given another chance
MOST_QUOTIENTS = 32
CLEAR = 1e-4  # of what an entry is added up from: bounds below need no other step
TELLING = 0.05  # bounds above say nothing
STACK_NUMBERS = 1 << 18  # held at a time: few enough to stay in the cache
SPACING = (
    2e-8  # between the points at which noise is looked for, so that six of them are as far apart as float32 rounds
)


class Subject(Protocol):
    """A function of arrays that can be moved, and its written backward pass."""

    arrays: dict[str, Doubles]  # what it is differentiated by, each in C order
    y: Doubles  # its value where nothing has been moved

    def value(self) -> Doubles:
        """Return the function's value at what `arrays` hold now."""

    def sweeps(self, name: str) -> list[Sweep]:
        """Return which entries of an array are moved together."""

    def stacked(self, name: str, entries: Indices, values: Doubles) -> Doubles | None:
        """Return values (S, outputs) for S moves at a time; None where each must be evaluated by itself."""


class Sweep(NamedTuple):
    """Moves of an array, in each of which every moved entry has outputs of its own.

    entries : (S, m), flat
    before, after : int
        The outputs of one evaluation, flat, are (before, m, after): entry j has those at [:, j, :].
    outputs, starts : arrays, optional
        In place of that: which outputs belong to the first entry, then the second ...; and where each one's begin.
    rows : int
        With outputs: of so many rows, each with entries of its own (then m = rows x columns), or 0.
    """

    entries: Indices
    before: int = 1
    after: int = 1
    outputs: Indices | None = None
    starts: Indices | None = None
    rows: int = 0

    def totals(self, products: Doubles) -> Doubles:
        """Sum (S, outputs) over the outputs of each entry, (S, m)."""
        if self.outputs is None:
            parts = products.reshape(len(products), self.before, -1, self.after)
            return np.asarray(parts.sum(axis=(1, 3)))
        table = products.reshape(len(products), max(self.rows, self.before), -1)
        if not self.rows:
            table = table.sum(axis=1, keepdims=True)
        assert self.starts is not None
        sums = np.add.reduceat(table[..., self.outputs], self.starts, axis=-1)
        return sums.reshape(len(products), -1)

    def part(self, some: slice | Indices) -> Sweep:
        """Return some of the moves."""
        return self._replace(entries=self.entries[some])


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


class Differences:
    """Differences of one subject, weighted by dy.

    Parameters
    ----------
    subject : Subject
    dy : array
        Of the shape of the subject's value.
    step : float, optional
        Of the size of what is moved; sought around 2^-13 if not given.
    """

    def __init__(self, subject: Subject, dy: Doubles, step: float | None, rng: np.random.Generator) -> None:
        self.subject, self.dy = subject, dy.reshape(-1)
        self.noise = noise_of(subject, rng)
        largest = float(np.abs(subject.y[np.isfinite(subject.y)]).max(initial=0)) or 1.0
        typical = float(np.sort(self.noise, axis=None)[self.noise.size // 2]) / largest if self.noise.size else 0.0
        self.typical = typical  # noise, of the largest output
        self.step = step or max(STEP, typical ** (1 / 3))
        self.weighted_noise = np.abs(self.dy) * self.noise.reshape(-1)

    def judge(
        self,
        name: str,
        written: Doubles,
        tolerance: float | None = None,
        until: float = np.inf,
        rng: Any = None,
        rounding: Doubles | None = None,
    ) -> Judged:
        """Compare a written gradient with differences, entry by entry, until a time of `time.perf_counter`.

        rounding : how much the written numbers are rounded, of their shape
        """
        flat = written.reshape(-1)
        own = 4 * EPS * np.abs(flat) if rounding is None else rounding.reshape(-1)
        found = _Findings(flat, own, tolerance, self.step)
        sizes = sizes_of(self.subject.arrays[name])
        for sweep in self._chosen(name, until, rng):
            found.add(self.step, sweep.entries, self.quotients(name, sweep, self.step * sizes, sides=False))
        for factor in self._other_steps(sizes):
            for sweep in self._doubtful(name, found):
                found.add(factor * self.step, sweep.entries, self.quotients(name, sweep, factor * self.step * sizes))
        judged = found.judged(written.shape)
        ties = (judged.verdicts.reshape(-1) == WRONG) & found.bent()
        if ties.any():
            judged.verdicts.reshape(-1)[self._beside(name, found.written, judged.size.reshape(-1), ties, sizes)] = KINK
        return judged

    def _other_steps(self, sizes: Doubles) -> list[float]:
        """Return factors of the step, for entries of which it does not tell: up to steps as for numbers around 1."""
        factors = [1.0, *OTHER_STEPS]
        up = max(OTHER_STEPS) * UPWARDS
        while up * sizes.max(initial=1.0) <= 1:
            factors.append(up)
            up *= UPWARDS
        return factors

    def at_fault(self, name: str, written: Doubles, judged: Judged, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Which wrong entries are what quotients of some length converge to after all: the differences are at fault.

        Taylor's remainder f(x + h) - f(x) - h g falls faster than h where g is the derivative; over what lengths a
        function is smooth, differences may not have seen. Of many entries some are looked at.
        """
        wrong = np.flatnonzero(judged.verdicts.reshape(-1) == WRONG)
        some = np.sort(rng.choice(wrong, min(MOST_QUOTIENTS, len(wrong)), replace=False))
        sizes, start = sizes_of(self.subject.arrays[name]), self.subject.arrays[name].reshape(-1)
        distances = np.concatenate([LENGTHS, -LENGTHS])
        found = np.zeros(written.size, bool)
        base = self.subject.y.reshape(-1)
        for i in some:
            ends = (start[i] + sizes[i] * distances)[:, None]
            with np.errstate(all="ignore"):
                change = (self.moved(name, np.full(ends.shape, i), ends) - base) @ self.dy
                near = np.abs(change / (ends[:, 0] - start[i]) - written.reshape(-1)[i])
                near = near <= 0.1 * abs(written.reshape(-1)[i] - judged.numerical.reshape(-1)[i])
            both = near[: len(LENGTHS)] & near[len(LENGTHS) :]
            found[i] = bool((both[2:] & both[1:-1] & both[:-2]).any())
        if len(some) < len(wrong) and found[some].mean() > 0.9:
            found[wrong] = True
        return found.reshape(written.shape)

    def _beside(
        self, name: str, written: Doubles, judged_size: Doubles, ties: npt.NDArray[np.bool_], sizes: Doubles
    ) -> Indices:
        """Return which entries at kinks are between the slopes at points nearby.

        Where several values are equal, these are more than the two that an entry's own sides have.
        """
        low, high = np.full((2, sizes.size), np.nan)
        rng = np.random.Generator(np.random.PCG64(ties.size))
        arrays, y = self.subject.arrays, self.subject.y
        saved = {one: array.copy() for one, array in arrays.items()}
        try:
            for _ in range(POINTS_BESIDE):
                for one, array in arrays.items():
                    away = BESIDE * sizes_of(saved[one]).reshape(array.shape)
                    array[...] = saved[one] + away * rng.uniform(-1, 1, array.shape)
                self.subject.y = self.subject.value()
                for sweep in self._moves_of(name, ties):
                    at = sweep.entries.reshape(-1)
                    value = self.quotients(name, sweep, BESIDE * 2.0**-8 * sizes, sides=False).value.reshape(-1)
                    low[at], high[at] = np.fmin(low[at], value), np.fmax(high[at], value)
        finally:
            self.subject.y = y
            for one, array in arrays.items():
                array[...] = saved[one]
        allowed = 1e-3 * judged_size
        with np.errstate(invalid="ignore"):
            between = (low - allowed <= written) & (written <= high + allowed)
        return np.flatnonzero(ties & between)

    def _many(self, name: str) -> int:
        """How many moves are evaluated at a time, four points each."""
        return max(1, STACK_NUMBERS // (4 * max(1, self.dy.size, self.subject.arrays[name].size)))

    def _chosen(self, name: str, until: float, rng: np.random.Generator) -> Iterator[Sweep]:
        """Cut sweeps into parts that fit in memory; in random order, for as long as there is time, if that is short."""
        parts: list[Sweep] = []
        many = 1 if np.isfinite(until) else self._many(name)
        for sweep in self.subject.sweeps(name):
            parts += [sweep.part(slice(first, first + many)) for first in range(0, len(sweep.entries), many)]
        if not np.isfinite(until):
            yield from parts
            return
        for i in rng.permutation(len(parts)):
            yield parts[i]
            if time.perf_counter() > until:
                return

    def _doubtful(self, name: str, found: _Findings) -> list[Sweep]:
        """Return the moves of entries of which it is not yet clear what they are."""
        return self._moves_of(name, found.doubtful) if found.doubtful.any() else []

    def _moves_of(self, name: str, chosen: npt.NDArray[np.bool_]) -> list[Sweep]:
        again = []
        for sweep in self.subject.sweeps(name):
            some = np.flatnonzero(chosen[sweep.entries].any(axis=1))
            many = self._many(name)
            again += [sweep.part(some[first : first + many]) for first in range(0, len(some), many)]
        return again

    def quotients(self, name: str, sweep: Sweep, h: Doubles, sides: bool = True) -> Quotients:
        """Differences at h and h/2 for the moves of a sweep. Without sides: `low`, `high` and `bent` are not known."""
        entries = sweep.entries
        start, steps = self.subject.arrays[name].reshape(-1)[entries], h[entries]
        ends = np.stack([start + steps, start - steps, start + steps / 2, start - steps / 2])
        with np.errstate(all="ignore"):
            y = self.moved(name, np.concatenate([entries] * 4), ends.reshape(-1, entries.shape[1]))
            y = y.reshape(4, len(entries), -1)
            changes = y[0::2] - y[1::2]
            changes *= self.dy
            wide, near = (sweep.totals(changes[k]) / (ends[2 * k] - ends[2 * k + 1]) for k in (0, 1))
            noise = sweep.totals(self.weighted_noise[None]) / (steps / 2)
            size = sweep.totals(np.abs(changes[1])) / steps
            value = (4 * near - wide) / 3
            # nothing that moved so little may be below what is resolved: it tells nothing
            noise = np.where((size == 0) & (steps < RESOLVED), np.inf, noise)
            if not sides:
                bound = np.abs(wide - near) + 4 * noise + 16 * EPS * size
                return Quotients(value, bound, size, value, value, np.zeros(value.shape, bool))
            spreads = [self._sides(sweep, y[2 * k], y[2 * k + 1], steps / (k + 1)) for k in (0, 1)]
            (low, high), size = spreads[1][:2], np.maximum(size, spreads[1][2])
            bound = np.abs(wide - near) + 4 * noise + 16 * EPS * size
            apart = high - low
            bent = (apart > 0.7 * (spreads[0][1] - spreads[0][0])) & (apart > 8 * noise)
            wider = np.where(apart > 8 * noise, 4 * noise, np.nan)  # nan where noise is all there is
        return Quotients(value, bound, size, low - wider, high + wider, bent)

    def _sides(self, sweep: Sweep, up: Doubles, down: Doubles, steps: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        """Return the least and the largest slope that a choice of sides gives, and what they are added up from."""
        base = self.subject.y.reshape(-1)
        above, below = (up - base) * self.dy, (base - down) * self.dy
        low = sweep.totals(np.minimum(above, below)) / steps
        high = sweep.totals(np.maximum(above, below)) / steps
        return low, high, sweep.totals(np.abs(above) + np.abs(below)) / (2 * steps)

    def moved(self, name: str, entries: Indices, values: Doubles) -> Doubles:
        """Values (S, outputs) with entries[s] of an array at values[s]."""
        stack = self.subject.stacked(name, entries, values)
        if stack is not None:
            return stack
        flat = self.subject.arrays[name].reshape(-1)  # a view: arrays are in C order
        found = np.empty((len(entries), self.dy.size))
        for s, (some, ends) in enumerate(zip(entries, values, strict=True)):
            saved = flat[some]
            try:
                flat[some] = ends
                found[s] = self.subject.value().reshape(-1)
            finally:
                flat[some] = saved
        return found


class _Findings:
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
        """Return value, bound and size at the step of the least bound.

        A step does not count where a finer one contradicts it: two steps may agree with each other and both be longer
        than what the function varies over.
        """
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
                value[better], bound[better], size[better] = (
                    level.value[better],
                    level.bound[better],
                    level.size[better],
                )
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


def sizes_of(array: Doubles) -> Doubles:
    """How large each number of an array is taken to be: itself, at least as they are in the mean, but not above 1."""
    flat = np.abs(array.reshape(-1))
    finite = flat[np.isfinite(flat)]
    typical = float(np.sqrt(np.mean(np.square(finite)))) if finite.size else 0.0
    return np.asarray(np.maximum(flat, min(typical or 1.0, 1.0)))


def noise_of(subject: Subject, rng: np.random.Generator) -> Doubles:
    """How much each output is rounded: at least as the output itself is, and as its fourth differences say.

    These are taken on a line so short that nothing but noise is left of them; on a longer one where nothing changes on
    that, on a shorter one where what is left is too much to be noise.
    """
    saved = {name: array.copy() for name, array in subject.arrays.items()}
    way = {}
    for name, array in saved.items():
        random = rng.uniform(-1, 1, array.shape)
        way[name] = sizes_of(array).reshape(array.shape) * (random + np.copysign(0.5, random))
    finite = np.where(np.isfinite(subject.y), subject.y, 0.0)
    largest = float(np.abs(finite).max(initial=0))
    smallest = min((float(np.abs(one).max(initial=1e-3)) for one in way.values()), default=1.0)
    spacing = SPACING
    own = _fourth_differences(subject, saved, way, spacing)
    while not own.any() and spacing * smallest < 1e-6:
        spacing *= 2.0**10
        own = _fourth_differences(subject, saved, way, spacing)
    for finer in (2.0**-12, 2.0**-20, 2.0**-26):
        if not own.size or float(np.sort(own, axis=None)[own.size // 2]) <= 1e-4 * largest:
            break
        less = _fourth_differences(subject, saved, way, spacing * finer)
        own = less if 0 < less.max(initial=0) < own.max() else own
    if own.size and own.ndim:
        own = np.maximum(own, np.sqrt((own * own).mean(axis=0)))  # as for other rows
    return own + EPS * np.abs(finite)


def _fourth_differences(
    subject: Subject, saved: dict[str, Doubles], way: dict[str, Doubles], spacing: float
) -> Doubles:
    """Noise after Moré and Wild, "Estimating computational noise" (2011): fourth differences over sqrt(70)."""
    points = [subject.y]
    try:
        with np.errstate(all="ignore"):
            for k in range(1, 7):
                for name, array in subject.arrays.items():
                    array[...] = saved[name] + k * spacing * way[name]
                points.append(subject.value().copy())
    finally:
        for name, array in subject.arrays.items():
            array[...] = saved[name]
    with np.errstate(all="ignore"):
        p = np.stack(points)
        fourth = np.abs(p[:3] - 4 * p[1:4] + 6 * p[2:5] - 4 * p[3:6] + p[4:]).max(axis=0) / np.sqrt(70)
    return np.asarray(np.where(np.isfinite(fourth), fourth, 0.0))
