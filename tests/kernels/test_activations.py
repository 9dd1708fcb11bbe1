"""The activations: forward, backward and difference against exact values and the references in NumPy."""

import mpmath
import numpy as np
import pytest
from harness import variants

from nnframe import kernels
from nnframe.kernels import _kernels, reference

NAMES = (
    "identity", "sigmoid", "tanh", "relu", "step", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "softplus",
    "hardswish", "mish", "selu",
)  # fmt: skip
ALPHA = {"leaky_relu": 0.125, "elu": 1.0}  # exact in both dtypes
# Error bounds in ULP of the result, (float32, float64): what docs/performance.md states. gelu_tanh evaluates s(z) at a
# rounded z of up to some 100, which costs |z| of them.
FORWARD = {
    "identity": 0, "relu": 0, "step": 0, "leaky_relu": 0.5, "sigmoid": 2.5, "tanh": 2.6, "elu": 2.4, "silu": 3.5,
    "softplus": 2.5, "gelu": 7, "hardswish": 2.5, "mish": 5, "selu": 3.5,
}  # fmt: skip
mpmath.mp.dps = 40


def number(x):
    return mpmath.mpf(float(x))


def exact_forward(name, x):
    """f(x) with 40 digits, x an mpf."""
    if name == "sigmoid":
        return 1 / (1 + mpmath.exp(-x))
    if name == "tanh":
        return mpmath.tanh(x)
    if name == "elu":
        return x if x > 0 else mpmath.expm1(x)
    if name == "leaky_relu":
        return x if x > 0 else x * ALPHA[name]
    if name == "gelu":
        return x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2
    if name == "gelu_tanh":
        return x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))
    if name == "silu":
        return x / (1 + mpmath.exp(-x))
    if name == "hardswish":
        return x * min(max(x + 3, mpmath.mpf(0)), mpmath.mpf(6)) / 6
    if name == "mish":
        return x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)))
    if name == "selu":
        scale, alpha = mpmath.mpf("1.0507009873554804934193349852946"), mpmath.mpf("1.6732632423543772848170429916717")
        return scale * (x if x > 0 else alpha * mpmath.expm1(x))
    if name == "softplus":
        return mpmath.log1p(mpmath.exp(x)) if x < 60 else x + mpmath.exp(-x)
    return {"identity": x, "relu": max(x, mpmath.mpf(0)), "step": mpmath.mpf(int(x > 0))}[name]


def error_in_ulps(actual, expected):
    """Distance of a NumPy number from an mpf, in units of the last place of the latter in the former's dtype."""
    spacing = np.spacing(np.abs(type(actual)(float(expected))))
    return float(abs(number(actual) - expected) / number(spacing))


def numbers(rng, dtype, n):
    wide = 80 if dtype == np.float32 else 600
    parts = [
        rng.uniform(-wide, wide, n),
        rng.standard_normal(n),
        rng.standard_normal(n) * 10.0 ** rng.integers(-30, 1, n),
    ]
    return np.concatenate(parts).astype(dtype)


def points(rng, dtype):
    """Small, middling and large numbers, and those around which the formulas change over."""
    return np.concatenate([numbers(rng, dtype, 150), rng.uniform(-6, 6, 300).astype(dtype)])


def forward(name, x):
    return kernels.activation(name, x, alpha=ALPHA.get(name, 0.0))


@pytest.mark.parametrize("name", FORWARD)
def test_forward_to_the_last_places(simd, dtype, rng, name):
    x = points(rng, dtype)
    y = forward(name, x)
    errors = [error_in_ulps(b, exact_forward(name, number(a))) for a, b in zip(x, y, strict=True)]
    worst = int(np.argmax(errors))
    assert errors[worst] <= FORWARD[name], (x[worst], y[worst])


def test_gelu_tanh_to_the_rounding_of_its_argument(simd, dtype, rng):
    x = points(rng, dtype)
    y = forward("gelu_tanh", x)
    z = np.abs(1.6 * (x + 0.045 * x.astype(np.float64) ** 3))
    for a, b, bound in zip(x, y, 5 + 4 * z, strict=True):
        assert error_in_ulps(b, exact_forward("gelu_tanh", number(a))) <= bound, (a, b)


SMOOTH = ["sigmoid", "tanh", "elu", "gelu", "gelu_tanh", "silu", "softplus", "mish", "selu"]


