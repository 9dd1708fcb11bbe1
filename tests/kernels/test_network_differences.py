"""Central differences of a network in one call: against the reference of its gradient, and where there are none."""

import itertools

import numpy as np
import pytest
from harness import assert_close, tolerance
from test_network import LABELS, NAMES, TILED, WIDE, Made, by_reference

from nnframe.kernels import _kernels

STEP = 1e-12
BROAD = (3, 4300, 2)  # too large for tiles, though each unit has few weights
DEEP = [(5, 7, 3, 9, 4, 17, 6), (3, 20, 1, 20, 2), (6, 8, 8, 8, 8, 3)]  # units share products where a layer is narrow


def differences(made, step=STEP):
    """Return the loss, the output and the gradients by differences; None where there are none."""
    gradients = [np.full_like(v, 7) for v in made.values]
    given = made.x, made.t, made.values, gradients, *made.loss
    found = made.network.gradient(*given, **made.options, step=step)
    if found is None:
        assert all((g == 7).all() for g in gradients)
        return None
    return [np.array(found[0]), found[1], *gradients]


def compare(made, bound):
    found, expected = differences(made), by_reference(made.gradient)
    assert found is not None, f"{made.stages}, {len(made.x)} rows"
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert_close(one, other, bound, f"{made.stages}, {len(made.x)} rows, array {i}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("widths", [*TILED, *DEEP, *WIDE, BROAD])
def test_against_the_reference(simd, dtype, rng, widths, name):
    for rows in (1, 17, 65):
        compare(Made(rng, dtype, widths, name, rows), 10 * tolerance(dtype))


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 31, 32, 33, 63, 64, 100, 127, 128, 129, 400, 1500])
def test_any_number_of_rows(simd, dtype, rng, rows):
    for widths in ((4, 32, 16, 4), (6, 40, 40, 3), (150, 120, 3)):  # the second cuts the units of few rows into parts
        compare(Made(rng, dtype, widths, "tanh", rows), 10 * tolerance(dtype))


@pytest.mark.parametrize("labels", LABELS)
def test_losses(simd, dtype, rng, labels):
    for widths, rows in itertools.product(((5, 9, 4), (7, 6, 5, 40), (5, 40, 40, 4), *WIDE), (1, 3, 70, 200)):
        compare(Made(rng, dtype, widths, "sigmoid", rows, labels), 10 * tolerance(dtype))


def test_stages_in_any_order(simd, dtype, rng):
    act = [("tanh", 0.0), ("sigmoid", 0.0), ("elu", 1.0), ("silu", 0.0)]
    for stages in (
        [act[0], (5, True), (6, False), (7, True)],
        [(9, True), act[0], act[1], (5, False), (6, True), act[3], act[2], (7, True)],
        [act[0], act[0], (5, False), act[1], (4, True), act[2], act[3]],
        [(5, False), (6, False), (4, False), (3, False)],
        [(40, True), (40, True), act[0], (40, True), act[1], act[3]],
    ):
        made = Made(rng, dtype, (8, stages[-1][0] if isinstance(stages[-1][0], int) else 40), "tanh", 70)
        made.stages, made.network = stages, _kernels.Network(8, stages, dtype)
        made.values, width = [], 8
        for first, second in stages:
            if not isinstance(first, str):
                made.values += [(rng.standard_normal((first, width)) / np.sqrt(width)).astype(dtype)]
                made.values += [rng.standard_normal(first).astype(dtype)] if second else []
                width = first
        made.t = made.t % width
        compare(made, 10 * tolerance(dtype))


