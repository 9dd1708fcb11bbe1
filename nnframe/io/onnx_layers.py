"""Each of nnframe's own layers as nodes of ONNX (opset 18: https://onnx.ai/onnx/operators/).

A function takes the graph, the layer and its input, and returns the name of its output; `y` is the layer's own output
for the example, which says what shapes it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import layers
from nnframe.core.layer import Layer
from nnframe.io.onnx_graph import Graph, Value

Emitter = Callable[[Graph, Any, Any, npt.NDArray[Any]], str]


class NotExported(ValueError):
    """A layer cannot be written as ONNX; the message names it and says why."""


# ---- linear layers, activations ----


def _linear(graph: Graph, layer: layers.Linear, x: Value, y: npt.NDArray[Any]) -> str:
    weight = graph.held(layer.weight)
    bias = [] if layer.bias is None else [graph.held(layer.bias)]
    if y.ndim == 2:
        return graph.node("Gemm", x.name, weight, *bias, transB=1)
    product = graph.node("MatMul", x.name, graph.node("Transpose", weight, perm=[1, 0]))
    return graph.node("Add", product, *bias) if bias else product


def _simple(op: str, **attributes: str) -> Emitter:
    """Return a function for a layer that is one node; attributes: names of the layer's, by ONNX's."""

    def emit(graph: Graph, layer: Layer, x: Value, y: npt.NDArray[Any]) -> str:
        return graph.node(op, x.name, **{name: getattr(layer, own) for name, own in attributes.items()})

    return emit


def _silu(graph: Graph, layer: Layer, x: Value, y: npt.NDArray[Any]) -> str:
    return graph.node("Mul", x.name, graph.node("Sigmoid", x.name))


def _gelu(graph: Graph, layer: layers.GELU, x: Value, y: npt.NDArray[Any]) -> str:
    half = graph.node("Mul", x.name, graph.constant(0.5))
    if layer.approximate == "none":
        inner = graph.node("Erf", graph.node("Mul", x.name, graph.constant(math.sqrt(0.5))))
    else:
        square = graph.node("Mul", x.name, x.name)
        factor = graph.node("Mul", square, graph.constant(math.sqrt(2 / math.pi) * 0.044715))
        factor = graph.node("Add", factor, graph.constant(math.sqrt(2 / math.pi)))
        inner = graph.node("Tanh", graph.node("Mul", x.name, factor))
    return graph.node("Mul", half, graph.node("Add", inner, graph.constant(1.0)))


def _step(graph: Graph, layer: Layer, x: Value, y: npt.NDArray[Any]) -> str:
    return graph.node("Relu", graph.node("Sign", x.name))


def _prelu(graph: Graph, layer: layers.PReLU, x: Value, y: npt.NDArray[Any]) -> str:
    slope = graph.held(layer.weight)
    if layer.num_parameters > 1 and y.ndim > 2:
        slope = graph.reshaped(slope, [layer.num_parameters, *[1] * (y.ndim - 2)])
    return graph.node("PRelu", x.name, slope)


def _quantize(graph: Graph, layer: layers.Quantize, x: Value, y: npt.NDArray[Any]) -> str:
    low, high, spacing = (graph.constant(value) for value in (layer.low, layer.high, layer.spacing))
    above = graph.node("Sub", graph.node("Clip", x.name, low, high), low)
    steps = graph.node("Round", graph.node("Div", above, spacing))
    return graph.node("Add", graph.node("Mul", steps, spacing), low)


# ---- windows ----


def _convolution(graph: Graph, layer: Any, x: Value, y: npt.NDArray[Any]) -> str:
    before = layer._before
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    after = [s - b for s, b in zip(spans, before, strict=True)] if layer.padding == "same" else before
    return _convolved(graph, "Conv", layer, x, [*before, *after])


def _transposed(graph: Graph, layer: Any, x: Value, y: npt.NDArray[Any]) -> str:
    more = {"output_padding": list(layer.output_padding)}
    return _convolved(graph, "ConvTranspose", layer, x, [*layer.padding, *layer.padding], **more)


def _convolved(graph: Graph, op: str, layer: Any, x: Value, pads: list[int], **more: Any) -> str:
    inputs = [x.name, graph.held(layer.weight)] + ([] if layer.bias is None else [graph.held(layer.bias)])
    given = {"kernel_shape": layer.kernel_size, "strides": layer.stride, "dilations": layer.dilation}
    return graph.node(op, *inputs, **given, pads=pads, group=layer.groups, **more)


def _pads(layer: Any, x: Value, y: npt.NDArray[Any]) -> list[int]:
    """Return how far x is padded before, and after it as far as the last window reaches."""
    after = []
    for axis, (n, many) in enumerate(zip(x.example.shape[2:], y.shape[2:], strict=True)):
        k, s, p, d = (getattr(layer, name)[axis] for name in ("kernel_size", "stride", "padding", "dilation"))
        after.append(max(0, (many - 1) * s + d * (k - 1) + 1 - n - p))
    return [*layer.padding, *after]


def sources(layer: Any, lengths: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """Return, for each axis that a layer pads, which entry of x each one of y is; -1 for a zero."""
    found = []
    for n, sides in zip(lengths, layer._sides, strict=True):
        given = {"constant_values": -1} if layer.mode == "constant" else {}
        found.append(np.pad(np.arange(n, dtype=np.int64), sides, mode=layer.mode, **given))
    return found


def _pad(graph: Graph, layer: Any, x: Value, y: npt.NDArray[Any]) -> str:
    if layer.mode == "constant":
        before, after = zip(*layer._sides, strict=True)
        return graph.node("Pad", x.name, graph.whole([0, 0, *before, 0, 0, *after]))
    name = x.name
    for axis, rows in enumerate(sources(layer, x.example.shape[2:]), 2):
        name = graph.node("Gather", name, graph.constant(rows, np.int64), axis=axis)
    return name


def _max_pool(graph: Graph, layer: Any, x: Value, y: npt.NDArray[Any]) -> str:
    given = {"kernel_shape": layer.kernel_size, "strides": layer.stride, "dilations": layer.dilation}
    return graph.node("MaxPool", x.name, **given, pads=_pads(layer, x, y))


def _mean_pool(graph: Graph, layer: Any, x: Value, y: npt.NDArray[Any]) -> str:
    given = {"kernel_shape": layer.kernel_size, "strides": layer.stride}
    if not layer.ceil_mode and layer.divisor_override is None:
        pads = [*layer.padding, *layer.padding]
        return graph.node("AveragePool", x.name, **given, pads=pads, count_include_pad=int(layer.count_include_pad))
    mean = graph.node("AveragePool", x.name, **given, pads=_pads(layer, x, y), count_include_pad=1)
    factors = math.prod(layer.kernel_size) / divisors(layer, x, y)
    return graph.node("Mul", mean, graph.constant(factors))


def divisors(layer: Any, x: Value, y: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return what each output's sum is divided by."""
    if layer.divisor_override is not None:
        return np.full(y.shape[2:], layer.divisor_override, np.float64)
    found = np.ones(())
    for axis, (n, many) in enumerate(zip(x.example.shape[2:], y.shape[2:], strict=True)):
        k, s, p = (getattr(layer, name)[axis] for name in ("kernel_size", "stride", "padding"))
        first = np.arange(many) * s - p
        least, most = (-p, n + p) if layer.count_include_pad else (0, n)
        found = np.multiply.outer(found, np.minimum(first + k, most) - np.maximum(first, least))
    return found


