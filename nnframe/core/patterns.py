"""Which inputs of a layer move which outputs: looked for where a layer without a backward is differentiated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnframe.core.coloring import Pattern, joined, pattern_from, pattern_of
from nnframe.core.local import (
    Doubles,
    Rows,
    central_difference,
    evaluated,
    moved_together,
    refuse_coarse,
    row_numbers,
    steps_of,
)
from nnframe.core.parameter import Parameter
from nnframe.core.run import Run
from nnframe.core.structure import couples_of

if TYPE_CHECKING:
    from nnframe.core.chain import Link

FEW_COLUMNS = 4  # no more than these are not worth a search for which of them may be moved together
CHANGED = 1e-9  # of the largest output: what counts as a change when it is searched which inputs move which outputs


class NotThere(Exception):
    """What was found about a layer's structure does not hold for this mini-batch."""


def input_pattern(link: Link, run: Run, couples: str) -> Pattern | None:
    """Colours of a layer's inputs, found once for each shape; None where each input must be moved alone."""
    by_row = couples == "rows"
    columns = math.prod(link.x.shape[1:]) if by_row else link.x.size
    found = run.memory.findings(link.layer) if run.memory is not None else None
    if found is None or found.contradicted > 1 or columns <= FEW_COLUMNS or seen_through(link):
        return None
    key = ("x", link.x.shape[1:] if by_row else link.x.shape)
    if key not in found.patterns:
        found.patterns[key] = _Search(link, run, by_row).inputs()
    return found.patterns[key]  # type: ignore[no-any-return]


def forget_pattern(link: Link, run: Run) -> None:
    """Forget a layer's patterns, as one of them did not hold: it is looked for once more, and then no longer."""
    found = run.memory.of(link.layer) if run.memory is not None else None
    if found is not None:
        found.patterns.clear()
        found.contradicted += 1


def parameter_pattern(link: Link, parameter: Parameter, run: Run) -> Pattern | None:
    """Colours of the entries of one of a layer's parameters; None where each must be moved alone."""
    found = run.memory.of(link.layer) if run.memory is not None else None
    if found is None or found.contradicted > 1 or parameter.value.size <= FEW_COLUMNS or isinstance(link.x, tuple):
        return None
    by_row = couples_of(link, run) != "batch"
    shape = link.x.shape[1:] if by_row else link.x.shape
    which = next(i for i, p in enumerate(link.layer.parameters()) if p is parameter)
    key = (which, parameter.value.shape, shape)
    if key not in found.patterns:
        found.patterns[key] = _Search(link, run, by_row).parameter(parameter)
    return found.patterns[key]  # type: ignore[no-any-return]


def seen_through(link: Link) -> bool:
    """Whether a link is made of others that answer for themselves."""
    return link.chain or link.traits.branches


