"""What a central-difference gradient costs beside `Backprop`, by depth, selected entries and kind of network.

Printed by speed.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from networks import classifier
from side_by_side import measure, seconds, table

import nnframe as nn

# layer sizes, rows of the mini-batch, and the most that a gradient may cost in times of Backprop
DEPTHS = [
    ([784, 50, 10], 100, 3), ([64, 64, 10], 100, 5), ([64, 64, 64, 10], 100, 12), ([64, 64, 64, 64, 10], 100, 30),
    ([4, 32, 16, 4], 1000, 10),
]  # fmt: skip


def batch(sizes: list[int], rows: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs and labels, seeded."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((rows, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], rows)


def taking(strategy: Any, model: nn.Layer, x: np.ndarray, t: np.ndarray) -> Callable[[], object]:
    loss = nn.CrossEntropyLoss()
    return lambda: strategy(model, loss, x, t)


def compared(model: nn.Layer, x: np.ndarray, t: np.ndarray, rounds: int = 15) -> tuple[float, float, float]:
    """Seconds of `CentralDifference` and of `Backprop`, and the largest difference over the largest entry."""
    strategies = {"central": nn.CentralDifference(), "backprop": nn.Backprop()}
    times = measure({name: taking(each, model, x, t) for name, each in strategies.items()}, rounds)
    found = {}
    for name, each in strategies.items():
        each(model, nn.CrossEntropyLoss(), x, t)
        found[name] = [p.grad.astype(np.float64) for p in model.parameters()]
    largest = max(np.abs(g).max() for g in found["backprop"])
    apart = max(np.abs(a - b).max() for a, b in zip(found["central"], found["backprop"], strict=True))
    return times["central"], times["backprop"], apart / largest


def depth(full: bool) -> str:
    """`CentralDifference` over `Backprop`, from one hidden layer to four, both dtypes, smooth and with kinks."""
    rows = []
    for sizes, count, most in DEPTHS:
        for dtype in (np.float32, np.float64):
            for activation in (nn.Tanh, nn.ReLU):
                x, t = batch(sizes, count, dtype)
                ours, other, apart = compared(classifier(sizes, activation, dtype), x, t)
                what = ["-".join(map(str, sizes)), f"{count:,}", np.dtype(dtype).name, activation.__name__]
                rows.append([*what, seconds(ours), seconds(other), f"{ours / other:.1f}", str(most), f"{apart:.0e}"])
    header = ["layers", "rows", "dtype", "activation", "`CentralDifference`", "`Backprop`", "ratio", "at most", "apart"]
    title = f"a gradient by differences over one by backpropagation; {nn.get_num_threads()} threads"
    return title + "\n\n" + table(header, rows)


SIZES = [784, 50, 10]


def selected(full: bool) -> str:
    """What `Blocks` of a network's entries cost, over all of them."""
    rows = []
    for dtype in (np.float32, np.float64):
        x, t = batch(SIZES, 100, dtype)
        model = classifier(SIZES, nn.Tanh, dtype)
        loss = nn.CrossEntropyLoss()
        ways: dict[str, Callable[[], object]] = {
            "all": taking(nn.CentralDifference(), model, x, t),
            "all, weight by weight": taking(nn.CentralDifference(interpolate=False), model, x, t),
            "forward and loss": lambda model=model, x=x, t=t: loss(model(x), t),
        }
        for size in (10, 100, 1000, 10000):
            blocks = nn.Blocks(size, rng=0)
            ways[f"`Blocks({size})`"] = taking(nn.CentralDifference(only=blocks), model, x, t)
        times = measure(ways, 15)
        for name, each in times.items():
            over = f"{each / times['all, weight by weight']:.3f}"
            rows.append([np.dtype(dtype).name, name, seconds(each), f"{each / times['all']:.2f}", over])
    count = sum(p.value.size for p in model.parameters())
    title = f"{'-'.join(map(str, SIZES))} tanh, batch 100, blocks of {count:,} entries; {nn.get_num_threads()} threads"
    header = ["dtype", "entries", "time", "over all", "over all weight by weight"]
    return title + "\n\n" + table(header, rows)


class Swish(nn.Layer):
    """An elementwise layer that C does not know."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))


class Hinge(nn.Layer):
    """Another, with a kink."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, 0.1 * x)


class Derived(nn.Linear):
    """A linear layer under another name."""


class Body(nn.Layer):
    """Calls two layers one after the other."""

    def __init__(self, one: nn.Linear, two: nn.Linear) -> None:
        self.one, self.two, self.act = one, two, nn.Tanh()

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.act(self.two(self.act(self.one(x))))


class Quartic(nn.Loss):
    """A loss that C does not know, given by its rows."""

    def rows(self, y: np.ndarray, t: np.ndarray) -> np.ndarray:
        d = y - t
        return (d * d * d * d).sum(axis=1)


class Form(NamedTuple):
    """A kind of network, loss or data, whose gradient is compared with that of the plain one."""

    model: nn.Layer
    loss: nn.Loss
    x: np.ndarray
    t: np.ndarray
    strategy: nn.CentralDifference


