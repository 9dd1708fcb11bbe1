"""`attention` and its backward against their references: sizes, masks, threads, instruction sets, arguments."""

import itertools

import numpy as np
import pytest
from harness import assert_close, tolerance

from nnframe import kernels
from nnframe.kernels import _kernels

SIZES = [  # N, L, S, heads, d
    (1, 1, 1, 1, 1),
    (2, 3, 5, 2, 4),
    (3, 17, 9, 1, 16),
    (2, 9, 40, 3, 7),
    (1, 70, 33, 2, 20),
    (2, 40, 700, 1, 3),
    (0, 3, 5, 2, 4),
]


def arguments(rng, dtype, rows, queries, keys, heads, width):
    def of(length):
        return rng.standard_normal((rows, length, heads, width)).astype(dtype)

    return {
        "q": of(queries), "k": of(keys), "v": of(keys), "dout": of(queries),
        "mask": rng.random((rows, keys)) < 0.6,
        "factors": rng.integers(0, 3, (rows, heads, queries, keys)).astype(dtype),
    }  # fmt: skip


def both_ways(a, causal=False, masked=True, dropped=True, scale=None):
    options = {"causal": causal, "scale": scale}
    options |= {"mask": a["mask"]} if masked else {}
    options |= {"factors": a["factors"]} if dropped else {}
    out, lse = kernels.attention(a["q"], a["k"], a["v"], **options)
    found = {f"d{name}": np.full_like(a[name], np.nan, order="C") for name in "qkv"}
    kernels.attention_backward(a["q"], a["k"], a["v"], out, lse, a["dout"], **found, **options)
    return {"out": out, "lse": lse, **found}


def in_numpy(*args):
    before = _kernels.get_simd()
    _kernels.set_simd("reference")
    try:
        return both_ways(*args)
    finally:
        _kernels.set_simd(before)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_like_the_reference(simd, dtype, causal, masked, rng):
    for sizes, dropped in itertools.product(SIZES, (False, True)):
        a = arguments(rng, dtype, *sizes)
        wide = {name: x if x.dtype == bool else x.astype(np.float64) for name, x in a.items()}
        found, expected = both_ways(a, causal, masked, dropped), in_numpy(wide, causal, masked, dropped)
        for name, right in expected.items():
            got = found[name]
            if name == "lse":
                np.testing.assert_array_equal(np.isinf(got), np.isinf(right))
                got, right = (np.where(np.isinf(x), 0, x) for x in (got, right))
            assert_close(got, right, 4 * tolerance(dtype), f"{name} of N, L, S, heads, d = {sizes}")


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_slopes_of_the_forward_pass(causal, rng):
    a = arguments(rng, np.float64, 2, 4, 5, 2, 3)
    found = both_ways(a, causal)
    for name in "qkv":
        for index in np.ndindex(a[name].shape):
            ends = []
            for h in (1e-6, -1e-6):
                moved = a[name].copy()
                moved[index] += h
                given = {**{key: a[key] for key in "qkv"}, name: moved}
                out, _ = kernels.attention(**given, causal=causal, mask=a["mask"], factors=a["factors"])
                ends.append((out * a["dout"]).sum())
            assert abs((ends[0] - ends[1]) / 2e-6 - found[f"d{name}"][index]) < 1e-8


def test_the_same_bits_with_any_number_of_threads_and_rows_and_with_avx2_as_with_avx512(dtype, rng, threads):
    a = arguments(rng, dtype, 9, 50, 45, 4, 19)
    before, found = _kernels.get_simd(), []
    try:
        for simd in [name for name in _kernels.simd_available() if name.startswith("avx")]:
            _kernels.set_simd(simd)
            for n in (1, 2, 3, 8):
                threads(n)
                found.append(both_ways(a, True))
            few = both_ways({name: x[4:6].copy() for name, x in a.items()}, True)
            for name, x in few.items():
                np.testing.assert_array_equal(x, found[-1][name][4:6], err_msg=name)
    finally:
        _kernels.set_simd(before)
    for other in found[1:]:
        for name, x in found[0].items():
            np.testing.assert_array_equal(other[name], x, err_msg=name)


