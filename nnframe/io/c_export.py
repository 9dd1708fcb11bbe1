"""Models as one C file each: weights and forward pass, for machines where nothing else runs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import layers
from nnframe._files import write_atomically
from nnframe._version import __version__
from nnframe.core.layer import Layer
from nnframe.core.protocol import named, traits
from nnframe.io.architecture import name_of
from nnframe.io.c_program import Block, Program, activation, number
from nnframe.io.onnx_export import as_shapes
from nnframe.io.onnx_graph import Value
from nnframe.io.onnx_layers import NotExported, divisors, sources
from nnframe.layers.containers import Branches

Doubles = npt.NDArray[np.float64]
Norm = layers.BatchNorm1d | layers.BatchNorm2d
IN_PLACE = ("Flatten", "Reshape", "Unflatten", "Identity", "Dropout", "Dropout2d")  # nothing is left to do


def export_c(
    model: Layer, path: str | os.PathLike[str], input_shape: Sequence[int] | None = None, *, name: str = "model"
) -> None:
    """Write a model, as it predicts, to one C file: C99 that needs math.h alone, and allocates nothing.

    It has the function `void model_forward(const float *x, float *y)`, for one row, and macros MODEL_INPUTS and
    MODEL_OUTPUTS. Everything is float32. A batch normalisation after a linear layer or a convolution is folded into
    its weights. What it needs of memory stands at the top; between layers it lies in one static array, so that two
    calls cannot run at the same time. Compiled with `-DNNFRAME_SUM=double`, sums are taken in double.

    Parameters
    ----------
    model : Layer
        Of linear layers, convolutions, pooling, activations, normalisations of a row or with running statistics,
        recurrent layers and shapes, in `Sequential`, `Branches` and `Residual`, or classes derived from these.
    path : path
        Replaced as a whole, as by `nnframe.save`.
    input_shape : sequence of int
        That of one row. If it is not given, that of a first `Linear` is taken.
    name : str
        What names in the file begin with: letters, digits and _.

    Raises
    ------
    ValueError
        A layer cannot be written in C (the message names it, and why), does not take that shape, or a weight is not
        finite.
    """
    write_atomically(path, c_of(model, input_shape, name=name).encode())


def c_of(model: Layer, input_shape: Sequence[int] | None = None, *, name: str = "model") -> str:
    """Return the text of the file that `export_c` writes."""
    if not isinstance(model, Layer):
        raise TypeError(f"model: expected a Layer, got {model!r}")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"name: expected letters, digits and _, got {name!r}")
    shapes = as_shapes(model, input_shape)
    if len(shapes) != 1:
        raise NotExported(f"input_shape: expected that of one array, as the C function takes one, got {shapes}")
    writer = Writer(model.astype(np.float32))
    x = Block(None, shapes[0])
    y = writer.chain([writer.model], x)
    about = repr(model).replace("*/", "* /").replace("/*", "/ *").replace("\n", "\n   ")
    return writer.program.text(name, x, y, f"Written by nnframe {__version__}.\n\n   {about}\n")


class Writer:
    """Walks through a model and writes each layer as steps of a program; each returns where its output is."""

    def __init__(self, model: Layer) -> None:
        self.model, self.program = model, Program()
        self._names = {id(p): name for name, p in model.named_parameters()}

    def chain(self, inner: Iterable[Layer], x: Block) -> Block:
        """Write layers one after another."""
        waiting = list(inner)
        while waiting:
            layer = waiting.pop(0)
            if traits(layer).order:
                waiting[:0] = layer.order()  # type: ignore[attr-defined]
            else:
                norm = waiting[0] if waiting and _folds(layer, waiting[0], x) else None
                if norm is not None:
                    waiting.pop(0)
                x = self.one(layer, x, norm)
        return x

    def one(self, layer: Layer, x: Block, norm: Any = None) -> Block:
        """Write one layer, with the batch normalisation that is folded into it; errors name it."""
        if traits(layer).branches and isinstance(layer, Branches):
            return self.branches(layer, x)
        name = name_of(layer) or type(layer).__name__
        try:
            if name_of(layer) is None and not type(layer).__module__.startswith("nnframe.layers."):
                raise NotExported("expected one of nnframe's own layers, whose forward can be written in C")
            if name not in WRITERS and name not in IN_PLACE:
                raise NotExported(f"there is no C code for {name} layers")
            y = layer(np.zeros((2, *x.shape), np.float32))
            if name in IN_PLACE:
                return self.program.reshaped(x, y.shape[1:])
            shape = y.shape[1:]
            return WRITERS[name](self, layer, x, shape, norm) if norm else WRITERS[name](self, layer, x, shape)
        except NotExported as error:
            raise NotExported(f"{named(layer, self.model)}: {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{named(layer, self.model)}: with a row of shape {x.shape}: {error}") from error

    def branches(self, layer: Branches, x: Block) -> Block:
        """Write layers side by side, and what joins them."""
        given = layer.branches(x)
        x.uses += len(given) - 1
        outputs = [one if inner is None else self.chain([inner], one) for inner, one in given]
        layer.join_outputs([np.zeros((2, *one.shape)) for one in outputs])
        if layer.join == "concatenate":
            return self._concatenated(outputs)
        y, sign = self.program.writable(outputs[0]), "+" if layer.join == "add" else "*"
        for one in outputs[1:]:
            self.program.step(f"for (int i = 0; i < {y.size}; i++) ({y})[i] {sign}= ({one})[i];")
            self.program.release(one)
        return y

    def _concatenated(self, outputs: list[Block]) -> Block:
        *lead, _ = outputs[0].shape
        width = sum(one.shape[-1] for one in outputs)
        y, at = self.program.take((*lead, width)), 0
        for one in outputs:
            n = one.shape[-1]
            self.program.step(
                f"for (int i = 0; i < {one.size}; i++) ({y})[i / {n} * {width} + i % {n} + {at}] = ({one})[i];"
            )
            at += n
            self.program.release(one)
        return y

    def held(self, parameter: Any) -> str:
        """Add a parameter and return its name in C; NULL where there is none."""
        return "0" if parameter is None else self.program.array(self._names[id(parameter)], parameter.value)

    def weights(self, layer: Any, norm: Any) -> tuple[str, str]:
        """Add the weight and bias of a layer, a batch normalisation folded into them."""
        if norm is None:
            return self.held(layer.weight), self.held(layer.bias)
        scale, shift = _affine(norm)
        weight = layer.weight.value.astype(np.float64)
        bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.value.astype(np.float64)
        name = f"{self._names[id(layer.weight)]}_with_{len(self.program.arrays)}"
        folded = self.program.array(name, weight * scale.reshape(-1, *[1] * (weight.ndim - 1)))
        return folded, self.program.array(f"{name}_bias", bias * scale + shift)


def _folds(layer: Layer, norm: Layer, x: Block) -> bool:
    """Whether a batch normalisation with running statistics acts on the outputs of the layer before it."""
    if name_of(norm) not in ("BatchNorm1d", "BatchNorm2d") or norm.running_mean is None:  # type: ignore[attr-defined]
        return False
    return name_of(layer) in ("Conv1d", "Conv2d") or (name_of(layer) == "Linear" and len(x.shape) == 1)


def _affine(norm: Any) -> tuple[Doubles, Doubles]:
    """Return what a batch normalisation multiplies each channel by, and what it adds."""
    weight = 1.0 if norm.weight is None else norm.weight.value.astype(np.float64)
    bias = 0.0 if norm.bias is None else norm.bias.value.astype(np.float64)
    scale = weight / np.sqrt(norm.running_var.value.astype(np.float64) + norm.eps)
    return scale, bias - norm.running_mean.value.astype(np.float64) * scale


# ---- each layer ----

Sizes = tuple[int, ...]


def _linear(writer: Writer, layer: layers.Linear, x: Block, shape: Sizes, norm: Any = None) -> Block:
    y = writer.program.take(shape)
    rows = math.prod(shape[:-1])
    writer.program.call("linear", x, y, *writer.weights(layer, norm), rows, layer.in_features, layer.out_features)
    writer.program.release(x)
    return y


def _geometry(layer: Any, x: Sizes, y: Sizes, before: Sizes) -> list[int]:
    """Return what C's `convolution` takes: an axis of length 1 before the one of a layer of one axis."""
    one = (1,) * (3 - len(x))
    dilation = getattr(layer, "dilation", None) or (1,) * len(before)
    sizes = [x[0], *one, *x[1:], y[0], *one, *y[1:]]
    sizes += [*one, *layer.kernel_size, *one, *layer.stride, *(0 for _ in one), *before, *one, *dilation]
    return [*sizes, getattr(layer, "groups", 1)]


