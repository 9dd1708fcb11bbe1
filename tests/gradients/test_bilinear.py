"""Layers without a backward that are sums of terms, factor times input times weight: found, used, and compared."""

import numpy as np
import pytest

import nnframe as nn
from nnframe.core.bilinear import bilinear_form
from nnframe.core.chain import run_forward
from nnframe.core.run import Run
from nnframe.core.structure import Memory


def forward_only(layer):
    """The same layer, of which nothing is known but its forward."""
    kind = type(layer)
    layer.__class__ = type(f"ForwardOnly{kind.__name__}", (kind,), {"forward": lambda self, x: kind.forward(self, x)})
    return layer


def without_backward(layer):
    """The same layer with its backward deleted, and all that it has besides."""
    kind, gone = type(layer), {"backward": nn.Layer.backward, "backward_parameters": nn.Layer.backward_parameters}
    layer.__class__ = type(f"Without{kind.__name__}", (kind,), gone)
    return layer


class Strided(nn.Layer):
    """Differences of neighbours, each times its own weight and one of all; without a word about it."""

    def __init__(self):
        self.own, self.all = nn.Parameter(np.linspace(1, 2, 9)), nn.Parameter(np.array([0.5]))

    def forward(self, x):
        return np.concatenate([3 * x[:, 1:] * self.own.value - 2 * self.all.value, x[:, ::3] * self.all.value], axis=1)


class Mixed(nn.Layer):
    """What its parameters do not touch besides what they do."""

    def __init__(self):
        self.weight, self.unused = nn.Parameter(np.arange(30.0).reshape(10, 3) / 20), nn.Parameter(np.ones(2))

    def forward(self, x):
        return x @ self.weight.value + x[:, :3] * 7 + x[:, 4:7] - 1


FOUND = {
    "linear": ((10,), lambda: nn.Linear(10, 4, rng=1)),
    "linear, no bias": ((10,), lambda: nn.Linear(10, 4, bias=False, rng=1)),
    "steps": ((5, 6), lambda: nn.Linear(6, 3, rng=1)),
    "conv1d": ((4, 9), lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2, rng=1)),
    "conv2d": ((2, 7, 6), lambda: nn.Conv2d(2, 3, (3, 2), padding=1, dilation=(1, 2), rng=1)),
    "depthwise": ((3, 5, 5), lambda: nn.Conv2d(3, 3, 3, groups=3, bias=False, rng=1)),
    "transposed": ((2, 4, 3), lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1, padding=1, rng=1)),
    "mean pooling": ((2, 6, 6), lambda: nn.AvgPool2d(2)),
    "strided": ((10,), Strided),
    "mixed": ((10,), Mixed),
}


