"""`NodePerturbation`: what each unit of a linear layer does to the loss, by moving its output."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnframe import kernels
from nnframe.core.chain import ForwardPass
from nnframe.core.local import as_step, chunks, run_differences
from nnframe.core.parameter import Array, Chosen, Parameter
from nnframe.core.structure import Memory, couples_of
from nnframe.gradients.entries import StackedEntries
from nnframe.gradients.in_c import InC, above_in_c, describe_loss, is_linear
from nnframe.gradients.work import (
    SUBTRACTED_STEP,
    Place,
    Work,
    WorkingStrategy,
    has_exact_differences,
    places_of,
    warn_of_price,
)
from nnframe.kernels import _kernels
from nnframe.losses.base import change_of, row_changes


class NodePerturbation(WorkingStrategy):
    """Node perturbation: each output of a linear layer is moved, and the loss's answer multiplied by the layer's input.

    For output o of a `Linear` layer and row n of the mini-batch

        g[n, o] = (L(y[n, o] + h) - L(y[n, o] - h)) / 2h,    dL/dW[o, i] ~ sum over n of g[n, o] x[n, i],

    one output and one row at a time (Widrow and Lehr 1990, "MRIII"; Flower and Jabri 1992). It estimates the true
    gradient, with an error of h^2/6 times the third derivative along y; nothing is drawn at random, so its variance is
    0. It is *not* the central difference in the weights, whose steps in y are h x[n, i]: both have the same limit for h
    -> 0.

    Cost: the definition evaluates the loss twice for each output and row; as rows do not depend on each other, that is
    as much as two passes of the mini-batch for each output above the layer, in place of two for each weight.

    Parameters that are not a `Linear` layer's are given their central differences.

    Parameters
    ----------
    step : float, optional
        h; if not given, 1e-12 where nothing is subtracted, else 1e-5, as for `CentralDifference`. Layers that are
        constant almost everywhere need a larger one.
    """

    def __init__(self, step: float | None = None) -> None:
        self.step = as_step(step) or SUBTRACTED_STEP
        self.scaled = step is None
        self.memory = Memory()

    def work(self, passed: ForwardPass, chosen: Chosen | None) -> list[Work]:
        """Return what there is to do for a mini-batch that has run through the model."""
        found: list[Work] = []
        described, exact = describe_loss(passed, self.scaled), has_exact_differences(passed.loss)
        for place in places_of(passed.links):
            link, h = place.link, self.step_for(place, exact)
            if not is_linear(link):
                entries = [
                    StackedEntries(p, place, passed, h, np.arange(p.value.size), self.scaled) for p in link.parameters
                ]
                warn_of_price(link, sum(piece.evaluations for piece in entries), self.memory)
                found += entries
                continue
            in_c = above_in_c(place, described, passed) if link.x.ndim == 2 else None
            if in_c is not None and not in_c.columns:
                found.append(MovedUnits(place, passed, self.step_for(place, exact_loss=True), in_c))
            elif link.y.ndim == 2 and passed.loss.is_sum_over_rows and self._by_rows(place, passed):
                found.append(MovedColumns(place, passed, h))
            else:
                found.append(MovedOutputs(place, passed, h))
        return found

    @staticmethod
    def _by_rows(place: Place, passed: ForwardPass) -> bool:
        """Whether the layers above do not mix the rows of the mini-batch."""
        rows = len(passed.output)
        return all(len(link.y) == rows and couples_of(link, passed.run) != "batch" for link in place.above)

    def __repr__(self) -> str:
        return f"NodePerturbation({'' if self.scaled else f'step={self.step:g}'})"


class MovedOutputs:
    """The gradient of a linear layer from its outputs, one of them in one row at a time."""

    def __init__(self, place: Place, passed: ForwardPass, step: float) -> None:
        self.place, self.passed, self.step = place, passed, step
        self.link = place.link
        self.layer: Any = self.link.layer
        self.units = self.link.y.size
        self.evaluations = 2 * self.link.y.size
        self.g = np.zeros(self.link.y.shape, self.link.y.dtype)  # of the loss with respect to the layer's output

    def run(self, units: range) -> None:
        """Compute what some outputs do."""
        y, passed = self.link.y, self.passed
        for some in chunks(len(units), self.place.widest):
            entries = some + units.start
            moved = np.zeros((len(entries), y.size), y.dtype)
            moved[np.arange(len(entries)), entries] = self.step
            change = np.zeros(len(entries))
            for sign in (1, -1):
                dy = run_differences(self.place.above, (sign * moved).reshape(-1, *y.shape))
                change = change + sign * change_of(passed.loss, passed.output, passed.labels, dy)
            self.g.reshape(-1)[entries] = change / (2 * self.step)

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return the weight and the bias with their gradients."""
        g = self.g.reshape(-1, self.layer.out_features)
        x = self.link.x.reshape(-1, self.layer.in_features)
        found: list[tuple[Parameter, Array]] = [(self.layer.weight, kernels.batched_matmul(g, x, transpose_a=True))]
        if self.layer.bias is not None:
            found.append((self.layer.bias, g.sum(axis=0)))
        return found


class MovedColumns(MovedOutputs):
    """The same for each output in all rows at once, where no layer above couples rows and the loss is their sum."""

    def __init__(self, place: Place, passed: ForwardPass, step: float) -> None:
        super().__init__(place, passed, step)
        self.units = self.link.y.shape[1]
        self.scale = passed.loss.row_scale(passed.output, passed.labels)

    def run(self, units: range) -> None:
        """Compute what some units do."""
        y, passed = self.link.y, self.passed
        for some in chunks(len(units), self.place.widest):
            columns = some + units.start
            moved = np.zeros((len(columns), *y.shape), y.dtype)
            moved[np.arange(len(columns)), :, columns] = self.step
            change = np.zeros((len(columns), len(y)))
            for sign in (1, -1):
                dy = run_differences(self.place.above, sign * moved)
                change = change + sign * row_changes(passed.loss, passed.output, passed.labels, dy)
            self.g[:, columns] = (change * (self.scale / (2 * self.step))).T


class MovedUnits(MovedOutputs):
    """The same in C: each output in all rows at once, as below built-in layers rows do not depend on each other."""

    def __init__(self, place: Place, passed: ForwardPass, step: float, in_c: InC) -> None:
        super().__init__(place, passed, step)
        self.in_c = in_c
        self.units = self.link.y.shape[1]

    def run(self, units: range) -> None:
        """Compute what some units do."""
        y = self.link.y
        level, bend = np.zeros((2, y.shape[1], len(y)), y.dtype)
        _kernels.difference_curves(
            self.in_c.above,
            np.full(len(y), self.step, y.dtype),
            tolerance=-1,
            level=level,
            bend=bend,
            doubtful=np.zeros(level.shape, bool),
            state=np.zeros(len(level), np.uint8),
            units=units,
        )
        some = slice(units.start, units.stop)
        self.g[:, some] = level[some].T * y.dtype.type(self.in_c.scale)
