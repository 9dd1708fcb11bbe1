"""`check_gradients`: a backward pass that was written by hand, anywhere, against central differences of every entry."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

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
from nnframe.gradients.check.causes import Case, explain
from nnframe.gradients.check.differences import EPS, Differences, Doubles, Judged, sizes_of
from nnframe.gradients.check.report import FLAT, KINK, RIGHT, UNCHECKED, VERDICTS, WRONG, Check, Report, plainly
from nnframe.gradients.check.subjects import (
    FunctionSubject,
    LayerSubject,
    LossSubject,
    Overwritten,
    Subjects,
    is_torch_function,
    of_torch,
)
from nnframe.losses.base import Loss

STREAM = (20261125, 8)  # of random numbers: its own, which no test data are drawn from


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
    checker = _Checker(None, None, None, rng)
    try:
        found = subject.backward(dy)
    except Exception as error:
        return [Check(subject.title, "backward", VERDICTS[WRONG], cause=_raised(error))]
    gradients = {name: np.array(g, copy=True) if g is not None else None for name, g in found.gradients.items()}
    differences = Differences(subject, dy, None, rng)
    rounding = checker._rounding(subject, differences, gradients, dy)
    return [
        checker._array(subject, differences, name, gradients[name], dy, math.inf, rounding.get(name))
        for name in subject.arrays
    ]


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
        with Run(True, None, None, double) as run:
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
        title = named(link.layer, run.root)
        broken = self._ask(link, run, title)
        if not link.traits.backward:
            return [*broken, Check(title, "", VERDICTS[UNCHECKED], cause="no backward is written")]
        try:
            subject = LayerSubject(link, run)
        except LayerError as error:
            return [*broken, Check(title, "forward", VERDICTS[WRONG], cause=str(error))]
        return [*broken, *self.subject(subject, until=until)]

    def _ask(self, link: Link, run: Run, title: str) -> list[Check]:
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
            return [Check(title, "couples" if claims else "forward", VERDICTS[WRONG], cause=str(error))]
        return []

    def _whole(self, passed: ForwardPass) -> list[Check]:
        """Compare the whole model's gradient with the loss along one random direction."""
        model: Any = passed.model
        arrays = {name: p.value for name, p in model.named_parameters() if p.trainable}
        moves_x = isinstance(passed.x, np.ndarray) and passed.x.dtype.kind == "f"
        if moves_x:
            arrays["x"] = np.array(passed.x)
        dy = self.rng.standard_normal(passed.output.shape)
        for parameter in passed.parameters:
            parameter.grad.fill(0)
        try:
            dx = backward_through(passed.links, dy, None, input_gradient=moves_x)
        except LayerError as error:
            return [Check("the whole model", "", VERDICTS[WRONG], cause=str(error))]
        gradients = {name: p.grad for name, p in model.named_parameters() if p.trainable}
        if dx is not None and moves_x:
            gradients["x"] = dx
        way = {name: sizes_of(a).reshape(a.shape) * self.rng.choice([-1.0, 1.0], a.shape) for name, a in arrays.items()}
        terms = [gradients[name] * way[name] for name in arrays if name in gradients]
        written = float(sum(term.sum() for term in terms))
        size = float(sum(np.abs(term).sum() for term in terms)) or 1.0

        def value(distance: float) -> float:
            saved = {name: a.copy() for name, a in arrays.items()}
            try:
                for name, a in arrays.items():
                    a += distance * way[name]
                x = read_only(arrays["x"]) if moves_x else passed.x
                return float((passed.run.evaluate(model, x) * dy).sum())
            finally:
                for name, a in arrays.items():
                    a[...] = saved[name]

        verdict, numerical, bound = _along(value, written, size)
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
        title = subject.title
        if not written:
            return [Check(title, "", VERDICTS[UNCHECKED], cause="no backward is written")]
        dy = np.ones(subject.y.shape) if isinstance(subject, LossSubject) else self.rng.standard_normal(subject.y.shape)
        try:
            found = subject.backward(dy)
        except Exception as error:
            return [Check(title, "backward", VERDICTS[WRONG], cause=_raised(error))]
        gradients = {name: np.array(g, copy=True) if g is not None else None for name, g in found.gradients.items()}
        differences = Differences(subject, dy, self.step, self.rng)
        rounding = self._rounding(subject, differences, gradients, dy)
        checks = []
        for i, name in enumerate(subject.arrays):
            last = self._share(len(subject.arrays) - i, until)
            checks.append(self._array(subject, differences, name, gradients[name], dy, last, rounding.get(name)))
        certain = all(set(check.counts) == {VERDICTS[RIGHT]} for check in checks)
        checks += self._second_use(subject, found, gradients, dy, certain)
        if isinstance(subject, LayerSubject):
            checks += self._accumulation(subject, gradients, dy)
            checks += self._parameters_alone(subject, gradients, dy)
            checks += self._claims(subject, differences)
        return checks

    def _array(
        self,
        subject: Subjects,
        differences: Differences,
        name: str,
        written: Any,
        dy: Doubles,
        until: float,
        rounding: Doubles | None,
    ) -> Check:
        array = subject.arrays[name]
        cause = _misshapen(written, array, subject)
        if cause:
            return Check(subject.title, name, VERDICTS[WRONG], np.inf, size=0, cause=cause)
        numbers = np.asarray(written, np.float64)
        judged = differences.judge(name, numbers, self.tolerance, until, self.rng, rounding)
        if (judged.verdicts == WRONG).any():
            unresolved = self._unresolved(subject, name, numbers, dy)
            judged.verdicts[unresolved & (judged.verdicts == WRONG)] = FLAT
        if (judged.verdicts == WRONG).any():
            judged.verdicts[differences.at_fault(name, numbers, judged, self.rng)] = FLAT
        check = _summarized(subject.title, name, numbers, judged)
        if check.right:
            return check
        cause = explain(Case(subject, differences, name, numbers, judged, dy))
        order = _taylor(differences, name, check)
        return _with_cause(check, f"{cause or plainly(check)} {order}".strip())

    def _unresolved(self, subject: Subjects, name: str, written: Doubles, dy: Doubles) -> npt.NDArray[np.bool_]:
        """Which entries are others where everything moves by its last digits: no difference can tell what they are."""
        nothing = np.zeros(written.shape, bool)
        saved = {one: a.copy() for one, a in subject.arrays.items()}
        try:
            again = np.asarray(subject.backward(dy).gradients[name], np.float64)
            for a in subject.arrays.values():
                a *= 1 + self.rng.uniform(-8, 8, a.shape) * EPS
            beside = np.asarray(subject.backward(dy).gradients[name], np.float64)
        except Exception:
            return nothing
        finally:
            for one, a in subject.arrays.items():
                a[...] = saved[one]
        if beside.shape != written.shape or not np.array_equal(again, written, equal_nan=True):
            return nothing
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(beside - written) > 0.1 * np.abs(written))

    def _rounding(
        self, subject: Subjects, differences: Differences, gradients: dict[str, Any], dy: Doubles
    ) -> dict[str, Doubles]:
        """How much the written numbers are rounded: how they differ where dy is changed in its last digits.

        But no more than forward rounds as well: a backward in float32 of a forward in float64 is wrong.
        """
        allowed = 1e-11 + 64 * differences.typical
        found = {name: 4 * EPS * np.abs(np.asarray(g, np.float64)) for name, g in gradients.items() if _is_numbers(g)}
        if isinstance(subject, LossSubject):
            return {name: own + 4 * EPS * own.max(initial=0) for name, own in found.items()}
        for _ in range(2):
            try:
                beside = subject.backward(dy * (1 + self.rng.uniform(-4, 4, dy.shape) * EPS)).gradients
            except Exception:  # what it does for one dy, it may refuse for another
                return found
            for name, own in found.items():
                if np.shape(beside[name]) == own.shape:
                    with np.errstate(invalid="ignore"):
                        off = np.abs(np.asarray(beside[name]) - gradients[name])
                    most = allowed * max(
                        float(np.abs(gradients[name]).max(initial=0)), float(np.abs(dy).max(initial=0))
                    )
                    found[name] = np.maximum(own, np.minimum(np.where(np.isfinite(off), 8 * off, 0), most))
        return found

    def _second_use(
        self, subject: Subjects, found: Any, gradients: dict[str, Any], dy: Doubles, certain: bool
    ) -> Iterator[Check]:
        """Use the same layer for another input in between: neither what it returned nor what it returns may change."""
        other = _reversed_rows(subject.x)
        try:
            elsewhere = subject.backward(_reversed_rows(dy), x=other).gradients
            elsewhere = {name: np.array(g) for name, g in elsewhere.items()}
            kept = {name: np.array(g) for name, g in found.gradients.items()}
            again = subject.backward(dy, between=other).gradients
        except Exception:  # it does not take that input: nothing to compare
            return
        there = other, _reversed_rows(dy), elsewhere
        if certain and self._stale(subject, (subject.x, dy, gradients), there):
            cause = "for another input it is wrong: it takes values of an earlier call, which somebody keeps."
            yield Check(subject.title, "second use", VERDICTS[WRONG], cause=cause)
            return
        for name, before in gradients.items():
            if before is None:
                continue
            if not np.array_equal(before, kept[name], equal_nan=True):
                cause = "the array that it returned is written to again at the next call; return a new one."
                yield Check(subject.title, "second use", VERDICTS[WRONG], cause=f"{name}: {cause}")
                return
            if np.shape(again[name]) != np.shape(before) or _apart(np.asarray(again[name]), before):
                cause = (
                    "it is another one where the layer has been used for another input in between: it takes values of "
                    "an earlier call, kept in self."
                )
                yield Check(subject.title, "second use", VERDICTS[WRONG], cause=f"the gradient of {name}: {cause}")
                return

    def _stale(
        self, subject: Subjects, here: tuple[Any, Doubles, Any], other: tuple[Any, Doubles, dict[str, Any]]
    ) -> bool:
        """Whether the gradient for another input is not the slope there, though that for the first one is.

        here, other : input, dy and gradients of each
        """
        if isinstance(subject, LossSubject) or isinstance(subject.x, tuple) or "x" not in subject.arrays:
            return False
        if not all(np.shape(other[2][name]) == a.shape for name, a in subject.arrays.items()):
            return False
        return self._fits(subject, *here) is True and self._fits(subject, *other) is False

    def _fits(self, subject: Subjects, x: Any, dy: Doubles, gradients: dict[str, Any]) -> bool | None:
        """Whether a gradient is near the slope along a random direction; None where three steps do not agree on it."""
        saved = {name: a.copy() for name, a in subject.arrays.items()}
        at = saved | {"x": np.array(x)}
        way = {name: sizes_of(a).reshape(a.shape) * self.rng.uniform(-1, 1, a.shape) for name, a in saved.items()}
        terms = [np.asarray(gradients[name]) * way[name] for name in saved]
        written, size = float(sum(t.sum() for t in terms)), float(sum(np.abs(t).sum() for t in terms)) or 1.0

        def value(distance: float) -> float:
            for name, a in subject.arrays.items():
                a[...] = at[name] + distance * way[name]
            return float((subject.value() * dy).sum())

        try:
            with np.errstate(all="ignore"):
                slopes = np.array([(value(h) - value(-h)) / (2 * h) for h in (1e-4, 1e-5, 1e-6)])
        finally:
            for name, a in subject.arrays.items():
                a[...] = saved[name]
        if not float(np.ptp(slopes)) < 1e-3 * max(abs(written), float(np.abs(slopes).max())):
            return None
        return bool((np.abs(slopes - written) <= 0.05 * size).any())

    def _accumulation(self, subject: LayerSubject, gradients: dict[str, Any], dy: Doubles) -> Iterator[Check]:
        """Let gradients start from random numbers: what is written is to be added to them."""
        if not subject.parameters:
            return
        start = {
            name: self.rng.standard_normal(p.value.shape) * (np.abs(gradients[name]).max(initial=0) or 1.0)
            for name, p in subject.parameters.items()
        }
        try:
            found = subject.backward(dy, start=start).gradients
        except Exception as error:
            yield Check(subject.title, "accumulation", VERDICTS[WRONG], cause=_raised(error))
            return
        for name in subject.parameters:
            total = start[name] + gradients[name]
            off = np.abs(found[name] - total)
            if (off > 64 * EPS * (np.abs(start[name]) + np.abs(gradients[name]).max(initial=0))).any():
                worst = np.unravel_index(int(off.argmax()), off.shape)
                if np.array_equal(found[name], gradients[name]):
                    cause = "= instead of +=: `.grad` is overwritten, where it is to be added to."
                else:
                    cause = (
                        "what is added to `.grad` depends on what is in it: += once, of the gradient alone, is right."
                    )
                yield Check(
                    subject.title, f"accumulation of {name}", VERDICTS[WRONG], np.inf, tuple(map(int, worst)),
                    float(found[name][worst]), float(total[worst]), 0.0, {}, off.size, off.size, cause,
                )  # fmt: skip

    def _parameters_alone(self, subject: LayerSubject, gradients: dict[str, Any], dy: Doubles) -> Iterator[Check]:
        """Compare `backward_parameters`, which the lowest layer of a model is asked for."""
        if not subject.parameters or not subject.link.traits.backward_parameters:
            return
        try:
            found = subject.backward(dy, input_gradient=False).gradients
        except Exception as error:
            yield Check(subject.title, "backward_parameters", VERDICTS[WRONG], cause=_raised(error))
            return
        for name in subject.parameters:
            if _apart(found[name], gradients[name]):
                off = np.abs(found[name] - gradients[name])
                worst = np.unravel_index(int(off.argmax()), off.shape)
                cause = f"the gradient of {name} is another one than that of backward."
                yield Check(
                    subject.title, "backward_parameters", VERDICTS[WRONG], np.inf, tuple(map(int, worst)),
                    float(found[name][worst]), float(gradients[name][worst]), 0.0, {}, off.size, off.size, cause,
                )  # fmt: skip

    # ---- difference and perturb ----

    def _claims(self, subject: LayerSubject, differences: Differences) -> Iterator[Check]:
        """Compare `difference` and `perturb` with two evaluations of forward."""
        t = subject.link.traits
        if t.difference and "x" in subject.arrays and not subject.several:
            yield from self._claim(subject, differences, "difference", self._of_difference)
        if t.perturb:
            for name in subject.parameters:
                yield from self._claim(
                    subject, differences, f"perturb({name})", lambda s, name=name: self._of_perturb(s, name)
                )

    def _claim(self, subject: Any, differences: Differences, what: str, pairs: Any) -> Iterator[Check]:
        try:
            for claimed, true, size in pairs(subject):
                if claimed.shape != true.shape:
                    cause = f"expected shape {true.shape}, got {claimed.shape}."
                    yield Check(subject.title, what, VERDICTS[WRONG], np.inf, cause=cause)
                    return
                with np.errstate(invalid="ignore"):
                    off = np.abs(claimed - true)
                    allowed = 1e-7 * size + 64 * differences.noise
                bad = ~(off <= allowed) & np.isfinite(true)
                if bad.any():
                    worst = np.unravel_index(int(np.where(bad, np.nan_to_num(off, nan=np.inf), 0).argmax()), off.shape)
                    at = tuple(map(int, worst))
                    cause = "it is not what forward changes by."
                    error = float(off[worst] / max(size, 1e-300))
                    counts = {VERDICTS[WRONG]: int(bad.sum()), VERDICTS[RIGHT]: int((~bad).sum())}
                    yield Check(
                        subject.title, what, VERDICTS[WRONG], error, at, float(claimed[worst]), float(true[worst]),
                        float(np.broadcast_to(allowed, off.shape)[worst]), counts, off.size, off.size, cause,
                    )  # fmt: skip
                    return
        except Exception as error:
            yield Check(subject.title, what, VERDICTS[WRONG], np.inf, cause=_raised(error, what))

    def _of_difference(self, subject: LayerSubject) -> Iterator[tuple[Any, Doubles, float]]:
        x = subject.parts[0]
        sizes = sizes_of(x).reshape(x.shape)
        scales = np.array([1e-3, 0.3]).reshape(2, *[1] * x.ndim)
        stack = scales * sizes * self.rng.standard_normal((2, *x.shape))
        true = np.stack([self._moved(subject, "x", x + dx) for dx in stack])
        claimed = np.asarray(subject.layer.difference(read_only(x), read_only(subject.y), read_only(stack)))
        one = np.asarray(subject.layer.difference(read_only(x), read_only(subject.y), read_only(stack[0])))
        for some, right in ((one, true[0]), (claimed, true)):
            yield some, right, float(np.abs(right[np.isfinite(right)]).max(initial=0))

    def _of_perturb(self, subject: LayerSubject, name: str) -> Iterator[tuple[Any, Doubles, float]]:
        value = subject.arrays[name]
        some = np.sort(self.rng.choice(value.size, min(2, value.size), replace=False)).astype(np.intp)
        for step in (1e-3, -0.1):
            true = []
            for index in some:
                moved = value.copy()
                moved.reshape(-1)[index] += step
                true.append(self._moved(subject, name, moved))
            claimed = np.asarray(
                subject.layer.perturb(subject.parameters[name], some, step, read_only(subject.x), read_only(subject.y))
            )
            stacked = np.stack(true)
            yield claimed, stacked, float(np.abs(stacked[np.isfinite(stacked)]).max(initial=0))

    def _moved(self, subject: LayerSubject, name: str, to: Doubles) -> Doubles:
        array = subject.arrays[name]
        saved = array.copy()
        try:
            array[...] = to
            return subject.value() - subject.y
        finally:
            array[...] = saved


