"""numerical_gradient, numerical_jacobian, numerical_hessian and central_difference of Python functions."""

import math

import numpy as np
import pytest

import nnframe as nn
from nnframe import numerical


def cubic(x):
    return float((x**3).sum() + 2 * x.flat[0] * x.flat[-1])


def cubic_gradient(x):
    gradient = np.array(3 * x.astype(np.float64) ** 2)
    gradient.flat[0] += 2 * float(x.flat[-1])
    gradient.flat[-1] += 2 * float(x.flat[0])
    return gradient


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1,), (), (0,)])
@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_schemes(dtype, rng, shape, scheme):
    x = np.array(rng.standard_normal(shape), dtype)
    before = x.copy()
    if x.size:
        gradient = nn.numerical_gradient(cubic, x, scheme=scheme)
        expected = cubic_gradient(x)
    else:
        gradient, expected = nn.numerical_gradient(lambda _: 0.0, x, scheme=scheme), x
    assert gradient.dtype == dtype
    assert gradient.shape == x.shape
    eps = float(np.finfo(dtype).eps)
    bound = 300 * eps ** (2 / 3) if scheme == "central" else 100 * eps**0.5
    np.testing.assert_allclose(gradient, expected, atol=bound)
    np.testing.assert_array_equal(x, before)


def test_the_textbooks_example():
    # integers would be cut off: [25000, 35000] instead of [6, 8]
    with pytest.raises(TypeError, match=r"x: expected an array of float32 or float64, got int64; use x\.astype"):
        nn.numerical_gradient(lambda x: x[0] ** 2 + x[1] ** 2, np.array([3, 4]))
    gradient = nn.numerical_gradient(lambda x: x[0] ** 2 + x[1] ** 2, np.array([3.0, 4.0]))
    np.testing.assert_allclose(gradient, [6, 8], rtol=1e-9)


def test_a_function_that_reads_the_array_where_it_lives(rng):
    model = nn.Sequential(nn.Linear(3, 2, dtype=np.float64, rng=1))
    x, t = rng.standard_normal((4, 3)), np.array([0, 1, 1, 0])
    loss = nn.CrossEntropyLoss()
    weight = model[0].weight
    numerical = nn.numerical_gradient(lambda _: loss(model(x), t), weight.value)
    nn.Backprop()(model, loss, x, t)
    np.testing.assert_allclose(numerical, weight.grad, atol=1e-9)


