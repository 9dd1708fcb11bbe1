"""The checks of a loss: each is given a `LossCase`, and raises AssertionError."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from nnframe.gradients.check import check_gradients
from nnframe.losses.base import as_labels, change_of, value_and_gradient, value_of
from nnframe.testing.cases import LossCase, Numbers, fail, in_dtype, layouts, refuse_wrong, rounding, same, size
from nnframe.testing.together import Gains, at_once, check_repr, train

PURE = "A loss is a pure function of y and t: compute into new arrays, and keep nothing of a call in self"


def check_value(case: LossCase) -> None:
    """Check that the loss of some rows, and of one, is a finite number; labels may be lists."""
    loss = case.made()
    for rows in (case.rows, 1):
        y, t = case.y(rows), case.t(rows)
        value = loss(y, t)
        if not isinstance(value, float) or not np.isfinite(value):
            cure = "forward returns the loss as a float, rows what each row gives; the labels are to fit the outputs"
            fail(f"loss of {rows} rows", "a finite float", f"{value!r}", cure)
        listed = loss(y.tolist(), t.tolist())
        same("loss of lists", np.array(listed), np.array(value), rounding(np.array(value)), "`prepare` takes any array")


def check_rows(case: LossCase) -> None:
    """Check that where the loss is a sum over rows, parts of a mini-batch add up to the whole."""
    loss = case.made()
    y = case.y()
    t = as_labels(loss, y, case.t())
    if not loss.is_sum_over_rows:
        return
    rows = np.asarray(loss.rows(y, t))
    cure = "rows(y, t) returns a number for each row that depends on that row alone; divisor what the mean divides by"
    if rows.shape != (len(y),):
        fail("rows", f"shape {(len(y),)}", f"{rows.shape}", cure)
    whole = np.array(value_of(loss, y, t))
    total = np.array(rows.sum(dtype=np.float64) * loss.row_scale(y, t))
    same("sum of rows, over the divisor", total, whole, rounding(whole, rows), cure)
    parts = [np.array(loss.rows(y[some], t[some])) for some in (slice(0, 1), slice(1, None))]
    same("rows of parts of the mini-batch", np.concatenate(parts), rows, rounding(rows), cure)
    sums = np.sum([loss.total(y[some], t[some]) for some in (slice(0, 1), slice(1, None))], axis=0)
    same("total of parts of the mini-batch", sums, np.array(loss.total(y, t)), rounding(sums, rows), cure)


def check_empty_batch(case: LossCase) -> None:
    """Check that no rows: the passes raise nothing, and the gradient has no entries."""
    loss = case.made()
    y = case.y(0)
    t = loss.prepare(y, case.t(0))
    value_of(loss, y, t)
    if loss.has_backward:
        gradient = np.asarray(loss.backward(y, t))
        if gradient.shape != y.shape:
            fail("gradient of 0 rows", f"shape {y.shape}", f"{gradient.shape}", "The gradient has the shape of y")


def check_strides(case: LossCase) -> None:
    """Check that the same numbers give the same loss and gradient, however they lie in memory."""
    loss = case.made()
    y, labels = case.y(), case.t()
    cure = "Do not assume C order: use NumPy's functions, or np.ascontiguousarray before code that needs it"
    t = as_labels(loss, y, labels)
    value, gradient = value_and_gradient(loss, y, t, None)
    for words, given in layouts(y):
        found, found_gradient = value_and_gradient(loss, given, t, None)
        same(f"loss of a y {words}", np.array(found), np.array(value), rounding(np.array(value), y), cure)
        same(f"gradient of a y {words}", found_gradient, gradient, _near(loss, gradient), cure)
    for words, some in layouts(labels):
        found = loss(y, some)
        same(f"loss of labels {words}", np.array(found), np.array(value), rounding(np.array(value), y), cure)


def check_dtypes(case: LossCase) -> None:
    """Check that the gradient has the dtype of y; float32 and float64 give the same, but for rounding."""
    loss = case.made()
    single, labels = case.y(dtype=np.float32), case.t(dtype=np.float32)
    cure = "Compute in the dtype of y: y.dtype.type(constant), and no .astype to another one"
    values, gradients = [], []
    for dtype in (np.float32, np.float64):
        y = single.astype(dtype)
        t = as_labels(loss, y, in_dtype(labels, dtype))
        values.append(np.array(value_of(loss, y, t)))
        gradients.append(np.asarray(loss.backward(y, t)))
        if loss.has_backward and gradients[-1].dtype != dtype:
            fail(f"gradient of a {np.dtype(dtype)} y", f"{np.dtype(dtype)}", f"{gradients[-1].dtype}", cure)
    bound = 1e3 * float(np.finfo(np.float32).eps)
    same("loss in float32 against float64", values[0], values[1], bound * size(values[1], single), cure)
    same("gradient in float32 against float64", gradients[0], gradients[1], bound * size(gradients[1]), cure)


def check_gradient(case: LossCase) -> None:
    """Check that every entry of the gradient is right: see `nn.check_gradients`."""
    refuse_wrong("nn.check_gradients", check_gradients(case.made(), case.y(), case.t()))


def check_forward_backward(case: LossCase) -> None:
    """Check that `forward_backward` returns what `forward` and `backward` return."""
    loss = case.made()
    y = case.y()
    t = as_labels(loss, y, case.t())
    value, gradient = loss.forward_backward(y, t)
    cure = "forward_backward returns (loss, gradient); leave it out where one pass saves nothing"
    expected = np.array(loss.forward(y, t))
    same("loss of forward_backward", np.array(value), expected, rounding(expected), cure)
    expected = np.asarray(loss.backward(y, t))
    same("gradient of forward_backward", np.asarray(gradient), expected, _near(loss, expected), cure)


def check_difference(case: LossCase) -> None:
    """Check that `difference` and `row_differences` are what the loss and its rows change by, for a stack of dy."""
    loss = case.made()
    y = case.y()
    t = as_labels(loss, y, case.t())
    stack = case.rng().standard_normal((3, *y.shape)) * 0.1
    base = value_of(loss, y, t)
    expected = np.array([value_of(loss, y + dy, t) - base for dy in stack])
    bound = 4 * rounding(expected, np.array(base), y)
    cure = "difference(y, t, dy) returns forward(y + dy[s]) - forward(y) for each s of a stack, (S,)"
    same("difference", np.asarray(change_of(loss, y, t, stack)), expected, bound, cure)
    if not loss.is_sum_over_rows:
        return
    cure = "row_differences(y, t, dy) returns rows(y + dy[s]) - rows(y) for each s of a stack, (S, N)"
    rows = np.array([loss.rows(y + dy, t) - loss.rows(y, t) for dy in stack], np.float64)
    same("row_differences", np.asarray(loss.row_differences(y, t, stack)), rows, bound + rounding(rows), cure)


def check_purity(case: LossCase) -> None:
    """Check that passes change neither y nor t, repeat themselves, and do not remember other calls."""
    loss = case.made()
    y = case.y()
    t = as_labels(loss, y, case.t())
    given, labels = y.copy(), t.copy()
    value, gradient = value_of(loss, given, labels), np.asarray(loss.backward(given, labels))
    _unchanged({"y": (given, y), "t": (labels, t)})
    kept = gradient.copy()
    loss.backward(-y, t)
    value_of(loss, -y, t)
    if not np.array_equal(gradient, kept, equal_nan=True):
        fail("gradient after another call", "the array as it was returned", "one that was written to again", PURE)
    again, same_gradient = value_of(loss, given, labels), np.asarray(loss.backward(given, labels))
    same("loss of the same y after another call", np.array(again), np.array(value), rounding(np.array(value)), PURE)
    same("gradient of the same y after another call", same_gradient, kept, rounding(kept), PURE)


def check_pickle(case: LossCase) -> None:
    """Check that a loss can be pickled: worker processes get it so."""
    cure = "Define its class at the top level of a module, and keep no lambda, lock or open file in self"
    loss = case.made()
    try:
        other = pickle.loads(pickle.dumps(loss))
    except Exception as error:
        fail("pickle.dumps and loads", "a copy", f"{type(error).__name__}: {error}", cure)
    _same_value(case, loss, other, "pickle", cure)


def check_copy(case: LossCase) -> None:
    """Check that copies are the same function."""
    loss = case.made()
    cure = "Leave __copy__, __deepcopy__ and __getstate__ as they are, or copy every attribute in them"
    _same_value(case, loss, copy.copy(loss), "copy.copy", cure)
    _same_value(case, loss, copy.deepcopy(loss), "copy.deepcopy", cure)


def check_repr_of(case: LossCase) -> None:
    """Check that `repr` names the class, and has no address in memory."""
    check_repr(case.made(), case.made())


def check_threads(case: LossCase) -> None:
    """Check that two threads that take the loss at once get what one gets."""
    loss = case.made()
    y = case.y()
    t = as_labels(loss, y, case.t())
    outputs = [y, -y]
    expected = [value_and_gradient(loss, one, t, None) for one in outputs]

    def work(which: int) -> None:
        value, gradient = value_and_gradient(loss, outputs[which], t, None)
        right = np.array(expected[which][0])
        same(f"loss in thread {which}", np.array(value), right, rounding(right), PURE)
        same(f"gradient in thread {which}", gradient, expected[which][1], rounding(expected[which][1]), PURE)

    at_once(work)


def check_training(case: LossCase) -> None:
    """Check that each strategy takes a step, and that those which find the gradient find the same one."""
    y = case.y()
    train(Gains(y.shape[1:], case.rng()), case.made(), y, case.t(), "A written gradient that is not the derivative")


CHECKS: dict[str, Callable[[LossCase], None]] = {
    "value": check_value,
    "rows": check_rows,
    "empty_batch": check_empty_batch,
    "strides": check_strides,
    "dtypes": check_dtypes,
    "gradient": check_gradient,
    "forward_backward": check_forward_backward,
    "difference": check_difference,
    "purity": check_purity,
    "pickle": check_pickle,
    "copy": check_copy,
    "repr": check_repr_of,
    "threads": check_threads,
    "training": check_training,
}


# ---- parts ----


def _near(loss: Any, gradient: Numbers) -> float:
    """How near gradients must be: those by differences are not known better than by their step."""
    return rounding(gradient) if loss.has_backward else 1e-6 * size(gradient)


def _unchanged(arrays: dict[str, tuple[Numbers, Numbers]]) -> None:
    for name, (now, before) in arrays.items():
        if not np.array_equal(now, before, equal_nan=now.dtype.kind == "f"):
            fail(f"{name} after the passes", "the numbers that were given", "others: they were overwritten", PURE)


def _same_value(case: LossCase, loss: Any, other: Any, what: str, cure: str) -> None:
    y, t = case.y(), case.t()
    value = np.array(loss(y, t))
    same(f"loss after {what}", np.array(other(y, t)), value, rounding(value), cure)