# ---- what was found ----


def _each(links: list[Link]) -> Iterator[Link]:
    """Every layer that ran by itself, those inside containers and composites too."""
    for link in links:
        if not link.traits.branches and not isinstance(link.layer, Reshaped):
            yield link
        for branch in link.inner:
            if link.traits.branches or link.chain:
                yield from _each(branch.links)


def _summarized(title: str, name: str, written: Doubles, judged: Judged) -> Check:
    verdicts = judged.verdicts.reshape(-1)
    counts = {VERDICTS[k]: int((verdicts == k).sum()) for k in range(UNCHECKED)}
    counts = {words: count for words, count in counts.items() if count}
    if not written.size:
        return Check(title, name, VERDICTS[RIGHT], counts=counts)
    looked = verdicts != UNCHECKED
    if not looked.any():
        return Check(title, name, VERDICTS[UNCHECKED], size=written.size)
    with np.errstate(all="ignore"):
        off = np.abs(written - judged.numerical).reshape(-1)
        error = off / np.maximum(judged.size.reshape(-1), 1e-300)
    error = np.where(off == 0, 0.0, np.where(np.isnan(error), np.inf, error))
    wrong = verdicts == WRONG
    candidates = wrong if wrong.any() else looked
    worst = int(np.where(candidates, error, -1.0).argmax())
    overall = VERDICTS[WRONG] if wrong.any() else max(counts, key=lambda words: counts[words])
    entry = tuple(int(i) for i in np.unravel_index(worst, written.shape))
    return Check(
        title, name, overall, float(error[worst]), entry, float(written[entry]), float(judged.numerical[entry]),
        float(judged.bound[entry]), counts, judged.sampled, written.size,
    )  # fmt: skip


