"""One layer by itself: how its output changes, and its gradient, written or found by central differences.

Strategies, containers and checks ask here, never a layer itself: whether a helper that a class inherits counts, what stands
in for one that was not written, and whether what comes back fits, is decided once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnframe.core.coloring import Pattern, joined, pattern_from, pattern_of
from nnframe.core.parameter import Array, Parameter
from nnframe.core.protocol import LayerError, named
from nnframe.core.run import Run, current_run, noted, read_only
from nnframe.core.structure import couples_of

if TYPE_CHECKING:
    from nnframe.core.chain import Link

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

STACK_BYTES = 1 << 23  # of the widest array in a stack of perturbations
STEP = float(np.finfo(np.float64).eps) ** (1 / 3)
FEW_COLUMNS = 4  # no more than these are not worth a search for which of them may be moved together
CHANGED = 1e-9  # of the largest output: what counts as a change when it is searched which inputs move which outputs


def as_step(step: float | None) -> float | None:
    """`step` checked; None stays, and means STEP max(1, |x|)."""
    if step is not None and not (
        isinstance(step, int | float | np.number) and not isinstance(step, bool) and 0 < step < math.inf
    ):
        raise ValueError(f"step: expected a finite number above 0, got {step!r}")
    if step is not None and not float(step) > 1e-30:
        raise ValueError(f"step: expected one above 1e-30, of which changes are numbers still, got {step!r}")
    return None if step is None else float(step)


def chunks(count: int, width: int) -> Iterator[Rows]:
    """Cut `count` perturbations, each of arrays of `width` numbers, into parts that fit STACK_BYTES."""
    many = max(1, STACK_BYTES // (8 * max(1, width)))
    return (np.arange(first, min(first + many, count)) for first in range(0, count, many))


def the_run() -> Run:
    """Return the run of this thread, or one for a layer that is asked by itself."""
    return current_run() or Run(True)


# ---- changes ----


def difference_of(link: Link, dx: Array, rows: Rows | None = None) -> Array:
    """forward(x + dx) - forward(x) of a link's layer, for one dx or a stack of them (S, *x.shape).

    rows: which rows of the mini-batch those of dx belong to, where they are others than its own.
    """
    layer, t = link.layer, link.traits
    x, y = (link.x, link.y) if rows is None else (_rows(link.x, rows), link.y[rows])
    if link.chain:
        return run_differences(link.inner[0].links, dx, rows)
    if t.branches and link.inner:
        changes = [(dx if not branch.links else run_differences(branch.links, dx, rows)) for branch in link.inner]
        outputs = [branch.y if rows is None else branch.y[rows] for branch in link.inner]
        return layer.join_changes(outputs, changes).astype(y.dtype, copy=False)
    if not t.difference:
        return _subtracted(link, x, dx, rows)
    run = the_run()
    outer, run.rows = run.rows, run.rows if rows is None else rows  # random layers ask which rows these are
    try:
        dy = layer.difference(x, y, dx)
    finally:
        run.rows = outer
    expected = (*dx.shape[: dx.ndim - x.ndim], *y.shape)
    if not isinstance(dy, np.ndarray) or dy.shape != expected:
        came = dy.shape if isinstance(dy, np.ndarray) else type(dy).__name__
        raise LayerError(f"{_name(link)}: difference: expected an array of shape {expected}, got {came}")
    return dy if dy.dtype.kind == "f" else dy.astype(y.dtype)


def run_differences(links: list[Link], dx: Array, rows: Rows | None = None) -> Array:
    """How the output of the last link changes when the input of the first changes by dx, or a stack of them."""
    for link in links:
        dx = difference_of(link, dx, rows).astype(link.y.dtype, copy=False)
    return dx


def _rows(x: Any, rows: Rows) -> Any:
    return tuple(one[rows] for one in x) if isinstance(x, tuple) else x[rows]


def _subtracted(link: Link, x: Any, dx: Array, rows: Rows | None) -> Array:
    """Subtract two evaluations in float64, so that digits are left."""
    run = the_run()
    wide = _in_double(link, x, run)
    base = _base(link, wide, rows, run)
    return _evaluated_at(link, wide, dx, base.shape, rows, run) - base


def _in_double(link: Link, x: Any, run: Run) -> Doubles:
    """`x` in float64, where the layer can be evaluated so."""
    _refuse_coarse(link, run)
    if x.dtype.kind != "f":
        raise LayerError(
            f"{_name(link)}: expected to be the lowest layer, as it takes integers, which have no differences"
        )
    return x.astype(np.float64)  # type: ignore[no-any-return]


def _evaluated_at(link: Link, x: Doubles, dx: Array, shape: tuple[int, ...], rows: Rows | None, run: Run) -> Doubles:
    """Return forward(x + dx) in float64, for one dx or a stack of them; `shape` is that of one output."""
    moved = x + dx
    if dx.ndim == x.ndim:
        return evaluated(link, moved, run, rows, shape)
    if couples_of(link, run) == "batch" and rows is None:
        return np.stack([evaluated(link, one, run) for one in moved])
    own = _row_numbers(len(x), run) if rows is None else rows
    flat = moved.reshape(-1, *x.shape[1:])
    y = evaluated(link, flat, run, np.tile(own, len(dx)), (len(flat), *shape[1:]))
    return y.reshape(len(dx), *shape)


def _row_numbers(count: int, run: Run) -> Rows:
    return np.arange(count) if run.rows is None else run.rows


def _base(link: Link, x: Doubles, rows: Rows | None, run: Run) -> Doubles:
    """The float64 output at x itself; that of the whole mini-batch is kept as long as the run."""
    if rows is not None:
        return evaluated(link, x, run, rows, (len(rows), *link.y.shape[1:]))
    found: Doubles = run.once((id(link.y), "base"), lambda: (evaluated(link, x, run), link.y))[0]
    return found


def evaluated(
    link: Link, x: Any, run: Run, rows: Rows | None = None, expected: tuple[int, ...] | None = None, copy: Any = None
) -> Doubles:
    """Return forward(x) of a private float64 copy of the layer, as float64, its shape checked."""
    layer = run.copy_of(link.layer, np.float64)[0] if copy is None else copy
    try:
        y = run.evaluate(layer, x, rows)
    except Exception as error:
        raise noted(error, link.layer)  # noqa: B904
    expected = link.y.shape if expected is None else expected
    if not isinstance(y, np.ndarray) or y.shape != expected:
        came = y.shape if isinstance(y, np.ndarray) else type(y).__name__
        raise LayerError(
            f"{_name(link)}: forward returns another shape for other values: expected {expected} as before, got {came}"
        )
    return y.astype(np.float64, copy=False)


def _refuse_coarse(link: Link, run: Run) -> None:
    found = run.memory.of(link.layer) if run.memory is not None else None
    if found is not None and found.coarse:
        raise LayerError(f"{_name(link)}: {found.coarse}")


def _name(link: Link) -> str:
    run = current_run()
    path = run.root.path_of(link.layer) if run is not None and run.root is not None else ""
    return named(link.layer, path)


# ---- a parameter moved ----


def perturbations(
    link: Link, parameter: Parameter, indices: Rows, step: float, scaled: bool = False
) -> tuple[Array, Array, Doubles]:
    """How y changes when entries of a parameter, one at a time, move up and down: two arrays (S, *y.shape).

    The third, (S,), holds how far the two ends are apart. A layer that wrote `perturb` is moved by `step`; any other by
    what is left of it in floating point, `scaled` by max(1, |value|).
    """
    layer, t = link.layer, link.traits
    if t.perturb:
        sides = [layer.perturb(parameter, indices, sign * step, link.x, link.y) for sign in (1, -1)]
        for dy in sides:
            if not isinstance(dy, np.ndarray) or dy.shape != (len(indices), *link.y.shape):
                came = dy.shape if isinstance(dy, np.ndarray) else type(dy).__name__
                raise LayerError(f"{_name(link)}: perturb: expected shape {(len(indices), *link.y.shape)}, got {came}")
        return sides[0], sides[1], np.full(len(indices), 2 * step)
    if t.branches or link.chain:
        holders = [
            (branch, one)
            for branch in link.inner
            for one in branch.links
            if any(p is parameter for p in one.parameters)
        ]
        if len(holders) == 1:
            return _perturbed_inside(link, *holders[0], parameter, indices, step, scaled)
    return _moved_in_place(link, parameter, indices, step, scaled)


def _perturbed_inside(
    link: Link, branch: Any, holder: Link, parameter: Parameter, indices: Rows, step: float, scaled: bool
) -> tuple[Array, Array, Doubles]:
    up, down, width = perturbations(holder, parameter, indices, step, scaled)
    above = branch.links[next(i for i, one in enumerate(branch.links) if one is holder) + 1 :]
    sides = [run_differences(above, side.astype(holder.y.dtype, copy=False)) for side in (up, down)]
    if link.chain:
        return sides[0], sides[1], width
    outputs = [one.y for one in link.inner]
    which = next(k for k, one in enumerate(link.inner) if one is branch)
    changes = [[side if k == which else None for k in range(len(outputs))] for side in sides]
    ends = [link.layer.join_changes(outputs, change) for change in changes]
    return ends[0], ends[1], width


def _moved_in_place(
    link: Link, parameter: Parameter, indices: Rows, step: float, scaled: bool
) -> tuple[Array, Array, Doubles]:
    run = the_run()
    _refuse_coarse(link, run)
    copy, memo = run.copy_of(link.layer, np.float64)
    value = memo[id(parameter)].value.reshape(-1)
    x = link.x if isinstance(link.x, tuple) or link.x.dtype.kind != "f" else link.x.astype(np.float64)
    base = evaluated(link, x, run, copy=copy)
    up, down = np.empty((2, len(indices), *base.shape))
    steps = step * np.maximum(1, np.abs(value[indices])) if scaled else np.full(len(indices), step)
    ends = value[indices][:, None] + np.multiply.outer(steps, [1.0, -1.0])
    width = ends[:, 0] - ends[:, 1]
    lost = ~(np.abs(width - 2 * steps) <= 0.02 * steps)
    if lost.any():
        i = int(lost.argmax())
        raise LayerError(
            f"{_name(link)}: step {steps[i]:g}: expected one that moves every entry of its parameters, but beside "
            f"{value[indices[i]]:g} little is left of it; give the strategy a larger step, or keep the parameter in "
            "another unit"
        )
    for i, index in enumerate(indices):
        saved = value[index]
        try:
            for side, end in zip((up, down), ends[i], strict=True):
                value[index] = end
                np.subtract(evaluated(link, x, run, copy=copy), base, out=side[i])
        finally:
            value[index] = saved
    return up, down, width


# ---- gradients ----


def backward_of(link: Link, dy: Array, step: float | None, input_gradient: bool = True) -> Array | None:
    """Add to each parameter's gradient, and return that with respect to x: as it was written, or by differences.

    step: of the differences; None for STEP max(1, |x|).
    """
    layer, t = link.layer, link.traits
    if t.branches and link.inner:
        return _backward_of_branches(link, dy, step, input_gradient)
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
                f"{_name(link)}: backward writes into x, y or dy; compute into a new array, or into a copy"
            ) from error
        raise noted(error, layer, "backward")  # noqa: B904
    if not input_gradient or not t.own:
        return dx
    return _as_gradient(link, dx)


def _as_gradient(link: Link, dx: Any) -> Array:
    if dx is None:
        raise LayerError(f"{_name(link)}: backward: expected the gradient of x, got None; is `return` missing?")
    if not isinstance(dx, np.ndarray) or dx.dtype.kind not in "fiub":
        raise LayerError(f"{_name(link)}: backward: expected an array of numbers, got {type(dx).__name__}")
    if dx.shape != link.x.shape:
        raise LayerError(f"{_name(link)}: backward: expected the shape of x {link.x.shape}, got {dx.shape}")
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
    for parameter in link.parameters:
        gradient = parameter_gradient(link, parameter, dy, step)
        parameter.grad += gradient
        if not gradient.any() and dy.any():
            warn_parameter_stands_still(link, parameter, STEP if step is None else step)
    if not input_gradient:
        return None
    if isinstance(link.x, tuple):
        raise LayerError(f"{_name(link)}: expected one input; a layer of several needs a backward, or nn.Branches")
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
        f"{_name(link)}: its differences are all 0, so that no gradient passes; give the strategy a larger step than "
        f"{step:g}",
        RuntimeWarning,
        stacklevel=3,
    )


def warn_parameter_stands_still(link: Link, parameter: Parameter, step: float) -> None:
    """Say once that a layer's output does not move with one of its parameters."""
    run = the_run()
    if run.memory is not None and not run.memory.first_time("stands still", parameter):
        return
    which = next((name for name, p in link.layer.named_parameters() if p is parameter), "a parameter")
    warnings.warn(
        f"{_name(link)}: its output does not move with {which}, whose gradient is 0; a parameter that forward rounds needs "
        f"a larger step than {step:g}",
        RuntimeWarning,
        stacklevel=3,
    )