def _windows(writer: Writer, layer: Any, x: Block, shape: Sizes, before: Sizes) -> str:
    geometry = np.array(_geometry(layer, x.shape, shape, before), np.int64)
    return writer.program.array("geometry_" + "_".join(map(str, geometry)), geometry)


def _convolution(writer: Writer, layer: Any, x: Block, shape: Sizes, norm: Any = None) -> Block:
    y = writer.program.take(shape)
    geometry = _windows(writer, layer, x, shape, layer._before)
    writer.program.call("convolution", x, y, *writer.weights(layer, norm), geometry)
    writer.program.release(x)
    return y


def _max_pool(writer: Writer, layer: Any, x: Block, shape: Sizes) -> Block:
    y = writer.program.take(shape)
    writer.program.call("max_pool", x, y, _windows(writer, layer, x, shape, layer.padding))
    writer.program.release(x)
    return y


def _mean_pool(writer: Writer, layer: Any, x: Block, shape: Sizes) -> Block:
    y = writer.program.take(shape)
    found = divisors(layer, Value("x", np.empty((1, *x.shape))), np.empty((1, *shape)))
    geometry = _windows(writer, layer, x, shape, layer.padding)
    name = f"divisors_{len(writer.program.arrays)}"
    writer.program.call("mean_pool", x, y, geometry, writer.program.array(name, found))
    writer.program.release(x)
    return y