def _with_cause(check: Check, cause: str) -> Check:
    return Check(**{**check.__dict__, "cause": cause})


def _misshapen(written: Any, array: Doubles, subject: Subjects) -> str:
    """Why something cannot be the gradient of an array; "" where it can."""
    if written is None:
        return "it is None; is `return` missing, or its place in the tuple?"
    found = np.asarray(written)
    if found.dtype.kind not in "fiub":
        return f"expected numbers, got {type(written).__name__} of dtype {found.dtype}."
    if found.shape == array.shape:
        return ""
    words = f"expected the shape {array.shape}, got {found.shape}"
    if found.ndim > array.ndim and found.shape[found.ndim - array.ndim :] == array.shape:
        return f"{words}: broadcast not summed over the axes in front, as over the rows for a bias."
    if found.size == array.size:
        return f"{words}: transposed, or given another shape."
    try:
        np.broadcast_shapes(found.shape, array.shape)
    except ValueError:
        return f"{words}."
    return f"{words}: broadcast not summed."


def _is_numbers(gradient: Any) -> bool:
    return gradient is not None and np.asarray(gradient).dtype.kind in "fiub"


def _raised(error: Exception, what: str = "backward") -> str:
    text = str(error)
    if isinstance(error, Overwritten):
        return text
    if "read-only" in text:
        return f"x was overwritten, or y or dy: {what} writes into an array that it was given ({text})."
    if isinstance(error, ValueError) and ("broadcast" in text or "grad: expected shape" in text):
        return f"{what} raises {type(error).__name__}: {text}; broadcast not summed over the rows?"
    return f"{what} raises {type(error).__name__}: {text}"