def parameter_gradient(link: Link, parameter: Parameter, dy: Array, step: float | None = None) -> Doubles:
    """Gradient of sum(dy * forward(x)) with respect to one parameter, of its shape."""
    run = the_run()
    weights = dy.astype(np.float64)
    pattern = None
    if not link.traits.perturb and not _seen_through(link):
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


def central(up: Array, down: Array, link: Link) -> Doubles:
    """Up - down; where one side is not finite, twice the other, and a word."""
    up, down = up.astype(np.float64, copy=False), down.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        change = up - down
    if np.isfinite(change).all():
        return change
    fine_up, fine_down = np.isfinite(up), np.isfinite(down)
    one_sided = fine_up != fine_down
    if one_sided.any():
        warnings.warn(
            f"{_name(link)}: on one side of {int(one_sided.sum())} differences it is not finite; the other side is taken "
            "alone there, whose error is larger",
            RuntimeWarning,
            stacklevel=4,
        )
        change = np.where(one_sided, np.where(fine_up, 2 * up, -2 * down), change)
    return change


def steps_of(x: Array, step: float | None) -> Doubles:
    """Return the step of each entry of x."""
    return STEP * np.maximum(1, np.abs(x.astype(np.float64))) if step is None else np.full(x.shape, step)


def _central_difference(link: Link, dx: Doubles) -> Doubles:
    """f(x + dx) - f(x - dx), of a stack or of one."""
    if link.traits.difference or link.traits.branches or link.chain:
        moved = dx.astype(link.x.dtype)
        return central(difference_of(link, moved), difference_of(link, -moved), link)
    run = the_run()
    x = _in_double(link, link.x, run)
    ends = [_evaluated_at(link, x, sign * dx, link.y.shape, None, run) for sign in (1, -1)]
    return central(ends[0], ends[1], link)