def _pad(writer: Writer, layer: Any, x: Block, shape: Sizes) -> Block:
    y = writer.program.take(shape)
    found = sources(layer, x.shape[1:])
    rows, columns = found if len(found) == 2 else (np.zeros(1, np.int64), found[0])
    given = []
    for one in (rows, columns):
        given += [writer.program.array("sources_" + "_".join(map(str, one)), one), len(one)]
    writer.program.call("pad", x, y, x.shape[0], x.shape[1] if len(found) == 2 else 1, x.shape[-1], *given)
    writer.program.release(x)
    return y


def _adaptive_pool(writer: Writer, layer: Any, x: Block, shape: Sizes) -> Block:
    return _mean_pool(writer, layer._pool(np.empty((1, *x.shape))), x, shape)


def _activation(writer: Writer, layer: Any, x: Block, shape: Sizes) -> Block:
    y = writer.program.writable(x)
    name = name_of(layer) or ""
    if name == "GELU" and layer.approximate == "tanh":
        name = "GELU tanh"
    formula = activation(name, getattr(layer, "alpha", 0.0))
    writer.program.step(f"for (int i = 0; i < {y.size}; i++) {{ const float v = ({y})[i]; ({y})[i] = {formula}; }}")
    return y


def _quantize(writer: Writer, layer: layers.Quantize, x: Block, shape: Sizes) -> Block:
    y, low, high, spacing = writer.program.writable(x), *map(number, (layer.low, layer.high, layer.spacing))
    clipped = f"(v < {low} ? {low} : v > {high} ? {high} : v)"
    formula = f"rintf(({clipped} - {low}) / {spacing}) * {spacing} + {low}"
    writer.program.step(f"for (int i = 0; i < {y.size}; i++) {{ const float v = ({y})[i]; ({y})[i] = {formula}; }}")
    return y


