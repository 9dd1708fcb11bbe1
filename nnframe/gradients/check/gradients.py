"""`check_gradients`: a backward pass that was written by hand, anywhere, against central differences of every entry."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_generator
from nnframe.core.backward import backward_through
from nnframe.core.chain import ForwardPass, Link, Reshaped, run_forward
from nnframe.core.layer import Layer
from nnframe.core.local import as_step
from nnframe.core.protocol import LayerError, named
from nnframe.core.run import Run, read_only
from nnframe.core.structure import Findings, Memory, ask
from nnframe.gradients.check import promises, rows
from nnframe.gradients.check.causes import Case, explain
from nnframe.gradients.check.differences import Differences, Worst
from nnframe.gradients.check.noise import EPS, Doubles, Line
from nnframe.gradients.check.report import FLAT, KINK, RIGHT, UNCHECKED, VERDICTS, WRONG, Check, Report, plainly
from nnframe.gradients.check.rounding import rounded_to_float32, rounding_of, unresolved
from nnframe.gradients.check.subjects import (
    FunctionSubject,
    LayerSubject,
    LossSubject,
    Subjects,
    is_torch_function,
    of_torch,
    room,
)
from nnframe.gradients.check.verdicts import Judged
from nnframe.losses.base import Loss

COARSE = 1e-2  # of what a number is added up from: rounding to 16 bits is below
FLOAT32 = (
    "it is rounded to float32, or to less: its numbers stay the same, to the last digit, where all that they are made "
    "from moves by some 1e-12. An array in backward is of that dtype."
)
STREAM = np.random.SeedSequence((20261125, 8))  # of random numbers: its own, which no test data are drawn from


def check_gradients(
    what: Any,
    x: Any,
    t: npt.ArrayLike | None = None,
    *,
    backward: Callable[..., Any] | None = None,
    tolerance: float | None = None,
    step: float | None = None,
    seconds: float | None = None,
    rng: np.random.Generator | int | None = None,
) -> Report:
    """Compare written gradients with central differences, every entry of every array, in float64.

    Each number is compared with a difference whose error is bounded from two steps and from the noise of the function:
    what is further away is wrong, and needs no tolerance; at a kink, such as that of ReLU at 0, any slope between the
    two sides is right; where the function is too flat or too noisy to tell, that is said. For what is wrong a cause is
    sought among what people get wrong.

    Parameters
    ----------
    what : Layer, Loss, callable, or a class derived from torch.autograd.Function
        A model is checked layer by layer, each with what those below it make of x, then as a whole. A layer that is
        right is marked (`layer.verified`), which `model.summary()` shows. A callable is `forward(*x)`, which returns y
        or a pair (y, cache).
    x : array, or tuple of arrays
        The input: for a layer (N, ...), for a loss the output y, for a callable one array or a tuple of them.
    t : array, optional
        The labels of a loss.
    backward : callable, optional
        For a callable: `backward(dy, *x)`, or `backward(dy, cache)` where forward returns one; returns the gradient of
        each input, an array or a tuple of them.
    tolerance : float, optional
        An entry may be off by so much of what it is added up from (the sum of the absolute values of its terms).
    step : float, optional
        First step of the differences, in units of the size of what is moved; others are tried where it does not tell.
    seconds : float, optional
        How long to look, at most, roughly: of arrays that take longer a random part of the entries is looked at, and
        the report says with which chance a single wrong entry is missed. None: at every entry.
    rng : np.random.Generator or int, optional
        Draws the gradient dy that comes from above, and what is sampled.

    Returns
    -------
    Report
        False where something is wrong; `print(report)` shows a table and the cause; `report.raise_if_wrong()`.

    Raises
    ------
    TypeError, ValueError
        Something that is none of these, or an input that does not fit it.

    Notes
    -----
    Besides each gradient it is compared: whether gradients are added to `.grad` and not put in its place, whether a
    second use of the layer in between changes anything, what `backward_parameters`, `difference` and `perturb` return,
    and what `couples` says.
    """
    if tolerance is not None and not (isinstance(tolerance, int | float) and 0 < tolerance < math.inf):
        raise ValueError(f"tolerance: expected a finite number above 0 or None, got {tolerance!r}")
    if seconds is not None and not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
        raise ValueError(f"seconds: expected a finite number above 0 or None, got {seconds!r}")
    generator = np.random.Generator(np.random.PCG64(STREAM)) if rng is None else as_generator(rng)
    checker = _Checker(tolerance, as_step(step), seconds, generator)
    if isinstance(what, Loss):
        if t is None:
            raise TypeError("t: expected the labels of the loss, got None")
        return Report(checker.subject(LossSubject(what, x, t), what.has_backward))
    if t is not None:
        raise TypeError(f"t: expected labels with a loss only, got some with {type(what).__name__}")
    if isinstance(what, Layer):
        return Report(checker.model(what, x))
    if is_torch_function(what):
        return Report(checker.subject(of_torch(what, x)))
    if not callable(what):
        raise TypeError(f"what: expected a Layer, a Loss or a callable with backward=, got {what!r}")
    if not callable(backward):
        raise TypeError(f"backward: expected a callable beside a forward function, got {backward!r}")
    return Report(checker.subject(FunctionSubject(what, backward, x)))


def check_entries(subject: Subjects, dy: Doubles, rng: np.random.Generator) -> list[Check]:
    """Compare what a written backward makes of one dy, at the entries in `subject.sweeps` and nothing else."""
    return _Checker(None, None, None, rng).compared(subject, dy).checks


class Compared(NamedTuple):
    """The rows of a subject's arrays; what its backward returned, and copies of that; the differences."""

    checks: list[Check]
    returned: dict[str, Any] | None  # None: it raises
    gradients: dict[str, Any]
    differences: Differences | None


