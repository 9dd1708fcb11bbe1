"""Straight curves where C cannot do it alone: below custom elementwise layers, and of layers that are shared."""

import time

import numpy as np
import pytest
from test_gradients import Swish, by_definition, compare, gradients, network

import nnframe as nn
from nnframe.gradients import straight
from nnframe.kernels import _kernels


class Hinge(nn.Layer):
    def forward(self, x):
        return np.where(x > 0, x, 0.1 * x)


class Written(nn.Layer):
    """With a difference of its own."""

    def forward(self, x):
        return x**3

    def difference(self, x, y, dx):
        return dx * (3 * x * x + 3 * x * dx + dx * dx)


CUSTOM = [Swish(), Hinge(), Written()]


def batch(rng, dtype=np.float64, rows=20):
    return rng.standard_normal((rows, 12)).astype(dtype), rng.integers(0, 4, rows)


def middle(dtype, custom):
    return network(dtype, (12, 9), nn.Tanh(), (9, 8), custom, (8, 7), nn.ReLU(), (7, 4))


def taken_straight(monkeypatch):
    """The places that were answered so, one for each attempt."""
    found, before = [], straight.straight_gradients

    def attempt(*arguments):
        answer = before(*arguments)
        found.append(answer is not None)
        return answer

    monkeypatch.setattr("nnframe.gradients.central.straight_gradients", attempt)
    return found


@pytest.mark.parametrize("custom", CUSTOM, ids=lambda one: type(one).__name__)
def test_below_custom_elementwise_layers(dtype, rng, custom, monkeypatch):
    model, found = middle(dtype, custom), taken_straight(monkeypatch)
    for _ in range(5):
        x, t = batch(rng, dtype)
        compare(
            gradients(nn.CentralDifference(), model, nn.CrossEntropyLoss(), x, t),
            by_definition(model, nn.CrossEntropyLoss(), x, t, 1e-6),
            2e-8 if dtype == np.float64 else 3e-6,
        )
    assert all(found)
    assert len(found) >= 5 * 2


@pytest.mark.parametrize("at", [0, 1e-9, -1e-9, 3e-8, 5e-8, 5e-7])
def test_a_kink_of_a_custom_layer_within_every_step_is_not_taken_for_a_line(rng, at, monkeypatch):
    model, found = network(np.float64, (12, 9), nn.Tanh(), (9, 8), Hinge(), (8, 4)), taken_straight(monkeypatch)
    x, t = batch(rng)
    model[2].bias.value[3] -= model[2](model[1](model[0](x)))[5, 3] + at
    result = gradients(nn.CentralDifference(), model, nn.CrossEntropyLoss(), x, t)
    compare(result, by_definition(model, nn.CrossEntropyLoss(), x, t, 3e-8 if found[0] else 1e-5), 1e-6)
    assert found[0] == (abs(at) > 1e-7), "within the smallest step it is no line, beyond that it is"


def test_a_large_step_below_a_custom_layer_is_the_definitions(rng):
    model, (x, t) = middle(np.float64, Swish()), batch(rng)
    for step in (1e-3, 0.3):
        compare(
            gradients(nn.CentralDifference(step), model, nn.CrossEntropyLoss(), x, t),
            by_definition(model, nn.CrossEntropyLoss(), x, t, step),
            1e-8,
        )


def tied(dtype, activation, custom=()):
    one = nn.Linear(12, 12, dtype=dtype, rng=1)
    return nn.Sequential(
        one, activation, *custom, one, activation, one, activation, nn.Linear(12, 4, dtype=dtype, rng=2)
    )


@pytest.mark.parametrize("custom", [(), (Swish(),)], ids=["built-in", "custom"])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU()], ids=repr)
def test_a_layer_that_three_places_share(dtype, rng, activation, custom, monkeypatch):
    model, found = tied(dtype, activation, custom), taken_straight(monkeypatch)
    x, t = batch(rng, dtype)
    result = gradients(nn.CentralDifference(), model, nn.CrossEntropyLoss(), x, t)
    exact = gradients(nn.Backprop(), model.astype(np.float64), nn.CrossEntropyLoss(), x, t)
    compare(result, exact, 1e-9 if dtype == np.float64 else 3e-6)
    assert len(found) >= 3
    assert all(found)


