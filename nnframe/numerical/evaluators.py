"""How a function is evaluated where entries of its arrays have been moved: on copies, in place, in stacks, in C."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe.kernels import _kernels
from nnframe.numerical.answers import Doubles, as_number, moved_to
from nnframe.numerical.compiled import SIGNATURE, compiled_function
from nnframe.numerical.nesting import rebuilt
from nnframe.numerical.workers import Map

Floats = npt.NDArray[np.floating]

_FIRST = np.zeros(1, np.intp)
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


class Evaluator:
    """Evaluates a function where entries of its arrays have been moved. This one gives it a new copy each time.

    So f may change, keep or return its argument, and nobody else sees an entry moved.

    Parameters
    ----------
    f : callable
    leaves : list of arrays
        Those of its argument.
    argument : object
        What f is called with; holds the leaves. None: f takes the only leaf itself.
    read : callable
        `read(value, where, lenient)` checks what f returned.

    Attributes
    ----------
    start : list of arrays
        What the leaves are where nothing has been moved; copies of them.
    lenient : bool
        Whether values that are not finite, and errors of arithmetic that f raises, count as nan.
    report : callable or None
        Called with the number of evaluations that have been done since it was called last.
    unfinished : array or None
        What was known of the last table when an error ended it; nan where nothing is known.
    kinds : set of dtypes
        In which f has given its values.
    """

    copies = True  # whether f is given copies

    def __init__(
        self, f: Callable[[Any], Any], leaves: Sequence[Floats], argument: Any, read: Callable[..., Any] = as_number
    ) -> None:
        self.f, self.leaves, self.argument, self.read = f, leaves, argument, read
        self.start = [np.array(leaf, order="C") for leaf in leaves]
        self.lenient = False
        self.report: Callable[[int], object] | None = None
        self.unfinished: Doubles | None = None
        self.refusal: Exception | None = None
        self.kinds: set[np.dtype[Any]] = set()

    def built(self, arrays: Sequence[Floats]) -> Any:
        """Return an argument of f that holds these arrays."""
        return arrays[0] if self.argument is None else rebuilt(self.argument, iter(arrays))

    def at(self, points: Sequence[Sequence[Floats]], where: str) -> Doubles:
        """Return f at whole points, (S, ...); notes the dtypes in which it is given."""
        found = []
        for point in points:
            got = self.call(self.built([each.copy() for each in point]))
            self.note(got)
            found.append(self.read(got, where, self.lenient))
        self.done(len(points))
        return np.array(found, np.float64)

    def values(self, leaf: int, group: Group, name: str) -> Doubles:
        """Return f for each entry and value of a group, (m, K, ...)."""
        f, read, lenient, report = self.f, self.read, self.lenient, self.report
        new = self.start[0].copy if self.argument is None and self.copies else None
        rows = group.values.tolist()
        table: list[Any] = []
        try:
            with np.errstate(all="ignore") if lenient else contextlib.nullcontext():
                for key, index, row in zip(self.keys(leaf, group.indices), group.indices.tolist(), rows, strict=True):
                    for value in row:
                        if new is not None:  # as moved() does; this loop is what cheap functions wait for
                            argument = new()
                            argument[key] = value
                        else:
                            argument = self.moved(leaf, key, value)
                        try:
                            got = f(argument)
                        except (ArithmeticError, ValueError) as error:
                            if not lenient:
                                raise
                            self.refusal, got = error, math.nan
                        if type(got) is float and got - got == 0.0:  # finite
                            table.append(got)
                        else:
                            table.append(read(got, moved_to(name, index, value), lenient))
                    if report is not None:
                        report(len(row))
        except BaseException:
            self.unfinished = _padded(table, group.values.shape)
            raise
        return _padded(table, group.values.shape)

    def keys(self, leaf: int, indices: npt.NDArray[np.intp]) -> Sequence[Any]:
        """Return what finds each entry in an array."""
        if self.start[leaf].ndim == 1:
            flat: list[int] = indices.tolist()
            return flat
        if not self.start[leaf].ndim:
            return [()] * len(indices)
        where = np.unravel_index(indices, self.start[leaf].shape)
        return list(zip(*(each.tolist() for each in where), strict=True))

    def moved(self, leaf: int, key: Any, value: float) -> Any:
        """Return an argument of f in which one entry has been moved."""
        if self.argument is None:
            array = self.start[0].copy()
            array[key] = value
            return array
        copies = [each.copy() for each in self.start]
        copies[leaf][key] = value
        return rebuilt(self.argument, iter(copies))

    def call(self, argument: Any) -> Any:
        """Return f of an argument, nan where it may fail and does."""
        if not self.lenient:
            return self.f(argument)
        try:
            with np.errstate(all="ignore"):
                return self.f(argument)
        except (ArithmeticError, ValueError) as error:
            self.refusal = error
            return math.nan

    def note(self, got: Any) -> None:
        """Remember the dtype of a value."""
        if type(got) is not float:
            kind = np.asarray(got).dtype
            if kind.kind == "f":
                self.kinds.add(kind)

    def done(self, count: int) -> None:
        """Report evaluations."""
        if self.report is not None:
            self.report(count)


def _padded(table: list[Any], shape: tuple[int, ...]) -> Doubles:
    """Return the values that are known of a table, nan for the others."""
    missing = math.prod(shape) - len(table)
    first = np.shape(table[0]) if table else ()
    found = np.array(table + [np.full(first, np.nan)] * missing, np.float64)
    return found.reshape(*shape, *first)


class InPlaceEvaluator(Evaluator):
    """Moves entries in the arrays themselves, for a function that reads them where they live."""

    copies = False

    def __enter__(self) -> InPlaceEvaluator:
        self.before = [leaf.copy() for leaf in self.leaves]
        return self

    def __exit__(self, *_: object) -> None:
        for leaf, before in zip(self.leaves, self.before, strict=True):
            leaf[...] = before

    def built(self, arrays: Sequence[Floats]) -> Any:
        """Return the argument itself, after the arrays have been put into it."""
        for leaf, array in zip(self.leaves, arrays, strict=True):
            leaf[...] = array
        return self.leaves[0] if self.argument is None else self.argument

    def at(self, points: Sequence[Sequence[Floats]], where: str) -> Doubles:
        """Return f at whole points, (S, ...)."""
        with self:
            return super().at(points, where)

    def values(self, leaf: int, group: Group, name: str) -> Doubles:
        """Return f for each entry and value of a group, (m, K, ...)."""
        with self:
            return super().values(leaf, group, name)

    def moved(self, leaf: int, key: Any, value: float) -> Any:
        """Move one entry, and put back all others."""
        argument = self.built(self.start)
        self.leaves[leaf][key] = value
        return argument


class StackEvaluator(Evaluator):
    """Hands stacks of moved arrays, (S, *x.shape), to a function that returns S values."""

    def at(self, points: Sequence[Sequence[Floats]], where: str) -> Doubles:
        """Return f at whole points, (S, ...)."""
        stack = [np.stack(arrays) for arrays in zip(*points, strict=True)]
        return self._read(stack, lambda _: where, len(points))

    def values(self, leaf: int, group: Group, name: str) -> Doubles:
        """Return f for each entry and value of a group, (m, K, ...)."""
        indices = np.repeat(group.indices, group.values.shape[1])
        values = group.values.reshape(-1)
        many = max(1, STACK_BYTES // max(1, sum(each.nbytes for each in self.start)))
        parts: list[Any] = []
        try:
            for first in range(0, len(values), many):
                some = slice(first, min(first + many, len(values)))
                stack = [np.repeat(each[None], some.stop - first, axis=0) for each in self.start]
                stack[leaf].reshape(len(stack[leaf]), -1)[np.arange(some.stop - first), indices[some]] = values[some]
                parts += list(
                    self._read(
                        stack,
                        lambda i, first=first: moved_to(name, int(indices[first + i]), float(values[first + i])),  # type: ignore[misc]
                        some.stop - first,
                    )
                )
        except BaseException:
            self.unfinished = _padded(parts, group.values.shape)
            raise
        return _padded(parts, group.values.shape)

    def _read(self, stack: list[Floats], where: Callable[[int], str], count: int) -> Doubles:
        given = stack[0] if self.argument is None else rebuilt(self.argument, iter(stack))
        got = np.asarray(self.call(given))
        if got.ndim == 0 and self.lenient and math.isnan(float(got)):
            got = np.full((count, *self._shape), np.nan)
        if got.ndim == 0 or len(got) != count:
            raise ValueError(
                f"f: expected {count} values for a stack of {count} arrays (vectorized=True), got shape {got.shape}"
            )
        self._shape = got.shape[1:]
        self.note(got)
        self.done(count)
        return np.array([self.read(value, where(i), self.lenient) for i, value in enumerate(got)], np.float64)

    _shape: tuple[int, ...] = ()


class MapEvaluator(Evaluator):
    """Lets a map-like callable, such as that of a process pool, evaluate copies of the arrays."""

    mapper: Map

    def at(self, points: Sequence[Sequence[Floats]], where: str) -> Doubles:
        """Return f at whole points, (S, ...)."""
        task = functools.partial(_evaluate_point, self.f, self.argument, self.lenient)
        got = list(self.mapper(task, list(points)))
        for value in got:
            self.note(value)
        self.done(len(points))
        return np.array([self.read(value, where, self.lenient) for value in got], np.float64)

    def values(self, leaf: int, group: Group, name: str) -> Doubles:
        """Return f for each entry and value of a group, (m, K, ...)."""
        task = functools.partial(_evaluate_moved, self.f, self.argument, self.lenient, self.start, leaf)
        keys = self.keys(leaf, group.indices)
        items = [(key, value) for key, row in zip(keys, group.values.tolist(), strict=True) for value in row]
        where = np.repeat(group.indices, group.values.shape[1]).tolist()
        table: list[Any] = []
        try:
            for index, (_, value), got in zip(where, items, self.mapper(task, items), strict=True):
                table.append(self.read(got, moved_to(name, index, value), self.lenient))
                self.done(1)
        except BaseException:
            self.unfinished = _padded(table, group.values.shape)
            raise
        return _padded(table, group.values.shape)


def _evaluate_point(f: Callable[[Any], Any], argument: Any, lenient: bool, point: Sequence[Floats]) -> Any:
    """Value of f at copies of the arrays: what a worker runs."""
    evaluator = Evaluator(f, point, argument)
    evaluator.lenient = lenient
    got = evaluator.call(evaluator.built(evaluator.start))
    return np.array(got) if isinstance(got, np.ndarray) else got  # f may use its array again


def _evaluate_moved(
    f: Callable[[Any], Any],
    argument: Any,
    lenient: bool,
    start: Sequence[Floats],
    leaf: int,
    item: tuple[Any, float],
) -> Any:
    """Value of f with one entry moved."""
    key, value = item
    point = [each.copy() for each in start]
    point[leaf][key] = value
    return _evaluate_point(f, argument, lenient, point)


class CompiledEvaluator(Evaluator):
    """Runs a compiled function on all threads, without the GIL, on copies of x."""

    address: int
    data: int

    def at(self, points: Sequence[Sequence[Floats]], where: str) -> Doubles:
        """Return f at whole points, (S,)."""
        found = np.zeros(len(points))
        value = np.zeros((1, 1))
        for i, point in enumerate(points):
            flat = _aligned(point[0])
            if flat.size:
                _kernels.evaluate_moved(self.address, self.data, flat, _FIRST, flat[:1, None], value)
            found[i] = as_number(value.item(), where, self.lenient)
        self.done(len(points))
        return found

    def values(self, leaf: int, group: Group, name: str) -> Doubles:
        """Return f for each entry and value of a group, (m, K)."""
        self.unfinished = None
        table = np.empty(group.values.shape)
        values = np.ascontiguousarray(group.values, np.float64)
        indices = np.ascontiguousarray(group.indices, np.intp)
        _kernels.evaluate_moved(self.address, self.data, _aligned(self.start[0]), indices, values, table)
        if not self.lenient and not _kernels.all_finite(table):
            bad = ~np.isfinite(table)
            row, column = np.argwhere(bad)[0]
            self.unfinished = np.where(bad, np.nan, table)
            as_number(float(table[row, column]), moved_to(name, int(indices[row]), float(values[row, column])))
        self.done(table.size)
        return table


def _aligned(point: Any) -> Doubles:
    if point.dtype == np.float64 and point.flags.carray:
        return point.reshape(-1)  # type: ignore[no-any-return]
    return np.require(np.ascontiguousarray(point, np.float64).reshape(-1), requirements="A")


def make_evaluator(
    f: Any,
    leaves: list[Floats],
    argument: Any = None,
    *,
    vectorized: bool = False,
    mapper: Map | None = None,
    read: Callable[..., Any] = as_number,
) -> Evaluator:
    """Return an evaluator of f that does not touch the leaves.

    argument: what f takes, in which the leaves are; None: f takes the only leaf itself.
    """
    compiled = compiled_function(f)
    if compiled is not None:
        if vectorized or mapper is not None or argument is not None or read is not as_number:
            raise TypeError(
                f"f: expected a Python callable here: a compiled function ({SIGNATURE}) takes one array, returns one "
                "number, and is run on all threads by itself"
            )
        if leaves[0].dtype != np.float64:
            raise TypeError(f"x: expected float64 for a compiled function, got {leaves[0].dtype}")
        in_c = CompiledEvaluator(f, leaves, None)
        in_c.address, in_c.data = compiled
        return in_c
    if vectorized:
        return StackEvaluator(f, leaves, argument, read)
    if mapper is not None:
        mapped = MapEvaluator(f, leaves, argument, read)
        mapped.mapper = mapper
        return mapped
    return Evaluator(f, leaves, argument, read)
