"""Random layers whose backward is right, to see whether a checker cries wolf.

Each is a chain of functions with their derivatives, right by construction: the derivatives are textbook formulas, the
chain rule puts them together, and at a kink or a tie one of the slopes beside it is taken. `slopes` gives them anew by
complex steps. What makes checkers cry wolf is drawn on purpose: kinks exactly at data, ties, scales from 1e-12 to 1e8,
offsets of 1e6, gradients that are exactly 0, saturation, float32 parameters, and widths and batches of 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import handwritten as hw
import numpy as np

import nnframe as nn

Array = np.ndarray
Values = dict[str, Array]


@dataclass(frozen=True)
class Part:
    """One function of a chain: `forward(x, **values)` returns (y, cache), `backward(dy, cache)` (dx, gradients)."""

    name: str
    forward: Callable[..., tuple[Array, Any]]
    backward: Callable[[Array, Any], tuple[Array, Values]]
    values: Values


class Chain(nn.Layer):
    """Parts one after another, as one layer with a backward."""

    def __init__(self, parts: list[Part], dtype: Any) -> None:
        self.parts = tuple(parts)
        self.held = [{key: nn.Parameter(value, dtype) for key, value in part.values.items()} for part in parts]

    def forward(self, x: Array) -> Array:
        return self.forward_saving(x)[0]

    def forward_saving(self, x: Array) -> tuple[Array, list[Any]]:
        caches = []
        for part, held in zip(self.parts, self.held, strict=True):
            x, cache = part.forward(x, **{key: p.value for key, p in held.items()})
            caches.append(cache)
        return x, caches

    def backward(self, x: Array, y: Array, dy: Array, caches: list[Any]) -> Array:
        for part, held, cache in reversed(list(zip(self.parts, self.held, caches, strict=True))):
            dy, gradients = part.backward(dy, cache)
            for key, gradient in gradients.items():
                held[key].grad += gradient
        return dy

    def __repr__(self) -> str:
        return f"Chain({', '.join(part.name for part in self.parts)})"


def slopes(layer: Chain, x: Array, dy: Array) -> dict[str, Array]:
    """Return the gradient of sum(dy y) with respect to x and the parameters, by complex steps through the forwards."""
    values = {name: p.value.astype(np.float64) for name, p in layer.named_parameters()}
    found = {}
    for name, array in {"x": x, **values}.items():
        gradient = np.zeros(array.shape)
        for entry in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[entry] += 1e-30j
            y = moved if name == "x" else x
            for i, part in enumerate(layer.parts):
                given = {key: values[f"held.{i}.{key}"] for key in part.values}
                given |= {key: moved for key in part.values if name == f"held.{i}.{key}"}
                y, _ = part.forward(y, **given)
            gradient[entry] = (np.imag(y) * dy).sum() / 1e-30
        found[name] = gradient
    return found


# ---- parts ----


def elementwise(name: str, f: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Part:
    return Part(name, lambda x: (f(x), x), lambda dy, x: (dy * slope(x), {}), {})


def _sigmoid(x: Array) -> Array:
    return np.where(
        x.real > 0, 1 / (1 + np.exp(-np.where(x.real > 0, x, 0))), 1 - 1 / (1 + np.exp(np.where(x.real > 0, 0, x)))
    )


SMOOTH: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "sine": (np.sin, np.cos),
    "square": (lambda x: x * x, lambda x: 2 * x),
    "softsign": (lambda x: x / (1 + np.where(x.real < 0, -x, x)), lambda x: 1 / (1 + np.abs(x)) ** 2),
    "arctangent": (np.arctan, lambda x: 1 / (1 + x * x)),
    "bell": (lambda x: np.exp(-x * x), lambda x: -2 * x * np.exp(-x * x)),
    "log1p square": (lambda x: np.log(1 + x * x), lambda x: 2 * x / (1 + x * x)),
    "root": (lambda x: np.sqrt(1 + x * x), lambda x: x / np.sqrt(1 + x * x)),
}
KINKED: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda x: np.where(x.real > 0, x, 0), lambda x: (x > 0) * 1.0),
    "leaky": (lambda x: np.where(x.real > 0, x, 0.1 * x), lambda x: np.where(x > 0, 1, 0.1)),
    "absolute": (lambda x: np.where(x.real < 0, -x, x), np.sign),
    "clip": (lambda x: np.where(np.abs(x.real) <= 1, x, np.sign(x.real)), lambda x: (np.abs(x) <= 1) * 1.0),
    "hinge": (lambda x: np.where(x.real < 1, 1 - x, 0), lambda x: np.where(x < 1, -1.0, 0.0)),
    "staircase": (lambda x: np.floor(x.real + 0.4321) + 0 * x, lambda x: 0 * x),
}


KINKS = {*KINKED, "maximum"}


def shifted(scale: float, offset: float) -> Part:
    return Part(f"{scale:g} x + {offset:g}", lambda x: (scale * x + offset, None), lambda dy, _: (scale * dy, {}), {})


def by_pair(name: str, pair: hw.Pair, **values: Array) -> Part:
    forward, backward = pair

    def run(x: Array, **given: Array) -> tuple[Array, Any]:
        return forward(x, *(given[key] for key in values))

    def back(dy: Array, cache: Any) -> tuple[Array, Values]:
        found = backward(dy, cache)
        dx, *rest = found if isinstance(found, tuple) else (found,)
        return dx, dict(zip(values, rest, strict=True))

    return Part(name, run, back, values)


def pair_maximum() -> Part:
    """Return the larger one of each two neighbours; of a tie the first has the gradient."""

    def forward(x: Array) -> tuple[Array, Array]:
        first = x[:, ::2].real >= x[:, 1::2].real
        return np.where(first, x[:, ::2], x[:, 1::2]), first

    def backward(dy: Array, first: Array) -> tuple[Array, Values]:
        return np.stack([dy * first, dy * ~first], axis=-1).reshape(len(dy), -1), {}

    return Part("maximum", forward, backward, {})


def scaled_product(width: int, rng: np.random.Generator) -> Part:
    """x times a sigmoid of x and a parameter."""
    values = {"w": rng.standard_normal(width)}

    def forward(x: Array, w: Array) -> tuple[Array, Any]:
        s = _sigmoid(x * w)
        return x * s, (x, w, s)

    def backward(dy: Array, cache: Any) -> tuple[Array, Values]:
        x, w, s = cache
        inner = dy * x * s * (1 - s)
        return dy * s + inner * w, {"w": (inner * x).sum(axis=0)}

    return Part("gate", forward, backward, values)


def biased(width: int, rng: np.random.Generator) -> Part:
    """x + b: before a normalization or a softmax its gradient, or the sum of it, is exactly 0."""
    return Part(
        "bias", lambda x, b: (x + b, None), lambda dy, _: (dy, {"b": dy.sum(axis=0)}), {"b": rng.standard_normal(width)}
    )


def rounding_bias(width: int) -> Part:
    """x plus a number that is the same for a whole row: a softmax above takes it out."""
    return Part("constant", lambda x, c: (x + c, None), lambda dy, _: (dy, {"c": dy.sum()}), {"c": np.array(0.3)})


def rounded() -> Part:
    """x rounded to float32, as what an accelerator or an older library computes."""

    def forward(x: Array) -> tuple[Array, None]:
        return (x if np.iscomplexobj(x) else x.astype(np.float32).astype(x.dtype)), None

    return Part("float32", forward, lambda dy, _: (dy, {}), {})


def means() -> Part:
    """x less the mean of its row."""
    return Part(
        "centred",
        lambda x: (x - x.mean(axis=-1, keepdims=True), None),
        lambda dy, _: (dy - dy.mean(axis=-1, keepdims=True), {}),
        {},
    )


def random_part(width: int, rng: np.random.Generator, kinks: bool) -> tuple[list[Part], int]:
    """Return parts for rows of this width, and the width of what they return."""
    kind = rng.choice(
        ["smooth", "kinked", "dense", "norm", "softmax", "gate", "maximum", "scale", "cumsum", "centred", "pair"],
        p=[0.2, 0.17, 0.2, 0.1, 0.08, 0.06, 0.05, 0.05, 0.03, 0.03, 0.03],
    )  # fmt: skip
    if kind in ("smooth", "kinked"):
        kinked = kind == "kinked" and kinks
        among = KINKED if kinked else SMOOTH
        name = str(rng.choice(list(among)[: len(among) - (kinked and rng.random() < 0.8)]))
        return [elementwise(name, *among[name])], width
    if kind == "dense":
        outputs = int(rng.integers(1, 6))
        size = float(rng.choice([1, 1, 1, 1e-6, 1e4]))
        w = size * rng.standard_normal((outputs, width))
        if rng.random() < 0.1:
            w[0] = 0
        return [by_pair("dense", (hw.affine, hw.affine_backward), w=w, b=rng.standard_normal(outputs))], outputs
    if kind == "norm":
        axis = int(rng.integers(2))
        before = [biased(width, rng)] if rng.random() < 0.5 else []
        part = by_pair(f"norm {axis}", hw.normalize(axis), w=rng.standard_normal(width), b=rng.standard_normal(width))
        return [*before, part], width
    if kind == "softmax":
        before = [rounding_bias(width)] if rng.random() < 0.5 else []
        return [*before, by_pair("softmax", (hw.softmax, hw.softmax_backward))], width
    if kind == "maximum" and width % 2 == 0 and kinks:
        return [pair_maximum()], width // 2
    if kind == "pair" and width % 2 == 0:
        return [by_pair("glu", (hw.gate, hw.gate_backward))], width // 2
    made = {
        "gate": lambda: scaled_product(width, rng),
        "scale": lambda: by_pair(
            "scale", (hw.scale, hw.scale_backward), w=rng.standard_normal(width), b=rng.standard_normal(width)
        ),
        "cumsum": lambda: by_pair("cumsum", (hw.cumsum, hw.cumsum_backward)),
    }
    return [made.get(str(kind), means)()], width


def random_layer(seed: int) -> tuple[Chain, Array]:
    """Return the layer of a seed, and an input for it."""
    rng = np.random.default_rng((seed, 20261125))
    rows, width = (int(n) for n in rng.choice([1, 2, 3, 4, 5, 6, 7], 2))
    x = rng.standard_normal((rows, width))
    first = width
    on_grid = rng.random() < 0.25
    if on_grid:  # kinks and ties: numbers on a coarse grid, -1, 0 and 1 among them
        x = np.round(2 * x) / 2
    if rng.random() < 0.1:
        x[:, 0] = 0
    parts: list[Part] = []
    scale = float(rng.choice([1, 1, 1, 1, 1, 1e-12, 1e-5, 1e3, 1e8]))
    offset = scale * float(rng.choice([0, 0, 0, 0, 0, 1, 1e3, 1e6]))  # what x varies over is seen beside it
    if rng.random() < 0.5:  # the input is as large or small, and a first part brings it back
        x = scale * x + offset
        if rng.random() < 0.8:
            parts.append(shifted(1 / scale, -offset / scale))
    if rng.random() < 0.04:
        parts.append(rounded())
    for _ in range(int(rng.integers(1, 5))):
        # two kinks at one point may leave no kink, where no choice of slopes is right any more: so it is after another
        # kink, and after a mean is taken off, where two numbers are 0 and move in opposite directions
        tied = on_grid and any(part.name in (*KINKS, "centred") for part in parts)
        more, width = random_part(width, rng, kinks=not tied)
        parts += more
    if rng.random() < 0.15:
        parts.append(shifted(float(rng.choice([1e-12, 1e-6, 1e6])), 0.0))
    if rng.random() < 0.1:
        parts.append(shifted(1.0, float(rng.choice([1e3, 1e6]))))
    assert x.shape == (rows, first)
    return Chain(parts, np.float32 if rng.random() < 0.4 else np.float64), x
