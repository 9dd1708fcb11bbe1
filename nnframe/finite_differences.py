"""Finite differences of any function: which points, how the function is evaluated there, and what follows from it.

A scheme is a base quotient at several distances, extrapolated to distance 0 (Neville):

    one-sided   (f(x + d) - f(x)) / d            a polynomial in d
    central     (f(x + d) - f(x - d)) / 2d       a polynomial in d^2

Distances are what was really added to x, which rounding makes differ from the step.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe import _kernels
from nnframe.compiled import SIGNATURE, compiled_function

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]

STACK_BYTES = 1 << 23  # of the stack that a vectorized function is given at a time


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
        where it lives (a parameter of a model, say) works as well. Or a compiled function `double f(const double *x,
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
    evaluator.check_repeats(0, plan)
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


class Group(NamedTuple):
    """Entries that are moved alike.

    indices : (m,), flat
    values : (m, K), what each entry becomes, one after another
    start : (m,), what it is
    central : whether values come in pairs x + d, x - d
    """

    indices: npt.NDArray[np.intp]
    values: Floats
    start: Floats
    central: bool


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


# ---- evaluation ----


def as_number(value: object, where: str) -> float:
    """`value` as a finite float; errors name where it came from."""
    if not isinstance(value, float):
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise TypeError(f"f: expected a single number, got {type(value).__name__} of shape {array.shape}{where}")
        value = float(array.reshape(()))
    if not math.isfinite(value):
        raise FloatingPointError(f"f: expected a finite number, got {value}{where}")
    return value


def as_values(value: object, where: str, like: tuple[int, ...] | None = None) -> Doubles:
    """`value` as an array of finite numbers, of the shape `like` where that is known."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"f: expected an array of numbers, got {type(value).__name__} of dtype {array.dtype}{where}")
    if like is not None and array.shape != like:
        raise ValueError(f"f: expected shape {like} as at x itself, got {array.shape}{where}")
    if not np.isfinite(array).all():
        raise FloatingPointError(
            f"f: expected finite numbers, got {array.reshape(-1)[~np.isfinite(array.reshape(-1))][0]}{where}"
        )
    return array.astype(np.float64)


def moved_to(name: str, index: int, value: float) -> str:
    """Words for an error at a moved entry."""
    return f" for entry {index} of {name} at {value:g}"


class Evaluator:
    """Evaluates a function where entries of its arrays have been moved. This one moves them in place, one at a time.

    Parameters
    ----------
    f : callable
    leaves : list of arrays
        Those of its argument, writeable.
    argument : object
        What f is called with; holds the leaves.
    read : callable
        `read(value, where)` checks what f returned.
    """

    def __init__(
        self,
        f: Callable[[Any], Any],
        leaves: Sequence[Floats],
        argument: Any,
        read: Callable[[Any, str], Any] = as_number,
    ) -> None:
        self.f, self.leaves, self.argument, self.read = f, leaves, argument, read

    def base(self, name: str) -> Any:
        """Return f where nothing has been moved."""
        return self.read(self.f(self.argument), f" at {name} itself")

    def values(self, leaf: int, group: Group, name: str) -> Doubles:
        """Return f for each entry and value of a group, (m, K, ...)."""
        f, argument, read = self.f, self.argument, self.read
        array = self.leaves[leaf]
        flat: Any = array.reshape(-1) if array.flags.c_contiguous else array.flat
        table = []
        for index, row in zip(group.indices.tolist(), group.values.tolist(), strict=True):
            saved = flat[index]
            try:
                for value in row:
                    flat[index] = value
                    got = f(argument)
                    if type(got) is float and got - got == 0.0:  # finite
                        table.append(got)
                    else:
                        table.append(read(got, moved_to(name, index, value)))
            finally:
                flat[index] = saved
        found = np.array(table, np.float64)
        return found.reshape(*group.values.shape, *found.shape[1:])

    def check_repeats(self, leaf: int, plan: Plan) -> None:
        """Evaluate one entry twice; ValueError where the function does not repeat itself (but for rounding)."""
        for group in plan.groups[:1]:
            one = Group(group.indices[:1], group.values[:1], group.start[:1], group.central)
            if not len(one.indices):
                return
            first, second = self.values(leaf, one, plan.name), self.values(leaf, one, plan.name)
            eps = float(np.finfo(self.leaves[leaf].dtype).eps)
            if (np.abs(first - second) > 16 * eps * np.maximum(np.abs(first), np.abs(second))).any():
                a, b = first.reshape(-1), second.reshape(-1)
                i = int(np.argmax(np.abs(a - b)))
                raise ValueError(
                    f"f: expected the same value for the same x, got {a[i]:.17g} and then {b[i]:.17g}"
                    f"{moved_to(plan.name, int(one.indices[0]), float(one.values[0, 0]))}; randomness inside f must "
                    "be the same at each call"
                )


