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

from nnframe.numerical import evaluators as ev
from nnframe.numerical.answers import Doubles
from nnframe.numerical.evaluators import Evaluator, Floats, Group
from nnframe.numerical.probe import look


class Scheme(NamedTuple):
    """Distances in units of the step: central ones, one-sided ones at a bound; and the default step, eps^power.

    spare: how many of the distances, the widest, serve to estimate the error only.
    """

    central: tuple[float, ...]
    one_sided: tuple[float, ...]
    power: float
    spare: int = 0

    def with_error(self) -> Scheme:
        """Return the scheme with one more distance, from which its error is estimated."""
        if len(self.central) > 2:
            return self
        central = (2 * self.central[0], *self.central) if self.central else ()
        return Scheme(central, (2 * self.one_sided[0], *self.one_sided), self.power, 1)


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
        `f(x)` returns a number. It is given copies of x, unless it is found to read x where it lives (a parameter of a
        model, say): see `numerical_gradient`. Or a compiled function `double f(const double *x, intptr_t n, void
        *data)` from ctypes, cffi, Numba's `cfunc` or `scipy.LowLevelCallable`: that one is run without the GIL, on all
        threads, on copies of x, and must be safe to run so.
    x : array of float32 or float64, any shape
        float64 for a compiled function. Restored to the bit, whatever happens.
    step : float or array like x, optional
        h, above 0; eps^(1/3) max(1, |x_i|) if not given, with eps of the coarser dtype of x and of f's values.
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
    evaluator = ev.make_evaluator(f, [point])
    known = look(evaluator, [x], [room(point, None, "x")], None, False)
    plan = make_plan(point, SCHEMES["central"], step, None, "x", known.eps)
    gradient = derivatives(known.evaluator, 0, plan)[0].reshape(point.shape).astype(point.dtype.newbyteorder("="))
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
    """All points of one array; entries in no group are fixed: their derivative is not known."""

    name: str
    size: int
    groups: list[Group]
    scheme: Scheme


def as_point(x: Any, name: str = "x") -> Floats:
    """`x` as an array of float32 or float64; TypeError for anything else, as x + h must not be cut off."""
    point = np.asarray(x)
    if point.dtype.kind != "f" or point.dtype.itemsize not in (4, 8):
        hint = f"; use {name}.astype(np.float64)" if point.dtype.kind in "iub" else ""
        raise TypeError(f"{name}: expected an array of float32 or float64, got {point.dtype}{hint}")
    if not np.isfinite(point).all():
        i = int(np.argmin(np.isfinite(point).reshape(-1)))
        raise ValueError(f"{name}: expected finite numbers, got {point.reshape(-1)[i]} at entry {i}")
    return point


def as_steps(point: Floats, step: npt.ArrayLike | None, relative: float, name: str = "x") -> Floats:
    """Return the step of each entry, flat, in the dtype of `point`; `relative` times max(1, |x|) if none is given."""
    kind = point.dtype.newbyteorder("=")
    if step is None:  # relative is eps at least: they move every entry
        return np.asarray(relative * np.maximum(1, np.abs(point)), kind, order="C").reshape(-1)
    chosen = np.asarray(step)
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
    eps: float,
) -> Plan:
    """Choose the points of one array: central ones, one-sided ones where a bound is too near for that.

    eps: relative precision of f, from which the step follows where none is given.
    """
    kind = point.dtype.newbyteorder("=")
    steps = as_steps(point, step, max(eps, float(np.finfo(kind).eps)) ** scheme.power, name)
    start = np.array(point, kind).reshape(-1)
    if bounds is None and scheme.central and start.size:
        return Plan(name, point.size, [_central_group(np.arange(start.size), start, steps, scheme)], scheme)
    below, above = room(point, bounds, name)
    fixed = np.maximum(below, above) <= 0
    reach = steps * kind.type(max(scheme.central, default=0))
    inside = (below >= reach) & (above >= reach) & bool(scheme.central)
    groups = []
    if (inside & ~fixed).any():
        at = np.flatnonzero(inside & ~fixed)
        groups.append(_central_group(at, start[at], steps[at], scheme))
    if not (inside | fixed).all():
        at = np.flatnonzero(~inside & ~fixed)
        widest = kind.type(max(scheme.one_sided))
        upwards = ((above >= steps * widest) | (above >= below))[at]
        sizes = np.minimum(steps[at] * widest, np.where(upwards, above[at], below[at])) / widest
        distances = np.multiply.outer(sizes, np.array(scheme.one_sided, kind))
        values = start[at, None] + np.where(upwards, 1, -1)[:, None].astype(kind) * distances
        _check_room(values, start[at], at, below, above, name)
        groups.append(Group(at, values, start[at], False))
    return Plan(name, point.size, groups, scheme)


