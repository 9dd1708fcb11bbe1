"""Layers as users write them: `forward` alone, without a flag, and what is expected of a gradient through each.

`CASES` is the table. A case is either `RIGHT` (every strategy gives what `numerical_gradient` gives), `warned(words)`
(the same, with a warning that says so: nothing passes), or `refused(words)` (an error that names the layer).
"""

import ctypes
import dataclasses
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nnframe as nn

RIGHT = "right"


def refused(words):
    """An error that names the layer's class, and has these words (a regular expression)."""
    return f"refused: {words}"


def warned(words="its differences are all 0"):
    """The right gradient, and a RuntimeWarning that names the layer's class and has these words."""
    return f"warned: {words}"


# ---- rows that mix ----


class BatchNorm(nn.Layer):
    def __init__(self, features=4):
        self.gamma = nn.Parameter(np.linspace(0.5, 1.5, features))
        self.beta = nn.Parameter(np.linspace(-0.2, 0.2, features))

    def forward(self, x):
        return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5) * self.gamma.value + self.beta.value


class SampleStd(nn.Layer):
    """Not defined for a single row."""

    def forward(self, x):
        return (x - x.mean(axis=0)) / (x.std(axis=0, ddof=1) + 0.1)


class BatchSoftmax(nn.Layer):
    def forward(self, x):
        e = np.exp(x - x.max(axis=0))
        return e / e.sum(axis=0)


class RowCumsum(nn.Layer):
    def forward(self, x):
        return np.cumsum(np.tanh(x), axis=0)


class SortOverBatch(nn.Layer):
    def forward(self, x):
        return np.sort(x, axis=0)


class RollBatch(nn.Layer):
    def forward(self, x):
        return np.roll(np.tanh(x), 1, axis=0)


class BatchMax(nn.Layer):
    """Rows meet in the largest of each column only."""

    def forward(self, x):
        return np.tanh(x) - x.max(axis=0)


class CappedByBatch(nn.Layer):
    """Rows meet only where one of them is above what the largest allows."""

    def forward(self, x):
        return np.minimum(x, 0.7 * x.max(axis=0))


class WeakCoupling(nn.Layer):
    def forward(self, x):
        return x + 1e-6 * x.mean(axis=0)


class OverRows(nn.Layer):
    """Depends on how many rows there are, and on nothing else of the other rows."""

    def forward(self, x):
        return np.tanh(x) / len(x)


class RowNumber(nn.Layer):
    def forward(self, x):
        return np.tanh(x) * (1 + np.arange(len(x)))[:, None]


class OneWeightPerRow(nn.Layer):
    """A constant for each row of the batch that is trained on: fits no other number of rows."""

    def __init__(self, rows):
        self.weights = np.linspace(0.5, 2, rows)[:, None]

    def forward(self, x):
        return np.tanh(x) * self.weights


class EveryOtherRow(nn.Layer):
    """Rows n and n + 2 meet, in groups of four."""

    def forward(self, x):
        groups = x.reshape(-1, 2, 2, x.shape[1])
        return (groups - np.tanh(groups).mean(axis=1, keepdims=True)).reshape(x.shape)


class NearestRows(nn.Layer):
    """Each row meets the two that are nearest to it."""

    def forward(self, x):
        distance = ((x[:, None] - x[None]) ** 2).sum(axis=-1)
        return np.tanh(x) + x[np.argsort(distance, axis=1)[:, 1:3]].mean(axis=1)


class Whitening(nn.Layer):
    def forward(self, x):
        centred = x - x.mean(axis=0)
        covariance = centred.T @ centred / len(x) + 0.1 * np.eye(x.shape[1])
        return centred @ np.linalg.inv(np.linalg.cholesky(covariance)).T


class SeededMask(nn.Layer):
    """The same mask at each call, for as many rows as there are."""

    def forward(self, x):
        return x * (np.random.default_rng(0).random(x.shape) > 0.4)


class LazyMask(nn.Layer):
    """A constant that the first call makes."""

    mask = None

    def forward(self, x):
        if self.mask is None:
            self.mask = np.random.default_rng(0).random(x.shape) > 0.4
        return np.tanh(x) * self.mask


class BroadcastMean(nn.Layer):
    def forward(self, x):
        return np.broadcast_to(np.tanh(x).mean(axis=0), x.shape)


class ZeroGate(nn.Layer):
    """Starts as the identity; rows mix as soon as alpha has been trained."""

    def __init__(self):
        self.alpha = nn.Parameter(np.zeros(4))

    def forward(self, x):
        return x + self.alpha.value * np.tanh(x.mean(axis=0))


class CentredWhereLarge(nn.Layer):
    """Rows mix in some batches only."""

    def forward(self, x):
        return x - x.mean(axis=0) if len(x) < 6 else np.tanh(x)


# ---- entries of a row that mix ----


class Cumsum(nn.Layer):
    def forward(self, x):
        return np.cumsum(np.tanh(x), axis=-1)


class SortFeatures(nn.Layer):
    def forward(self, x):
        return np.sort(x, axis=-1)


class RollFeatures(nn.Layer):
    def forward(self, x):
        return np.roll(np.tanh(x), 1, axis=-1)


class Softmax(nn.Layer):
    def forward(self, x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)


class TopK(nn.Layer):
    def forward(self, x):
        return x * (x >= np.sort(x, axis=-1)[:, -2:-1])


class RareGate(nn.Layer):
    """The first entry of a row touches the others in very few rows."""

    def __init__(self, threshold):
        self.threshold = threshold

    def forward(self, x):
        return np.tanh(x) + np.maximum(x[:, :1] - self.threshold, 0)


