"""Gradients down through layers: as their backward was written or, where none was, by central differences."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from nnframe.core.bilinear import bilinear_form, gradients_by_terms
from nnframe.core.coloring import Pattern
from nnframe.core.local import (
    STEP,
    Doubles,
    Rows,
    central,
    central_difference,
    chunks,
    moved_together,
    moves_far_away,
    name_of,
    perturbations,
    steps_of,
    the_run,
)
from nnframe.core.parameter import Array, Parameter
from nnframe.core.patterns import (
    CHANGED,
    NotThere,
    forget_pattern,
    input_pattern,
    parameter_pattern,
    seen_through,
)
from nnframe.core.protocol import LayerError
from nnframe.core.run import noted, read_only
from nnframe.core.structure import couples_of

if TYPE_CHECKING:
    from nnframe.core.chain import Link


def backward_of(link: Link, dy: Array, step: float | None, input_gradient: bool = True) -> Array | None:
    """Add to each parameter's gradient, and return that with respect to x: as it was written, or by differences.

    step: of the differences; None for STEP max(1, |x|).
    """
    layer, t = link.layer, link.traits
    if t.branches and link.inner:
        return _backward_of_branches(link, dy, step, input_gradient)  # type: ignore[no-any-return]
    if not t.backward:
        return backward_by_differences(link, dy, step, input_gradient)
    given = read_only(dy) if t.own else dy
    x, y = (read_only(link.x), read_only(link.y)) if t.own else (link.x, link.y)
    arguments = (x, y, given, link.saved) if t.forward_saving else (x, y, given)
    try:
        if not input_gradient:
            if t.backward_parameters or not t.own:
                layer.backward_parameters(*arguments)
            else:
                layer.backward(*arguments)
            dx = None
        else:
            dx = layer.backward(*arguments)
    except Exception as error:
        if isinstance(error, ValueError) and "read-only" in str(error):
            raise LayerError(
                f"{name_of(link)}: backward writes into x, y or dy; compute into a new array, or into a copy"
            ) from error
        raise noted(error, layer, "backward")  # noqa: B904
    if not input_gradient or not t.own:
        return dx
    return _as_gradient(link, dx)


def _as_gradient(link: Link, dx: Any) -> Array:
    if dx is None:
        raise LayerError(f"{name_of(link)}: backward: expected the gradient of x, got None; is `return` missing?")
    if not isinstance(dx, np.ndarray) or dx.dtype.kind not in "fiub":
        raise LayerError(f"{name_of(link)}: backward: expected an array of numbers, got {type(dx).__name__}")
    if dx.shape != link.x.shape:
        raise LayerError(f"{name_of(link)}: backward: expected the shape of x {link.x.shape}, got {dx.shape}")
    return dx.astype(link.x.dtype, copy=False)


def backward_through(links: list[Link], dy: Array, step: float | None, input_gradient: bool = True) -> Array | None:
    """Take a gradient down a chain of links, adding to that of every parameter; returns that of the input."""
    lowest = -1 if input_gradient else next((i for i, link in enumerate(links) if link.parameters), len(links))
    for i in range(len(links) - 1, max(lowest, 0) - 1, -1):
        link = links[i]
        if i > lowest and link.traits.plain and link.traits.backward:
            try:
                dy = link.layer.backward(link.x, link.y, dy)
            except Exception as error:
                raise noted(error, link.layer, "backward")  # noqa: B904
            continue
        below = backward_of(link, dy, step, i > lowest)
        if below is None:
            return None
        dy = below
    return dy


def _backward_of_branches(link: Link, dy: Array, step: float | None, input_gradient: bool) -> Any:
    outputs = [branch.y for branch in link.inner]
    into = link.layer.split_gradient(outputs, dy)
    found = [
        backward_through(branch.links, np.ascontiguousarray(gradient), step, input_gradient)
        for branch, gradient in zip(link.inner, into, strict=True)
    ]
    if not input_gradient:
        return None
    if isinstance(link.x, tuple):
        return tuple(found)
    total = found[0]
    for one in found[1:]:
        total = total + one  # type: ignore[operator]
    return total


def backward_by_differences(link: Link, dy: Array, step: float | None, input_gradient: bool = True) -> Array | None:
    """Do what a written backward would: add to each parameter's gradient, and return that with respect to x."""
    run = the_run()
    form = bilinear_form(link, run)
    if form is not None:
        try:
            gradients, below = gradients_by_terms(link, form, dy, step, input_gradient, run)
        except NotThere:
            forget_pattern(link, run)
        else:
            for parameter, gradient in zip(link.parameters, gradients, strict=True):
                parameter.grad += gradient
            return below
    for parameter in link.parameters:
        gradient = parameter_gradient(link, parameter, dy, step)
        parameter.grad += gradient
        if not gradient.any() and dy.any():
            warn_parameter_stands_still(link, parameter, STEP if step is None else step)
    if not input_gradient:
        return None
    if isinstance(link.x, tuple):
        raise LayerError(f"{name_of(link)}: expected one input; a layer of several needs a backward, or nn.Branches")
    wide = dy.astype(np.float64)
    couples = couples_of(link, run)
    if couples == "entries":
        dx = _of_entries(link, wide, step)
    else:
        take = _of_rows if couples == "rows" else _of_batch
        try:
            dx = take(link, wide, step, input_pattern(link, run, couples))
        except NotThere:
            forget_pattern(link, run)
            dx = take(link, wide, step, None)
    if not dx.any() and dy.any() and link.x.size:
        warn_nothing_passes(link, STEP if step is None else step)
    return dx.astype(link.x.dtype)


