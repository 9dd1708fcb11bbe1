"""batched_matmul and linear against NumPy, on every instruction set."""

import itertools

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from harness import assert_close, variants
from hypothesis import given, settings
from hypothesis import strategies as st

from nnframe import kernels
from nnframe.kernels import _kernels, reference


def product_bound(k, dtype):
    return 4 * (k + 1) * np.finfo(dtype).eps


def check(a, b, transpose_a, transpose_b):
    left = np.swapaxes(a, -1, -2) if transpose_a else a
    right = np.swapaxes(b, -1, -2) if transpose_b else b
    expected = reference.product(left.astype(np.float64), right.astype(np.float64))
    actual = kernels.batched_matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    assert actual.dtype == a.dtype.newbyteorder("=")
    k = left.shape[-1]
    # against the sum of absolute values, which bounds what rounding can do to an entry
    scale = float(np.matmul(np.abs(left), np.abs(right)).max(initial=0)) or 1.0
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max(initial=0) <= product_bound(k, a.dtype) * scale, (a.shape, b.shape)


def operands(rng, dtype, m, k, n, transpose_a, transpose_b, lead=()):
    a = rng.standard_normal((*lead, *((k, m) if transpose_a else (m, k)))).astype(dtype)
    b = rng.standard_normal((*lead, *((n, k) if transpose_b else (k, n)))).astype(dtype)
    return a, b


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
def test_every_tile(simd, dtype, rng, transpose_a, transpose_b):
    # every height of a tile, every tail of a vector, one to three vectors and panels
    for m in (*range(16), 29, 41):
        for n in (*range(18), 31, 32, 33, 47, 65):
            for k in (0, 1, 2, 5, 17):
                check(*operands(rng, dtype, m, k, n, transpose_a, transpose_b), transpose_a, transpose_b)


@pytest.mark.parametrize(
    "shape", [(100, 784, 50), (50, 100, 784), (130, 300, 333), (200, 257, 129), (3, 700, 4200), (1, 784, 50)]
)
@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, False), (False, True), (True, False), (True, True)])
def test_blocks(simd, dtype, rng, shape, transpose_a, transpose_b):
    # beyond one block of k, of rows, of columns
    check(*operands(rng, dtype, *shape, transpose_a, transpose_b), transpose_a, transpose_b)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_shapes_and_strides(data):
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    m, k, n = (data.draw(st.integers(0, 40)) for _ in range(3))
    lead_a, lead_b = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4)).input_shapes
    transpose_a, transpose_b = data.draw(st.booleans()), data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    a = rng.standard_normal((*lead_a, *((k, m) if transpose_a else (m, k)))).astype(dtype)
    b = rng.standard_normal((*lead_b, *((n, k) if transpose_b else (k, n)))).astype(dtype)
    a = data.draw(st.sampled_from([same for _, same in variants(a)]))
    b = data.draw(st.sampled_from([same for _, same in variants(b)]))
    check(a, b, transpose_a, transpose_b)


def test_broadcast_arrays(simd, dtype, rng):
    a = np.broadcast_to(rng.standard_normal((1, 5)).astype(dtype), (7, 5))  # a row stride of zero
    b = np.broadcast_to(rng.standard_normal((5, 1)).astype(dtype), (5, 9))  # a column stride of zero
    check(a, b, False, False)
    stack = np.broadcast_to(rng.standard_normal((7, 5)).astype(dtype), (4, 7, 5))
    check(stack, rng.standard_normal((5, 9)).astype(dtype), False, False)


def test_tails_are_not_read_or_written(simd, dtype, rng):
    # whatever lies around the operands, even NaN, stays out of the result and as it was
    for m, k, n in ((3, 4, 5), (14, 7, 33), (100, 20, 17)):
        a, b = np.full((m + 2, k + 2), np.nan, dtype), np.full((k + 2, n + 2), np.nan, dtype)
        a[1:-1, 1:-1], b[1:-1, 1:-1] = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        for transpose_b in (False, True):
            inner = b[1:-1, 1:-1]
            if transpose_b:
                held = np.full((n + 2, k + 2), np.nan, dtype)
                held[1:-1, 1:-1] = inner.T
                inner = held[1:-1, 1:-1]
            c = np.full((m + 2) * n, 7, dtype)
            out = c[n:-n].reshape(m, n)
            kernels.batched_matmul(a[1:-1, 1:-1], inner, transpose_b=transpose_b, out=out)
            assert_close(out, a[1:-1, 1:-1] @ b[1:-1, 1:-1], product_bound(k, dtype), "inner")
            assert (c[:n] == 7).all()
            assert (c[-n:] == 7).all()