class Lookup(nn.Layer):
    """A table of which a batch uses a few entries; nothing passes to what is below."""

    def __init__(self):
        self.table = nn.Parameter(np.random.default_rng(66).standard_normal((12, 4)))

    def forward(self, x):
        index = np.clip(np.floor(2 * x) + 6, 0, 11).astype(int)
        return self.table.value[index, np.arange(x.shape[1])]


class MixedUnits(nn.Layer):
    """Outputs of very different size."""

    def forward(self, x):
        mixed = np.tanh(x + np.roll(x, 1, axis=1))
        return mixed * np.repeat([1e10, 1.0, 1e-4], 4)


class OneUnit(nn.Layer):
    def forward(self, x):
        return x * np.repeat([1e-10, 1.0, 1e4], 4)


class BroadcastFirst(nn.Layer):
    def forward(self, x):
        return np.broadcast_to(x[:, :1], x.shape)


class Spectrum(nn.Layer):
    def forward(self, x):
        return np.abs(np.fft.rfft(x, axis=1))


class FixedPoint(nn.Layer):
    """As many rounds as it takes."""

    def forward(self, x):
        y = np.zeros_like(x)
        for _ in range(200):
            y, before = np.tanh(0.5 * y + x), y
            if np.abs(y - before).max() < 1e-14:
                break
        return y


class Validating(nn.Layer):
    """Refuses what lies outside its domain."""

    def forward(self, x):
        if (x <= 0).any():
            raise ValueError("x must be positive")
        return np.log(x) - np.log(x.sum(axis=1, keepdims=True))


class ValidatingParameter(nn.Layer):
    def __init__(self):
        self.width = nn.Parameter(np.linspace(0.7, 2, 12))

    def forward(self, x):
        if (self.width.value <= 0).any():
            raise ValueError("width must be positive")
        return x * np.log(self.width.value)


class ReversedView(nn.Layer):
    def forward(self, x):
        return x[:, ::-1]


class FirstColumns(nn.Layer):
    def forward(self, x):
        return x[:, :3]


class ItsInput(nn.Layer):
    def forward(self, x):
        return x


# ---- random, and what changes from call to call ----


class Dropout(nn.Layer):
    def __init__(self):
        self.random = nn.Random(3)

    def forward(self, x):
        if not self.training:
            return x
        return x * (self.random.uniform(x) > 0.3) / 0.7


class NormalNoise(nn.Layer):
    def __init__(self):
        self.random = nn.Random(3)

    def forward(self, x):
        return x * (1 + 0.5 * self.random.normal(x)) if self.training else x


class Mixup(nn.Layer):
    """Rows mix by random weights."""

    def __init__(self):
        self.random = nn.Random(5)

    def forward(self, x):
        share = self.random.uniform(x)[:, :1]
        return share * x + (1 - share) * x[::-1] if self.training else x


class GlobalDropout(nn.Layer):
    def forward(self, x):
        return x * (np.random.random(x.shape) > 0.5)  # noqa: NPY002  as users write it


class GeneratorNoise(nn.Layer):
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def forward(self, x):
        return x + self.rng.standard_normal(x.shape)


class Counting(nn.Layer):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * (1 + 0.1 * self.calls)


class EveryTenth(nn.Layer):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return 2 * x if self.calls % 10 == 0 else np.tanh(x)


class RunningMean(nn.Layer):
    """Updates in forward what `observe` is for."""

    def __init__(self):
        self.mean = np.zeros(4)

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(axis=0)
        return x - self.mean


class ForgetfulMemo(nn.Layer):
    """Returns the stored answer for an equal x, though its parameter has moved."""

    def __init__(self):
        self.scale = nn.Parameter(np.linspace(0.5, 1.5, 4))
        self.x = self.y = None

    def forward(self, x):
        if self.x is None or not np.array_equal(x, self.x):
            self.x, self.y = x.copy(), np.tanh(x * self.scale.value)
        return self.y


class CachedOutput(nn.Layer):
    def forward(self, x):
        self.y = np.tanh(x)
        return self.y


class Memo(nn.Layer):
    """Returns the stored answer where x is the same array, or an equal one."""

    x = y = None

    def forward(self, x):
        if self.x is None or not np.array_equal(x, self.x):
            self.x, self.y = x, np.tanh(x)
        return self.y


class OutputBuffer(nn.Layer):
    """Every answer is the same array."""

    buffer = None

    def forward(self, x):
        if self.buffer is None or self.buffer.shape != x.shape or self.buffer.dtype != x.dtype:
            self.buffer = np.empty_like(x)
        np.tanh(x, out=self.buffer)
        return self.buffer


class GrowingList(nn.Layer):
    def __init__(self):
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return np.tanh(x)


# ---- writing into what was given ----


class InPlaceReLU(nn.Layer):
    def forward(self, x):
        x[x < 0] = 0
        return x


class OutIsInput(nn.Layer):
    def forward(self, x):
        return np.tanh(x, out=x)


class AddedInPlace(nn.Layer):
    """Writes into what a layer that it holds has returned."""

    def __init__(self):
        self.inner, self.outer = nn.Linear(4, 4, rng=21), nn.Linear(4, 4, rng=22)

    def forward(self, x):
        h = self.inner(x)
        h += x
        return self.outer(h)


class RectifiedInPlace(nn.Layer):
    """What `outer` reads is the very array that `inner` returned, with other numbers in it."""

    def __init__(self):
        self.inner, self.outer = nn.Linear(4, 4, rng=23), nn.Linear(4, 4, rng=24)

    def forward(self, x):
        h = self.inner(x)
        np.multiply(h, h, out=h)
        return self.outer(h)


