"""The part of `CentralDifference` that runs in C: a linear layer with built-in layers and a built-in loss above it.

Two ways to the same numbers, both in docs/derivations/differences.md: weight by weight, or through the curve that the
loss of each row is above each unit. Layers and losses describe themselves (`stage`); the description counts only where
no more derived class has changed what C assumes.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.core.chain import ForwardPass, Link
from nnframe.core.local import run_differences
from nnframe.core.parameter import Array, Entries, Parameter
from nnframe.core.structure import couples_of
from nnframe.gradients.curves import NODES, tolerance_below, units_of
from nnframe.gradients.work import Place
from nnframe.kernels import _kernels
from nnframe.layers.linear import Linear
from nnframe.losses.base import gradient_by_differences

HAS_DOUBTFUL, HAS_BEND = 1, 2  # of a unit's curves: see csrc/nnframe.h
FEW = 16  # so many times fewer entries than all are multiplied one by one
Described = tuple[dict[str, Any], float]
COLUMN_BYTES = 1 << 25  # of the columns that custom elementwise layers are given at a time


class InC(NamedTuple):
    """What stands above a linear layer, as C takes it.

    above : Above
        The built-in layers and the loss.
    columns : list of Link
        Custom elementwise layers between the two, for Python.
    scale : float
        What the sum of losses over rows is multiplied with.
    """

    above: _kernels.Above
    columns: list[Link]
    scale: float


class FusedLinear:
    """The gradients of one linear layer's parameters, for some of its outputs at a time.

    Parameters
    ----------
    link : Link
        The layer, with its input and output.
    in_c : InC
    step : float
    selected : two arrays of int, or None
        Which entries of the weight, and of the bias, are selected: flat indices, ascending.
    interpolate : bool
        Whether curves may be used.
    """

    def __init__(
        self, link: Link, in_c: InC, step: float, selected: tuple[Entries, Entries] | None, interpolate: bool
    ) -> None:
        layer = link.layer
        assert isinstance(layer, Linear)
        self.link, self.step = link, step
        self.above, self.columns, self.scale = in_c
        self.x = _as_rows(link.x)
        self.selected = selected
        self.weight = np.zeros(layer.weight.value.shape, layer.weight.value.dtype)
        self.bias = None if layer.bias is None else np.zeros_like(layer.bias.value)
        self.units = len(self.weight)
        count = self.weight.size + (0 if self.bias is None else self.bias.size)
        asked = count if selected is None else sum(map(len, selected))
        self.evaluations = 2 * asked
        self.few = FEW * asked < count
        self.interpolate = interpolate

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return each parameter with its gradient, where `run` has been."""
        layer = self.link.layer
        assert isinstance(layer, Linear)
        found = [(layer.weight, self.weight)]
        if layer.bias is not None and self.bias is not None:
            found.append((layer.bias, self.bias))
        return found

    def run(self, units: range) -> None:
        """Fill the gradients of the weights and biases of some outputs."""
        if self.interpolate:
            self._by_curves(units)
        else:
            self._by_weight(units, None)
        if self.selected is not None and not self.few:
            self._keep_selected(units, self.weight, 0)
            if self.bias is not None:
                self._keep_selected(units, self.bias, 1)

    @functools.cached_property
    def wanted(self) -> npt.NDArray[np.bool_]:
        """Which entries are selected, (O, I + 1), the bias last."""
        assert self.selected is not None
        inputs = self.x.shape[1]
        found = np.zeros((self.units, inputs + 1), bool)
        found.reshape(-1)[self.selected[0] + self.selected[0] // inputs] = True  # rows are longer by the bias
        found[self.selected[1], inputs] = True
        return found

    # ---- weight by weight ----

    def _by_weight(self, units: range, counted: npt.NDArray[np.bool_] | None) -> None:
        if self.columns:
            self._by_column(units, counted)
            return
        _kernels.difference_gradient(
            self.above,
            self.x,
            step=self.step,
            scale=self.scale,
            grad_weight=self.weight,
            grad_bias=self.bias,
            wanted=None if self.selected is None else self.wanted,
            counted=counted,
            units=units,
        )

    def _by_column(self, units: range, counted: npt.NDArray[np.bool_] | None) -> None:
        """Let the elementwise layers answer for some inputs at a time, then C for what is above them.

        Moving the weights (o, i) of *every* unit o at once shows in every column at once, and elementwise layers do
        not mix columns: one call is enough for all units.
        """
        x: Array = self.x if counted is None else self.x * np.any(counted, axis=0)[:, None]
        inputs = x.shape[1]
        many = max(1, COLUMN_BYTES // (8 * self.link.y.size))
        for first in range(0, inputs, many):
            last = first + many >= inputs
            some = np.ascontiguousarray(x[:, first : first + many])
            part = np.empty((len(self.weight), some.shape[1]), self.weight.dtype)
            _kernels.difference_gradient(
                self.above,
                some,
                step=self.step,
                scale=self.scale,
                grad_weight=part,
                grad_bias=self.bias if last else None,
                columns=self._columns(some, with_bias=last and self.bias is not None),
                counted=counted,
                units=units,
            )
            self.weight[units.start : units.stop, first : first + many] = part[units.start : units.stop]

    def _columns(self, x: Array, with_bias: bool) -> Array:
        """(2, outputs, entries): the columns above the elementwise layers, for each entry of x that is not zero.

        Entries are in the order of `np.nonzero`, the bias as one more input after the others.
        """
        if with_bias:
            x = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
        row, column = np.nonzero(x)
        moved = x[row, column][:, None]
        y = self.link.y
        changes = np.empty((2, y.shape[1], len(row)), y.dtype)
        for change, sign in zip(changes, (self.step, -self.step), strict=True):
            d = np.broadcast_to(moved * moved.dtype.type(sign), (len(row), y.shape[1]))
            change[...] = run_differences(self.columns, d, row).T
        return changes

    # ---- by the curves of the rows ----

    def _by_curves(self, units: range) -> None:
        x, y = self.x, _as_rows(self.link.y)
        largest = np.maximum(x.max(axis=1, initial=0), -x.min(axis=1, initial=0 if self.bias is None else -1))
        level, bend = np.empty((2, y.shape[1], len(x)), y.dtype)
        doubtful, state = np.zeros(level.shape, bool), np.zeros(len(level), np.uint8)
        chosen = self._units_chosen()
        if chosen is not None:
            level[~chosen] = bend[~chosen] = 0
        _kernels.difference_curves(
            self.above,
            largest * largest.dtype.type(self.step),
            tolerance=tolerance_below(self.columns, y),
            level=level,
            bend=bend,
            doubtful=doubtful,
            state=state,
            columns=self._node_columns(largest) if self.columns else None,
            chosen=chosen,
            units=units,
        )
        some = slice(units.start, units.stop)
        level[some] *= level.dtype.type(self.scale)
        self._products(some, level, x)
        if self.bias is not None:
            self._sum_up(some, level)
        bent = units.start + np.flatnonzero(state[some] & HAS_BEND)
        if len(bent):
            self._add_bends(bent, bend[bent] * bend.dtype.type(self.scale), largest)
        if (state[some] & HAS_DOUBTFUL).any():
            self._add_doubtful(units, doubtful)

    def _selected_in(self, units: slice | range, which: int) -> Entries:
        """Return the selected entries of the weight (0) or the bias (1) that belong to some units."""
        assert self.selected is not None
        entries, each = self.selected[which], 1 if which else self.x.shape[1]
        first, last = np.searchsorted(entries, [units.start * each, units.stop * each])
        return entries[first:last]

    def _keep_selected(self, units: range, gradient: Array, which: int) -> None:
        """Set the entries of some units that are not selected to 0."""
        entries = self._selected_in(units, which)
        kept = gradient.reshape(-1)[entries]
        gradient[units.start : units.stop] = 0
        gradient.reshape(-1)[entries] = kept

    def _units_chosen(self) -> npt.NDArray[np.bool_] | None:
        """Which units have selected entries; None: all, or nearly so."""
        if self.selected is None or not self.few:
            return None
        return units_of(self.selected, self.units, self.x.shape[1])

    def _products(self, units: slice, curves: Array, x: Array) -> None:
        """Set the gradient of the weights into some units to curves @ x; of the selected ones where they are few."""
        if not self.few or self.selected is None:
            kernels.batched_matmul(curves[units], x, out=self.weight[units])
            return
        entries = self._selected_in(units, 0)
        found = np.empty(len(entries), x.dtype)
        _kernels.selected_products(curves, x, entries, found)
        self.weight.reshape(-1)[entries] = found

    def _sum_up(self, units: slice, curves: Array) -> None:
        """Set the gradient of the biases of some units to the sums of their curves."""
        assert self.bias is not None
        if not self.few or self.selected is None:
            curves[units].sum(axis=1, out=self.bias[units])
            return
        entries = self._selected_in(units, 1)
        self.bias[entries] = curves[entries].sum(axis=1)

    def _add_bends(self, units: npt.NDArray[np.intp], bend: Array, largest: Array) -> None:
        inverse = np.divide(1, largest, out=np.zeros_like(largest), where=largest > 0)
        found = kernels.batched_matmul(bend, self.x * (self.x * inverse[:, None]) ** 2)
        self.weight[units] += found if self.selected is None else found * self.wanted[units, :-1]
        if self.bias is not None:
            sums = (bend * inverse**2).sum(axis=1)
            self.bias[units] += sums if self.selected is None else sums * self.wanted[units, -1]

    def _add_doubtful(self, units: range, doubtful: npt.NDArray[np.bool_]) -> None:
        """Add what the rows in doubt are weight by weight."""
        some = slice(units.start, units.stop)
        weight = self.weight[some].copy()
        bias = None if self.bias is None else self.bias[some].copy()
        self._by_weight(units, doubtful)
        self.weight[some] += weight
        if self.bias is not None and bias is not None:
            self.bias[some] += bias

    def _node_columns(self, largest: Array) -> Array:
        """Return (outputs, 6, N): what custom elementwise layers make of each output moved to the nodes."""
        y = self.link.y
        moved = np.multiply.outer(np.array(NODES, y.dtype), largest * largest.dtype.type(self.step))
        d: Array = np.broadcast_to(moved[:, :, None], (len(NODES), *y.shape))
        return np.ascontiguousarray(run_differences(self.columns, d).transpose(2, 0, 1))


def is_linear(link: Link) -> bool:
    """Whether a layer is a linear one, as C knows it."""
    return isinstance(link.layer, Linear) and link.traits.stage


def above_in_c(place: Place, described: Described | None, passed: ForwardPass) -> InC | None:
    """Describe what stands above a linear layer for C; None where C cannot take it.

    described : what `describe_loss` returned
    """
    link, above = place
    axes = passed.output.shape[:-1]  # each position is a row of its own, as all that stands above maps the last axis
    if described is None or any(one.y.ndim < 2 or one.y.shape[:-1] != axes for one in (link, *above)):
        return None
    # Python runs the elementwise layers up to the last one that C does not know; all above it describe themselves
    first_stage = max((i + 1 for i, one in enumerate(above) if not one.traits.stage), default=0)
    columns = above[:first_stage]
    if not all(couples_of(one, passed.run) == "entries" for one in columns) or (columns and len(axes) > 1):
        return None
    stages = [one.layer.stage(_as_rows(one.x), _as_rows(one.y)) for one in above[first_stage:]]
    loss, scale = described
    return InC(_kernels.Above(link.y.shape[-1], stages, **loss), columns, scale)


def describe_loss(passed: ForwardPass, own_step: bool) -> Described | None:
    """Return the arguments of `_kernels.Above` for a loss, and its scale; None where C cannot take it.

    A loss that does not describe itself but is a sum over rows is taken by its gradient with respect to the output,
    from its own differences: as good where the step is nnframe's own choice (own_step), and may be any small one.
    """
    loss, output = passed.loss, passed.output
    if output.ndim < 2:
        return None
    if loss._traits.stage:
        found = {
            name: a if isinstance(a, str) else _as_rows(a) for name, a in loss.stage(output, passed.labels).items()
        }
        return found, loss.row_scale(output, passed.labels)
    if not (own_step and loss.is_sum_over_rows):
        return None
    return {"loss": "linear", "residual": _as_rows(gradient_by_differences(loss, output, passed.labels, None))}, 1.0


def _as_rows(x: Array) -> Array:
    """(..., width) as (N, width), contiguous."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])