class _Search:
    """Looks for the pattern of one layer's Jacobian: on a few rows, or the whole batch where rows are mixed.

    Zeros that are there by chance (a ReLU that is off) are guarded against: every pattern is compared with a random
    direction on the whole mini-batch, and rows that contradict it are taken in.
    """

    MOST_ROUNDS = 4
    ROWS_A_ROUND = 4
    MOST_ENTRIES = 1 << 26  # of a pattern

    def __init__(self, link: Link, run: Run, by_row: bool) -> None:
        self.link, self.run, self.by_row = link, run, by_row
        self.rng = np.random.Generator(np.random.PCG64(20260102))
        refuse_coarse(link, run)
        self.x = link.x if link.x.dtype.kind != "f" else link.x.astype(np.float64)
        self.base = evaluated(link, self.x, run)
        # of each output by itself, as outputs may be of different units
        sizes = np.abs(np.where(np.isfinite(self.base), self.base, 0)).reshape(len(self.base) if by_row else 1, -1)
        self.threshold = np.maximum(CHANGED * sizes.max(axis=0, initial=0), 1e-15 * sizes.max(initial=0))
        self.outputs = math.prod(link.y.shape[1:]) if by_row else link.y.size
        self.rows = row_numbers(len(link.y), run)

    def inputs(self) -> Pattern | None:
        """Colours of the inputs."""
        columns = math.prod(self.link.x.shape[1:]) if self.by_row else self.link.x.size
        return self._search(columns, self._inputs_of_row if self.by_row else self._inputs_of_batch, self._check_inputs)

    def parameter(self, parameter: Parameter) -> Pattern | None:
        """Colours of the entries of a parameter."""

        def touched(row: int) -> list[Rows]:
            return self._entries(parameter, row)

        def check(pattern: Pattern) -> Rows:
            return self._check_parameter(parameter, pattern)

        return self._search(parameter.value.size, touched, check)

    def _search(self, columns: int, touched_by: Any, check: Any) -> Pattern | None:
        try:
            return self._found(columns, touched_by, check)
        except Exception:
            return None

    def _found(self, columns: int, touched_by: Any, check: Any) -> Pattern | None:
        samples = [0, len(self.x) // 2] if self.by_row and len(self.x) > 1 else [0]
        seen = set(samples)
        touched = touched_by(samples[0])
        for row in samples[1:]:
            touched = joined(touched, touched_by(row))
        for _ in range(self.MOST_ROUNDS):
            if sum(map(len, touched)) > self.MOST_ENTRIES:
                return None
            pattern = pattern_from(touched, self.outputs)
            if 2 * len(pattern.colours) > columns:
                return None
            wrong = [int(row) for row in check(pattern) if int(row) not in seen]
            if not wrong:
                return pattern
            if not self.by_row:
                return None
            before = sum(map(len, touched))
            for row in wrong[: self.ROWS_A_ROUND]:
                seen.add(row)
                touched = joined(touched, touched_by(row))
            if sum(map(len, touched)) == before:  # kinks, not outputs that had been missed
                return pattern
        return None

    # ---- one column at a time ----

    def _displacements(self, values: Doubles) -> tuple[Doubles, Doubles]:
        """Two far moves for each of some numbers: far, so that what depends on them at all is seen to."""
        size = float(np.abs(values).max(initial=0)) or 1.0
        far = size * (0.5 + self.rng.random(values.shape))
        return far, -far

    def _changed(self, y: Doubles, base: Doubles) -> npt.NDArray[np.bool_]:
        with np.errstate(invalid="ignore"):
            return np.asarray(~(np.abs(y - base).reshape(len(y), -1) <= self.threshold))

    def _inputs_of_row(self, row: int) -> list[Rows]:
        x = self.x[row].reshape(-1)
        moves = self._displacements(x)

        def changed(columns: Rows) -> npt.NDArray[np.bool_]:
            found = np.zeros((len(columns), self.outputs), bool)
            for move in moves:
                stack = np.repeat(x[None], len(columns) + 1, axis=0)
                stack[np.arange(len(columns)), columns] += move[columns]
                rows = np.full(len(stack), self.rows[row])
                shaped = stack.reshape(-1, *self.x.shape[1:])
                y = self._evaluated(shaped, rows, (len(stack), *self.base.shape[1:]))
                found |= self._changed(y[:-1], y[-1:])
            return found

        return pattern_of(len(x), max(len(x), self.outputs), changed)

    def _inputs_of_batch(self, _: int) -> list[Rows]:
        flat = self.x.reshape(-1)
        moves = self._displacements(flat)

        def changed(columns: Rows) -> npt.NDArray[np.bool_]:
            found = np.zeros((len(columns), self.outputs), bool)
            for i, column in enumerate(columns):
                for move in moves:
                    moved = flat.copy()
                    moved[column] += move[column]
                    y = self._evaluated(moved.reshape(self.x.shape), None, self.base.shape)
                    found[i] |= self._changed(y[None], self.base[None])[0]
            return found

        return pattern_of(flat.size, self.outputs, changed)

    def _entries(self, parameter: Parameter, row: int) -> list[Rows]:
        copy, memo = self.run.copy_of(self.link.layer, np.float64)
        value = memo[id(parameter)].value.reshape(-1)
        some = np.array([row, row]) if self.by_row else np.arange(len(self.x))
        x, rows = self.x[some], self.rows[some]
        shape = (len(x), *self.base.shape[1:])
        base = self._evaluated(x, rows, shape)
        moves = self._displacements(value)

        def changed(columns: Rows) -> npt.NDArray[np.bool_]:
            found = np.zeros((len(columns), self.outputs), bool)
            for i, column in enumerate(columns):
                saved = value[column]
                try:
                    for move in moves:
                        value[column] = saved + move[column]
                        y = self._evaluated(x, rows, shape, copy)
                        found[i] |= (
                            self._changed(y[:1], base[:1])[0] if self.by_row else self._changed(y[None], base[None])[0]
                        )
                finally:
                    value[column] = saved
            return found

        return pattern_of(value.size, self.outputs, changed)

    def _evaluated(self, x: Any, rows: Rows | None, expected: tuple[int, ...], copy: Any = None) -> Doubles:
        with np.errstate(all="ignore"):
            return evaluated(self.link, x, self.run, rows, expected, copy)

    # ---- against a random direction ----

    def _check_inputs(self, pattern: Pattern) -> Rows:
        h = steps_of(self.link.x, None).reshape(len(self.x) if self.by_row else 1, -1)
        way = self.rng.choice([-1.0, 1.0], h.shape[1]) * h
        with np.errstate(all="ignore"):
            true = central_difference(self.link, way.reshape(self.link.x.shape)).reshape(len(h), -1)
            predicted = np.zeros(true.shape)
            for group in pattern.colours:
                moved = np.zeros(h.shape)
                moved[:, group.columns] = way[:, group.columns]
                change = central_difference(self.link, moved.reshape(self.link.x.shape)).reshape(len(h), -1)
                predicted[:, group.outputs] += change[:, group.outputs]
        return self._contradicting(true, predicted)

    def _check_parameter(self, parameter: Parameter, pattern: Pattern) -> Rows:
        h = steps_of(parameter.value, None).reshape(-1)
        signs = self.rng.choice([-1.0, 1.0], h.shape)
        shape = (len(self.x) if self.by_row else 1, -1)
        every = np.arange(h.size)
        with np.errstate(all="ignore"):
            true = moved_together(self.link, parameter, every, h, self.run, signs)[0].reshape(shape)
            predicted = np.zeros(true.shape)
            for group in pattern.colours:
                columns = group.columns
                change = moved_together(self.link, parameter, columns, h, self.run, signs[columns])[0].reshape(shape)
                predicted[:, group.outputs] += change[:, group.outputs]
        return self._contradicting(true, predicted)

    def _contradicting(self, true: Doubles, predicted: Doubles) -> Rows:
        """Rows in which the two differ, each output measured by itself."""
        finite = np.isfinite(true) & np.isfinite(predicted)
        sizes = np.abs(np.where(finite, true, 0)).max(axis=0, initial=0)
        bound = np.maximum(1e-4 * sizes, 1e-12 * sizes.max(initial=0))
        off = np.abs(np.where(finite, true - predicted, 0))
        return np.flatnonzero((off > bound).any(axis=1))
