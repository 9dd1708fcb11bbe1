"""`recurrent` and its backward against their references: cells, padding, threads, instruction sets, arguments."""

import itertools

import numpy as np
import pytest
from harness import assert_close, tolerance

import nnframe as nn
from nnframe import kernels
from nnframe.kernels import _kernels

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}
SIZES = [(1, 1, 1), (3, 2, 5), (2, 9, 16), (5, 4, 17), (4, 61, 8), (2, 3, 70), (0, 2, 3), (2, 0, 3)]  # T, N, H


def arguments(cell, rng, dtype, steps, rows, units):
    width = GATES[cell] * units
    scale = 1 / np.sqrt(units)
    return {
        "gates": rng.standard_normal((steps, rows, width)).astype(dtype),
        "weight": (rng.standard_normal((width, units)) * scale).astype(dtype),
        "bias": rng.standard_normal(width).astype(dtype),
        "mask": rng.random((steps, rows)) < 0.7,
        "dy": rng.standard_normal((rows, steps, units)).astype(dtype),
        "dlast": rng.standard_normal((rows, units)).astype(dtype),
    }


def both_ways(cell, a, reverse=False, masked=True, last=True):
    """All that forward and backward write or return."""
    gates, y = a["gates"].copy(), np.full_like(a["dy"], np.nan)
    mask = a["mask"] if masked else None
    state, kept = kernels.recurrent(cell, gates, a["weight"], a["bias"], mask=mask, reverse=reverse, out=y)
    dgates, dq = kernels.recurrent_backward(
        cell,
        gates,
        a["weight"],
        state,
        kept,
        mask=mask,
        reverse=reverse,
        dy=a["dy"],
        dlast=a["dlast"] if last else None,
    )
    return {"gates": gates, "y": y, "state": state, "kept": kept, "dgates": dgates, "dq": dq}


def in_numpy(call, *args, **options):
    before = _kernels.get_simd()
    _kernels.set_simd("reference")
    try:
        return call(*args, **options)
    finally:
        _kernels.set_simd(before)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("reverse", [False, True])
def test_like_the_reference(simd, dtype, cell, reverse, rng):
    for (steps, rows, units), masked in itertools.product(SIZES, (True, False)):
        a = arguments(cell, rng, dtype, steps, rows, units)
        wide = {name: x if x.dtype == bool else x.astype(np.float64) for name, x in a.items()}
        found = both_ways(cell, a, reverse, masked)
        expected = in_numpy(both_ways, cell, wide, reverse, masked)
        passed_over = ~a["mask"] if masked else np.zeros((steps, rows), bool)
        for name, right in expected.items():
            if right is None:
                assert found[name] is None
                continue
            got = found[name]
            if name == "gates":  # those of steps that are passed over are nobody's
                got, right = (np.where(passed_over[..., None], 0, x) for x in (got, right))
            assert_close(got, right, 4 * tolerance(dtype), f"{cell} {name} of T, N, H = {steps}, {rows}, {units}")


@pytest.mark.parametrize("cell", GATES)
def test_without_a_bias_and_without_gradients(cell, rng):
    a = arguments(cell, rng, np.float64, 3, 4, 5)
    state, kept = kernels.recurrent(cell, a["gates"].copy(), a["weight"])
    expected, _ = kernels.recurrent(cell, a["gates"].copy(), a["weight"], np.zeros_like(a["bias"]))
    np.testing.assert_array_equal(state, expected)
    gates = a["gates"].copy()
    kernels.recurrent(cell, gates, a["weight"])
    dgates, dq = kernels.recurrent_backward(cell, gates, a["weight"], state, kept)
    assert not dgates.any()
    assert not dq.any()


@pytest.mark.parametrize("cell", GATES)
def test_gradients_are_slopes_of_the_forward_pass(cell, rng):
    a = arguments(cell, rng, np.float64, 4, 3, 2)
    found = both_ways(cell, a)

    def total(gates, weight=a["weight"]):
        y = np.empty_like(a["dy"])
        state, _ = kernels.recurrent(cell, gates.copy(), weight, a["bias"], mask=a["mask"], out=y)
        return (y * a["dy"]).sum() + (state[-1] * a["dlast"]).sum()

    h = 1e-6
    for index in np.ndindex(a["gates"].shape):
        moved = np.zeros_like(a["gates"])
        moved[index] = h
        slope = (total(a["gates"] + moved) - total(a["gates"] - moved)) / (2 * h)
        assert abs(slope - found["dgates"][index]) < 1e-8
    before = np.concatenate([np.zeros((1, 3, 2)), found["state"][:-1]])
    of_weight = np.einsum("tng,tnh->gh", found["dq"], before)
    for index in np.ndindex(a["weight"].shape):
        moved = np.zeros_like(a["weight"])
        moved[index] = h
        slope = (total(a["gates"], a["weight"] + moved) - total(a["gates"], a["weight"] - moved)) / (2 * h)
        assert abs(slope - of_weight[index]) < 1e-8


