"""`CentralDifference`: the weight-by-weight central difference of a model, from forward passes alone.

Differences are propagated, not values (see docs/derivations/differences.md): the model runs once, and what a moved
weight changes travels upwards through each layer's `difference`. Each part of the work has its own way:

    Taken          a linear layer below linear and elementwise layers, or a shared one, where all of it is straight
    FusedLinear    a linear layer with built-in layers above it, in C; between the two may be other elementwise layers
    FusedConvolution a convolution, or a layer like one, with built-in layers above it, in C
    StackedCurves  a linear layer with any layers above it that do not mix rows
    StackedEntries any other parameter: moved, then `difference` of each layer above, for many entries at a time
    SharedEntries  a parameter that several layers hold
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.core.chain import ForwardPass, expanded
from nnframe.core.layer import Layer
from nnframe.core.local import as_step
from nnframe.core.parameter import NONE, Chosen, Parameter
from nnframe.core.structure import Memory, couples_of
from nnframe.gradients.channels import convolution_in_c
from nnframe.gradients.curves import StackedCurves, curves_pay, only_entries
from nnframe.gradients.entries import SharedEntries, StackedEntries
from nnframe.gradients.in_c import Described, FusedLinear, above_in_c, describe_loss, is_linear
from nnframe.gradients.selection import Blocks, Only, choose
from nnframe.gradients.straight import Taken, straight_gradients
from nnframe.gradients.work import (
    EXACT_STEP,
    SUBTRACTED_STEP,
    Cost,
    Place,
    Work,
    WorkingStrategy,
    has_exact_differences,
    places_of,
    warn_of_price,
)
from nnframe.losses.base import Loss


class CentralDifference(WorkingStrategy):
    """(L(w + h) - L(w - h)) / 2h for every entry w of every parameter, made fast by the structure of the network.

    Works with every layer and every loss: a custom one needs `forward` only. What there is to know about a layer is
    found out at its first gradient, and looked at again now and then; a layer that is no pure function is refused.

    Parameters
    ----------
    step : float, optional
        h, the same for every entry. If not given, 1e-12 where the layer, all above it and the loss are nnframe's own:
        differences are then propagated without cancellation, so that a small step costs no digits, in float32 either,
        and no kink and no truncation is felt. The same below elementwise layers of yours whose slopes can be measured,
        and below a loss of yours that is a sum over rows, which is taken by its gradient with respect to the output,
        from its own differences. Else 1e-5, as layers without a `difference` are evaluated in float64 and subtracted;
        for the parameters of layers without a `perturb` 1e-5 max(1, |entry|). A layer that is constant almost
        everywhere, such as `Step`, needs a step large enough for its inputs to cross its edges.
    interpolate : bool
        Whether the weights of a linear layer may be answered together: all weights into a unit move the loss of a row
        through one number, and that curve is sampled at six places instead of twice for each weight. Where the samples
        do not agree with each other to 1e-13 (float32: 1e-6; 1e-8 below layers without a `difference`) of the unit's
        mean level, as near a kink or with a large step, the weights are taken one by one. False: always one by one.
    only : optional
        Which entries to take, the gradient of all others being 0: a Parameter or its name, several of them, a mapping
        from them to masks (arrays of bool like the parameter), or `Blocks`, another block at each step.

    Notes
    -----
    The error against the true gradient is h^2/6 times the third derivative, plus rounding. The same bits come
    with any number of threads. The model is never changed while it runs, so that an interrupt leaves it as it was.
    Memory: some copies of the inputs and outputs of the layers for the mini-batch, and some 50 MB; stacks of
    perturbations are cut into parts of 8 MB.
    """

    def __init__(self, step: float | None = None, *, interpolate: bool = True, only: Only | None = None) -> None:
        self.step = as_step(step) or SUBTRACTED_STEP
        self.scaled = step is None
        self.memory = Memory()
        self.interpolate = bool(interpolate)
        self.only = list(only) if isinstance(only, Iterator) else only

    def cost(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> Cost:
        """Estimate what a call with these arguments costs, without computing the gradient.

        The time is estimated from running a sample of each layer's units, some hundredths of a second of each.
        """
        if not isinstance(self.only, Blocks):
            return super().cost(model, loss, x, t)
        alike = copy.copy(self)
        alike.only = copy.deepcopy(self.only)  # the next block stays the next one
        return super(CentralDifference, alike).cost(model, loss, x, t)

    def step_in_one_call(self) -> float:
        """Return the step, where curves may be used."""
        if not self.interpolate:
            return 0.0
        return min(self.step, EXACT_STEP) if self.scaled else self.step

    def select(self, model: Layer) -> Chosen | None:
        """Return which entries are asked for, the next block of `Blocks`; None: all of them."""
        return choose(self.only, model) if isinstance(model, Layer) else None

    def unselect(self) -> None:
        """Let the last block of `Blocks` be the next one again."""
        if isinstance(self.only, Blocks):
            self.only.put_back()

    def work(self, passed: ForwardPass, chosen: Chosen | None) -> list[Work]:
        """Return what there is to do for a mini-batch that has run through the model."""
        described, exact = describe_loss(passed, self.scaled), has_exact_differences(passed.loss)
        places = places_of(passed.links)
        pieces, places = self._together(passed, places, chosen, described)
        shared = self._shared(passed, places, chosen)
        known = {id(piece.parameter) for piece in shared}
        pieces += shared
        for place in places:
            parameters = place.link.parameters
            selected = [p for p in parameters if id(p) not in known and (chosen is None or id(p) in chosen)]
            if not selected:
                continue
            whole = (
                None
                if len(known) and any(id(p) in known for p in parameters)
                else self._of_whole_layer(place, passed, chosen, described)
            )
            if whole is not None:
                pieces.append(whole)
                continue
            h = self.step_for(place, exact)
            entries = [StackedEntries(p, place, passed, h, _selected(p, chosen), self.scaled) for p in selected]
            warn_of_price(place.link, sum(piece.evaluations for piece in entries), self.memory)
            pieces += entries
        return pieces

    def _together(
        self, passed: ForwardPass, places: list[Place], chosen: Chosen | None, described: Described | None
    ) -> tuple[list[Work], list[Place]]:
        """Take the gradients of places that share parameters where the whole way is straight, and return the others."""
        held = [id(parameter) for place in places for parameter in place.link.parameters]
        if len(set(held)) == len(held) or not self.interpolate:
            return [], places
        group = [one for one in places if any(held.count(id(p)) > 1 for p in one.link.parameters)]
        found: list[Work] = []
        for place in group:
            piece = self._straight(place, passed, chosen, described, len(group))
            if piece is None:
                return [], places
            found.append(piece)
        return found, [one for one in places if not any(one is other for other in group)]

    def _straight(
        self,
        place: Place,
        passed: ForwardPass,
        chosen: Chosen | None,
        described: Described | None,
        holders: int = 1,
    ) -> Taken | None:
        """Take the gradients of a linear layer if its curves are straight; None otherwise."""
        step = EXACT_STEP if self.scaled else self.step
        found = straight_gradients(place, described, passed, step, holders)
        if found is None:
            return None
        if chosen is None:
            return Taken(found, 2 * sum(p.value.size for p, _ in found))
        some = [(p, only_entries(gradient, chosen[id(p)])) for p, gradient in found if id(p) in chosen]
        return Taken(some, 2 * sum(len(chosen[id(p)]) for p, _ in some))

    def _shared(self, passed: ForwardPass, places: list[Place], chosen: Chosen | None) -> list[SharedEntries]:
        """Return the work for parameters that several layers hold, seen from the outermost layers that hold them."""
        held = [id(parameter) for place in places for parameter in place.link.parameters]
        if len(set(held)) == len(held):
            return []
        count = {one: held.count(one) for one in set(held)}
        links = expanded(passed.links)
        outer = [Place(link, links[i + 1 :]) for i, link in enumerate(links)]
        found: dict[int, SharedEntries] = {}
        for place in places:
            for p in place.link.parameters:
                if count[id(p)] > 1 and id(p) not in found and (chosen is None or id(p) in chosen):
                    holders = [one for one in outer if any(q is p for q in one.link.parameters)]
                    found[id(p)] = SharedEntries(p, holders, passed, self.step, _selected(p, chosen), self.scaled)
        return list(found.values())

    def _of_whole_layer(
        self, place: Place, passed: ForwardPass, chosen: Chosen | None, described: Described | None
    ) -> Work | None:
        """Return the work for all parameters of a layer together; None where there is no such way."""
        link, above = place
        layer: Any = link.layer
        if not is_linear(link) and not link.traits.stage_of_planes:
            return None
        selected = None
        if chosen is not None:
            bias = getattr(layer, "bias", None)
            selected = chosen.get(id(layer.weight), NONE), chosen.get(id(bias), NONE)
        step = self.step_for(place, exact_loss=True)
        if not is_linear(link):
            return convolution_in_c(place, described, passed.run, step, selected, self.memory)
        in_c = above_in_c(place, described, passed)
        if self.interpolate and (in_c is None or in_c.columns):
            piece = self._straight(place, passed, chosen, described)
            if piece is not None:
                return piece
        if in_c is not None:
            return FusedLinear(link, in_c, step, selected, self.interpolate)
        if link.x.ndim != 2:
            return None
        if any(couples_of(one, passed.run) == "batch" for one in above):
            return convolution_in_c(place, described, passed.run, step, selected, self.memory)
        share = 1.0 if selected is None else sum(map(len, selected)) / sum(p.value.size for p in link.parameters)
        if self.interpolate and passed.loss.is_sum_over_rows and curves_pay(link.x, share):
            return StackedCurves(place, passed, self.step_for(place, has_exact_differences(passed.loss)), selected)
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what the next gradient depends on: the state of `Blocks`."""
        return self.only.state_dict() if isinstance(self.only, Blocks) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        if isinstance(self.only, Blocks):
            self.only.load_state_dict(state)

    def __repr__(self) -> str:
        parts = [] if self.scaled else [f"step={self.step:g}"]
        if not self.interpolate:
            parts.append("interpolate=False")
        if self.only is not None:
            parts.append(f"only={self.only!r}")
        return f"CentralDifference({', '.join(parts)})"


def _selected(parameter: Parameter, chosen: Chosen | None) -> npt.NDArray[np.intp]:
    """Flat indices of the entries to take."""
    return np.arange(parameter.value.size) if chosen is None else chosen[id(parameter)]
