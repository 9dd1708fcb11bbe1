"""Gradients in pieces: what strategies that move weights or units one after another have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.core.chain import Link, as_loss, run_chain, run_differences, run_loss
from nnframe.core.layer import Array, Layer, Parameter, run_layer
from nnframe.gradients.local import chunks
from nnframe.losses import Loss

PORTION_SECONDS = 0.1  # of work between two reports of progress
SAMPLE_SECONDS = 0.03  # of work from which an estimate is made

# Curves: where they are sampled, in parts of their largest argument, and how far off they may be, by the bytes of a
# number. See csrc/nnframe.h.
NODES = (1, -1, 0.8, -0.8, 0.5, -0.5)
TOLERANCE = {4: 4e-6, 8: 3e-11}
SUBTRACTED = 1e-8  # the latter where a layer's values are subtracted, which loses some eps / step
FEW_ENTRIES = 8  # a row with no more weights than this is done sooner weight by weight

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


def widest(link: Link, above: list[Link]) -> int:
    """Size of the widest array that a change of this layer's output passes through."""
    return max(one.y.size for one in (link, *above))


def curves_pay(x: Array, share: float = 1.0) -> bool:
    """Whether curves are worth sampling for that share of the weights; judged from eight rows of the layer's input."""
    sample = x[:: max(1, len(x) // 8)]
    return bool(np.count_nonzero(sample) * share > FEW_ENTRIES * len(sample))


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

    def run(self, units: range) -> None:
        """Compute the gradient of some of the wanted entries."""
        x, y, top = self.link.x, self.link.y, (self.above or [self.link])[-1].y
        for some in chunks(len(units), widest(self.link, self.above)):
            indices = self.wanted[some + units.start]
            change = np.zeros(len(indices))
            for sign in (1, -1):
                dy = self.link.layer.perturb(self.parameter, indices, sign * self.step, x, y)
                moved = run_differences(self.above, dy.astype(y.dtype, copy=False))
                change = change + sign * self.loss.difference(top, self.labels, moved)
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


def tolerance_below(above: list[Link], y: Array) -> float:
    """How far off a curve may be below these layers."""
    subtracted = any(type(one.layer).difference is Layer.difference for one in above)
    return max(TOLERANCE[y.itemsize], SUBTRACTED if subtracted else 0)


class StackedCurves:
    """The gradient of a linear layer below rowwise layers, from the curve that each row's loss is above each unit.

    What `FusedLinear` does in C, for layers that C does not know; see docs/derivations/differences.md. Units with rows
    whose curve is in doubt are taken entry by entry.
    """

    def __init__(self, link: Link, above: list[Link], loss: Loss, labels: npt.NDArray[Any], step: float) -> None:
        layer: Any = link.layer
        self.link, self.above, self.loss, self.labels, self.step = link, above, loss, labels, step
        self.weight, self.bias = layer.weight, layer.bias
        self.units = link.y.shape[1]
        self.evaluations = 2 * sum(p.value.size for p in link.parameters)
        self.to_weight = np.zeros(self.weight.value.shape)
        self.to_bias = np.zeros(self.units)
        self.scale = loss.row_scale((above or [link])[-1].y, labels)
        self.tolerance = tolerance_below(above, link.y)

    def run(self, units: range) -> None:
        """Compute the gradient of the weights and biases of some units."""
        x = self.link.x.astype(np.float64)
        largest = np.abs(x).max(axis=1, initial=0 if self.bias is None else 1)
        inverse = np.divide(1, largest, out=np.zeros_like(largest), where=largest > 0)
        cubes = x * (x * inverse[:, None]) ** 2
        for some in chunks(len(units), len(NODES) * widest(self.link, self.above)):
            rows = some + units.start
            level, bend, doubtful = self._curves(rows, largest)
            self.to_weight[rows] = (kernels.batched_matmul(level, x) + kernels.batched_matmul(bend, cubes)) * self.scale
            self.to_bias[rows] = (level + bend * inverse**2).sum(axis=1) * self.scale
            if doubtful.any():
                self._entry_by_entry(rows[doubtful.any(axis=1)])

    def _curves(self, units: npt.NDArray[np.intp], largest: npt.NDArray[np.float64]) -> Any:
        """Level, bend and doubt, (units, N) each, as csrc/nnframe.h has them."""
        y = self.link.y
        distance = (largest * self.step).astype(y.dtype)
        moved = np.zeros((len(units), len(NODES), *y.shape), y.dtype)
        for i, unit in enumerate(units):
            moved[i, :, :, unit] = np.multiply.outer(np.array(NODES, y.dtype), distance)
        dy = run_differences(self.above, moved.reshape(-1, *y.shape))
        top = (self.above or [self.link])[-1].y
        change = self.loss.row_differences(top, self.labels, dy).reshape(len(units), len(NODES) // 2, 2, len(y))
        at = np.array(NODES[::2])[:, None] * distance.astype(np.float64)
        inverse = np.divide(0.5, at, out=np.zeros_like(at), where=at > 0)
        value = (change[:, :, 0] - change[:, :, 1]) * inverse
        bend = (value[:, 0] - value[:, 2]) / 0.75
        level = value[:, 0] - bend
        off = np.abs(value[:, 1] - (level + 0.64 * bend)) * distance
        most = self.tolerance * np.abs(level * distance).mean(axis=1, keepdims=True)
        return level, bend, ~(off <= most)

    def _entry_by_entry(self, units: npt.NDArray[np.intp]) -> None:
        inputs = self.to_weight.shape[1]
        entries = (units[:, None] * inputs + np.arange(inputs)).reshape(-1)
        for parameter, wanted, to in ((self.weight, entries, self.to_weight), (self.bias, units, self.to_bias)):
            if parameter is None:
                continue
            piece = StackedEntries(parameter, self.link, self.above, self.loss, self.labels, self.step, wanted)
            piece.run(range(piece.units))
            to.reshape(-1)[wanted] = piece.gradient[wanted]

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return the weight and the bias with their gradients."""
        found: list[tuple[Parameter, Array]] = [(self.weight, self.to_weight)]
        return found if self.bias is None else [*found, (self.bias, self.to_bias)]


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