def _moved_by(link: Link, steps: Doubles) -> Doubles:
    """Return the steps as the layer takes them: a written difference takes numbers of the dtype of x."""
    return steps.astype(link.x.dtype).astype(np.float64) if link.traits.difference else steps


def _of_entries(link: Link, dy: Doubles, step: float | None) -> Doubles:
    h = _moved_by(link, steps_of(link.x, step))
    return dy * _central_difference(link, h) / (2 * h)


def _of_rows(link: Link, dy: Doubles, step: float | None, pattern: Pattern | None) -> Doubles:
    x, y = link.x, link.y
    h = _moved_by(link, steps_of(x, step)).reshape(len(x), -1)
    if pattern is not None:
        return _coloured(link, dy, h, pattern).reshape(x.shape)
    dx = np.zeros(h.shape)
    for columns in chunks(h.shape[1], max(x.size, y.size)):
        moved = np.zeros((len(columns), *h.shape))
        moved[np.arange(len(columns)), :, columns] = h[:, columns].T
        change = _central_difference(link, moved.reshape(-1, *x.shape))
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
        change = _central_difference(link, moved.reshape(-1, *x.shape)).reshape(len(entries), -1)
        dx[entries] = change @ dy.reshape(-1) / (2 * h[0, entries])
    return dx.reshape(x.shape)