def warn_nothing_passes(link: Link, step: float) -> None:
    """Say that a layer's output does not move with its input."""
    warnings.warn(
        f"{name_of(link)}: its differences are all 0, so that no gradient passes; give the strategy a larger step than "
        f"{step:g}",
        RuntimeWarning,
        stacklevel=3,
    )


def warn_parameter_stands_still(link: Link, parameter: Parameter, step: float) -> None:
    """Say once that a layer's output moves with one of its parameters, but not at this step.

    Nothing is said of one with which it does not move at all, such as a bias before a normalization: its gradient is 0.
    """
    run = the_run()
    if run.memory is not None and not run.memory.first_time("stands still", parameter):
        return
    if not moves_far_away(link, parameter):
        return
    which = next((name for name, p in link.layer.named_parameters() if p is parameter), "a parameter")
    warnings.warn(
        f"{name_of(link)}: its output does not move with {which} at step {step:g}, so that its gradient is 0; a "
        "parameter that forward rounds needs a larger step",
        RuntimeWarning,
        stacklevel=3,
    )


def parameter_gradient(link: Link, parameter: Parameter, dy: Array, step: float | None = None) -> Doubles:
    """Gradient of sum(dy * forward(x)) with respect to one parameter, of its shape."""
    run = the_run()
    weights = dy.astype(np.float64)
    pattern = None
    if not link.traits.perturb and not seen_through(link):
        pattern = parameter_pattern(link, parameter, run)
    if pattern is not None:
        try:
            return _of_parameter(link, parameter, weights, step, pattern)
        except NotThere:
            forget_pattern(link, run)
    gradient = np.zeros(parameter.value.size)
    for indices in chunks(parameter.value.size, link.y.size):
        up, down, width = perturbations(link, parameter, indices, STEP if step is None else step, step is None)
        change = central(up, down, link).reshape(len(indices), -1)
        gradient[indices] = change @ weights.reshape(-1) / width
    return gradient.reshape(parameter.value.shape)


def _moved_by(link: Link, steps: Doubles) -> Doubles:
    """Return the steps as the layer takes them: a written difference takes numbers of the dtype of x."""
    return steps.astype(link.x.dtype).astype(np.float64) if link.traits.difference else steps


def _of_entries(link: Link, dy: Doubles, step: float | None) -> Doubles:
    h = _moved_by(link, steps_of(link.x, step))
    return dy * central_difference(link, h) / (2 * h)


