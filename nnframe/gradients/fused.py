"""The part of `CentralDifference` that runs in C: a linear layer with built-in layers and a built-in loss above it.

Two ways to the same numbers, both in docs/derivations/differences.md: weight by weight, or through the curve that the
loss of each row is above each unit. A class takes part only as itself: one derived from it may have overridden what
C assumes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import _kernels, kernels
from nnframe.gradients.chain import Link
from nnframe.gradients.pieces import FEW_ENTRIES, NODES, tolerance_below
from nnframe.layer import Array, Parameter
from nnframe.layers import ELU, GELU, Activation, LeakyReLU, Linear, ReLU, Sigmoid, SiLU, Softplus, Step, Tanh
from nnframe.losses import CrossEntropyLoss, Loss, MSELoss

ACTIVATIONS = (ELU, GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Step, Tanh)
COLUMN_BYTES = 1 << 25  # of the columns that custom elementwise layers are given at a time


class FusedLinear:
    """The gradients of one linear layer's parameters, for some of its outputs at a time.

    Parameters
    ----------
    link : Link
        The layer, with what it read and gave.
    above : Above
        The built-in layers and the loss, for C.
    columns : list of Link
        Custom elementwise layers between the two, for Python.
    step, scale : float
    wanted : array (O, I + 1) of bool, or None
        Which entries are asked for, the bias last.
    interpolate : bool
        Whether curves may be used.
    """

    def __init__(
        self,
        link: Link,
        above: _kernels.Above,
        columns: list[Link],
        step: float,
        scale: float,
        wanted: npt.NDArray[np.bool_] | None,
        interpolate: bool,
    ) -> None:
        layer = link.layer
        assert isinstance(layer, Linear)
        self.link, self.above, self.columns, self.step, self.scale = link, above, columns, step, scale
        self.x = np.ascontiguousarray(link.x)
        self.wanted = wanted
        self.weight = np.zeros_like(layer.weight.value)
        self.bias = None if layer.bias is None else np.zeros_like(layer.bias.value)
        self.units = len(self.weight)
        count = self.weight.size + (0 if self.bias is None else self.bias.size)
        asked = count if wanted is None else int(np.count_nonzero(wanted))
        self.evaluations = 2 * asked
        sample = self.x[:: max(1, len(self.x) // 8)]
        entries = np.count_nonzero(sample) / max(1, len(sample)) + (self.bias is not None)
        self.interpolate = interpolate and entries * asked > FEW_ENTRIES * count

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
        if self.wanted is not None:
            self.weight[units.start : units.stop] *= self.wanted[units.start : units.stop, :-1]
            if self.bias is not None:
                self.bias[units.start : units.stop] *= self.wanted[units.start : units.stop, -1]

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
            wanted=self.wanted,
            counted=counted,
            units=units,
        )

    def _by_column(self, units: range, counted: npt.NDArray[np.bool_] | None) -> None:
        """Let the elementwise layers answer for some inputs at a time, then C for what is above them.

        Moving the weights (o, i) of *every* unit o at once shows in every column at once, and elementwise layers keep
        the columns apart: one call answers for all units.
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

        Entries are in the order of `np.nonzero`, the bias as one more input behind the others.
        """
        if with_bias:
            x = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
        row, column = np.nonzero(x)
        moved = x[row, column][:, None]
        y = self.link.y
        changes = np.empty((2, y.shape[1], len(row)), y.dtype)
        for change, sign in zip(changes, (self.step, -self.step), strict=True):
            d = np.broadcast_to(moved * moved.dtype.type(sign), (len(row), y.shape[1]))
            for one in self.columns:
                d = one.layer.difference(one.x[row], one.y[row], d).astype(y.dtype, copy=False)
            change[...] = d.T
        return changes

    # ---- by the curves of the rows ----

    def _by_curves(self, units: range) -> None:
        x, y = self.x, self.link.y
        largest = np.abs(x).max(axis=1, initial=0 if self.bias is None else 1)
        level, bend = np.empty((2, y.shape[1], len(x)), y.dtype)
        doubtful, state = np.empty(level.shape, bool), np.zeros(len(level), np.uint8)
        _kernels.difference_curves(
            self.above,
            largest * largest.dtype.type(self.step),
            tolerance=tolerance_below(self.columns, y),
            level=level,
            bend=bend,
            doubtful=doubtful,
            state=state,
            columns=self._node_columns(largest) if self.columns else None,
            units=units,
        )
        some = slice(units.start, units.stop)
        if (state[some] & 1).any():
            self._by_weight(units, doubtful)
        else:
            self.weight[some] = 0
            if self.bias is not None:
                self.bias[some] = 0
        self._add(some, level, x, np.ones_like(largest))
        bent = units.start + np.flatnonzero(state[some] & 2)
        if len(bent):
            inverse = np.divide(1, largest, out=np.zeros_like(largest), where=largest > 0)
            self._add(bent, bend, x * (x * inverse[:, None]) ** 2, inverse**2)

    def _add(self, units: slice | npt.NDArray[np.intp], curves: Array, x: Array, ones: Array) -> None:
        """Add curves @ x to the gradient of the weights into some units, and curves @ ones to that of their biases."""
        curve = curves[units] * x.dtype.type(self.scale)
        self.weight[units] += kernels.batched_matmul(curve, x)
        if self.bias is not None:
            self.bias[units] += (curve * ones).sum(axis=1)

    def _node_columns(self, largest: Array) -> Array:
        """Return (outputs, 6, N): what custom elementwise layers make of each output moved to the nodes."""
        y = self.link.y
        moved = np.multiply.outer(np.array(NODES, y.dtype), largest * largest.dtype.type(self.step))
        d: Array = np.broadcast_to(moved[:, :, None], (len(NODES), *y.shape))
        for one in self.columns:
            d = one.layer.difference(one.x, one.y, d).astype(y.dtype, copy=False)
        return np.ascontiguousarray(d.transpose(2, 0, 1))


def fused_linear(
    link: Link,
    above: list[Link],
    loss: Loss,
    labels: npt.NDArray[Any],
    step: float,
    wanted: npt.NDArray[np.bool_] | None,
    interpolate: bool,
) -> FusedLinear | None:
    """Return what computes the gradients of the linear layer `link` in C; None where C cannot."""
    if any(one.y.ndim != 2 for one in (link, *above)):
        return None
    described = _describe_loss((above or [link])[-1].y, loss, labels)
    # Python runs the elementwise layers up to the last custom one; all above must be built in.
    first_built_in = max((i + 1 for i, one in enumerate(above) if not _is_built_in(one)), default=0)
    columns = above[:first_built_in]
    if described is None or not all(one.layer.elementwise for one in columns):
        return None
    scale = described.pop("scale")
    stages = [_describe(one) for one in above[first_built_in:]]
    assert isinstance(link.layer, Linear)
    runner = _kernels.Above(link.layer.out_features, stages, **described)
    return FusedLinear(link, runner, columns, step, scale, wanted, interpolate)


def _describe(link: Link) -> tuple[Any, ...]:
    """Describe a built-in layer as a stage of `_kernels.Above`."""
    if isinstance(link.layer, Linear):
        return (link.layer.weight.value,)
    assert isinstance(link.layer, Activation)
    return (link.layer.name, link.layer.alpha, link.x, link.y)


def _is_built_in(link: Link) -> bool:
    return type(link.layer) is Linear or type(link.layer) in ACTIVATIONS


def _describe_loss(y: Array, loss: Loss, labels: npt.NDArray[Any]) -> dict[str, Any] | None:
    """Arguments of the C loop for a built-in loss, None for any other."""
    if type(loss) is CrossEntropyLoss:
        if loss.weight is not None or loss.ignore_index is not None:
            return None  # C takes rows of equal weight
        targets, scale = loss.targets(y, labels)
        return {
            "loss": "cross_entropy",
            "probabilities": kernels.softmax(y),
            "targets": targets.astype(y.dtype),
            "residual": kernels.softmax_cross_entropy(y, labels, **(loss.options() | {"reduction": "sum"}))[1],
            "scale": scale,
        }
    if type(loss) is MSELoss:
        return {
            "loss": "squared_error",
            "probabilities": None,
            "targets": None,
            "residual": y - labels,
            "scale": 1 / y.size if loss.reduction == "mean" else 1.0,
        }
    return None
