"""Gradients in pieces: what strategies that move weights or units one after another have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nnframe.gradients.chain import Link, as_loss, run_chain, run_loss
from nnframe.gradients.local import STACK_BYTES
from nnframe.layer import Array, Layer, Parameter, run_layer
from nnframe.losses import Loss

PORTION_SECONDS = 0.1  # of work between two reports of progress
SAMPLE_SECONDS = 0.03  # of work from which an estimate is made

Progress = Callable[[int, int], object]


class Cost(NamedTuple):
    """What a gradient costs.

    evaluations : how often the definition evaluates the loss, twice an entry
    seconds : how long it takes, estimated from a sample
    """

    evaluations: int
    seconds: float

    def __str__(self) -> str:
        unit, size = next((u, s) for u, s in (("s", 1.0), ("ms", 1e-3), ("us", 0.0)) if self.seconds >= s)
        return f"{self.evaluations:,} evaluations, about {self.seconds / (size or 1e-6):.3g} {unit}"


class Piece(Protocol):
    """Some parameters' gradients, in `units` that can be had one after another.

    evaluations : how often the definition evaluates the loss for all of them
    """

    units: int
    evaluations: int

    def run(self, units: range) -> None:
        """Compute what belongs to some units."""

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return each parameter with its gradient, zero where `run` has not been."""


