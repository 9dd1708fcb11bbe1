"""The models that `nnframe train` makes, or finds in a file of the user's."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import itertools
import math
from collections.abc import Callable

import numpy as np

import nnframe as nn
from nnframe.cli.finding import make, short, told
from nnframe.cli.parsing import Refused

MODELS = ("mlp", "lenet")
CLASSES = 10
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Layer], Callable[[], nn.initializers.Initializer]]] = {
    "sigmoid": (nn.Sigmoid, nn.Xavier),
    "tanh": (nn.Tanh, nn.Xavier),
    "relu": (nn.ReLU, nn.He),
    "leaky_relu": (nn.LeakyReLU, nn.He),
    "elu": (nn.ELU, nn.He),
    "gelu": (nn.GELU, nn.He),
    "silu": (nn.SiLU, nn.He),
    "softplus": (nn.Softplus, nn.He),
}


def make_model(side: int, options: argparse.Namespace, rng: np.random.Generator) -> tuple[nn.Layer, tuple[int, ...]]:
    """Make the model that was asked for; returns it and the shape that it takes an image of side x side in."""
    given = [name for name in ("hidden", "activation") if getattr(options, name) is not None]
    if options.model == "mlp":
        _refuse("a model in a file", options, ["args", "shape"])
        return _mlp(side * side, options, rng), (side * side,)
    if options.model not in MODELS and ":" not in options.model and not options.model.endswith(".py"):
        near = difflib.get_close_matches(options.model.lower(), MODELS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Refused(f"--model: expected {', '.join(MODELS)} or FILE.py:NAME, got {options.model!r}{hint}")
    _refuse("mlp", options, given)
    if options.model == "lenet":
        _refuse("a model in a file", options, ["args", "shape"])
        return _lenet(side, options, rng), (1, side, side)
    shape = tuple(options.shape or (side * side,))
    if math.prod(shape) != side * side:
        raise Refused(f"--shape: expected a shape of {side * side} numbers, as an image has, got {shape}")
    return _in_file(shape, options), shape


def _refuse(kind: str, options: argparse.Namespace, names: list[str]) -> None:
    for name in names:
        if getattr(options, name):
            raise Refused(f"--{name}: expected with --model of {kind} only, got --model {options.model}")


def _mlp(inputs: int, options: argparse.Namespace, rng: np.random.Generator) -> nn.Sequential:
    """Make linear layers with the activation between them."""
    activation, init = ACTIVATIONS[options.activation or "sigmoid"]
    sizes = [inputs, *map(int, options.hidden or [50])]
    layers: list[nn.Layer] = []
    for below, above in itertools.pairwise(sizes):
        layers += [nn.Linear(below, above, init=init(), dtype=options.dtype, rng=rng), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], CLASSES, init=nn.Xavier(), dtype=options.dtype, rng=rng))


def _lenet(side: int, options: argparse.Namespace, rng: np.random.Generator) -> nn.Sequential:
    """Make LeNet-5 (LeCun et al. 1998) with ReLU and maxima; small images have 3 x 3 kernels and are padded."""
    kernel, padding, left = (5, 0, ((side - 4) // 2 - 4) // 2) if side >= 28 else (3, 1, side // 4)
    given = {"dtype": options.dtype, "rng": rng}
    return nn.Sequential(
        nn.Conv2d(1, 6, kernel, padding=padding, **given),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel, padding=padding, **given),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * left * left, 120, **given),
        nn.ReLU(),
        nn.Linear(120, 84, **given),
        nn.ReLU(),
        nn.Linear(84, CLASSES, **given),
    )


def _in_file(shape: tuple[int, ...], options: argparse.Namespace) -> nn.Layer:
    """Make the user's model, and see that it takes images and answers with a number for each class."""
    model = make(options.model, options.args)
    if not isinstance(model, nn.Layer):
        raise Refused(f"{options.model}: expected a layer, got {short(model)}")
    dtypes = sorted({str(p.value.dtype) for p in model.parameters()})
    if dtypes and dtypes != [options.dtype]:
        raise Refused(f"{options.model}: expected parameters of {options.dtype}, got {', '.join(dtypes)}; see --dtype")
    try:
        y = model(np.zeros((2, *shape), options.dtype))
    except Exception as error:
        hint = _shape_that_fits(model, math.isqrt(math.prod(shape)), options.dtype)
        raise Refused(f"{options.model}: with images of shape {(2, *shape)}: {told(error)}{hint}") from error
    if np.shape(y) != (2, CLASSES):
        raise Refused(f"{options.model}: expected outputs (N, {CLASSES}), one for each class, got {np.shape(y)}")
    if (np.asarray(y) >= 0).all() and np.allclose(np.sum(y, axis=1), 1, atol=1e-3):
        print(f"{options.model}: its outputs look like probabilities; the loss, CrossEntropyLoss, takes logits: a "
              "Softmax at its end makes training slow, leave it out")  # fmt: skip
    return model


def _shape_that_fits(model: nn.Layer, side: int, dtype: str) -> str:
    """Return a hint at the shape of images that a model takes, if there is one."""
    for shape in ((side * side,), (1, side, side), (side, side)):
        with contextlib.suppress(Exception):
            model(np.zeros((2, *shape), dtype))
            return f"; it takes images of --shape {','.join(map(str, shape))}"
    return ""