@pytest.mark.parametrize("cell", GATES)
def test_the_same_bits_with_any_number_of_threads_and_rows_and_with_avx2_as_with_avx512(cell, dtype, rng, threads):
    a = arguments(cell, rng, dtype, 6, 130, 40)
    before, found = _kernels.get_simd(), []
    try:
        for simd in [name for name in _kernels.simd_available() if name.startswith("avx")]:
            _kernels.set_simd(simd)
            for n in (1, 2, 3, 8):
                threads(n)
                found.append(both_ways(cell, a))
            some = {name: x[:, 5:8] if name in ("gates", "mask") else x for name, x in a.items()}
            some |= {"dy": a["dy"][5:8], "dlast": a["dlast"][5:8]}
            few = both_ways(cell, {name: np.ascontiguousarray(x) for name, x in some.items()})
            for name, x in few.items():
                whole = found[-1][name]
                if x is not None:
                    np.testing.assert_array_equal(x, whole[5:8] if name == "y" else whole[:, 5:8], err_msg=name)
    finally:
        _kernels.set_simd(before)
    for other in found[1:]:
        for name, x in found[0].items():
            np.testing.assert_array_equal(other[name], x, err_msg=name)


@pytest.mark.parametrize("cell", GATES)
def test_y_and_dy_may_be_halves_of_a_wider_array(simd, cell, rng):
    a = arguments(cell, rng, np.float32, 3, 4, 5)
    wide = np.full((4, 3, 10), 7, np.float32)
    expected = both_ways(cell, a)
    kernels.recurrent(cell, a["gates"].copy(), a["weight"], a["bias"], mask=a["mask"], out=wide[..., 5:])
    np.testing.assert_array_equal(wide[..., 5:], expected["y"])
    np.testing.assert_array_equal(wide[..., :5], 7)
    wide[..., 5:] = a["dy"]
    for dy in (wide[..., 5:], np.asfortranarray(a["dy"]), a["dy"][::-1].copy()[::-1]):
        dgates, _ = kernels.recurrent_backward(
            cell, expected["gates"], a["weight"], expected["state"], expected["kept"], mask=a["mask"], dy=dy,
            dlast=a["dlast"],
        )  # fmt: skip
        np.testing.assert_array_equal(dgates, expected["dgates"])


