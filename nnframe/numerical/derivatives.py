"""`numerical_gradient`, `numerical_jacobian`, `numerical_hessian`: the definition, for any function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.numerical import evaluators as ev
from nnframe.numerical import schemes as fd

Workers = int | Callable[..., Any]
Bounds = tuple[Any, Any]


def numerical_gradient(
    f: Callable[[Any], Any] | Any,
    x: Any,
    *,
    step: Any = None,
    scheme: str = "central",
    bounds: Bounds | None = None,
    vectorized: bool = False,
    workers: Workers = 1,
    return_error: bool = False,
) -> Any:
    """Gradient of a function of arrays by finite differences, entry by entry.

    ==========  ============================================================  ===========  =================
    scheme      quotient                                                      error        evaluations
    ==========  ============================================================  ===========  =================
    forward     (f(x + h e) - f(x)) / h                                       O(h)         n + 1
    central     (f(x + h e) - f(x - h e)) / 2h =: D(h)                        O(h^2)       2 n
    central4    (4 D(h) - D(2h)) / 3                                          O(h^4)       4 n
    richardson  D(h), D(h/2) ... D(h/16) extrapolated to 0, the best (Ridders)  estimated    10 n
    ==========  ============================================================  ===========  =================

    Parameters
    ----------
    f : callable
        `f(x)` returns a number. While it runs x itself holds the moved entry, so that f may as well ignore its
        argument and read the array in place: `numerical_gradient(lambda _: loss(model(x), t), weight.value)`.
        Or a compiled function `double f(const double *x, intptr_t n, void *data)` from ctypes, cffi, Numba's `cfunc` or
        `scipy.LowLevelCallable`: it is run without the GIL on all threads, on copies of x.
    x : array of float32 or float64 of any shape (or a list of floats); or dicts, lists and tuples of such arrays
        Restored to the bit, whatever happens. Read-only arrays are copied first.
    step : float or array like x (or nested like x), optional
        h, above 0. If not given: eps^p max(1, |x_i|), with eps of x's dtype and p = 1/2, 1/3, 1/5, 1/8 for the schemes
        above: what balances truncation against rounding (Numerical Recipes, 3rd ed., section 5.7).
    scheme : {"central", "forward", "central4", "richardson"}
    bounds : (lower, upper), optional
        Numbers, or arrays like x: no point leaves them. An entry that is too near to one is differentiated on
        its other side, to the same order.
    vectorized : bool
        f takes a stack (S, *x.shape) and returns S numbers.
    workers : int or map-like callable
        As in SciPy: how many processes evaluate f, -1 for all processors, or something called as `workers(function,
        iterable)`. f then gets a copy of x.
    return_error : bool
        For "richardson": return (gradient, error), error an estimate of each entry's absolute error.

    Returns
    -------
    array of x's shape and dtype, or arrays nested as in x
        Quotients by the step that was really added, which rounding makes differ from h.

    Raises
    ------
    TypeError
        x holds integers (where x + h would be cut off) or another dtype; f returns no single number.
    ValueError
        An unknown scheme; a step that is not positive and finite or too small to move an entry; x outside its bounds; a
        function that gives another value for the same x.
    FloatingPointError
        f gives a value that is not finite; the message names the entry.
    """
    chosen = _scheme(scheme)
    if return_error and scheme != "richardson":
        raise ValueError(f"return_error: expected the scheme 'richardson' with it, got {scheme!r}")
    if isinstance(x, list | tuple) and x and all(isinstance(leaf, int | float) for _, leaf in ev.leaves_of(x)):
        x = np.asarray(x)  # numbers in a list are an array
    nested = isinstance(x, dict | list | tuple)
    names, leaves = zip(*ev.leaves_of(x), strict=True) if len(list(ev.leaves_of(x))) else ((), ())
    points = [fd.as_point(leaf, name) for name, leaf in zip(names, leaves, strict=True)]
    lower, upper = _pair(bounds, x)
    plans = [
        fd.make_plan(point, chosen, h, None if bounds is None else (low, high), name)
        for point, name, h, low, high in zip(points, names, ev.alike(x, step, "step"), lower, upper, strict=True)
    ]
    with ev.Workers(workers) as mapper:
        evaluator = ev.make_evaluator(f, points, x if nested else None, vectorized=vectorized, mapper=mapper)
        base = evaluator.base("x") if any(plan.needs_base for plan in plans) else None
        found = [fd.derivatives(evaluator, i, plan, base) for i, plan in enumerate(plans)]
        first = next((i for i, plan in enumerate(plans) if plan.groups), None)
        if first is not None:
            fd.check_repeats(evaluator, first, plans[first])
    shaped = [
        [np.asarray(part.reshape(p.shape), p.dtype.newbyteorder("=")) for part, p in zip(column, points, strict=True)]
        for column in (list(zip(*found, strict=True)) or [(), ()])
    ]
    answers = [ev.rebuilt(x, iter(part)) if nested else part[0] for part in shaped]
    return (answers[0], answers[1]) if return_error else answers[0]


def numerical_jacobian(
    f: Callable[[Any], npt.ArrayLike],
    x: npt.NDArray[np.floating],
    *,
    step: npt.ArrayLike | None = None,
    scheme: str = "central",
    bounds: Bounds | None = None,
    vectorized: bool = False,
    workers: Workers = 1,
) -> npt.NDArray[np.floating]:
    """Return the derivative of every entry of f(x) with respect to every entry of x.

    Arguments and errors as `numerical_gradient`, but x is one array and `f(x)` returns an array, always of one shape.

    Returns
    -------
    array (*shape of f(x), *x.shape), of x's dtype
    """
    chosen = _scheme(scheme)
    point = fd.as_point(x)
    plan = fd.make_plan(point, chosen, step, bounds, "x")
    with ev.Workers(workers) as mapper:
        first = ev.make_evaluator(f, [point], vectorized=vectorized, mapper=mapper, read=ev.as_values)
        base = first.base("x")
        read = functools.partial(ev.as_values, like=base.shape)
        evaluator = ev.make_evaluator(f, [point], vectorized=vectorized, mapper=mapper, read=read)
        found = fd.derivatives(evaluator, 0, plan, base)[0]
        fd.check_repeats(evaluator, 0, plan)
    columns = found.reshape(point.size, *base.shape) if point.size else np.zeros((0, *base.shape))
    jacobian = np.moveaxis(columns, 0, -1).reshape(*base.shape, *point.shape)
    return np.ascontiguousarray(jacobian, point.dtype.newbyteorder("="))


def numerical_hessian(
    f: Callable[[Any], Any],
    x: npt.NDArray[np.floating],
    *,
    step: npt.ArrayLike | None = None,
    vectorized: bool = False,
    workers: Workers = 1,
) -> npt.NDArray[np.floating]:
    """Second derivatives of a function of an array, by n (n + 1) + 1 evaluations.

    With f+i at x + h_i e_i, f-i at x - h_i e_i and so on:

        H_ii = (f+i - 2 f + f-i) / h_i^2
        H_ij = (f+i+j - f+i - f+j + 2 f - f-i - f-j + f-i-j) / (2 h_i h_j)

    both with an error of O(h^2). Arguments and errors as `numerical_gradient`; the step is eps^(1/4) max(1, |x_i|) if
    not given, rounded so that x + h and x - h are as far from x.

    Returns
    -------
    array (*x.shape, *x.shape), of x's dtype, symmetric
    """
    point = fd.as_point(x)
    given = fd.as_steps(point, step, float(np.finfo(point.dtype).eps) ** 0.25)
    flat = np.array(point, point.dtype.newbyteorder("=")).reshape(-1)
    room = np.maximum(np.abs(flat + given), np.abs(flat - given))
    steps = np.maximum(np.rint(given / np.spacing(room)), 1) * np.spacing(room)
    n = point.size
    hessian = np.zeros((n, n))
    with ev.Workers(workers) as mapper:
        moving = point if point.flags.writeable else point.copy()
        evaluator = ev.make_evaluator(f, [moving], vectorized=vectorized, mapper=mapper)
        if n:
            _fill_hessian(hessian, evaluator, moving, flat, steps)
    return hessian.reshape(*point.shape, *point.shape).astype(point.dtype.newbyteorder("="))


def _fill_hessian(hessian: npt.NDArray[np.float64], evaluator: ev.Evaluator, x: Any, start: Any, steps: Any) -> None:
    n = len(start)
    h = steps.astype(np.float64)
    base = evaluator.base("x")
    both = np.stack([start + steps, start - steps], axis=1)
    single = evaluator.values(0, ev.Group(np.arange(n), both, start, True), "x")
    hessian[np.arange(n), np.arange(n)] = (single[:, 0] - 2 * base + single[:, 1]) / h**2
    flat = x.reshape(-1) if x.flags.c_contiguous else x.flat
    for i in range(n - 1):
        others = np.arange(i + 1, n)
        pairs = []
        for side, sign in ((0, 1), (1, -1)):
            saved = flat[i]
            try:
                flat[i] = start[i] + sign * steps[i]
                moved = ev.Group(others, both[others, side][:, None], start[others], False)
                pairs.append(evaluator.values(0, moved, "x")[:, 0])
            finally:
                flat[i] = saved
        mixed = pairs[0] - single[i, 0] - single[others, 0] + 2 * base - single[i, 1] - single[others, 1] + pairs[1]
        hessian[i, others] = hessian[others, i] = mixed / (2 * h[i] * h[others])


def _scheme(name: str) -> fd.Scheme:
    if name not in fd.SCHEMES:
        raise ValueError(f"scheme: expected one of {', '.join(fd.SCHEMES)}, got {name!r}")
    return fd.SCHEMES[name]


def _pair(bounds: Bounds | None, x: Any) -> tuple[list[Any], list[Any]]:
    if bounds is None:
        bounds = (None, None)
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds: expected a pair (lower, upper), got {bounds!r}")
    return ev.alike(x, bounds[0], "bounds"), ev.alike(x, bounds[1], "bounds")
