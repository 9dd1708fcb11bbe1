"""Gradients entry by entry: for any parameter below any layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.core.chain import ForwardPass
from nnframe.core.local import chunks, difference_of, perturbations, run_differences
from nnframe.core.parameter import Array, Parameter
from nnframe.gradients.work import Place
from nnframe.losses.base import change_of

Rows = npt.NDArray[np.intp]


class StackedEntries:
    """Gradient of one parameter by moving many entries at a time, each in a copy, and letting each layer above answer.

    Parameters
    ----------
    parameter : Parameter
    place : Place
        The one layer that holds it.
    passed : ForwardPass
    step : float
    selected : array of int
        Flat indices of the entries to take.
    scaled : bool
        Whether a step is taken times max(1, |entry|), where the layer has no `perturb`.
    """

    def __init__(
        self, parameter: Parameter, place: Place, passed: ForwardPass, step: float, selected: Rows, scaled: bool
    ) -> None:
        self.parameter, self.place, self.passed = parameter, place, passed
        self.step, self.selected, self.scaled = step, selected, scaled
        self.units, self.evaluations = len(selected), 2 * len(selected)
        self.gradient = np.zeros(parameter.value.size)
        self.still = place.link.traits.own  # whether the output of a layer of others has not moved yet

    def run(self, units: range) -> None:
        """Compute the gradient of some of the selected entries."""
        place, passed = self.place, self.passed
        dtype = place.link.y.dtype
        for some in chunks(len(units), place.widest):
            indices = self.selected[some + units.start]
            up, down, width = perturbations(place.link, self.parameter, indices, self.step, self.scaled)
            self.still = self.still and bool(up.size) and not (up.any() or down.any())
            change = np.zeros(len(indices))
            for sign, side in ((1, up), (-1, down)):
                moved = run_differences(place.above, side.astype(dtype, copy=False))
                change = change + sign * change_of(passed.loss, passed.output, passed.labels, moved)
            self.gradient[indices] = change / width

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return the parameter with its gradient."""
        return [(self.parameter, self.gradient.reshape(self.parameter.value.shape))]


class SharedEntries:
    """Gradient of a parameter that several layers hold, by moving it in all of them.

    Where a layer's input has moved by dx already, its output moves by f(x + dx; w) - f(x; w), and then by
    f(x + dx; w + h) - f(x + dx; w): its `difference`, and its perturbation at x + dx.

    Parameters
    ----------
    parameter : Parameter
    places : list of Place
        The layers that hold it, from the bottom up; each stands in the `above` of the one before it.
    passed, step, selected, scaled : as `StackedEntries`
    """

    def __init__(
        self,
        parameter: Parameter,
        places: Sequence[Place],
        passed: ForwardPass,
        step: float,
        selected: Rows,
        scaled: bool,
    ) -> None:
        self.parameter, self.places, self.passed = parameter, places, passed
        self.step, self.selected, self.scaled = step, selected, scaled
        self.units, self.evaluations = len(selected), 2 * len(selected)
        self.gradient = np.zeros(parameter.value.size)

    def run(self, units: range) -> None:
        """Compute the gradient of some of the selected entries."""
        for index in self.selected[units.start : units.stop]:
            changes = []
            width = 0.0
            for side in (0, 1):
                moved, width = self._moved(index, side)
                loss, top = self.passed.loss, self.passed.output
                changes.append(float(change_of(loss, top, self.passed.labels, moved[None])[0]))
            self.gradient[index] = (changes[0] - changes[1]) / width

    def _moved(self, index: int, side: int) -> tuple[Array, float]:
        """How the model's output changes with one entry at one of its ends; and the distance between the ends."""
        first = self.places[0]
        holders = [place.link for place in self.places[1:]]
        every = np.array([index])
        found = perturbations(first.link, self.parameter, every, self.step, self.scaled)
        dx: Any = found[side][0].astype(first.link.y.dtype, copy=False)
        for link in first.above:
            dy = difference_of(link, dx)
            if any(link is holder for holder in holders):
                at = link._replace(x=link.x + dx, y=link.y + dy.astype(link.y.dtype, copy=False))
                dy = dy + perturbations(at, self.parameter, every, self.step, self.scaled)[side][0]
            dx = dy.astype(link.y.dtype, copy=False)
        return dx, float(found[2][0])

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return the parameter with its gradient."""
        return [(self.parameter, self.gradient.reshape(self.parameter.value.shape))]