def test_nan_and_infinity_stay_in_their_row_and_column(simd, dtype):
    a, b = np.ones((5, 6), dtype), np.ones((6, 40), dtype)
    a[2, 3] = np.nan
    b[1, 17] = np.inf
    for transpose_b in (False, True):
        c = kernels.batched_matmul(a, b.T.copy() if transpose_b else b, transpose_b=transpose_b)
        nan = np.isnan(c)
        assert nan[2].all()
        assert not nan[[0, 1, 3, 4]].any()
        assert (c[[0, 1, 3, 4], 17] == np.inf).all()


def test_an_entry_has_the_same_bits_in_every_tile(simd, dtype, rng):
    a, b = rng.standard_normal((40, 300)).astype(dtype), rng.standard_normal((300, 70)).astype(dtype)
    whole = kernels.batched_matmul(a, b)
    np.testing.assert_array_equal(kernels.batched_matmul(a[5:8], b), whole[5:8])
    np.testing.assert_array_equal(kernels.batched_matmul(a, b[:, 11:44]), whole[:, 11:44])
    np.testing.assert_array_equal(kernels.batched_matmul(a, b.T.copy(), transpose_b=True), whole)


NARROW = [
    (b, m, k, n) for b in (1, 3) for m in (1, 2, 5, 40) for k in (1, 4, 13, 33, 150) for n in (1, 2, 3, 6, 10, 27, 70)
]


def laid_out(x, how):
    """The same numbers, elsewhere in memory."""
    if how == "transposed":
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    held = np.full((*x.shape[:-1], 2 * x.shape[-1] + 1), np.nan, x.dtype)
    inner = held[..., : x.shape[-1]] if how == "wider" else held[..., 1::2]
    inner[...] = x
    return inner


@pytest.mark.parametrize("how_a", ["wider", "transposed", "every other"])
@pytest.mark.parametrize("how_b", ["wider", "transposed", "every other"])
def test_few_rows_few_columns_and_a_short_k(simd, dtype, rng, how_a, how_b):
    for batch, m, k, n in NARROW:
        a, b = rng.standard_normal((batch, m, k)).astype(dtype), rng.standard_normal((batch, k, n)).astype(dtype)
        out = np.full((batch, m, n), np.nan, dtype)
        kernels.batched_matmul(laid_out(a, how_a), laid_out(b, how_b), out=out)
        assert_close(out, a @ b, product_bound(k, dtype), f"{batch}, {m}, {k}, {n}")


def test_the_same_bits_with_avx2_avx512_and_any_number_of_threads(dtype, rng, threads):
    before, wide = _kernels.get_simd(), [name for name in _kernels.simd_available() if name.startswith("avx")]
    shapes = [*NARROW[::3], (1, 4000, 90, 3), (300, 30, 90, 3), (1, 3, 90, 4000), (1, 1, 300, 3000), (1, 5000, 7, 20)]
    try:
        for batch, m, k, n in shapes:
            a, b = rng.standard_normal((batch, m, k)).astype(dtype), rng.standard_normal((batch, k, n)).astype(dtype)
            for how_a, how_b in (("wider", "wider"), ("wider", "transposed"), ("transposed", "wider")):
                found = []
                for name in wide or _kernels.simd_available():
                    _kernels.set_simd(name)
                    for count in (1, 2, 3):
                        threads(count)
                        found.append(kernels.batched_matmul(laid_out(a, how_a), laid_out(b, how_b)))
                assert len({each.tobytes() for each in found[: None if wide else 3]}) == 1, (
                    batch,
                    m,
                    k,
                    n,
                    how_a,
                    how_b,
                )
    finally:
        _kernels.set_simd(before)


def test_a_row_of_linear_has_the_same_bits_in_any_batch(simd, dtype, rng):
    for inputs, outputs in itertools.product((3, 20, 90, 300, 1400), (1, 2, 6, 13, 24, 25, 100)):
        x, w = rng.standard_normal((40, inputs)).astype(dtype), rng.standard_normal((outputs, inputs)).astype(dtype)
        for how in ("wider", "every other"):
            rows = laid_out(x, how)
            whole = kernels.linear(rows, w)
            for first, last in ((0, 1), (3, 5), (7, 31)):
                np.testing.assert_array_equal(kernels.linear(rows[first:last], w), whole[first:last])


