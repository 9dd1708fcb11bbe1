"""softmax_cross_entropy against its reference, for class indices, one-hot and soft labels."""

import numpy as np
import pytest
from harness import variants
from hypothesis import given, settings
from hypothesis import strategies as st

import nnframe as nn
from nnframe import kernels
from nnframe.kernels import reference


def check(x, t, reduction="mean"):
    losses, gradient = reference.softmax_cross_entropy(x.astype(np.float64), t)
    scale = 1 / len(x) if reduction == "mean" else 1.0
    loss, grad = kernels.softmax_cross_entropy(x, t, reduction=reduction)
    eps = np.finfo(x.dtype).eps
    expected = losses.sum() * scale
    # exp of x - max is off by a rounding of that difference
    widest = float(np.ptp(x, axis=1).max())
    np.testing.assert_allclose(loss, expected, rtol=20 * eps, atol=20 * eps * (1 + widest))
    assert grad.dtype == x.dtype
    np.testing.assert_allclose(grad, gradient * scale, rtol=0, atol=(10 + x.shape[1] / 8) * eps * scale)
    assert kernels.softmax_cross_entropy_loss(x, t, reduction=reduction) == loss


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_shapes_and_labels(simd, dtype, rng, reduction):
    for rows, classes in (
        (1, 1),
        (1, 2),
        (3, 10),
        (16, 10),
        (17, 10),
        (100, 10),
        (5, 32),
        (7, 33),
        (4, 1000),
        (70, 100),
    ):
        x = (rng.standard_normal((rows, classes)) * 3).astype(dtype)
        t = rng.integers(0, classes, rows)
        check(x, t, reduction)
        check(x, t.astype(np.uint8), reduction)
        check(x, np.eye(classes, dtype=dtype)[t], reduction)
        soft = rng.dirichlet(np.ones(classes), rows).astype(dtype)
        check(x, soft, reduction)


def numerical(x, t, **options):
    """Gradient by central differences of the loss, in float64."""
    x = x.astype(np.float64)
    return nn.numerical_gradient(lambda y: kernels.softmax_cross_entropy_loss(y, t, **options), x.copy(), step=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("classes", [5, 40])
@pytest.mark.parametrize("kind", ["indices", "soft"])
def test_weights_smoothing_and_ignored_rows(simd, dtype, rng, kind, classes, reduction):
    rows = 19
    x = rng.standard_normal((rows, classes)).astype(dtype)
    t = rng.integers(0, classes, rows) if kind == "indices" else rng.dirichlet(np.ones(classes), rows).astype(dtype)
    weight = rng.uniform(0.5, 2, classes)
    eps = float(np.finfo(dtype).eps)
    for options in (
        {"label_smoothing": 0.1},
        {"weight": weight},
        {"weight": weight, "label_smoothing": 0.2},
        {"weight": weight, "label_smoothing": 0.2, "ignore_index": -100},
        {"ignore_index": 2},
    ):
        labels = t.copy()
        if kind == "indices" and "weight" in options and "ignore_index" in options:
            labels[[3, 7]] = -100
        q = reference.cross_entropy_targets(
            classes, labels, options.get("weight"), options.get("label_smoothing", 0.0), options.get("ignore_index")
        )
        x64 = x.astype(np.float64)
        divisor = rows
        if kind == "indices":
            counted = labels[labels != options.get("ignore_index", -1)]
            divisor = options.get("weight", np.ones(classes))[counted].sum()
        expected = (q * (np.log(np.exp(x64).sum(axis=1, keepdims=True)) - x64)).sum()
        expected /= divisor if reduction == "mean" else 1
        loss, grad = kernels.softmax_cross_entropy(x, labels, reduction=reduction, **options)
        assert loss == pytest.approx(expected, rel=30 * eps)
        assert loss == kernels.softmax_cross_entropy_loss(x, labels, reduction=reduction, **options)
        gradient = numerical(x, labels, reduction=reduction, **options)
        noise = 4 * np.finfo(np.float64).eps * loss / 1e-5  # of the subtraction
        np.testing.assert_allclose(grad, gradient, rtol=0, atol=40 * eps * np.abs(gradient).max() + noise)
        if kind == "indices" and "ignore_index" in options:
            assert not grad[labels == options["ignore_index"]].any()


def test_all_rows_ignored(dtype):
    loss, grad = kernels.softmax_cross_entropy(np.ones((3, 4), dtype), [9, 9, 9], ignore_index=9)
    assert np.isnan(loss)
    assert not grad.any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight": [1.0, 2.0]}, ValueError, r"weight: expected 3 numbers, one for each class, got .* \(2,\)"),
        ({"weight": [1.0, -2.0, 1.0]}, ValueError, "weight: expected finite numbers >= 0"),
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing: expected a number in \[0, 1\], got 1.5"),
        ({"label_smoothing": "much"}, TypeError, "label_smoothing: expected a number, got 'much'"),
        ({"ignore_index": 0.5}, TypeError, "ignore_index: expected an integer or None, got 0.5"),
        ({"ignore_index": -1}, ValueError, r"labels: expected class indices in \[0, 3\), got 3 at position 1"),
    ],
)
def test_refused_options(options, error, message):
    with pytest.raises(error, match=message):
        kernels.softmax_cross_entropy(np.zeros((2, 3)), [0, 3 if "ignore_index" in options else 1], **options)
    if "ignore_index" not in options or isinstance(options["ignore_index"], float):
        with pytest.raises(error):
            nn.CrossEntropyLoss(**(options if "weight" not in options else {"weight": [-1.0]}))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    classes=st.integers(1, 70),
    scale=st.sampled_from([1e-6, 1.0, 50.0]),
    seed=st.integers(0, 10**6),
)
def test_any_size(rows, classes, scale, seed):
    rng = np.random.default_rng(seed)
    for kind in (np.float32, np.float64):
        x = (rng.standard_normal((rows, classes)) * scale).astype(kind)
        check(x, rng.integers(0, classes, rows))
        p = kernels.softmax(x)
        np.testing.assert_allclose(p, reference.softmax(x), rtol=60 * np.finfo(kind).eps * max(scale, 1))
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=(4 + classes) * np.finfo(kind).eps)