def _central_group(at: npt.NDArray[np.intp], start: Floats, steps: Floats, scheme: Scheme) -> Group:
    values = np.empty((len(start), 2 * len(scheme.central)), start.dtype)
    for i, factor in enumerate(np.array(scheme.central, start.dtype)):
        distance = factor * steps
        np.add(start, distance, out=values[:, 2 * i])
        np.subtract(start, distance, out=values[:, 2 * i + 1])
    return Group(at, values, start, True)


LEAST_ROOM = 64  # in units in the last place: with less, rounding is 1 % of a difference and more


def _check_room(values: Floats, start: Floats, at: Any, below: Floats, above: Floats, name: str) -> None:
    """Refuse entries that bounds leave so little room that no difference can be taken."""
    least = np.abs(values - start[:, None]).min(axis=1)
    narrow = np.flatnonzero(least < LEAST_ROOM * np.spacing(np.abs(start)))
    if len(narrow):
        i = at[narrow[0]]
        raise ValueError(
            f"bounds: expected room for a step on one side of each entry that is not fixed, but entry {i} of {name}, "
            f"{start[narrow[0]]:g}, can go down by {below[i]:g} and up by {above[i]:g} only; lower = upper fixes it"
        )


def room(point: Floats, bounds: tuple[npt.ArrayLike, npt.ArrayLike] | None, name: str) -> tuple[Floats, Floats]:
    """How far each entry may go down and up, flat."""
    start = np.array(point, point.dtype.newbyteorder("=")).reshape(-1)
    if bounds is None:
        far = np.full(start.shape, np.inf, start.dtype)
        return far, far
    lower, upper = (np.broadcast_to(np.asarray(b, start.dtype), point.shape).reshape(-1) for b in bounds)
    outside = np.flatnonzero(~((lower <= start) & (start <= upper)))
    if len(outside):
        i = outside[0]
        raise ValueError(
            f"bounds: expected {name} within them, got {start[i]:g} at entry {i}, outside [{lower[i]:g}, {upper[i]:g}]"
        )
    return start - lower, upper - start


# ---- derivatives from values ----


def derivatives(
    evaluator: Evaluator, leaf: int, plan: Plan, base: Any = 0.0, noise: Any = 0.0
) -> tuple[Doubles, Doubles]:
    """Return the derivative for each entry of one array, and an estimate of its error; nan for fixed entries.

    Both are (size, *shape of f's value). An error of f leaves with `partial`: the derivatives that were known.
    """
    shape = (plan.size, *np.shape(base))
    found, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    for group in plan.groups:
        evaluator.unfinished = None
        try:
            table = evaluator.values(leaf, group, plan.name)
        except BaseException as error:
            if evaluator.unfinished is not None and evaluator.unfinished.shape[2:] == shape[1:]:
                with np.errstate(invalid="ignore"):
                    found[group.indices] = _extrapolated(group, evaluator.unfinished, base, noise, plan.scheme)[0]
            keep_partial(error, found)
            raise
        found[group.indices], errors[group.indices] = _extrapolated(group, table, base, noise, plan.scheme)
    return found, errors


def keep_partial(error: BaseException, partial: Any) -> None:
    """Let an error carry what was known when it came."""
    try:
        error.partial = partial  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        error.add_note("what was known by then is lost: this exception takes no attribute `partial`")


def _extrapolated(group: Group, table: Doubles, base: Any, noise: Any, scheme: Scheme) -> tuple[Doubles, Doubles]:
    """Quotients at each distance, extrapolated to distance 0, and their error: of truncation and of rounding."""
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
    t = t.reshape(*t.shape, *extra)
    best = len(scheme.central) > 2
    found, error = _at_zero(t[:, scheme.spare :], quotients[:, scheme.spare :], best)
    if scheme.spare:
        error = np.abs(_at_zero(t, quotients, False)[0] - found)
    return found, error + 4 * noise / np.abs(width).min(axis=1).reshape(-1, *extra)


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