@pytest.mark.parametrize("widths", [(4, 32, 16, 4), (5, 40, 40, 40, 3), (5, 9, 3), (150, 120, 3)])
def test_the_same_bits_with_any_number_of_threads(simd, dtype, threads, widths):
    for rows in (50, 3000):
        found = []
        for n in (1, 2, 3, 8):
            threads(n)
            found.append(differences(Made(np.random.default_rng(1), dtype, widths, "tanh", rows)))
        for more in found[1:]:
            for one, other in zip(found[0], more, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.skipif("avx512" not in _kernels.simd_available(), reason="needs AVX-512")
@pytest.mark.parametrize("name", NAMES)
def test_avx2_gives_the_bits_of_avx512(dtype, name):
    before, found = _kernels.get_simd(), []
    for isa in ("avx2", "avx512"):
        _kernels.set_simd(isa)
        made = (
            Made(np.random.default_rng(1), dtype, w, name, n)
            for w in [*TILED, *DEEP, *WIDE, BROAD]
            for n in (1, 50, 700)
            if w[-1] <= 32
        )
        found.append([array for one in made for array in differences(one)])
    _kernels.set_simd(before)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_some_gradients(simd, dtype, rng):
    made = Made(rng, dtype, (4, 9, 6, 4), "tanh", 90)
    everything = differences(made)[2:]
    for wanted in itertools.product((False, True), repeat=len(made.values)):
        some = [np.full_like(v, 7) if w else None for v, w in zip(made.values, wanted, strict=True)]
        made.network.gradient(made.x, made.t, made.values, some, *made.loss, step=STEP)
        for one, expected in zip(some, everything, strict=True):
            assert one is None or np.array_equal(one, expected)


@pytest.mark.parametrize("step", [0.0, STEP])
@pytest.mark.parametrize("widths", [(4, 9, 6, 4), (150, 120, 3), BROAD])
def test_chosen_entries(simd, dtype, rng, widths, step):
    """They have the gradients that they have among all; all others are 0."""
    made = Made(rng, dtype, widths, "tanh", 70)
    everything = made.gradient(step=step)
    for share in (0.0, 0.004, 0.3, 1.0):
        entries = [np.flatnonzero(rng.random(v.size) < share) for v in made.values]
        found = made.gradient(step=step, entries=entries)
        for one, other in zip(found[:2], everything[:2], strict=True):
            np.testing.assert_array_equal(one, other)
        for one, whole, some in zip(found[2:], everything[2:], entries, strict=True):
            expected = np.zeros_like(whole)
            expected.flat[some] = whole.flat[some]
            assert_close(one, expected, tolerance(dtype), f"share {share}")
            assert np.count_nonzero(one) == len(some)


def test_chosen_entries_of_some_arrays_and_of_gradients_in_another_order(simd, dtype, rng):
    made = Made(rng, dtype, (150, 120, 3), "tanh", 70)
    everything = made.gradient(step=STEP)
    few, none = np.array([3, 170, 17999]), np.zeros(0, np.intp)
    for chosen, wanted in (([few, none, none], 0), ([none, few[:1], none], 1), ([none, none, few[:2]], 2)):
        gradients = [np.full_like(v, 7, order="F") for v in made.values]
        made.gradient(step=STEP, entries=chosen, gradients=gradients)
        for k, gradient in enumerate(gradients):
            expected = np.zeros_like(made.values[k])
            expected.flat[chosen[k]] = everything[2 + k].flat[chosen[k]]
            assert_close(gradient, expected, tolerance(dtype), f"array {k}")
            assert gradient.any() == (k == wanted)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([[0], [0]], r"entries: expected 3 arrays, got 2"),
        ([[1, 1], [0], [0]], r"entries\[0\]: expected ascending numbers in \[0, 18000\), got 1 at position 1"),
        ([[0], [120], [0]], r"entries\[1\]: expected ascending numbers in \[0, 120\), got 120 at position 0"),
        ([[0], [0], [-1]], r"entries\[2\]: expected ascending numbers in \[0, 360\), got -1 at position 0"),
        ([[0.0], [0], [0]], r"entries\[0\]: expected int64 of shape \(n,\), got float64 of shape \(1,\)"),
        ([[[0]], [0], [0]], r"entries\[0\]: expected int64 of shape \(n,\), got int64 of shape \(1, 1\)"),
    ],
)
def test_entries_that_are_none(rng, entries, words):
    made = Made(rng, np.float64, (150, 120, 3), "tanh", 5)
    gradients = [np.full_like(v, 7) for v in made.values]
    with pytest.raises(ValueError, match=words):
        made.gradient(step=STEP, gradients=gradients, entries=[np.array(some) for some in entries])
    assert all((g == 7).all() for g in gradients)


# ---- where curves are not known to be straight ----


