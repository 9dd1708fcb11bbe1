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
    with pytest.raises(ValueError, match="reduction: expected 'mean', 'sum' or 'none', got 'max'"):
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


POSITIONS = [{}, {"label_smoothing": 0.1}, {"weight": [0.5, 1, 2, 3]}, {"ignore_index": 1}]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("options", POSITIONS, ids=repr)
def test_a_label_at_each_position(rng, options, reduction):
    # (N, T, C) is N T rows: nothing else
    y, t = rng.standard_normal((5, 3, 4)), rng.integers(0, 4, (5, 3))
    loss = nn.CrossEntropyLoss(reduction, **options)
    value, gradient = loss.forward_backward(y, loss.prepare(y, t))
    flat, expected = loss.forward_backward(y.reshape(15, 4), t.reshape(15))
    assert value == loss(y, t) == flat
    np.testing.assert_array_equal(gradient, expected.reshape(y.shape))
    dy = rng.standard_normal((2, 5, 3, 4)) * 0.1
    by_values = [loss(y + d, t) - value for d in dy]
    np.testing.assert_allclose(loss.difference(y, loss.prepare(y, t), dy), by_values, rtol=1e-9)
    total, divisor = loss.total(y, loss.prepare(y, t))
    assert total / (divisor if reduction == "mean" else 1) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(loss.rows(y, t).sum(), total, rtol=1e-13)
    if "ignore_index" not in options:
        assert loss(y, np.eye(4)[t]) == pytest.approx(
            nn.CrossEntropyLoss(reduction, **options)(y.reshape(15, 4), np.eye(4)[t.ravel()])
        )


def test_positions_are_refused_by_name(rng):
    y, t = np.zeros((5, 3, 4)), np.zeros((5, 3), int)
    for wrong in (t[:, :2], t.T, t[..., None], np.zeros((5, 4, 3))):
        with pytest.raises(ValueError, match=r"labels: expected class indices of shape \(5, 3\) or one-hot"):
            nn.CrossEntropyLoss()(y, wrong)
    with pytest.raises(ValueError, match="labels"):
        nn.CrossEntropyLoss()(y, t + 4)


def test_a_network_with_a_label_at_each_position_learns(rng):
    x = rng.standard_normal((60, 3, 4)).astype(np.float32)
    t = x.argmax(axis=2)
    model = nn.Sequential(nn.Linear(4, 8, rng=0), nn.Tanh(), nn.Linear(8, 4, rng=1))
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), 0.05), nn.CentralDifference())
    trainer.fit(x, t, epochs=30, batch_size=20, progress=False)
    found = trainer.evaluate(x, t)
    assert found["accuracy"] == nn.accuracy(model(x), t) > 0.9
    assert found["loss"] == pytest.approx(nn.CrossEntropyLoss()(model(x), t), rel=1e-6)