def _prelu(writer: Writer, layer: layers.PReLU, x: Block, shape: Sizes) -> Block:
    y, many = writer.program.writable(x), layer.num_parameters
    writer.program.call("prelu", y, writer.held(layer.weight), many, y.size // many)
    return y


def _softmax(writer: Writer, layer: Any, x: Block, shape: Sizes) -> Block:
    axis = layer.dim + len(shape) if layer.dim < 0 else layer.dim - 1
    if axis < 0:
        raise NotExported("dim=0 joins the rows of a mini-batch, and C is given one row at a time")
    y, log = writer.program.writable(x), int(name_of(layer) == "LogSoftmax")
    stride = math.prod(shape[axis + 1 :])
    writer.program.call("softmax", y, math.prod(shape[:axis]), shape[axis], stride, log)
    return y


def _batch_norm(writer: Writer, layer: Any, x: Block, shape: Sizes) -> Block:
    if layer.running_mean is None:
        raise NotExported("track_running_stats=False joins the rows of a mini-batch, and C is given one row at a time")
    y, (scale, shift) = writer.program.writable(x), _affine(layer)
    name = f"norm_{len(writer.program.arrays)}"
    weight, bias = writer.program.array(name, scale), writer.program.array(f"{name}_shift", shift)
    writer.program.call("scale", y, weight, bias, layer.num_features, y.size // layer.num_features)
    return y


def _row_norm(writer: Writer, layer: Any, x: Block, shape: Sizes) -> Block:
    """Write LayerNorm and RMSNorm: entries of a row have factors of their own."""
    y, entries = writer.program.writable(x), math.prod(layer.normalized_shape)
    rows, centred = y.size // entries, int(name_of(layer) == "LayerNorm")
    writer.program.call("normalize", y, rows, entries, number(layer.eps), centred)
    weight, bias = writer.held(layer.weight), writer.held(getattr(layer, "bias", None))
    if weight != "0":
        writer.program.needs.add("scale")
        writer.program.step(
            f"for (int n = 0; n < {rows}; n++) scale({y} + n * {entries}, {weight}, {bias}, {entries}, 1);"
        )
    return y


def _group_norm(writer: Writer, layer: layers.GroupNorm, x: Block, shape: Sizes) -> Block:
    y = writer.program.writable(x)
    writer.program.call("normalize", y, layer.num_groups, y.size // layer.num_groups, number(layer.eps), 1)
    if layer.weight is not None:
        weight, bias = writer.held(layer.weight), writer.held(layer.bias)
        writer.program.call("scale", y, weight, bias, layer.num_channels, y.size // layer.num_channels)
    return y


def _permute(writer: Writer, layer: layers.Permute, x: Block, shape: Sizes) -> Block:
    y = writer.program.take(shape)
    strides = [math.prod(x.shape[axis:]) for axis in layer.dims[1:]]
    loops = "".join(f"for (int i{k} = 0; i{k} < {n}; i{k}++) " for k, n in enumerate(shape))
    to = " + ".join(f"i{k} * {math.prod(shape[k + 1 :])}" for k in range(len(shape)))
    of = " + ".join(f"i{k} * {stride}" for k, stride in enumerate(strides))
    writer.program.step(f"{loops}({y})[{to}] = ({x})[{of}];")
    writer.program.release(x)
    return y


KINDS = {"rnn_tanh": 0, "rnn_relu": 1, "gru": 2, "lstm": 3}


def _recurrent(writer: Writer, layer: Any, x: Block, shape: Sizes) -> Block:
    if layer.mask_zero:
        raise NotExported("mask_zero is not written in C: all steps of a sequence are read")
    steps, hidden = x.shape[0], layer.hidden_size
    gates = {0: 1, 1: 1, 2: 3, 3: 4}[KINDS[layer.cell]]
    for number_of_layer in range(layer.num_layers):
        suffixes = layer._directions(number_of_layer)
        y = writer.program.take((steps, hidden * len(suffixes)))
        work = writer.program.take((2 * gates * hidden + hidden,))
        for k, suffix in enumerate(suffixes):
            arrays = [writer.held(one) for one in layer._parameters(suffix)]
            sizes = KINDS[layer.cell], steps, x.shape[1], hidden, y.shape[1], k
            writer.program.call("recurrent", x, f"{y} + {k * hidden}", work, *arrays, *sizes)
        writer.program.release(work)
        writer.program.release(x)
        x = y
    return x if layer.return_sequences else _last(writer, layer, x, shape)


def _last(writer: Writer, layer: Any, x: Block, shape: Sizes) -> Block:
    """Write the last state of each direction: that of the last step, and of the first one, read backwards."""
    y, hidden = writer.program.take(shape), layer.hidden_size
    for k, step in zip(range(shape[0] // hidden), (x.shape[0] - 1, 0), strict=False):
        at = step * x.shape[1] + k * hidden
        writer.program.step(f"for (int i = 0; i < {hidden}; i++) ({y})[{k * hidden} + i] = ({x})[{at} + i];")
    writer.program.release(x)
    return y


SIMPLE = (
    "Sigmoid", "Tanh", "ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Softplus", "Mish", "Hardswish", "Step",
    "Round", "Sign",
)  # fmt: skip
WRITERS: dict[str, Callable[..., Block]] = {
    "AdaptiveAvgPool2d": _adaptive_pool,
    "AvgPool1d": _mean_pool,
    "AvgPool2d": _mean_pool,
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "GRU": _recurrent,
    "GroupNorm": _group_norm,
    "LSTM": _recurrent,
    "LayerNorm": _row_norm,
    "Linear": _linear,
    "LogSoftmax": _softmax,
    "MaxPool1d": _max_pool,
    "MaxPool2d": _max_pool,
    "PReLU": _prelu,
    "Permute": _permute,
    "Quantize": _quantize,
    "RMSNorm": _row_norm,
    "RNN": _recurrent,
    "Softmax": _softmax,
    **dict.fromkeys(SIMPLE, _activation),
    **dict.fromkeys(("ZeroPad1d", "ZeroPad2d", "ReflectionPad1d", "ReflectionPad2d"), _pad),
    **dict.fromkeys(("ReplicationPad1d", "ReplicationPad2d", "CircularPad1d", "CircularPad2d"), _pad),
}
