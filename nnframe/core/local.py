"""One layer by itself: how its output changes when its input or a parameter moves.

Strategies, containers and checks call these functions, never a layer itself: whether a helper that a class inherits
counts, what stands in for one that was not written, and whether what comes back fits, is decided once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnframe.core.inquiry import size_of
from nnframe.core.parameter import Array, Parameter
from nnframe.core.protocol import LayerError, named
from nnframe.core.run import Run, current_run, noted
from nnframe.core.structure import couples_of

if TYPE_CHECKING:
    from nnframe.core.chain import Link

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

STACK_BYTES = 1 << 23  # of the widest array in a stack of perturbations
CALL_BYTES = 1 << 16  # of that in one call of an author: larger arrays come from the system, and go back to it
STEP = float(np.finfo(np.float64).eps) ** (1 / 3)


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
    """Return the run of this thread, or one for a layer by itself."""
    return current_run() or Run(True)


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
        joined: Array = layer.join_changes(outputs, changes).astype(y.dtype, copy=False)
        return joined
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
        raise LayerError(f"{name_of(link)}: difference: expected an array of shape {expected}, got {came}")
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
    moved, base = values_of(link, x, dx, rows)
    return moved - base


def values_of(link: Link, x: Any, dx: Array, rows: Rows | None = None) -> tuple[Doubles, Doubles]:
    """Return forward(x + dx), for one dx or a stack of them, and forward(x), both evaluated in float64."""
    run = the_run()
    wide = _in_double(link, x, run)
    base = _base(link, wide, rows, run)
    return _evaluated_at(link, wide, dx, base.shape, rows, run), base


def _in_double(link: Link, x: Any, run: Run) -> Doubles:
    """`x` in float64, where the layer can be evaluated so."""
    refuse_coarse(link, run)
    if x.dtype.kind != "f":
        raise LayerError(
            f"{name_of(link)}: expected to be the lowest layer, as it takes integers, which have no differences"
        )
    return x.astype(np.float64)  # type: ignore[no-any-return]


def _floats_in_double(x: Any) -> Any:
    """Return an input, or each of several, in float64; ids as they are."""
    if isinstance(x, tuple):
        return tuple(map(_floats_in_double, x))
    return x if x.dtype.kind != "f" else x.astype(np.float64)


def _evaluated_at(link: Link, x: Doubles, dx: Array, shape: tuple[int, ...], rows: Rows | None, run: Run) -> Doubles:
    """Return forward(x + dx) in float64, for one dx or a stack of them; `shape` is that of one output."""
    if dx.ndim == x.ndim:
        return evaluated(link, x + dx, run, rows, shape)
    if couples_of(link, run) == "batch" and rows is None:
        return np.stack([evaluated(link, x + one, run) for one in dx])
    own = row_numbers(len(x), run) if rows is None else rows
    many = max(1, CALL_BYTES // (8 * max(1, x.size, math.prod(shape))))
    found = np.empty((len(dx), *shape))
    for first in range(0, len(dx), many):
        moved = x + dx[first : first + many]
        flat = moved.reshape(-1, *x.shape[1:])
        y = evaluated(link, flat, run, np.tile(own, len(moved)), (len(flat), *shape[1:]))
        found[first : first + many] = y.reshape(len(moved), *shape)
    return found


def row_numbers(count: int, run: Run) -> Rows:
    """Return which rows of the mini-batch an array of so many rows holds."""
    return np.arange(count) if run.rows is None else run.rows


def _base(link: Link, x: Doubles, rows: Rows | None, run: Run) -> Doubles:
    """Return the float64 output at x itself; that of the whole mini-batch is kept as long as the run."""
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
            f"{name_of(link)}: forward returns another shape for other values: expected {expected} as before, "
            f"got {came}"
        )
    return y.astype(np.float64, copy=False)


def refuse_coarse(link: Link, run: Run) -> None:
    """Raise LayerError where differences of a layer's float64 values were found to be no good."""
    found = run.memory.of(link.layer) if run.memory is not None else None
    if found is not None and found.coarse:
        raise LayerError(f"{name_of(link)}: {found.coarse}")


def name_of(link: Link) -> str:
    """Words for a link's layer in a message."""
    run = current_run()
    return named(link.layer, None if run is None else run.root)