def test_out(dtype, rng):
    a, b = rng.standard_normal((2, 3, 4)).astype(dtype), rng.standard_normal((4, 5)).astype(dtype)
    out = np.full((2, 3, 5), np.nan, dtype)
    assert kernels.batched_matmul(a, b, out=out) is out
    assert_close(out, a @ b, product_bound(4, dtype))


def test_refused(rng):
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 5))
    with pytest.raises(TypeError, match=r"a: expected an array of float32 or float64, got int64"):
        kernels.batched_matmul(a.astype(int), b)
    with pytest.raises(TypeError, match=r"b: expected .*float64.*got float32"):
        kernels.batched_matmul(a, b.astype(np.float32))
    with pytest.raises(TypeError, match="float32 or float64, got complex128"):
        kernels.batched_matmul(a.astype(complex), b)
    with pytest.raises(ValueError, match="expected equal inner sizes, got 4 and 5"):
        kernels.batched_matmul(a, b, transpose_b=True)
    with pytest.raises(ValueError, match="at least two axes"):
        kernels.batched_matmul(a[0], b)
    with pytest.raises(ValueError, match=r"leading axes that broadcast, got \(2,\) and \(3,\)"):
        kernels.batched_matmul(np.zeros((2, 3, 4)), np.zeros((3, 4, 5)))
    for out, message in (
        (np.zeros((3, 6)), r"float64 of shape \(3, 5\), got float64 of shape \(3, 6\)"),
        (np.zeros((3, 5), np.float32), "got float32"),
        (np.zeros((5, 3)).T, "C order"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.batched_matmul(a, b, out=out)
    with pytest.raises(TypeError, match="out: expected an array, got list"):
        kernels.batched_matmul(a, b, out=[])
    square = np.eye(3)
    with pytest.raises(ValueError, match="shares no memory"):
        kernels.batched_matmul(square, square, out=square)


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "relu", "step"])
def test_linear(simd, dtype, rng, activation):
    for rows, inputs, outputs in ((1, 1, 1), (5, 3, 4), (17, 20, 33), (100, 300, 50), (2, 0, 3), (0, 3, 2)):
        x, w = rng.standard_normal((rows, inputs)).astype(dtype), rng.standard_normal((outputs, inputs)).astype(dtype)
        b = rng.standard_normal(outputs).astype(dtype)
        for bias in (None, b):
            actual = kernels.linear(x, w, bias, activation=activation)
            expected = reference.product(x, w.T, bias, activation)
            if activation == "step":
                assert (actual != expected).mean() < 0.01 if actual.size else True
            else:
                assert_close(actual, expected, product_bound(inputs, dtype) + 10 * np.finfo(dtype).eps, activation)
    x = rng.standard_normal((2, 3, 4)).astype(dtype)
    w = rng.standard_normal((5, 4)).astype(dtype)
    assert_close(kernels.linear(x, w), x @ w.T, product_bound(4, dtype), "three axes")


def test_linear_refused():
    x, w = np.zeros((3, 4)), np.zeros((5, 4))
    with pytest.raises(ValueError, match=r"x: expected shape \(\.\.\., 4\).* got \(3, 5\)"):
        kernels.linear(np.zeros((3, 5)), w)
    with pytest.raises(ValueError, match=r"bias: expected shape \(5,\), got \(4,\)"):
        kernels.linear(x, w, np.zeros(4))
    with pytest.raises(ValueError, match="activation: expected one of identity, sigmoid"):
        kernels.linear(x, w, activation="softsign")
    with pytest.raises(ValueError, match=r"weight: expected shape \(out_features, in_features\)"):
        kernels.linear(x, w[0])


def test_the_references_can_be_run_instead(dtype, rng):
    a, b = rng.standard_normal((2, 3, 4)).astype(dtype), rng.standard_normal((5, 4)).astype(dtype)
    before = _kernels.get_simd()
    _kernels.set_simd("reference")
    try:
        assert _kernels.get_simd() == "reference"
        np.testing.assert_array_equal(kernels.batched_matmul(a, b, transpose_b=True), a @ b.T)
    finally:
        _kernels.set_simd(before)
    with pytest.raises(ValueError, match="NNFRAME_SIMD: expected one of .*, got 'mmx'"):
        _kernels.set_simd("mmx")
