"""A step that is looked for: the scheme "auto".

Each entry has a ladder of distances, each half of the one before, and Neville's table of the quotients at them: where f
is smooth, its columns converge to the derivative. Two quotients that are far apart tell that f varies over less than
the distance: the ladder begins anew, lower. Two that agree but for rounding, while rounding is large, tell the
opposite: it begins anew, higher. The entry of the table with the smallest bound is taken (Ridders, Adv. Eng. Softw. 4,
1982); its bound is the difference from its neighbours and what rounding has become in it, never 0.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nnframe.numerical.answers import Doubles
from nnframe.numerical.evaluators import Evaluator, Floats, Group
from nnframe.numerical.probe import Known, scattered_signs
from nnframe.numerical.schemes import keep_partial

LEVELS = 7  # distances of a ladder
CALLS = 28  # most evaluations for an entry
JUMP = 8.0  # from the distances of one ladder to those of another
FAR_APART = 0.25  # relative difference of two quotients that do not yet converge
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
        self.table, self.rounding = np.zeros((n, LEVELS, m)), np.zeros((n, LEVELS, m))
        self.best, self.error = np.full((n, m), np.nan), np.full((n, m), np.inf)
        self.floor = np.full((n, m), np.inf)  # the part of the error that is rounding
        self.here, self.here_floor = self.error.copy(), self.error.copy()  # both of the ladder that is climbed
        self.changes = np.zeros((n, 2, m))  # the last two from one entry of the table's diagonal to the next
        self.last = self.h.copy()  # the distance of the last quotient
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
                self._extend(some, *self._quotients(some, self.h[some], central))

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
            away = (values.astype(np.float64) - start.astype(np.float64)[:, None])[:, :, None]
            self.size = np.fmax(self.size, np.where(np.isfinite(table), np.abs(table), 0).max(axis=(0, 1)))
            size = np.maximum(self.noise, 0.5 * self.known.eps * np.abs(table).max(axis=1))
            if self.order == 2:
                up = away[:, 0]
                return up[:, 0], ((table[:, 0] - self.base) + (table[:, 1] - self.base)) / up / up, 4 * size / up / up
            if central:
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

    # ---- the table ----

    def _extend(self, at: Any, distance: Doubles, quotient: Doubles, rounding: Doubles) -> None:
        """Add a quotient to the ladder of each entry, and decide how it goes on."""
        self.last[at] = self.h[at]
        known = np.isfinite(quotient).all(axis=1)
        self._restart(at[~known], self.h[at[~known]] / JUMP)
        at, distance, quotient, rounding = at[known], distance[known], quotient[known], rounding[known]
        rungs = self.count[at]
        for k in np.unique(rungs):
            some = rungs == k
            self._extend_alike(at[some], int(k), distance[some], quotient[some], rounding[some])

    def _extend_alike(self, at: Any, k: int, distance: Doubles, new: Doubles, rounding: Doubles) -> None:
        """Extend the ladders that have k rungs."""
        before, error = self.table[at], self.here[at]
        noise = self.rounding[at]
        apart = np.abs(new - before[:, 0]) if k else np.full_like(new, np.inf)
        scale = np.maximum(np.abs(new), np.abs(before[:, 0]))
        first_noise = 2 * (rounding + noise[:, 0])
        self.distance[at, k] = distance
        row, spread = new, rounding
        for j in range(k + 1):
            if j:
                ratio = ((self.distance[at, k - j] / distance) ** np.where(self.central[at], 2, 1))[:, None]
                with np.errstate(divide="ignore", invalid="ignore"):  # two distances may be rounded to one
                    finer = row + (row - before[:, j - 1]) / (ratio - 1)
                    wider = (ratio * spread + noise[:, j - 1]) / (ratio - 1)
                off = np.maximum(np.abs(finer - row), np.abs(finer - before[:, j - 1]))
                if j == k:
                    off = self._shrunk(at, k, off)
                self._keep(at, finer, off, wider)
                row, spread = finer, wider
            self.table[at, j], self.rounding[at, j] = row, spread
        self.count[at] = k + 1
        self.h[at] /= 2
        if k == 0:
            return
        varies = (k == 1) & (apart > FAR_APART * scale + first_noise).any(axis=1)
        self._decide(at, k, varies, error)

    def _shrunk(self, at: Any, k: int, change: Doubles) -> Doubles:
        """Return what the next change of the table's diagonal will be, if it shrinks as in the last two rungs.

        What shrank much more than before may have done so by luck: it counts as a tenth of what was to be expected.
        """
        before = self.changes[at]
        self.changes[at] = np.stack([before[:, 1], change], axis=1)
        if k < 3:
            return change
        with np.errstate(divide="ignore", invalid="ignore"):
            earlier, last = before[:, 1] / before[:, 0], change / before[:, 1]
            next_change = SAFE * np.maximum(change, 0.1 * before[:, 1] * earlier) * np.maximum(last, 0.2 * earlier)
        shrinks = (earlier < CONVERGES) & (last < CONVERGES)
        found: Doubles = np.where(shrinks, np.fmin(next_change, change), change)
        return found

    def _keep(self, at: Any, value: Doubles, off: Doubles, rounding: Doubles) -> None:
        bound = off + 2 * rounding + 4 * np.finfo(np.float64).eps * np.abs(value)
        better = bound < self.here[at]
        self.here[at] = np.where(better, bound, self.here[at])
        self.here_floor[at] = np.where(better, rounding, self.here_floor[at])
        with np.errstate(invalid="ignore"):  # a higher ladder must not contradict the one before: f may be periodic
            agrees = np.abs(value - self.best[at]) <= self.error[at] + bound
        better = (bound < self.error[at]) & (agrees | (self.climbs[at] == 0)[:, None])
        self.best[at] = np.where(better, value, self.best[at])
        self.floor[at] = np.where(better, rounding, self.floor[at])
        self.error[at] = np.where(better, bound, self.error[at])

    # ---- how a ladder goes on ----

    def _decide(self, at: Any, k: int, varies: Any, before: Doubles) -> None:
        best, error, floor = np.abs(self.best[at]), self.here[at], self.here_floor[at]
        enough = (error <= np.maximum(6 * floor, 16 * np.finfo(np.float64).eps * best)).all(axis=1)
        stalled = (k >= 3) & (error > before / 2).all(axis=1)
        ended = (enough | stalled | (k + 1 == LEVELS)) & ~varies
        climbing = self.climbs[at] > 0
        rough = (floor > self.precise * best).any(axis=1) & enough & (self.climbs[at] < 3)
        higher = ended & rough & (self.top[at] * JUMP <= self.most[at])
        unsure = ended & ~enough & (error > 1e-3 * best + 20 * floor).any(axis=1) & ~climbing
        lower = (varies & ~climbing) | unsure
        first = at[~climbing & ~lower]
        self.scale[first] = self.top[first]
        self.climbs[at[higher]] += 1
        self._restart(at[lower], np.where(varies, self.top[at], 2 * self.h[at])[lower] / JUMP)
        self._restart(at[higher], self.top[at[higher]] * JUMP)
        done = (ended & ~higher & ~lower) | (varies & climbing)
        spent = (self.calls[at] + 2 > CALLS) | (self.h[at] < 4 * np.spacing(np.abs(self.x[at])))
        self.active[at[done | spent]] = False

    def _restart(self, at: Any, h: Doubles) -> None:
        self.count[at] = 0
        self.here[at], self.here_floor[at] = np.inf, np.inf
        self.h[at] = self.top[at] = h
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
        eps, start = self.known.eps, self.evaluator.start
        size = np.maximum(1, np.abs(self.x[at])).astype(np.float64)
        h = np.minimum(np.minimum(eps ** (1 / 3 if central else 1 / 2) * size, self.last[at] / 4), self.most[at])
        direction = np.zeros(len(self.x))
        direction[at] = h * (scattered_signs(len(self.x))[at] if central else self.sign[at])
        ends = [(self.x + sign * direction).astype(self.x.dtype) for sign in ((1, -1) if central else (1, 0))]
        moved = (ends[0].astype(np.float64) - ends[1].astype(np.float64))[at, None]
        points = [[*start[: self.leaf], end.reshape(start[self.leaf].shape), *start[self.leaf + 1 :]] for end in ends]
        self.evaluator.lenient = True
        values = self.evaluator.at(points if central else points[:1], " near x").reshape(1 + central, -1)
        self.evaluator.lenient = False
        parts = self.best[at] * moved
        off = np.abs(values[0] - (values[1] if central else self.base[0]) - parts.sum(axis=0))
        allowed = (self.error[at] * np.abs(moved)).sum(axis=0)
        allowed = allowed + (1e-4 if central else 1e-3) * np.sqrt((parts**2).sum(axis=0))
        allowed = allowed + 20 * np.maximum(self.noise[0], 0.5 * eps * np.abs(values).max(axis=0))
        if (off > allowed).any():
            self._look_again(at, h, central)

    def _look_again(self, at: Any, h: Doubles, central: bool) -> None:
        _, near, rounding = self._quotients(at, h, central)
        missed = ~(np.abs(near - self.best[at]) <= 1e-3 * np.abs(self.best[at]) + self.error[at] + 4 * rounding)
        some = at[missed.any(axis=1)]
        self.error[some], self.floor[some] = np.inf, np.inf
        self.active[some] = True
        self.calls[some] = self.climbs[some] = 0
        self._restart(some, h[missed.any(axis=1)] * JUMP)
        self.climb_on()