class ClipsItsWeight(nn.Layer):
    """Writes into a parameter of a layer that it holds."""

    def __init__(self):
        self.inner = nn.Linear(4, 4, rng=25)

    def forward(self, x):
        np.clip(self.inner.weight.value, -0.4, 0.4, out=self.inner.weight.value)
        return self.inner(x)


class ClipsItsOwn(nn.Layer):
    """Writes into its own parameter, the same at each call."""

    def __init__(self):
        self.weight = nn.Parameter(np.random.default_rng(29).standard_normal((4, 4)))

    def forward(self, x):
        np.clip(self.weight.value, -0.4, 0.4, out=self.weight.value)
        return x @ self.weight.value


class WeightNorm(nn.Layer):
    """Sets a parameter of the layer that it holds from one of its own."""

    def __init__(self):
        self.inner, self.v = nn.Linear(4, 4, rng=26), nn.Parameter(np.random.default_rng(27).standard_normal((4, 4)))

    def forward(self, x):
        self.inner.weight.value[...] = self.v.value / np.sqrt((self.v.value**2).sum(axis=1, keepdims=True))
        return self.inner(x)


class LazyLinear(nn.Layer):
    """Makes its parameter in the first call."""

    weight = None

    def forward(self, x):
        if self.weight is None:
            self.weight = nn.Parameter(np.random.default_rng(28).standard_normal((x.shape[1], 4)), x.dtype)
        return x @ self.weight.value


# ---- composition ----


class Residual(nn.Layer):
    def __init__(self):
        self.inner = nn.Sequential(nn.Linear(4, 4, rng=31), nn.Tanh())

    def forward(self, x):
        return x + self.inner(x)


class TwoBranches(nn.Layer):
    def __init__(self):
        self.a, self.b = nn.Linear(4, 4, rng=32), nn.Sequential(nn.Linear(4, 4, rng=33), nn.Sigmoid())

    def forward(self, x):
        return self.a(x) * self.b(x)


class Attributes(nn.Layer):
    def __init__(self):
        self.hidden, self.act, self.out = nn.Linear(4, 6, rng=34), nn.Sigmoid(), nn.Linear(6, 4, rng=35)

    def forward(self, x):
        return self.out(self.act(self.hidden(x)))


class InAList(nn.Layer):
    def __init__(self):
        self.layers = [nn.Linear(4, 5, rng=36), nn.Tanh(), nn.Linear(5, 4, rng=37)]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class InADict(nn.Layer):
    def __init__(self):
        self.parts = {"in": nn.Linear(4, 5, rng=38), "act": nn.SiLU(), "out": nn.Linear(5, 4, rng=39)}

    def forward(self, x):
        return self.parts["out"](self.parts["act"](self.parts["in"](x)))


class Nested(nn.Layer):
    def __init__(self):
        self.first, self.second = nn.Sequential(Attributes(), nn.Tanh()), InAList()

    def forward(self, x):
        return self.second(self.first(x))


class ActInside(nn.Layer):
    """The activation has no parameters, hence no dtype of its own."""

    def __init__(self):
        self.weight = nn.Parameter(np.random.default_rng(40).standard_normal((4, 4)))
        self.act = nn.Tanh()

    def forward(self, x):
        return self.act(x @ self.weight.value)


ACT = nn.Sigmoid()


class ActOfTheModule(nn.Layer):
    """Calls a layer that it does not hold."""

    def forward(self, x):
        return x * ACT(x)


class ChildrensForward(nn.Layer):
    def __init__(self):
        self.a, self.act, self.b = nn.Linear(4, 5, rng=41), nn.Tanh(), nn.Linear(5, 4, rng=42)

    def forward(self, x):
        return self.b.forward(self.act.forward(self.a.forward(x)))


class Reshaping(nn.Layer):
    def __init__(self):
        self.head = nn.Linear(6, 4, rng=43)

    def forward(self, x):
        return self.head(x.reshape(len(x), -1))


class Order(nn.Layer):
    """Which layer comes first depends on the batch."""

    def __init__(self):
        self.a, self.b, self.act = nn.Linear(4, 4, rng=44), nn.Linear(4, 4, rng=45), nn.Tanh()

    def forward(self, x):
        return self.b(self.act(self.a(x))) if x.mean() > 0 else self.a(self.act(self.b(x)))


class Twice(nn.Layer):
    def __init__(self):
        self.shared, self.act = nn.Linear(4, 4, rng=46), nn.Tanh()

    def forward(self, x):
        return self.shared(self.act(self.shared(x)))


class Tied(nn.Layer):
    """One weight, there and back."""

    def __init__(self):
        self.encode = nn.Linear(4, 3, rng=47)

    def forward(self, x):
        return np.tanh(self.encode(x)) @ self.encode.weight.value


class BeforeBetweenAfter(nn.Layer):
    """Something is done before, between and after the layers."""

    def __init__(self):
        self.a, self.b = nn.Linear(4, 5, rng=48), nn.Linear(5, 4, rng=49)

    def forward(self, x):
        h = self.a(x / 2)
        h = h * 2
        return self.b(h) * 3


class Between(nn.Layer):
    def __init__(self):
        self.a, self.b = nn.Linear(4, 5, rng=73), nn.Linear(5, 4, rng=74)

    def forward(self, x):
        return self.b(np.sin(self.a(x)))


class After(nn.Layer):
    def __init__(self):
        self.a, self.b = nn.Linear(4, 5, rng=75), nn.Linear(5, 4, rng=76)

    def forward(self, x):
        return np.sin(self.b(self.a(x)))


class Before(nn.Layer):
    def __init__(self):
        self.a, self.b = nn.Linear(4, 5, rng=77), nn.Linear(5, 4, rng=78)

    def forward(self, x):
        return self.b(self.a(np.sin(x)))