def _apart(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether two results of the same computation differ by more than the order of sums may change."""
    size = float(np.abs(b[np.isfinite(b)]).max(initial=0)) if b.size else 0.0
    return not bool((np.abs(a - b) <= 1e-12 * size).all() or np.array_equal(a, b, equal_nan=True))


def _reversed_rows(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(_reversed_rows(one) for one in x)
    if x.ndim == 0:
        return x.copy()
    return np.array(x[::-1], order="C")


def _along(value: Callable[[float], float], written: float, size: float) -> tuple[int, float, float]:
    """Compare a slope with differences along one line, at steps ever smaller: verdict, difference and bound."""
    base = value(0.0)
    best, least = math.nan, math.inf
    for h in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7):
        wide = (value(h) - value(-h)) / (2 * h)
        near = (value(h / 2) - value(-h / 2)) / h
        bound = abs(wide - near) + 64 * EPS * (abs(base) + size) / h
        found = (4 * near - wide) / 3
        if bound < least:
            best, least = found, bound
        if abs(written - found) <= bound and bound <= 1e-4 * size:
            return RIGHT, found, bound
    if not math.isfinite(least) or least > 1e-2 * size:
        return FLAT, best, least
    return (WRONG if abs(written - best) > 4 * least else RIGHT), best, least


def _taylor(differences: Differences, name: str, check: Check) -> str:
    """Say how |f(x + h) - f(x) - h g| falls with h: as h^2 where g is the derivative, as h where it is not."""
    if not check.entry and differences.subject.arrays[name].ndim:
        return ""
    array = differences.subject.arrays[name]
    index = int(np.ravel_multi_index(check.entry, array.shape)) if array.ndim else 0
    h = sizes_of(array)[index] * 2.0 ** -np.arange(6, 14, dtype=np.float64)
    entries = np.full((len(h), 1), index)
    start = array.reshape(-1)[index]
    with np.errstate(all="ignore"):
        change = (differences.moved(name, entries, (start + h)[:, None]) - differences.subject.y.reshape(-1)) @ (
            differences.dy
        )
        noise = 8 * float(differences.weighted_noise.sum())
        order = [_order_of(np.abs(change - h * g), h, noise) for g in (check.written, check.numerical)]
    if not all(map(math.isfinite, order)):
        return ""
    written, numerical = (f"h^{one:.1f}" for one in order)
    return f"(|f(x + h) - f(x) - h g| falls as {written} with the written g, as {numerical} with the difference.)"


def _order_of(remainder: Doubles, h: Doubles, noise: float) -> float:
    above = np.flatnonzero(remainder > noise)
    if len(above) < 3:
        return math.inf
    return float(np.polyfit(np.log(h[above]), np.log(remainder[above]), 1)[0])
