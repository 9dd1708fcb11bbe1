"""Finite differences of any function: at which points it is evaluated, and what follows from its values there.

A scheme is a base quotient at several distances, extrapolated to distance 0 (Neville):

    one-sided   (f(x + d) - f(x)) / d            a polynomial in d
    central     (f(x + d) - f(x - d)) / 2d       a polynomial in d^2

Distances are what was really added to x, which rounding makes differ from the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe.numerical.evaluators import Doubles, Evaluator, Floats, Group, make_evaluator


class Scheme(NamedTuple):
    """Distances in units of the step: central ones, one-sided ones at a bound; and the default step, eps^power."""

    central: tuple[float, ...]
    one_sided: tuple[float, ...]
    power: float


SCHEMES = {
    "forward": Scheme((), (1.0,), 1 / 2),
    "central": Scheme((1.0,), (1.0, 2.0), 1 / 3),
    "central4": Scheme((2.0, 1.0), (4.0, 3.0, 2.0, 1.0), 1 / 5),
    "richardson": Scheme((1.0, 0.5, 0.25, 0.125, 0.0625), (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125), 1 / 8),
}


def central_difference(
    f: Callable[[Floats], float] | Any, x: Floats, *, step: npt.ArrayLike | None = None, out: Floats | None = None
) -> Floats:
    """Gradient of a function by central differences: (f(x + h e_i) - f(x - h e_i)) / 2h for every entry i.

    Parameters
    ----------
    f : callable
        `f(x)` returns a number. While it runs, x itself holds the moved entry, so that a function which reads the array
        in place (a parameter of a model, say) works as well. Or a compiled function `double f(const double *x,
        intptr_t n, void *data)` from ctypes, cffi, Numba's `cfunc` or `scipy.LowLevelCallable`: that one is run without
        the GIL, on all threads, on copies of x, and must be safe to run so.
    x : array of float32 or float64, any shape
        float64 for a compiled function. Restored to the bit, whatever happens. A read-only array is copied first.
    step : float or array like x, optional
        h, above 0; eps^(1/3) max(1, |x_i|) if not given, with eps of x's dtype.
    out : array of x's shape and dtype, optional
        Receives the gradient; changed only when the whole gradient is known.

    Returns
    -------
    array of x's shape and dtype
        Quotients by the step that was really added, which rounding makes differ from h.

    Raises
    ------
    TypeError
        x holds integers or another dtype; f is no callable, has another signature, or returns no single number.
    ValueError
        A step that is not positive and finite or too small to move an entry; an `out` that does not fit; a function
        that gives another value for the same x.
    FloatingPointError
        f gives a value that is not finite.
    """
    point = as_point(x)
    check_output(out, point)
    evaluator = make_evaluator(f, [point])
    plan = make_plan(point, SCHEMES["central"], step, None, "x")
    gradient = derivatives(evaluator, 0, plan)[0].reshape(point.shape).astype(point.dtype.newbyteorder("="))
    check_repeats(evaluator, 0, plan)
    if out is None:
        return gradient
    out[...] = gradient
    return out


def check_output(out: Floats | None, point: Floats) -> None:
    """Refuse an `out` that cannot take a gradient at `point`."""
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected an array, got {type(out).__name__}")
    if out.shape != point.shape or out.dtype != point.dtype:
        raise ValueError(f"out: expected {point.dtype} of shape {point.shape}, got {out.dtype} of shape {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: expected a writeable array")


# ---- points ----


class Plan(NamedTuple):
    """All points of one array."""

    name: str
    size: int
    groups: list[Group]
    best: bool  # whether to take the extrapolation that seems best, or the last

    @property
    def needs_base(self) -> bool:
        """Whether the function's value at x itself is needed."""
        return any(len(group.indices) and not group.central for group in self.groups)


def as_point(x: Any, name: str = "x") -> Floats:
    """`x` as an array of float32 or float64; TypeError for anything else, as x + h must not be cut off."""
    point = np.asarray(x)
    if point.dtype.kind != "f" or point.dtype.itemsize not in (4, 8):
        hint = f"; use {name}.astype(np.float64)" if point.dtype.kind in "iub" else ""
        raise TypeError(f"{name}: expected an array of float32 or float64, got {point.dtype}{hint}")
    return point


def as_steps(point: Floats, step: npt.ArrayLike | None, relative: float, name: str = "x") -> Floats:
    """Return the step of each entry, flat, in the dtype of `point`; `relative` times max(1, |x|) if none is given."""
    kind = point.dtype.newbyteorder("=")
    chosen = relative * np.maximum(1, np.abs(point)) if step is None else np.asarray(step)
    if chosen.dtype.kind not in "biuf":
        raise TypeError(f"step: expected a number or an array of numbers, got {step!r}")
    if chosen.shape not in ((), point.shape):
        raise ValueError(f"step: expected a number or an array of shape {point.shape}, got shape {chosen.shape}")
    steps: Floats = np.array(np.broadcast_to(chosen, point.shape), kind, order="C").reshape(-1)
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise ValueError(f"step: expected finite numbers above 0, got {step!r}")
    flat = point.reshape(-1)
    still = np.flatnonzero(flat + steps == flat)
    if len(still):
        i = still[0]
        raise ValueError(
            f"step: expected one that moves every entry of {name}, but {flat[i]:g} + {steps[i]:g} at entry {i} is "
            "no other number"
        )
    return steps


