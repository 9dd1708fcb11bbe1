"""`Backprop(verify=...)`: written backward passes against differences, on the batches that a model is trained with.

A private float64 copy of the model takes a few rows of the mini-batch, and each layer's backward the gradient that
comes from above in it. Neither the model nor a gradient is touched, so that training gives the same bits with it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.core.backward import backward_of
from nnframe.core.chain import ForwardPass, Link, run_forward
from nnframe.core.layer import Layer
from nnframe.core.protocol import LayerError, passes_of
from nnframe.core.run import Run
from nnframe.core.structure import Findings, Memory, couples_of
from nnframe.gradients.check.differences import STEP, Sweep, moved
from nnframe.gradients.check.gradients import check_entries, check_gradients
from nnframe.gradients.check.noise import Doubles, Indices, sizes_of
from nnframe.gradients.check.report import Check, GradientError, Report
from nnframe.gradients.check.subjects import LayerSubject, LossSubject, Subjects
from nnframe.losses.base import Loss, value_and_gradient

WHERE = "Backprop(verify=...)"
FIRST = 3  # batches on which more is looked at
FIRST_SECONDS = 0.05  # for `check_gradients` on the very first
MANY, FEW = 128, 4  # entries of each array on the other first ones, and later
EVERY = 100  # gradients between two looks, unless told otherwise
ROWS = 8  # of the mini-batch, where rows do not depend on each other
NEAR = 1e-6  # of what an entry is added up from: how near a difference at one step comes to what is right


class Verifier:
    """Looks at the first gradients of each model, and then at a few entries every so many.

    Parameters
    ----------
    verify : True or int
        Gradients between two looks; EVERY.
    """

    def __init__(self, verify: bool | int) -> None:
        if verify is not True and (not isinstance(verify, int | np.integer) or verify < 1):
            raise ValueError(f"verify: expected True, False, or after how many gradients to look again, got {verify!r}")
        self.verify = verify
        self.every = EVERY if verify is True else int(verify)
        self.counts: dict[int, tuple[Any, int]] = {}  # gradients of each model
        self.met: dict[int, tuple[Any, Any]] = {}  # layers and losses, and the passes that they had
        self.rng = np.random.Generator(np.random.PCG64((20261125, 9)))

    def look(self, passed: ForwardPass, t: npt.ArrayLike, step: float | None) -> None:
        """Compare, where it is time to; GradientError with the table where a backward is wrong."""
        number = self._count(passed.model)
        if number > FIRST and number % self.every:
            return
        rows = self._rows(passed)
        try:
            new = self._new(passed)
            if new:
                self._look_at_all(passed, rows, number)
                self.met |= new
            self._look_at_some(passed, t, rows, step, number)
        except (GradientError, LayerError):
            raise
        except Exception as error:
            raise LayerError(
                f"{WHERE}: nothing can be compared, as the model does not run in float64 on "
                f"{len(passed.output) if rows is None else len(rows)} rows of the mini-batch: {type(error).__name__}: "
                f"{error}; train without verify"
            ) from error

    def _count(self, model: Any) -> int:
        known = self.counts.get(id(model))
        number = known[1] + 1 if known is not None and known[0]() is model else 1
        self.counts[id(model)] = weakref.ref(model), number
        return number

    def _rows(self, passed: ForwardPass) -> npt.NDArray[np.intp] | None:
        """Draw some rows of the mini-batch; None for all of them."""
        count = len(passed.output)
        if count <= ROWS or any(couples_of(link, passed.run) == "batch" for link in passed.links):
            return None
        return np.sort(self.rng.permutation(count)[:ROWS]).astype(np.intp)

    def _new(self, passed: ForwardPass) -> dict[int, tuple[Any, Any]]:
        """Return layers whose written backward has not been met yet, or was replaced, and the passes that they have."""
        found = {}
        for link in _written(passed.links):
            known = self.met.get(id(link.layer))
            passes = passes_of(link.layer)
            if known is None or known[0]() is not link.layer or known[1] != passes:
                found[id(link.layer)] = weakref.ref(link.layer), passes
        return found

    def _look_at_all(self, passed: ForwardPass, rows: Any, number: int) -> None:
        report = check_gradients(passed.model, _part(passed.x, rows), seconds=FIRST_SECONDS)
        _refuse(report.wrong, list(report), number)

    def _look_at_some(self, passed: ForwardPass, t: npt.ArrayLike, rows: Any, step: float | None, number: int) -> None:
        """Compare a few entries of each written gradient, given what comes from above."""
        few = MANY if number <= FIRST else FEW
        memo: dict[int, Any] = {}
        double: Any = passed.model.astype(np.float64, memo)
        originals = {id(memo[id(tree)]): tree for _, tree in passed.model.named_trees()}
        with Run(True, None, step, double) as run:
            run.rows = rows
            again = run_forward(double, _part(passed.x, rows), run)
            run.memory = _found_already(passed.run, memo)
            loss, labels = passed.loss, _labels(passed, t, rows)
            if loss.has_backward and (loss._traits.own or number <= FIRST):
                wrong = self._compared(SomeMovesOfOutput(loss, again.output, labels, few, self.rng), None)
                _refuse(wrong, wrong, number)
            dy = value_and_gradient(loss, again.output, loss.prepare(again.output, labels), step)[1]
            for link, above, moves_x in _down(again.links, dy, step):
                is_due = _is_written(link) and (link.traits.own or number <= FIRST)
                if not is_due or not above.any() or not np.isfinite(above).all():
                    continue
                wrong = self._compared(SomeMoves(link, run, few, self.rng, moves_x), above)
                if wrong:
                    originals[id(link.layer)].verified = False
                _refuse(wrong, wrong, number)

    def _compared(self, subject: Subjects, dy: Doubles | None) -> list[Check]:
        """Return the rows of a table where an entry is wrong, else none.

        A first glance is cheap; what it does not find right is looked at with all means.
        """
        above = np.ones(subject.y.shape) if dy is None else dy
        try:
            found = subject.backward(above)
            if all(_is_near(subject, above, name, found[name]) for name in subject.arrays):
                return []
        except Exception:  # which is told below
            pass
        checks = check_entries(subject, above, self.rng)
        return checks if any(not check.right for check in checks) else []

    def __deepcopy__(self, memo: dict[int, Any]) -> Verifier:
        return Verifier(self.verify)

    def __reduce__(self) -> Any:
        return Verifier, (self.verify,)


def _is_near(subject: Subjects, dy: Doubles, name: str, written: Any) -> bool:
    """Whether all entries of a gradient that are moved are near to one central difference each.

    What comes near it is right; what does not is looked at again.
    """
    array = subject.arrays[name]
    if not isinstance(written, np.ndarray) or written.shape != array.shape:
        return False
    for sweep in subject.sweeps(name):
        entries = sweep.entries
        start = array.reshape(-1)[entries]
        steps = STEP * sizes_of(start).reshape(start.shape)
        ends = np.concatenate([start + steps, start - steps])
        with np.errstate(all="ignore"):
            y = moved(subject, name, np.concatenate([entries, entries]), ends)
            change = (y[: len(entries)] - y[len(entries) :]) * dy.reshape(-1)
            width = ends[: len(entries)] - ends[len(entries) :]
            off = np.abs(written.reshape(-1)[entries] - sweep.totals(change) / width)
            if not (off <= NEAR * sweep.totals(np.abs(change)) / width).all():
                return False
    return True


class SomeMoves(LayerSubject):
    """A layer of which a few moves are made, drawn at random.

    Parameters
    ----------
    link, run :
        As for `LayerSubject`.
    few : int
        Entries of each array, at least, where it has so many; those that are moved with them come with them.
    rng : np.random.Generator
    moves_x : bool
        Whether the gradient of the input counts.
    """

    def __init__(self, link: Link, run: Run, few: int, rng: np.random.Generator, moves_x: bool) -> None:
        super().__init__(link, run)
        if not moves_x:
            self.arrays = {name: array for name, array in self.arrays.items() if name in self.parameters}
        self.few, self.rng = few, rng
        self.chosen: dict[str, list[Sweep]] = {}

    def sweeps(self, name: str) -> list[Sweep]:
        """Return the moves that were drawn."""
        if name not in self.chosen:
            self.chosen[name] = _drawn(super().sweeps(name), self.few, self.rng)
        return self.chosen[name]

    def stacked(self, name: str, entries: Indices, values: Doubles) -> Doubles | None:
        """Return values for several moves of the input in one call; copies of parameters cost more than they save."""
        return None if name in self.parameters else super().stacked(name, entries, values)


class SomeMovesOfOutput(LossSubject):
    """A loss of whose output a few moves are made, drawn at random."""

    def __init__(self, loss: Loss, y: Any, t: Any, few: int, rng: np.random.Generator) -> None:
        super().__init__(loss, y, t)
        self.chosen = _drawn(super().sweeps("y"), few, rng)

    def sweeps(self, name: str) -> list[Sweep]:
        """Return the moves that were drawn."""
        return self.chosen


def _drawn(sweeps: list[Sweep], few: int, rng: np.random.Generator) -> list[Sweep]:
    """Draw moves of at least so many entries together, where there are so many."""
    ends = np.cumsum([len(sweep.entries) for sweep in sweeps])
    count = int(ends[-1]) if sweeps else 0
    moves = np.arange(count) if count <= few else rng.permutation(np.unique(rng.integers(0, count, few)))
    entries = 0
    taken: dict[int, list[int]] = {}
    for move in moves.tolist():
        if entries >= few:
            break
        owner = int(np.searchsorted(ends, move, side="right"))
        taken.setdefault(owner, []).append(move - (int(ends[owner - 1]) if owner else 0))
        entries += sweeps[owner].entries.shape[1]
    return [sweeps[owner].part(np.array(some, np.intp)) for owner, some in taken.items()]


# ---- a model again, in float64 ----


def _written(links: list[Link]) -> Iterator[Link]:
    """Return each link whose written backward `Backprop` calls, those inside containers too."""
    for link in links:
        if link.traits.branches and link.inner:
            for branch in link.inner:
                yield from _written(branch.links)
        elif _is_written(link):
            yield link


def _is_written(link: Link) -> bool:
    return link.traits.backward and isinstance(link.layer, Layer)


def _down(links: list[Link], dy: Any, step: float | None, wanted: bool = False) -> Iterator[tuple[Link, Any, bool]]:
    """Take a gradient down, and return each link with what comes from above, and whether that of its input counts.

    wanted : whether that of the lowest link's input does
    """
    lowest = -1 if wanted else next((i for i, link in enumerate(links) if link.parameters), len(links))
    for i in range(len(links) - 1, max(lowest, 0) - 1, -1):
        link = links[i]
        if link.traits.branches and link.inner:
            into = link.layer.split_gradient([branch.y for branch in link.inner], dy)
            for branch, part in zip(link.inner, into, strict=True):
                yield from _down(branch.links, np.ascontiguousarray(part), step, i > lowest)
        else:
            yield link, dy, i > lowest
        if i > lowest:
            # of a layer without a backward, whose parameters are not compared, the gradient of the input alone
            dy = backward_of(link if link.traits.backward else link._replace(parameters=[]), dy, step)


def _found_already(run: Run, copies: dict[int, Any]) -> Memory:
    """Return what is known about the layers of a model, for their copies by the `id` of the originals."""
    memory = Memory()
    for key, known in (run.memory.known if run.memory is not None else {}).items():
        if known.layer() is not None and key in copies:
            found = memory.known[id(copies[key])] = Findings(copies[key])
            found.couples, found.coarse, found.contradicted = known.couples, known.coarse, 2  # without patterns
    return memory


def _part(x: Any, rows: Any) -> Any:
    if rows is None:
        return x
    return tuple(one[rows] for one in x) if isinstance(x, tuple) else x[rows]


def _labels(passed: ForwardPass, t: npt.ArrayLike, rows: Any) -> Any:
    """Return the labels of some rows, as they were given."""
    if rows is None:
        return t
    given = np.asarray(t)
    if given.ndim == 0 or len(given) != len(passed.output):
        raise LayerError(f"verify: expected labels of {len(passed.output)} rows, got shape {given.shape}")
    return given[rows]


def _refuse(wrong: list[Check], checks: list[Check], number: int) -> None:
    if wrong:
        raise GradientError(
            f"{WHERE}: gradient {number}: a written backward does not fit its forward. The parameters are "
            f"those from before this step\n\n{Report(checks)}"
        )