def network(shape, make, change, dtype, seed=0):
    """A Linear, the layer behind it, changed or not, and a batch."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    layer = change(make())
    model = nn.Sequential(nn.Linear(5, size, rng=2), nn.Tanh(), nn.Reshape(*shape), layer).astype(dtype)
    x = rng.standard_normal((7, 5))
    return model, x, rng.standard_normal(model(x).shape)


def gradients(model, x, t, strategy=None):
    strategy = nn.Backprop() if strategy is None else strategy
    strategy(model, nn.MSELoss(), x, t)
    return {name: parameter.grad.copy() for name, parameter in model.named_parameters()}


def definition(model, x, t, step=7e-4, scheme="central4"):
    model = model.astype(np.float64)
    x = x.astype(np.float64)
    return {
        name: nn.numerical_gradient(
            lambda _: nn.MSELoss()(model(x, training=True), t), parameter.value, step=step, scheme=scheme
        )
        for name, parameter in model.named_parameters()
    }


def form_of(model, x):
    with Run(True, Memory(), root=model) as run:
        link = next(one for one in run_forward(model, x, run).links if one.layer is model[-1])
        return bilinear_form(link, run)


def assert_right(found, expected, dtype):
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for name, gradient in expected.items():
        np.testing.assert_allclose(
            found[name], gradient, rtol=0, atol=(1e-9 if dtype is np.float64 else 2e-6) * largest
        )


@pytest.mark.parametrize("change", [forward_only, without_backward])
@pytest.mark.parametrize("case", FOUND)
def test_gradients_by_terms_are_right(case, change, dtype):
    shape, make = FOUND[case]
    model, x, t = network(shape, make, change, dtype)
    assert form_of(model, x) is not None
    strategy = nn.Backprop()
    for step in range(3):
        assert_right(gradients(model, x, t, strategy), definition(model, x, t), dtype)
        for parameter in model.parameters():
            parameter.value *= 1.0 + 0.1 * step
            parameter.value += 0.01
    assert strategy.memory.findings(model[-1]).compared == 3
    assert strategy.memory.findings(model[-1]).contradicted == 0


def test_a_layer_alone_and_one_that_is_not_trained(dtype):
    for frozen in ("weight", "bias"):
        model, x, t = network((2, 5, 5), lambda: nn.Conv2d(2, 3, 3, rng=1), forward_only, dtype)
        getattr(model[-1], frozen).trainable = False
        expected = definition(model, x, t)
        expected[f"3.{frozen}"] = np.zeros_like(expected[f"3.{frozen}"])
        assert_right(gradients(model, x, t), expected, dtype)
    alone = nn.Sequential(forward_only(nn.Conv2d(2, 3, 3, rng=1, dtype=dtype)))
    x = np.random.default_rng(0).standard_normal((4, 2, 5, 5)).astype(dtype)
    t = np.ones((4, 3, 3, 3))
    assert_right(gradients(alone, x, t), definition(alone, x, t), dtype)


class Other(nn.Layer):
    """10 inputs; `function(x, w)` is what it computes, w 12 weights."""

    def __init__(self, function):
        self.function, self.w = function, nn.Parameter(np.linspace(0.5, 1.5, 12))

    def forward(self, x):
        return self.function(x, self.w.value)


NOT_FOUND = {
    "bent": lambda x, w: np.tanh(x[:, 1:] * w[:9]),
    "kinks behind": lambda x, w: np.maximum(x[:, :9] + x[:, 1:] * w[:9], 0),
    "a kink that unit vectors do not reach": lambda x, w: np.minimum(x[:, 1:] * w[:9], 2.5),
    "two weights in a pair": lambda x, w: x[:, 1:] * (w[:9] + w[3:]),
    "two weights that cancel": lambda x, w: x[:, 1:] * (w[:9] - w[3:]),
    "weights squared": lambda x, w: x[:, 1:] * w[:9] ** 2,
    "products of weights": lambda x, w: x[:, 1:] * w[:9] * w[3:],
    "inputs squared": lambda x, w: x[:, 1:] * x[:, :9] * w[:9],
    "scaled by the row": lambda x, w: x[:, 1:] * w[:9] / np.sqrt((x * x).sum(axis=1, keepdims=True) + 1),
    "absolute weights": lambda x, w: x[:, 1:] * np.abs(w[:9]),
}


@pytest.mark.parametrize("case", NOT_FOUND)
def test_other_layers_are_not_taken_for_it(case, dtype):
    model, x, t = network((10,), lambda: Other(NOT_FOUND[case]), lambda layer: layer, dtype)
    assert form_of(model, x) is None
    assert_right(gradients(model, x, t), definition(model, x, t, 1e-6, "central"), np.float32)  # beside kinks


def far_kink(x, w):
    """Bilinear, but for large inputs."""
    return np.where(np.abs(x[:, 1:]) < 5e3, 1.0, 3.0) * x[:, 1:] * w[:9]


def beyond(x, w):
    """Bilinear, but beside a point that nobody looks at: where x[0] is about 0.3."""
    return x[:, 1:] * w[:9] + 1e-2 * np.exp(-(((x[:, :1] - 0.3) / 1e-2) ** 2))


class Switched(nn.Layer):
    """Bilinear, with a factor that its owner changes between two gradients."""

    factor = 1.0

    def __init__(self):
        self.w = nn.Parameter(np.linspace(0.5, 1.5, 9))

    def forward(self, x):
        return self.factor * x[:, 1:] * self.w.value


def test_what_does_not_hold_for_a_mini_batch_is_seen_and_given_up(dtype):
    for function, values in ((far_kink, [0.1, 8e3]), (beyond, [-2.0, 0.3005])):
        layer = Other(function)
        model = nn.Sequential(nn.Linear(10, 10, rng=0), layer).astype(dtype)
        model[0].weight.value[...] = np.eye(10)
        strategy, rng = nn.Backprop(), np.random.default_rng(0)
        for value in values:
            x = (value + 1e-3 * rng.standard_normal((6, 10))).astype(dtype)
            t = rng.standard_normal((6, 9))
            assert_right(gradients(model, x, t, strategy), definition(model, x, t, 1e-6, "central"), np.float32)
        assert strategy.memory.findings(model[-1]).contradicted == 1


def test_a_layer_that_is_changed_is_looked_at_anew(dtype):
    model, x, t = network((10,), Switched, lambda layer: layer, dtype)
    strategy = nn.Backprop()
    for factor in (1.0, 1.0 + 1e-3, -2.0, 5.0):
        model[-1].factor = factor
        assert_right(gradients(model, x, t, strategy), definition(model, x, t), dtype)


def test_layers_of_each_row_by_its_number_are_not_taken_for_it(dtype):
    class Masked(nn.Layer):
        def __init__(self):
            self.random, self.w = nn.Random(0), nn.Parameter(np.linspace(0.5, 1.5, 9))

        def forward(self, x):
            return (x[:, 1:] * self.w.value) * (self.random.uniform(x)[:, :1] > 0.5)

    model, x, t = network((10,), Masked, lambda layer: layer, dtype)
    assert_right(gradients(model, x, t), definition(model, x, t), np.float32)


def test_small_layers_and_empty_batches(dtype):
    model = nn.Sequential(forward_only(nn.Linear(2, 1, rng=0, dtype=dtype)))
    x, t = np.array([[1.0, 2.0]]), np.array([[0.5]])
    assert_right(gradients(model, x, t), definition(model, x, t), dtype)
    model = nn.Sequential(forward_only(nn.Linear(12, 3, rng=0, dtype=dtype)))
    nn.Backprop()(model, nn.MSELoss(reduction="sum"), np.zeros((0, 12)), np.zeros((0, 3)))
    assert not model[0].weight.grad.any()
