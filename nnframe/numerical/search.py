"""A step that is looked for: the scheme "auto".

Each entry has a ladder of distances and Neville's table of the quotients at them: where f is smooth, its columns
converge to the derivative. The first two distances are far from one another. Quotients that differ much there tell that
f varies over less than the larger distance: the ladder begins anew, lower. Two that agree but for rounding, while
rounding is large, tell the opposite: it begins anew, higher. Either keeps the quotient that both ladders share. The
entry of the table with the smallest bound is taken (Ridders, Adv. Eng. Softw. 4, 1982); its bound is the difference
from its neighbours and what rounding has become in it, never 0.

Of one variable nothing but f(x) is known beforehand (`Known.look`): its noise is taken to be rounding until a ladder
does not converge to that.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nnframe.numerical.answers import Doubles
from nnframe.numerical.evaluators import Evaluator, Floats, Group
from nnframe.numerical.probe import Known, grain_of, scattered_signs
from nnframe.numerical.schemes import keep_partial

JUMP = 8.0  # from the distances of one ladder to those of another
RUNGS = np.array([1, 1 / JUMP, 1 / 2, 1 / 4, 1 / 16, 1 / 32, 1 / 64])  # distances of a ladder, in their order
LEVELS = len(RUNGS)
CALLS = 28  # most evaluations for an entry
PATIENCE = 16  # evaluations after which the noise of f is measured, where that has not been done
FAR_APART = 0.25  # relative difference of two quotients that do not yet converge
APPROACHES = 1.6  # times what a polynomial gives: how much nearer to one another quotients are that approach a limit
CONVERGES = 0.05  # ratio of two changes of the table's diagonal, below which the next one is taken to shrink as well
SAFE = 4.0  # how much larger than that the next may be
PRECISE, PRECISE_SECOND = 1e-10, 1e-13  # relative: with less rounding no higher ladder is tried
FIRST = 0.117  # the first distance in units of x; no simple fraction, lest a period of f be met


class Search:
    """The ladders of all entries of one array."""

    def __init__(
        self, known: Known, leaf: int, rooms: tuple[Floats, Floats], name: str, order: int = 1, only: Any = True
    ) -> None:
        self.known, self.leaf, self.name, self.order = known, leaf, name, order
        self.evaluator: Evaluator = known.evaluator
        flat = self.evaluator.start[leaf].reshape(-1)
        self.x: Floats = flat.astype(flat.dtype.newbyteorder("="))
        largest = float(np.finfo(self.x.dtype).max)
        self.below, self.above = (
            np.minimum(each.astype(np.float64), largest / 2 + sign * self.x.astype(np.float64) / 2)
            for each, sign in zip(rooms, (1, -1), strict=True)
        )
        n, self.shape = len(self.x), np.shape(known.base)
        m = int(np.prod(self.shape, dtype=int))
        self.base, self.noise = known.base.reshape(1, m), known.noise.reshape(1, m)
        self.size = np.abs(self.base[0])  # the largest values of f that were seen
        size = np.abs(self.x).astype(np.float64)
        first = FIRST * np.where(size < 1e-9, 1.0, np.where(size > 1, np.sqrt(np.maximum(size, 1)), size))
        eps = max(known.eps, float(np.finfo(self.x.dtype).eps))
        first = np.maximum(first, np.where(size > 1, eps ** (1 / 3) * size, 0))
        roomy = np.minimum(self.below, self.above)
        self.central = (roomy >= first / 64) | (order == 2)
        self.most = np.where(self.central, roomy, np.maximum(self.below, self.above) / 1.001)
        self.sign = np.where(self.above >= self.below, 1.0, -1.0)
        self.h = np.minimum(first, self.most)
        self.top = self.h.copy()
        self.count, self.calls, self.climbs = (np.zeros(n, int) for _ in range(3))
        self.distance = np.zeros((n, LEVELS))
        self.quotient, self.rounded = np.zeros((n, LEVELS, m)), np.zeros((n, LEVELS, m))
        self.table, self.rounding = np.zeros((n, LEVELS, m)), np.zeros((n, LEVELS, m))  # the last row of Neville's
        self.best, self.error = np.full((n, m), np.nan), np.full((n, m), np.inf)
        self.floor = np.full((n, m), np.inf)  # the part of the error that is rounding
        self.here, self.here_floor = self.error.copy(), self.error.copy()  # both of the ladder that is climbed
        self.apart = np.zeros((n, m))  # how far the first two quotients of a ladder were from one another
        self.changes = np.zeros((n, 3, m))  # the last from one entry of the table's diagonal to the next
        self.grain = np.full(m, np.inf)  # what all values of f seem to differ by multiples of
        self.assumed = np.zeros((n, m))  # the noise of f that was reckoned with at the smallest distance
        self.bend = np.zeros((n, m))  # the second derivative, about
        self.last = self.h.copy()  # the smallest distance of the ladder
        self.scale = self.h.copy()  # the largest distance of the first ladder that converged
        self.wanted = (np.maximum(self.below, self.above) > 0) & only
        self.active = self.wanted.copy()
        self.precise = PRECISE if order == 1 else PRECISE_SECOND

    # ---- evaluation ----

    def step(self) -> None:
        """Evaluate one more distance for every entry that needs it."""
        at = np.flatnonzero(self.active)
        for central in (True, False):
            some = at[self.central[at] == central]
            if len(some):
                found = self._quotients(some, self.h[some], central)
                if self.known.look is not None and not self.known.follows(self.seen):
                    self._measure()  # f may be evaluated in another way from now on
                    return
                self._extend(some, *found)

    def _quotients(self, at: Any, h: Doubles, central: bool) -> tuple[Doubles, Doubles, Doubles]:
        """Return the distances that are really moved, the quotients at them, and their rounding."""
        start = self.x[at]
        kind = self.x.dtype.type
        h = np.maximum(h, np.spacing(np.abs(start)).astype(np.float64))
        if central and self.order == 2:
            far = np.spacing(np.abs(start) + h.astype(kind)).astype(np.float64)
            h = np.maximum(np.rint(h / far), 1) * far  # x + h and x - h are as far from x
        up = start + (self.sign[at] if not central else 1.0) * h
        values = np.stack([up, start - h], axis=1) if central else up[:, None]
        values = np.asarray(values, kind)
        with np.errstate(over="ignore", invalid="ignore"):
            table = self._evaluate(at, values, start, central).reshape(len(at), values.shape[1], -1)
            if self.known.look is not None:
                self._see(table)
            away = (values.astype(np.float64) - start.astype(np.float64)[:, None])[:, :, None]
            self.size = np.fmax(self.size, np.where(np.isfinite(table), np.abs(table), 0).max(axis=(0, 1)))
            size = np.maximum(self.noise, 0.5 * self.known.eps * np.abs(table).max(axis=1))
            self.assumed[at] = np.where((h <= self.last[at])[:, None], size, self.assumed[at])
            if self.order == 2:
                up = away[:, 0]
                return up[:, 0], ((table[:, 0] - self.base) + (table[:, 1] - self.base)) / up / up, 4 * size / up / up
            if central:
                bend = ((table[:, 0] - self.base) + (table[:, 1] - self.base)) / away[:, 0] / away[:, 0]
                self.bend[at] = np.where((h <= self.last[at])[:, None], bend, self.bend[at])
                width = away[:, 0] - away[:, 1]
                return width[:, 0] / 2, (table[:, 0] - table[:, 1]) / width, 2 * size / width
            return np.abs(away[:, 0, 0]), (table[:, 0] - self.base) / away[:, 0], 2 * size / np.abs(away[:, 0])

    def _evaluate(self, at: Any, values: Floats, start: Floats, central: bool) -> Doubles:
        self.calls[at] += values.shape[1]
        self.evaluator.lenient = True
        try:
            return self.evaluator.values(self.leaf, Group(at, values, start, central), self.name)
        finally:
            self.evaluator.lenient = False

    def _see(self, table: Doubles) -> None:
        """Take from values of f what they show of its precision."""
        self.seen = table.reshape(-1, *self.shape)
        if not self.count.any():
            self.known = self.known.with_values(self.seen)
        with np.errstate(invalid="ignore"):
            self.grain = np.fmin(self.grain, grain_of(table - self.base).min(axis=(0, 1)))
        self.noise = np.maximum(self.known.noise.reshape(1, -1), np.where(np.isinf(self.grain), 0, 0.3 * self.grain))

    def _measure(self) -> None:
        """Learn what was only assumed of f: its noise, and whether it follows its argument."""
        if self.known.look is not None:
            self.known = self.known.look()
            self.evaluator, self.noise = self.known.evaluator, self.known.noise.reshape(1, -1)

    def _form_anew(self, at: Any) -> Doubles:
        """Form the tables anew with what is now known of f's noise; return the bounds before their last rungs."""
        before: Doubles = self.error[at]
        rungs = int(self.count[at].max(initial=0))
        for each in (self.error, self.floor, self.here, self.here_floor):
            each[at] = np.inf
        for k in range(rungs):
            distance, before = self.distance[at, k], self.here[at]
            least = (np.where(self.central[at], 1, 2) / distance)[:, None] * self.noise
            self._extend_alike(at, k, distance, self.quotient[at, k], np.maximum(self.rounded[at, k], least))
        return before

    # ---- the table ----

    def _extend(self, at: Any, distance: Doubles, quotient: Doubles, rounding: Doubles) -> None:
        """Add a quotient to the ladder of each entry, and decide how it goes on."""
        self.last[at] = np.where(self.count[at] > 0, np.minimum(self.last[at], self.h[at]), self.h[at])
        known = np.isfinite(quotient).all(axis=1)
        self._restart(at[~known], self.last[at[~known]] / JUMP)
        self.active[at[~known & (self.climbs[at] > 0)]] = False  # the ladder before has converged
        at, distance, quotient, rounding = at[known], distance[known], quotient[known], rounding[known]
        rungs = self.count[at]
        for k in np.unique(rungs):
            some = rungs == k
            before = self.here[at[some]]
            self._extend_alike(at[some], int(k), distance[some], quotient[some], rounding[some])
            if k:
                self._decide(at[some], int(k), before)

    def _extend_alike(self, at: Any, k: int, distance: Doubles, new: Doubles, rounding: Doubles) -> None:
        """Extend the ladders that have k rungs."""
        before, noise = self.table[at], self.rounding[at]
        self.distance[at, k], self.quotient[at, k], self.rounded[at, k] = distance, new, rounding
        row, spread = new, rounding
        for j in range(k + 1):
            if j:
                ratio = ((self.distance[at, k - j] / distance) ** self._power(at))[:, None]
                with np.errstate(divide="ignore", invalid="ignore"):  # two distances may be rounded to one
                    finer = row + (row - before[:, j - 1]) / (ratio - 1)
                    wider = (np.abs(ratio) * spread + noise[:, j - 1]) / np.abs(ratio - 1)
                off = np.maximum(np.abs(finer - row), np.abs(finer - before[:, j - 1]))
                if j == k:
                    off = self._shrunk(at, k, np.abs(finer - before[:, j - 1]), off)
                self._keep(at, finer, off, wider)
                row, spread = finer, wider
            self.table[at, j], self.rounding[at, j] = row, spread
        if k == 1:
            self._keep_alike(at)
        self.count[at] = k + 1
        self.h[at] = self.top[at] * RUNGS[min(k + 1, LEVELS - 1)]

    def _keep_alike(self, at: Any) -> None:
        """Of two quotients that agree but for rounding, take the one that has less of it."""
        far = np.argmax(self.distance[at, :2], axis=1)
        apart = np.abs(self.quotient[at, 0] - self.quotient[at, 1])
        both = self.rounded[at, 0] + self.rounded[at, 1]
        alike = (apart <= both) & (self.distance[at, far] >= 2 * self.distance[at, 1 - far])[:, None]
        self._keep(at, self.quotient[at, far], np.where(alike, apart, np.inf), self.rounded[at, far], both / 4)

    def _power(self, at: Any) -> Any:
        return np.where(self.central[at], 2, 1)

    def _shrunk(self, at: Any, k: int, change: Doubles, off: Doubles) -> Doubles:
        """Return what the next change of the table's diagonal will be, if these shrink as in the last three rungs.

        The changes are divided differences times products of distances (Newton's form of the same polynomial). One that
        shrank more than those before may have done so by luck: it counts as what was to be expected.
        """
        before = self.changes[at]
        self.changes[at] = np.concatenate([before[:, 1:], change[:, None]], axis=1)
        if k < 3:
            return off
        t = (self.distance[at, : k + 1] / self.top[at, None]) ** self._power(at)[:, None]
        a, b, c = before[:, 1], before[:, 2] / t[:, k - 2, None], change / (t[:, k - 2] * t[:, k - 1])[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            earlier, last = b / a, c / b
            new = SAFE * np.maximum(c, b * earlier) * np.maximum(last, earlier)
            new = new * (t[:, k - 2] * t[:, k - 1] * t[:, k])[:, None]
            shrinks = (before[:, 2] < CONVERGES * before[:, 1]) & (change < CONVERGES * before[:, 2])
        found: Doubles = np.where(shrinks, np.fmin(new, off), off)
        return found

    def _keep(self, at: Any, value: Doubles, off: Doubles, rounding: Doubles, floor: Doubles | None = None) -> None:
        """Take a value whose bound is smaller than that of what was taken before.

        floor: the part of the bound that no longer ladder would make smaller; `rounding` if not given.
        """
        floor = rounding if floor is None else floor
        bound = off + 2 * rounding + 4 * np.finfo(np.float64).eps * np.abs(value)
        better = bound < self.here[at]
        self.here[at] = np.where(better, bound, self.here[at])
        self.here_floor[at] = np.where(better, floor, self.here_floor[at])
        with np.errstate(invalid="ignore"):  # a higher ladder must not contradict the one before: f may be periodic
            agrees = np.abs(value - self.best[at]) <= self.error[at] + bound
        better = (bound < self.error[at]) & (agrees | (self.climbs[at] == 0)[:, None])
        self.best[at] = np.where(better, value, self.best[at])
        self.floor[at] = np.where(better, floor, self.floor[at])
        self.error[at] = np.where(better, bound, self.error[at])

    # ---- how a ladder goes on ----

    def _decide(self, at: Any, k: int, before: Doubles) -> None:
        best, error, floor = np.abs(self.best[at]), self.here[at], self.here_floor[at]
        varies = self._varies(at) if k == 1 else np.zeros(len(at), bool)
        enough = (error <= np.maximum(6 * floor, 16 * np.finfo(np.float64).eps * best)).all(axis=1)
        stalled = (k >= 3) & (error > before / 2).all(axis=1)
        ended = (enough | stalled | (k + 1 == LEVELS)) & ~varies
        climbing = self.climbs[at] > 0
        if self.known.look is not None and (~enough & ~climbing & (ended | (self.calls[at] >= PATIENCE))).any():
            self._measure()
            self._decide(at, k, self._form_anew(at))
            return
        rough = (floor > self.precise * best).any(axis=1) & enough & (self.climbs[at] < 3)
        higher = ended & rough & (self.top[at] * JUMP <= self.most[at])
        unsure = ended & ~enough & (error > 1e-3 * best + 20 * floor).any(axis=1) & ~climbing
        lower = (varies & ~climbing) | unsure
        first = at[~climbing & ~lower]
        self.scale[first] = self.top[first]
        self.climbs[at[higher]] += 1
        least = at, np.argmin(self.distance[at, : k + 1], axis=1)
        self._restart(at[lower], self.distance[least][lower], least[1][lower], 1 / JUMP)
        largest = np.argmax(self.distance[at, : k + 1], axis=1)
        self._restart(at[higher], self.top[at[higher]] * JUMP, largest[higher], 1.0)
        done = (ended & ~higher & ~lower) | (varies & climbing)
        spent = (self.calls[at] + 2 > CALLS) | (self.h[at] < 4 * np.spacing(np.abs(self.x[at])))
        self.active[at[done | spent]] = False

    def _varies(self, at: Any) -> Any:
        """Whether the first two quotients are so far apart that f varies over less than the distance."""
        one, other = self.quotient[at, 0], self.quotient[at, 1]
        rounding = 2 * (self.rounded[at, 0] + self.rounded[at, 1])
        apart, before = np.abs(one - other), self.apart[at]
        self.apart[at] = apart
        far = apart > FAR_APART * np.maximum(np.abs(one), np.abs(other)) + rounding
        approach = apart <= APPROACHES / JUMP ** self._power(at)[:, None] * before  # as they do a derivative of 0
        return (far & ~approach).any(axis=1)

    def _restart(self, at: Any, top: Doubles, kept: Any = None, first: float = 1.0) -> None:
        """Begin new ladders at these distances; with one rung of the ladder before, if that is given."""
        self.count[at] = 0
        self.here[at], self.here_floor[at] = np.inf, np.inf
        self.top[at] = top
        if kept is not None:
            self._extend_alike(at, 0, self.distance[at, kept], self.quotient[at, kept], self.rounded[at, kept])
        self.h[at] = h = top * first
        small = h < 4 * np.spacing(np.abs(self.x[at]))
        self.active[at[small | (self.calls[at] + 4 > CALLS)]] = False

    # ---- all of it ----

    def run(self, others: Doubles | None = None) -> tuple[Doubles, Doubles]:
        """Return the derivatives, (n, *shape of f's value), and bounds of their errors.

        An error of f leaves with `partial`: what was known by then, of `others` for entries that were not wanted.
        """
        try:
            self.climb_on()
            if self.order == 1:
                self._guard()
        except BaseException as error:
            known = self.best.reshape(-1, *self.shape)
            keep_partial(error, known if others is None else np.where(np.isfinite(known), known, others))
            raise
        self._refuse_unknown()
        self._warn()
        return self.best.reshape(-1, *self.shape), self.error.reshape(-1, *self.shape)

    def climb_on(self) -> None:
        """Work until no entry needs more."""
        while self.active.any():
            self.step()

    def _refuse_unknown(self) -> None:
        lost = np.flatnonzero(~np.isfinite(self.error).all(axis=1) & self.wanted)
        if not len(lost):
            return
        i, refusal = int(lost[0]), self.evaluator.refusal
        error = FloatingPointError(
            f"f: expected a finite number, got none for entry {i} of {self.name} within {self.last[i]:.3g} of "
            f"{self.x[i]:g}" + (f" ({type(refusal).__name__}: {refusal})" if refusal else "")
        )
        raise error from refusal

    def _warn(self) -> None:
        """Say which entries were not found to 10 %, but for those that are next to nothing beside the others."""
        size = np.abs(self.best)
        share = np.maximum(1, np.abs(self.x))[:, None] * size  # what a move by x, or by 1, would make of f
        rounded = self.error <= 20 * self.floor
        least = np.maximum(np.where(rounded, 1e-2, 1e-6) * share.max(axis=0, initial=0.0), 1e-8 * self.size)
        doubtful = np.isfinite(self.error) & (self.error > 0.1 * size)
        doubtful &= self.error * np.maximum(1, np.abs(self.x))[:, None] > least
        if doubtful.any():
            i = int(np.argmax(doubtful.any(axis=1)))
            j = int(np.argmax(doubtful[i]))
            warnings.warn(
                f"f: no step gave the derivative for entry {i} of {self.name} to 10 %: {self.best[i, j]:.3g} with an "
                f"error of about {self.error[i, j]:.1g}; f has a kink or a jump there, or it is too noisy",
                RuntimeWarning,
                stacklevel=6,
            )

    def _guard(self) -> None:
        """Look near x for what the ladders may have stepped over: along one random direction, then entry by entry."""
        for central in (True, False):
            at = np.flatnonzero(np.isfinite(self.error).all(axis=1) & (self.central == central))
            if len(at):
                with np.errstate(over="ignore"):
                    self._guard_alike(at, central)

    def _guard_alike(self, at: Any, central: bool) -> None:
        """Compare f on a random direction with the derivatives."""
        if len(self.x) == 1:
            self._guard_alone(at, central)
            return
        eps = self.known.eps
        size = np.maximum(1, np.abs(self.x[at])).astype(np.float64)
        h = np.minimum(np.minimum(eps ** (1 / 3 if central else 1 / 2) * size, self.last[at] / 4), self.most[at])
        signs = scattered_signs(len(self.x))[at] if central else self.sign[at]
        moved, values = self._moved_by(at, h * signs, (1, -1) if central else (1,))
        parts = self.best[at] * moved
        off = np.abs(values[0] - (values[1] if central else self.base[0]) - parts.sum(axis=0))
        allowed = (self.error[at] * np.abs(moved)).sum(axis=0)
        allowed = allowed + (1e-4 if central else 1e-3) * np.sqrt((parts**2).sum(axis=0))
        allowed = allowed + 20 * np.maximum(self.noise[0], 0.5 * eps * np.abs(values).max(axis=0))
        if (off > allowed).any():
            self._look_again(at, h, central)

    def _guard_alone(self, at: Any, central: bool) -> None:
        """Compare f so near to x that nothing but its noise should be left; by one evaluation, as f(x) is known."""
        eps, size = self.known.eps, np.abs(self.x[at])
        h = np.minimum(np.maximum(eps ** (3 / 8) * self.last[at], 16 * np.spacing(size)), self.most[at])
        moved, values = self._moved_by(at, h * self.sign[at], (1,))
        change, bent = self.best[at] * moved, self.bend[at] * moved * moved / 2
        off = np.abs(values - self.base - change - bent)
        off = np.maximum(off - self.error[at] * np.abs(moved) - np.abs(bent) / 8, 0)
        allowed = 1e-4 * np.abs(change)
        if self.known.look is not None:
            argument = np.abs(self.x[at, None] * self.best[at])  # rounded within f, it may move f by eps times this
            noise = np.maximum(self.noise, eps * np.maximum(0.5 * np.abs(values), argument))
            if (off <= allowed + 20 * noise).all():
                self._widen(off)
                return
            self._measure()
            self._go_on(at)
        if (off > allowed + 100 * np.maximum(self.noise, 0.5 * eps * np.abs(values))).any():
            self._look_again(at, h, central)

    def _go_on(self, at: Any) -> None:
        """Go on with a ladder that was taken for done before f's noise was known."""
        self.active[at] = True
        if self.climbs[at].any():
            self.error[at], self.calls[at], self.climbs[at] = np.inf, 0, 0
            self._restart(at, self.scale[at])
        else:
            self._decide(at, int(self.count[at].max()) - 1, self._form_anew(at))
        self.climb_on()

    def _moved_by(self, at: Any, direction: Doubles, ends: tuple[int, ...]) -> tuple[Doubles, Doubles]:
        """Return how far each entry is moved, from the second end or x to the first, and f at the ends, (E, m)."""
        start, whole = self.evaluator.start, np.zeros(len(self.x))
        whole[at] = direction
        moved = [(self.x + sign * whole).astype(self.x.dtype) for sign in ends]
        points = [[*start[: self.leaf], end.reshape(start[self.leaf].shape), *start[self.leaf + 1 :]] for end in moved]
        self.evaluator.lenient = True
        try:
            values = self.evaluator.at(points, " near x").reshape(len(ends), -1)
        finally:
            self.evaluator.lenient = False
        away = moved[0].astype(np.float64) - (moved[1] if len(ends) > 1 else self.x).astype(np.float64)
        return away[at, None], values

    def _widen(self, residue: Doubles) -> None:
        """Let the bounds allow for a noise of f that shows in the last evaluation, where it was only assumed."""
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where(residue > 0, residue / self.assumed, 0)
            self.error += np.where(times > 1, 2 * self.floor * times, 0)

    def _look_again(self, at: Any, h: Doubles, central: bool) -> None:
        self._measure()
        _, near, rounding = self._quotients(at, h, central)
        missed = ~(np.abs(near - self.best[at]) <= 1e-3 * np.abs(self.best[at]) + self.error[at] + 4 * rounding)
        some = at[missed.any(axis=1)]
        self.error[some], self.floor[some] = np.inf, np.inf
        self.active[some] = True
        self.calls[some] = self.climbs[some] = 0
        self._restart(some, h[missed.any(axis=1)] * JUMP)
        self.climb_on()
