"""A model as a table."""

from __future__ import annotations

import numpy as np

from nnframe.core.chain import flatten
from nnframe.core.layer import Array, Layer, run_layer
from nnframe.layers import Linear


def summarize(model: Layer, input_shape: tuple[int, ...] | None = None) -> str:
    """Return a table of the model's layers: output shape of one row, parameters, and where its gradient comes from.

    `input_shape` is that of one row of the input; where it is not given, that of a first `Linear` is known. The column
    `gradient` tells what `Backprop` does: "written" (a backward pass), "verified" (one that `check_gradients` found
    right), or "numerical" and how often the layer is evaluated for a mini-batch.
    """
    layers = flatten(model)
    if input_shape is None and isinstance(layers[0][1], Linear):
        input_shape = (layers[0][1].in_features,)
    x = None if input_shape is None else np.zeros((1, *input_shape), model.dtype)
    lines = [("", "layer", "output", "parameters", "gradient")]
    counted: set[int] = set()
    for name, layer in layers:
        gradient = _gradient(layer, x)
        x = None if x is None else run_layer(layer, x, name)
        parameters = [p for p in layer.parameters() if id(p) not in counted]
        counted |= {id(p) for p in parameters}
        count = sum(p.value.size for p in parameters)
        shape = "" if x is None else str(x.shape[1:] if x.ndim > 2 else x.shape[1])
        lines.append((name, repr(layer), shape, f"{count:,}", gradient))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    total = sum(p.value.size for p in model.parameters())
    size = sum(p.value.nbytes for p in model.parameters())
    table = [
        f"{name:<{widths[0]}}  {layer:<{widths[1]}}  {shape:>{widths[2]}}  {count:>{widths[3]}}  {back}".rstrip()
        for (name, layer, shape, count, back) in lines
    ]
    return "\n".join([*table, f"{total:,} parameters, {model.dtype}, {size / 1024:,.1f} KiB"])


def _gradient(layer: Layer, x: Array | None) -> str:
    if layer.has_backward:
        return "verified" if layer.verified else "written"
    count = sum(p.value.size for p in layer.parameters())
    if layer.elementwise:
        return f"numerical, {2 + 2 * count:,} forwards"
    if x is None:
        return "numerical"
    each = x[0].size + count if layer.rowwise else count
    return f"numerical, {2 * each:,} forwards" + ("" if layer.rowwise else f" and {2 * x[0].size:,} a row")