def _adaptive_pool(graph: Graph, layer: Any, x: Value, y: npt.NDArray[Any]) -> str:
    return _mean_pool(graph, layer._pool(x.example), x, y)


# ---- normalisation ----


def _batch_norm(graph: Graph, layer: Any, x: Value, y: npt.NDArray[Any]) -> str:
    ones, zeros = np.ones(layer.num_features), np.zeros(layer.num_features)
    weight = graph.constant(ones) if layer.weight is None else graph.held(layer.weight)
    bias = graph.constant(zeros) if layer.bias is None else graph.held(layer.bias)
    if layer.running_mean is not None:
        mean, variance = graph.held(layer.running_mean), graph.held(layer.running_var)
        return graph.node("BatchNormalization", x.name, weight, bias, mean, variance, epsilon=layer.eps)
    normal = _normal(graph, x.name, [0, *range(2, y.ndim)], layer.eps)
    spread = [layer.num_features, *[1] * (y.ndim - 2)]
    product = graph.node("Mul", normal, graph.reshaped(weight, spread))
    return graph.node("Add", product, graph.reshaped(bias, spread))


def _normal(graph: Graph, x: str, axes: Sequence[int], eps: float, centred: bool = True) -> str:
    """Add nodes for (x - m) / sqrt(v + eps), m and v taken over axes; without m unless `centred`."""
    d = graph.node("Sub", x, graph.node("ReduceMean", x, graph.whole(list(axes)))) if centred else x
    variance = graph.node("ReduceMean", graph.node("Mul", d, d), graph.whole(list(axes)))
    return graph.node("Div", d, graph.node("Sqrt", graph.node("Add", variance, graph.constant(eps))))


