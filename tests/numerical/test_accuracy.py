"""Accuracy of derivatives whose step is looked for, and of what is said about their errors, against exact values."""

import warnings

import numpy as np
import pytest

import nnframe as nn


def noisy(x):
    seed = int.from_bytes(np.float64(x).tobytes(), "little")
    return np.sin(x) + 1e-8 * np.random.default_rng(seed).standard_normal()


# f, its derivative, where, relative error, most evaluations
CASES = {
    "sin": (np.sin, np.cos, 1.0, 1e-13, 12),
    "linear": (lambda x: 3 * x + 1, lambda x: 3.0, 5.0, 1e-13, 6),
    "square at 0": (lambda x: x * x + 2, lambda x: 0.0, 0.0, 1e-13, 14),
    "long |x|, short scale": (np.sin, np.cos, 1e6, 1e-11, 36),  # fixed steps are 100 % off
    "under a large number": (lambda x: 1e6 + np.sin(x), np.cos, 1.0, 1e-8, 18),
    "short scale": (lambda x: np.sin(1000 * x), lambda x: 1000 * np.cos(1000 * x), 1.0, 1e-10, 20),
    "long scale": (lambda x: (x / 1e6) ** 3, lambda x: 3e-18 * x**2, 1e6, 1e-9, 10),
    "log near 0": (np.log, lambda x: 1 / x, 1e-3, 1e-11, 14),
    "log nearer": (np.log, lambda x: 1 / x, 1e-8, 1e-11, 14),
    "power": (lambda x: x**20, lambda x: 20 * x**19, 0.01, 1e-12, 16),
    "exp": (np.exp, np.exp, 50.0, 1e-12, 16),
    "pole": (lambda x: 1 / (x - 1), lambda x: -1 / (x - 1) ** 2, 1.001, 1e-9, 27),
    "tan": (np.tan, lambda x: 1 / np.cos(x) ** 2, 1.57, 1e-9, 27),
    "product": (lambda x: np.sin(x) * np.sin(30 * x),
                lambda x: np.cos(x) * np.sin(30 * x) + 30 * np.sin(x) * np.cos(30 * x), 1.0, 1e-11, 16),
    "oscillating": (lambda x: np.sin(1 / x), lambda x: -np.cos(1 / x) / x**2, 0.05, 1e-10, 16),
    "kink nearby": (lambda x: np.abs(x - 1.001) + x**2, lambda x: 2 * x - 1, 1.0, 1e-9, 27),
    "hidden bump": (lambda x: x + 1e-3 * np.exp(-(((x - 1) / 1e-4) ** 2)),
                    lambda x: 1 - 20 * ((x - 1) / 1e-4) * np.exp(-(((x - 1) / 1e-4) ** 2)), 1.00005, 1e-6, 35),
    "noise": (noisy, np.cos, 1.0, 1e-5, 25),
    "float32 inside": (lambda x: float(np.exp(np.float32(x))), np.exp, 0.8, 1e-4, 20),
    "flat": (lambda x: 1 + 1e-9 * np.sin(x), lambda x: 1e-9 * np.cos(x), 1.0, 1e-4, 18),
    "period of the step": (lambda x: np.sin(16 * np.pi * x), lambda x: 16 * np.pi * np.cos(16 * np.pi * x), 1.0, 1e-11,
                           18),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_steps_that_are_looked_for(case):
    f, derivative, x, bound, most = CASES[case]
    calls = []

    def counted(v):
        calls.append(1)
        return float(f(v[0]))

    gradient, error = nn.numerical_gradient(counted, np.array([x]), return_error=True)
    exact = float(derivative(x))
    assert abs(gradient[0] - exact) <= bound * max(abs(exact), 1e-3 if exact == 0 else 0)
    assert abs(gradient[0] - exact) <= 10 * error[0] + 1e-15 * abs(exact)
    assert len(calls) <= most


def shaky(values, size):
    """Return `values` with a noise that is the same for the same value."""
    seeds = int.from_bytes(np.float64(values).tobytes(), "little")
    return float(values) * (1 + size * np.random.default_rng(seeds).standard_normal())


@pytest.mark.parametrize("size", [1e-15, 1e-14, 1e-13, 1e-12, 1e-10, 1e-6])
def test_noise_that_one_variable_does_not_have_measured_beforehand(size, rng):
    honest, places = 0, rng.uniform(0.5, 2, 200)
    for x in places:
        gradient, error = nn.numerical_gradient(lambda v: shaky(np.exp(v[0]), size), np.array([x]), return_error=True)
        honest += abs(gradient[0] - np.exp(x)) <= 10 * error[0]
        assert abs(gradient[0] - np.exp(x)) <= 1000 * size * np.exp(x) + 1e-12
    assert honest >= 0.99 * len(places)


def test_values_that_are_multiples_of_much_more_than_their_last_digit():
    x = 1e-3  # 1 - cos is one of 1.1e-16, 1e9 times what its size lets expect
    calls = []

    def f(v):
        calls.append(1)
        return float(1 - np.cos(v[0]))

    gradient, error = nn.numerical_gradient(f, np.array([x]), return_error=True)
    assert abs(gradient[0] - np.sin(x)) <= min(10 * error[0], 1e-9 * x)
    assert len(calls) <= 16  # seen in the values; measuring it takes 5 more


@pytest.mark.parametrize("x", [1e300, -1.7e308, 1e-300, 5e-324, 3e38, 0.0])
def test_extreme_numbers(x):
    for f, exact in ((lambda v: float(v[0]) / 2, 0.5), (lambda v: 3.0 - float(v[0]) / 2, -0.5)):
        assert nn.numerical_gradient(f, np.array([x]))[0] == pytest.approx(exact, rel=1e-9)


def random_functions(rng, count):
    """Smooth functions of one number at random scales, places and offsets, and their derivatives."""
    kinds = [
        (np.sin, np.cos),
        (np.tanh, lambda u: 1 / np.cosh(u) ** 2),
        (lambda u: 1 / (1 + u * u), lambda u: -2 * u / (1 + u * u) ** 2),
        (lambda u: u**3 - u, lambda u: 3 * u * u - 1),
        (lambda u: np.log(1e-3 + u * u), lambda u: 2 * u / (1e-3 + u * u)),
        (lambda u: np.sqrt(1 + u * u), lambda u: u / np.sqrt(1 + u * u)),
    ]
    for _ in range(count):
        f, derivative = kinds[rng.integers(len(kinds))]
        a, s, c = 10 ** rng.uniform(-3, 3), 10 ** rng.uniform(-2, 2), rng.standard_normal()
        offset, x = rng.choice([0, 1, 100.0]) * rng.standard_normal(), rng.standard_normal() * 10 ** rng.uniform(-2, 1)
        with np.errstate(over="ignore"):
            exact = a * s * derivative(s * x + c)
        own = 2e-15 * abs(exact) * (1 + abs(s * x))  # what the exact derivative is off itself
        yield lambda v, f=f, a=a, s=s, c=c, o=offset: float(a * f(s * v[0] + c) + o), np.array([x]), exact, own


@pytest.mark.filterwarnings("ignore:f. no step gave:RuntimeWarning")
@pytest.mark.parametrize(
    ("scheme", "share", "count"),
    [("auto", 0.999, 3000), ("central", 0.995, 1000), ("central4", 0.995, 1000), ("forward", 0.995, 1000)],
)
def test_errors_are_honest(scheme, share, count):
    honest = 0
    for f, x, exact, own in random_functions(np.random.default_rng(5), count):
        gradient, error = nn.numerical_gradient(f, x, scheme=scheme, return_error=True)
        honest += abs(gradient[0] - exact) <= 10 * error[0] + own
        assert error[0] > 0
    assert honest >= share * count


def test_jacobians_and_their_errors(dtype):
    x = np.array([0.3, -1.2, 2.0], dtype)
    a = np.random.default_rng(0).standard_normal((4, 3))
    exact = a * np.cos(x.astype(float) * [1, 10, 100]) * [1, 10, 100]
    for scheme in ("auto", "central"):
        jacobian, error = nn.numerical_jacobian(
            lambda v: a @ np.sin(v.astype(float) * [1, 10, 100]), x, scheme=scheme, return_error=True
        )
        assert jacobian.dtype == error.dtype == dtype
        assert (np.abs(jacobian - exact) <= 10 * error + np.finfo(dtype).eps * np.abs(exact)).all()
        if scheme == "auto":
            np.testing.assert_allclose(
                jacobian, exact, rtol=1e-10 if dtype == np.float64 else 2e-3, atol=1e-3 * (dtype != np.float64)
            )


HESSIANS = {
    "Rosenbrock": (
        lambda v: 100 * (v[1] - v[0] ** 2) ** 2 + (1 - v[0]) ** 2,
        lambda u, w: [[1200 * u**2 - 400 * w + 2, -400 * u], [-400 * u, 200]],
        [0.5, -0.3],
    ),
    "product": (
        lambda v: np.exp(v[0] * v[1]),
        lambda u, w: np.exp(u * w) * np.array([[w * w, 1 + u * w], [1 + u * w, u * u]]),
        [0.5, -0.3],
    ),
    "two scales": (
        lambda v: np.sin(100 * v[0]) * v[1] ** 2,
        lambda u, w: [[-1e4 * np.sin(100 * u) * w * w, 200 * np.cos(100 * u) * w],
                      [200 * np.cos(100 * u) * w, 2 * np.sin(100 * u)]],
        [0.4, 30.0],
    ),
    "near a pole": (
        lambda v: np.log(v[0]) * v[1],
        lambda u, w: [[-w / u**2, 1 / u], [1 / u, 0]],
        [1e-3, 0.3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HESSIANS)
def test_hessians_and_their_errors(case):
    f, second, x = HESSIANS[case]
    exact = np.array(second(*x))
    for scheme in ("auto", "central"):
        hessian, error = nn.numerical_hessian(lambda v: float(f(v)), np.array(x), scheme=scheme, return_error=True)
        assert (np.abs(hessian - exact) <= 10 * error + 1e-15 * np.abs(exact)).all()
        if scheme == "auto":
            assert np.abs(hessian - exact).max() <= 1e-9 * np.abs(exact).max()
        np.testing.assert_array_equal(hessian, hessian.T)


def with_bump(v):
    return float(v @ v) + 1e-3 * float(np.sin(1e5 * v[7]))


MANY = {
    "squares": (lambda v: float(v @ v), lambda v: 2 * v, 2 * 200 + 20),
    "one entry of a short scale": (
        with_bump,
        lambda v: 2 * v + 100 * np.cos(1e5 * v) * (np.arange(200) == 7),
        2 * 200 + 80,
    ),
    "all of a short scale": (lambda v: float(np.sin(1e5 * v).sum()), lambda v: 1e5 * np.cos(1e5 * v), 36 * 200),
    "logarithms": (lambda v: float(np.log(np.abs(v)).sum()), lambda v: 1 / v, 14 * 200),
    "kinks": (lambda v: float(np.maximum(v, 0).sum()), lambda v: (v > 0) * 1.0, 12 * 200),
    "float32 inside": (lambda v: float(np.sin(v.astype(np.float32)).astype(float).sum()), np.cos, 36 * 200),
}  # fmt: skip


@pytest.mark.parametrize("case", MANY)
def test_many_variables(case, rng):
    f, derivative, most = MANY[case]
    x = rng.standard_normal(200)
    calls = []

    def counted(v):
        calls.append(1)
        return f(v)

    exact = derivative(x)
    bound = 1e-3 if "float32" in case else 1e-4
    np.testing.assert_allclose(nn.numerical_gradient(counted, x), exact, rtol=bound, atol=1e-6 * np.abs(exact).max())
    assert len(calls) <= most
    bounded = nn.numerical_gradient(f, x, bounds=(np.minimum(x, 0), np.maximum(x, 0)))
    np.testing.assert_allclose(bounded, exact, rtol=100 * bound, atol=1e-5 * np.abs(exact).max())


def test_a_jump_is_not_passed_over():
    with pytest.warns(RuntimeWarning, match=r"no step gave the derivative for entry 1 of x to 10 %"):
        nn.numerical_gradient(lambda v: float(v[0] ** 2 + (v[1] > 0)), np.array([1.0, 0.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for f in (
            lambda v: 1e16 * 0 + float(v[0]),
            lambda v: 3.0,
            lambda v: float(abs(v[1])),
            lambda v: float(v[0] ** 2),
        ):
            nn.numerical_gradient(f, np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="step: expected none with the scheme 'auto'"):
        nn.numerical_gradient(lambda v: float(v[0]), np.array([1.0]), scheme="auto", step=1e-3)
