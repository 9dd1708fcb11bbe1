"""`CentralDifference`: the weight-by-weight central difference of a model, from forward passes alone.

Differences are propagated, not values (see docs/derivations/differences.md): the model runs once, and what a moved
weight changes travels upwards through each layer's `difference`. The work is cut into pieces, each with gradients that
can be had for some units at a time:

    FusedLinear    a linear layer with built-in layers above it, in C; between the two may be custom elementwise layers
    StackedEntries any other parameter: `perturb`, then `difference` of each layer above, for many entries at a time
    SharedEntries  a parameter that several layers hold: by running all of them again
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nnframe.gradients.chain import Link, as_loss, run_chain, run_loss
from nnframe.gradients.coordinates import Mask, Only, choose
from nnframe.gradients.fused import fused_linear
from nnframe.layer import Array, Layer, Parameter, run_layer
from nnframe.layers import Linear
from nnframe.losses import Loss

STACK_BYTES = 1 << 23  # of the widest array in a stack of perturbations
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
    """Some parameters' gradients, in `units` that can be had one after another."""

    units: int
    coordinates: int

    def run(self, units: range) -> None:
        """Compute what belongs to some units."""

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return each parameter with its gradient, zero where `run` has not been."""


class CentralDifference:
    """(L(w + h) - L(w - h)) / 2h for every entry w of every parameter, made fast by the structure of the network.

    Works with every layer and every loss: a custom one needs `forward` only.

    Parameters
    ----------
    step : float, optional
        h, the same for every entry; 1e-5 if not given. As differences are propagated without cancellation, a small step
        costs no digits, in float32 either. Layers without a `difference` are evaluated in float64. A layer that is
        constant almost everywhere, such as `Step`, needs a step large enough for its inputs to cross its edges.
    interpolate : bool
        Whether the weights of a linear layer may be answered together: all weights into a unit move the loss of a row
        through one number, and that curve is sampled at six places instead of twice for each weight. Where the samples
        do not agree with each other to 3e-11 (float32: 4e-6) of the unit's mean level, as near a kink or with a large
        step, the weights are taken one by one. False: always one by one.
    only : optional
        Which entries to take, the gradient of all others being 0: a Parameter or its name, several of them, a mapping
        from them to masks (arrays of bool like the parameter), or `Blocks`, another block at each step.

    Notes
    -----
    The error against the true gradient is h^2/6 times the third derivative, plus rounding. The same bits come
    with any number of threads. The model is never changed while it runs, so that an interrupt leaves it as it was.
    Memory beyond the model's own arrays stays below 100 MB for networks of any size: stacks of perturbations are cut
    into parts.
    """

    def __init__(self, step: float | None = None, *, interpolate: bool = True, only: Only | None = None) -> None:
        if step is not None and not (isinstance(step, int | float | np.number) and 0 < step < math.inf):
            raise ValueError(f"step: expected a finite number above 0, got {step!r}")
        self.step = 1e-5 if step is None else float(step)
        self.interpolate = bool(interpolate)
        self.only = list(only) if isinstance(only, Iterator) else only

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
        value, pieces = self._pieces(model, loss, x, t, choose(self.only, model))
        total = 2 * sum(piece.coordinates for piece in pieces)
        done = 0
        for piece in pieces:
            if progress is None:
                piece.run(range(piece.units))
                continue
            for units in _portions(piece):
                piece.run(units)
                progress(done + 2 * piece.coordinates * units.stop // piece.units, total)
            done += 2 * piece.coordinates
        found = {id(parameter): (parameter, array) for piece in pieces for parameter, array in piece.gradients()}
        for parameter in model.parameters():
            parameter.grad[...] = found[id(parameter)][1] if id(parameter) in found else 0
        return value

    def cost(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> Cost:
        """Return what a call with these arguments costs, before it is paid.

        The time is estimated from running a sample of each layer's units, some hundredths of a second of each.
        """
        masks = choose(self.only, model)
        start = time.perf_counter()
        _, pieces = self._pieces(model, loss, x, t, masks)
        seconds = time.perf_counter() - start
        return Cost(2 * sum(piece.coordinates for piece in pieces), seconds + sum(map(_seconds_of, pieces)))

    def _pieces(
        self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike, masks: dict[int, Mask] | None
    ) -> tuple[float, list[Piece]]:
        """Return the loss, and what there is to do."""
        links = run_chain(model, x)
        value, labels = run_loss(loss, links[-1].y, t)
        places: dict[int, list[int]] = {}
        for i, link in enumerate(links):
            for parameter in link.parameters:
                if masks is None or id(parameter) in masks:
                    places.setdefault(id(parameter), []).append(i)
        pieces: list[Piece] = []
        for i, link in enumerate(links):
            own = [p for p in link.parameters if places.get(id(p), [-1])[0] == i]
            alone = [p for p in own if len(places[id(p)]) == 1]
            pieces += [
                SharedEntries(p, links[i:], loss, labels, self.step, _wanted(p, masks)) for p in own if p not in alone
            ]
            pieces += self._of_layer(link, alone, links[i + 1 :], loss, labels, masks)
        return value, pieces

    def _of_layer(
        self,
        link: Link,
        parameters: list[Parameter],
        above: list[Link],
        loss: Loss,
        labels: npt.NDArray[Any],
        masks: dict[int, Mask] | None,
    ) -> list[Piece]:
        """Pieces for parameters that belong to this layer alone."""
        layer = link.layer
        if type(layer) is Linear and parameters and link.x.ndim == 2 and len(parameters) == len(link.parameters):
            wanted = None
            if masks is not None:
                columns = [masks[id(layer.weight)]]
                columns.append(masks[id(layer.bias)][:, None] if layer.bias else np.zeros_like(columns[0][:, :1]))
                wanted = np.concatenate(columns, axis=1)
            fused = fused_linear(link, above, loss, labels, self.step, wanted, self.interpolate)
            if fused is not None:
                return [fused]
        return [StackedEntries(p, link, above, loss, labels, self.step, _wanted(p, masks)) for p in parameters]

    def __repr__(self) -> str:
        parts = [f"step={self.step:g}"]
        if not self.interpolate:
            parts.append("interpolate=False")
        if self.only is not None:
            parts.append(f"only={self.only!r}")
        return f"CentralDifference({', '.join(parts)})"


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
        self.units = self.coordinates = len(wanted)
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
        self.units = self.coordinates = len(wanted)
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


def _wanted(parameter: Parameter, masks: dict[int, Mask] | None) -> npt.NDArray[np.intp]:
    """Flat indices of the entries that are asked for."""
    return np.arange(parameter.value.size) if masks is None else np.flatnonzero(masks[id(parameter)])


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