def _layer_norm(graph: Graph, layer: layers.LayerNorm, x: Value, y: npt.NDArray[Any]) -> str:
    shape = layer.normalized_shape
    weight = graph.constant(np.ones(shape)) if layer.weight is None else graph.held(layer.weight)
    bias = [] if layer.bias is None else [graph.held(layer.bias)]
    return graph.node("LayerNormalization", x.name, weight, *bias, axis=-len(shape), epsilon=layer.eps)


def _rms_norm(graph: Graph, layer: layers.RMSNorm, x: Value, y: npt.NDArray[Any]) -> str:
    normal = _normal(graph, x.name, range(-len(layer.normalized_shape), 0), layer.eps, centred=False)
    return normal if layer.weight is None else graph.node("Mul", normal, graph.held(layer.weight))


def _group_norm(graph: Graph, layer: layers.GroupNorm, x: Value, y: npt.NDArray[Any]) -> str:
    entries = math.prod(y.shape[1:]) // layer.num_groups
    normal = _normal(graph, graph.reshaped(x.name, [-1, layer.num_groups, entries]), [2], layer.eps)
    found = graph.reshaped(normal, [-1, *y.shape[1:]])
    if layer.weight is None or layer.bias is None:
        return found
    spread = [layer.num_channels, *[1] * (y.ndim - 2)]
    found = graph.node("Mul", found, graph.reshaped(graph.held(layer.weight), spread))
    return graph.node("Add", found, graph.reshaped(graph.held(layer.bias), spread))


# ---- shapes, ids ----


def _same(graph: Graph, layer: Layer, x: Value, y: npt.NDArray[Any]) -> str:
    return x.name


def _reshape(graph: Graph, layer: Layer, x: Value, y: npt.NDArray[Any]) -> str:
    return graph.reshaped(x.name, [-1, *y.shape[1:]])


def _flatten(graph: Graph, layer: Layer, x: Value, y: npt.NDArray[Any]) -> str:
    return graph.node("Flatten", x.name, axis=1) if y.ndim == 2 else _reshape(graph, layer, x, y)


def _permute(graph: Graph, layer: layers.Permute, x: Value, y: npt.NDArray[Any]) -> str:
    return graph.node("Transpose", x.name, perm=layer.dims)


def _embedding(graph: Graph, layer: layers.Embedding, x: Value, y: npt.NDArray[Any]) -> str:
    table = graph.held(layer.weight)
    if layer.padding_idx is not None:  # whose vector is 0, whatever the table holds
        kept = np.arange(layer.num_embeddings) != layer.padding_idx
        table = graph.node("Where", graph.constant(kept[:, None], np.bool_), table, graph.constant(0.0))
    return graph.node("Gather", table, x.name)


# ---- sequences ----

ORDER = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}  # PyTorch's gates i f g o and r z n, as ONNX has them: i o f c, z r h


def _recurrent(graph: Graph, layer: Any, x: Any, y: npt.NDArray[Any]) -> str:
    if layer.mask_zero:
        raise NotExported("ONNX passes over steps at the end of a sequence only, mask_zero over any; give lengths")
    series, lengths = x if isinstance(x, tuple) else (x, None)
    steps, width = series.example.shape[1], layer.hidden_size * len(layer._directions(0))
    ends = "" if lengths is None else graph.node("Cast", graph.node("Round", lengths.name), to=6)
    found, last = graph.node("Transpose", series.name, perm=[1, 0, 2]), ""
    for number in range(layer.num_layers):
        if number:
            found = graph.reshaped(graph.node("Transpose", found, perm=[0, 2, 1, 3]), [steps, -1, width])
        found, last = _one_recurrent(graph, layer, number, found, ends)
    if layer.return_sequences:
        return graph.reshaped(graph.node("Transpose", found, perm=[2, 0, 1, 3]), [-1, steps, width])
    return graph.reshaped(graph.node("Transpose", last, perm=[1, 0, 2]), [-1, width])