class Copies(nn.Layer):
    """Layers are handed equal arrays, not the same."""

    def __init__(self):
        self.a, self.act, self.b = nn.Linear(4, 5, rng=50), nn.Tanh(), nn.Linear(5, 4, rng=51)

    def forward(self, x):
        return self.b(np.array(self.act(self.a(x.copy())[:]))).copy()


class OfTheObject(nn.Layer):
    """`forward` belongs to the object, not to the class."""

    def __init__(self):
        self.forward = lambda x: np.tanh(x + x[:, ::-1])


def a_clipped_tanh():
    """A layer of nnframe's whose object has another `forward`."""
    layer = nn.Tanh()
    layer.forward = lambda x: np.clip(x, -1, 1)
    return layer


class Static(nn.Layer):
    forward = staticmethod(np.tanh)


@dataclasses.dataclass
class Dataclass(nn.Layer):
    """Has an `==` that compares arrays, and no hash."""

    weight: Any
    constant: Any
    inner: Any = None

    def forward(self, x):
        y = np.tanh(x * self.constant) @ self.weight.value
        return y if self.inner is None else self.inner(y)


def a_dataclass(depth=2):
    """A layer of dataclasses, one in another."""
    weight = nn.Parameter(np.random.default_rng(56 + depth).standard_normal((4, 4)))
    return Dataclass(weight, np.linspace(1, 2, 4), a_dataclass(depth - 1) if depth else None)


class Down(nn.Layer):
    def forward(self, x):
        self.seen = x
        return np.tanh(x)


class Up(nn.Layer):
    """Reads what another layer has kept of its input: a skip that no argument tells of."""

    def __init__(self, down):
        self.down = down

    def forward(self, x):
        return x + self.down.seen


class SkipByAttribute(nn.Layer):
    def __init__(self):
        self.down, self.middle = Down(), nn.Linear(4, 4, rng=57)
        self.up = Up(self.down)

    def forward(self, x):
        return self.up(self.middle(self.down(x)))


class Unused(nn.Layer):
    """Runs a layer for nothing."""

    def __init__(self):
        self.a, self.b = nn.Linear(4, 4, rng=52), nn.Linear(4, 4, rng=53)

    def forward(self, x):
        self.a(x)
        return self.b(x)


class TokenMixing(nn.Layer):
    """A linear layer over the rows, for batches of one size."""

    def __init__(self, rows):
        self.mix = nn.Linear(rows, rows, rng=54)

    def forward(self, x):
        return self.mix(x.T).T


class Excitation(nn.Layer):
    def __init__(self):
        self.gate = nn.Sequential(nn.Linear(1, 4, rng=55), nn.Sigmoid())

    def forward(self, x):
        return x * self.gate(x.mean(axis=1, keepdims=True))


# ---- convolution, pooling, time ----


class Convolution(nn.Layer):
    """3x3 over (N, C, H, W), zeros around."""

    def __init__(self, inputs=2, outputs=3):
        rng = np.random.default_rng(60)
        self.weight = nn.Parameter(rng.standard_normal((outputs, inputs, 3, 3)) / 4)
        self.bias = nn.Parameter(rng.standard_normal(outputs))

    def forward(self, x):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("ncijkl,ockl->noij", windows, self.weight.value) + self.bias.value[:, None, None]


class AveragePooling(nn.Layer):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))


class MaxPooling(nn.Layer):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))


class PerChannel(nn.Layer):
    def __init__(self, channels=2):
        self.scale = nn.Parameter(np.linspace(0.5, 1.5, channels))
        self.shift = nn.Parameter(np.linspace(-1, 1, channels))

    def forward(self, x):
        return np.tanh(x * self.scale.value[:, None, None] + self.shift.value[:, None, None])


class RNN(nn.Layer):
    """(N, T, F) to the last state (N, H)."""

    def __init__(self, inputs=2, hidden=4):
        rng = np.random.default_rng(61)
        self.w = nn.Parameter(rng.standard_normal((inputs, hidden)) / 2)
        self.u = nn.Parameter(rng.standard_normal((hidden, hidden)) / 2)
        self.b = nn.Parameter(rng.standard_normal(hidden) / 2)

    def forward(self, x):
        h = np.zeros((len(x), len(self.b.value)), x.dtype)
        for step in range(x.shape[1]):
            h = np.tanh(x[:, step] @ self.w.value + h @ self.u.value + self.b.value)
        return h


class Attention(nn.Layer):
    """Over the middle one of three axes."""

    def __init__(self):
        self.q, self.k = nn.Linear(2, 3, rng=62), nn.Linear(2, 3, rng=63)

    def forward(self, x):
        scores = self.q(x) @ np.swapaxes(self.k(x), 1, 2)
        e = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True) @ x


class OverTime(nn.Layer):
    """Three axes, rows apart."""

    def forward(self, x):
        return np.tanh(x - x.mean(axis=1, keepdims=True)) + x[:, ::-1]


class Embedding(nn.Layer):
    takes_integers = True

    def __init__(self):
        self.table = nn.Parameter(np.random.default_rng(64).standard_normal((9, 4)))

    def forward(self, ids):
        return self.table.value[ids].mean(axis=1)


# ---- what comes out ----


class AlwaysFloat64(nn.Layer):
    def forward(self, x):
        return np.tanh(x.astype(np.float64))


class AMaskedArray(nn.Layer):
    """A class derived from np.ndarray, with arithmetic of its own."""

    def forward(self, x):
        return np.ma.masked_greater(np.tanh(x), 5)


class Square(nn.Layer):
    def forward(self, x):
        return x * x


