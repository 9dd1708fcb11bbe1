"""Backward passes that users write: `Backprop` calls them wherever the layer stands, and derived classes' own."""

import numpy as np
import pytest

import nnframe as nn


class Scale(nn.Layer):
    """Has no `backward_parameters`."""

    def __init__(self, dtype):
        self.factor = nn.Parameter(np.linspace(0.5, 1.5, 5), dtype)

    def forward(self, x):
        return x * self.factor.value

    def backward(self, x, y, dy):
        self.factor.grad += (dy * x).sum(axis=0)
        return dy * self.factor.value


class Doubled(nn.Linear):
    """A linear layer whose gradient of the weight is doubled: easily told from Linear's."""

    def backward(self, x, y, dy):
        dx = super().backward(x, y, dy)
        self.weight.grad *= 2
        return dx


class Twice(nn.Linear):
    """The same in the method for the lowest layer."""

    def backward_parameters(self, x, y, dy):
        super().backward_parameters(x, y, dy)
        self.weight.grad *= 2


def batch():
    rng = np.random.default_rng(0)
    return nn.CrossEntropyLoss(), rng.standard_normal((7, 5)), rng.integers(0, 3, 7)


def test_backward_of_the_lowest_layer_fills_its_parameters(dtype):
    loss, x, t = batch()
    model = nn.Sequential(Scale(dtype), nn.Linear(5, 3, dtype=dtype, rng=1))
    nn.Backprop()(model, loss, x, t)
    found = model[0].factor.grad.copy()
    nn.CentralDifference()(model, loss, x, t)
    expected = model[0].factor.grad
    assert expected.any()
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=np.abs(expected).max() * (1e-8 if dtype == np.float64 else 5e-6)
    )


@pytest.mark.parametrize("kind", [Doubled, Twice])
def test_a_derived_linear_layer_at_the_bottom_keeps_its_own_backward(dtype, kind):
    loss, x, t = batch()
    grads = {}
    for each in (kind, nn.Linear):
        model = nn.Sequential(each(5, 4, dtype=dtype, rng=1), nn.Tanh(), nn.Linear(4, 3, dtype=dtype, rng=2))
        nn.Backprop()(model, loss, x, t)
        grads[each] = model[0].weight.grad
    np.testing.assert_allclose(grads[kind], 2 * grads[nn.Linear], rtol=1e-5)


def test_the_gradient_is_not_added_to_that_of_the_step_before(dtype):
    loss, x, t = batch()
    model = nn.Sequential(nn.Linear(5, 5, dtype=dtype, rng=0), Scale(dtype), nn.Linear(5, 3, dtype=dtype, rng=1))
    grads = []
    for _ in range(2):
        nn.Backprop()(model, loss, x, t)
        grads.append([p.grad.copy() for p in model.parameters()])
    for first, second in zip(*grads, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_layer_that_stands_twice_adds_both_gradients(dtype):
    loss, x, t = batch()
    scale = Scale(dtype)
    model = nn.Sequential(
        nn.Linear(5, 5, dtype=dtype, rng=0), scale, nn.Tanh(), scale, nn.Linear(5, 3, dtype=dtype, rng=1)
    )
    nn.Backprop()(model, loss, x, t)
    found = scale.factor.grad.copy()
    nn.CentralDifference()(model, loss, x, t)
    bound = np.abs(found).max() * (1e-8 if dtype == np.float64 else 5e-6)
    np.testing.assert_allclose(found, scale.factor.grad, rtol=0, atol=bound)


def test_the_default_backward_parameters_is_the_backward(dtype):
    # what a derived class calls by super(), or anyone by hand
    layer, x = Scale(dtype), np.linspace(-1, 1, 15, dtype=dtype).reshape(3, 5)
    dy = np.cos(x)
    layer.backward_parameters(x, layer(x), dy)
    np.testing.assert_allclose(layer.factor.grad, (dy * x).sum(axis=0), rtol=1e-5)
