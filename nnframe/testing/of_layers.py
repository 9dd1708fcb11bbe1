"""The checks of a layer's passes: each is given a `LayerCase`, and raises AssertionError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnframe.core.chain import run_forward
from nnframe.core.layer import Layer
from nnframe.core.protocol import traits
from nnframe.core.run import Run
from nnframe.core.structure import Memory, couples_of
from nnframe.gradients.check import check_gradients
from nnframe.testing.cases import (
    MODES,
    PURE,
    ROWS,
    LayerCase,
    backward,
    each,
    fail,
    forward,
    in_dtype,
    layouts,
    mode,
    refuse_wrong,
    rounding,
    rows_of,
    same,
    size,
    state_unchanged,
)


def check_shapes(case: LayerCase) -> None:
    """Check that forward returns an array of floating-point numbers, with a row for each row of x, of one shape."""
    layer = case.made()
    cure = "Axis 0 of x and y counts the rows of a mini-batch; the other axes of y do not depend on how many there are"
    for training in MODES:
        trailing: Any = None
        for rows in (ROWS, 2, 1):
            x = case.x(layer, rows)
            if training and _is_refused(case, x):
                continue
            y = forward(layer, x, training)
            what = f"forward of {rows} rows {mode(training)}"
            if not isinstance(y, np.ndarray) or y.dtype.kind != "f":
                came = f"an array of {y.dtype}" if isinstance(y, np.ndarray) else type(y).__name__
                fail(what, "an array of floating-point numbers", came, "Return a NumPy array, not a list or scalar")
            trailing = y.shape[1:] if trailing is None else trailing
            if y.ndim == 0 or y.shape != (rows, *trailing):
                fail(what, f"shape {(rows, *trailing)}", f"{y.shape}", cure)
    x = case.x(layer)
    y = layer(x)
    same(
        "layer(x)", y, forward(layer, x, False).astype(y.dtype), rounding(y), "A layer overrides forward, not __call__"
    )


def check_empty_batch(case: LayerCase) -> None:
    """Check that a mini-batch without rows gives an output without rows, and gradients of 0."""
    layer = case.made()
    cure = "Reshape with -1 only where the size follows from the others, and take no maximum or first row of nothing"
    x = case.x(layer, 0)
    expected = (0, *forward(layer, case.x(layer)).shape[1:])
    refused = _is_refused(case, x)
    for training in MODES[: 1 if refused else 2]:
        y = forward(layer, x, training)
        if np.shape(y) != expected:
            fail(f"forward of 0 rows {mode(training)}", f"shape {expected}", f"{np.shape(y)}", cure)
    if refused or not _has_own_backward(layer):
        return
    dx, gradients = backward(layer, x, forward(layer, x), np.zeros(expected, layer.dtype))
    _same_shapes(dx, x, "backward of 0 rows", cure)
    for name, gradient in gradients.items():
        same(f"gradient of {name} over 0 rows", gradient, np.zeros_like(gradient), 0.0, "A sum over no rows is 0")


def check_single_row(case: LayerCase) -> None:
    """Check that one row is a mini-batch as well, whose output has the right shape and whose gradient is right."""
    layer = case.made()
    x = case.x(layer, 1)
    if _is_refused(case, x):
        return
    y = forward(layer, x)
    expected = (1, *forward(layer, case.x(layer)).shape[1:])
    if np.shape(y) != expected:
        fail("forward of a single row", f"shape {expected}", f"{np.shape(y)}", "Do not squeeze: keep the axis of rows")
    report = check_gradients(layer, x)
    refuse_wrong("gradient of a single row", report)


def check_strides(case: LayerCase) -> None:
    """Check that the same numbers give the same answers, however they lie in memory."""
    layer = case.made()
    cure = "Do not assume C order: use NumPy's functions, or np.ascontiguousarray before code that needs it"
    x = case.x(layer)
    for training in MODES:
        expected = forward(layer, x, training)
        for words, given in _layouts_of(x):
            y = forward(layer, given, training)
            same(f"forward of an x {words} {mode(training)}", y, expected, rounding(expected), cure)
    swapped = each(lambda a: a.astype(a.dtype.newbyteorder()), x)
    plain = layer(x)
    same("layer(x) of byte-swapped numbers", layer(swapped), plain, rounding(plain), cure)
    if not _has_own_backward(layer):
        return
    y = forward(layer, x)
    dy = case.rng().standard_normal(y.shape).astype(y.dtype)
    expected_dx, expected_gradients = backward(layer, in_dtype(x, layer.dtype), y.copy(), dy.copy())
    for (words, some_dy), (_, some_y) in zip(layouts(dy), layouts(y), strict=True):
        dx, gradients = backward(layer, in_dtype(x, layer.dtype), some_y, some_dy)
        _same_all(dx, expected_dx, f"backward of y and dy {words}", cure)
        for name, gradient in gradients.items():
            bound = 4 * rounding(expected_gradients[name], dy)
            same(f"gradient of {name} with y and dy {words}", gradient, expected_gradients[name], bound, cure)


def check_dtypes(case: LayerCase) -> None:
    """Check that output and gradients have the dtype of x; float32 and float64 give the same, but for rounding."""
    cure = "Compute in the dtype of x: x.dtype.type(constant), np.zeros(shape, x.dtype), and no .astype to another one"
    found: list[Any] = []
    for layer, x in case.both():
        dtype = layer.dtype if layer.parameters() or layer.takes_integers else _float_of(x)
        y = forward(layer, x)
        if y.dtype != dtype:
            fail(f"forward of a {dtype} layer and x", f"{dtype}", f"{y.dtype}", cure)
        if _has_own_backward(layer):
            dy = case.rng().standard_normal(y.shape).astype(dtype)
            dx, _ = backward(layer, x, y, dy)
            for one, given in zip(_listed(dx), _listed(x), strict=False):
                if given.dtype.kind == "f" and getattr(one, "dtype", None) != dtype:
                    fail(f"backward of {dtype} arrays", f"{dtype}", f"{getattr(one, 'dtype', type(one))}", cure)
        found.append(y)
    single, double = found
    bound = 1e3 * float(np.finfo(np.float32).eps) * size(double)
    same("forward in float32 against float64", single, double, bound, cure)


def check_gradient(case: LayerCase) -> None:
    """Check that every entry of every gradient is right, and so is what goes with it: see `nn.check_gradients`."""
    layer = case.made()
    refuse_wrong("nn.check_gradients", check_gradients(layer, case.x(layer)))


def check_difference(case: LayerCase) -> None:
    """Check that `difference` is what forward changes by, for one dx and for a stack of them, in both dtypes."""
    cure = (
        "difference(x, y, dx) returns forward(x + dx) - y, and takes dx of x's shape or a stack of them (S, *x.shape)"
    )
    for layer, x in case.both():
        if isinstance(x, tuple) or x.dtype.kind != "f":
            return
        exact, wide = layer.astype(np.float64), x.astype(np.float64)
        stack = (case.rng().standard_normal((3, *x.shape)) * 0.1).astype(x.dtype)
        y, base = forward(layer, x), forward(exact, wide)
        expected = np.stack([forward(exact, wide + dx) - base for dx in stack.astype(np.float64)])
        bound = 2 * max(rounding(y), 64 * float(np.finfo(x.dtype).eps) * size(expected))
        written: Any = type(layer) if traits(layer).difference else Layer  # one that is inherited may not count
        with Run(True, root=layer):
            one, all_three = (written.difference(layer, x, y, dx) for dx in (stack[0], stack))
        same(f"difference of one dx in {x.dtype}", one, expected[0], bound, cure)
        same(f"difference of a stack of dx in {x.dtype}", all_three, expected, bound, cure)


def check_perturb(case: LayerCase) -> None:
    """Check that `perturb` is what forward changes by when an entry of a parameter moves, in both dtypes."""
    cure = (
        "perturb(parameter, indices, step, x, y) returns forward with one entry moved by step, minus y: (S, *y.shape)"
    )
    step = 0.0625
    for layer, x in case.both():
        memo: dict[int, Any] = {}
        exact, wide = layer.astype(np.float64, memo), in_dtype(x, np.float64)
        y, base = forward(layer, x), forward(exact, wide)
        for name, parameter in layer.named_parameters():
            flat = memo[id(parameter)].value.reshape(-1)
            indices = np.sort(case.rng().permutation(flat.size)[:3]).astype(np.intp)
            expected = np.empty((len(indices), *base.shape))
            for change, index in zip(expected, indices, strict=True):
                saved = flat[index]
                flat[index] += step
                change[...] = forward(exact, wide) - base
                flat[index] = saved
            bound = 2 * max(rounding(y), 64 * float(np.finfo(y.dtype).eps) * size(expected))
            written: Any = type(layer) if traits(layer).perturb else Layer
            with Run(True, root=layer):
                found = written.perturb(layer, parameter, indices, step, x, y)
            same(f"perturb of {name} in {y.dtype}", found, expected, bound, cure)


def check_purity(case: LayerCase) -> None:
    """Check that passes change nothing, repeat themselves, and do not remember other calls."""
    layer = case.made()
    x, other = case.x(layer), case.x(layer, ROWS + 1)
    state = layer.state_dict()
    for training in MODES:
        given = in_dtype(x, layer.dtype)
        used = layer.astype(layer.dtype)
        first = forward(layer, given, training)
        _unchanged(given, x, f"x after forward {mode(training)}")
        kept = first.copy()
        forward(layer, other, training)
        if not np.array_equal(first, kept, equal_nan=True):
            fail("y after another call", "the array as it was returned", "one that was written to again", PURE)
        again = forward(layer, given, training)
        same(f"forward of the same x after another call {mode(training)}", again, kept, rounding(kept), PURE)
        state_unchanged(layer, state, f"forward {mode(training)}")
        forward(used, other, training)
        late = forward(used, given, training)
        same(f"forward {mode(training)} of a copy that was given another x first", late, kept, rounding(kept), PURE)
    if not _has_own_backward(layer):
        return
    y = forward(layer, x)
    dy = case.rng().standard_normal(y.shape).astype(y.dtype)
    arrays = {"x": in_dtype(x, layer.dtype), "y": y.copy(), "dy": dy.copy()}
    dx, gradients = backward(layer, arrays["x"], arrays["y"], arrays["dy"])
    for name, before in (("x", x), ("y", y), ("dy", dy)):
        _unchanged(arrays[name], before, f"{name} after backward")
    state_unchanged(layer, state, "backward")
    dx = each(np.copy, dx)
    between = forward(layer, other)
    backward(layer, other, between, np.ones_like(between))
    again_dx, again_gradients = backward(layer, x, y, dy)
    _same_all(again_dx, dx, "backward of the same arrays after another call", PURE)
    for name, gradient in again_gradients.items():
        before = gradients[name]
        same(f"gradient of {name} after another call", gradient, before, 4 * rounding(before, dy), PURE)


def check_rows(case: LayerCase) -> None:
    """Check that where rows are not coupled, a part of the mini-batch gives the same rows as the whole."""
    layer = case.made()
    x = case.x(layer)
    cure = "couples = 'batch' says that rows depend on each other; a layer that does not say it must not mix them"
    if _couples_rows(case):
        return
    for training in MODES:
        y = forward(layer, x, training)
        for rows in (np.arange(2), np.arange(2, ROWS), np.arange(ROWS)[::-1], np.array([3])):
            part = forward(layer, rows_of(x, rows), training, rows)
            same(f"forward of rows {rows.tolist()} {mode(training)}", part, y[rows], rounding(y), cure)


CHECKS: dict[str, Callable[[LayerCase], None]] = {
    "shapes": check_shapes,
    "empty_batch": check_empty_batch,
    "single_row": check_single_row,
    "strides": check_strides,
    "dtypes": check_dtypes,
    "gradient": check_gradient,
    "difference": check_difference,
    "perturb": check_perturb,
    "purity": check_purity,
    "rows": check_rows,
}


# ---- parts ----


def _has_own_backward(layer: Any) -> bool:
    return bool(traits(layer).backward)


def _couples_rows(case: LayerCase) -> bool:
    """Whether rows depend on each other in training, as the layer says or as is found out."""
    layer = case.made()
    if layer.couples == "batch":
        return True
    with Run(True, Memory(), None, layer) as run:
        links = run_forward(layer, case.x(layer), run).links
        return any(couples_of(link, run) == "batch" for link in links)


def _is_refused(case: LayerCase, x: Any) -> bool:
    """Whether a layer that couples rows refuses to be trained on so few of them, with a ValueError, as it may."""
    try:
        forward(case.made(), x)
    except ValueError:
        return _couples_rows(case)
    return False


def _listed(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def _float_of(x: Any) -> Any:
    return next((a.dtype for a in _listed(x) if a.dtype.kind == "f"), np.dtype(np.float32))


def _layouts_of(x: Any) -> list[tuple[str, Any]]:
    """Return an input in every layout, all arrays of a tuple in the same."""
    if not isinstance(x, tuple):
        return list(layouts(x))
    together = zip(*(layouts(a) for a in x), strict=True)
    return [(some[0][0], tuple(a for _, a in some)) for some in together]


def _same_all(found: Any, expected: Any, what: str, cure: str) -> None:
    for one, right in zip(_listed(found), _listed(expected), strict=True):
        if isinstance(right, np.ndarray) and right.dtype.kind == "f":
            same(what, one, right, 4 * rounding(right), cure)


def _same_shapes(found: Any, expected: Any, what: str, cure: str) -> None:
    for one, right in zip(_listed(found), _listed(expected), strict=True):
        if right.dtype.kind == "f" and np.shape(one) != right.shape:
            fail(what, f"shape {right.shape}", f"{np.shape(one)}", cure)


def _unchanged(now: Any, before: Any, what: str) -> None:
    for one, other in zip(_listed(now), _listed(before), strict=True):
        if not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            fail(what, "the numbers that were given", "others: they were overwritten", PURE)