def test_any_layout(dtype, rng):
    x, t = rng.standard_normal((9, 5)).astype(dtype), rng.integers(0, 5, 9)
    loss, grad = kernels.softmax_cross_entropy(x, t)
    for what, same in variants(x):
        again = kernels.softmax_cross_entropy(same, t)
        assert again[0] == loss, what
        np.testing.assert_array_equal(again[1], grad, err_msg=what)
    labels = np.empty(18, np.int64)
    labels[::2] = t
    assert kernels.softmax_cross_entropy(x, labels[::2])[0] == loss
    assert kernels.softmax_cross_entropy(x, t.astype(">i2"))[0] == loss


@pytest.mark.parametrize("classes", [5, 40])
def test_in_place(simd, dtype, rng, classes):
    x, t = rng.standard_normal((9, classes)).astype(dtype), rng.integers(0, classes, 9)
    loss, grad = kernels.softmax_cross_entropy(x, t)
    again, same = kernels.softmax_cross_entropy(x, t, out=x)
    assert same is x
    assert again == loss
    np.testing.assert_array_equal(x, grad)


@pytest.mark.parametrize("classes", [4, 50])
def test_extreme_logits(simd, dtype, classes):
    x = np.zeros((3, classes), dtype)
    x[0, 1], x[1, 1], x[2, 0] = 1e5, -1e5, 1e5 + 0.5
    x[2, 1] = 1e5
    loss, grad = kernels.softmax_cross_entropy(x, np.array([1, 0, 1]), reduction="sum")
    near = float(x[2, 0]) - float(x[2, 1])
    expected = 0 + np.log(classes - 1) + near + np.log1p(np.exp(-near))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("classes", [4, 50])
def test_infinite_logits(simd, dtype, classes):
    x = np.zeros((3, classes), dtype)
    x[0, 1] = -np.inf
    loss, grad = kernels.softmax_cross_entropy(x[:1], np.array([0]))
    np.testing.assert_allclose(loss, np.log(classes - 1), rtol=1e-6)
    assert grad[0, 1] == 0
    target = np.zeros((1, classes))
    target[0, 0] = 1
    assert kernels.softmax_cross_entropy(x[:1], target)[0] == pytest.approx(loss)
    assert kernels.softmax_cross_entropy(x[:1], np.array([1]))[0] == np.inf
    for bad in (np.inf, np.nan):
        x[1, 2] = bad
        assert np.isnan(kernels.softmax_cross_entropy(x[:2], np.array([0, 0]))[0])
    x[2] = -np.inf
    assert np.isnan(kernels.softmax_cross_entropy(x[2:], np.array([0]))[0])


def test_no_rows(dtype):
    x = np.zeros((0, 3), dtype)
    assert np.isnan(kernels.softmax_cross_entropy(x, np.zeros(0, int))[0])
    assert kernels.softmax_cross_entropy(x, np.zeros(0, int), reduction="sum")[0] == 0
    assert kernels.softmax(x).shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.array([0, 3, 1]), ValueError, r"class indices in \[0, 3\), got 3 at position 1"),
        (np.array([0, -1, 1]), ValueError, "got -1 at position 1"),
        (np.array([0, 2**63 + 5, 1], np.uint64), ValueError, r"class indices in \[0, 3\), got 9223372036854775813"),
        (np.array([0.0, 1.0, 2.0]), TypeError, "integers for class indices, got float64"),
        (
            np.array([[0], [1], [2]]),
            ValueError,
            r"shape \(3,\), or one-hot or soft labels of shape \(3, 3\), got shape \(3, 1\)",
        ),
        (np.array([0, 1]), ValueError, r"got shape \(2,\)"),
        (np.full((3, 3), 0.5), ValueError, "row 0 with least value 0.5 and sum 1.5"),
        (np.array([[1, 0, 0], [2, -1, 0], [0, 0, 1]]), ValueError, "row 1 with least value -1 and sum 1"),
        (np.full((3, 3), np.nan), ValueError, "row 0"),
        (np.array(["a", "b", "c"]), TypeError, "integers for class indices"),
    ],
)
def test_labels_are_checked(labels, error, message):
    x = np.zeros((3, 3))
    for call in (kernels.softmax_cross_entropy, kernels.softmax_cross_entropy_loss, nn.CrossEntropyLoss()):
        with pytest.raises(error, match=message):
            call(x, labels)


def test_refused():
    with pytest.raises(ValueError, match=r"logits: expected shape \(N, C\)"):
        kernels.softmax_cross_entropy(np.zeros(3), np.array([0]))
    with pytest.raises(ValueError, match="at least one class"):
        kernels.softmax(np.zeros((3, 0)))
    with pytest.raises(ValueError, match="reduction: expected 'mean' or 'sum', got 'none'"):
        kernels.softmax_cross_entropy(np.zeros((1, 3)), np.array([0]), reduction="none")