def _one_recurrent(graph: Graph, layer: Any, number: int, x: str, lengths: str) -> list[str]:
    """Add one layer, of one or two directions; return all states (T, D, N, H), and the last ones (D, N, H)."""
    op = layer.cell[:3].upper() if layer.cell != "lstm" else "LSTM"
    weights, states, biases = [], [], []
    for suffix in layer._directions(number):
        weight_ih, weight_hh, bias_ih, bias_hh = (
            None if held is None else _gates(graph, layer, held) for held in layer._parameters(suffix)
        )
        weights.append(weight_ih)
        states.append(weight_hh)
        if bias_ih is not None and bias_hh is not None:
            biases.append(graph.node("Concat", bias_ih, bias_hh, axis=1))
    joined = [graph.node("Concat", *parts, axis=0) for parts in (weights, states, biases) if parts]
    many = len(weights)
    given: dict[str, Any] = {
        "hidden_size": layer.hidden_size,
        "direction": "bidirectional" if many == 2 else "forward",
    }
    if op == "RNN":
        given["activations"] = ["Relu" if layer.cell == "rnn_relu" else "Tanh"] * many
    if op == "GRU":
        given["linear_before_reset"] = 1
    inputs = [x, *joined, *[""] * (3 - len(joined))] + ([lengths] if lengths else [])
    return graph.node_of(op, inputs, 2, **given)


def _gates(graph: Graph, layer: Any, held: Any) -> str:
    """Add an array with its gates in ONNX's order, and an axis for directions before the others."""
    name, order = graph.held(held), ORDER.get(layer.cell)
    if order is not None:
        rows = np.concatenate([np.arange(layer.hidden_size) + i * layer.hidden_size for i in order])
        name = graph.node("Gather", name, graph.constant(rows, np.int64), axis=0)
    return graph.node("Unsqueeze", name, graph.whole([0]))


def _real_steps(graph: Graph, x: Value, lengths: Value | None, mask_zero: bool) -> str | None:
    """Add which steps of x are part of a sequence, (N, T) of bool; None where all are."""
    real = None
    if lengths is not None:
        ends = graph.node("Unsqueeze", lengths.name, graph.whole([1]))
        real = graph.node("Less", graph.constant(np.arange(x.example.shape[1]) + 0.5), ends)
    if mask_zero:
        largest = graph.node("ReduceMax", graph.node("Abs", x.name), graph.whole([2]), keepdims=0)
        filled = graph.node("Greater", largest, graph.constant(0.0))
        real = filled if real is None else graph.node("And", real, filled)
    return real


