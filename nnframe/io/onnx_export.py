"""Models as ONNX files, and back: what other programs run."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe._files import as_path, read_file, write_atomically
from nnframe._state import fill
from nnframe.core.layer import Layer
from nnframe.core.protocol import named, traits
from nnframe.io.architecture import NotDescribed, build, describe, name_of
from nnframe.io.onnx_graph import OPSET, Graph, Value
from nnframe.io.onnx_layers import EMITTERS, NotExported
from nnframe.layers.containers import Branches
from nnframe.layers.linear import Linear
from nnframe.layers.transformer import Padding

Shape = tuple[int, ...]
ARCHITECTURE = "nnframe_architecture"


def export_onnx(
    model: Layer, path: str | os.PathLike[str], input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None
) -> None:
    """Write a model, as it predicts, to an ONNX file; needs the package `onnx` (`pip install nnframe[onnx]`).

    Inputs are called x (or x0, x1 ... where there are several), the output y. Axis 0, the rows, may have any length;
    others have that of `input_shape`. Everything is float32, ids are int64, lengths of sequences float32. Parameters
    and buffers keep their names and layouts.

    Parameters
    ----------
    model : Layer
        Of nnframe's own layers, in `Sequential`, `Branches` and `Residual`, or classes derived from these.
    path : path
        Replaced as a whole, as by `nnframe.save`.
    input_shape : sequence of int, or one for each input
        That of one row, without the mini-batch; () for lengths. If it is not given, that of a first `Linear` is tried.

    Raises
    ------
    ImportError
        There is no package `onnx`.
    ValueError
        A layer cannot be written as ONNX (the message names it, and why), or it does not take that shape.
    """
    write_atomically(path, onnx_of(model, input_shape).SerializeToString())


def onnx_of(model: Layer, input_shape: Any = None) -> Any:
    """Return the content of the file that `export_onnx` writes, an `onnx.ModelProto`."""
    onnx = _package()
    if not isinstance(model, Layer):
        raise TypeError(f"model: expected a Layer, got {model!r}")
    graph, shapes = Graph(model), as_shapes(model, input_shape)
    kind = np.int64 if model.takes_integers else np.float32
    names = ["x"] if len(shapes) == 1 else [f"x{i}" for i in range(len(shapes))]
    inputs = [Value(name, np.zeros((2, *shape), kind)) for name, shape in zip(names, shapes, strict=True)]
    y = emit(graph, model, inputs[0] if len(inputs) == 1 else tuple(inputs))
    graph.nodes.append(onnx.helper.make_node("Identity", [y.name], ["y"]))
    made = onnx.helper.make_graph(
        graph.nodes,
        "nnframe",
        [_described(onnx, one) for one in inputs],
        [_described(onnx, Value("y", y.example.astype(np.float32)))],
        [onnx.numpy_helper.from_array(array, name) for name, array in graph.arrays.items()],
    )
    found = onnx.helper.make_model(
        made, producer_name="nnframe", ir_version=8, opset_imports=[onnx.helper.make_opsetid("", OPSET)]
    )
    _say_architecture(onnx, found, model)
    onnx.checker.check_model(found, full_check=True)
    return found


def _say_architecture(onnx: Any, found: Any, model: Layer) -> None:
    with contextlib.suppress(NotDescribed):  # a class derived from a container: other programs need no description
        onnx.helper.set_model_props(found, {ARCHITECTURE: json.dumps(describe(model))})


def emit(graph: Graph, layer: Layer, x: Any) -> Value:
    """Add a layer, or the layers in it, to the graph; returns its output."""
    found = traits(layer)
    if found.order:
        for inner in layer.order():  # type: ignore[attr-defined]
            x = emit(graph, inner, x)
        return x  # type: ignore[no-any-return]
    if found.branches and isinstance(layer, Branches):
        return _joined(
            graph, layer, [given if one is None else emit(graph, one, given) for one, given in layer.branches(x)]
        )
    name = "Padding" if type(layer) is Padding else name_of(layer)
    if name not in EMITTERS:
        raise NotExported(
            f"{named(layer, graph.model)}: expected one of nnframe's own layers, or such in nn.Sequential, nn.Branches "
            f"and nn.Residual, got {type(layer).__name__}, whose forward ONNX cannot see"
        )
    several = isinstance(x, tuple)
    try:
        y = layer(tuple(one.example for one in x) if several else x.example)
        return Value(EMITTERS[name](graph, layer, x, y), y)
    except NotExported as error:
        raise NotExported(f"{named(layer, graph.model)}: {error}") from error
    except (TypeError, ValueError) as error:
        shape = tuple(one.example.shape[1:] for one in x) if several else x.example.shape[1:]
        raise ValueError(f"{named(layer, graph.model)}: with rows of shape {shape}: {error}") from error


def _joined(graph: Graph, layer: Branches, outputs: list[Value]) -> Value:
    example = layer.join_outputs([one.example for one in outputs])
    if layer.join == "concatenate":
        return Value(graph.node("Concat", *[one.name for one in outputs], axis=-1), example)
    name = outputs[0].name
    for one in outputs[1:]:
        name = graph.node("Add" if layer.join == "add" else "Mul", name, one.name)
    return Value(name, example)


def _described(onnx: Any, value: Value) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.example.dtype)
    return onnx.helper.make_tensor_value_info(value.name, kind, ["N", *value.example.shape[1:]])


def as_shapes(model: Layer, input_shape: Any) -> list[Shape]:
    """Return the shape of a row of each input; that of a first Linear where none is given."""
    if input_shape is None:
        first = next((tree for _, tree in model.named_trees() if isinstance(tree, Layer) and not _holds(tree)), None)
        if not isinstance(first, Linear):
            raise ValueError(f"input_shape: expected the shape of one row, as the first layer is {first!r}, got None")
        return [(first.in_features,)]
    several = any(isinstance(one, Sequence) for one in input_shape)
    shapes = [tuple(one) for one in input_shape] if several else [tuple(input_shape)]
    for n in [n for shape in shapes for n in shape]:
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"input_shape: expected lengths of axes, at least 1, got {input_shape!r}")
    return shapes


def _holds(layer: Any) -> bool:
    return traits(layer).order or traits(layer).branches


def _package() -> Any:
    try:
        onnx = importlib.import_module("onnx")
        for name in ("checker", "helper", "numpy_helper"):
            importlib.import_module(f"onnx.{name}")
    except ImportError as error:
        raise ImportError("ONNX files need the package onnx: pip install nnframe[onnx]") from error
    return onnx


# ---- and back ----


def import_onnx(path: str | os.PathLike[str]) -> Layer:
    """Make the model that `export_onnx` wrote, from an ONNX file; needs the package `onnx`.

    The file says which of nnframe's layers there are. They are made, filled with the arrays of the file, and written
    again: only where that gives the same graph, node for node, is the model what the file holds.

    Raises
    ------
    ImportError
        There is no package `onnx`.
    ValueError
        It is no ONNX file, not one of `export_onnx`, or its graph was changed since.
    """
    onnx, where = _package(), as_path(path)
    content = read_file(where)
    try:
        given = onnx.load_model_from_string(content)
        onnx.checker.check_model(given)
    except Exception as error:  # protobuf's errors and the checker's have no class in common
        raise ValueError(f"{where}: expected an ONNX file, got {error}") from error
    said = {one.key: one.value for one in given.metadata_props}.get(ARCHITECTURE)
    if said is None:
        raise ValueError(
            f"{where}: expected a file that nnframe.io.export_onnx wrote, got one by {given.producer_name!r}"
        )
    try:
        model = build(json.loads(said))
        _take(model, {one.name: onnx.numpy_helper.to_array(one) for one in given.graph.initializer})
        again = onnx_of(model, _shapes(given))
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error.args[0]}") from error
    if (again.graph, list(again.opset_import)) != (given.graph, list(given.opset_import)):
        raise ValueError(
            f"{where}: expected the graph that nnframe.io.export_onnx writes, got one that was changed since"
        )
    return model


def _take(model: Layer, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Fill what the graph has: counters of training steps are no part of it."""
    own = {name: held.value for name, held in model.named_parameters()}
    own |= {name: held.value for name, held in model.named_buffers() if held.value.dtype.kind == "f"}
    fill(own, {name: arrays[name] for name in own if name in arrays}, allow_nonfinite=True)


def _shapes(given: Any) -> Any:
    shapes = [tuple(d.dim_value for d in one.type.tensor_type.shape.dim)[1:] for one in given.graph.input]
    return shapes[0] if len(shapes) == 1 else shapes