@pytest.mark.parametrize("widths", [(3, 5, 4), BROAD])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_at_which_curves_bend_is_left_to_others(simd, dtype, rng, name, widths):
    """Whatever is answered is the central difference, as by weights that are moved in float64."""
    answered = []
    for step in (1e-12, 1e-9, 1e-6, 1e-4, 1e-2, 1.0):
        made = Made(rng, dtype, widths, name, 6)
        found = differences(made, step)
        answered.append(found is not None)
        if found is None or step < 1e-6:
            continue
        wide = Made(rng, np.float64, widths, name, 6)
        wide.x, wide.t = made.x.astype(np.float64), made.t
        for k, value in enumerate(made.values):
            wide.values = [v.astype(np.float64) for v in made.values]
            entries = rng.choice(value.size, min(20, value.size), replace=False)
            some = [tuple(map(int, np.unravel_index(entry, value.shape))) for entry in entries]
            expected = {}
            for at in some:
                sides = []
                for sign in (1, -1):
                    wide.values[k][at] = float(value[at]) + sign * step
                    sides.append(float(wide.gradient()[0]))
                wide.values[k][at] = value[at]
                expected[at] = (sides[0] - sides[1]) / (2 * step)
            bound = (10 * tolerance(dtype) + 1e-15 / step) * max(np.abs(found[2 + k]).max(), 1e-300)
            for at in some:
                assert abs(found[2 + k][at] - expected[at]) <= bound, f"{name}, step {step}, array {k} at {at}"
    assert answered[0]
    assert not answered[-1] or name == "identity"


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "step"])
def test_rows_that_may_reach_a_kink_are_left_out(simd, dtype, rng, name):
    for widths, rows in (((3, 4, 2), 200), ((3, 4, 40, 40, 2), 30), (BROAD, 30)):  # the second is cut into parts
        made = Made(rng, dtype, widths, name, rows)
        made.values[1][2] = 0.3
        if len(widths) > 3:
            made.values[3][:] = 0.2
        assert differences(made) is not None
        for bias, reached in ((1e-13, True), (0, True), (1e-10, False)):
            made.x[[1, rows - 1]] = 0  # the first linear layer has a bias
            made.values[1][2] = bias
            assert (differences(made) is None) == reached
            doubtful = np.ones(rows, bool)
            gradients = [np.full_like(v, 7) for v in made.values]
            given = made.x, made.t, made.values
            value, y, _ = made.network.gradient(*given, gradients, *made.loss, step=STEP, doubtful=doubtful)
            assert np.flatnonzero(doubtful).tolist() == ([1, rows - 1] if reached else [])
            plain = made.gradient()
            assert_close(value, plain[0], tolerance(dtype))
            np.testing.assert_array_equal(y, plain[1])
            some = Made(rng, dtype, widths, name, rows)
            some.x, some.t, some.values = made.x[~doubtful], made.t[~doubtful], made.values
            for one, other in zip(gradients, some.gradient()[2:], strict=True):
                assert_close(one, other * dtype((~doubtful).mean()), 10 * tolerance(dtype))


def test_kinks_that_are_not_at_0(simd, dtype, rng):
    for widths in ((3, 4, 2), BROAD):
        made = Made(rng, dtype, widths, "hardswish", 30)
        for bias, straight in ((3, False), (-3, False), (0, True), (2.9, True)):
            made.x[7] = 0
            made.values[1][2] = bias
            assert (differences(made) is not None) == straight


def test_rows_that_count_for_nothing_are_in_no_doubt(simd, dtype, rng):
    made = Made(rng, dtype, (3, 4, 2), "relu", 30, "ignored")
    made.x[1] = 0
    made.values[1][2] = 0
    made.t[1] = -1
    assert differences(made) is not None
    made.t[1] = 1
    assert differences(made) is None


@pytest.mark.parametrize("widths", [(3, 4, 5, 2), BROAD])
def test_large_inputs_and_weights_count(simd, rng, widths):
    made = Made(rng, np.float64, widths, "tanh", 20)
    for factor, straight in ((10, True), (1e5, False)):
        larger = Made(rng, np.float64, widths, "tanh", 20)
        larger.x, larger.values = made.x * factor, made.values
        assert (differences(larger) is not None) == straight
        larger.x, larger.values = made.x, [v * factor ** (v.ndim - 1) for v in made.values]
        assert (differences(larger) is not None) == straight


def test_what_is_not_finite_is_left_to_others(simd, dtype, rng):
    for name, value, widths in itertools.product(("tanh", "relu"), (np.nan, np.inf), ((3, 6, 4), BROAD)):
        made = Made(rng, dtype, widths, name, 40)
        made.x[7, 1] = value
        assert differences(made) is None


def test_a_squared_error_that_is_zero(simd, dtype, rng):
    for widths in ((3, 6, 4), BROAD):
        made = Made(rng, dtype, widths, "tanh", 10, "squared error")
        made.t = made.gradient()[1]
        assert differences(made) is None  # nothing that rounding could be compared with
        made.t[0, 0] += 1
        assert differences(made) is not None


def test_networks_that_are_too_large(simd, dtype, rng):
    for widths in ((150, 120, 30, 3), (3, 4300, 2, 2)):
        assert differences(Made(rng, dtype, widths, "tanh", 5)) is None


@pytest.mark.parametrize("step", [-1.0, np.inf, np.nan])
def test_steps_that_are_none(rng, step):
    made = Made(rng, np.float32, (3, 6, 4), "tanh", 4)
    with pytest.raises(ValueError, match=r"step: expected a finite number of at least 0, got"):
        differences(made, step)


def test_the_reference_has_none(rng):
    made = Made(rng, np.float32, (3, 6, 4), "tanh", 4)
    assert by_reference(lambda: differences(made)) is None
    assert differences(made) is not None