def _coloured(link: Link, dy: Doubles, h: Doubles, pattern: Pattern) -> Doubles:
    """Gradient with respect to x, (rows, columns), h being of that shape: one row of all entries for a whole batch.

    Outputs that move unexpectedly tell that the pattern does not hold here: NotThere.
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
    return _central_difference(link, moved.reshape(link.x.shape)).reshape(len(h), -1)


class NotThere(Exception):
    """A pattern that was found does not hold for this mini-batch."""


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
        change, width = _moved_together(link, parameter, group.columns, h, run)
        _see_whether_it_holds(link, pattern, change.reshape(shape), group.outputs)
        products = (change * dy).reshape(shape).sum(axis=0)
        gradient[group.columns] = group.gathered(products) / width
    if len(pattern.silent):
        change, _ = _moved_together(link, parameter, pattern.silent, h, run)
        _see_whether_it_holds(link, pattern, change.reshape(shape), None)
    return gradient.reshape(parameter.value.shape)


def _moved_together(
    link: Link, parameter: Parameter, columns: Rows, h: Doubles, run: Run, signs: Doubles | float = 1.0
) -> tuple[Doubles, Doubles]:
    """F with some entries of a parameter up, less f with them down; and how far the ends are apart."""
    copy, memo = run.copy_of(link.layer, np.float64)
    value = memo[id(parameter)].value.reshape(-1)
    x = link.x if link.x.dtype.kind != "f" else link.x.astype(np.float64)
    saved = value[columns]
    ends = saved + h[columns] * signs, saved - h[columns] * signs
    sides = []
    try:
        for end in ends:
            value[columns] = end
            sides.append(evaluated(link, x, run, copy=copy))
    finally:
        value[columns] = saved
    return central(sides[0], sides[1], link), ends[0] - ends[1]


# ---- patterns: which inputs move which outputs ----


def input_pattern(link: Link, run: Run, couples: str) -> Pattern | None:
    """Colours of a layer's inputs, found once for each shape; None where each input must be moved alone."""
    by_row = couples == "rows"
    columns = math.prod(link.x.shape[1:]) if by_row else link.x.size
    found = run.memory.of(link.layer) if run.memory is not None else None
    if found is None or found.contradicted > 1 or columns <= FEW_COLUMNS or _seen_through(link):
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


