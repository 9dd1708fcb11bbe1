"""Losses: backward and difference against forward; labels of every kind."""

import numpy as np
import pytest

import nnframe as nn


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["indices", "one-hot", "soft", "mse", "weighted", "smoothed", "ignored"])
def test_backward_and_difference(simd, dtype, rng, kind, reduction):
    rows, classes = 7, 4
    y = rng.standard_normal((rows, classes)).astype(dtype) * 2
    options = {
        "weighted": {"weight": [0.5, 1, 2, 3], "label_smoothing": 0.1},
        "smoothed": {"label_smoothing": 0.2},
        "ignored": {"ignore_index": 1},
    }.get(kind, {})
    loss = nn.MSELoss(reduction) if kind == "mse" else nn.CrossEntropyLoss(reduction, **options)
    t = {
        "indices": rng.integers(0, classes, rows),
        "one-hot": np.eye(classes)[rng.integers(0, classes, rows)],
        "soft": rng.dirichlet(np.ones(classes), rows),
        "mse": rng.standard_normal((rows, classes)),
    }.get(kind, rng.integers(0, classes, rows))  # fmt: skip
    t = t.astype(int if t.ndim == 1 else dtype)
    y64 = y.astype(np.float64)
    t64 = t if t.ndim == 1 else t.astype(np.float64)
    eps = float(np.finfo(dtype).eps)
    assert loss(y, t) == pytest.approx(loss(y64, t64), rel=20 * eps)
    numerical = nn.numerical_gradient(lambda z: loss(z, t64), y64.copy(), step=1e-5)
    gradient = loss.backward(y, t)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient, numerical, atol=max(20 * eps, 1e-9) * np.abs(numerical).max())
    value, same = loss.forward_backward(y, t)
    assert value == loss.forward(y, t)
    np.testing.assert_array_equal(same, gradient)
    for size in (1e-6, 0.1, 5.0, 60.0):
        dy = (rng.standard_normal((3, rows, classes)) * size).astype(dtype)
        expected = [loss(y64 + d, t64) - loss(y64, t64) for d in dy.astype(np.float64)]
        bound = max(60 * eps, 3e-9 if size < 1e-3 else 0)
        np.testing.assert_allclose(loss.difference(y, t, dy), expected, atol=bound * np.abs(expected).max())


def test_textbook_values():
    # a row of equal logits: log of the number of classes; squared error of a known pair
    assert nn.CrossEntropyLoss()(np.zeros((2, 10)), [3, 4]) == pytest.approx(np.log(10))
    assert nn.MSELoss()(np.array([[1.0, 2.0], [3.0, 4.0]]), [[1, 1], [1, 1]]) == pytest.approx((0 + 1 + 4 + 9) / 4)
    assert nn.MSELoss("sum")(np.array([[1.0, 2.0]]), [[3, 3]]) == pytest.approx(5)


def test_refused():
    with pytest.raises(ValueError, match="reduction: expected 'mean' or 'sum', got 'max'"):
        nn.CrossEntropyLoss("max")
    with pytest.raises(ValueError, match=r"labels: expected the shape of the output \(2, 3\), got \(2,\)"):
        nn.MSELoss()(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(TypeError, match="labels: expected real numbers, got <U1"):
        nn.MSELoss()(np.zeros((1, 1)), np.array([["a"]]))


def test_weights_and_labels_of_other_kinds_are_named():
    with pytest.raises(TypeError, match=r"weight: expected an array.*pass \[weight\[c\] for c in range\(C\)\]"):
        nn.CrossEntropyLoss(weight={0: 1.0, 1: 5.0})
    with pytest.raises(TypeError, match="weight: expected an array, one number for each class, got 'a'"):
        nn.CrossEntropyLoss(weight="a")
    with pytest.raises(ValueError, match="expected class indices .* where there is an ignore_index"):
        nn.CrossEntropyLoss(ignore_index=1)(np.zeros((2, 3)), np.eye(3)[:2])
