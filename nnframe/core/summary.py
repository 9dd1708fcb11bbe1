"""A model as a table: its layers, what was found about them, and what their gradients cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnframe.core.bilinear import bilinear_form
from nnframe.core.chain import Link, ordered, run_forward
from nnframe.core.patterns import input_pattern, parameter_pattern
from nnframe.core.protocol import traits
from nnframe.core.run import Run
from nnframe.core.structure import Memory, couples_of
from nnframe.core.tree import Tree

if TYPE_CHECKING:
    from nnframe.core.layer import Layer

ROWS = 4  # of the mini-batch that layers are looked at with


class Evaluations(NamedTuple):
    """How often a hybrid gradient evaluates a layer without a backward, for a mini-batch.

    inputs : for the gradient of its input; for a layer that couples rows, per row
    parameters : for that of its parameters
    """

    couples: str
    inputs: int
    parameters: int


def evaluations_of(link: Link, run: Run) -> Evaluations:
    """Count the evaluations of a layer that `Backprop` needs in place of its backward."""
    if bilinear_form(link, run) is not None:
        return Evaluations("rows", 2, 0)
    if isinstance(link.x, tuple) or link.x.dtype.kind != "f":
        couples, inputs = "rows", 0
    else:
        couples = couples_of(link, run)
        if couples == "entries":
            inputs = 2
        else:
            pattern = input_pattern(link, run, couples)
            columns = link.x[0].size * (1 if couples == "rows" else len(link.x))
            inputs = 2 * (columns if pattern is None else len(pattern.colours))
            inputs = inputs if couples == "rows" else -(-inputs // len(link.x))
    count = 0
    for parameter in link.parameters:
        pattern = parameter_pattern(link, parameter, run)
        count += 2 * (parameter.value.size if pattern is None else len(pattern.colours))
    return Evaluations(couples, inputs, count)


def summarize(model: Layer, input_shape: Any = None) -> str:
    """Return a table of the model's layers: output shape of one row, parameters, and where its gradient comes from.

    `input_shape` is that of one row of the input, for several inputs a tuple of shapes; where it is not given, that of
    a first `Linear` is tried. The model is run on a few rows of random numbers, as it is written, to see its layers and
    what they couple. The column `gradient` says what `Backprop` does: "written" (a backward pass), "verified" (one that
    was found right by `check_gradients` or `Backprop(verify=...)`), or "numerical", with what the layer couples and how
    often it is evaluated for a mini-batch.
    """
    lines = [("", "layer", "output", "parameters", "gradient")]
    counted: set[int] = set()
    for name, layer, shape, gradient in _rows(model, input_shape):
        parameters = [p for p in layer.parameters() if id(p) not in counted]
        counted |= {id(p) for p in parameters}
        lines.append(
            (name, repr(layer).replace("\n", " "), shape, f"{sum(p.value.size for p in parameters):,}", gradient)
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    everything = model.parameters()
    total, fixed = (
        sum(p.value.size for p in some) for some in (everything, [p for p in everything if not p.trainable])
    )
    size = sum(p.value.nbytes for p in everything)
    table = [
        f"{name:<{widths[0]}}  {layer:<{widths[1]}}  {shape:>{widths[2]}}  {count:>{widths[3]}}  {back}".rstrip()
        for (name, layer, shape, count, back) in lines
    ]
    frozen = f" ({fixed:,} not trainable)" if fixed else ""
    return "\n".join([*table, f"{total:,} parameters{frozen}, {model.dtype}, {size / 1024:,.1f} KiB"])


def _rows(model: Layer, input_shape: Any) -> list[tuple[str, Any, str, str]]:
    """Name, layer, shape and gradient of each layer."""
    if input_shape is None:
        inputs = next((tree.in_features for _, tree in model.named_trees() if hasattr(tree, "in_features")), None)
        try:
            if inputs is not None:
                return _rows(model, () if model.takes_integers else (int(inputs),))
        except (TypeError, ValueError):  # the input has another shape, or there are several
            pass
        return [(model.path_of(layer), layer, "", _known(layer)) for layer in ordered(model) or [model]]
    x = _rows_of_input(model, input_shape)
    run = Run(True, Memory(), root=model)
    with run:
        links = run_forward(model, x, run).links
        return [(model.path_of(link.layer), link.layer, _shape(link), _gradient(link, run)) for link in links]


def _rows_of_input(model: Layer, shape: Any) -> Any:
    """Make some rows of input of a shape, or of each of a tuple of shapes."""
    if isinstance(shape, tuple) and shape and all(isinstance(one, tuple) for one in shape):
        return tuple(_rows_of_input(model, one) for one in shape)
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int | np.integer) and n >= 0 for n in shape):
        got = f"an array of shape {shape.shape}" if isinstance(shape, np.ndarray) else repr(shape)
        raise TypeError(f"input_shape: expected a tuple such as (28, 28), the shape of one row, got {got}")
    if model.takes_integers:
        return np.zeros((ROWS, *shape), np.int64)
    return np.random.default_rng(0).standard_normal((ROWS, *shape)).astype(model.dtype)


def _shape(link: Link) -> str:
    return str(link.y.shape[1:] if link.y.ndim != 2 else link.y.shape[1])


def _known(layer: Layer) -> str:
    return ("verified" if _is_verified(layer) else "written") if layer.has_backward else "numerical"


def _is_verified(layer: Layer) -> bool:
    """Whether a layer's backward was found right, or those of all layers that a container hands it on to."""
    if layer.verified or not traits(layer).branches:
        return layer.verified
    inner: list[Any] = [child for _, child in layer.children() if isinstance(child, Tree)]
    return all(_is_verified(one) for child in inner for one in ordered(child) or [child])


def _gradient(link: Link, run: Run) -> str:
    if link.traits.backward or link.traits.branches:
        return _known(link.layer)
    found = evaluations_of(link, run)
    per_row = f" and {found.inputs:,} per row" if found.couples == "batch" else ""
    count = found.parameters + (0 if per_row else found.inputs)
    return f"numerical ({found.couples}), {count:,} forwards{per_row}"