def perturbations(
    link: Link, parameter: Parameter, indices: Rows, step: float, scaled: bool = False
) -> tuple[Array, Array, Doubles]:
    """How y changes when entries of a parameter, one at a time, move up and down: two arrays (S, *y.shape).

    The third, (S,), holds the distance between the two ends. A layer that wrote `perturb` is moved by `step`; any other
    by what is left of it in floating point, `scaled` by max(1, |value|).
    """
    layer, t = link.layer, link.traits
    if t.perturb:
        sides = [layer.perturb(parameter, indices, sign * step, link.x, link.y) for sign in (1, -1)]
        for dy in sides:
            if not isinstance(dy, np.ndarray) or dy.shape != (len(indices), *link.y.shape):
                came = dy.shape if isinstance(dy, np.ndarray) else type(dy).__name__
                raise LayerError(
                    f"{name_of(link)}: perturb: expected shape {(len(indices), *link.y.shape)}, got {came}"
                )
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
    refuse_coarse(link, run)
    copy, memo = run.copy_of(link.layer, np.float64)
    value = memo[id(parameter)].value.reshape(-1)
    x = _floats_in_double(link.x)
    base = evaluated(link, x, run, copy=copy)
    up, down = np.empty((2, len(indices), *base.shape))
    steps = step * np.maximum(1, np.abs(value[indices])) if scaled else np.full(len(indices), step)
    ends = value[indices][:, None] + np.multiply.outer(steps, [1.0, -1.0])
    width = ends[:, 0] - ends[:, 1]
    lost = ~(np.abs(width - 2 * steps) <= 0.02 * steps)
    if lost.any():
        i = int(lost.argmax())
        raise LayerError(
            f"{name_of(link)}: step {steps[i]:g}: expected one that moves every entry of its parameters, but beside "
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


def central(up: Array, down: Array, link: Link) -> Doubles:
    """up - down; where one side is not finite, twice the other, and a warning."""
    up, down = up.astype(np.float64, copy=False), down.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        change = up - down
    if np.isfinite(change).all():
        return change
    fine_up, fine_down = np.isfinite(up), np.isfinite(down)
    one_sided = fine_up != fine_down
    if one_sided.any():
        warnings.warn(
            f"{name_of(link)}: on one side of {int(one_sided.sum())} differences it is not finite; the other side is "
            "taken alone there, whose error is larger",
            RuntimeWarning,
            stacklevel=4,
        )
        change = np.where(one_sided, np.where(fine_up, 2 * up, -2 * down), change)
    return change


def steps_of(x: Array, step: float | None) -> Doubles:
    """Return the step of each entry of x."""
    if step is not None:
        return np.full(x.shape, step)
    sizes: Doubles = STEP * np.maximum(size_of(x), np.abs(x.astype(np.float64)))
    return sizes


def central_difference(link: Link, dx: Doubles) -> Doubles:
    """f(x + dx) - f(x - dx), of a stack or of one."""
    if link.traits.difference or link.traits.branches or link.chain:
        moved = dx.astype(link.x.dtype)
        return central(difference_of(link, moved), difference_of(link, -moved), link)
    run = the_run()
    x = _in_double(link, link.x, run)
    ends = [_evaluated_at(link, x, sign * dx, link.y.shape, None, run) for sign in (1, -1)]
    return central(ends[0], ends[1], link)


def moved_together(
    link: Link, parameter: Parameter, columns: Rows, h: Doubles, run: Run, signs: Doubles | float = 1.0
) -> tuple[Doubles, Doubles]:
    """f with some entries of a parameter up, less f with them down; and the distance between the ends."""
    copy, memo = run.copy_of(link.layer, np.float64)
    value = memo[id(parameter)].value.reshape(-1)
    x = _floats_in_double(link.x)
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


def moves_far_away(link: Link, parameter: Parameter) -> bool:
    """Whether a layer's output changes when all entries of a parameter move far."""
    run = the_run()
    copy, memo = run.copy_of(link.layer, np.float64)
    value = memo[id(parameter)].value
    saved = value.copy()
    x = _floats_in_double(link.x)
    try:
        value += np.maximum(1, np.abs(saved)) * np.linspace(1, 2, value.size).reshape(value.shape)
        with np.errstate(all="ignore"):
            moved = evaluated(link, x, run, copy=copy)
    except Exception:  # a layer that does not take such values
        return True
    finally:
        value[...] = saved
    size = float(np.abs(link.y[np.isfinite(link.y)]).max(initial=0))
    return bool((np.abs(moved - link.y.astype(np.float64)) > 1e-6 * size).any())