class Quantiser(nn.Layer):
    def forward(self, x):
        return np.clip(np.round(10 * x + 30), 0, 255).astype(np.uint8)


class Above(nn.Layer):
    def forward(self, x):
        return x > 0.5


class Rounded(nn.Layer):
    def forward(self, x):
        return np.round(4 * x) / 4


class RoundedWeight(nn.Layer):
    def __init__(self):
        self.weight = nn.Parameter(np.random.default_rng(67).standard_normal((4, 4)))

    def forward(self, x):
        return x @ (np.round(2 * self.weight.value) / 2)


class DropsARow(nn.Layer):
    def forward(self, x):
        return x[:-1]


class ShapeByValue(nn.Layer):
    """A part of the batch may have another shape than the whole."""

    def forward(self, x):
        return x[:, : 2 + int(x.max() > 1.2)]


class AScalar(nn.Layer):
    def forward(self, x):
        return float(x.sum())


class AList(nn.Layer):
    def forward(self, x):
        return [[float(np.tanh(v)) for v in row] for row in x]


class Complex(nn.Layer):
    def forward(self, x):
        return x * 1j


# ---- parameters ----


class Scaled(nn.Layer):
    """x (k / unit)^2, with k of the size of `unit`, as a physical constant may be."""

    def __init__(self, unit):
        self.unit = unit
        self.k = nn.Parameter(np.array([unit, -1.5 * unit, 0.5 * unit, 2 * unit]))

    def forward(self, x):
        return x * (self.k.value / self.unit) ** 2


class Weights(NamedTuple):
    scale: Any
    shift: Any


class NamedTupleOfParameters(nn.Layer):
    def __init__(self):
        self.weights = Weights(nn.Parameter(np.linspace(0.5, 1.5, 4)), nn.Parameter(np.linspace(-1, 1, 4)))

    def forward(self, x):
        return np.tanh(x * self.weights.scale.value + self.weights.shift.value)


class ZeroWeight(nn.Layer):
    """Nothing passes, until its weight has been trained."""

    def __init__(self):
        self.weight, self.bias = nn.Parameter(np.zeros((4, 4))), nn.Parameter(np.linspace(-1, 1, 4))

    def forward(self, x):
        return x @ self.weight.value + self.bias.value


class FrozenScale(nn.Layer):
    """A constant beside a parameter."""

    def __init__(self):
        self.constant, self.scale = np.linspace(1, 2, 4, dtype=np.float32), nn.Parameter(np.linspace(0.5, 1.5, 4))

    def forward(self, x):
        return np.tanh(x * self.constant) * self.scale.value


# ---- one dtype only ----


class ThroughFloat32(nn.Layer):
    def forward(self, x):
        return np.tanh(x.astype(np.float32))


class PartlyFloat32(nn.Layer):
    def forward(self, x):
        return x + np.tanh(x.astype(np.float32))


class Half(nn.Layer):
    def forward(self, x):
        return np.tanh(x).astype(np.float16)