class StackEvaluator(Evaluator):
    """Hands stacks of moved arrays, (S, *x.shape), to a function that returns S values."""

    def base(self, name: str) -> Any:
        """Return f where nothing has been moved."""
        stack = [leaf[None].copy() for leaf in self.leaves]
        return self._read(stack, [f" at {name} itself"])[0]

    def values(self, leaf: int, group: Group, name: str) -> Doubles:
        """Return f for each entry and value of a group, (m, K, ...)."""
        indices = np.repeat(group.indices, group.values.shape[1])
        values = group.values.reshape(-1)
        many = max(1, STACK_BYTES // max(1, sum(each.nbytes for each in self.leaves)))
        parts = []
        for first in range(0, len(values), many):
            some = slice(first, min(first + many, len(values)))
            stack = [np.repeat(each[None], some.stop - first, axis=0) for each in self.leaves]
            stack[leaf].reshape(len(stack[leaf]), -1)[np.arange(some.stop - first), indices[some]] = values[some]
            where = [moved_to(name, int(i), float(v)) for i, v in zip(indices[some], values[some], strict=True)]
            parts.append(self._read(stack, where))
        found = np.concatenate(parts)
        return found.reshape(*group.values.shape, *found.shape[1:])

    def _read(self, stack: list[Floats], where: list[str]) -> Doubles:
        got = np.asarray(self.f(rebuilt(self.argument, iter(stack))))
        if got.ndim == 0 or len(got) != len(where):
            raise ValueError(
                f"f: expected {len(where)} values for a stack of {len(where)} arrays (vectorized=True), got shape "
                f"{got.shape}"
            )
        return np.array([self.read(value, each) for value, each in zip(got, where, strict=True)], np.float64)


class MapEvaluator(Evaluator):
    """Lets a map-like callable, such as that of a process pool, evaluate copies of the arrays."""

    def __init__(self, *args: Any, mapper: Callable[..., Any]) -> None:
        super().__init__(*args)
        self.mapper = mapper

    def values(self, leaf: int, group: Group, name: str) -> Doubles:
        """Return f for each entry and value of a group, (m, K, ...)."""
        task = functools.partial(_evaluate_copy, self.f, self.leaves, self.argument, leaf)
        rows = list(zip(group.indices.tolist(), group.values.tolist(), strict=True))
        table = [
            self.read(got, moved_to(name, index, value))
            for (index, row), answers in zip(rows, self.mapper(task, rows), strict=True)
            for value, got in zip(row, answers, strict=True)
        ]
        found = np.array(table, np.float64)
        return found.reshape(*group.values.shape, *found.shape[1:])


def _evaluate_copy(
    f: Callable[[Any], Any], leaves: Sequence[Floats], argument: Any, leaf: int, item: tuple[int, list[float]]
) -> list[Any]:
    """Values of f for one entry, on copies: what a worker runs."""
    copies = [each.copy() for each in leaves]
    moved = rebuilt(argument, iter(copies))
    index, row = item
    values = []
    for value in row:
        copies[leaf].reshape(-1)[index] = value
        values.append(f(moved))
    return values


class CompiledEvaluator(Evaluator):
    """Runs a compiled function on all threads, without the GIL, on copies of x."""

    def __init__(self, address: int, data: int, leaves: Sequence[Floats]) -> None:
        super().__init__(lambda _: None, leaves, None)
        if leaves[0].dtype != np.float64:
            raise TypeError(f"x: expected float64 for a compiled function, got {leaves[0].dtype}")
        self.address, self.data = address, data
        self.start = np.require(np.ascontiguousarray(leaves[0], np.float64).reshape(-1), requirements="A")

    def base(self, name: str) -> Any:
        """Return f where nothing has been moved."""
        if not len(self.start):
            return 0.0
        one = Group(np.zeros(1, np.intp), self.start[:1, None], self.start[:1], False)
        return float(self.values(0, one, name)[0, 0])

    def values(self, leaf: int, group: Group, name: str) -> Doubles:
        """Return f for each entry and value of a group, (m, K)."""
        table = np.empty(group.values.shape)
        values = np.ascontiguousarray(group.values, np.float64)
        indices = np.ascontiguousarray(group.indices, np.intp)
        _kernels.evaluate_moved(self.address, self.data, self.start, indices, values, table)
        bad = ~np.isfinite(table)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            as_number(float(table[row, column]), moved_to(name, int(indices[row]), float(values[row, column])))
        return table


def make_evaluator(
    f: Any,
    leaves: list[Floats],
    argument: Any = None,
    *,
    vectorized: bool = False,
    mapper: Callable[..., Any] | None = None,
    read: Callable[[Any, str], Any] = as_number,
) -> Evaluator:
    """Choose how f is evaluated. `argument` holds the leaves; without it f takes the only leaf itself."""
    compiled = compiled_function(f)
    single = argument is None
    if compiled:
        if not single or vectorized or read is not as_number:
            raise TypeError(
                f"f: expected a Python callable here; a compiled function ({SIGNATURE}) takes one array, returns one "
                "number, and is run on all threads by itself"
            )
        return CompiledEvaluator(*compiled, leaves)
    writeable = [leaf if leaf.flags.writeable else leaf.copy() for leaf in leaves]
    argument = writeable[0] if single else rebuilt(argument, iter(writeable))
    if vectorized:
        return StackEvaluator(f, writeable, argument, read)
    if mapper is not None:
        return MapEvaluator(f, writeable, argument, read, mapper=mapper)
    return Evaluator(f, writeable, argument, read)


# ---- nested arguments ----


def leaves_of(x: Any, name: str = "x") -> Iterator[tuple[str, Any]]:
    """Return the arrays in nested dicts, lists and tuples, with their names."""
    if isinstance(x, dict):
        for key, value in x.items():
            yield from leaves_of(value, f"{name}[{key!r}]")
    elif isinstance(x, list | tuple):
        for i, value in enumerate(x):
            yield from leaves_of(value, f"{name}[{i}]")
    else:
        yield name, x


def rebuilt(x: Any, leaves: Iterator[Any]) -> Any:
    """Return `x` with other leaves, in the order of `leaves_of`."""
    if isinstance(x, dict):
        return {key: rebuilt(value, leaves) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return type(x)([rebuilt(value, leaves) for value in x])
    return next(leaves)


def alike(x: Any, other: Any, name: str) -> list[Any]:
    """Return what belongs to each leaf of `x`: one number for all of them, or the leaves of the same nesting."""
    count = len(list(leaves_of(x)))
    if not isinstance(x, dict | list | tuple) or not isinstance(other, dict | list | tuple):
        return [other] * count
    found = list(leaves_of(other))
    if [n for n, _ in found] != [n for n, _ in leaves_of(x)]:
        raise ValueError(f"{name}: expected one number, or the same nesting as x, got {other!r}")
    return [value for _, value in found]


# ---- workers ----


class Workers:
    """`workers` as SciPy takes it: a number of processes (-1: one for each processor), or a map-like callable."""

    def __init__(self, workers: int | Callable[..., Any]) -> None:
        if not callable(workers) and (not isinstance(workers, int | np.integer) or isinstance(workers, bool)):
            raise TypeError(f"workers: expected an integer or a map-like callable, got {workers!r}")
        if not callable(workers) and (workers == 0 or workers < -1):
            raise ValueError(f"workers: expected a number of processes, or -1 for all processors, got {workers}")
        self.workers = workers
        self.pool: Any = None

    def __enter__(self) -> Callable[..., Any] | None:
        if callable(self.workers):
            return self.workers
        count = (os.cpu_count() or 1) if self.workers == -1 else int(self.workers)
        if count == 1:
            return None
        import multiprocessing

        self.pool = multiprocessing.Pool(count)
        return functools.partial(_pool_map, self.pool, count)

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.terminate()
            self.pool.join()


def _pool_map(pool: Any, count: int, task: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    import pickle

    try:
        pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            "f: expected a function that can be pickled, defined at the top of a module, as processes are sent it "
            f"(workers); got one that cannot: {error}"
        ) from error
    found: list[Any] = pool.map(task, items, chunksize=max(1, len(items) // (4 * count)))
    return found
