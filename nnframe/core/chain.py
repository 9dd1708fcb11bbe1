"""A model as a chain of layers, run once with every input and output kept: where all strategies start."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe.core.layer import Array, Layer, Parameter, Sequential, as_input, common_dtype, run_layer
from nnframe.losses import Loss


class Link(NamedTuple):
    """One layer of the chain with its parameters, and what it read and gave."""

    name: str
    layer: Layer
    parameters: list[Parameter]
    x: Array
    y: Array

    def __str__(self) -> str:
        return f"layer {self.name}: {self.layer!r}" if self.name else repr(self.layer)


def flatten(model: Layer, prefix: str = "") -> list[tuple[str, Layer]]:
    """Layers of a model one after another, nested Sequentials unpacked, each with its name."""
    if type(model) is not Sequential:
        return [(prefix, model)]
    found: list[tuple[str, Layer]] = []
    for i, layer in enumerate(model.layers):
        name = f"{prefix}.{i}" if prefix else str(i)
        if type(layer) is Sequential:
            found += flatten(layer, name)
        else:
            found.append((name, layer))
    return found


def run_chain(model: Layer, x: npt.ArrayLike) -> list[Link]:
    """Run a model forward, layer by layer; x is converted to the model's dtype."""
    layers = flatten(model)
    held = [layer.parameters() for _, layer in layers]
    inputs = as_input(x, common_dtype(model, [parameter for parameters in held for parameter in parameters]))
    links = []
    for (name, layer), parameters in zip(layers, held, strict=True):
        outputs = run_layer(layer, inputs, name)
        links.append(Link(name, layer, parameters, inputs, outputs))
        inputs = outputs
    return links


def run_differences(links: list[Link], dx: Array, rows: npt.NDArray[np.intp] | None = None) -> Array:
    """How the output of the last link changes when the input of the first changes by dx, or a stack of them.

    rows: which rows of the mini-batch those of dx belong to, where they are others than its own.
    """
    for link in links:
        x, y = (link.x, link.y) if rows is None else (link.x[rows], link.y[rows])
        dx = link.layer.difference(x, y, dx).astype(link.y.dtype, copy=False)
    return dx


def run_loss(loss: Loss, y: Array, t: npt.ArrayLike) -> tuple[float, npt.NDArray[Any]]:
    """Return the loss of an output as a float, and the labels checked and prepared."""
    if not isinstance(loss, Loss):
        raise TypeError(f"loss: expected a Loss such as nn.CrossEntropyLoss(), got {loss!r}")
    labels = loss.prepare(y, t)
    return as_loss(loss.forward(y, labels), loss), labels


def as_loss(value: object, loss: Loss) -> float:
    """`value` as a float; TypeError where a loss returned something else."""
    if type(value) is float:
        return value
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise TypeError(f"{loss!r}: expected a single number, got {type(value).__name__} of shape {array.shape}")
    return float(array.reshape(()))