@functools.cache
def compiled_tanh():
    """A C function for `float *` alone, or None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    source = "#include <math.h>\nvoid f(const float *x, float *y, long n) { while (n--) *y++ = tanhf(*x++); }\n"
    with tempfile.TemporaryDirectory() as folder:
        path, library = Path(folder, "f.c"), Path(folder, "f.so")
        path.write_text(source)
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", path, "-o", library, "-lm"], check=True)
        f = ctypes.CDLL(str(library)).f
    f.restype = None
    return f


class FloatPointer(nn.Layer):
    def forward(self, x):
        x = np.ascontiguousarray(x)
        y = np.zeros_like(x)
        pointer = ctypes.POINTER(ctypes.c_float)
        compiled_tanh()(x.ctypes.data_as(pointer), y.ctypes.data_as(pointer), ctypes.c_long(x.size))
        return y


class CheckedFloatPointer(nn.Layer):
    """Refuses what it cannot take, as ndpointer does."""

    def forward(self, x):
        if x.dtype != np.float32:
            raise TypeError(f"float32 only, got {x.dtype}")
        return FloatPointer().forward(x)


# ---- classes derived from built-in ones, of which they override `forward` alone ----


class Masked(nn.Linear):
    def forward(self, x):
        mask = np.arange(self.weight.value.size).reshape(self.weight.value.shape) % 3 > 0
        return x @ (self.weight.value * mask).T + self.bias.value


class Hard(nn.Tanh):
    def forward(self, x):
        return np.clip(x, -1, 1)


class ResidualChain(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class SubclassOfSequential(nn.Sequential):
    pass


class EmptySubclass(nn.Linear):
    pass


class RelativeError(nn.MSELoss):
    def forward(self, y, t):
        return float((((y - t) / (1 + np.abs(t))) ** 2).mean())


class FocalLoss(nn.CrossEntropyLoss):
    def forward(self, y, t):
        p = np.exp(y - y.max(axis=1, keepdims=True))
        p = (p / p.sum(axis=1, keepdims=True))[np.arange(len(t)), t]
        return float(-((1 - p) ** 2 * np.log(p)).mean())


class Quartic(nn.Loss):
    def forward(self, y, t):
        return float(((y - t) ** 4).mean())


class MixedRows(nn.Loss):
    """Says that it is a sum over rows; each of them takes the mean of all."""

    def rows(self, y, t):
        return ((y - y.mean(axis=0) - t) ** 2).sum(axis=1)


class SumOverRows(nn.Loss):
    def rows(self, y, t):
        return np.log(np.cosh(y - t)).sum(axis=1)


class CoupledLoss(nn.Loss):
    """No sum over rows."""

    def forward(self, y, t):
        return float(np.sqrt(((y - t) ** 2).sum()) + y.mean(axis=0).max())


# ---- backward passes that are not quite right ----


class Written(nn.Layer):
    """Forward and backward, with parameters: right as it stands."""

    def __init__(self):
        self.scale = nn.Parameter(np.linspace(0.5, 1.5, 4))

    def forward(self, x):
        return np.tanh(x * self.scale.value)

    def backward(self, x, y, dy):
        dz = dy * (1 - y * y)
        self.scale.grad += (dz * x).sum(axis=0)
        return dz * self.scale.value


class NoReturn(Written):
    def backward(self, x, y, dy):
        self.scale.grad += (dy * (1 - y * y) * x).sum(axis=0)


class Float64Backward(Written):
    def backward(self, x, y, dy):
        return super().backward(x.astype(np.float64), y.astype(np.float64), dy.astype(np.float64))


class WritesIntoDy(Written):
    def backward(self, x, y, dy):
        dy *= 1 - y * y
        self.scale.grad += (dy * x).sum(axis=0)
        return dy * self.scale.value


class WritesIntoX(Written):
    def backward(self, x, y, dy):
        dx = super().backward(x, y, dy)
        x *= 0
        return dx


class WrongShape(Written):
    def backward(self, x, y, dy):
        return super().backward(x, y, dy).sum(axis=1)


class BroadcastShape(Written):
    """A shape that NumPy would broadcast without a word."""

    def backward(self, x, y, dy):
        return super().backward(x, y, dy).sum(axis=1, keepdims=True)


class ReplacesGrad(Written):
    def backward(self, x, y, dy):
        dz = dy * (1 - y * y)
        self.scale.grad = (dz * x).sum()  # a number, for an array
        return dz * self.scale.value


class ForwardAfresh(Written):
    """Overrides `forward`, and not the `backward` that belongs to the other one."""

    def forward(self, x):
        return np.sin(x * self.scale.value)


# ---- the table ----


class Shaped(nn.Layer):
    """Rows of another shape."""

    def __init__(self, *shape):
        self.shape = shape

    def forward(self, x):
        return x.reshape(len(x), *self.shape)


PLACES = ("middle", "top", "bottom")
INPUTS = 10  # of the linear layer below: enough for curves to be taken


class Case:
    """A layer, and what is expected of gradients through it.

    Parameters
    ----------
    make : callable
        Returns the layer, its parameters in float32.
    expect : str
        `RIGHT`, `warned(...)` or `refused(...)`.
    but : dict, optional
        What is expected elsewhere: by a place, a strategy's name, or one of these or a dtype's name with a place.
    reads, gives : tuple
        Shape of a row below and above the layer.
    places : tuple
        "middle", "top", "bottom": between two linear layers, above one, below one.
    rows : (int, int)
        Of the first and the second mini-batch.
    zero : tuple of str
        Parameters whose gradient is 0 by symmetry: compared with the largest entry of the whole gradient.
    adapt : callable, optional
        What is done to the model once it is in its dtype.
    bound : float, optional
        A tighter one, for float64.
    loss : Loss, optional
        In place of cross-entropy in the middle, and the squared error elsewhere.
    seed : int
        Of the mini-batches: some numbers lie near a kink.
    """

    def __init__(
        self,
        make: Callable[[], nn.Layer],
        expect: str = RIGHT,
        but: dict[Any, str] | None = None,
        *,
        name: str = "",
        reads: tuple[int, ...] = (4,),
        gives: tuple[int, ...] | None = None,
        places: tuple[str, ...] = PLACES,
        rows: tuple[int, int] = (7, 5),
        zero: tuple[str, ...] = (),
        bound: float | None = None,
        loss: nn.Loss | None = None,
        batch: Callable[[np.random.Generator, int], np.ndarray] | None = None,
        adapt: Callable[[nn.Layer], None] | None = None,
        seed: int = 0,
    ) -> None:
        self.make, self.expect, self.but, self.name = make, expect, but or {}, name or make.__name__
        self.reads, self.gives, self.places, self.rows = reads, gives or reads, places, rows
        self.zero, self.bound, self.loss, self.own_batch, self.adapt, self.seed = zero, bound, loss, batch, adapt, seed

    def __repr__(self) -> str:
        return self.name

    def expected(self, place: str, strategy: object, dtype: type) -> str:
        """What is expected of a strategy, with the layer in a place of a model in a dtype."""
        kind, name = type(strategy).__name__, np.dtype(dtype).name
        keys = ((kind, place), (name, place), kind, place)
        return next((self.but[key] for key in keys if key in self.but), self.expect)

    def model(self, place: str) -> nn.Sequential:
        """The layer in a network, in float32."""
        below, above = int(np.prod(self.reads)), int(np.prod(self.gives))
        parts: list[nn.Layer] = [self.make()]
        if place != "bottom":
            parts = [nn.Linear(INPUTS, below, rng=1), *([Shaped(*self.reads)] if len(self.reads) > 1 else []), *parts]
        if place != "top":
            parts += [*([Shaped(above)] if len(self.gives) > 1 else []), nn.Linear(above, 3, rng=2)]
        rng = np.random.default_rng(3)
        for layer in parts:
            if type(layer) is nn.Linear:
                layer.bias.value[...] = rng.standard_normal(layer.bias.value.shape) / 4
        return nn.Sequential(*parts)

    def batch(self, place: str, step: int) -> tuple[nn.Loss, np.ndarray, np.ndarray]:
        """Loss, inputs and labels of the first (0) or the second (1) step."""
        rng = np.random.default_rng([self.seed, step])
        rows = self.rows[step]
        shape = self.reads if place == "bottom" else (INPUTS,)
        x = rng.standard_normal((rows, *shape)) if self.own_batch is None else self.own_batch(rng, rows)
        if x.dtype == np.float64:
            x = x.astype(np.float32).astype(np.float64)
        loss = self.loss or (nn.CrossEntropyLoss() if place == "middle" else nn.MSELoss())
        top = self.gives if place == "top" else (3,)
        if isinstance(loss, nn.CrossEntropyLoss):
            return loss, x, rng.integers(0, top[0], rows)
        return loss, x, rng.standard_normal((rows, *top)).astype(np.float32)

    def trained(self, model: nn.Layer) -> None:
        """Move every parameter, as a step of training does."""
        rng = np.random.default_rng(4)
        for parameter in model.parameters():
            value = parameter.value
            change = 0.2 * rng.standard_normal(value.shape) * np.where(np.abs(value) > 10, np.abs(value), 1)
            value[...] = (value + change).astype(np.float32)


def _fortran(model):
    for i in (0, -1):
        weight = model[i].weight
        weight.value = np.asfortranarray(weight.value)


def _ids(rng, rows):
    return rng.integers(0, 9, (rows, 3))


def _equal_rows(rng, rows):
    return np.tile(rng.standard_normal((1, INPUTS)), (rows, 1))


DOES_NOT_REPEAT = refused("does not repeat itself")
REMEMBERS = refused("remembers|earlier|changes|repeat")
READ_ONLY = refused("writ|read-only")
ONE_DTYPE = refused("float32")
ROUNDS = refused("forward rounds i")


def _backprop(expect):
    """For backward passes: only `Backprop` calls them, and at the bottom only for the parameters."""
    return {"Backprop": expect}


CASES = [
    # rows that mix
    Case(BatchNorm, zero=("0.bias",)),
    Case(SampleStd, zero=("0.bias",)),
    Case(BatchSoftmax, zero=("0.bias",)),
    Case(RowCumsum),
    Case(SortOverBatch),
    Case(RollBatch),
    Case(BatchMax),
    Case(CappedByBatch),
    Case(WeakCoupling, bound=2e-9),
    Case(OverRows),
    Case(RowNumber),
    Case(lambda: OneWeightPerRow(7), name="OneWeightPerRow", rows=(7, 7)),
    Case(EveryOtherRow, rows=(8, 16)),
    Case(SeededMask),
    Case(NearestRows),
    Case(Whitening, zero=("0.bias",)),
    Case(LazyMask, rows=(7, 7)),
    Case(BroadcastMean),
    Case(BatchMax, name="BatchMax, one row first", rows=(1, 5)),
    Case(RowCumsum, name="RowCumsum, one row first", rows=(1, 5)),
    Case(RollBatch, name="RollBatch, equal rows", batch=_equal_rows, places=("middle", "top")),
    Case(ZeroGate),
    Case(CentredWhereLarge, zero=("0.bias",)),
    # entries that mix
    Case(Cumsum),
    Case(SortFeatures, reads=(12,), seed=6),
    Case(RollFeatures, reads=(12,)),
    Case(Softmax),
    Case(TopK, reads=(12,)),
    Case(lambda: RareGate(0.8), name="RareGate", reads=(12,)),
    Case(lambda: RareGate(1.2), name="RareGate, shut in the first batch", reads=(12,)),
    Case(Lookup, warned(), {"bottom": RIGHT}, seed=2),
    Case(lambda: nn.Sequential(MixedUnits(), OneUnit()), name="MixedUnits", reads=(12,)),
    Case(BroadcastFirst),
    Case(Spectrum, reads=(12,), gives=(7,)),
    Case(FixedPoint, reads=(12,)),
    Case(lambda: nn.Sequential(nn.Softplus(), Validating()), name="Validating", reads=(12,)),
    Case(ValidatingParameter, reads=(12,)),
    Case(Softmax, name="Softmax, one row first", rows=(1, 5)),
    Case(ReversedView, reads=(12,)),
    Case(FirstColumns, gives=(3,)),
    Case(ItsInput),
    # random, and what changes from call to call
    Case(Dropout),
    Case(NormalNoise),
    Case(Mixup),
    Case(GlobalDropout, DOES_NOT_REPEAT),
    Case(GeneratorNoise, DOES_NOT_REPEAT),
    Case(Counting, DOES_NOT_REPEAT),
    Case(EveryTenth, REMEMBERS),
    Case(RunningMean, DOES_NOT_REPEAT),
    Case(ForgetfulMemo, REMEMBERS),
    Case(CachedOutput),
    Case(
        Memo, but=dict.fromkeys([("float32", "middle"), ("float32", "top")], refused("remembers one that was rounded"))
    ),
    Case(OutputBuffer, refused("writes to again")),
    Case(GrowingList, refused("self.seen")),
    # writing into what was given
    Case(InPlaceReLU, READ_ONLY),
    Case(OutIsInput, READ_ONLY),
    Case(AddedInPlace, READ_ONLY),
    Case(RectifiedInPlace, READ_ONLY),
    Case(ClipsItsOwn, refused("parameter")),
    Case(ClipsItsWeight, refused("parameter")),
    Case(WeightNorm, refused("parameter")),
    Case(LazyLinear, refused("parameter|Parameter")),
    # composition
    Case(Residual),
    Case(TwoBranches),
    Case(Attributes),
    Case(InAList),
    Case(InADict),
    Case(Nested),
    Case(ActInside),
    Case(ActOfTheModule),
    Case(ChildrensForward),
    Case(Reshaping, reads=(2, 3), gives=(4,)),
    Case(Order),
    Case(Twice),
    Case(Tied),
    Case(Before),
    Case(Between),
    Case(After),
    Case(BeforeBetweenAfter),
    Case(Copies),
    Case(Unused, RIGHT),
    Case(OfTheObject),
    Case(a_clipped_tanh),
    Case(Static),
    Case(a_dataclass, seed=2),
    Case(SkipByAttribute, refused("unseen"), {"bottom": RIGHT}),
    Case(lambda: TokenMixing(7), name="TokenMixing", rows=(7, 7)),
    Case(Excitation),
    Case(lambda: nn.Residual(BatchNorm()), name="nn.Residual", zero=("0.bias",)),
    Case(lambda: nn.Residual(nn.Linear(4, 4, rng=58), Softmax()), name="nn.Residual of two"),
    Case(lambda: nn.Branches(Softmax(), BatchMax(), nn.Linear(4, 4, rng=59)), name="nn.Branches, added"),
    Case(
        lambda: nn.Branches(Residual(), RowCumsum(), FrozenScale(), join="multiply"),
        name="nn.Branches, multiplied",
    ),
    Case(
        lambda: nn.Branches(BatchMax(), nn.Sequential(nn.Linear(4, 3, rng=60), Cumsum()), join="concatenate"),
        name="nn.Branches, concatenated",
        gives=(7,),
    ),
    Case(
        lambda: nn.Residual(nn.Branches(nn.Residual(Softmax()), nn.Linear(4, 4, rng=61), join="multiply")),
        name="containers in containers",
    ),
    # convolution, pooling, time
    Case(Convolution, reads=(2, 3, 3), gives=(3, 3, 3)),
    Case(AveragePooling, reads=(2, 2, 4), gives=(2, 1, 2)),
    Case(MaxPooling, reads=(2, 2, 4), gives=(2, 1, 2), seed=1),
    Case(PerChannel, reads=(2, 2, 2)),
    Case(RNN, reads=(3, 2), gives=(4,)),
    Case(Attention, reads=(3, 2), zero=("0.k.bias", "2.k.bias")),
    Case(OverTime, reads=(3, 2)),
    Case(Embedding, reads=(3,), gives=(4,), places=("bottom",), batch=_ids),
    Case(
        Embedding,
        refused("integer"),
        name="Embedding of floats",
        reads=(3,),
        gives=(4,),
        places=("bottom",),
        batch=lambda rng, rows: _ids(rng, rows).astype(np.float64),
    ),
    # what comes out
    Case(AlwaysFloat64),
    Case(lambda: nn.Sequential(AMaskedArray(), Square()), name="AMaskedArray"),
    Case(Quantiser, warned(), {"bottom": RIGHT}, seed=8),
    Case(Above, warned(), {"bottom": RIGHT}),
    Case(Rounded, warned(), {"bottom": RIGHT}, seed=2),
    Case(RoundedWeight, warned("does not move with weight")),
    Case(DropsARow, refused("rows")),
    Case(ShapeByValue, gives=(3,), seed=1),
    Case(AScalar, refused("array")),
    Case(AList, refused("array")),
    Case(Complex, refused("complex")),
    # parameters
    Case(lambda: Scaled(1e8), name="Scaled by 1e8"),
    Case(lambda: Scaled(1e12), name="Scaled by 1e12"),
    Case(NamedTupleOfParameters),
    Case(ZeroWeight, warned(), {"bottom": RIGHT}),
    Case(FrozenScale),
    Case(ItsInput, name="a weight in Fortran order", places=("middle",), adapt=_fortran),
    # one dtype only
    Case(ThroughFloat32, ROUNDS, places=("middle", "top")),
    Case(PartlyFloat32, ROUNDS, places=("middle", "top")),
    Case(Half, ROUNDS, places=("middle", "top")),
    Case(FloatPointer, ONE_DTYPE, places=("middle", "top")),
    Case(CheckedFloatPointer, ONE_DTYPE, places=("middle", "top")),
    # derived classes
    Case(lambda: Masked(4, 4, rng=70), name="Masked"),
    Case(Hard),
    Case(lambda: ResidualChain(nn.Linear(4, 4, rng=71), nn.Tanh()), name="ResidualChain"),
    Case(lambda: SubclassOfSequential(nn.Linear(4, 4, rng=71), nn.Tanh()), name="SubclassOfSequential"),
    Case(lambda: EmptySubclass(4, 4, rng=72), name="EmptySubclass"),
    Case(ItsInput, name="RelativeError", places=("middle",), loss=RelativeError()),
    Case(ItsInput, name="FocalLoss", places=("middle",), loss=FocalLoss()),
    Case(BatchNorm, name="FocalLoss above BatchNorm", places=("middle", "top"), loss=FocalLoss(), zero=("0.bias",)),
    Case(Softmax, name="Quartic", places=("middle",), loss=Quartic()),
    Case(Softmax, name="SumOverRows", places=("middle", "top"), loss=SumOverRows()),
    Case(ItsInput, refused("unseen"), name="MixedRows", places=("middle", "top"), loss=MixedRows()),
    Case(Softmax, name="CoupledLoss", places=("middle", "top"), loss=CoupledLoss()),
    # backward passes
    Case(Written),
    Case(NoReturn, but=_backprop(refused("`return` missing")) | {("Backprop", "bottom"): RIGHT}),
    Case(Float64Backward),
    Case(WritesIntoDy, but=_backprop(READ_ONLY)),
    Case(WritesIntoX, but=_backprop(READ_ONLY)),
    Case(WrongShape, but=_backprop(refused("shape")) | {("Backprop", "bottom"): RIGHT}),
    Case(BroadcastShape, but=_backprop(refused("shape")) | {("Backprop", "bottom"): RIGHT}),
    Case(ReplacesGrad, but=_backprop(refused("grad"))),
    Case(ForwardAfresh),
]
