"""Gradients from curves: the loss of a row as a function of one unit's output, below layers that C does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.core.chain import ForwardPass, Link
from nnframe.core.local import chunks, run_differences
from nnframe.core.parameter import Array, Entries, Parameter
from nnframe.gradients.entries import StackedEntries
from nnframe.gradients.work import Place
from nnframe.losses.base import row_changes

# Where curves are sampled, as fractions of the largest one, and the tolerated error of the fit,
# by itemsize. See csrc/nnframe.h.
NODES = (1, -1, 0.8, -0.8, 0.5, -0.5)
TOLERANCE = {4: 1e-6, 8: 1e-13}
SUBTRACTED = 1e-8  # the latter where a layer's values are subtracted, which loses some eps / step
FEW_ENTRIES = 8  # a row with no more weights than this is done sooner weight by weight


def curves_pay(x: Array, share: float = 1.0) -> bool:
    """Whether curves are worth sampling for that share of the weights; judged from eight rows of the layer's input."""
    sample = x[:: max(1, len(x) // 8)]
    return bool(np.count_nonzero(sample) * share > FEW_ENTRIES * len(sample))


def tolerance_below(above: list[Link], y: Array) -> float:
    """How far off a curve may be below these layers."""
    return max(TOLERANCE[y.itemsize], SUBTRACTED if any(map(_subtracts, above)) else 0)


def _subtracts(link: Link) -> bool:
    """Whether two values are subtracted somewhere in a layer's difference."""
    if link.traits.branches:
        return any(_subtracts(one) for branch in link.inner for one in branch.links)
    return not link.traits.difference


class StackedCurves:
    """The gradient of a linear layer below rowwise layers, from the curve that each row's loss is above each unit.

    What `FusedLinear` does in C, for layers that C does not know; see docs/derivations/differences.md. Units with rows
    whose curve is in doubt are taken entry by entry.
    """

    def __init__(
        self, place: Place, passed: ForwardPass, step: float, selected: tuple[Entries, Entries] | None = None
    ) -> None:
        link = place.link
        layer: Any = link.layer
        self.place, self.passed, self.step = place, passed, step
        self.link = link
        self.weight, self.bias = layer.weight, layer.bias
        self.units = link.y.shape[1]
        self.selected = selected
        self.evaluations = 2 * sum(p.value.size for p in link.parameters)
        self.chosen = np.ones(self.units, bool)
        if selected is not None:
            self.evaluations = 2 * sum(map(len, selected))
            self.chosen = units_of(selected, self.units, link.x.shape[1])
        self.to_weight = np.zeros(self.weight.value.shape)
        self.to_bias = np.zeros(self.units)
        self.scale = passed.loss.row_scale(passed.output, passed.labels)
        exact = passed.loss._traits.row_differences
        self.tolerance = max(tolerance_below(place.above, link.y), 0 if exact else SUBTRACTED)

    def run(self, units: range) -> None:
        """Compute the gradient of the weights and biases of some units."""
        x = self.link.x.astype(np.float64)
        largest = np.abs(x).max(axis=1, initial=0 if self.bias is None else 1)
        inverse = np.divide(1, largest, out=np.zeros_like(largest), where=largest > 0)
        cubes = x * (x * inverse[:, None]) ** 2
        for some in chunks(len(units), len(NODES) * self.place.widest):
            rows = some + units.start
            rows = rows[self.chosen[rows]]
            if not len(rows):
                continue
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
        dy = run_differences(self.place.above, moved.reshape(-1, *y.shape))
        loss, labels = self.passed.loss, self.passed.labels
        change = row_changes(loss, self.passed.output, labels, dy).reshape(len(units), len(NODES) // 2, 2, len(y))
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
        for parameter, selected, to in ((self.weight, entries, self.to_weight), (self.bias, units, self.to_bias)):
            if parameter is None:
                continue
            piece = StackedEntries(parameter, self.place, self.passed, self.step, selected, scaled=False)
            piece.run(range(piece.units))
            to.reshape(-1)[selected] = piece.gradient[selected]

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return the weight and the bias with their gradients."""
        found: list[tuple[Parameter, Array]] = [(self.weight, self.to_weight)]
        if self.bias is not None:
            found.append((self.bias, self.to_bias))
        if self.selected is None:
            return found
        return [
            (p, only_entries(gradient, entries)) for (p, gradient), entries in zip(found, self.selected, strict=False)
        ]


def units_of(selected: tuple[Entries, Entries], units: int, inputs: int) -> npt.NDArray[np.bool_]:
    """Return which units of a linear layer have selected entries, of the weight or of the bias."""
    found = np.zeros(units, bool)
    found[selected[0] // inputs] = True
    found[selected[1]] = True
    return found


def only_entries(gradient: Array, entries: Entries) -> Array:
    """Return a gradient that is 0 but for these entries."""
    found = np.zeros_like(gradient)
    found.reshape(-1)[entries] = gradient.reshape(-1)[entries]
    return found
