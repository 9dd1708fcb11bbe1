"""How a function is evaluated where entries of its arrays have been moved: in place, in stacks, by workers, in C."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe.kernels import _kernels
from nnframe.numerical.compiled import SIGNATURE, compiled_function

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]

STACK_BYTES = 1 << 23  # of the stack that a vectorized function is given at a time


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


# ---- what f returns ----


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

    def check_repeats(self, leaf: int, group: Group, name: str) -> None:
        """Evaluate one entry twice; ValueError where the function does not repeat itself (but for rounding)."""
        one = Group(group.indices[:1], group.values[:1], group.start[:1], group.central)
        first, second = self.values(leaf, one, name), self.values(leaf, one, name)
        eps = float(np.finfo(self.leaves[leaf].dtype).eps)
        if (np.abs(first - second) > 16 * eps * np.maximum(np.abs(first), np.abs(second))).any():
            a, b = first.reshape(-1), second.reshape(-1)
            i = int(np.argmax(np.abs(a - b)))
            raise ValueError(
                f"f: expected the same value for the same x, got {a[i]:.17g} and then {b[i]:.17g}"
                f"{moved_to(name, int(one.indices[0]), float(one.values[0, 0]))}; randomness inside f must "
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
