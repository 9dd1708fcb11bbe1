"""Convolution and pooling against their references, over a grid of arguments, and what they must refuse."""

import itertools

import numpy as np
import pytest

from nnframe import kernels
from nnframe.kernels import _kernels, reference

# kernel, stride, padding, dilation, groups
GRID = list(
    itertools.product([(1, 1), (3, 3), (5, 2)], [(1, 1), (2, 2), (1, 3)], [(0, 0), (1, 2)], [(1, 1), (2, 1)], [1, 2, 4])
)
SIZES = [(3, 4, 8, 9, 11), (35, 4, 20, 12, 7), (2, 4, 4, 40, 21)]  # images, channels in and out, height, width


def length(n, k, s, p, d):
    return (n + 2 * p - d * (k - 1) - 1) // s + 1


def numbers(rng, dtype, *shape):
    return rng.standard_normal(shape).astype(dtype)


def assert_near(found, expected, dtype, terms):
    """Compare, where sums of so many products may have been taken in another order."""
    bound = 4 * np.finfo(dtype).eps * terms**0.5 * max(1, np.abs(expected).max(initial=0))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "groups"),
    [(SIZES[i // 2 % len(SIZES)], *arguments) for i, arguments in enumerate(GRID)],
)
def test_against_the_reference(simd, dtype, rng, size, kernel, stride, padding, dilation, groups):
    images, inputs, outputs, *shape = size
    out = tuple(map(length, shape, kernel, stride, padding, dilation))
    x = numbers(rng, dtype, images, inputs, *shape)
    w, b = numbers(rng, dtype, outputs, inputs // groups, *kernel), numbers(rng, dtype, outputs)
    dy, c = numbers(rng, dtype, images, outputs, *out), numbers(rng, dtype, inputs)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    wide = [a.astype(np.float64) for a in (x, w, b, dy, c)]
    terms = w[0].size + w.shape[0] * w[0, 0].size

    y = kernels.convolution(x, w, b, out_size=out, **options)
    assert_near(y, reference.convolution(wide[0], wide[1], wide[2], out, *options.values()), dtype, terms)
    dx = kernels.convolution_input_gradient(dy, w, c, in_size=tuple(shape), **options)
    expected = reference.convolution_input_gradient(wide[3], wide[1], wide[4], tuple(shape), *options.values())
    assert_near(dx, expected, dtype, terms)
    dw, db = np.ones_like(w), np.ones_like(b)
    kernels.convolution_weight_gradient(x, dy, weight_grad=dw, bias_grad=db, **options)
    to_w, to_b = np.ones(w.shape), np.ones(b.shape)
    reference.convolution_weight_gradient(wide[0], wide[3], to_w, to_b, *options.values())
    assert_near(dw, to_w, dtype, dy.size)
    assert_near(db, to_b, dtype, dy.size)


def test_outputs_of_any_number(simd, dtype, rng):
    """As many as asked for: what lies beyond x is 0, and inputs that no tap meets have the gradient 0."""
    x, w = numbers(rng, dtype, 2, 3, 6, 7), numbers(rng, dtype, 4, 3, 3, 2)
    for out in ((9, 4), (1, 1), (2, 12), (0, 3)):
        y = kernels.convolution(x, w, out_size=out, stride=(2, 1), padding=(1, 0))
        expected = reference.convolution(x.astype(np.float64), w, None, out, (2, 1), (1, 0), (1, 1), 1)
        assert_near(y, expected, dtype, 18)
        dx = kernels.convolution_input_gradient(y, w, in_size=(6, 7), stride=(2, 1), padding=(1, 0))
        expected = reference.convolution_input_gradient(
            y.astype(np.float64), w, None, (6, 7), (2, 1), (1, 0), (1, 1), 1
        )
        assert_near(dx, expected, dtype, 24 * 10)


def test_large_images_and_many_channels(simd, dtype, rng):
    """Images that are cut into blocks of rows, and weights whose rows are cut into tasks."""
    for x_shape, w_shape in (
        ((2, 3, 150, 170), (5, 3, 3, 3)),
        ((3, 40, 6, 6), (70, 40, 3, 3)),
        ((1, 500, 9, 9), (3, 500, 2, 2)),
    ):
        x, w = numbers(rng, dtype, *x_shape), numbers(rng, dtype, *w_shape)
        out = tuple(length(n, k, 1, 1, 1) for n, k in zip(x_shape[2:], w_shape[2:], strict=True))
        dy = numbers(rng, dtype, len(x), len(w), *out)
        options = {"padding": (1, 1)}
        given = (1, 1), (1, 1), (1, 1), 1
        y = kernels.convolution(x, w, out_size=out, **options)
        assert_near(y, reference.convolution(x.astype(np.float64), w, None, out, *given), dtype, w[0].size)
        dw = np.zeros_like(w)
        kernels.convolution_weight_gradient(x, dy, weight_grad=dw, **options)
        to_w = np.zeros(w.shape)
        reference.convolution_weight_gradient(x.astype(np.float64), dy.astype(np.float64), to_w, None, *given)
        assert_near(dw, to_w, dtype, dy.size)


@pytest.mark.parametrize("isa", _kernels.simd_available())
def test_same_bits_for_any_number_of_threads(isa, dtype, rng, threads):
    before = _kernels.get_simd()
    x, w = numbers(rng, dtype, 64, 6, 12, 12), numbers(rng, dtype, 16, 6, 5, 5)
    found = []
    try:
        _kernels.set_simd(isa)
        for count in (1, 2, 3):
            threads(count)
            y = kernels.convolution(x, w, out_size=(8, 8))
            dx = kernels.convolution_input_gradient(y, w, in_size=(12, 12))
            dw, db = np.zeros_like(w), np.zeros(16, dtype)
            kernels.convolution_weight_gradient(x, y, weight_grad=dw, bias_grad=db)
            found.append([y, dx, dw, db])
    finally:
        _kernels.set_simd(before)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


def test_same_bits_with_avx2_and_avx512(dtype, rng):
    if not {"avx2", "avx512"} <= set(_kernels.simd_available()):
        pytest.skip("this processor has not both")
    before = _kernels.get_simd()
    x, w = numbers(rng, dtype, 9, 6, 13, 10), numbers(rng, dtype, 16, 3, 3, 5)
    found = []
    try:
        for isa in ("avx2", "avx512"):
            _kernels.set_simd(isa)
            options = {"stride": (2, 1), "padding": (1, 2), "groups": 2}
            y = kernels.convolution(x, w, out_size=(7, 10), **options)
            dx = kernels.convolution_input_gradient(y, w, in_size=(13, 10), **options)
            dw, db = np.zeros_like(w), np.zeros(16, dtype)
            kernels.convolution_weight_gradient(x, y, weight_grad=dw, bias_grad=db, **options)
            found.append([y, dx, dw, db])
    finally:
        _kernels.set_simd(before)
    for one, same in zip(*found, strict=True):
        np.testing.assert_array_equal(one, same)


POOLS = [  # kernel, stride, padding, dilation
    ((2, 2), (2, 2), (0, 0), (1, 1)),
    ((3, 2), (1, 1), (1, 1), (1, 1)),
    ((2, 3), (3, 2), (1, 0), (2, 1)),
    ((3, 3), (2, 3), (1, 1), (1, 2)),
    ((1, 4), (1, 4), (0, 2), (1, 1)),
]


@pytest.mark.parametrize("shape", [(9, 11), (6, 40), (12, 75)])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), POOLS)
@pytest.mark.parametrize("more", [0, 1])
def test_pooling_against_the_reference(simd, dtype, rng, shape, kernel, stride, padding, dilation, more):
    """`more`: windows that reach beyond the padding, as with ceil_mode."""
    out = tuple(map(length, shape, kernel, stride, padding, dilation))
    out = tuple(n + (more if n * s < m else 0) for n, s, m in zip(out, stride, shape, strict=True))
    x = rng.integers(-4, 5, (3, 2, *shape)).astype(dtype)  # equal ones among them
    windows = {"kernel_size": kernel, "stride": stride, "padding": padding}
    dilated = windows | {"dilation": dilation}
    y, index = kernels.max_pooling(x, out_size=out, **dilated)
    expected, at = reference.max_pooling(x, out, *dilated.values())
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(index, at)
    dy = numbers(rng, dtype, *y.shape)
    dx = kernels.max_pooling_backward(dy, index, in_size=shape)
    assert_near(dx, reference.max_pooling_backward(dy, at, shape), dtype, 9)
    change = numbers(rng, dtype, 4, *x.shape)
    found = kernels.max_pooling_difference(x, change, index, **dilated)
    np.testing.assert_array_equal(found, reference.max_pooling_difference(x, change, at, *dilated.values()))
    if dilation != (1, 1):
        return
    for count, divisor in ((True, 0.0), (False, 0.0), (True, 5.0)):
        options = {"count_padding": count, "divisor": divisor}
        y = kernels.mean_pooling(x, out_size=out, **windows, **options)
        assert_near(y, reference.mean_pooling(x.astype(np.float64), out, *windows.values(), count, divisor), dtype, 9)
        dx = kernels.mean_pooling_backward(dy, in_size=shape, **windows, **options)
        expected = reference.mean_pooling_backward(dy.astype(np.float64), shape, *windows.values(), count, divisor)
        assert_near(dx, expected, dtype, 9)


def test_what_is_not_a_number_is_the_largest(simd, dtype):
    x = np.arange(12.0, dtype=dtype).reshape(1, 1, 2, 6)
    x[0, 0, 0, 2] = np.nan
    y, index = kernels.max_pooling(x, out_size=(1, 3), kernel_size=(2, 2), stride=(2, 2))
    np.testing.assert_array_equal(y, [[[[7, np.nan, 11]]]])
    np.testing.assert_array_equal(index, [[[[7, 2, 11]]]])


def test_changes_of_the_largest_lose_no_digits(simd, dtype):
    """Where x is large and dx tiny, y + dy - y would be 0."""
    x = np.array([[[[1e6, 3.0], [1e6 - 1, 2.0]]]], dtype)
    dx = np.array([[[[1e-20, 1.0], [3e-20, 1.0]]]], dtype)
    _, index = kernels.max_pooling(x, out_size=(1, 1), kernel_size=(2, 2), stride=(2, 2))
    dy = kernels.max_pooling_difference(x, dx, index, kernel_size=(2, 2), stride=(2, 2))
    assert dy == dx[0, 0, 0, 0]


# ---- what is refused ----

X, W = np.ones((2, 4, 5, 5)), np.ones((6, 2, 3, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones((2, 4, 5))}, r"x: expected shape \(N, C, H, W\), got \(2, 4, 5\)"),
        ({"x": np.ones((2, 3, 5, 5))}, r"x: expected 4 channels, got shape \(2, 3, 5, 5\)"),
        ({"weight": np.ones((6, 2, 0, 3))}, "weight: expected no axis of length 0"),
        ({"weight": W.astype(np.float32)}, "weight: expected float64 like the other arrays, got float32"),
        ({"bias": np.ones(4)}, r"bias: expected shape \(6,\), got \(4,\)"),
        ({"groups": 4}, "groups: expected a divisor of the 6 channels"),
        ({"groups": 0}, "groups: expected a divisor of the 6 channels"),
        ({"stride": (0, 1)}, r"stride: expected at least 1 each, got \(0, 1\)"),
        ({"padding": (0, -1)}, "padding: expected at least 0 each"),
        ({"dilation": 1}, "dilation: expected two whole numbers, got 1"),
        ({"dilation": (1, 1.5)}, "dilation: expected two whole numbers"),
        ({"out_size": (3,)}, "out_size: expected two whole numbers"),
    ],
)
def test_arguments_that_do_not_fit(change, message):
    given = {"x": X, "weight": W, "out_size": (3, 3), "groups": 2} | change
    with pytest.raises((TypeError, ValueError), match=message):
        kernels.convolution(given.pop("x"), given.pop("weight"), **given)


