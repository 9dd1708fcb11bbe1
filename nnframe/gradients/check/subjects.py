"""What can be checked: layers, losses, plain functions and those of PyTorch, each as a function of float64 arrays."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from nnframe.core.chain import Link
from nnframe.core.coloring import Pattern
from nnframe.core.local import row_numbers
from nnframe.core.parameter import Array, Parameter
from nnframe.core.patterns import input_pattern, parameter_pattern
from nnframe.core.protocol import named
from nnframe.core.run import Run, read_only
from nnframe.core.structure import couples_of
from nnframe.gradients.check.differences import STACK_NUMBERS, Sweep
from nnframe.gradients.check.noise import Doubles, Indices
from nnframe.kernels import _kernels
from nnframe.layers.linear import Linear
from nnframe.losses.base import Loss, as_labels, value_of


class Room:
    """Memory for stacks of copies: fresh memory costs more than what is written into it."""

    def __init__(self) -> None:
        self.numbers = np.empty(0)

    def moved_copies(self, array: Array, entries: Indices, values: Doubles) -> Doubles:
        """Return copies of an array, flat, each with its moves; they hold until the next call."""
        stack = self._stack(len(values), array.size)
        _kernels.moved_copies(array, entries, values, stack)
        return stack

    def _stack(self, count: int, size: int) -> Doubles:
        if self.numbers.size < count * size:
            self.numbers = np.empty(count * size)
        return self.numbers[: count * size].reshape(count, size)


_rooms: list[Room] = []  # that are free


@contextlib.contextmanager
def room() -> Iterator[Room]:
    """Lend memory for one check. It is kept for the next one, unless it is large."""
    try:
        lent = _rooms.pop()
    except IndexError:
        lent = Room()
    try:
        yield lent
    finally:
        if lent.numbers.size <= STACK_NUMBERS:
            _rooms.append(lent)


class LayerSubject:
    """One layer, its input and its trainable parameters, in a private float64 copy.

    Parameters
    ----------
    link : Link
        The layer as it ran in a float64 model, in `run`.
    room : Room, optional
        Shared by the subjects of one check.
    """

    def __init__(self, link: Link, run: Run, room: Room | None = None) -> None:
        self.link, self.run = link, run
        self.title = named(link.layer, run.root)
        memo: dict[int, Any] = {}
        # moving parameters does no harm to a plain layer, as they are put back: other layers may keep what they see
        self.layer: Any = link.layer if link.traits.plain else link.layer.astype(np.float64, memo)
        self.several = isinstance(link.x, tuple)
        parts = link.x if self.several else (link.x,)
        self.parts = [np.array(part, np.float64 if part.dtype.kind == "f" else None, order="C") for part in parts]
        self.inputs = [f"x[{i}]" for i in range(len(parts))] if self.several else ["x"]
        self.arrays = {name: part for name, part in zip(self.inputs, self.parts, strict=True) if part.dtype.kind == "f"}
        self.parameters: dict[str, Parameter] = {}
        self.originals: dict[str, Parameter] = {}
        for name, parameter in link.layer.named_parameters():
            if parameter.trainable:
                self.originals[name], self.parameters[name] = parameter, memo.get(id(parameter), parameter)
        self.arrays |= {name: parameter.value for name, parameter in self.parameters.items()}
        self.rows = len(self.parts[0])
        self.is_linear = isinstance(link.layer, Linear) and link.traits.stage
        self.given = read_only(self.x)  # views, which see every move
        self.room = room or Room()
        self._rows: Any = ()
        self.y: Doubles = self.value()

    @property
    def x(self) -> Any:
        """The input, as the layer takes it."""
        return tuple(self.parts) if self.several else self.parts[0]

    def value(self) -> Doubles:
        """Return the layer's output at what `arrays` hold now."""
        if not self.link.traits.own:
            return np.asarray(self.layer.forward(self.given), np.float64)
        return np.asarray(self.run.evaluate(self.layer, self.given), np.float64)

    def stacked(self, name: str, entries: Indices, values: Doubles) -> Doubles | None:
        """Move the input in copies of the mini-batch, one after another in one call, where rows are not mixed.

        Parameters of a linear layer in copies of the layer, side by side in one. See `Subject.stacked`.
        """
        if name in self.parameters and self.is_linear and self.parts[0].ndim == 2:
            return self._of_linear_copies(name, entries, values)
        if name != "x" or len(values) < 2 or couples_of(self.link, self.run) == "batch":
            return None
        x = self.parts[0]
        stack = self.room.moved_copies(x, entries, values)
        rows = self._repeated_rows(len(values))
        y = np.asarray(self.run.evaluate(self.layer, stack.reshape(-1, *x.shape[1:]), rows), np.float64)
        y = y.copy() if np.may_share_memory(y, stack) else y  # a layer may hand on what it is given
        return y.reshape(len(values), -1)

    def _repeated_rows(self, count: int) -> Any:
        """Return the numbers of the mini-batch's rows, so many times: the same array where the count is the same."""
        if len(self._rows) != count * self.rows:
            self._rows = read_only(repeated(row_numbers(self.rows, self.run), count))
        return self._rows

    @functools.cached_property
    def _wide(self) -> Any:
        """A copy of a linear layer, to hold several side by side."""
        wide = copy.copy(self.layer)
        for own in ("weight", "bias"):
            if getattr(self.layer, own) is not None:
                setattr(wide, own, SimpleNamespace())
        return wide

    def _of_linear_copies(self, name: str, entries: Indices, values: Doubles) -> Doubles:
        count, outputs = len(values), self.y.shape[1]
        for own in ("weight", "bias"):
            parameter = getattr(self.layer, own)
            if own == name:
                stack = self.room.moved_copies(parameter.value, entries, values)
                getattr(self._wide, own).value = stack.reshape(count * outputs, *parameter.value.shape[1:])
            elif parameter is not None:
                getattr(self._wide, own).value = repeated(parameter.value, count)
        y = self._wide.forward(self.given).reshape(self.rows, count, outputs)
        return y.transpose(1, 0, 2)  # type: ignore[no-any-return]

    def sweeps(self, name: str) -> list[Sweep]:
        """Return which entries of the input or a parameter are moved together."""
        if name in self.parameters:
            return self._sweeps_of_parameter(name)
        size = self.arrays[name].size
        everything = np.arange(size)
        if self.several:
            return [Sweep(everything[:, None], 1, self.y.size)]
        couples = couples_of(self.link, self.run)
        if couples == "entries" and self.y.shape == self.parts[0].shape:
            return [Sweep(everything[None])]
        if couples == "batch":
            pattern = self._pattern(couples)
            if pattern is None:
                return [Sweep(everything[:, None], 1, self.y.size)]
            found = [Sweep(c.columns[None], outputs=c.outputs, starts=c.starts) for c in pattern.colours]
            return found + _silent(pattern.silent[:, None], self.y.size)
        table = everything.reshape(self.rows, -1)
        pattern = self._pattern("rows")
        if pattern is None:
            return [Sweep(np.ascontiguousarray(table.T), 1, max(1, self.y.size // max(1, self.rows)))]
        found = [
            Sweep(table[:, c.columns].reshape(1, -1), outputs=c.outputs, starts=c.starts, rows=self.rows)
            for c in pattern.colours
        ]
        silent = np.ascontiguousarray(table[:, pattern.silent].T)
        return found + _silent(silent, self.y.size // max(1, self.rows))

    def _pattern(self, couples: str) -> Pattern | None:
        """Return which inputs may be moved together; of nnframe's own layers it is not asked, as that takes longer."""
        return input_pattern(self.link, self.run, couples) if self.link.traits.own else None

    def _sweeps_of_parameter(self, name: str) -> list[Sweep]:
        value = self.arrays[name]
        entries = np.arange(value.size)
        if self.is_linear:
            # each weight and bias moves one column of the output: all those into different outputs go together
            outputs = self.y.shape[-1]
            table = entries.reshape(outputs, -1).T
            return [Sweep(np.ascontiguousarray(table), self.y.size // outputs, 1)]
        pattern = parameter_pattern(self.link, self.originals[name], self.run)
        if pattern is None:
            return [Sweep(entries[:, None], 1, self.y.size)]
        by_row = couples_of(self.link, self.run) != "batch"
        before = self.rows if by_row else 1
        found = [Sweep(c.columns[None], before, outputs=c.outputs, starts=c.starts) for c in pattern.colours]
        return found + _silent(pattern.silent[:, None], self.y.size)

    # ---- the written backward ----

    def backward(
        self,
        dy: Doubles,
        x: Any = None,
        start: dict[str, Doubles] | None = None,
        input_gradient: bool = True,
        between: Any = None,
    ) -> dict[str, Any]:
        """Return what the layer's own backward gives, gradients starting from `start`, else from 0.

        The input is a read-only view, and so are y and dy. Between forward and backward the layer is run for another
        input where one is given.
        """
        layer, t = self.layer, self.link.traits
        given = self.given if x is None else read_only(x)
        for name, parameter in self.parameters.items():
            parameter.grad[...] = 0 if start is None else start[name]
        with self.outside_frames():
            saved: tuple[Any, ...] = ()
            if t.forward_saving:
                y, kept = layer.forward_saving(given)
                saved = (kept,)
            else:
                y = layer.forward(given)
            if between is not None:
                layer.forward_saving(read_only(between))
            arguments = (given, read_only(np.asarray(y, np.float64)), read_only(dy), *saved)
            if input_gradient:
                dx = layer.backward(*arguments)
            else:
                dx = None
                layer.backward_parameters(*arguments)
        found = {name: parameter.grad.copy() for name, parameter in self.parameters.items()}
        if input_gradient:
            found |= self._of_inputs(dx)
        return found

    def _of_inputs(self, dx: Any) -> dict[str, Any]:
        if self.several:
            if not isinstance(dx, tuple) or len(dx) != len(self.parts):
                raise TypeError(f"backward: expected a tuple of {len(self.parts)} gradients, got {type(dx).__name__}")
            return {name: dx[i] for i, name in enumerate(self.inputs) if name in self.arrays}
        return {"x": dx} if "x" in self.arrays else {}

    @contextlib.contextmanager
    def outside_frames(self) -> Iterator[None]:
        before, self.run.frame = self.run.frame, None
        try:
            yield
        finally:
            self.run.frame = before


def repeated(array: Any, count: int) -> Any:
    """Return an array so many times, one after another along its first axis."""
    many = np.empty((count, *array.shape), array.dtype)
    many[...] = array
    return many.reshape(-1, *array.shape[1:])


def _silent(entries: Indices, outputs: int) -> list[Sweep]:
    """Entries that were seen to move nothing are looked at all the same."""
    return [Sweep(entries, 1, outputs)] if entries.size else []


class LossSubject:
    """A loss as a function of the output."""

    def __init__(self, loss: Loss, y: Any, t: Any) -> None:
        self.loss, self.title = loss, repr(loss)
        array = np.array(y, np.float64, order="C")
        self.arrays = {"y": array}
        self.labels = as_labels(loss, array, t)
        self.x: Any = array
        self.by_rows = loss.is_sum_over_rows and array.ndim > 0
        self.scale = loss.row_scale(array, self.labels) if self.by_rows else 1.0
        self.y: Doubles = self.value()

    def value(self) -> Doubles:
        """Return the loss, or what each row adds to it."""
        y = read_only(self.arrays["y"])
        if self.by_rows:
            return np.asarray(self.loss.rows(y, self.labels), np.float64) * self.scale
        return np.array(value_of(self.loss, y, self.labels))

    def sweeps(self, name: str) -> list[Sweep]:
        """Return which entries of the output are moved together: one of each row, where the loss is a sum over rows."""
        everything = np.arange(self.arrays[name].size)
        if self.by_rows and len(self.arrays[name]):
            return [Sweep(np.ascontiguousarray(everything.reshape(len(self.arrays[name]), -1).T))]
        return [Sweep(everything[:, None])]

    def stacked(self, name: str, entries: Indices, values: Doubles) -> Doubles | None:
        """Rows of several moves in one call would need labels of their own."""
        return None

    def backward(self, dy: Doubles, x: Any = None, between: Any = None, **others: Any) -> dict[str, Any]:
        """Return the written gradient."""
        given = self.arrays["y"] if x is None else x
        if between is not None:
            self.loss.forward(read_only(between), self.labels)
        return {"y": self.loss.backward(read_only(given), self.labels)}


class FunctionSubject:
    """Two plain functions: `forward(*x)` and `backward(dy, *x)`, or with a cache: see `check_gradients`."""

    def __init__(self, forward: Callable[..., Any], backward: Callable[..., Any], x: Any) -> None:
        self.forward_function, self.backward_function = forward, backward
        self.title = getattr(forward, "__qualname__", None) or repr(forward)
        self.several = isinstance(x, tuple | list)
        parts = list(x) if self.several else [x]
        self.parts = [_as_part(part) for part in parts]
        self.names = [f"x[{i}]" for i in range(len(parts))] if self.several else ["x"]
        self.arrays = {n: part for n, part in zip(self.names, self.parts, strict=True) if part.dtype.kind == "f"}
        self.y: Doubles = self.value()

    def value(self) -> Doubles:
        """Return the function's value at what `arrays` hold now."""
        return self._forward([part.copy() for part in self.parts])[0]

    @property
    def x(self) -> Any:
        """The input, as `forward` takes it."""
        return tuple(self.parts) if self.several else self.parts[0]

    def _forward(self, parts: list[Any]) -> tuple[Doubles, Any, bool]:
        found = self.forward_function(*parts)
        cached = isinstance(found, tuple) and len(found) == 2
        y = found[0] if cached else found
        array = np.asarray(y)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"forward: expected numbers or (numbers, cache), got {type(found).__name__}")
        return array.astype(np.float64), found[1] if cached else None, cached

    def sweeps(self, name: str) -> list[Sweep]:
        """Move one entry at a time, as nothing is known of the function."""
        return [Sweep(np.arange(self.arrays[name].size)[:, None], 1, self.y.size)]

    def stacked(self, name: str, entries: Indices, values: Doubles) -> Doubles | None:
        """Nothing is known of the function."""
        return None

    def backward(self, dy: Doubles, x: Any = None, between: Any = None, **others: Any) -> dict[str, Any]:
        """Return the gradients that the written backward gives; Overwritten where it writes into what it is given."""
        parts = [part.copy() for part in _listed(self.parts if x is None else x)]
        kept = [part.copy() for part in parts]
        _, cache, cached = self._forward(parts)
        if between is not None:
            self._forward([part.copy() for part in _listed(between)])
        _refuse_overwritten("forward", self.names, parts, kept)
        given = dy.copy().reshape(self.y.shape)
        found = self.backward_function(given, copy.copy(cache)) if cached else self.backward_function(given, *parts)
        _refuse_overwritten("backward", [*self.names, "dy"], [*parts, given], [*kept, dy.reshape(self.y.shape)])
        gradients: list[Any] = list(found) if isinstance(found, tuple | list) else [found]
        if len(gradients) != len(parts):
            raise TypeError(f"backward: expected {len(parts)} gradients, one for each input, got {len(gradients)}")
        named_ones = dict(zip(self.names, gradients, strict=True))
        return {name: named_ones[name] for name in self.arrays}


def _listed(x: Any) -> list[Any]:
    return list(x) if isinstance(x, tuple | list) else [x]


class Overwritten(ValueError):
    """A pass wrote into an array that it was given."""


def _refuse_overwritten(which: str, names: list[str], now: list[Any], before: list[Any]) -> None:
    for name, one, other in zip(names, now, before, strict=True):
        if not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            raise Overwritten(f"{name} was overwritten by {which}; compute into a new array, or into a copy.")


def _as_part(part: Any) -> Any:
    array = np.asarray(part)
    if array.dtype.kind == "f":
        return np.array(array, np.float64, order="C")
    if array.dtype.kind not in "iub":
        raise TypeError(f"x: expected arrays of numbers, got {type(part).__name__} of dtype {array.dtype}")
    return np.array(array, order="C")


def is_torch_function(what: Any) -> bool:
    """Whether it is a class derived from `torch.autograd.Function`; PyTorch is not imported."""
    return isinstance(what, type) and any(
        base.__module__.startswith("torch.") and base.__name__ == "Function" for base in what.__mro__
    )


def of_torch(function: Any, x: Any) -> FunctionSubject:
    """Make a subject of a `torch.autograd.Function`: its `forward` and its `backward`, on float64 tensors."""
    torch: Any = importlib.import_module("torch")  # installed, as the function is of it

    def tensors(parts: Any, gradient: bool) -> list[Any]:
        found = [torch.from_numpy(np.array(part)) for part in parts]
        return [t.requires_grad_(gradient and t.is_floating_point()) for t in found]

    def forward(*parts: Any) -> Any:
        with torch.no_grad():
            return function.apply(*tensors(parts, False)).detach().numpy()

    def backward(dy: Any, *parts: Any) -> Any:
        given = tensors(parts, True)
        y = function.apply(*given)
        wanted = [t for t in given if t.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, torch.from_numpy(np.array(dy)), allow_unused=True))
        gradients = [next(found) if t.requires_grad else None for t in given]
        return tuple(
            np.zeros(t.shape) if gradient is None else gradient.detach().numpy().copy()
            for t, gradient in zip(given, gradients, strict=True)
        )

    subject = FunctionSubject(forward, backward, x)
    subject.title = function.__name__
    return subject


Subjects = LayerSubject | LossSubject | FunctionSubject