def test_any_layout(rng):
    x = rng.standard_normal((4, 6))
    expected = cubic_gradient(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    for same in (np.asfortranarray(x), x[:, ::-1].copy()[:, ::-1], read_only, x.astype(">f8")):
        before = same.copy()
        gradient = nn.numerical_gradient(cubic, same)
        assert gradient.dtype == np.float64
        np.testing.assert_allclose(gradient, expected, atol=1e-8)
        np.testing.assert_array_equal(same, before)


def test_steps(rng):
    x = rng.standard_normal(4)
    coarse = numerical.central_difference(cubic, x, step=0.5)
    np.testing.assert_allclose(coarse, cubic_gradient(x) + 0.25, atol=1e-12)  # x^3: the truncation is h^2
    steps = np.array([0.5, 1e-5, 0.5, 1e-5])
    np.testing.assert_allclose(
        numerical.central_difference(cubic, x, step=steps),
        cubic_gradient(x) + np.where(steps > 0.1, 0.25, 0),
        atol=1e-8,
    )
    large = np.array([1e8, -3e5])
    np.testing.assert_allclose(nn.numerical_gradient(lambda v: float((v * v).sum()), large), 2 * large, rtol=1e-5)
    for step, message in (
        (0, "above 0"),
        (-1e-3, "above 0"),
        (np.nan, "finite"),
        ([1e-3], r"shape \(4,\), got shape \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            numerical.central_difference(cubic, x, step=step)
    with pytest.raises(ValueError, match=r"moves every entry of x, but 1e\+08 \+ 1e-12 at entry 0"):
        numerical.central_difference(cubic, large, step=1e-12)
    with pytest.raises(TypeError, match="step: expected a number"):
        numerical.central_difference(cubic, x, step="small")


def test_restored_after_an_error(rng):
    x = rng.standard_normal(5)
    before = x.copy()

    def f(v):
        if not np.array_equal(v[:3], before[:3]):
            raise RuntimeError("no")
        return float(v.sum())

    with pytest.raises(RuntimeError, match="no"):
        numerical.central_difference(f, x)
    np.testing.assert_array_equal(x, before)


def test_out(rng):
    x, out = rng.standard_normal(4), np.empty(4)
    assert numerical.central_difference(cubic, x, out=out) is out
    np.testing.assert_allclose(out, cubic_gradient(x), atol=1e-8)
    for wrong, message in ((np.empty(3), r"shape \(4,\), got .*\(3,\)"), (np.empty(4, np.float32), "got float32")):
        with pytest.raises(ValueError, match=message):
            numerical.central_difference(cubic, x, out=wrong)
    with pytest.raises(TypeError, match="out: expected an array, got list"):
        numerical.central_difference(cubic, x, out=[0] * 4)


def test_refused(rng):
    x = rng.standard_normal(3)
    with pytest.raises(TypeError, match=r"f: expected a single number, got ndarray of shape \(3,\) at x itself"):
        nn.numerical_gradient(lambda v: v, x)
    with pytest.raises(TypeError, match="f: expected a single number, got NoneType"):
        nn.numerical_gradient(lambda v: None, x, scheme="forward")
    with pytest.raises(TypeError, match="f: expected a callable, or a compiled function .* got float"):
        nn.numerical_gradient(3.0, x)
    with pytest.raises(
        ValueError, match="scheme: expected one of auto, forward, central, central4, richardson, got 'upward'"
    ):
        nn.numerical_gradient(cubic, x, scheme="upward")
    assert nn.numerical_gradient(lambda v: np.array([[v.sum()]]), x) == pytest.approx(np.ones(3))


# ---- schemes, errors, bounds ----


def wave(x):
    return float(np.sin(3 * x.astype(np.float64)).sum() + np.exp(x.astype(np.float64)).prod())


def wave_gradient(x):
    x = x.astype(np.float64)
    return 3 * np.cos(3 * x) + np.exp(x).prod()


BOUNDS = {"forward": 40, "central": 40, "central4": 40, "richardson": 100}


@pytest.mark.parametrize("scheme", BOUNDS)
def test_errors_of_schemes(rng, scheme):
    x = rng.uniform(-0.5, 0.5, 6)
    power = {"forward": 1 / 2, "central": 2 / 3, "central4": 4 / 5, "richardson": 0.9}[scheme]
    bound = BOUNDS[scheme] * np.finfo(float).eps ** power
    assert np.abs(nn.numerical_gradient(wave, x, scheme=scheme) - wave_gradient(x)).max() <= bound


@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("central", 2), ("central4", 4)])
@pytest.mark.parametrize("at_bound", [False, True])
def test_orders_of_schemes(scheme, order, at_bound):
    # halving the step divides the error by 2^order, in the middle as at a bound
    x = np.array([0.3, -0.2])
    bounds = (x.copy(), np.inf) if at_bound else None
    errors = [
        np.abs(nn.numerical_gradient(wave, x, scheme=scheme, step=h, bounds=bounds) - wave_gradient(x)).max()
        for h in (0.02, 0.01)
    ]
    assert order - 0.35 < np.log2(errors[0] / errors[1]) < order + 0.35


def test_richardson_estimates_its_error(rng):
    x = rng.uniform(-0.5, 0.5, 8)
    gradient, error = nn.numerical_gradient(wave, x, scheme="richardson", return_error=True)
    true = np.abs(gradient - wave_gradient(x))
    assert (true <= 20 * error + 1e-13).all()
    assert (error < 1e-9).all()


@pytest.mark.parametrize("scheme", BOUNDS)
def test_no_point_leaves_the_bounds(scheme):
    lower, upper = np.array([0.0, -1.0, 0.0, -1e-7]), np.array([2.0, 1.0, np.inf, 1e-7])
    x = np.array([0.0, 1.0, 1e-9, 5e-8])
    seen = []

    def f(v):
        seen.append(v.copy())
        return float(np.sqrt(v[0] + 1) + v[1] ** 3 + v[2] + v[3] * v[1])

    gradient = nn.numerical_gradient(f, x, scheme=scheme, bounds=(lower, upper))
    assert all(((lower <= v) & (v <= upper)).all() for v in seen)
    np.testing.assert_allclose(gradient, [0.5, 3 + x[3], 1, 1], atol=1e-6 if scheme == "forward" else 1e-7)


def test_bad_bounds():
    x = np.array([0.5, 1.0])
    with pytest.raises(ValueError, match=r"bounds: expected x within them, got 1 at entry 1, outside \[0, 0.9\]"):
        nn.numerical_gradient(cubic, x, bounds=(0, 0.9))
    with pytest.raises(ValueError, match=r"bounds: expected a pair"):
        nn.numerical_gradient(cubic, x, bounds=3)


# ---- how f is called ----


def test_vectorized(rng):
    x = rng.standard_normal((3, 4))
    calls = []

    def stack(v):
        calls.append(v.shape)
        return (v**3).sum(axis=(1, 2)) + 2 * v[:, 0, 0] * v[:, -1, -1]

    for scheme in BOUNDS:
        plain = nn.numerical_gradient(cubic, x, scheme=scheme)
        np.testing.assert_allclose(nn.numerical_gradient(stack, x, scheme=scheme, vectorized=True), plain, atol=1e-6)
    assert max(shape[0] for shape in calls) >= 24
    assert all(shape[1:] == (3, 4) for shape in calls)
    with pytest.raises(ValueError, match=r"expected 1 values for a stack of 1 arrays \(vectorized=True\), got shape"):
        nn.numerical_gradient(lambda v: v.sum(), x, vectorized=True)


def mapped(function, items):
    return [function(item) for item in items]


def product_of_squares(x):
    return float((x**2).sum() + x[0] * x[1])


def test_workers(rng):
    x = rng.standard_normal(7)
    expected = nn.numerical_gradient(product_of_squares, x)
    for workers in (mapped, map, 2):
        np.testing.assert_array_equal(nn.numerical_gradient(product_of_squares, x, workers=workers), expected)
    with pytest.raises(TypeError, match="f: expected a function that can be pickled"):
        nn.numerical_gradient(lambda v: float(v.sum()), x, workers=2)
    for workers, error in ((0, ValueError), (1.5, TypeError), (-2, ValueError)):
        with pytest.raises(error, match="workers: expected"):
            nn.numerical_gradient(product_of_squares, x, workers=workers)


@pytest.mark.parametrize("options", [{}, {"workers": mapped}, {"scheme": "forward"}, {"scheme": "richardson"}])
def test_nested_arguments(rng, options):
    x = {"w": rng.standard_normal((2, 3)), "rest": [rng.standard_normal(2), np.array(0.5)]}
    before = [x["w"].copy(), x["rest"][0].copy()]

    def f(v):
        return float((v["w"] ** 2).sum() * v["rest"][1] + v["rest"][0] @ v["rest"][0])

    gradient = nn.numerical_gradient(f, x, **options)
    bound = 1e-6 if options.get("scheme") == "forward" else 1e-8
    np.testing.assert_allclose(gradient["w"], 2 * x["w"] * 0.5, atol=bound)
    np.testing.assert_allclose(gradient["rest"][0], 2 * x["rest"][0], atol=bound)
    np.testing.assert_allclose(gradient["rest"][1], (x["w"] ** 2).sum(), atol=20 * bound)
    np.testing.assert_array_equal(x["w"], before[0])
    np.testing.assert_array_equal(x["rest"][0], before[1])
    steps = {"w": 1e-4, "rest": [1e-5, 1e-5]}
    assert nn.numerical_gradient(f, x, step=steps)["w"].shape == (2, 3)
    with pytest.raises(ValueError, match="step: expected one number, or the same nesting as x"):
        nn.numerical_gradient(f, x, step={"w": 1e-4})
    with pytest.raises(TypeError, match=r"x\['w'\]: expected an array of float32 or float64, got int64"):
        nn.numerical_gradient(f, x | {"w": np.ones((2, 3), int)})
    assert nn.numerical_gradient(lambda v: 1.0, {}) == {}
    np.testing.assert_allclose(nn.numerical_gradient(lambda v: float(v @ v), [3.0, 4.0]), [6, 8], rtol=1e-9)
    np.testing.assert_allclose(nn.numerical_gradient(lambda v: float(v**2), 3.0), 6, rtol=1e-9)
    with pytest.raises(TypeError, match=r"got int64; use x\.astype"):
        nn.numerical_gradient(lambda v: float(v @ v), [3, 4])


def test_a_function_that_cannot_be_differentiated_is_refused_by_entry(rng):
    x = np.array([1.0, 2.0, 3.0])
    with pytest.raises(FloatingPointError, match=r"expected a finite number, got nan for entry 1 of x at 2\.0000"):
        nn.numerical_gradient(lambda v: math.nan if v[1] > 2 else 1.0, x, scheme="central")
    for scheme, got in (("central", "inf"), ("auto", "none")):
        with pytest.raises(FloatingPointError, match=rf"got {got} for entry 2 of x\['b'\]"):
            nn.numerical_gradient(
                lambda v: math.inf if v["b"][2] != 3 else 1.0, {"a": x.copy(), "b": x.copy()}, scheme=scheme
            )
    noise = np.random.default_rng(0)
    with pytest.raises(ValueError, match="same value for the same x, got .* at x itself; .* noise=1e-3"):
        nn.numerical_gradient(lambda v: float(v.sum()) + noise.standard_normal(), x)
    with pytest.raises(TypeError, match="got ndarray of shape .2,. at x itself"):
        nn.numerical_gradient(lambda v: v[:2], x, scheme="forward")


# ---- Jacobian and Hessian ----


def test_jacobian(dtype, rng):
    a = rng.standard_normal((2, 3, 4))
    x = rng.standard_normal(4).astype(dtype)
    for scheme in BOUNDS:
        jacobian = nn.numerical_jacobian(lambda v: a @ v.astype(float) ** 2, x, scheme=scheme)
        assert jacobian.shape == (2, 3, 4)
        assert jacobian.dtype == dtype
        np.testing.assert_allclose(jacobian, a * 2 * x, atol=200 * float(np.finfo(dtype).eps) ** 0.5)
    grid = rng.standard_normal((2, 2))
    assert nn.numerical_jacobian(lambda v: v.T, grid).shape == (2, 2, 2, 2)
    stacked = nn.numerical_jacobian(lambda v: v.swapaxes(1, 2), grid, vectorized=True)
    np.testing.assert_allclose(stacked, nn.numerical_jacobian(lambda v: v.T, grid), atol=1e-9)
    with pytest.raises(ValueError, match=r"f: expected shape \(2,\) as at x itself, got \(1,\) for entry 0"):
        nn.numerical_jacobian(lambda v: v if abs(v[0] - x[0]) < 1e-7 else v[:1], x[:2].astype(float))


def test_hessian(rng):
    x = rng.standard_normal(6)
    expected = np.zeros((6, 6))
    for i in range(5):
        expected[i, i] += 1200 * x[i] ** 2 - 400 * x[i + 1] + 2
        expected[i + 1, i + 1] += 200
        expected[i, i + 1] = expected[i + 1, i] = -400 * x[i]

    def f(v):
        return float((100 * (v[1:] - v[:-1] ** 2) ** 2 + (1 - v[:-1]) ** 2).sum())

    before = x.copy()
    hessian = nn.numerical_hessian(f, x)
    np.testing.assert_allclose(hessian, expected, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(hessian, hessian.T)
    np.testing.assert_array_equal(x, before)
    stacked = nn.numerical_hessian(
        lambda v: (100 * (v[:, 1:] - v[:, :-1] ** 2) ** 2 + (1 - v[:, :-1]) ** 2).sum(axis=1), x, vectorized=True
    )
    np.testing.assert_allclose(stacked, hessian, atol=1e-3)
    np.testing.assert_allclose(nn.numerical_hessian(f, x, workers=map), hessian, atol=1e-6)
    assert nn.numerical_hessian(lambda v: float((v**2).sum()), np.ones((2, 2))).shape == (2, 2, 2, 2)