def test_gradients_that_share_memory_are_refused():
    memory = np.zeros((6, 2, 3, 3))
    with pytest.raises(ValueError, match="weight_grad: expected an array that shares no memory with x"):
        kernels.convolution_weight_gradient(memory, np.ones((6, 6, 1, 1)), weight_grad=memory)
    with pytest.raises(ValueError, match="weight_grad: expected an array that can be written"):
        kernels.convolution_weight_gradient(
            X, np.ones((2, 6, 3, 3)), weight_grad=np.broadcast_to(1.0, W.shape), groups=2
        )


def test_windows_that_meet_nothing_are_refused():
    x = np.ones((1, 1, 1, 4))
    for options in (
        {"out_size": (1, 3), "kernel_size": (1, 2), "stride": (1, 2)},
        {"out_size": (1, 1), "kernel_size": (1, 2), "stride": (1, 2), "padding": (0, 2)},
        {"out_size": (1, 1), "kernel_size": (2, 1), "stride": (1, 1), "padding": (1, 0), "dilation": (3, 1)},
    ):
        with pytest.raises(ValueError, match="expected"):
            kernels.max_pooling(x, **options)
    with pytest.raises(ValueError, match=r"index: expected indices in \[0, 4\), got 0 to 4"):
        kernels.max_pooling_backward(np.ones((1, 1, 1, 2)), np.array([[[[0, 4]]]], np.int32), in_size=(1, 4))