def _of_rows(link: Link, dy: Doubles, step: float | None, pattern: Pattern | None) -> Doubles:
    x, y = link.x, link.y
    h = _moved_by(link, steps_of(x, step)).reshape(len(x), -1)
    if pattern is not None:
        return _coloured(link, dy, h, pattern).reshape(x.shape)
    dx = np.zeros(h.shape)
    for columns in chunks(h.shape[1], max(x.size, y.size)):
        moved = np.zeros((len(columns), *h.shape))
        moved[np.arange(len(columns)), :, columns] = h[:, columns].T
        change = central_difference(link, moved.reshape(-1, *x.shape))
        rows = (change * dy).reshape(len(columns), len(x), -1).sum(axis=2)
        dx[:, columns] = rows.T / (2 * h[:, columns])
    return dx.reshape(x.shape)


def _of_batch(link: Link, dy: Doubles, step: float | None, pattern: Pattern | None) -> Doubles:
    x, y = link.x, link.y
    h = _moved_by(link, steps_of(x, step)).reshape(1, -1)
    if pattern is not None:
        return _coloured(link, dy, h, pattern).reshape(x.shape)
    dx = np.zeros(x.size)
    for entries in chunks(x.size, max(x.size, y.size)):
        moved = np.zeros((len(entries), x.size))
        moved[np.arange(len(entries)), entries] = h[0, entries]
        change = central_difference(link, moved.reshape(-1, *x.shape)).reshape(len(entries), -1)
        dx[entries] = change @ dy.reshape(-1) / (2 * h[0, entries])
    return dx.reshape(x.shape)


def _coloured(link: Link, dy: Doubles, h: Doubles, pattern: Pattern) -> Doubles:
    """Gradient with respect to x, (rows, columns), h being of that shape: one row of all entries for a whole batch.

    Where outputs move unexpectedly the pattern does not hold here: NotThere.
    """
    dx = np.zeros(h.shape)
    for group in pattern.colours:
        change = _moved_columns(link, h, group.columns)
        _see_whether_it_holds(link, pattern, change, group.outputs)
        products = change * dy.reshape(len(h), -1)
        dx[:, group.columns] = group.gathered(products) / (2 * h[:, group.columns])
    if len(pattern.silent):
        _see_whether_it_holds(link, pattern, _moved_columns(link, h, pattern.silent), None)
    return dx


def _moved_columns(link: Link, h: Doubles, columns: Rows) -> Doubles:
    """Central difference, (rows, outputs), where some columns of x are moved by h."""
    moved = np.zeros(h.shape)
    moved[:, columns] = h[:, columns]
    return central_difference(link, moved.reshape(link.x.shape)).reshape(len(h), -1)


def _see_whether_it_holds(link: Link, pattern: Pattern, change: Doubles, own: Rows | None) -> None:
    bound = CHANGED * float(np.abs(change[np.isfinite(change)]).max(initial=0))
    floor = 1e-13 * float(np.abs(link.y[np.isfinite(link.y)]).max(initial=0))
    with np.errstate(invalid="ignore"):
        moved = ~(np.abs(change) <= max(bound, floor))
    if pattern.unexpected(moved, own):
        raise NotThere


def _of_parameter(link: Link, parameter: Parameter, dy: Doubles, step: float | None, pattern: Pattern) -> Doubles:
    run = the_run()
    by_row = couples_of(link, run) != "batch"
    gradient = np.zeros(parameter.value.size)
    start = parameter.value.astype(np.float64).reshape(-1)
    h = steps_of(start, step)
    shape = (len(link.y) if by_row else 1, -1)
    for group in pattern.colours:
        change, width = moved_together(link, parameter, group.columns, h, run)
        _see_whether_it_holds(link, pattern, change.reshape(shape), group.outputs)
        products = (change * dy).reshape(shape).sum(axis=0)
        gradient[group.columns] = group.gathered(products) / width
    if len(pattern.silent):
        change, _ = moved_together(link, parameter, pattern.silent, h, run)
        _see_whether_it_holds(link, pattern, change.reshape(shape), None)
    return gradient.reshape(parameter.value.shape)
