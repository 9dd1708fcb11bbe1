"""Copies of arrays with moves in them, and quotients of what functions change by, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from nnframe.kernels import _kernels, reference_changes

SHAPES = [
    (1, 1, 1, 1),
    (3, 1, 5, 4),
    (2, 6, 7, 1),
    (2, 3, 130, 1),
    (1, 2, 65, 3),
    (5, 1, 1, 37),
    (2, 0, 3, 1),
    (0, 1, 4, 2),
]


def test_moved_copies(rng):
    for n, rows, moves, entries in ((1, 1, 1, 1), (7, 2, 6, 3), (40, 3, 3, 0), (100, 1, 0, 5)):
        x, value = rng.standard_normal(n), rng.standard_normal((moves, entries))
        index = np.array([rng.permutation(max(n, entries))[:entries] % n for _ in range(rows)], np.intp)
        out, expected = np.full((2, moves, n), np.nan)
        _kernels.moved_copies(x, index.reshape(rows, entries), value, out)
        reference_changes.moved_copies(x, index.reshape(rows, entries), value, expected)
        np.testing.assert_array_equal(out, expected)
        for s in range(moves):
            one = x.copy()
            one[index[s % rows]] = value[s]
            np.testing.assert_array_equal(out[s], one)


def quotients(rng, moves, before, entries, after, more=3):
    """Arguments of one call: of K entries, some before and after those that are written."""
    count = moves * entries + 2 * more
    step = rng.uniform(0.5, 2, count) * 1e-3
    x = rng.standard_normal(count)
    return {
        "y": rng.standard_normal((4, moves, before, entries, after)),
        "weight": rng.standard_normal(before * entries * after),
        "noise": rng.uniform(0, 1e-3, before * entries * after),
        "end": x + np.array([1, -1, 0.5, -0.5])[:, None] * step,
        "step": step,
        "first": more,
        "resolved": 1e-3,
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_change_quotients(shape, rng):
    call = quotients(rng, *shape)
    found, expected = np.full((2, 3, len(call["step"])), 7.0)
    _kernels.change_quotients(**call, out=found)
    reference_changes.change_quotients(**call, out=expected)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found[:, :3] == 7).all()  # what is not asked for is not written
    assert (found[:, 3 + shape[0] * shape[2] :] == 7).all()
    # an array in another order has the same numbers
    again = np.full_like(found, 7)
    call["y"] = np.ascontiguousarray(call["y"].transpose(2, 0, 1, 3, 4)).transpose(1, 2, 0, 3, 4)
    _kernels.change_quotients(**call, out=again)
    np.testing.assert_array_equal(again, found)
    call["y"] = np.asfortranarray(call["y"])
    _kernels.change_quotients(**call, out=again)
    np.testing.assert_array_equal(again, found)


def test_change_quotients_are_derivatives(rng):
    """Of sums w sin(x_j): the derivative w cos(x_j), within the bound, which shrinks with the step."""
    x, weight = rng.standard_normal(20), rng.standard_normal((3, 20, 2))
    for step in (1e-1, 1e-2, 1e-3):
        end = x + np.array([1, -1, 0.5, -0.5])[:, None] * step
        y = np.broadcast_to(np.sin(end)[:, None, None, :, None], (4, 1, 3, 20, 2)).copy()
        out = np.empty((3, 20))
        _kernels.change_quotients(y, weight, np.zeros(120), end, np.full(20, step), 0, 0.0, out)
        off = np.abs(out[0] - weight.sum(axis=(0, 2)) * np.cos(x))
        assert (off <= out[1] + 1e-10).all()
        assert (out[1] <= step**2 * 20 + 1e-10).all()


def test_change_quotients_of_what_does_not_move(rng):
    call = quotients(rng, 2, 1, 3, 1)
    call["y"][...] = 1.0
    out = np.empty((3, 12))
    _kernels.change_quotients(**call, out=out)
    some = slice(3, 9)
    small = call["step"][some] < 1e-3
    assert small.any()
    assert not small.all()
    assert (np.isinf(out[1, some]) == small).all()
    assert not out[0, some].any()
    assert not out[2, some].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_change_quotients_of_outputs_that_are_not_finite(bad, rng):
    for after in (1, 3):
        call = quotients(rng, 2, 2, 3, after)
        call["y"][2, 1, 0, 2, 0] = bad
        out, expected = np.zeros((2, 3, 12))
        _kernels.change_quotients(**call, out=out)
        reference_changes.change_quotients(**call, out=expected)
        np.testing.assert_array_equal(np.isfinite(out), np.isfinite(expected))
        assert not np.isfinite(out[0, 8])
        assert np.isfinite(np.delete(out, 8, axis=1)).all()


def test_central_quotients(rng):
    for count in (0, 1, 5, 1000):
        value = rng.standard_normal((count, 1)) + np.array([1e-5, -1e-5])
        y = 3 + rng.standard_normal((count, 1)) * np.array([1e-5, -1e-5]) * (
            1 + rng.uniform(0, 0.05, (count, 1)) * [1, -1]
        )
        odd = np.where(rng.random(y.shape) < 0.2, rng.choice([np.nan, np.inf, 3.0], y.shape), y)
        for numbers in (y, odd):
            about = 3.0, 1e-10, 1e-10, 0.01, 1e-3
            found, sure = _kernels.central_quotients(value, numbers, *about)
            expected, expected_sure = reference_changes.central_quotients(value, numbers, *about)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(sure, expected_sure)
            assert not (sure & ~np.isfinite(found[1])).any()
            assert count < 1000 or 0 < sure.sum() < count


def test_central_quotients_are_doubted():
    """Each reason by itself: a bend beside the change, noise that is given, noise that numbers of that size have."""
    value = np.array([[0.1, -0.1]] * 3)
    y = np.array([[1.0, -1.0], [1.0, -0.96], [1e9, 1e9 - 2]])
    _, sure = _kernels.central_quotients(value[:2], y[:2], 0.0, 1e-5, 1e-16, 0.01, 1e-3)
    np.testing.assert_array_equal(sure, [True, False])
    _, sure = _kernels.central_quotients(value[:1], y[:1], 0.0, 3e-3, 1e-16, 0.01, 1e-3)
    assert not sure.any()
    for relative, expected in ((1e-16, True), (1e-10, False)):
        _, sure = _kernels.central_quotients(value[2:], y[2:], 1e9 - 1, 0.0, relative, 0.01, 1e-3)
        assert sure.all() == expected


def slopes_of(f, x, step, way=None, rng=None):
    """Arguments of one call for a function, where it is known by its values; or by its changes, with `way`."""
    size = step * np.maximum(1, np.abs(x))
    sides = np.array([[1.0], [-1.0], [0.5], [-0.5]])
    if way is None:
        value, base = f(x + sides * size), f(x)
        return {"value": value, "base": base, "x": x, "way": None, "size": size}
    ways = sides * size
    return {"value": f(x + ways) - f(x), "base": None, "x": None, "way": ways, "size": size}


def measured(kernel, call):
    slope, reach = np.full((2, len(call["size"])), 7.0)
    left = np.ones(len(call["size"]), bool)
    left[::5] = False
    rest = {"eps": 2.0**-52, "close": 1e-9, "noisy": 1e-8, "slope": slope, "reach": reach, "left": left}
    return kernel(**call, **rest), slope, reach, left


@pytest.mark.parametrize("way", [None, True])
@pytest.mark.parametrize("step", [1e-4, 1e-5, 1e-6])
def test_measured_slopes(way, step, rng):
    for f in (np.sin, np.tanh, np.abs, np.floor, lambda x: np.where(x > 2, np.nan, np.exp(x))):
        with np.errstate(all="ignore"):
            call = slopes_of(f, np.append(rng.uniform(-3, 3, 400), [0.0, 1.0, step / 3]), step, way)
        found, expected = (measured(k.measured_slopes, call) for k in (_kernels, reference_changes))
        assert abs(found[0] - expected[0]) <= 1e-9 * expected[0]
        for one, other in zip(found[1:], expected[1:], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9)


def test_measured_slopes_are_derivatives_and_not_those_of_kinks(rng):
    x = np.append(rng.uniform(-3, 3, 400), [0.0, 1e-6, -4e-6])
    bend, slope, reach, left = measured(_kernels.measured_slopes, slopes_of(np.sin, x, 1e-5))
    some = np.arange(len(x)) % 5 > 0
    assert not left.any()
    assert (reach[~some] == 7).all()
    assert (slope[~some] == 7).all()
    np.testing.assert_allclose(slope[some], np.cos(x)[some], atol=1e-10)
    assert abs(bend - np.abs(np.sin(x[some])).max()) <= 1e-4
    _, slope, reach, left = measured(_kernels.measured_slopes, slopes_of(np.abs, x, 1e-5))
    np.testing.assert_array_equal(np.flatnonzero(left), [i for i in (400, 401, 402) if i % 5])
    np.testing.assert_array_equal(slope[some & ~left], np.sign(x)[some & ~left])


def test_moved_along(rng):
    for shape in ((0,), (1,), (7, 3)):
        start, way = rng.standard_normal((2, *shape))
        out, expected = np.full((2, *shape), np.nan)
        _kernels.moved_along(start, way, 0.3, out)
        reference_changes.moved_along(start, way, 0.3, expected)
        np.testing.assert_allclose(out, expected, rtol=1e-15, atol=1e-15)
