"""Optimizers against their formulas, step by step."""

import numpy as np
import pytest

import nnframe as nn


def parameters(rng, dtype):
    made = [nn.Parameter(rng.standard_normal((3, 4)), dtype), nn.Parameter(rng.standard_normal(5), dtype)]
    for parameter in made:
        parameter.grad[...] = rng.standard_normal(parameter.grad.shape)
    return made


def run(optimizer, gradients):
    for step in gradients:
        for parameter, gradient in zip(optimizer.parameters, step, strict=True):
            parameter.grad[...] = gradient
        optimizer.step()
    return [p.value for p in optimizer.parameters]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd(dtype, rng, momentum, nesterov, weight_decay):
    made = parameters(rng, dtype)
    values = [p.value.astype(np.float64) for p in made]
    gradients = [[rng.standard_normal(v.shape).astype(dtype) for v in values] for _ in range(4)]
    velocities = [np.zeros_like(v) for v in values]
    for step in gradients:
        for w, v, g in zip(values, velocities, step, strict=True):
            g = g + weight_decay * w
            v[...] = momentum * v + g
            w -= 0.05 * ((g + momentum * v) if nesterov else v)
    for actual, expected in zip(
        run(nn.SGD(made, 0.05, momentum, nesterov, weight_decay), gradients), values, strict=True
    ):
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, expected, rtol=0, atol=40 * np.finfo(dtype).eps)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam(dtype, rng, weight_decay):
    made = parameters(rng, dtype)
    values = [p.value.astype(np.float64) for p in made]
    gradients = [[rng.standard_normal(v.shape).astype(dtype) for v in values] for _ in range(4)]
    m, s = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
    for t, step in enumerate(gradients, 1):
        for i, g in enumerate(step):
            g = g + weight_decay * values[i]
            m[i] = 0.8 * m[i] + 0.2 * g
            s[i] = 0.95 * s[i] + 0.05 * g * g
            values[i] -= 0.01 * (m[i] / (1 - 0.8**t)) / (np.sqrt(s[i] / (1 - 0.95**t)) + 1e-3)
    optimizer = nn.Adam(made, 0.01, (0.8, 0.95), 1e-3, weight_decay)
    for actual, expected in zip(run(optimizer, gradients), values, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=40 * np.finfo(dtype).eps)


def test_a_parabola_is_minimised():
    for make in (lambda p: nn.SGD(p, 0.1), lambda p: nn.SGD(p, 0.05, 0.9, True), lambda p: nn.Adam(p, 0.1)):
        parameter = nn.Parameter([3.0, -2.0], np.float64)
        optimizer = make([parameter])
        for _ in range(300):
            parameter.grad[...] = 2 * (parameter.value - 1)
            optimizer.step()
        np.testing.assert_allclose(parameter.value, 1, atol=1e-3)


def test_a_failed_step_changes_nothing(rng):
    made = parameters(rng, np.float64)
    optimizer = nn.SGD(made, 0.1, 0.9)
    before = made[0].value.copy()
    made[1].grad = np.zeros(4)
    with pytest.raises(ValueError, match=r"parameter 1: expected a gradient of shape \(5,\), got \(4,\)"):
        optimizer.step()
    np.testing.assert_array_equal(made[0].value, before)
    assert not optimizer.velocities[0].any()


def test_zero_grad(rng):
    made = parameters(rng, np.float32)
    nn.Adam(made).zero_grad()
    assert not any(p.grad.any() for p in made)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: nn.SGD([], 0.1), ValueError, "parameters: expected at least one"),
        (lambda p: nn.SGD([p, p], 0.1), ValueError, "each Parameter once"),
        (lambda p: nn.SGD([p.value], 0.1), TypeError, "expected Parameter objects, got ndarray"),
        (lambda p: nn.SGD([p], -0.1), ValueError, "lr: expected a finite number >= 0, got -0.1"),
        (lambda p: nn.SGD([p], float("nan")), ValueError, "lr: expected a finite number"),
        (lambda p: nn.SGD([p], "fast"), TypeError, "lr: expected a number, got 'fast'"),
        (lambda p: nn.SGD([p], 0.1, momentum=1.0), ValueError, r"momentum: expected a number in \[0, 1\), got 1.0"),
        (lambda p: nn.SGD([p], 0.1, nesterov=True), ValueError, "nesterov: expected a momentum above 0"),
        (lambda p: nn.Adam([p], betas=(0.9, 1.5)), ValueError, r"betas\[1\]: expected a number in \[0, 1\), got 1.5"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(nn.Parameter([1.0]))
