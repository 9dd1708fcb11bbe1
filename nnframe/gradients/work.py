"""Pieces of work of a gradient, and the base class of the strategies that run them."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nnframe._checks import unwrapped
from nnframe.core.backward import warn_nothing_passes, warn_parameter_stands_still
from nnframe.core.chain import ForwardPass, Link, expanded, run_forward
from nnframe.core.layer import Layer
from nnframe.core.local import name_of
from nnframe.core.network import NetworkPass, gradient_in_one_call, gradient_of_chain, network_in_one_call
from nnframe.core.parameter import Array, Chosen, Parameter
from nnframe.core.protocol import CostWarning
from nnframe.core.run import Run, at_the_door
from nnframe.core.structure import Memory
from nnframe.gradients.whole import look_at_the_whole
from nnframe.layers.containers import Joint
from nnframe.losses.base import Loss, as_labels, gradient_by_differences, value_of

PORTION_SECONDS = 0.1  # of work between two reports of progress
SAMPLE_SECONDS = 0.03  # of work from which an estimate is made
SUBTRACTED_STEP = 1e-5  # the default step where values are subtracted, in float64
EXACT_STEP = 1e-12  # where nothing is: no digits are lost, and neither kinks nor truncation are felt
DEAR = 100  # evaluations of one layer per gradient, from which on it is said what they are spent on

Progress = Callable[[int, int], object]


class Measured(float):
    """The loss of a mini-batch, and the forward pass that it comes from.

    Attributes
    ----------
    forward_pass : ForwardPass
    """

    __slots__ = ("forward_pass",)

    forward_pass: ForwardPass

    def __new__(cls, forward_pass: ForwardPass) -> Measured:
        """Take the value of a measured forward pass."""
        made = super().__new__(cls, forward_pass.value)
        made.forward_pass = forward_pass
        return made

    @property
    def output(self) -> Array:
        """What the model returned."""
        return self.forward_pass.output

    def __reduce__(self) -> Any:
        return float, (float(self),)


class Cost(NamedTuple):
    """What a gradient costs.

    evaluations : how often the definition evaluates the loss, twice per entry
    seconds : how long it takes, estimated from a sample
    """

    evaluations: int
    seconds: float

    def __str__(self) -> str:
        unit, size = next((u, s) for u, s in (("s", 1.0), ("ms", 1e-3), ("us", 0.0)) if self.seconds >= s)
        return f"{self.evaluations:,} evaluations, about {self.seconds / (size or 1e-6):.3g} {unit}"


class Work(Protocol):
    """Some parameters' gradients, in `units` that can be computed one after another.

    evaluations : how often the definition evaluates the loss for all of them
    """

    units: int
    evaluations: int

    def run(self, units: range) -> None:
        """Compute what belongs to some units."""

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return each parameter with its gradient, zero where `run` has not been."""


class Place(NamedTuple):
    """A link whose layer has parameters of its own, and the links between its output and the loss."""

    link: Link
    above: list[Link]

    @property
    def widest(self) -> int:
        """Size of the widest array that a change of the layer's output passes through."""
        return max(one.y.size for one in (self.link, *self.above))


def places_of(links: list[Link], tail: list[Link] | None = None) -> list[Place]:
    """Where parameters are, from the bottom up; inside containers as well, with the container's joint above them."""
    found = []
    links = expanded(links)
    for i, link in enumerate(links):
        above = links[i + 1 :] + (tail or [])
        if link.traits.branches:
            for k, branch in enumerate(link.inner):
                found += places_of(branch.links, [*joint(link, k), *above])
        elif link.parameters:
            found.append(Place(link, above))
    return found


def default_step(place: Place, exact_loss: bool) -> float:
    """Return the step for a layer's parameters, which depends on whether anything above them is subtracted."""
    own = place.link.traits
    exact = exact_loss and own.perturb and not own.own and all(map(_is_exact, place.above))
    return EXACT_STEP if exact else SUBTRACTED_STEP


def has_exact_differences(loss: Loss) -> bool:
    """Whether a loss is nnframe's own and changes without two values being subtracted."""
    return not loss._traits.own and (loss._traits.difference or loss._traits.row_differences)


def _is_exact(link: Link) -> bool:
    """Whether no two values are subtracted in a layer's difference, as far as is known: an author's own may be any."""
    if link.traits.branches or link.chain:
        return all(_is_exact(one) for branch in link.inner for one in branch.links)
    return bool(link.traits.difference) and not link.traits.own


def joint(link: Link, which: int) -> list[Link]:
    """Return the link through which a change of one branch of a container goes on; none where branches are added."""
    if link.layer.join == "add":
        return []
    outputs = [branch.y for branch in link.inner]
    return [Link(Joint(link.layer, outputs, which), Joint._traits, [], outputs[which], link.y)]