class _Checker:
    """The settings of one check."""

    def __init__(
        self, tolerance: float | None, step: float | None, seconds: float | None, rng: np.random.Generator
    ) -> None:
        self.tolerance, self.step, self.rng = tolerance, step, rng
        self.until = math.inf if seconds is None else time.perf_counter() + seconds

    # ---- models ----

    def model(self, model: Layer, x: Any) -> list[Check]:
        """Check each layer that a model runs, then the model as a whole."""
        memo: dict[int, object] = {}
        double = model.astype(np.float64, memo)
        originals = {id(memo[id(tree)]): tree for _, tree in model.named_trees() if isinstance(tree, Layer)}
        checks: list[Check] = []
        with Run(True, None, None, double) as run, room() as self.room:
            passed = run_forward(double, x, run)
            run.memory = Memory()
            links = list(_each(passed.links))
            seen: set[int] = set()
            for i, link in enumerate(links):
                if id(link.layer) in seen:
                    continue
                seen.add(id(link.layer))
                found = self._link(link, run, self._share(len(links) - i))
                original = originals.get(id(link.layer))
                if original is not None and link.traits.backward:
                    original.verified = all(one.right for one in found) and any(one.checked for one in found)
                checks += found
            # at a kink a direction crosses it, and what was written is one side's
            smooth = all(one.right and VERDICTS[KINK] not in one.counts for one in checks)
            if len(links) > 1 and smooth:
                checks += self._whole(passed)
        return checks

    def _share(self, parts: int, until: float | None = None) -> float:
        """Return until when the next of some parts, which have to be done by then, may take its time."""
        last = self.until if until is None else until
        if not math.isfinite(last):
            return math.inf
        now = time.perf_counter()
        return now + max(0.0, last - now) / parts

    def _link(self, link: Link, run: Run, until: float) -> list[Check]:
        broken = self._ask(link, run)
        if not link.traits.backward:
            title = named(link.layer, run.root)
            return [*broken, Check(title, "", VERDICTS[UNCHECKED], cause="no backward is written")]
        try:
            subject = LayerSubject(link, run, self.room)
        except LayerError as error:
            return [*broken, rows.wrong(named(link.layer, run.root), "forward", str(error))]
        return [*broken, *self.subject(subject, until=until)]

    def _ask(self, link: Link, run: Run) -> list[Check]:
        """Find out what a layer written outside nnframe is; a broken law is a row of its own."""
        if not link.traits.own or link.inner:
            return []
        assert run.memory is not None
        try:
            found = ask(link, run)
            found.coarse = ""  # how much it rounds is measured here, and counted
            if math.isfinite(self.until):
                found.contradicted = 2  # a search for patterns may take longer than all entries
            run.memory.known[id(link.layer)] = found
        except LayerError as error:
            unknown = Findings(link.layer)
            unknown.contradicted = 2  # no patterns are looked for
            run.memory.known[id(link.layer)] = unknown
            claims = "couples" in str(error)
            return [rows.wrong(named(link.layer, run.root), "couples" if claims else "forward", str(error))]
        return []

    def _whole(self, passed: ForwardPass) -> list[Check]:
        """Compare the whole model's gradient with the loss along one random direction."""
        model: Any = passed.model
        trained = {name: p for name, p in model.named_parameters() if p.trainable}
        arrays = {name: p.value for name, p in trained.items()}
        moves_x = isinstance(passed.x, np.ndarray) and passed.x.dtype.kind == "f"
        if moves_x:
            arrays["x"] = np.array(passed.x)
        dy = self.rng.standard_normal(passed.output.shape)
        for parameter in passed.parameters:
            parameter.grad.fill(0)
        try:
            dx = backward_through(passed.links, dy, None, input_gradient=moves_x)
        except LayerError as error:
            return [rows.wrong("the whole model", "", str(error))]
        gradients = {name: p.grad for name, p in trained.items()}
        if dx is not None and moves_x:
            gradients["x"] = dx
        line = Line(arrays, self.rng)
        written, size = line.slope(gradients)

        def value() -> float:
            x = read_only(arrays["x"]) if moves_x else passed.x
            return float((passed.run.evaluate(model, x) * dy).sum())

        verdict, numerical, bound = _along(lambda distances: line.values(value, distances), written, size)
        counts = {VERDICTS[verdict]: 1}
        title, cause = "the whole model", ""
        if verdict == WRONG:
            cause = (
                "each layer is right by itself, the gradient of the whole is not: a gradient is passed on in an array "
                "that is written to later, or values pass from layer to layer unseen."
            )
        return [
            Check(title, "a direction", VERDICTS[verdict], abs(written - numerical) / size, (), written, numerical,
                  bound, counts, 1, 1, cause)
        ]  # fmt: skip

    # ---- one subject ----

    def subject(self, subject: Subjects, written: bool = True, until: float | None = None) -> list[Check]:
        """Check one layer, loss or function."""
        if not written:
            return [Check(subject.title, "", VERDICTS[UNCHECKED], cause="no backward is written")]
        dy = np.ones(subject.y.shape) if isinstance(subject, LossSubject) else self.rng.standard_normal(subject.y.shape)
        checks, returned, gradients, differences = self.compared(subject, dy, until)
        if returned is None or differences is None:
            return checks
        certain = all(set(check.counts) == {VERDICTS[RIGHT]} for check in checks)
        checks += promises.second_use(subject, returned, gradients, dy, certain, self.rng)
        if isinstance(subject, LayerSubject):
            checks += promises.accumulation(subject, gradients, dy, self.rng)
            checks += promises.parameters_alone(subject, gradients, dy)
            checks += promises.claims(subject, differences.noise, differences.line, self.rng)
        return checks

    def compared(self, subject: Subjects, dy: Doubles, until: float | None = None) -> Compared:
        """Compare what a written backward makes of one dy, array by array."""
        try:
            returned = subject.backward(dy)
        except Exception as error:
            return Compared([rows.wrong(subject.title, "backward", rows.raised(error))], None, {}, None)
        gradients = {name: None if g is None else np.array(g, copy=True) for name, g in returned.items()}
        differences = Differences(subject, dy, self.step, self.rng)
        rounding = functools.cache(lambda: rounding_of(subject, gradients, dy, differences.typical, self.rng))
        single = rounded_to_float32(subject, gradients, rounding, dy, differences.line, self.rng)
        clear: dict[str, Worst] = {}
        if self._share(1, until) == math.inf:
            fitting = {name: gradients[name] for name, a in subject.arrays.items() if rows.fits(gradients[name], a)}
            clear = differences.clearly_right(fitting, self.tolerance)
        checks = []
        for i, name in enumerate(subject.arrays):
            if name in clear and name not in single:
                checks.append(rows.right(subject.title, name, gradients[name], clear[name]))
                continue
            last = self._share(len(subject.arrays) - i, until)
            known = rounding().get(name), single.get(name)
            checks.append(self._array(differences, name, gradients[name], dy, last, known))
        return Compared(checks, returned, gradients, differences)

    def _array(
        self, differences: Differences, name: str, written: Any, dy: Doubles, until: float, known: tuple[Any, Any]
    ) -> Check:
        """Judge one array; known : how much its numbers are rounded, and which of them to float32."""
        subject: Any = differences.subject
        cause = rows.misshapen(written, subject.arrays[name])
        if cause:
            return rows.wrong(subject.title, name, cause)
        numbers = np.asarray(written, np.float64)
        rounding, single = known
        judged = differences.judge(name, numbers, self.tolerance, until, self.rng, rounding)
        if (judged.verdicts == WRONG).any():
            lost = unresolved(subject, name, numbers, dy, self.rng)
            judged.verdicts[lost & (judged.verdicts == WRONG)] = FLAT
        if (judged.verdicts == WRONG).any():
            judged.verdicts[differences.at_fault(name, numbers, judged, self.rng)] = FLAT
        if single is not None and self.tolerance is None:
            judged.verdicts[_clearest(single & np.isin(judged.verdicts, (RIGHT, FLAT)), numbers, judged)] = WRONG
        check = rows.summarized(subject.title, name, numbers, judged)
        if check.right:
            return check
        if single is not None and check.error < COARSE:
            return check._replace(cause=f"{subject.title}, {name}: {FLOAT32}")
        cause = explain(Case(subject, differences, name, numbers, judged, dy))
        order = differences.taylor(name, check.entry, check.written, check.numerical)
        return check._replace(cause=f"{cause or plainly(check)} {order}".strip())


