"""Central differences of every entry with a bound of their error, and what they say of a written gradient.

For an entry w and outputs y, weighted by dy, with h and h/2 (D, and the one-sided quotients F+ and F-):

    E = (4 D(h/2) - D(h)) / 3                      the derivative, to the fourth order
    |E - dL/dw| <= |D(h) - D(h/2)| + noise / h     the bound: three times what D(h/2) is off where D behaves like h^2

A written number further away than that is wrong, unless the function has a kink there: then F+ and F- stay apart
however small h is, and any number between them is right. Where the bound is too wide to tell, other steps are tried.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nnframe.gradients.check.lengths import LENGTHS, Lengths
from nnframe.gradients.check.noise import EPS, Doubles, Function, Indices, Line, noise_of, put_back, sizes_of
from nnframe.gradients.check.report import KINK, WRONG
from nnframe.gradients.check.verdicts import CLEAR, Findings, Judged, Quotients
from nnframe.kernels import _kernels

STEP = 2.0**-13  # of the size of what is moved
OTHER_STEPS = (2.0**-5, 2.0**-10, 2.0**-15, 2.0**-20, 2.0**-27, 2.0**5, 2.0**10)  # times that, where it does not tell
UPWARDS = 2.0**8  # and further up, where all numbers are small
RESOLVED = 2.0**-22  # steps at which nothing moves below this may be lost beside larger numbers
BESIDE = 2.0**-24  # of the size: how far away points beside a kink are
POINTS_BESIDE = 400  # at most, as long as some entries are outside what all have shown
MOVES_BESIDE = 20_000  # and no more than these, beyond the first 24 points
MOST_QUOTIENTS = 32
STACK_NUMBERS = 1 << 16  # in copies of what is moved, held at a time: few enough to stay in the cache
SIDES = np.array([1, -1, 0.5, -0.5])[:, None, None]  # of the step: where differences are taken


class Subject(Function, Protocol):
    """A function of arrays that can be moved, and its written backward pass."""

    def sweeps(self, name: str) -> list[Sweep]:
        """Return which entries of an array are moved together."""

    def stacked(self, name: str, entries: Indices, values: Doubles) -> Doubles | None:
        """Return values (S, ...) for S moves at a time; None where each must be evaluated by itself.

        entries : (S, m), flat; or (R, m), where S is a multiple of R: then move s is of entries[s % R]
        values : (S, m)
        """


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
            return np.asarray(np.einsum("kbma->km", parts))  # several times faster than `sum` over short axes
        table = products.reshape(len(products), max(self.rows, self.before), -1)
        if not self.rows:
            table = table.sum(axis=1, keepdims=True)
        assert self.starts is not None
        sums = np.add.reduceat(table[..., self.outputs], self.starts, axis=-1)
        return sums.reshape(len(products), -1)

    def part(self, some: slice | Indices) -> Sweep:
        """Return some of the moves."""
        return self._replace(entries=self.entries[some])


class Changes(NamedTuple):
    """What outputs change by where some entries (k of them, flat) are moved by steps and by half of them.

    steps (k,) : h
    widths (2, k) : from side to side, of h and of h/2
    totals (3 or 9, k) : sums over outputs, see `_totals`
    noise (k,) : of such a sum, over h
    """

    steps: Doubles
    widths: Doubles
    totals: Doubles
    noise: Doubles


class Worst(NamedTuple):
    """The entry of an array, flat, that is furthest away from its difference, and this one with its bound."""

    entry: int
    error: float
    numerical: float
    bound: float


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
        self.line = Line(subject.arrays, rng)
        self.noise = noise_of(subject, self.line)
        largest = float(np.abs(subject.y[np.isfinite(subject.y)]).max(initial=0)) or 1.0
        typical = float(np.sort(self.noise, axis=None)[self.noise.size // 2]) / largest if self.noise.size else 0.0
        self.typical = typical  # noise, of the largest output
        self.step = step or max(STEP, typical ** (1 / 3))
        self.weighted_noise = np.abs(self.dy) * self.noise.reshape(-1)

    def clearly_right(self, written: Mapping[str, Any], tolerance: float | None) -> dict[str, Worst]:
        """Return those arrays of which all entries are right by the first step alone, with the worst entry of each.

        `judge` says the same of them, array by array; here they are looked at in one go.
        """
        found, end = dict[str, Worst](), 0
        sweeps = [(name, one) for name in written for one in self.subject.sweeps(name) if one.entries.size]
        if not sweeps:
            return found
        value, bound, size = self._in_one_pass(sweeps, {name: self.step * self.line.sizes[name] for name in written})
        entries = {name: _joined([one.entries.reshape(-1) for of, one in sweeps if of == name]) for name, _ in sweeps}
        numbers = np.concatenate([written[n].reshape(-1)[some] for n, some in entries.items()], dtype=np.float64)
        with np.errstate(all="ignore"):
            off = np.abs(numbers - value)
            allowed = bound + 4 * EPS * np.abs(numbers)
            if tolerance is not None:
                allowed = np.maximum(allowed, tolerance * size)
            right = (off <= allowed) & (off < np.inf) & (bound <= CLEAR * size)
            right |= (off == 0) & (size == 0) & (numbers == 0)  # nothing moves, and that is what was written
            error = off / np.maximum(size, 1e-300)
        for name, some in entries.items():
            first, end = end, end + len(some)
            if len(some) == written[name].size and right[first:end].all():
                i = int(error[first:end].argmax())
                at = first + i
                found[name] = Worst(int(some[i]), float(error[at]), float(value[at]), float(bound[at]))
        return found

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
        sizes = self.line.sizes[name]
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

    def _chosen(self, name: str, until: float, rng: np.random.Generator) -> Iterator[Sweep]:
        """Return all sweeps; where time is short their moves, one by one, in random order for as long as there is."""
        sweeps = [sweep for sweep in self.subject.sweeps(name) if len(sweep.entries)]
        if not np.isfinite(until):
            yield from sweeps
            return
        parts = [sweep.part(slice(i, i + 1)) for sweep in sweeps for i in range(len(sweep.entries))]
        for i in rng.permutation(len(parts)):
            yield parts[i]
            if time.perf_counter() > until:
                return

    def _doubtful(self, name: str, found: Findings) -> list[Sweep]:
        """Return the moves of entries of which it is not yet clear what they are."""
        return self._moves_of(name, found.doubtful) if found.doubtful.any() else []

    def _moves_of(self, name: str, chosen: npt.NDArray[np.bool_]) -> list[Sweep]:
        some = [(sweep, np.flatnonzero(chosen[sweep.entries].any(axis=1))) for sweep in self.subject.sweeps(name)]
        return [sweep.part(moves) for sweep, moves in some if len(moves)]

    def quotients(self, name: str, sweep: Sweep, h: Doubles, sides: bool = True) -> Quotients:
        """Differences at h and h/2, flat. Without sides: `low`, `high` and `bent` are not known."""
        if sides or sweep.outputs is not None:
            return _quotients(self._changes(name, sweep, h, sides))
        value, bound, size = self._in_one_pass([(name, sweep)], {name: h})
        return Quotients(value, bound, size, value, value, np.zeros(value.shape, bool))

    def _in_one_pass(self, sweeps: list[tuple[str, Sweep]], h: Mapping[str, Doubles]) -> Doubles:
        """Return value, bound and size of `Quotients` for all entries of some sweeps, one after another, (3, k)."""
        entries = [(name, sweep.entries.reshape(-1)) for name, sweep in sweeps]
        start = _joined([self.subject.arrays[name].reshape(-1)[some] for name, some in entries])
        steps = _joined([h[name][some] for name, some in entries])
        found, at = np.empty((3, len(steps))), 0
        with np.errstate(all="ignore"):
            ends = start + SIDES[:, 0] * steps
            for name, sweep in sweeps:
                for part in self._parts(name, sweep):
                    some = slice(at, at + part.entries.size)
                    if sweep.outputs is None:
                        y = outputs_of(
                            self.subject, name, part.entries, ends[:, some].reshape(-1, part.entries.shape[1])
                        )
                        y = y.reshape(4, *part.entries.shape[:1], part.before, part.entries.shape[1], part.after)
                        _kernels.change_quotients(y, self.dy, self.weighted_noise, ends, steps, at, RESOLVED, found)
                    else:
                        found[:, some] = self.quotients(name, part, h[name], sides=False)[:3]
                    at = some.stop
        return found

    def _parts(self, name: str, sweep: Sweep) -> list[Sweep]:
        """Return a sweep in parts of so many moves that their copies are held at a time."""
        largest = max(1, self.dy.size, self.subject.arrays[name].size)
        many = max(1, STACK_NUMBERS // (4 * largest))
        if many >= len(sweep.entries):
            return [sweep]
        return [sweep.part(slice(first, first + many)) for first in range(0, len(sweep.entries), many)]

    def _changes(self, name: str, sweep: Sweep, h: Doubles, sides: bool) -> Changes:
        start, steps = self.subject.arrays[name].reshape(-1)[sweep.entries], h[sweep.entries]
        with np.errstate(all="ignore"):
            ends = start + SIDES * steps
            totals = self._totals(name, sweep, ends, sides)
            noise = sweep.totals(self.weighted_noise[None]) / steps
            widths = ends[0::2] - ends[1::2]
        count = steps.size
        return Changes(steps.reshape(-1), widths.reshape(2, count), totals.reshape(-1, count), noise.reshape(-1))

    def _totals(self, name: str, sweep: Sweep, ends: Doubles, sides: bool) -> Doubles:
        """Return sums of changes over the outputs of each entry (3 or 9, S, m).

        Weighted by dy: the change from side to side of h, that of h/2, and its size. With sides too, for h and h/2
        each: the least that a choice of sides gives, the largest, and both sizes.
        """
        found, first = [], 0
        for part in self._parts(name, sweep):
            last = first + len(part.entries)
            found.append(self._totals_of(name, sweep, part.entries, ends[:, first:last], sides))
            first = last
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def _totals_of(self, name: str, sweep: Sweep, entries: Indices, ends: Doubles, sides: bool) -> Doubles:
        y = moved(self.subject, name, entries, ends.reshape(-1, ends.shape[-1]))
        y = y.reshape(4, len(entries), -1)
        up, down = y[0::2], y[1::2]  # at h and at h/2
        terms = np.empty((9 if sides else 3, *y.shape[1:]))
        np.subtract(up, down, out=terms[:2])
        terms[:2] *= self.dy
        np.abs(terms[1], out=terms[2])
        if sides:
            base = self.subject.y.reshape(-1)
            above, below = (up - base) * self.dy, (base - down) * self.dy
            np.minimum(above, below, out=terms[3:5])
            np.maximum(above, below, out=terms[5:7])
            np.add(np.abs(above), np.abs(below), out=terms[7:9])
        return sweep.totals(terms.reshape(-1, y.shape[-1])).reshape(len(terms), len(entries), -1)


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _quotients(c: Changes) -> Quotients:
    with np.errstate(all="ignore"):
        wide, near = c.totals[:2] / c.widths
        apart = near - wide
        value, size = near + apart / 3, c.totals[2] / c.steps
        noise = 2 * c.noise
        if c.steps.min(initial=np.inf) < RESOLVED:
            # nothing that moved so little may be below what is resolved: it tells nothing
            noise = np.where((size == 0) & (c.steps < RESOLVED), np.inf, noise)
        if len(c.totals) == 3:
            bound = np.abs(apart) + 4 * noise + 16 * EPS * size
            return Quotients(value, bound, size, value, value, np.zeros(value.shape, bool))
        low, high, sizes = c.totals[3:].reshape(3, 2, -1) / (c.steps * [[1], [0.5]])
        size = np.maximum(size, sizes[1] / 2)
        bound = np.abs(apart) + 4 * noise + 16 * EPS * size
        spread = high - low
        bent = (spread[1] > 0.7 * spread[0]) & (spread[1] > 8 * noise)
        wider = np.where(spread[1] > 8 * noise, 4 * noise, np.nan)  # nan where noise is all there is
    return Quotients(value, bound, size, low[1] - wider, high[1] + wider, bent)


def moved(subject: Subject, name: str, entries: Indices, values: Doubles) -> Doubles:
    """Values (S, outputs) with entries[s] of an array at values[s]; of fewer entries see `Subject.stacked`."""
    return outputs_of(subject, name, entries, values).reshape(len(values), -1)


def outputs_of(subject: Subject, name: str, entries: Indices, values: Doubles) -> Doubles:
    """Return the same with each value in any shape, (S, ...)."""
    stack = subject.stacked(name, entries, values)
    if stack is not None:
        return stack
    flat = subject.arrays[name].reshape(-1)  # a view: arrays are in C order
    found = np.empty((len(values), subject.y.size))
    for s, ends in enumerate(values):
        some = entries[s % len(entries)]
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
