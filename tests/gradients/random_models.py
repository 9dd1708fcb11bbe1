"""Random models, every entry of their central-difference gradients against the definition in long double.

    python tests/gradients/random_models.py [COUNT [FIRST]]

Layers smooth, saturated, with kinks and with jumps, large and small weights and steps, both losses and dtypes, sparse
inputs. The definition is L(w + h) - L(w - h) in long double, the changes of each layer written so that nothing cancels,
by identities other than those of the kernels. Entries at which an argument comes to lie within rounding of an edge
have no one answer in the model's precision, and are left out.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import nnframe as nn

Long = np.longdouble
STEPS = (None, 1e-12, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 2.0)
# of the largest entry: what curves may be off by, and the rounding of sums
BOUND = {4: 1e-5, 8: 2e-13}
ROUNDINGS = 4  # of each row's part of an entry, which may cancel: what any sum in the model's precision may be off by
NEAR = {4: 3e-5, 8: 1e-12}  # of an argument to its kink, beside the largest one


class Found(NamedTuple):
    """What was compared: the largest error over the bound, entries compared and left out, and the model in words."""

    error: float
    entries: int
    left_out: int
    what: str


# ---- changes in long double ----


def sided(x: Any, d: Any, below: Callable[[Any, Any], Any], values: Callable[[Any], Any], above: float = 1.0) -> Any:
    """Return the change of a function with an edge at 0: above it straight, below it by `below`, else by values."""
    moved = x + d
    same = np.where((x > 0) & (moved > 0), above * d, below(x, d))
    return np.where((x > 0) == (moved > 0), same, values(moved) - values(x))


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "Tanh": lambda x, d: np.sinh(d) / (np.cosh(x) * np.cosh(x + d)),
    "Sigmoid": lambda x, d: np.sinh(d / 2) / (2 * np.cosh(x / 2) * np.cosh((x + d) / 2)),
    "ReLU": lambda x, d: sided(x, d, lambda x, d: 0 * d, lambda x: np.maximum(x, 0)),
    "LeakyReLU": lambda x, d: sided(x, d, lambda x, d: Long(0.01) * d, lambda x: np.where(x > 0, x, Long(0.01) * x)),
    "ELU": lambda x, d: sided(
        x, d, lambda x, d: np.exp(x) * np.expm1(d), lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    ),
    "Step": lambda x, d: (x + d > 0) * Long(1) - (x > 0),
}
VALUES: dict[str, Callable[[Any], Any]] = {
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "ReLU": lambda x: np.maximum(x, 0),
    "LeakyReLU": lambda x: np.where(x > 0, x, Long(0.01) * x),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "Step": lambda x: (x > 0) * Long(1),
}
EDGES = {"ReLU", "LeakyReLU", "ELU", "Step"}


def loss_changes(loss: nn.Loss, y: Any, t: Any, d: Any) -> Any:
    """Return how the loss changes where outputs (N, C) change by d (S, N, C): each row's part of it, (S, N)."""
    if isinstance(loss, nn.MSELoss):
        return (d * (2 * (y - t) + d)).mean(axis=2) / len(y)
    rows = np.arange(len(y))
    own = np.zeros(y.shape, bool)
    own[rows, t] = True
    p = np.exp(y - y.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    apart = d - d[:, rows, t][:, :, None]  # from the label
    near = np.log1p(np.where(own, 0, p * np.expm1(np.minimum(apart, 50))).sum(axis=2))
    high = apart.max(axis=2, keepdims=True)
    far = high[:, :, 0] + np.log((p * np.exp(apart - high)).sum(axis=2))
    return np.where(np.abs(apart).max(axis=2) < 1, near, far) / len(y)


class Definition:
    """A model of linear layers and activations, run once in long double."""

    def __init__(self, model: nn.Sequential, loss: nn.Loss, x: Any, t: Any, near: float) -> None:
        self.layers, self.loss, self.t, self.near = list(model), loss, t, near
        self.inputs = [x.astype(Long)]
        for layer in self.layers:
            self.inputs.append(self.run(layer, self.inputs[-1]))
        self.no_answer = any(  # an output of 0 or 1 that hangs on rounding
            isinstance(layer, nn.Step) and bool(((np.abs(x) < near * np.abs(x).max(initial=1)) & (x != 0)).any())
            for layer, x in zip(self.layers, self.inputs, strict=False)
        )

    @staticmethod
    def run(layer: Any, x: Any) -> Any:
        if isinstance(layer, nn.Linear):
            y = x @ layer.weight.value.T.astype(Long)
            return y if layer.bias is None else y + layer.bias.value
        return VALUES[type(layer).__name__](x)

    def gradient(self, which: int, step: float) -> tuple[Any, Any, Any]:
        """Of layer `which`: O (I + 1) weights and biases, what rows make of each, where there is no one answer."""
        x, outputs = self.inputs[which], self.inputs[which + 1].shape[1]
        read = np.concatenate([x, np.ones((len(x), 1), Long)], axis=1)
        inputs = read.shape[1]
        changes, unsure = [], np.full(outputs * inputs, self.no_answer)
        for sign in (1, -1):
            d = np.zeros((outputs, inputs, len(x), outputs), Long)
            for o in range(outputs):
                d[o, :, :, o] = sign * Long(step) * read.T
            change, doubt = self.upwards(which + 1, d.reshape(outputs * inputs, len(x), outputs))
            changes.append(change)
            unsure |= doubt
        parts = (changes[0] - changes[1]) / (2 * Long(step))
        return parts.sum(axis=1), np.abs(parts).sum(axis=1), unsure

    def upwards(self, first: int, d: Any) -> tuple[Any, Any]:
        unsure = np.zeros(len(d), bool)
        for layer, x in zip(self.layers[first:], self.inputs[first:], strict=False):
            if isinstance(layer, nn.Linear):
                d = d @ layer.weight.value.T.astype(Long)
                continue
            name = type(layer).__name__
            if name in EDGES:
                close = self.near * np.abs(x).max(initial=1)
                edge = (np.minimum(np.abs(x), np.abs(x + d)) < close) & (d != 0)
                unsure |= edge.any(axis=(1, 2))
            d = CHANGES[name](x, d)
        return loss_changes(self.loss, self.inputs[-1], self.t, d), unsure


# ---- random models ----


def drawn(seed: int) -> tuple[nn.Sequential, nn.Loss, Any, Any, float | None, str]:
    """A model, a loss, a mini-batch and a step."""
    rng = np.random.default_rng(seed)
    dtype = np.float32 if rng.random() < 0.5 else np.float64
    widths = [int(rng.integers(1, 14)), *rng.integers(1, 8, int(rng.integers(1, 4))), int(rng.integers(2, 5))]
    names = [str(rng.choice(list(VALUES))) for _ in widths[1:-1]]
    layers: list[nn.Layer] = []
    for (below, above), name in zip(itertools.pairwise(map(int, widths)), [*names, None], strict=True):
        linear = nn.Linear(below, above, bias=bool(rng.random() < 0.8), dtype=dtype, rng=rng)
        size = 10 ** rng.uniform(-1, 1.3) if name and rng.random() < 0.4 else 1
        linear.weight.value *= dtype(size)  # saturated, or nearly still
        if linear.bias is not None:
            linear.bias.value[...] = rng.standard_normal(above) * rng.choice([0, 1])
        layers += [linear, getattr(nn, name)()] if name else [linear]
    rows = int(rng.integers(1, 12))
    x = (rng.standard_normal((rows, widths[0])) * 10 ** rng.choice([0, 0, 0, -3, 1.5])).astype(dtype)
    x[rng.random(x.shape) < rng.choice([0, 0.4])] = 0
    loss: nn.Loss = nn.CrossEntropyLoss() if rng.random() < 0.7 else nn.MSELoss()
    classes = widths[-1]
    t = (
        rng.integers(0, classes, rows)
        if isinstance(loss, nn.CrossEntropyLoss)
        else rng.standard_normal((rows, classes))
    )
    step = STEPS[int(rng.integers(len(STEPS)))]
    t = t if t.dtype.kind == "i" else t.astype(dtype)
    what = f"{seed}: {np.dtype(dtype).name} {'-'.join(map(str, widths))} {' '.join(names)} {loss!r} rows {rows}"
    return nn.Sequential(*layers), loss, x, t, step, f"{what} step {step}"


def compared(seed: int, interpolate: bool = True) -> Found:
    """Compare one model."""
    model, loss, x, t, step, what = drawn(seed)
    size = x.dtype.itemsize
    with np.errstate(all="ignore"):
        definition = Definition(model, loss, x, t, NEAR[size])
        expected = [
            (layer, *definition.gradient(i, 1e-12 if step is None else step))
            for i, layer in enumerate(model)
            if isinstance(layer, nn.Linear)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that nothing passes a step function
            nn.CentralDifference(step, interpolate=interpolate)(model, loss, x, t)
    worst, entries, left_out = 0.0, 0, 0
    largest = max(float(np.abs(g[~unsure & np.isfinite(g)]).max(initial=0)) for _, g, _, unsure in expected)
    parts = max(float(p[~unsure & np.isfinite(p)].max(initial=0)) for _, _, p, unsure in expected)
    rounding = ROUNDINGS * float(np.finfo(x.dtype).eps) * parts
    scale = max(largest, 1e-3 * float(np.abs(x).max(initial=1)), rounding / BOUND[size])
    for layer, gradient, _, unsure in expected:
        ones = np.zeros((len(layer.weight.value), 1)) if layer.bias is None else layer.bias.grad[:, None]
        found = np.concatenate([layer.weight.grad, ones], axis=1).astype(Long)
        gradient, unsure = gradient.reshape(found.shape), unsure.reshape(found.shape)
        if layer.bias is None:
            found, gradient, unsure = found[:, :-1], gradient[:, :-1], unsure[:, :-1]
        known = ~unsure & np.isfinite(gradient)
        off = np.abs(found - gradient)[known] / scale
        off[~np.isfinite(off)] = np.inf
        worst = max(worst, float(off.max(initial=0)))
        entries, left_out = entries + int(known.sum()), left_out + int((~known).sum())
    return Found(worst / BOUND[size], entries, left_out, what)


def main() -> None:
    count, first = (int(a) for a in (*sys.argv[1:], *("10000", "0")[len(sys.argv) - 1 :]))
    found = [compared(seed) for seed in range(first, first + count)]
    bad = sorted((one for one in found if not one.error <= 1), reverse=True)
    for one in bad[:40]:
        print(f"{one.error:.1e} times the bound: {one.what}")
    entries, left = sum(one.entries for one in found), sum(one.left_out for one in found)
    print(f"{count:,} models, {entries:,} entries compared, {left:,} left out: {len(bad)} models are off")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
