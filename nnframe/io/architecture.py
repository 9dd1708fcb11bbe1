"""What a model is made of, as JSON: enough to make it again, and nothing that runs.

A description is data: names of nnframe's own layers, and the arguments that they are made with. Whoever reads one makes
those layers and no others, so that a file from anywhere can be opened.

    {"format": 1,
     "model": {"layer": "Sequential", "layers": [
         {"layer": "Linear", "in_features": 4, "out_features": 3, "bias": true, "dtype": "float32"},
         {"layer": "ReLU"},
         {"same": "0"}]},
     "tied": {"2.weight": "0.weight"}, "frozen": ["0.bias"]}
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from nnframe import layers
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Parameter
from nnframe.core.protocol import named
from nnframe.core.tree import aliases
from nnframe.initializers import Zeros
from nnframe.layers.quantization import _StraightThrough
from nnframe.layers.transformer import TransformerEncoderLayer

FORMAT = 1
DEEPEST = 100  # layers within layers
OWN = {name: getattr(layers, name) for name in layers.__all__ if name != "Activation"}
_NAMES = {made: name for name, made in OWN.items()}


class NotDescribed(ValueError):
    """A model holds a layer that is none of nnframe's own; the message names it."""


def describe(model: Layer) -> dict[str, Any]:
    """Return what `model` is made of, as values that JSON has; its weights are not part of it.

    Layers that stand at two places, and parameters that two layers share, are so described.

    Raises
    ------
    NotDescribed
        A layer of a class that nnframe does not have, or one whose `forward` was replaced.
    """
    found: dict[str, Any] = {"format": FORMAT, "model": _described(model, "", model, {})}
    frozen = [name for name, parameter in model.named_parameters() if not parameter.trainable]
    return found | {"tied": aliases(model), "frozen": frozen}


def name_of(layer: Layer) -> str | None:
    """Return the public name of the class of one of nnframe's own layers; None for any other."""
    if "forward" in vars(layer):
        return None
    cls = type(layer)
    return _NAMES.get(cls.__mro__[2] if issubclass(cls, _StraightThrough) else cls)


def _described(layer: Layer, path: str, model: Layer, seen: dict[int, str]) -> dict[str, Any]:
    if id(layer) in seen:
        return {"same": seen[id(layer)]}
    name = name_of(layer)
    if name is None:
        raise NotDescribed(f"{named(layer, model)}: expected one of nnframe's own layers, got {type(layer).__name__}")
    seen[id(layer)] = path
    found: dict[str, Any] = {"layer": name}
    for argument, value in arguments(layer, OWN[name]).items():
        if isinstance(value, Layer):
            value = _described(value, _join(path, argument), model, seen)
        elif isinstance(value, tuple) and any(isinstance(one, Layer) for one in value):
            value = [_described(one, _join(path, str(i)), model, seen) for i, one in enumerate(value)]
        found[argument] = value
    return found


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def arguments(layer: Layer, made: type[Layer]) -> dict[str, Any]:
    """Return what a layer of nnframe's own is made with: each argument is an attribute of that name.

    Those that are no attributes say how a layer starts (`rng`, `init`), or have one value only (`batch_first`).
    """
    if isinstance(layer, TransformerEncoderLayer):
        return _of_encoder(layer)
    found = {}
    for name in inspect.signature(made.__init__).parameters:
        value = _dtype_of(layer) if name == "dtype" else getattr(layer, name, None)
        if name == "bias" and isinstance(layer, layers.MultiheadAttention):
            value = layer.in_proj_bias is not None
        elif name == "bias" and not isinstance(value, bool):
            value = value is not None
        elif value is None and (name == "dtype" or not hasattr(layer, name)):
            continue
        found[name] = value.item() if isinstance(value, np.generic) else value
    return found


def _dtype_of(layer: Layer) -> str | None:
    held: list[Array] = [one.value for one in layer.parameters()]
    held += [one.value for _, one in layer.named_buffers()]
    return next((str(value.dtype) for value in held if value.dtype.kind == "f"), None)


