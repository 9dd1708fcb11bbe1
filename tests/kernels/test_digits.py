"""The cross-entropy keeps its digits however small it is: loss, gradient and differences, against 50 digits."""

import mpmath
import numpy as np
import pytest

import nnframe as nn
from nnframe import kernels
from nnframe.kernels import _kernels, reference

mpmath.mp.dps = 50
LEADS = (0, 1, 8, 15, 20, 40, 80)
BOUND = {np.float32: 1e-5, np.float64: 1e-13}
ROWS = 19  # more than one vector, and a part of one


def exact(x, q):
    """Loss and gradient of one row, of mpmath's numbers."""
    x, q = [mpmath.mpf(float(v)) for v in x], [mpmath.mpf(float(v)) for v in q]
    e = [mpmath.exp(v - max(x)) for v in x]
    log_sum = mpmath.log(sum(e)) + max(x)
    return sum(w * (log_sum - v) for w, v in zip(q, x, strict=True)), [
        sum(q) * v / sum(e) - w for w, v in zip(q, e, strict=True)
    ]


def leading(rng, classes, lead, dtype):
    """Logits (ROWS, classes) and their labels, which lead by so much."""
    x, t = rng.standard_normal((ROWS, classes)).astype(dtype), rng.integers(0, classes, ROWS)
    x[np.arange(ROWS), t] = -9
    x[np.arange(ROWS), t] = x.max(axis=1) + lead
    return x, t