# ---- what was found ----


def _each(links: list[Link]) -> Iterator[Link]:
    """Every layer that ran by itself, those inside containers and composites too."""
    for link in links:
        if not link.traits.branches and not isinstance(link.layer, Reshaped):
            yield link
        for branch in link.inner:
            if link.traits.branches or link.chain:
                yield from _each(branch.links)


def _clearest(mask: npt.NDArray[np.bool_], written: Doubles, judged: Judged) -> npt.NDArray[np.bool_]:
    """Return those of some entries that are furthest from the difference."""
    off = np.where(mask, np.abs(written - judged.numerical), 0.0)
    return np.asarray(mask & (off >= 0.5 * np.nanmax(off, initial=0.0)))


def _along(values: Callable[[Any], list[float]], written: float, size: float) -> tuple[int, float, float]:
    """Compare a slope with differences along one line, at steps ever smaller: verdict, difference and bound."""
    best, least = math.nan, math.inf
    (base,) = values([0.0])
    for h in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7):
        up, down, half_up, half_down = values([h, -h, h / 2, -h / 2])
        wide, near = (up - down) / (2 * h), (half_up - half_down) / h
        bound = abs(wide - near) + 64 * EPS * (abs(base) + size) / h
        found = (4 * near - wide) / 3
        if bound < least:
            best, least = found, bound
        if abs(written - found) <= bound and bound <= 1e-4 * size:
            return RIGHT, found, bound
    if not math.isfinite(least) or least > 1e-2 * size:
        return FLAT, best, least
    return (WRONG if abs(written - best) > 4 * least else RIGHT), best, least