def warn_of_price(link: Link, evaluations: int, memory: Memory) -> None:
    """Say once that a layer whose inner layers are not seen costs far more than it might."""
    if evaluations < DEAR or link.traits.branches or not (link.traits.own and memory.first_time("price", link.layer)):
        return
    if not any(hasattr(tree, "forward") for _, tree in list(link.layer.named_trees())[1:]):
        return
    warnings.warn(
        f"{name_of(link)}: its layers are not seen one by one, as they are not called "
        f"one after another as layer(x), each with what the one before returned: {evaluations:,} evaluations of it per "
        "gradient. nn.Sequential, nn.Residual and nn.Branches join layers so that each is taken for what it is; or "
        "write a backward",
        CostWarning,
        stacklevel=4,
    )


class WorkingStrategy:
    """A strategy whose gradients come in pieces of work: `work` is what it writes."""

    step: float
    scaled: bool  # whether the step is nnframe's own choice
    memory: Memory

    def step_for(self, place: Place, exact_loss: bool) -> float:
        """Return the step for the parameters of a layer: the one that was given, or the default."""
        return min(self.step, default_step(place, exact_loss)) if self.scaled else self.step

    def step_in_one_call(self) -> float:
        """Return the step of central differences that C may take of a whole network at once; 0: it may not."""
        return 0.0

    def select(self, model: Layer) -> Chosen | None:
        """Return which entries are asked for; None: all. KeyError or ValueError where they are not the model's."""
        return None

    def unselect(self) -> None:
        """Take back what `select` has changed: the gradient could not be taken."""

    def work(self, passed: ForwardPass, chosen: Chosen | None) -> list[Work]:
        """Return what there is to do for a mini-batch that has run through the model.

        chosen : what `select` returned
        """
        raise NotImplementedError(f"{type(self).__name__} has no work")

    def __call__(
        self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike, progress: Progress | None = None
    ) -> Measured:
        """Return the loss of a mini-batch, and overwrite the gradient of every parameter of the model.

        Parameters
        ----------
        model : Layer
        loss : Loss
        x : array (N, ...), or a tuple of arrays
            Converted to the model's dtype.
        t : array
            Labels, as the loss takes them.
        progress : callable, optional
            Called as `progress(done, evaluations)` about ten times a second.

        Returns
        -------
        Measured
            A float that also has the model's output and the forward pass.
        """
        t = unwrapped(t)
        passed, pieces = self._take(model, loss, x, t, progress)
        if type(passed) is NetworkPass:
            return Measured(passed)
        if getattr(self, "only", None) is None and (count := self.memory.look_due(model)):
            with passed.run:
                self.see_whether_something_passes(passed, pieces)
            passed = look_at_the_whole(
                self, passed, count, lambda one: one._take(model, loss, x, t, None)[0], written=False
            )
        return Measured(passed)

    def _take(
        self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike, progress: Progress | None
    ) -> tuple[ForwardPass, list[Work]]:
        """Take a gradient; returns the forward pass and the work that was done."""
        chosen = self.select(model)  # what is not the model's is refused before anything is changed
        try:
            return self._take_chosen(model, loss, x, t, progress, chosen)
        except BaseException:
            self.unselect()
            raise

    def _take_chosen(
        self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike, progress: Progress | None, chosen: Any
    ) -> tuple[ForwardPass, list[Work]]:
        step = self.step_in_one_call()
        found = self._in_one_call(model, loss, x, t, step, chosen) if step else None
        if found is not None:
            if found.left_out is not None:
                self._add_rows(found, found.left_out, chosen)
            _tell_all(model, progress, chosen)
            return found, []
        with Run(True, self.memory, self.step, model) as run:
            passed = run_forward(model, x, run)
            if step and gradient_of_chain(passed, loss, t, step, chosen):
                _tell_all(model, progress, chosen)
                return passed, []
            pieces = self.work(measure(passed, loss, t), chosen)
            _run_all(pieces, progress)
            sums = _sums_of(pieces)
            for parameter in passed.parameters:
                parameter.grad[...] = sums.get(id(parameter), 0) if parameter.trainable else 0
        return passed, pieces

    def _in_one_call(
        self, model: Layer, loss: Loss, x: Any, t: npt.ArrayLike, step: float, chosen: Chosen | None
    ) -> NetworkPass | None:
        """Take a gradient in one call; None where there is no such way."""
        if self.scaled and isinstance(loss, Loss) and not loss._traits.stage and loss.is_sum_over_rows:
            return self._below_own_loss(model, loss, x, t, step, chosen)
        return gradient_in_one_call(model, loss, x, t, self.memory, step, chosen)

    def _below_own_loss(
        self, model: Layer, loss: Loss, x: Any, t: npt.ArrayLike, step: float, chosen: Chosen | None
    ) -> NetworkPass | None:
        """Do so below a sum over rows that C does not know, by its gradient with respect to the output: see in_c.py."""
        network = network_in_one_call(model, step)
        if network is None:
            return None
        x = x if network.takes(x) else at_the_door(model, x, network.dtype)
        if not network.takes(x):
            return None
        passed = NetworkPass(model, self.memory, x, loss)
        passed.output = network.forward(x)
        passed.labels = as_labels(loss, passed.output, t)
        passed.value = value_of(loss, passed.output, passed.labels)
        slope, doubtful = gradient_by_differences(loss, passed.output, passed.labels, None), np.zeros(len(x), bool)
        if not np.isfinite(slope).all():
            return None
        linear = ("linear", "sum")
        if network.gradient(loss, x, slope, step=step, doubtful=doubtful, described=linear, chosen=chosen) is None:
            return None
        passed.leave_out(doubtful, x)
        return passed

    def _add_rows(self, passed: NetworkPass, rows: npt.NDArray[np.intp], chosen: Chosen | None) -> None:
        """Add the gradients of rows that were left out, a loss being the sum of what its rows give."""
        loss, (x, output, labels) = passed.loss, passed.taken
        with Run(True, self.memory, self.step, passed.model) as run:
            part = measure(run_forward(passed.model, x[rows], run), loss, labels[rows])
            pieces = self.work(part, chosen)
            _run_all(pieces, None)
            share = loss.row_scale(output, labels) / loss.row_scale(part.output, part.labels)
            sums = _sums_of(pieces)
            for parameter in part.parameters:
                if parameter.trainable and id(parameter) in sums:
                    parameter.grad += sums[id(parameter)] * parameter.grad.dtype.type(share)

    def cost(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> Cost:
        """Estimate what a call with these arguments costs, without computing the gradient.

        The time is estimated from running a sample of each layer's units, some hundredths of a second of each; or, of
        a network that C takes in one call, by taking the gradient of a copy.
        """
        chosen = self.select(model)
        seconds = self._seconds_in_one_call(model, loss, x, t, chosen)
        if seconds is not None:
            return Cost(2 * _count(model, chosen), seconds)
        start = time.perf_counter()
        with Run(True, self.memory, self.step, model) as run:
            pieces = self.work(measure(run_forward(model, x, run), loss, t), chosen)
            seconds = time.perf_counter() - start
            return Cost(sum(piece.evaluations for piece in pieces), seconds + sum(map(_seconds_of, pieces)))

    def _seconds_in_one_call(
        self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike, chosen: Chosen | None
    ) -> float | None:
        """How long a gradient takes in one call; None where it takes more than that."""
        step = self.step_in_one_call()
        if not step:
            return None
        private = copy.deepcopy(model)
        if chosen is not None:
            own = zip(model.parameters(), private.parameters(), strict=True)
            chosen = {id(other): chosen[id(p)] for p, other in own if id(p) in chosen}
        if self._in_one_call(private, loss, x, t, step, chosen) is None:  # finds caches cold, threads asleep
            return None
        start = time.perf_counter()
        self._take_chosen(private, loss, x, t, None, chosen)
        return time.perf_counter() - start

    def see_whether_something_passes(self, passed: ForwardPass, pieces: list[Work]) -> None:
        """Warn, once, of a layer without a derivative through which no change passes at this step."""
        for piece in pieces:
            if getattr(piece, "still", False) and piece.units:
                one: Any = piece
                warn_parameter_stands_still(one.place.link, one.parameter, self.step)
        lowest = next((i for i, link in enumerate(passed.links) if link.parameters), None)
        if lowest is None or any(p.grad.any() for p in reversed(passed.links[lowest].parameters)):
            return
        stuck = next((above for above in passed.links[lowest + 1 :] if self._is_stuck(above)), None)
        if stuck is not None:
            warn_nothing_passes(stuck, self.step)

    def _is_stuck(self, link: Link) -> bool:
        return not link.traits.backward and self.memory.first_time("nothing passes", link.layer)


def _count(model: Layer, chosen: Chosen | None) -> int:
    """How many entries are asked for."""
    return sum(p.value.size for p in model.parameters()) if chosen is None else sum(map(len, chosen.values()))


def _tell_all(model: Layer, progress: Progress | None, chosen: Chosen | None) -> None:
    """Report a gradient that was taken in one call."""
    if progress is not None:
        progress(2 * _count(model, chosen), 2 * _count(model, chosen))


def measure(passed: ForwardPass, loss: Loss, t: npt.ArrayLike) -> ForwardPass:
    """Measure the loss of a forward pass, labels checked; returns the pass."""
    passed.loss, passed.labels = loss, as_labels(loss, passed.output, t)
    if not len(passed.output) and loss.reduction != "sum":
        raise ValueError("x: expected at least one row, got none, of which there is no mean")
    passed.value = value_of(loss, passed.output, passed.labels)
    return passed


def _sums_of(pieces: list[Work]) -> dict[int, Array]:
    """Return the gradient of each parameter, by its id."""
    sums: dict[int, Array] = {}
    for piece in pieces:
        for parameter, gradient in piece.gradients():
            sums[id(parameter)] = sums[id(parameter)] + gradient if id(parameter) in sums else gradient
    return sums


def _run_all(pieces: list[Work], progress: Progress | None) -> None:
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


def _portions(piece: Work) -> Iterator[range]:
    """Cut a piece into ranges of units that take about PORTION_SECONDS each."""
    first, many = 0, 1
    while first < piece.units:
        units = range(first, min(first + many, piece.units))
        start = time.perf_counter()
        yield units
        taken = time.perf_counter() - start
        first = units.stop
        many = max(1, min(4 * many, int(many * PORTION_SECONDS / max(taken, 1e-6))))


def _seconds_of(piece: Work) -> float:
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
