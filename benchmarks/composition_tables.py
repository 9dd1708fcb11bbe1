"""Tables of composition and structure: what a network costs that is written in other ways. Printed by speed.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from side_by_side import measure, seconds, table

import nnframe as nn

SIZES = (64, 50, 10)
ROWS = 32


class Attributes(nn.Layer):
    """Layers in attributes."""

    def __init__(self) -> None:
        self.hidden, self.act, self.out = _parts()

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.out(self.act(self.hidden(x)))


class InAList(nn.Layer):
    """Layers in a list, called in a loop."""

    def __init__(self) -> None:
        self.parts = _parts()

    def forward(self, x: np.ndarray) -> np.ndarray:
        for part in self.parts:
            x = part(x)
        return x


class InADict(nn.Layer):
    """Layers in a dict."""

    def __init__(self) -> None:
        self.parts = dict(zip(("hidden", "act", "out"), _parts(), strict=True))

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.parts["out"](self.parts["act"](self.parts["hidden"](x)))


class Subclass(nn.Sequential):
    """Derived from Sequential, nothing added."""


class Hidden(nn.Layer):
    """The lower two layers in attributes."""

    def __init__(self, linear: nn.Layer, act: nn.Layer) -> None:
        self.linear, self.act = linear, act

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.act(self.linear(x))


class Nested(nn.Layer):
    """A Sequential in an attribute, in which there is a layer with attributes."""

    def __init__(self) -> None:
        hidden, act, out = _parts()
        self.body, self.out = nn.Sequential(Hidden(hidden, act)), out

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.out(self.body(x))


def _parts() -> list[nn.Layer]:
    rng = np.random.default_rng(0)
    return [nn.Linear(*SIZES[:2], rng=rng), nn.Sigmoid(), nn.Linear(*SIZES[1:], rng=rng)]


def _sequential_in_sequential() -> nn.Sequential:
    hidden, act, out = _parts()
    return nn.Sequential(nn.Sequential(hidden, act), nn.Sequential(out))


WAYS: dict[str, Callable[[], nn.Layer]] = {
    "`Sequential`": lambda: nn.Sequential(*_parts()),
    "an empty class derived from `Sequential`": lambda: Subclass(*_parts()),
    "`Sequential` in `Sequential`": _sequential_in_sequential,
    "attributes": Attributes,
    "attributes in `Sequential` in attributes": Nested,
    "a list": InAList,
    "a dict": InADict,
}


WARM = 2048  # gradients before times are taken


def composition(full: bool) -> str:
    """The same network written in several ways: time of a gradient, and how often that of a literal Sequential."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((ROWS, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], ROWS)
    loss = nn.CrossEntropyLoss()
    strategies: dict[str, Any] = {"`CentralDifference`": nn.CentralDifference(), "`Backprop`": nn.Backprop()}

    def run(strategy: Any, model: nn.Layer) -> Callable[[], object]:
        return lambda: strategy(model, loss, x, t)

    rows = [[way] for way in WAYS]
    for strategy in strategies.values():
        ways = {way: run(strategy, make()) for way, make in WAYS.items()}
        for way in ways.values():
            for _ in range(WARM):  # models are looked at as a whole after pauses that double at first
                way()
        times = measure(ways, 15 if full else 7)
        first = next(iter(times.values()))
        for row, each in zip(rows, times.values(), strict=True):
            row += [seconds(each), f"{each / first:.2f}"]
    sizes = "-".join(map(str, SIZES))
    title = f"{sizes} sigmoid, batch {ROWS}, float32: one gradient"
    header = ["layers held in"]
    for name in strategies:
        header += [name, "times a literal `Sequential`"]
    return f"{title}; {nn.get_num_threads()} threads\n\n" + table(header, rows)


class Convolution(nn.Layer):
    """3x3 over (N, C, H, W), zeros around: NumPy, forward only, without a word about its structure."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.weight = nn.Parameter(np.random.default_rng(0).standard_normal((outputs, inputs, 3, 3)) / 5)
        self.bias = nn.Parameter(np.zeros(outputs))

    def forward(self, x: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        n, c, h, w = x.shape
        columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 9)
        y = columns @ self.weight.value.reshape(len(self.weight.value), -1).T + self.bias.value
        y = np.ascontiguousarray(y.reshape(n, h, w, -1).transpose(0, 3, 1, 2))
        COUNTED["calls"] += 1
        COUNTED["rows"] += n
        COUNTED["seconds"] += time.perf_counter() - start
        return y


COUNTED: dict[str, float] = {}
IMAGES = (64, 3, 32, 32)
CHANNELS = 8


class Scale(nn.Layer):
    """One factor a channel, with a backward: below the convolution, so that a gradient passes through that."""

    def __init__(self, channels: int) -> None:
        self.factor = nn.Parameter(np.ones(channels))

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x * self.factor.value[:, None, None]

    def backward(self, x: np.ndarray, y: np.ndarray, dy: np.ndarray) -> np.ndarray:
        self.factor.grad += (dy * x).sum(axis=(0, 2, 3))
        return dy * self.factor.value[:, None, None]


def structure(full: bool) -> str:
    """A hybrid gradient through a forward-only 3x3 convolution: evaluations and seconds, the first time and later."""
    rng = np.random.default_rng(0)
    x, loss = rng.standard_normal(IMAGES).astype(np.float32), nn.MSELoss()
    t = rng.standard_normal((IMAGES[0], CHANNELS, *IMAGES[2:])).astype(np.float32)
    rows = []
    for what, model in (
        ("parameters", nn.Sequential(Convolution(IMAGES[1], CHANNELS))),
        ("input and parameters", nn.Sequential(Scale(IMAGES[1]), Convolution(IMAGES[1], CHANNELS))),
    ):
        strategy = nn.Backprop()
        calls = []
        for _ in range(9 if full else 4):
            COUNTED.update(calls=0, rows=0, seconds=0)
            start = time.perf_counter()
            strategy(model, loss, x, t)
            calls.append(COUNTED | {"all": time.perf_counter() - start})
        first, later = calls[0], min(calls[1:], key=lambda call: call["all"])
        plain = 2 * (sum(p.value.size for p in model[-1].parameters()) + (x[0].size if "input" in what else 0))
        rows.append(
            [
                what,
                f"{plain:,}",
                *(f"{call['rows'] / IMAGES[0]:.1f}" for call in (first, later)),
                *(seconds(call["all"]) for call in (first, later)),
                f"{max(0, 1 - later['all'] / first['all']):.0%}",
                f"{later['seconds'] / later['all']:.0%}",
            ]
        )
    header = [
        "gradient of",
        "evaluations, entry by entry",
        "evaluations, first call",
        "later calls",
        "time, first call",
        "later calls",
        "share of asking in the first",
        "share of forward in later calls",
    ]
    title = f"forward-only 3x3 convolution in NumPy, x {IMAGES}, {CHANNELS} channels out, float32, by `Backprop`"
    return f"{title}; an evaluation is {IMAGES[0]} rows; {nn.get_num_threads()} threads\n\n" + table(header, rows)
