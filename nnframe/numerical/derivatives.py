"""`numerical_gradient`, `numerical_jacobian`, `numerical_hessian`: the definition, for any function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.numerical import evaluators as ev
from nnframe.numerical import hessians, quick
from nnframe.numerical import schemes as fd
from nnframe.numerical.answers import Doubles, as_values
from nnframe.numerical.nesting import alike, array_of, children_of, leaves_of, rebuilt
from nnframe.numerical.probe import Known, look
from nnframe.numerical.progress import Progress
from nnframe.numerical.search import Search
from nnframe.numerical.workers import Workers

WorkersLike = int | Callable[..., Any]
ProgressLike = bool | Callable[[int, int], object]
Bounds = tuple[Any, Any]


def numerical_gradient(
    f: Callable[[Any], Any] | Any,
    x: Any,
    *,
    step: Any = None,
    scheme: str | None = None,
    bounds: Bounds | None = None,
    vectorized: bool = False,
    workers: WorkersLike = 1,
    return_error: bool = False,
    noise: float | str | bool | None = None,
    progress: ProgressLike = False,
) -> Any:
    """Gradient of a function of arrays by finite differences, entry by entry.

    ==========  ============================================================  ===========  =================
    scheme      quotient                                                      error        evaluations
    ==========  ============================================================  ===========  =================
    auto        D at a step that is looked for, extrapolated                  estimated    4 n to 28 n, + 8
                of one variable                                               estimated    4 to 28, + 2
                of 100 variables and more: as "central" where that will do    O(h^2)       2 n to 31 n, + 8
    forward     (f(x + h e) - f(x)) / h                                       O(h)         n + 3
    central     (f(x + h e) - f(x - h e)) / 2h =: D(h)                        O(h^2)       2 n + 3
    central4    (4 D(h) - D(2h)) / 3                                          O(h^4)       4 n + 3
    richardson  D(h), D(h/2) ... D(h/16) extrapolated to 0, the best (Ridders)  estimated    10 n + 3
    ==========  ============================================================  ===========  =================

    The 3 evaluations are two at x, which must agree, and one nearby, from which it is seen that f follows its argument
    (not if it is compiled). "auto", `return_error` and `noise="auto"` take 4 nearby to measure f's noise. Where f does
    not change at these, as many again farther away, and 1 more if it still does not.

    "auto" takes quotients at smaller and smaller distances until they converge, and the extrapolation whose error is
    bounded best. A last look near x is made at one direction; where it finds what was stepped over, the search begins
    anew. Of one variable f is evaluated at x once, and its noise, and whether it repeats itself, are looked at (5 more)
    where the quotients do not converge as they would without. Of 100 variables and more, if `return_error` is not asked
    for, "auto" relies on the central differences with the step of "central" wherever they show that f varies over more
    than that step, and a random direction confirms them; the noise of a compiled function is measured (6 more, and 3 n
    at most for a larger step) where it does not.

    Parameters
    ----------
    f : callable
        `f(x)` returns a number. It is given copies of x, which it may change or keep. If it is found to ignore its
        argument and to read the array where that lives, entries are moved there:
        `numerical_gradient(lambda _: loss(model(x), t), weight.value)`; not with `workers`.
        Or a compiled function `double f(const double *x, intptr_t n, void *data)` from ctypes, cffi, Numba's `cfunc` or
        `scipy.LowLevelCallable`: it is run without the GIL on all threads, on copies of x.
    x : array of float32 or float64 of any shape, or a list of floats
        Or dicts, lists, tuples, named tuples and dataclasses of such arrays, of `Parameter`s (their values), of pandas
        Series and DataFrames. None within them is passed on. Restored to the bit, whatever happens.
    step : float or array like x (or nested like x), optional
        h, above 0; not for "auto". If not given: eps^p max(1, |x_i|), with eps of the coarser dtype of x and of f's
        values (or noise / |f| if that is larger) and p = 1/2, 1/3, 1/5, 1/8 for the fixed schemes above: what balances
        truncation against rounding (Numerical Recipes, 3rd ed., section 5.7).
    scheme : {"auto", "forward", "central", "central4", "richardson"}
        If not given: "auto", or "central" where a step is given.
    bounds : (lower, upper), optional
        Numbers, or arrays like x: no point leaves them. An entry that is too near to one is differentiated on
        its other side. An entry whose bounds are equal is fixed: its derivative is not known, nan.
    vectorized : bool
        f takes a stack (S, *x.shape) and returns S numbers.
    workers : int or map-like callable
        As in SciPy: how many processes evaluate f, -1 for all processors, or something called as `workers(function,
        iterable)`, such as the map of a pool of threads.
    return_error : bool
        Return (gradient, error), error an estimate of each entry's absolute error, of truncation and of rounding. The
        fixed schemes but "richardson" evaluate one step more for it, twice the widest.
    noise : float, or "auto", optional
        For an f that does not repeat itself, or is less exact than its dtype: the standard deviation of its values, or
        "auto" to have it measured. Steps and errors follow from it.
    progress : bool or callable
        True for a bar, or `progress(done, total)` in evaluations.

    Returns
    -------
    array of x's shape and dtype, or arrays nested as in x (pandas objects as such)
        Quotients by the step that was really added, which rounding makes differ from h.

    Raises
    ------
    TypeError
        x holds integers (where x + h would be cut off) or another dtype; f returns no single number.
    ValueError
        An unknown scheme; a step that is not positive and finite or too small to move an entry; x not finite or outside
        its bounds; a function that gives another value for the same x.
    FloatingPointError
        f gives a value that is not finite; the message names the entry.

    Whatever exception comes while entries are moved has an attribute `partial`: the gradient as far as it is known, nan
    elsewhere.

    Warns
    -----
    RuntimeWarning
        "auto" could not find an entry to 10 %.
    """
    chosen = _scheme(scheme, step, return_error)
    call = _Call(x, bounds, workers, progress, noise, return_error)
    with call:
        evaluator = ev.make_evaluator(
            f, call.points, None if call.single else call.x, vectorized=vectorized, mapper=call.map
        )
        known = call.look(evaluator, chosen is None or return_error, chosen is None)
        found = call.collect(known, chosen, step)
    return call.answer(found) if return_error else call.answer(found)[0]


def numerical_jacobian(
    f: Callable[[Any], npt.ArrayLike],
    x: npt.NDArray[np.floating],
    *,
    step: npt.ArrayLike | None = None,
    scheme: str | None = None,
    bounds: Bounds | None = None,
    vectorized: bool = False,
    workers: WorkersLike = 1,
    return_error: bool = False,
    noise: float | str | bool | None = None,
    progress: ProgressLike = False,
) -> Any:
    """Return the derivative of every entry of f(x) with respect to every entry of x.

    Arguments, evaluations and errors as `numerical_gradient`, but x is one array and `f(x)` returns an array, always of
    one shape.

    Returns
    -------
    array (*shape of f(x), *x.shape), of x's dtype; with `return_error` a pair of such
    """
    chosen = _scheme(scheme, step, return_error)
    call = _Call(_one_array(x), bounds, workers, progress, noise, return_error)
    with call:
        evaluator = ev.make_evaluator(
            f,
            call.points,
            None if call.single else call.x,
            vectorized=vectorized,
            mapper=call.map,
            read=as_values,
        )
        known = call.look(evaluator, chosen is None or return_error, chosen is None)
        try:
            found = call.derive(known, chosen, step, 0)
        except BaseException as error:
            if hasattr(error, "partial"):
                error.partial = _jacobian(error.partial, call.points[0])
            raise
    jacobian, errors = (_jacobian(part, call.points[0]) for part in found)
    return (jacobian, errors) if return_error else jacobian


def _jacobian(columns: Doubles, point: ev.Floats) -> npt.NDArray[np.floating]:
    shape = columns.shape[1:]
    jacobian = np.moveaxis(columns, 0, -1).reshape((*shape, *point.shape))
    return np.ascontiguousarray(jacobian, point.dtype.newbyteorder("=")).reshape(jacobian.shape)


def numerical_hessian(
    f: Callable[[Any], Any],
    x: npt.NDArray[np.floating],
    *,
    step: npt.ArrayLike | None = None,
    scheme: str | None = None,
    vectorized: bool = False,
    workers: WorkersLike = 1,
    return_error: bool = False,
    noise: float | str | bool | None = None,
    progress: ProgressLike = False,
) -> Any:
    """Second derivatives of a function of an array.

    With f+i at x + h_i e_i, f-i at x - h_i e_i and so on:

        H_ii = (f+i - 2 f + f-i) / h_i^2
        H_ij = (f+i+j - f+i - f+j + 2 f - f-i - f-j + f-i-j) / (2 h_i h_j)

    both with an error of O(h^2). Arguments and errors as `numerical_gradient`.

    Parameters
    ----------
    step : float or array like x, optional
        h, for "central". If not given: eps^(1/4) max(1, |x_i|), rounded so that x + h and x - h are as far from x.
    scheme : {"central", "auto"}
        "central": n (n + 1) + 3 evaluations, twice n (n + 1) with `return_error`. "auto": the steps are looked for in
        the second derivatives H_ii, at 4 to 28 evaluations each, and H_ij is extrapolated from 2 or 3 distances, each
        n (n + 1) evaluations. "central" if not given.

    Returns
    -------
    array (*x.shape, *x.shape), of x's dtype, symmetric; with `return_error` a pair of such
    """
    if scheme not in (None, "central", "auto"):
        raise ValueError(f"scheme: expected one of central, auto, got {scheme!r}")
    if scheme == "auto" and step is not None:
        raise ValueError(f"step: expected none with the scheme 'auto', which looks for it, got {step!r}")
    call = _Call(_one_array(x), None, workers, progress, noise, return_error)
    point = call.points[0]
    with call:
        call.total = point.size * (point.size + 1)
        evaluator = ev.make_evaluator(
            f, call.points, None if call.single else call.x, vectorized=vectorized, mapper=call.map
        )
        known = call.look(evaluator, scheme == "auto" or return_error)
        if scheme == "auto":
            found = hessians.extrapolated(known)
        else:
            found = hessians.central(known, hessians.steps_of(point, step, known.eps), return_error)
    hessian, error = (
        part.reshape((*point.shape, *point.shape)).astype(point.dtype.newbyteorder("=")) for part in found
    )
    return (hessian, error) if return_error else hessian


def _one_array(x: Any) -> Any:
    parts = children_of(x)
    if parts is None or (isinstance(x, list | tuple) and all(isinstance(value, int | float) for value in x)):
        return x
    raise TypeError(f"x: expected one array, got {type(x).__name__} of {len(parts)} parts; join them into one")


class _Call:
    """The arrays of one call and what belongs to each: names, bounds, steps; and how f is called."""

    def __init__(
        self, x: Any, bounds: Bounds | None, workers: Any, progress: Any, noise: Any, with_error: bool
    ) -> None:
        self.with_error = with_error
        self.given: list[Any]
        if isinstance(x, list | tuple) and x and all(isinstance(leaf, int | float) for leaf in x):
            self.given = [x]  # numbers in a list are an array
            x = np.asarray(x)
        else:
            self.given = []
        self.x = x
        found = [(name, array_of(leaf)) for name, leaf in leaves_of(x)]
        self.names = [name for name, _ in found]
        self.given = self.given or [leaf for _, leaf in found]
        self.points = [fd.as_point(leaf, name) for name, leaf in found]
        self.single = isinstance(x, np.ndarray | float | np.floating)
        lower, upper = _pair(bounds, x, len(self.points))
        self.bounds = [None if bounds is None else pair for pair in zip(lower, upper, strict=True)]
        self.rooms = [fd.room(p, b, name) for p, b, name in zip(self.points, self.bounds, self.names, strict=True)]
        self.noise = _noise(noise)
        self.workers, self.progress = Workers(workers), progress
        self.total = sum(point.size for point in self.points) * 4

    def __enter__(self) -> _Call:
        self.map = self.workers.__enter__()
        self.bar: Progress | None = None
        return self

    def __exit__(self, *what: Any) -> None:
        if self.bar is not None:
            self.bar.__exit__(*what)
        self.workers.__exit__(*what)

    def look(self, evaluator: ev.Evaluator, measure: bool, searching: bool = False) -> Known:
        """Learn what there is to know of f before it is differentiated.

        searching: by "auto", whose own evaluations tell most of it where x is one number, or are confirmed (quick.py).
        """
        alone = searching and self.noise is None and sum(point.size for point in self.points) == 1
        self.bar = Progress(self.progress, self.total)
        evaluator.report = self.bar.__enter__()
        about = evaluator, self.given, self.rooms, self.noise
        if searching and isinstance(evaluator, ev.CompiledEvaluator) and self._many(0):
            known = look(*about, False)._replace(look=functools.partial(look, *about, True))
        else:
            known = look(*about, measure, alone)
        if self.noise is None:
            return known
        size = np.abs(known.base).max(initial=0.0)
        coarse = float(np.max(known.noise, initial=0.0) / size) if size > 0 else 0.0
        return known._replace(eps=min(max(known.eps, coarse), 0.1))

    def collect(self, known: Known, chosen: fd.Scheme | None, step: Any) -> list[tuple[Any, Any]]:
        """Return the derivatives for all arrays, and their errors."""
        steps = alike(self.x, step, "step")
        found: list[tuple[Any, Any]] = []
        for i in range(len(self.points)):
            try:
                found.append(self.derive(known, chosen, steps[i], i))
            except BaseException as error:
                rest = [np.full(point.size, np.nan) for point in self.points[i:]]
                rest[0] = getattr(error, "partial", rest[0])
                fd.keep_partial(error, self.answer([*found, *((each, each) for each in rest)])[0])
                raise
        return found

    def derive(self, known: Known, chosen: fd.Scheme | None, step: Any, i: int) -> tuple[Any, Any]:
        """Return the derivatives for one array, (size, *shape of f's value), and their errors."""
        if chosen is None:
            if not known.base.ndim and self._many(i):
                found = quick.gradient(known, i, self.points[i], self.bounds[i], self.rooms[i], self.names[i])
                return found, np.full_like(found, np.nan)
            return Search(known, i, self.rooms[i], self.names[i]).run()
        plan = fd.make_plan(self.points[i], chosen, step, self.bounds[i], self.names[i], known.eps)
        return fd.derivatives(known.evaluator, i, plan, known.base, known.noise)

    def _many(self, i: int) -> bool:
        """Whether there are many entries, and no bound for the error of each is asked for."""
        return self.points[i].size >= quick.MANY and not self.with_error

    def answer(self, found: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Return derivatives and errors, nested as x is."""
        shaped = [
            [
                np.asarray(part.reshape(p.shape), p.dtype.newbyteorder("="))
                for part, p in zip(column, self.points, strict=True)
            ]
            for column in (list(zip(*found, strict=True)) or [(), ()])
        ]
        gradient, error = (part[0] if self.single else rebuilt(self.x, iter(part), answer=True) for part in shaped)
        return gradient, error


def _noise(noise: Any) -> float | bool | None:
    if noise is None or noise is False:
        return None
    if noise is True or noise == "auto":
        return True
    if not isinstance(noise, int | float | np.number) or not (np.isfinite(noise) and noise > 0):
        raise ValueError(f"noise: expected a finite number above 0, or 'auto', got {noise!r}")
    return float(noise)


def _scheme(name: str | None, step: Any, with_error: bool) -> fd.Scheme | None:
    """Return a fixed scheme; None for the one that looks for its step."""
    if name is None:
        name = "auto" if step is None else "central"
    if name == "auto":
        if step is not None:
            raise ValueError(f"step: expected none with the scheme 'auto', which looks for it, got {step!r}")
        return None
    if name not in fd.SCHEMES:
        raise ValueError(f"scheme: expected one of auto, {', '.join(fd.SCHEMES)}, got {name!r}")
    return fd.SCHEMES[name].with_error() if with_error else fd.SCHEMES[name]


def _pair(bounds: Bounds | None, x: Any, count: int) -> tuple[list[Any], list[Any]]:
    if bounds is None:
        return [None] * count, [None] * count
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds: expected a pair (lower, upper), got {bounds!r}")
    return alike(x, bounds[0], "bounds"), alike(x, bounds[1], "bounds")
