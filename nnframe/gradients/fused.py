"""The part of `CentralDifference` that runs in C: a linear layer with built-in layers and a built-in loss above it.

A class takes part only as itself: one derived from it may have overridden what C assumes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe import _kernels, kernels
from nnframe.gradients.chain import Link
from nnframe.layer import Array
from nnframe.layers import ELU, GELU, Activation, LeakyReLU, Linear, ReLU, Sigmoid, SiLU, Softplus, Step, Tanh
from nnframe.losses import CrossEntropyLoss, Loss, MSELoss

ACTIVATIONS = (ELU, GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Step, Tanh)
COLUMN_BYTES = 1 << 27  # of the columns that custom elementwise layers are given at a time


class Suffix(NamedTuple):
    """What stands above a linear layer: elementwise layers for Python, then stages for C, then the loss."""

    columns: list[Link]
    stages: list[tuple[Any, ...]]
    loss: dict[str, Any]


def fused_suffix(link: Link, above: list[Link], loss: Loss, labels: npt.NDArray[Any]) -> Suffix | None:
    """Describe what stands above the linear layer `link`; None where C cannot run it."""
    if any(one.y.ndim != 2 for one in (link, *above)):
        return None
    described = _describe_loss((above or [link])[-1].y, loss, labels)
    # Python runs the elementwise layers up to the last custom one; all above must be built in.
    first_built_in = max((i + 1 for i, one in enumerate(above) if not _is_built_in(one)), default=0)
    columns = above[:first_built_in]
    if described is None or not all(one.layer.elementwise for one in columns):
        return None
    return Suffix(columns, [_describe(one) for one in above[first_built_in:]], described)


def _describe(link: Link) -> tuple[Any, ...]:
    """Describe a built-in layer as a stage of `_kernels.difference_gradient`."""
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


def linear_gradient(link: Link, suffix: Suffix, step: float) -> dict[int, Array]:
    """Gradients of a linear layer's parameters, by the `id` of each."""
    layer = link.layer
    assert isinstance(layer, Linear)
    weight = np.empty_like(layer.weight.value)
    bias = None if layer.bias is None else np.empty_like(layer.bias.value)
    if suffix.columns:
        _gradient_from_columns(link, suffix, step, weight, bias)
    else:
        _kernels.difference_gradient(
            link.x, suffix.stages, step=step, grad_weight=weight, grad_bias=bias, **suffix.loss
        )
    gradients = {id(layer.weight): weight}
    if layer.bias is not None and bias is not None:
        gradients[id(layer.bias)] = bias
    return gradients


def _gradient_from_columns(link: Link, suffix: Suffix, step: float, weight: Array, bias: Array | None) -> None:
    """Let the elementwise layers answer for some inputs at a time, then C for what is above them.

    Moving the weights (o, i) of *every* unit o at once shows in every column at once, and elementwise layers keep the
    columns apart: one call answers for all units.
    """
    inputs = link.x.shape[1]
    many = max(1, COLUMN_BYTES // (8 * link.y.size))
    for first in range(0, inputs, many):
        last = first + many >= inputs
        x = link.x[:, first : first + many]
        part = np.empty((len(weight), x.shape[1]), weight.dtype)
        _kernels.difference_gradient(
            x,
            suffix.stages,
            step=step,
            grad_weight=part,
            grad_bias=bias if last else None,
            columns=_columns(link, suffix, x, step, with_bias=last and bias is not None),
            **suffix.loss,
        )
        weight[:, first : first + many] = part


def _columns(link: Link, suffix: Suffix, x: Array, step: float, with_bias: bool) -> Array:
    """(2, outputs, entries): the columns above the elementwise layers, for each entry of x that is not zero.

    Entries are in the order of `np.nonzero`, the bias as one more input behind the others.
    """
    if with_bias:
        x = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
    row, column = np.nonzero(x)
    moved = x[row, column][:, None]
    changes = np.empty((2, link.y.shape[1], len(row)), link.y.dtype)
    for change, sign in zip(changes, (step, -step), strict=True):
        d = np.broadcast_to(moved * moved.dtype.type(sign), (len(row), link.y.shape[1]))
        for one in suffix.columns:
            d = one.layer.difference(one.x[row], one.y[row], d).astype(link.y.dtype, copy=False)
        change[...] = d.T
    return changes
