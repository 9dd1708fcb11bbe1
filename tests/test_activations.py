"""The activations: forward, backward and difference against exact values and the NumPy twins."""

import numpy as np
import pytest
from harness import variants

from nnframe import _kernels, kernels, reference

NAMES = ("identity", "sigmoid", "tanh", "relu", "step")
EXTENDED = np.finfo(np.longdouble).eps < 1e-18  # x86: 64 bits of mantissa to compare with


def exact(name, x):
    x = x.astype(np.longdouble)
    if name == "sigmoid":
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, 1, e) / (1 + e)
    return {"identity": x, "tanh": np.tanh(x), "relu": np.maximum(x, 0), "step": (x > 0).astype(np.longdouble)}[name]


def exact_difference(name, x, d):
    x, d = x.astype(np.longdouble), d.astype(np.longdouble)
    if name == "sigmoid":  # s(x+d) - s(x) = sinh(d/2) / (2 cosh((x+d)/2) cosh(x/2))
        return np.sinh(d / 2) / (2 * np.cosh((x + d) / 2) * np.cosh(x / 2))
    if name == "tanh":
        return np.sinh(d) / (np.cosh(x + d) * np.cosh(x))
    if name == "relu":
        return np.where((x > 0) & (x + d > 0), d, np.where(x > 0, -x, np.maximum(x + d, 0)))
    return d


def ulps(actual, expected):
    spacing = np.spacing(np.abs(expected.astype(actual.dtype)))
    return float(np.max(np.abs(actual.astype(np.longdouble) - expected) / spacing.astype(np.longdouble)))


def numbers(rng, dtype, n):
    wide = 80 if dtype == np.float32 else 600
    parts = [
        rng.uniform(-wide, wide, n),
        rng.standard_normal(n),
        rng.standard_normal(n) * 10.0 ** rng.integers(-30, 1, n),
    ]
    return np.concatenate(parts).astype(dtype)


@pytest.mark.skipif(not EXTENDED, reason="needs a long double wider than double")
@pytest.mark.parametrize("name", NAMES)
def test_forward_to_the_last_places(simd, dtype, rng, name):
    x = numbers(rng, dtype, 20000)
    assert ulps(kernels.activation(name, x), exact(name, x)) <= 3


@pytest.mark.skipif(not EXTENDED, reason="needs a long double wider than double")
@pytest.mark.parametrize("name", ["identity", "sigmoid", "tanh", "relu"])
def test_difference_cancels_nothing(simd, dtype, rng, name):
    # small and large changes, of both signs, at points where f has long been flat
    n = 20000
    x = np.concatenate([rng.uniform(-40, 40, n), rng.standard_normal(n)]).astype(dtype)
    d = np.concatenate([rng.standard_normal(n), rng.standard_normal(n) * 10.0 ** rng.integers(-25, 2, n)]).astype(dtype)
    moved = x.astype(np.longdouble) + d
    steady = moved.astype(dtype) == moved if name == "relu" else np.ones(len(x), bool)
    y = kernels.activation(name, x)
    actual, expected = kernels.activation_difference(name, x, y, d), exact_difference(name, x, d)
    # sigmoid and tanh evaluate at the rounded x + d: half an ULP of it, times f''/f' <= 2
    rounding = np.abs(moved.astype(dtype).astype(np.longdouble) - moved)
    bound = np.abs(expected) * (12 * np.finfo(dtype).eps + 2.1 * rounding) + np.finfo(dtype).tiny
    wrong = np.flatnonzero(steady & ~(np.abs(actual - expected) <= bound))
    assert len(wrong) == 0, [(x[i], d[i], actual[i], expected[i]) for i in wrong[:3]]


@pytest.mark.parametrize("name", NAMES)
def test_twins_agree(simd, dtype, rng, name):
    eps = float(np.finfo(dtype).eps)
    for n in (0, 1, 3, 7, 8, 15, 16, 17, 33, 100, 70000):
        x, dy = rng.standard_normal(n).astype(dtype) * 3, rng.standard_normal(n).astype(dtype)
        y = kernels.activation(name, x)
        np.testing.assert_allclose(y, reference.activation(name, x), rtol=8 * eps, atol=0)
        back = kernels.activation_backward(name, x, y, dy)
        np.testing.assert_allclose(back, reference.activation_backward(name, x, y, dy), rtol=30 * eps, atol=eps)
        for dx in (dy * dtype(1e-3), np.stack([dy, -dy, dy * dtype(1e-4)])):
            change = kernels.activation_difference(name, x, y, dx)
            assert change.shape == dx.shape
            twin = reference.activation_difference(name, x, y, dx)
            np.testing.assert_allclose(change, twin, rtol=60 * eps, atol=0 if name != "relu" else 4 * eps)


@pytest.mark.parametrize("name", NAMES)
def test_special_values(simd, dtype, name):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).max, -np.finfo(dtype).max], dtype)
    y = kernels.activation(name, x)
    np.testing.assert_array_equal(y, reference.activation(name, x))
    assert np.isnan(y[0])
    back = kernels.activation_backward(name, x, y, np.ones_like(x))
    assert name in ("step", "identity") or np.isnan(back[0])
    assert np.isfinite(back[3:]).all()


@pytest.mark.parametrize("name", NAMES)
def test_any_layout_and_in_place(dtype, rng, name):
    a = rng.standard_normal((5, 7)).astype(dtype)
    y = kernels.activation(name, a)
    for what, same in variants(a):
        np.testing.assert_array_equal(kernels.activation(name, same), y, err_msg=what)
    dx = rng.standard_normal((2, 5, 7)).astype(dtype)
    change = kernels.activation_difference(name, a, y, dx)
    for what, same in variants(dx):
        np.testing.assert_array_equal(kernels.activation_difference(name, a, y, same), change, err_msg=what)
    b = a.copy()
    assert kernels.activation(name, b, out=b) is b
    np.testing.assert_array_equal(b, y)


def test_refused():
    x = np.zeros((3, 4))
    with pytest.raises(ValueError, match="expected one of identity, sigmoid, tanh, relu, step, got 'swish'"):
        kernels.activation("swish", x)
    with pytest.raises(TypeError, match="x: expected an array of float32 or float64, got int64"):
        kernels.activation("relu", np.arange(3))
    with pytest.raises(ValueError, match=r"y: expected shape of x \(3, 4\), got \(4, 3\)"):
        kernels.activation_backward("relu", x, x.T, x)
    with pytest.raises(ValueError, match=r"dx: expected shape of x \(3, 4\), with or without one axis"):
        kernels.activation_difference("relu", x, x, np.zeros((2, 4, 3)))
    with pytest.raises(TypeError, match="dy: expected .*float64"):
        kernels.activation_backward("relu", x, x, x.astype(np.float32))


def test_reference_mode(dtype, rng):
    x = rng.standard_normal(9).astype(dtype)
    before = _kernels.get_simd()
    _kernels.set_simd("reference")
    try:
        for name in NAMES:
            y = kernels.activation(name, x)
            np.testing.assert_array_equal(y, reference.activation(name, x))
            np.testing.assert_array_equal(
                kernels.activation_difference(name, x, y, x), reference.activation_difference(name, x, y, x)
            )
    finally:
        _kernels.set_simd(before)