def error(found, expected):
    return max(float(abs(mpmath.mpf(float(a)) - b) / abs(b)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("classes", [2, 10, 40])
@pytest.mark.parametrize("kind", ["indices", "one-hot", "weights", "reference"])
def test_loss_and_gradient(simd, dtype, rng, classes, kind):
    for lead in LEADS:
        x, t = leading(rng, classes, lead, dtype)
        weight = rng.uniform(0.5, 2, classes).astype(dtype) if kind == "weights" else None
        q = np.eye(classes)[t] * (1 if weight is None else weight)
        labels = np.eye(classes, dtype=dtype)[t] if kind == "one-hot" else t
        if kind == "reference":
            gradient = reference.softmax_cross_entropy(x, t)[1]
        else:
            gradient = kernels.softmax_cross_entropy(x, labels, reduction="sum", weight=weight)[1]
        for n in range(ROWS):
            loss, expected = exact(x[n], q[n])
            assert error(gradient[n], expected) < BOUND[dtype], (lead, n)
            if kind == "reference":
                found = reference.softmax_cross_entropy(x[n : n + 1], t[n : n + 1])[0][0]
            else:
                one = slice(n, n + 1)
                found = kernels.softmax_cross_entropy_loss(x[one], labels[one], reduction="sum", weight=weight)
            assert error([found], [loss]) < BOUND[dtype], (lead, n)


@pytest.mark.parametrize("classes", [3, 40])
def test_soft_labels_close_to_a_certain_output(simd, rng, classes):
    x, t = leading(rng, classes, 15, np.float64)
    q = np.full((ROWS, classes), 1e-9)
    q[np.arange(ROWS), t] = 1 - 1e-9 * (classes - 1)
    gradient = kernels.softmax_cross_entropy(x, q, reduction="sum")[1]
    for n in range(ROWS):
        assert error(gradient[n], exact(x[n], q[n])[1]) < 1e-5  # 1 - q is what was rounded; it would be 1 by p - q


def test_an_exponential_below_the_smallest_number_is_zero(simd):
    # float32 ends at e^-103; what is left of the loss then is 0, and never NaN
    for lead, smallest in ((100, 1e-45), (120, 0)):
        loss, gradient = kernels.softmax_cross_entropy(np.float32([[lead, 0, 0]]), [0], reduction="sum")
        assert smallest <= loss < 1e-42
        assert (gradient[0, 1:] >= 0).all()
        assert -gradient[0, 0] == pytest.approx(gradient[0, 1:].sum(), rel=0.1, abs=0)


def test_what_is_not_finite(simd, dtype):
    inf, nan = np.inf, np.nan
    for classes in (4, 40):
        for row, t in (([nan, 1, 2, 3], 1), ([inf, 1, 2, 3], 0), ([inf, 1, 2, 3], 2), ([-inf] * 4, 0)):
            x = np.full((2, classes), -1, dtype)
            x[1, :4] = row
            if row[1] == -inf:
                x[1] = -inf
            for labels in (np.array([0, t]), np.eye(classes, dtype=dtype)[[0, t]]):
                loss, gradient = kernels.softmax_cross_entropy(x, labels)
                assert np.isnan(loss), (row, t)
                assert np.isnan(gradient[1]).any(), (row, t)
                assert np.isfinite(gradient[0]).all()
            loss, gradient = kernels.softmax_cross_entropy(x, [0, -9], ignore_index=-9)
            assert np.isfinite(loss), "a row that is ignored counts for nothing"
            assert not gradient[1].any()
        x = np.zeros((1, classes), dtype)
        x[0, 1] = -inf
        assert kernels.softmax_cross_entropy_loss(x, [1]) == inf
        assert np.isfinite(kernels.softmax_cross_entropy(x, [0])[1]).all()


# ---- differences ----


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("interpolate", [False, True])
def test_differences_late_in_training(simd, dtype, rng, depth, interpolate):
    widths = [12, 6, 6][: depth + 1]
    layers = []
    for i, (a, b) in enumerate(zip(widths, [*widths[1:], 5], strict=True)):
        layers += [nn.Linear(a, b, rng=i, dtype=dtype), *([nn.Tanh()] if i < depth else [])]
    model = nn.Sequential(*layers)
    x = rng.standard_normal((ROWS, 12)).astype(dtype)
    for lead in (0, 15, 30):
        layers[-1].bias.value = np.array([lead, 0, 0, 0, 0], dtype)  # and the label is class 0
        t = np.zeros(ROWS, int)
        nn.Backprop()(model, nn.CrossEntropyLoss(), x, t)
        expected = [p.grad.copy() for p in model.parameters()]
        for step in (None, 1e-4):
            nn.CentralDifference(step, interpolate=interpolate)(model, nn.CrossEntropyLoss(), x, t)
            for p, one in zip(model.parameters(), expected, strict=True):
                bound = (2e-6 if dtype == np.float32 else 1e-12) if step is None else 1e-5
                np.testing.assert_allclose(p.grad, one, rtol=0, atol=bound * np.abs(one).max())


def test_late_curves_are_not_in_doubt(simd, dtype, rng):
    logits, t = leading(rng, 10, 20, dtype)
    gradient = kernels.softmax_cross_entropy(logits, t, reduction="sum")[1]
    weight = (rng.standard_normal((10, 10)) / 3).astype(dtype)
    hidden = rng.standard_normal((ROWS, 10)).astype(dtype)
    z = rng.standard_normal((ROWS, 10)).astype(dtype)
    stages = [("tanh", 0.0, z, np.tanh(z)), (weight,), ("tanh", 0.0, hidden, np.tanh(hidden)), (weight,)]
    targets = np.eye(10, dtype=dtype)[t]
    above = _kernels.Above(10, stages, "cross_entropy", gradient, logits, kernels.softmax(logits), targets)
    level, bend = np.empty((2, 10, ROWS), dtype)
    doubtful, state = np.empty((10, ROWS), bool), np.zeros(10, np.uint8)
    tolerance = 4e-6 if dtype == np.float32 else 3e-11
    _kernels.difference_curves(
        above,
        np.full(ROWS, 1e-5, dtype),
        tolerance=tolerance,
        level=level,
        bend=bend,
        doubtful=doubtful,
        state=state,
    )
    assert not doubtful.any()


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize(("weights", "step"), [([20, 0], 30), ([800, 0], 900)])
def test_a_saturated_softmax_and_a_large_step(simd, dtype, weights, step, interpolate):
    # 1 - p and p = 0 gave [0, .167] for the first, [nan, -inf] for the second
    model = nn.Sequential(nn.Linear(1, 2, bias=False, dtype=dtype))
    model[0].weight.value = np.array(weights, dtype)[:, None]
    nn.CentralDifference(step, interpolate=interpolate)(model, nn.CrossEntropyLoss(), np.ones((1, 1)), [0])
    a, b = map(float, weights)

    def loss(a, b):
        return np.logaddexp(0, b - a)

    expected = [loss(a + step, b) - loss(a - step, b), loss(a, b + step) - loss(a, b - step)]
    np.testing.assert_allclose(model[0].weight.grad[:, 0], np.array(expected) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("interpolate", [False, True])
def test_raw_pixels_and_a_step_of_one(dtype, rng, interpolate):
    # entries were 41 % off
    x, t = rng.integers(0, 256, (20, 9)).astype(float), rng.integers(0, 4, 20)
    model = nn.Sequential(nn.Linear(9, 4, rng=0, dtype=dtype))
    nn.CentralDifference(1.0, interpolate=interpolate)(model, nn.CrossEntropyLoss(), x, t)
    wide = model.astype(np.float64)[0]
    start, bias = wide.weight.value.copy(), wide.bias.value
    expected = np.zeros_like(start)
    for i in np.ndindex(start.shape):
        ends = []
        for sign in (1, -1):
            moved = start.copy()
            moved[i] += sign
            ends.append(nn.CrossEntropyLoss()(x @ moved.T + bias, t))
        expected[i] = (ends[0] - ends[1]) / 2
    np.testing.assert_allclose(model[0].weight.grad, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("interpolate", [False, True])
def test_soft_labels_with_another_sum(rng, interpolate):
    # near the optimum the sum was taken for 1, and signs were wrong
    x = rng.standard_normal((8, 5))
    model = nn.Sequential(nn.Linear(5, 4, rng=0, dtype=np.float64), nn.Tanh(), nn.Linear(4, 3, rng=1, dtype=np.float64))
    t = kernels.softmax(model(x)) * 0.9995
    t[:, 0] *= 1 + 1e-5
    nn.Backprop()(model, nn.CrossEntropyLoss(), x, t)
    expected = [p.grad.copy() for p in model.parameters()]
    nn.CentralDifference(interpolate=interpolate)(model, nn.CrossEntropyLoss(), x, t)
    for p, one in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(p.grad, one, rtol=0, atol=1e-9 * np.abs(one).max())