def test_parts_of_one_projection_are_read_and_written_in_place(simd, rng):
    joined = rng.standard_normal((3, 7, 3, 2, 5))
    q, k, v = (joined[:, :, i] for i in range(3))
    apart = [np.ascontiguousarray(one) for one in (q, k, v)]
    out, lse = kernels.attention(q, k, v)
    np.testing.assert_array_equal(out, kernels.attention(*apart)[0])
    into, dout = np.full(joined.shape, np.nan), rng.standard_normal(out.shape)
    kernels.attention_backward(
        q, k, v, out, lse, dout, dq=into[:, :, 0], dk=into[:, :, 1], dv=into[:, :, 2]
    )  # fmt: skip
    right = [np.empty_like(one) for one in apart]
    kernels.attention_backward(*apart, out, lse, dout, dq=right[0], dk=right[1], dv=right[2])
    np.testing.assert_array_equal(into, np.stack(right, axis=2))


def test_large_scores_neither_overflow_nor_lose_their_row(simd, dtype):
    q = np.array([1e4, -1e4, 0, np.nan], dtype).reshape(1, 4, 1, 1)
    k = np.array([1, 0, -1], dtype).reshape(1, 3, 1, 1)
    out, lse = kernels.attention(q, k, np.array([1, 2, 3], dtype).reshape(1, 3, 1, 1))
    np.testing.assert_allclose(out[0, :3, 0, 0], [1, 3, 2], rtol=1e-6)
    np.testing.assert_allclose(lse[0, 0, :3], [1e4, 1e4, np.log(3)], rtol=1e-6)
    assert np.isnan(out[0, 3, 0, 0])
    assert np.isnan(lse[0, 0, 3])


def test_a_query_that_sees_no_key_gives_0_and_passes_nothing_on(simd, dtype, rng):
    a = arguments(rng, dtype, 2, 3, 4, 1, 5)
    a["mask"] = np.array([[False] * 4, [False, False, True, True]])
    found = both_ways(a, True)
    assert not found["out"][0].any()
    assert not found["out"][1, :2].any()
    assert found["out"][1, 2].any()
    assert np.isinf(found["lse"][0]).all()
    assert all(np.isfinite(found[name]).all() for name in ("dq", "dk", "dv"))
    assert not found["dq"][0].any()
    assert not found["dk"][0].any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"q": np.zeros((2, 3, 4))}, r"q: expected shape \(N, L, heads, d\), got \(2, 3, 4\)"),
        ({"k": np.zeros((2, 5, 3, 4))}, r"k: expected shape \(2, 5, 2, 4\) for a q of shape \(2, 3, 2, 4\)"),
        ({"v": np.zeros((2, 4, 2, 4))}, r"v: expected shape \(2, 5, 2, 4\)"),
        ({"v": np.zeros((2, 5, 2, 4), np.float32)}, "v: expected float64 like the other arrays, got float32"),
        ({"k": np.zeros((2, 0, 2, 4)), "v": np.zeros((2, 0, 2, 4))}, "k: expected at least one key"),
        ({"mask": np.ones((2, 4), bool)}, r"mask: expected an array of bool of shape \(2, 5\)"),
        ({"factors": np.ones((2, 2, 3, 4))}, r"factors: expected shape \(2, 2, 3, 5\)"),
        ({"scale": "small"}, "scale: expected a number, got 'small'"),
        ({"causal": None}, "causal: expected True or False, got None"),
    ],
)
def test_refused(wrong, message):
    given = {"q": np.zeros((2, 3, 2, 4)), "k": np.zeros((2, 5, 2, 4)), "v": np.zeros((2, 5, 2, 4)), **wrong}
    with pytest.raises((TypeError, ValueError), match=message):
        kernels.attention(**given)
