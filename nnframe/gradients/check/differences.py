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

from nnframe.gradients.check.lengths import LENGTHS, Lengths
from nnframe.gradients.check.noise import EPS, Doubles, Function, Indices, noise_of, put_back, sizes_of
from nnframe.gradients.check.report import KINK, WRONG
from nnframe.gradients.check.verdicts import Findings, Judged, Quotients

STEP = 2.0**-13  # of the size of what is moved
OTHER_STEPS = (2.0**-5, 2.0**-10, 2.0**-15, 2.0**-20, 2.0**-27, 2.0**5, 2.0**10)  # times that, where it does not tell
UPWARDS = 2.0**8  # and further up, where all numbers are small
RESOLVED = 2.0**-22  # steps at which nothing moves below this may be lost beside larger numbers
BESIDE = 2.0**-24  # of the size: how far away points beside a kink are
POINTS_BESIDE = 400  # at most, as long as some entries are outside what all have shown
MOVES_BESIDE = 20_000  # and no more than these, beyond the first 24 points
MOST_QUOTIENTS = 32
STACK_NUMBERS = 1 << 17  # held at a time: few enough to stay in the cache


class Subject(Function, Protocol):
    """A function of arrays that can be moved, and its written backward pass."""

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
        found = Findings(flat, own, tolerance, self.step)
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
        """Which wrong entries may be right after all, as differences over other lengths show; of many some are seen."""
        wrong = np.flatnonzero(judged.verdicts.reshape(-1) == WRONG)
        some = np.sort(rng.choice(wrong, min(MOST_QUOTIENTS, len(wrong)), replace=False))
        found = np.zeros(written.size, bool)
        for i in some:
            found[i] = self._lengths(name, i).excuse(written.reshape(-1)[i], judged.numerical.reshape(-1)[i])
        if len(some) < len(wrong) and found[some].mean() > 0.9:
            found[wrong] = True
        return found.reshape(written.shape)

    def _lengths(self, name: str, i: int) -> Lengths:
        """Return the changes of the output where one entry is moved by ever smaller lengths."""
        array, base = self.subject.arrays[name], self.subject.y.reshape(-1)
        x, size = array.reshape(-1)[i], sizes_of(array)[i]
        ends = (x + size * np.concatenate([LENGTHS, -LENGTHS]))[:, None]
        with np.errstate(all="ignore"):
            y = moved(self.subject, name, np.full(ends.shape, i), ends)
            up, down = np.split((y - base) @ self.dy, 2)
            above, below = np.split(ends[:, 0] - x, 2)
            reach = float(np.nanmax(np.abs(y[np.isfinite(y)]), initial=np.abs(base).max(initial=0)))
        return Lengths((above - below) / 2, up, -down, x, size, reach, float(np.max(self.noise, initial=0)))

    def taylor(self, name: str, entry: tuple[int, ...], written: float, numerical: float) -> str:
        """Say how |f(x + h) - f(x) - h g| falls with h: as h^2 where g is the derivative, as h where it is not."""
        array = self.subject.arrays[name]
        index = int(np.ravel_multi_index(entry, array.shape)) if array.ndim else 0
        h = sizes_of(array)[index] * 2.0 ** -np.arange(6, 14, dtype=np.float64)
        ends = (array.reshape(-1)[index] + h)[:, None]
        with np.errstate(all="ignore"):
            change = (
                moved(self.subject, name, np.full(ends.shape, index), ends) - self.subject.y.reshape(-1)
            ) @ self.dy
            noise = 8 * float(self.weighted_noise.sum())
            orders = [_order_of(np.abs(change - h * g), h, noise) for g in (written, numerical)]
        if not np.isfinite(orders).all():
            return ""
        words = [f"h^{order:.1f}" for order in orders]
        return f"(|f(x + h) - f(x) - h g| falls as {words[0]} with the written g, as {words[1]} with the difference.)"

    def _beside(
        self, name: str, written: Doubles, judged_size: Doubles, ties: npt.NDArray[np.bool_], sizes: Doubles
    ) -> Indices:
        """Return which entries at kinks are between the slopes at points nearby.

        Where several values are equal, these are more than the two that an entry's own sides have: as many as orders.
        """
        low, high = np.full((2, sizes.size), np.nan)
        rng = np.random.Generator(np.random.PCG64(ties.size))
        y, allowed, left = self.subject.y, 1e-3 * judged_size, ties.copy()
        try:
            with put_back(self.subject.arrays) as start:
                for _ in range(min(POINTS_BESIDE, max(24, MOVES_BESIDE // int(ties.sum())))):
                    for one, array in self.subject.arrays.items():
                        away = BESIDE * sizes_of(start[one]).reshape(array.shape)
                        array[...] = start[one] + away * rng.uniform(-1, 1, array.shape)
                    self.subject.y = self.subject.value()
                    for sweep in self._moves_of(name, left):
                        at = sweep.entries.reshape(-1)
                        value = self.quotients(name, sweep, BESIDE * 2.0**-8 * sizes, sides=False).value.reshape(-1)
                        low[at], high[at] = np.fmin(low[at], value), np.fmax(high[at], value)
                    with np.errstate(invalid="ignore"):
                        left &= ~((low - allowed <= written) & (written <= high + allowed))
                    if not left.any():
                        break
        finally:
            self.subject.y = y
        return np.flatnonzero(ties & ~left)

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

    def _doubtful(self, name: str, found: Findings) -> list[Sweep]:
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
            y = moved(self.subject, name, np.concatenate([entries] * 4), ends.reshape(-1, entries.shape[1]))
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


def moved(subject: Subject, name: str, entries: Indices, values: Doubles) -> Doubles:
    """Values (S, outputs) with entries[s] of an array at values[s]."""
    stack = subject.stacked(name, entries, values)
    if stack is not None:
        return stack
    flat = subject.arrays[name].reshape(-1)  # a view: arrays are in C order
    found = np.empty((len(entries), subject.y.size))
    for s, (some, ends) in enumerate(zip(entries, values, strict=True)):
        saved = flat[some]
        try:
            flat[some] = ends
            found[s] = subject.value().reshape(-1)
        finally:
            flat[some] = saved
    return found


def _order_of(remainder: Doubles, h: Doubles, noise: float) -> float:
    above = np.flatnonzero(remainder > noise)
    if len(above) < 3:
        return np.inf
    return float(np.polyfit(np.log(h[above]), np.log(remainder[above]), 1)[0])
