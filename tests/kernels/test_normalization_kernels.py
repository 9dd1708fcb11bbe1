"""Batch normalisation of images in C: its reference, the same bits everywhere, numbers that are far from 0."""

import numpy as np
import pytest

from nnframe import kernels
from nnframe.kernels import _kernels, reference

SHAPES = [(5, 3, 7, 9), (2, 1, 1), (40, 6, 8, 8), (3, 4, 1100), (7, 5)]


def numbers(rng, dtype, *shapes):
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def passes(x, w, b, dy):
    """Everything that the kernels write."""
    y, moments = kernels.batch_norm(x, w, b, eps=0.01)
    dw, db = np.ones((2, x.shape[1]), x.dtype)
    dx = kernels.batch_norm_backward(x, dy, moments, w, eps=0.01, weight_grad=dw, bias_grad=db)
    return [y, moments, dx, dw, db]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_reference(simd, dtype, rng, shape):
    x, dy, w, b = numbers(rng, dtype, shape, shape, shape[1], shape[1])
    found = passes(x, w, b, dy)
    wide = [a.astype(np.float64) for a in (x, w, b, dy)]
    y, moments = reference.batch_norm(*wide[:3], 0.01)
    dw, db = np.ones((2, shape[1]))
    dx = reference.batch_norm_backward(wide[0], wide[3], moments, wide[1], 0.01, dw, db)
    eps = np.finfo(dtype).eps
    for one, right in zip(found, [y, moments, dx, dw, db], strict=True):
        np.testing.assert_allclose(one, right, rtol=0, atol=16 * eps * max(np.abs(right).max(), 1))
    plain, alone = kernels.batch_norm(x, eps=0.01)
    np.testing.assert_allclose(plain, reference.batch_norm(wide[0], None, None, 0.01)[0], rtol=0, atol=64 * eps)
    np.testing.assert_array_equal(alone, found[1])
    assert kernels.batch_norm(x, eps=0.01, with_output=False)[0] is None


def test_numbers_far_from_0_keep_their_digits(simd, rng):
    x = (4000 + rng.standard_normal((20, 3, 6, 6))).astype(np.float32)
    y, moments = kernels.batch_norm(x, eps=1e-5)
    right, expected = reference.batch_norm(x.astype(np.float64), None, None, 1e-5)
    np.testing.assert_allclose(y, right, rtol=0, atol=2e-6)
    np.testing.assert_allclose(moments, expected, rtol=1e-6)


def test_same_bits_everywhere(dtype, rng, threads):
    shape = (33, 6, 9, 7)
    x, dy, w, b = numbers(rng, dtype, shape, shape, 6, 6)
    before, found = _kernels.get_simd(), []
    try:
        for isa in {"avx2", "avx512"} & set(_kernels.simd_available()) or {before}:
            _kernels.set_simd(isa)
            for count in (1, 2, 3):
                threads(count)
                found.append(passes(x, w, b, dy))
    finally:
        _kernels.set_simd(before)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


def test_arguments_that_do_not_fit():
    x, moments = np.ones((2, 3, 4)), np.ones((2, 3))
    with pytest.raises(ValueError, match=r"x: expected shape \(N, C, \.\.\.\), got \(3,\)"):
        kernels.batch_norm(np.ones(3), eps=0.1)
    with pytest.raises(ValueError, match=r"weight: expected shape \(3,\), got \(4,\)"):
        kernels.batch_norm(x, np.ones(4), eps=0.1)
    with pytest.raises(ValueError, match=r"dy: expected shape \(2, 3, 4\), got \(2, 3, 5\)"):
        kernels.batch_norm_backward(x, np.ones((2, 3, 5)), moments, eps=0.1)
    with pytest.raises(ValueError, match=r"moments: expected shape \(2, 3\), got \(3, 2\)"):
        kernels.batch_norm_backward(x, x, np.ones((3, 2)), eps=0.1)
    with pytest.raises(ValueError, match=r"weight_grad: expected float64 of shape \(3,\)"):
        kernels.batch_norm_backward(x, x, moments, eps=0.1, weight_grad=np.ones(2))
    with pytest.raises(ValueError, match="bias_grad: expected an array that shares no memory with moments"):
        kernels.batch_norm_backward(x, x, moments, moments[0], eps=0.1, bias_grad=moments[0])