class PiecewiseStrategy:
    """A strategy whose gradients come in pieces: `pieces` is what it writes.

    Attributes
    ----------
    output : array
        What the model gave in the last call.
    """

    output: Array | None = None

    def pieces(self, model: Layer, links: list[Link], loss: Loss, labels: npt.NDArray[Any]) -> list[Piece]:
        """Return what there is to do for a mini-batch that has run through the model."""
        raise NotImplementedError(f"{type(self).__name__} has no pieces")

    def __call__(
        self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike, progress: Progress | None = None
    ) -> float:
        """Return the loss of a mini-batch, and overwrite the gradient of every parameter of the model.

        Parameters
        ----------
        model : Layer
        loss : Loss
        x : array (N, ...)
            Converted to the model's dtype.
        t : array
            Labels, as the loss takes them.
        progress : callable, optional
            Called as `progress(done, evaluations)` about ten times a second.
        """
        value, pieces = self._begin(model, loss, x, t)
        total = sum(piece.evaluations for piece in pieces)
        done = 0
        for piece in pieces:
            if progress is None:
                piece.run(range(piece.units))
                continue
            for units in _portions(piece):
                piece.run(units)
                progress(done + piece.evaluations * units.stop // piece.units, total)
            done += piece.evaluations
        found: dict[int, Array] = {}
        for piece in pieces:
            for parameter, gradient in piece.gradients():
                found[id(parameter)] = found[id(parameter)] + gradient if id(parameter) in found else gradient
        for parameter in model.parameters():
            parameter.grad[...] = found.get(id(parameter), 0)
        return value

    def cost(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> Cost:
        """Return what a call with these arguments costs, before it is paid.

        The time is estimated from running a sample of each layer's units, some hundredths of a second of each.
        """
        start = time.perf_counter()
        _, pieces = self._begin(model, loss, x, t)
        seconds = time.perf_counter() - start
        return Cost(sum(piece.evaluations for piece in pieces), seconds + sum(map(_seconds_of, pieces)))

    def _begin(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> tuple[float, list[Piece]]:
        links = run_chain(model, x)
        value, labels = run_loss(loss, links[-1].y, t)
        self.output = links[-1].y
        return value, self.pieces(model, links, loss, labels)


class StackedEntries:
    """Gradient of one parameter by perturbing many entries at a time and letting each layer above answer."""

    def __init__(
        self,
        parameter: Parameter,
        link: Link,
        above: list[Link],
        loss: Loss,
        labels: npt.NDArray[Any],
        step: float,
        wanted: npt.NDArray[np.intp],
    ) -> None:
        self.parameter, self.link, self.above, self.loss, self.labels = parameter, link, above, loss, labels
        self.step, self.wanted = step, wanted
        self.units, self.evaluations = len(wanted), 2 * len(wanted)
        self.gradient = np.zeros(parameter.value.size)
        widest = max(one.y.size for one in (link, *above))
        self.many = max(1, STACK_BYTES // (8 * widest))

    def run(self, units: range) -> None:
        """Compute the gradient of some of the wanted entries."""
        y = (self.above or [self.link])[-1].y
        for first in range(units.start, units.stop, self.many):
            indices = self.wanted[first : min(first + self.many, units.stop)]
            change = np.zeros(len(indices))
            for sign in (1, -1):
                dy = self.link.layer.perturb(self.parameter, indices, sign * self.step, self.link.x, self.link.y)
                for one in self.above:
                    dy = one.layer.difference(one.x, one.y, dy.astype(one.x.dtype, copy=False))
                change = change + sign * self.loss.difference(y, self.labels, dy)
            self.gradient[indices] = change / (2 * self.step)

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return the parameter with its gradient."""
        return [(self.parameter, self.gradient.reshape(self.parameter.value.shape))]


class SharedEntries:
    """Gradient of a parameter that several layers share, by running all of them again, in float64."""

    def __init__(
        self,
        parameter: Parameter,
        links: list[Link],
        loss: Loss,
        labels: npt.NDArray[Any],
        step: float,
        wanted: npt.NDArray[np.intp],
    ) -> None:
        memo: dict[int, object] = {}
        self.parameter, self.links, self.loss, self.labels = parameter, links, loss, labels
        self.step, self.wanted = step, wanted
        self.twins = [link.layer.astype(np.float64, memo) for link in links]
        moved = memo[id(parameter)]
        assert isinstance(moved, Parameter)
        self.value = moved.value.reshape(-1)
        self.x = links[0].x.astype(np.float64)
        self.units, self.evaluations = len(wanted), 2 * len(wanted)
        self.gradient = np.zeros(parameter.value.size)

    def run(self, units: range) -> None:
        """Compute the gradient of some of the wanted entries."""
        value = self.value
        for i in self.wanted[units.start : units.stop]:
            saved = value[i]
            value[i] = saved + self.step
            upper = self._loss()
            value[i] = saved - self.step
            self.gradient[i] = (upper - self._loss()) / ((saved + self.step) - (saved - self.step))
            value[i] = saved

    def _loss(self) -> float:
        y: Array = self.x
        for link, twin in zip(self.links, self.twins, strict=True):
            y = run_layer(twin, y, link.name)
        return as_loss(self.loss.forward(y, self.labels), self.loss)

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return the parameter with its gradient."""
        return [(self.parameter, self.gradient.reshape(self.parameter.value.shape))]


def _portions(piece: Piece) -> Iterator[range]:
    """Cut a piece into ranges of units that take about PORTION_SECONDS each."""
    first, many = 0, 1
    while first < piece.units:
        units = range(first, min(first + many, piece.units))
        start = time.perf_counter()
        yield units
        taken = time.perf_counter() - start
        first = units.stop
        many = max(1, min(4 * many, int(many * PORTION_SECONDS / max(taken, 1e-6))))


def _seconds_of(piece: Piece) -> float:
    """How long a whole piece takes, from running ever more of its units until that can be measured."""
    many = min(4, piece.units)
    if not many:
        return 0.0
    piece.run(range(many))  # a first call finds caches cold and threads asleep
    while True:
        first = (piece.units - many) // 2
        start = time.perf_counter()
        piece.run(range(first, first + many))
        taken = time.perf_counter() - start
        if taken >= SAMPLE_SECONDS or many == piece.units:
            return taken * piece.units / many
        many = min(piece.units, many * max(2, min(16, int(SAMPLE_SECONDS / taken))))