def test_large_and_strange_numbers(simd, dtype):
    """Gates that are far out are 0, 1 or -1; a NaN stays in its row."""
    for cell, count in GATES.items():
        gates = np.full((2, 3, count * 2), 1e30 if dtype == np.float32 else 1e300, dtype)
        gates[0, 1] = np.nan
        gates[:, 2] *= -1
        weight = np.zeros((count * 2, 2), dtype)
        state, _ = kernels.recurrent(cell, gates, weight)
        assert np.isfinite(state[:, [0, 2]]).all()
        assert np.isnan(state[0, 1]).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cell": "elman"}, "cell: expected one of rnn_tanh, rnn_relu, lstm, gru, got 'elman'"),
        (
            {"gates": np.zeros((2, 3))},
            r"gates: expected shape \(T, N, 20\) for a weight of shape \(20, 5\), got \(2, 3\)",
        ),
        ({"gates": np.zeros((2, 3, 19))}, r"gates: expected shape \(T, N, 20\) for a weight of shape \(20, 5\)"),
        ({"gates": np.zeros((2, 3, 20))[:, ::-1]}, "gates: expected an aligned, writeable array in C order"),
        ({"gates": np.zeros((2, 3, 20), np.float32)}, "gates: expected float64 like the other arrays, got float32"),
        ({"weight": np.zeros((19, 5))}, r"weight: expected shape \(4 H, H\) for 'lstm', got \(19, 5\)"),
        ({"bias": np.zeros(19)}, r"bias: expected shape \(20,\), got \(19,\)"),
        ({"mask": np.ones((3, 2), bool)}, r"mask: expected an array of bool of shape \(2, 3\)"),
        ({"mask": np.ones((2, 3))}, "mask: expected an array of bool"),
        ({"reverse": 2}, "reverse: expected True or False, got 2"),
        ({"out": np.zeros((2, 3, 5))}, r"out: expected float64 of shape \(3, 2, 5\)"),
        ({"out": np.zeros((3, 2, 10))[..., ::2]}, "out: expected a contiguous last axis"),
    ],
)
def test_refused(wrong, message):
    given = {"cell": "lstm", "gates": np.zeros((2, 3, 20)), "weight": np.zeros((20, 5)), **wrong}
    options = {name: given.pop(name) for name in ("bias", "mask", "reverse", "out") if name in given}
    with pytest.raises((TypeError, ValueError), match=message):
        kernels.recurrent(*given.values(), **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"state": np.zeros((2, 3, 4))}, r"state: expected shape \(2, 3, 5\), got \(2, 3, 4\)"),
        ({"kept": None}, "kept: expected an array"),
        ({"dy": np.zeros((2, 3, 5))}, r"dy: expected shape \(3, 2, 5\), got \(2, 3, 5\)"),
        ({"dlast": np.zeros((2, 5))}, r"dlast: expected shape \(3, 5\), got \(2, 5\)"),
        ({"cell": "rnn_tanh", "weight": np.zeros((20, 20)), "state": np.zeros((2, 3, 20))}, "kept: expected None"),
    ],
)
def test_backward_refuses(wrong, message):
    given = {
        "cell": "lstm", "gates": np.zeros((2, 3, 20)), "weight": np.zeros((20, 5)), "state": np.zeros((2, 3, 5)),
        "kept": np.zeros((2, 3, 5)), **wrong,
    }  # fmt: skip
    options = {name: given.pop(name) for name in ("dy", "dlast") if name in given}
    with pytest.raises((TypeError, ValueError), match=message):
        kernels.recurrent_backward(*given.values(), **options)


# ---- changes ----


def before_each(state, reverse):
    zero = np.zeros_like(state[:1])
    return np.concatenate([state[1:], zero] if reverse else [zero, state[:-1]])


def base(cell, a, reverse, masked):
    """What `recurrent_change` is given of the layer itself."""
    gates, mask = a["gates"].copy(), a["mask"] if masked else None
    state, kept = kernels.recurrent(cell, gates, a["weight"], a["bias"], mask=mask, reverse=reverse)
    q = (before_each(state, reverse) @ a["weight"].T + a["bias"]).astype(state.dtype)
    x, units = a["gates"] + q, state.shape[2]
    if cell == "gru":
        x[..., 2 * units :] = a["gates"][..., 2 * units :] + gates[..., :units] * q[..., 2 * units :]
    own = {"arguments": x, "gates": gates, "weight": a["weight"], "state": state, "kept": kept}
    return own | {"mask": mask, "reverse": reverse}


def ways(cell, a, rng, dtype, stack=3):
    """Changes of everything that is given, and of single columns: of u, of q, and through the state before."""
    steps, rows, width = a["gates"].shape
    at, origin = rng.integers(0, width, stack), rng.integers(0, a["weight"].shape[1], stack)
    drive = (0.3 * rng.standard_normal((steps, stack * rows))).astype(dtype)
    yield {"du": (0.3 * rng.standard_normal((steps, stack * rows, width))).astype(dtype)}
    for in_state in (False, True):
        yield {"at": at, "drive": drive, "in_state": in_state}
    yield {"at": at, "drive": drive, "in_state": True, "origin": origin, "step": 0.4}


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("reverse", [False, True])
def test_changes_like_the_reference(simd, dtype, cell, reverse, rng):
    for sizes, masked in itertools.product(SIZES, (True, False)):
        a = arguments(cell, rng, dtype, *sizes)
        own = base(cell, a, reverse, masked)
        for way in ways(cell, a, rng, dtype):
            call = own | way
            if way.get("at") is not None and not sizes[1]:
                continue
            found, expected = kernels.recurrent_change(cell, **call), in_numpy(kernels.recurrent_change, cell, **call)
            for one, other in zip(found, expected, strict=True):
                assert one.dtype == dtype
                assert_close(one, other, 20 * tolerance(dtype), f"{cell} {sizes}")


