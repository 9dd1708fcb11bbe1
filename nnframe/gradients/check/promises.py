"""What a layer promises besides the numbers of its gradient.

Gradients are added to `.grad`; another use of the layer in between changes nothing; `backward_parameters` gives what
`backward` does; `difference` and `perturb` give what `forward` changes by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnframe.core.run import read_only
from nnframe.gradients.check.differences import moved
from nnframe.gradients.check.noise import EPS, Doubles, Indices, Line, largest, put_back
from nnframe.gradients.check.report import Check
from nnframe.gradients.check.rows import raised, unlike, wrong
from nnframe.gradients.check.subjects import LayerSubject, LossSubject, Subjects

Gradients = dict[str, Any]

ALONG = np.array([1e-3, -0.3])  # of a direction: how far an input is moved
STEPS = np.array([1e-3, -0.1])  # of a parameter
DIRECTIONS = 4  # along which the slope is compared: along one, other numbers may by chance have the same slope


def second_use(
    subject: Subjects, returned: Gradients, gradients: Gradients, dy: Doubles, certain: bool, rng: np.random.Generator
) -> Iterator[Check]:
    """Use the same layer for another input in between: neither what it returned nor what it returns may change.

    returned, gradients : the very arrays that it returned, and copies of them
    certain : whether these were found right, every entry
    """
    title, what = subject.title, "second use"
    other, other_dy = _reversed_rows(subject.x), _reversed_rows(dy)
    try:
        elsewhere = _copied(subject.backward(other_dy, x=other))
        overwritten = [n for n, g in gradients.items() if g is not None and not _same(g, np.asarray(returned[n]))]
        again = subject.backward(dy, between=other)
    except Exception:  # it does not take that input: nothing to compare
        return
    if certain and _is_stale(subject, (dy, gradients), (other, other_dy, elsewhere), rng):
        yield wrong(title, what, "for another input it is wrong: it takes values of an earlier call, kept somewhere.")
        return
    for name, before in gradients.items():
        if before is None:
            continue
        if name in overwritten:
            cause = "the array that it returned is written to again at the next call; return a new one."
            yield wrong(title, what, f"{name}: {cause}")
            return
        if np.shape(again[name]) != np.shape(before) or _apart(np.asarray(again[name]), before):
            cause = (
                "it is another one where the layer has been used for another input in between: it takes values of an "
                "earlier call, kept in self."
            )
            yield wrong(title, what, f"the gradient of {name}: {cause}")
            return


def _copied(gradients: Gradients) -> Gradients:
    return {name: np.array(gradient) for name, gradient in gradients.items()}


def _same(a: Any, b: Any) -> bool:
    return a.shape == b.shape and bool((a == b).all() or np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def _is_stale(
    subject: Subjects,
    here: tuple[Doubles, Gradients],
    there: tuple[Any, Doubles, Gradients],
    rng: np.random.Generator,
) -> bool:
    """Whether the gradient for another input is not the slope there, though that for the first one is.

    here : dy and gradients; there : input, dy and gradients
    """
    if isinstance(subject, LossSubject) or "x" not in subject.arrays:
        return False
    x, dy, gradients = there
    if not all(np.shape(gradients[name]) == a.shape for name, a in subject.arrays.items()):
        return False
    with put_back({"x": subject.arrays["x"]}):
        subject.arrays["x"][...] = x
        if _is_in_other_order(subject.value(), gradients, subject.y, here[1]):
            return False
        if all(_fits(subject, dy, gradients, rng) is not False for _ in range(DIRECTIONS)):
            return False
    return all(_fits(subject, here[0], here[1], rng) is True for _ in range(DIRECTIONS))


def _is_in_other_order(y: Doubles, gradients: Gradients, known_y: Doubles, known: Gradients) -> bool:
    """Whether for the rows of x and dy in another order all is as it was, in that order: then it is right as well."""
    if not y.ndim or y.shape != known_y.shape or _apart(y, known_y[::-1]):
        return False
    return not any(_apart(g, _reversed_rows(known[n]) if n == "x" else known[n]) for n, g in gradients.items())


def _fits(subject: Subjects, dy: Doubles, gradients: Gradients, rng: np.random.Generator) -> bool | None:
    """Whether a gradient is near the slope along a random direction; None where three steps do not agree on it."""
    line = Line(subject.arrays, rng)
    written, size = line.slope(gradients)
    steps = np.array([1e-4, 1e-5, 1e-6])
    values = line.values(lambda: float((subject.value() * dy).sum()), np.concatenate([steps, -steps]))
    slopes = (np.array(values[:3]) - np.array(values[3:])) / (2 * steps)
    if not float(np.ptp(slopes)) < 1e-3 * max(abs(written), float(np.abs(slopes).max())):
        return None
    return bool((np.abs(slopes - written) <= 0.05 * size).any())


def _apart(a: Any, b: Any) -> bool:
    """Whether two results of the same computation differ by more than the order of sums may change."""
    if (a == b).all():
        return False
    with np.errstate(invalid="ignore"):
        return not ((np.abs(a - b) <= _order_of_sums(b)).all() or _same(a, b))


def _order_of_sums(a: Any) -> float:
    return 1e-12 * largest(a)


def _reversed_rows(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(_reversed_rows(one) for one in x)
    return np.array(x[::-1], order="C") if x.ndim else x.copy()


# ---- gradients of parameters ----

OVERWRITTEN = "= instead of +=: `.grad` is overwritten, where it is to be added to."
ADDED_TO = "what is added to `.grad` depends on what is in it: += once, of the gradient alone, is right."


def accumulation(subject: LayerSubject, gradients: Gradients, dy: Doubles, rng: np.random.Generator) -> Iterator[Check]:
    """Let gradients start from random numbers: what is written is to be added to them."""
    if not subject.parameters:
        return
    start = {
        name: (rng.random(p.value.shape) - 0.5) * (2 * np.abs(gradients[name]).max(initial=0) or 1.0)
        for name, p in subject.parameters.items()
    }
    try:
        found = subject.backward(dy, start=start)
    except Exception as error:
        yield wrong(subject.title, "accumulation", raised(error))
        return
    for name in subject.parameters:
        allowed = 64 * EPS * (np.abs(start[name]) + np.abs(gradients[name]).max(initial=0))
        row = unlike(subject.title, f"accumulation of {name}", found[name], start[name] + gradients[name], allowed, "")
        if row is not None:
            overwritten = np.array_equal(found[name], gradients[name])
            yield row._replace(cause=OVERWRITTEN if overwritten else ADDED_TO)


def parameters_alone(subject: LayerSubject, gradients: Gradients, dy: Doubles) -> Iterator[Check]:
    """Compare `backward_parameters`, which the lowest layer of a model is asked for."""
    if not subject.parameters or not subject.link.traits.backward_parameters:
        return
    title, what = subject.title, "backward_parameters"
    try:
        found = subject.backward(dy, input_gradient=False)
    except Exception as error:
        yield wrong(title, what, raised(error))
        return
    for name in subject.parameters:
        cause = f"the gradient of {name} is another one than that of backward."
        row = unlike(title, what, found[name], gradients[name], _order_of_sums(gradients[name]), cause)
        if row is not None:
            yield row


# ---- difference and perturb ----

Pairs = Iterator[tuple[Any, Doubles]]  # what a layer says that it changes by, and by what it does


def claims(subject: LayerSubject, noise: Doubles, line: Line, rng: np.random.Generator) -> Iterator[Check]:
    """Compare `difference` and `perturb` with two evaluations of forward.

    noise : of each output
    line : along which the input is moved
    """
    t, rounding = subject.link.traits, 64 * noise
    if t.difference and "x" in subject.arrays:
        yield from _claim(subject.title, rounding, "difference", _of_difference(subject, line.way["x"]))
    if t.perturb:
        for name in subject.parameters:
            yield from _claim(subject.title, rounding, f"perturb({name})", _of_perturb(subject, name, rng))


def _claim(title: str, rounding: Doubles, what: str, pairs: Pairs) -> Iterator[Check]:
    try:
        for claimed, true in pairs:
            if claimed.shape != true.shape:
                yield wrong(title, what, f"expected shape {true.shape}, got {claimed.shape}.")
                return
            if (np.abs(claimed - true) <= rounding).all():
                continue
            allowed = 1e-7 * largest(true) + rounding
            where_known = np.where(np.isfinite(true), claimed, true)
            row = unlike(title, what, where_known, true, allowed, "it is not what forward changes by.")
            if row is not None:
                yield row
                return
    except Exception as error:
        yield wrong(title, what, raised(error, what))


def _of_difference(subject: LayerSubject, way: Doubles) -> Pairs:
    x = subject.parts[0]
    stack = np.multiply.outer(ALONG, way)
    true = _changes(subject, "x", np.arange(x.size)[None], (x + stack).reshape(2, -1))
    for dx, change in ((stack[0], true[0]), (stack, true)):
        claimed = subject.layer.difference(read_only(x), read_only(subject.y), read_only(dx))
        yield np.asarray(claimed), change


def _of_perturb(subject: LayerSubject, name: str, rng: np.random.Generator) -> Pairs:
    value = subject.arrays[name]
    some = _two_of(value.size, rng)
    moved_to = np.add.outer(STEPS, value.reshape(-1)[some])
    true = _changes(subject, name, some[:, None], moved_to.reshape(-1, 1))
    for step, change in zip(STEPS.tolist(), true.reshape(2, len(some), *subject.y.shape), strict=True):
        claimed = subject.layer.perturb(
            subject.parameters[name], some, step, read_only(subject.x), read_only(subject.y)
        )
        yield np.asarray(claimed), change


def _two_of(count: int, rng: np.random.Generator) -> Indices:
    """Draw two different indices below a count, fewer if there are no two."""
    first = int(count * rng.random())
    second = first + 1 + int((count - 1) * rng.random())
    return np.array(sorted({first, second % count}) if count else [], np.intp)


def _changes(subject: LayerSubject, name: str, entries: Indices, values: Doubles) -> Doubles:
    """Return how the output changes where some entries of an array have other values, for each of several moves."""
    return moved(subject, name, entries, values).reshape(-1, *subject.y.shape) - subject.y