def _seen_through(link: Link) -> bool:
    """Whether a link is made of others that answer for themselves."""
    return link.chain or link.traits.branches


class _Search:
    """Looks for the pattern of one layer's Jacobian: on a few rows where rows are apart, else on the whole mini-batch.

    Zeros that are there by chance (a ReLU that is off) are guarded against: every pattern is compared with a random
    direction on the whole mini-batch, and rows that contradict it are taken in.
    """

    MOST_ROUNDS = 4
    ROWS_A_ROUND = 4
    MOST_ENTRIES = 1 << 26  # of a pattern

    def __init__(self, link: Link, run: Run, by_row: bool) -> None:
        self.link, self.run, self.by_row = link, run, by_row
        self.rng = np.random.Generator(np.random.PCG64(20260102))
        _refuse_coarse(link, run)
        self.x = link.x if link.x.dtype.kind != "f" else link.x.astype(np.float64)
        self.base = evaluated(link, self.x, run)
        # of each output by itself, as outputs may be of different units
        sizes = np.abs(np.where(np.isfinite(self.base), self.base, 0)).reshape(len(self.base) if by_row else 1, -1)
        self.threshold = np.maximum(CHANGED * sizes.max(axis=0, initial=0), 1e-15 * sizes.max(initial=0))
        self.outputs = math.prod(link.y.shape[1:]) if by_row else link.y.size
        self.rows = _row_numbers(len(link.y), run)

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
            return ~(np.abs(y - base).reshape(len(y), -1) <= self.threshold)

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
            true = _central_difference(self.link, way.reshape(self.link.x.shape)).reshape(len(h), -1)
            predicted = np.zeros(true.shape)
            for group in pattern.colours:
                moved = np.zeros(h.shape)
                moved[:, group.columns] = way[:, group.columns]
                change = _central_difference(self.link, moved.reshape(self.link.x.shape)).reshape(len(h), -1)
                predicted[:, group.outputs] += change[:, group.outputs]
        return self._contradicting(true, predicted)

    def _check_parameter(self, parameter: Parameter, pattern: Pattern) -> Rows:
        h = steps_of(parameter.value, None).reshape(-1)
        signs = self.rng.choice([-1.0, 1.0], h.shape)
        shape = (len(self.x) if self.by_row else 1, -1)
        every = np.arange(h.size)
        with np.errstate(all="ignore"):
            true = _moved_together(self.link, parameter, every, h, self.run, signs)[0].reshape(shape)
            predicted = np.zeros(true.shape)
            for group in pattern.colours:
                columns = group.columns
                change = _moved_together(self.link, parameter, columns, h, self.run, signs[columns])[0].reshape(shape)
                predicted[:, group.outputs] += change[:, group.outputs]
        return self._contradicting(true, predicted)

    def _contradicting(self, true: Doubles, predicted: Doubles) -> Rows:
        """Rows in which the two are apart, each output measured by itself."""
        finite = np.isfinite(true) & np.isfinite(predicted)
        sizes = np.abs(np.where(finite, true, 0)).max(axis=0, initial=0)
        bound = np.maximum(1e-4 * sizes, 1e-12 * sizes.max(initial=0))
        off = np.abs(np.where(finite, true - predicted, 0))
        return np.flatnonzero((off > bound).any(axis=1))