def forms_of(dtype: type) -> dict[str, Form]:
    """Kinds of 64-64-64-10 networks; the first is that with which the others are compared."""

    def linear(below: int, above: int, kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
        return kind(below, above, dtype=dtype, rng=below + above)

    def of(*layers: nn.Layer, loss: nn.Loss | None = None, **other: Any) -> Form:
        x, t = batch([64, 10], 100, dtype)
        given = {"x": x, "t": t, "strategy": nn.CentralDifference(), "loss": loss or nn.CrossEntropyLoss()} | other
        return Form(nn.Sequential(*layers), **given)

    def plain(**other: Any) -> Form:
        return of(linear(64, 64), nn.Tanh(), linear(64, 64), nn.Tanh(), linear(64, 10), **other)

    one, rng = linear(64, 64), np.random.default_rng(0)
    x, t = batch([64, 10], 100, dtype)
    masked = plain()
    masks = {p: rng.random(p.value.shape) < 0.5 for p in masked.model.parameters()}
    positions = {"x": x.reshape(20, 5, 64), "t": t.reshape(20, 5)}
    return {
        "plain": plain(),
        "class weights": plain(loss=nn.CrossEntropyLoss(weight=rng.uniform(0.5, 2, 10))),
        "`ignore_index`": plain(loss=nn.CrossEntropyLoss(ignore_index=3)),
        "masks of half of the entries": masked._replace(strategy=nn.CentralDifference(only=masks)),
        "three axes": plain(**positions),
        "own loss with rows": plain(loss=Quartic(), t=rng.standard_normal((100, 10)).astype(dtype)),
        "shared layer": of(one, nn.Tanh(), one, nn.Tanh(), linear(64, 10)),
        "custom elementwise below the top": of(linear(64, 64), nn.Tanh(), linear(64, 64), Swish(), linear(64, 10)),
        "custom elementwise, two below the top": of(linear(64, 64), Swish(), linear(64, 64), nn.Tanh(), linear(64, 10)),
        "custom with a kink, everywhere": of(linear(64, 64), Hinge(), linear(64, 64), Hinge(), linear(64, 10)),
        "derived linear layers": of(
            linear(64, 64, Derived), nn.Tanh(), linear(64, 64, Derived), nn.Tanh(), linear(64, 10, Derived)
        ),
        "layers in an attribute": of(Body(linear(64, 64), linear(64, 64)), linear(64, 10)),
    }


def forms(full: bool) -> str:
    """What other kinds of networks cost beside one of built-in layers alone."""
    rows = []
    for dtype in (np.float32, np.float64):
        ways = {
            name: functools.partial(form.strategy, form.model, form.loss, form.x, form.t)
            for name, form in forms_of(dtype).items()
        }
        times = measure(ways, 15)
        rows += [
            [np.dtype(dtype).name, name, seconds(each), f"{each / times['plain']:.1f}"] for name, each in times.items()
        ]
    header = ["dtype", "64-64-64-10 tanh, batch 100", "time", "over the plain one"]
    return f"`CentralDifference` of other kinds of networks; {nn.get_num_threads()} threads\n\n" + table(header, rows)


def learnt(full: bool) -> str:
    """The networks of `depth` after 1,000 steps on one batch: the time, and the error beside float64."""
    rows = []
    for sizes, count, most in DEPTHS:
        for activation in (nn.Tanh, nn.ReLU):
            x, t = batch(sizes, count, np.float32)
            model, loss = classifier(sizes, activation, np.float32), nn.CrossEntropyLoss()
            adam, backprop = nn.Adam(model.parameters(), 0.01), nn.Backprop()
            for _ in range(1000):
                value = backprop(model, loss, x, t)
                adam.step()
            ours, other, _ = compared(model, x, t)
            wide = classifier(sizes, activation, np.float64)
            for p, q in zip(wide.parameters(), model.parameters(), strict=True):
                p.value[...] = q.value
            backprop(wide, loss, x.astype(np.float64), t)
            off = []
            for strategy in (nn.CentralDifference(), backprop):
                strategy(model, loss, x, t)
                pairs = [(q.grad, p.grad) for p, q in zip(wide.parameters(), model.parameters(), strict=True)]
                off.append(max(np.abs(a - b).max() for a, b in pairs) / max(np.abs(b).max() for _, b in pairs))
            what = ["-".join(map(str, sizes)), f"{count:,}", activation.__name__, f"{float(value):.1e}"]
            rows.append(
                [*what, seconds(ours), seconds(other), f"{ours / other:.1f}", str(most), *map("{:.0e}".format, off)]
            )
    header = ["layers", "rows", "activation", "loss", "`CentralDifference`", "`Backprop`", "ratio", "at most", "off",
              "`Backprop` off"]  # fmt: skip
    title = (
        "after 1,000 steps of Adam on one batch, float32; off: beside the gradient in float64, over its largest entry"
    )
    return f"{title}; {nn.get_num_threads()} threads\n\n" + table(header, rows)
