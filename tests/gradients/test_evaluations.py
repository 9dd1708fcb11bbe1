"""How often a forward-only layer is evaluated: what is found about it must save what it can save."""

import numpy as np
import pytest

import nnframe as nn


class Counted(nn.Layer):
    """Counts the rows that it is given, in whatever copy."""

    rows = 0

    def forward(self, x):
        Counted.rows += len(x)
        return self.compute(x)


class Elementwise(Counted):
    def compute(self, x):
        return x / (1 + np.exp(-x))


class Dropout(Counted):
    def __init__(self):
        self.random = nn.Random(0)

    def compute(self, x):
        return x * (self.random.uniform(x) > 0.3)


class Rowwise(Counted):
    def compute(self, x):
        return x / np.sqrt((x * x).sum(axis=1, keepdims=True) + 1)


class Convolution(Counted):
    """3x3 over (N, C, H, W), zeros around."""

    def __init__(self, inputs, outputs):
        self.weight = nn.Parameter(np.random.default_rng(0).standard_normal((outputs, inputs, 3, 3)) / 4)
        self.bias = nn.Parameter(np.zeros(outputs))

    def compute(self, x):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("ncijkl,ockl->noij", windows, self.weight.value) + self.bias.value[:, None, None]


class Bent(Convolution):
    """The same behind a tanh: each row has another Jacobian."""

    def compute(self, x):
        return np.tanh(super().compute(x))


class PerChannel(Counted):
    def __init__(self, channels):
        self.scale, self.shift = nn.Parameter(np.ones(channels)), nn.Parameter(np.zeros(channels))

    def compute(self, x):
        return np.tanh(x * self.scale.value[:, None, None] + self.shift.value[:, None, None])


class Pooling(Counted):
    def compute(self, x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))


class Images(nn.Layer):
    def __init__(self, *shape):
        self.shape = shape

    def forward(self, x):
        return x.reshape(len(x), *self.shape)


def evaluations(strategy, model, loss, x, t, runs=3):
    """Rows that the counted layer is given, over the rows of the mini-batch: the least of some runs but the first."""
    counts = []
    for _ in range(runs):
        Counted.rows = 0
        strategy(model, loss, x, t)
        counts.append(Counted.rows / len(x))
    return min(counts[1:])


@pytest.mark.parametrize(
    ("layer", "shape", "most"),
    [
        # two for a colour of the inputs, two for a colour of the parameters, and a few to run and to check
        (Elementwise(), (60,), 2),
        (Dropout(), (60,), 2),
        (Rowwise(), (60,), 2 * 60),
        (Convolution(2, 3), (2, 6, 6), 2),  # bilinear: compared once with a central difference
        (Bent(2, 3), (2, 6, 6), 2 * 9 * 2 + 2 * (9 * 2 + 1)),
        (PerChannel(2), (2, 6, 6), 2 + 4),
        (Pooling(), (2, 6, 6), 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Layer) else "",
)
def test_backprop_moves_together_what_does_not_meet(layer, shape, most, dtype):
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(5, int(np.prod(shape)), rng=1), Images(*shape), layer).astype(dtype)
    x = rng.standard_normal((8, 5))
    y = model(x)
    found = evaluations(nn.Backprop(), model, nn.MSELoss(), x, rng.standard_normal(y.shape))
    assert found <= most + 8, f"{found:.1f} evaluations, {most} for its colours"


@pytest.mark.parametrize("layer", [Elementwise(), Rowwise(), Dropout()], ids=lambda layer: type(layer).__name__)
def test_curves_are_taken_below_a_forward_only_layer(layer, dtype):
    # 100 weights into each of 6 units: curves sample a unit at six places, weights one by one move 202 times
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(100, 6, rng=1, dtype=dtype), layer, nn.Linear(6, 3, rng=2, dtype=dtype))
    x, t = rng.standard_normal((9, 100)), rng.integers(0, 3, 9)
    found = evaluations(nn.CentralDifference(), model, nn.CrossEntropyLoss(), x, t)
    assert found <= 6 * 6 + 12, f"{found:.1f} evaluations: {6 * 6} for six places of six units"


def test_a_few_entries_cost_few_evaluations():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(100, 6, rng=1), Rowwise(), nn.Linear(6, 3, rng=2))
    x, t = rng.standard_normal((9, 100)), rng.integers(0, 3, 9)
    found = evaluations(nn.CentralDifference(only=nn.Blocks(10, rng=0)), model, nn.CrossEntropyLoss(), x, t)
    assert found <= 2 * 10 + 12, f"{found:.1f} evaluations for ten entries"