@pytest.mark.parametrize("step", [1e-4, 0.1])
def test_a_shared_layer_with_a_large_step_is_the_definitions(rng, step):
    # moved at three places at once: the sum of what each does alone is another number
    model, (x, t) = tied(np.float64, nn.Tanh()), batch(rng)
    found = gradients(nn.CentralDifference(step), model, nn.CrossEntropyLoss(), x, t)
    compare(found, by_definition(model, nn.CrossEntropyLoss(), x, t, step), 1e-9)


@pytest.mark.parametrize("which", ["custom", "shared"])
def test_some_entries(rng, which):
    model = tied(np.float64, nn.Tanh()) if which == "shared" else middle(np.float64, Swish())
    x, t = batch(rng)
    whole = gradients(nn.CentralDifference(), model, nn.CrossEntropyLoss(), x, t)
    masks = {name: rng.random(p.value.shape) < 0.3 for name, p in model.named_parameters()}
    some = gradients(nn.CentralDifference(only=masks), model, nn.CrossEntropyLoss(), x, t)
    for name, mask in masks.items():
        np.testing.assert_allclose(some[name], np.where(mask, whole[name], 0), rtol=0, atol=1e-9)


def test_what_other_kinds_of_networks_cost(rng):
    one = nn.Linear(64, 64, dtype=np.float64, rng=1)
    tail = nn.Linear(64, 10, dtype=np.float64, rng=2)
    models = {
        "plain": network(np.float64, (64, 64), nn.Tanh(), (64, 64), nn.Tanh(), (64, 10)),
        "shared": nn.Sequential(one, nn.Tanh(), one, nn.Tanh(), tail),
        "custom": network(np.float64, (64, 64), Swish(), (64, 64), nn.Tanh(), (64, 10)),
    }
    x, t = rng.standard_normal((100, 64)), rng.integers(0, 10, 100)
    times = {name: [] for name in models}
    strategies = {name: nn.CentralDifference() for name in models}
    for _ in range(8):
        for name, model in models.items():
            start = time.process_time()
            strategies[name](model, nn.CrossEntropyLoss(), x, t)
            times[name].append(time.process_time() - start)
    for name, each in times.items():  # 1 and 2 times when it is quiet; more than 50 otherwise
        assert min(each) < 10 * min(times["plain"]), name


# ---- measured stages in the kernel ----


def curves(above, distance, outputs, rows):
    found, before = [], _kernels.get_simd()
    for simd in (before, "reference"):
        try:
            _kernels.set_simd(simd)
            level, bend = np.zeros((2, outputs, rows))
            doubtful, state = np.zeros(level.shape, bool), np.zeros(outputs, np.uint8)
            own = {"level": level, "bend": bend, "doubtful": doubtful, "state": state}
            _kernels.difference_curves(above, distance, tolerance=1e-9, **own)
            found.append((level, state))
        finally:
            _kernels.set_simd(before)
    return found


def test_a_measured_stage(simd, rng):
    slope, reach, weight = rng.standard_normal((7, 5)), np.full((7, 5), 1e-5), rng.standard_normal((3, 5))
    reach[4, 2] = 0  # no line at all
    residual = rng.standard_normal((7, 3))
    above = _kernels.Above(5, [("measured", 0.5, slope, reach), (weight,)], "squared_error", residual)
    (level, state), (expected, other) = curves(above, np.full(7, 1e-12), 5, 7)
    np.testing.assert_array_equal(state, [0, 0, 4, 0, 0])
    np.testing.assert_array_equal(other, state)
    known = state == 0
    np.testing.assert_allclose(level[known], (2 * residual @ weight * slope).T[known], rtol=1e-12)
    np.testing.assert_allclose(level[known], expected[known], rtol=1e-9)
    (_, state), (_, other) = curves(above, np.full(7, 1e-4), 5, 7)  # beyond what was measured
    assert (state == 4).all()
    assert (other == 4).all()
    with pytest.raises(ValueError, match="above: expected no measured stage"):
        _kernels.difference_gradient(above, np.ones((7, 2)), step=1.0, scale=1.0, grad_weight=np.zeros((5, 2)))