@pytest.mark.parametrize("name", [*SMOOTH, "hardswish"])
def test_backward_is_the_derivative(simd, dtype, rng, name):
    # a central difference with 40 digits; where the derivative passes through 0 its terms cancel, of size up to 1
    x = np.concatenate([rng.uniform(-8, 8, 100), rng.standard_normal(20) * 1e-6]).astype(dtype)
    dx = kernels.activation_backward(name, x, forward(name, x), np.ones_like(x), alpha=ALPHA.get(name, 0.0))
    h = mpmath.mpf(10) ** -12
    for a, b in zip(x, dx, strict=True):
        at = number(a)
        expected = (exact_forward(name, at + h) - exact_forward(name, at - h)) / (2 * h)
        size = max(
            abs(expected),
            abs(exact_forward("gelu", at))
            if "gelu" in name
            else abs(at) / 6
            if name == "hardswish" and abs(at) < 3
            else 0,
        )
        assert abs(number(b) - expected) <= 30 * np.finfo(dtype).eps * size, (a, b, float(expected))


@pytest.mark.parametrize("name", [*SMOOTH, "leaky_relu", "hardswish"])
def test_difference_cancels_nothing(simd, dtype, rng, name):
    # changes of every size and both signs. x + d is rounded, half an ULP of it, and f''/f' times that is lost.
    n = 60
    x = np.concatenate([rng.uniform(-12, 12, n), rng.standard_normal(2 * n), [0, -3, 40, -40, 30]]).astype(dtype)
    d = np.concatenate(
        [rng.standard_normal(n), rng.standard_normal(n) * 10.0 ** rng.integers(-25, 2, n), rng.uniform(-0.4, 0.4, n)]
    )
    d = np.concatenate([d, [90, 100, 100, 100, -100]]).astype(dtype)
    actual = kernels.activation_difference(name, x, forward(name, x), d, alpha=ALPHA.get(name, 0.0))
    eps = float(np.finfo(dtype).eps)
    for a, b, c in zip(x, d, actual, strict=True):
        at, by = number(a), number(b)
        with mpmath.workdps(80):
            expected = exact_forward(name, at + by) - exact_forward(name, at)
        moved = abs(float(a) + float(b))
        # terms that an x g(x) adds: d g(x) and (x + d) (g(x + d) - g(x)), either of which may be larger than their sum
        terms = abs(expected)
        if name in ("gelu", "gelu_tanh", "silu", "mish", "hardswish"):
            g = [exact_forward(name, at) / at if at else mpmath.mpf("0.5"), exact_forward(name, at + by) / (at + by)]
            terms = abs(by * g[0]) + abs((at + by) * (g[1] - g[0]))
        curvature = {"gelu": moved**2 + 2, "gelu_tanh": 3 * moved**3 + 3}.get(name, moved + 1)
        near_kink = eps * moved if name in ("leaky_relu", "hardswish") else 0
        bound = terms * eps * (40 + 4 * curvature) + near_kink + float(np.finfo(dtype).tiny)
        assert abs(number(c) - expected) <= bound, (a, b, c, float(expected))


@pytest.mark.parametrize("name", NAMES)
def test_the_references_agree(simd, dtype, rng, name):
    eps = float(np.finfo(dtype).eps)
    for n in (0, 1, 3, 7, 8, 15, 16, 17, 33, 100, 70000 if name == "tanh" else 1000):
        x, dy = rng.standard_normal(n).astype(dtype) * 3, rng.standard_normal(n).astype(dtype)
        y, alpha = forward(name, x), ALPHA.get(name, 0.0)
        sum_of_terms = (
            4 * eps if name in ("gelu", "gelu_tanh", "silu", "relu", "leaky_relu", "mish", "hardswish") else 0
        )
        np.testing.assert_allclose(y, reference.activation(name, x, alpha), rtol=100 * eps, atol=sum_of_terms)
        back = kernels.activation_backward(name, x, y, dy, alpha=alpha)
        expected = reference.activation_backward(name, x, y, dy, alpha)
        np.testing.assert_allclose(back, expected, rtol=30 * eps, atol=10 * eps)
        for dx in (dy * dtype(1e-3), np.stack([dy, -dy, dy * dtype(1e-4)])):
            change = kernels.activation_difference(name, x, y, dx, alpha=alpha)
            assert change.shape == dx.shape
            expected = reference.activation_difference(name, x, y, dx, alpha)
            np.testing.assert_allclose(change, expected, rtol=60 * eps, atol=10 * sum_of_terms)


@pytest.mark.parametrize("name", NAMES)
def test_special_values(simd, dtype, name):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).max, -np.finfo(dtype).max], dtype)
    y = forward(name, x)
    np.testing.assert_array_equal(y, reference.activation(name, x, ALPHA.get(name, 0.0)))
    assert np.isnan(y[0])
    assert name in ("identity", "leaky_relu") or np.isfinite(y[2])
    back = kernels.activation_backward(name, x, y, np.ones_like(x), alpha=ALPHA.get(name, 0.0))
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
    with pytest.raises(ValueError, match="expected one of identity, sigmoid, .*, got 'swish'"):
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