def _of_encoder(layer: TransformerEncoderLayer) -> dict[str, Any]:
    attention = layer.self_attn
    return {
        "d_model": attention.embed_dim,
        "nhead": attention.num_heads,
        "dim_feedforward": layer.linear1.out_features,
        "dropout": layer.dropout.p,
        "activation": "relu" if isinstance(layer.activation, layers.ReLU) else "gelu",
        "layer_norm_eps": layer.norm1.eps,
        "norm_first": layer.norm_first,
        "bias": layer.linear1.bias is not None,
        "is_causal": attention.is_causal,
        "mask_zero": layer.mask_zero,
        "dtype": str(layer.linear1.weight.value.dtype),
    }


# ---- and back ----


def build(description: Any) -> Layer:
    """Make the model that `describe` described, with new weights; nothing but nnframe's own layers is made.

    Raises
    ------
    ValueError
        It is no such description; the message says where.
    """
    known = description.get("format") if isinstance(description, Mapping) else None
    if type(known) is not int or known != FORMAT:
        raise ValueError(f"architecture: expected a description of format {FORMAT}, got {_short(description)}")
    model = _built(description.get("model"), "", {}, 0)
    _tie(model, description.get("tied") or {})
    own, frozen = dict(model.named_parameters()), description.get("frozen") or []
    for name in frozen if isinstance(frozen, list) else [frozen]:
        if not isinstance(name, str) or name not in own:
            raise ValueError(f"architecture: frozen: expected names of parameters, got {_short(name)}")
        own[name].trainable = False
    return model


def _built(given: Any, path: str, seen: dict[str, Layer], depth: int) -> Layer:
    where = f"architecture: layer {path}" if path else "architecture: model"
    if depth > DEEPEST:
        raise ValueError(f"{where}: expected at most {DEEPEST} layers within layers")
    if isinstance(given, Mapping) and set(given) == {"same"} and isinstance(given["same"], str):
        if given["same"] not in seen:
            raise ValueError(f"{where}: expected a layer that came before, got {_short(given['same'])}")
        return seen[given["same"]]
    name = given.get("layer") if isinstance(given, Mapping) else None
    if not isinstance(name, str) or name not in OWN:
        raise ValueError(f"{where}: expected one of nnframe's own layers, got {_short(given)}")
    made = OWN[name]
    values = {argument: value for argument, value in given.items() if argument != "layer"}
    positional: list[Any] = []
    for argument, value in values.items():
        if argument == "inner":
            values[argument] = [_built(value, _join(path, argument), seen, depth + 1)]
        elif argument == "layers" and isinstance(value, list):
            values[argument] = [_built(one, _join(path, str(i)), seen, depth + 1) for i, one in enumerate(value)]
    for argument, kind in inspect.signature(made.__init__).parameters.items():
        if kind.kind is inspect.Parameter.VAR_POSITIONAL and argument in values:
            positional = values.pop(argument)
        if argument == "init" and argument not in values:
            values[argument] = Zeros()  # weights are loaded: none need be drawn
    try:
        layer: Layer = made(*positional, **values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name}: {error}") from error
    seen[path] = layer
    return layer


def _tie(model: Layer, tied: Any) -> None:
    """Let parameters be one that were one; ValueError where they do not fit."""
    held, same, trees = dict(model.named_parameters()), aliases(model), dict(model.named_trees())
    for alias, first in tied.items() if isinstance(tied, Mapping) else [(tied, None)]:
        if same.get(alias) == first and first is not None:
            continue
        path, _, attribute = alias.rpartition(".") if isinstance(alias, str) else ("", "", "")
        own, other = held.get(alias), held.get(first) if isinstance(first, str) else None
        if not isinstance(own, Parameter) or other is None or own.value.shape != other.value.shape:
            raise ValueError(f"architecture: tied: expected two parameters of one shape, got {_short([alias, first])}")
        setattr(trees[path], attribute, other)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