@pytest.mark.parametrize("cell", GATES)
def test_small_changes_like_the_reference(simd, dtype, cell, rng):
    # by the first terms of sigmoid and tanh: what the reference subtracts has digits left down to the second
    size, bound = (1e-6, 1e-8) if dtype == np.float64 else (2e-4, 3e-6)
    for sizes in SIZES[:-2]:
        a = arguments(cell, rng, dtype, *sizes)
        own = base(cell, a, False, True)
        call = own | {"du": (size * rng.standard_normal((sizes[0], 2 * sizes[1], a["gates"].shape[2]))).astype(dtype)}
        found, expected = kernels.recurrent_change(cell, **call), in_numpy(kernels.recurrent_change, cell, **call)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, bound, f"{cell} {sizes}")


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("reverse", [False, True])
def test_changes_are_those_of_the_states(cell, reverse, rng):
    a = arguments(cell, rng, np.float64, 5, 4, 6)
    own = base(cell, a, reverse, True)
    du = 0.3 * rng.standard_normal((5, 2 * 4, a["gates"].shape[2]))
    found, last = kernels.recurrent_change(cell, **own, du=du)
    for s in range(2):
        rows = slice(4 * s, 4 * s + 4)
        y, ends = np.empty((2, 4, 5, 6)), []
        for side, gates in zip(y, (a["gates"] + du[:, rows], a["gates"].copy()), strict=True):
            options = {"mask": a["mask"], "reverse": reverse, "out": side}
            ends.append(kernels.recurrent(cell, gates, a["weight"], a["bias"], **options)[0][0 if reverse else -1])
        assert_close(found[rows], y[0] - y[1], 1e-12)
        assert_close(last[rows], ends[0] - ends[1], 1e-12)


@pytest.mark.parametrize("cell", GATES)
def test_small_changes_keep_their_digits(cell, rng):
    a = arguments(cell, rng, np.float32, 6, 3, 8)
    own = base(cell, a, False, False)
    du = rng.standard_normal(a["gates"].shape).astype(np.float32)
    whole, part = (kernels.recurrent_change(cell, **own, du=du * k)[0] for k in (np.float32(1e-4), np.float32(1e-12)))
    assert_close(part * np.float32(1e8), whole, 1e-3)


def test_changes_have_the_same_bits_for_any_number_of_threads_and_width_of_vectors(dtype, rng):
    a = arguments("lstm", rng, dtype, 4, 61, 24)
    own = base("lstm", a, False, True)
    before, simd, found = nn.get_num_threads(), _kernels.get_simd(), []
    try:
        for threads, name in itertools.product((1, 2, 5), {"avx2", "avx512"} & set(_kernels.simd_available())):
            nn.set_num_threads(threads)
            _kernels.set_simd(name)
            calls = ways("lstm", a, np.random.default_rng(1), dtype)
            found.append([kernels.recurrent_change("lstm", **own, **way)[0] for way in calls])
    finally:
        nn.set_num_threads(before)
        _kernels.set_simd(simd)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"du": None}, "du, at, drive: expected du alone, or at and drive"),
        ({"at": np.zeros(1, int)}, "du, at, drive: expected du alone, or at and drive"),
        ({"du": np.zeros((2, 5, 8))}, "du: expected"),
        ({"arguments": np.zeros((2, 3, 4))}, "gates: expected shape"),
        ({"state": np.zeros((2, 3, 3))}, "state: expected"),
        ({"kept": None}, "kept: expected"),
        ({"du": None, "at": np.array([8]), "drive": np.zeros((2, 3))}, r"at: expected numbers in \[0, 8\), got 8"),
        ({"du": None, "at": np.array([1]), "drive": np.zeros((2, 4))}, "drive: expected"),
        (
            {"du": None, "at": np.array([1]), "drive": np.zeros((2, 3)), "origin": np.array([2])},
            r"origin: expected numbers in \[0, 2\), got 2 at position 0",
        ),
    ],
)
def test_changes_refuse(wrong, message, rng):
    own = base("lstm", arguments("lstm", rng, np.float64, 2, 3, 2), False, False) | {"du": np.zeros((2, 3, 8))}
    with pytest.raises((TypeError, ValueError), match=message):
        kernels.recurrent_change("lstm", **(own | wrong))