def make_plan(
    point: Floats,
    scheme: Scheme,
    step: npt.ArrayLike | None,
    bounds: tuple[npt.ArrayLike, npt.ArrayLike] | None,
    name: str,
) -> Plan:
    """Choose the points of one array: central ones, one-sided ones where a bound is too near for that."""
    kind = point.dtype.newbyteorder("=")
    steps = as_steps(point, step, float(np.finfo(point.dtype).eps) ** scheme.power, name)
    start = np.array(point, kind).reshape(-1)
    below, above = _room(start, point.shape, bounds, name)
    everywhere = np.arange(point.size)
    best = len(scheme.central) > 2
    reach = steps * kind.type(max(scheme.central, default=0))
    inside = (below >= reach) & (above >= reach) & bool(scheme.central)
    groups = []
    if inside.any():
        distances = np.multiply.outer(steps[inside], np.array(scheme.central, kind))
        values = np.stack([start[inside, None] + distances, start[inside, None] - distances], axis=2)
        groups.append(Group(everywhere[inside], values.reshape(len(values), -1), start[inside], True))
    if not inside.all():
        at = ~inside
        widest = max(scheme.one_sided)
        upwards = (above >= steps * kind.type(widest)) | (above >= below)
        room = np.where(upwards, above, below)[at]
        if (room <= 0).any():
            i = everywhere[at][np.argmax(room <= 0)]
            raise ValueError(f"bounds: expected room on one side of each entry, got none for entry {i} of {name}")
        sizes = np.minimum(steps[at] * kind.type(widest), room) / kind.type(widest)
        distances = np.multiply.outer(sizes, np.array(scheme.one_sided, kind))
        values = start[at, None] + np.where(upwards[at], 1, -1)[:, None].astype(kind) * distances
        groups.append(Group(everywhere[at], values, start[at], False))
    return Plan(name, point.size, groups, best)


def _room(
    start: Floats, shape: tuple[int, ...], bounds: tuple[npt.ArrayLike, npt.ArrayLike] | None, name: str
) -> tuple[Floats, Floats]:
    """How far each entry may go down and up."""
    if bounds is None:
        far = np.full(start.shape, np.inf, start.dtype)
        return far, far
    lower, upper = (np.broadcast_to(np.asarray(b, start.dtype), shape).reshape(-1) for b in bounds)
    outside = np.flatnonzero(~((lower <= start) & (start <= upper)))
    if len(outside):
        i = outside[0]
        raise ValueError(
            f"bounds: expected {name} within them, got {start[i]:g} at entry {i}, outside [{lower[i]:g}, {upper[i]:g}]"
        )
    return start - lower, upper - start


# ---- derivatives from values ----


def check_repeats(evaluator: Evaluator, leaf: int, plan: Plan) -> None:
    """Refuse a function that gives another value when one of the plan's points is evaluated again."""
    if plan.groups:
        evaluator.check_repeats(leaf, plan.groups[0], plan.name)


def derivatives(evaluator: Evaluator, leaf: int, plan: Plan, base: Any = None) -> tuple[Doubles, Doubles]:
    """Return the derivative for each entry of one array, and an estimate of its error (0 where there is none).

    Both are (size, *shape of f's value).
    """
    if plan.needs_base and base is None:
        base = evaluator.base(plan.name)
    found: tuple[Doubles, Doubles] | None = None
    for group in plan.groups:
        table = evaluator.values(leaf, group, plan.name)
        if found is None:
            shape = (plan.size, *table.shape[2:])
            found = np.zeros(shape), np.zeros(shape)
        found[0][group.indices], found[1][group.indices] = _extrapolated(group, table, base, plan.best)
    return (np.zeros(plan.size), np.zeros(plan.size)) if found is None else found


def _extrapolated(group: Group, table: Doubles, base: Any, best: bool) -> tuple[Doubles, Doubles]:
    """Quotients at each distance, extrapolated to distance 0."""
    values, start = group.values.astype(np.float64), group.start.astype(np.float64)[:, None]
    extra = (1,) * (table.ndim - 2)
    if group.central:
        width = values[:, 0::2] - values[:, 1::2]
        quotients = (table[:, 0::2] - table[:, 1::2]) / width.reshape(*width.shape, *extra)
        t = (width / 2) ** 2
    else:
        width = values - start
        quotients = (table - base) / width.reshape(*width.shape, *extra)
        t = np.abs(width)
    return _at_zero(t.reshape(*t.shape, *extra), quotients, best)


def _at_zero(t: Doubles, column: Doubles, best: bool) -> tuple[Doubles, Doubles]:
    """Value at t = 0 of the polynomial through (t[:, j], column[:, j]), by Neville's scheme, and an error estimate.

    best: of all entries of the scheme take that which differs least from its neighbours (Ridders 1982).
    """
    levels = column.shape[1]
    chosen, error = column[:, -1], np.full_like(column[:, -1], np.inf if best else 0.0)
    for k in range(1, levels):
        finer = column[:, 1:] + (column[:, 1:] - column[:, :-1]) / (t[:, : levels - k] / t[:, k:] - 1)
        if best:
            off = np.maximum(np.abs(finer - column[:, 1:]), np.abs(finer - column[:, :-1]))
            for j in range(finer.shape[1]):
                better = off[:, j] < error
                chosen = np.where(better, finer[:, j], chosen)
                error = np.where(better, off[:, j], error)
        column = finer
        if not best:
            chosen = column[:, -1]
    return chosen, error