def _attention(graph: Graph, layer: layers.MultiheadAttention, x: Any, y: npt.NDArray[Any]) -> str:
    given = x if isinstance(x, tuple) else (x,)
    lengths = given[-1] if len(given) > 1 and given[-1].example.ndim == 1 else None
    inputs = given if lengths is None else given[:-1]
    real = _real_steps(graph, inputs[0 if len(inputs) == 1 else 1], lengths, layer.mask_zero)
    q, k, v = _heads(graph, layer, inputs)
    scale = graph.constant(1 / math.sqrt(layer.embed_dim // layer.num_heads))
    scores = graph.node("Mul", graph.node("MatMul", q, graph.node("Transpose", k, perm=[0, 1, 3, 2])), scale)
    seen = [] if real is None else [graph.node("Unsqueeze", real, graph.whole([1, 2]))]
    if layer.is_causal:
        shape = inputs[0].example.shape[1], inputs[0 if len(inputs) == 1 else 1].example.shape[1]
        seen.append(graph.constant(np.tri(*shape), np.bool_))
    for mask in seen:
        scores = graph.node("Where", mask, scores, graph.constant(-1e30))
    p = graph.node("Softmax", scores, axis=-1)
    if real is not None:  # a query that sees no key gets nothing of any
        p = graph.node("Where", seen[0], p, graph.constant(0.0))
    out = graph.node("Transpose", graph.node("MatMul", p, v), perm=[0, 2, 1, 3])
    joined = Value(graph.reshaped(out, [0, y.shape[1], layer.embed_dim]), y)
    return _linear(graph, layer.out_proj, joined, y)


def _heads(graph: Graph, layer: layers.MultiheadAttention, inputs: Sequence[Value]) -> list[str]:
    """Add queries, keys and values, (N, heads, L or S, d)."""
    weight = graph.held(layer.in_proj_weight)
    bias = None if layer.in_proj_bias is None else graph.held(layer.in_proj_bias)
    found, width, heads = [], layer.embed_dim, layer.num_heads
    for one, rows in zip(inputs, layer._parts(len(inputs)), strict=True):
        ends = graph.whole([rows.start]), graph.whole([rows.stop]), graph.whole([0])
        part = graph.node("Slice", weight, *ends)
        made = graph.node("MatMul", one.name, graph.node("Transpose", part, perm=[1, 0]))
        if bias is not None:
            made = graph.node("Add", made, graph.node("Slice", bias, *ends))
        many = (rows.stop - rows.start) // width
        parts = graph.node_of("Split", [made], many, axis=2, num_outputs=many) if many > 1 else [made]
        shape = [0, one.example.shape[1], heads, width // heads]
        found += [graph.node("Transpose", graph.reshaped(part, shape), perm=[0, 2, 1, 3]) for part in parts]
    return found


def _positions(graph: Graph, layer: layers.PositionalEncoding, x: Value, y: npt.NDArray[Any]) -> str:
    found = graph.node("Add", x.name, graph.constant(layer.table[: y.shape[1]]))
    real = _real_steps(graph, x, None, layer.mask_zero)
    if real is None:
        return found
    return graph.node("Where", graph.node("Unsqueeze", real, graph.whole([2])), found, graph.constant(0.0))


def _padding(graph: Graph, layer: Layer, x: Value, y: npt.NDArray[Any]) -> str:
    real = _real_steps(graph, x, None, True)
    assert real is not None
    return graph.node("Unsqueeze", graph.node("Cast", real, to=1), graph.whole([2]))


EMITTERS: dict[str, Emitter] = {
    "AdaptiveAvgPool2d": _adaptive_pool,
    "AvgPool1d": _mean_pool,
    "AvgPool2d": _mean_pool,
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "ConvTranspose1d": _transposed,
    "ConvTranspose2d": _transposed,
    "Dropout": _same,
    "Dropout2d": _same,
    "ELU": _simple("Elu", alpha="alpha"),
    "Embedding": _embedding,
    "Flatten": _flatten,
    "GELU": _gelu,
    "GRU": _recurrent,
    "GroupNorm": _group_norm,
    "Hardswish": _simple("HardSwish"),
    "Identity": _same,
    "LSTM": _recurrent,
    "LayerNorm": _layer_norm,
    "LeakyReLU": _simple("LeakyRelu", alpha="negative_slope"),
    "Linear": _linear,
    "LogSoftmax": _simple("LogSoftmax", axis="dim"),
    "MaxPool1d": _max_pool,
    "MaxPool2d": _max_pool,
    "Mish": _simple("Mish"),
    "MultiheadAttention": _attention,
    "PReLU": _prelu,
    "Padding": _padding,
    "Permute": _permute,
    "PositionalEncoding": _positions,
    "Quantize": _quantize,
    "RMSNorm": _rms_norm,
    "RNN": _recurrent,
    "ReLU": _simple("Relu"),
    "Reshape": _reshape,
    "Round": _simple("Round"),
    "SELU": _simple("Selu"),
    "SiLU": _silu,
    "Sigmoid": _simple("Sigmoid"),
    "Sign": _simple("Sign"),
    "Softmax": _simple("Softmax", axis="dim"),
    "Softplus": _simple("Softplus"),
    "Step": _step,
    "Tanh": _simple("Tanh"),
    "Unflatten": _reshape,
    **dict.fromkeys(("ZeroPad1d", "ZeroPad2d", "ReflectionPad1d", "ReflectionPad2d"), _pad),
    **dict.fromkeys(("ReplicationPad1d", "ReplicationPad2d", "CircularPad1d", "CircularPad2d"), _pad),
}
