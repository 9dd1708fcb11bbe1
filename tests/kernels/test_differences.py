"""difference_gradient and difference_curves against their references in NumPy, on every instruction set."""

import numpy as np
import pytest
from harness import assert_close

import nnframe as nn
from nnframe import kernels
from nnframe.kernels import _kernels, reference

NAMES = tuple(_kernels.activation_names())
LOSSES = ("cross_entropy", "squared_error", "linear")
ROWS, INPUTS = 13, 21


def above(rng, dtype, loss, name, widths):
    """A network of these widths above a linear layer: an activation behind each layer but the last; the loss."""
    y, stages = rng.standard_normal((ROWS, widths[0])).astype(dtype), []
    for width in widths[1:]:
        x, y = y, kernels.activation(name, y, alpha=0.3)
        weight = (rng.standard_normal((width, y.shape[1])) / np.sqrt(y.shape[1])).astype(dtype)
        stages += [(name, 0.3, x, y), (weight,)]
        y = kernels.linear(y, weight)
    if loss != "cross_entropy":
        return _kernels.Above(widths[0], stages, loss, y - rng.standard_normal(y.shape).astype(dtype))
    p, t = kernels.softmax(y), rng.dirichlet(np.ones(y.shape[1]), ROWS).astype(dtype)
    return _kernels.Above(widths[0], stages, loss, p - t, y, p, t)


def inputs(rng, dtype):
    x = rng.standard_normal((ROWS, INPUTS)).astype(dtype)
    x[rng.random(x.shape) < 0.4] = 0
    x[3] = 0
    return x


def both(run):
    """The results of `run` in C, and of the references."""
    found, before = run(), _kernels.get_simd()
    _kernels.set_simd("reference")
    try:
        return found, run()
    finally:
        _kernels.set_simd(before)


def two_layers(inputs):
    wide = {"dtype": np.float64}
    return nn.Sequential(nn.Linear(inputs, 5, rng=0, **wide), nn.Tanh(), nn.Linear(5, 3, rng=1, **wide))


def bound(dtype, step):
    return (5e-10 if dtype == np.float64 else 2e-4) * (1 if step < 0.1 else 10)


def gradient(network, x, bias, **options):
    def run():
        weight = np.full((network.outputs, x.shape[1]), 7, x.dtype)
        biases = np.full(network.outputs, 7, x.dtype) if bias else None
        own = {"scale": 0.5, "grad_weight": weight, "grad_bias": biases}
        _kernels.difference_gradient(network, x, **own, **options)
        return weight if biases is None else np.column_stack([weight, biases])

    return both(run)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_gradient(simd, dtype, rng, name, loss):
    x = inputs(rng, dtype)
    for widths in ((4,), (5, 3), (6, 7, 4), (3, 2)):
        network = above(rng, dtype, loss, name, widths)
        for step in (1e-4, 1e-2, 2.0):
            for bias in (False, True):
                found, expected = gradient(network, x, bias, step=step)
                assert_close(found, expected, bound(dtype, step), f"{widths}, step {step}")


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_of_selected_entries_rows_and_units(simd, dtype, rng, loss):
    x, network = inputs(rng, dtype), above(rng, dtype, loss, "tanh", (6, 7, 4))
    wanted, counted = rng.random((6, INPUTS + 1)) < 0.3, rng.random((6, ROWS)) < 0.5
    wanted[2], counted[3] = False, False
    for options in ({"wanted": wanted}, {"counted": counted}, {"wanted": wanted, "counted": counted}):
        for bias in (False, True):
            found, expected = gradient(network, x, bias, step=1e-2, **options)
            assert_close(found, expected, bound(dtype, 1e-2), str(list(options)))
            if "wanted" in options:
                assert not found[~wanted[:, : found.shape[1]]].any()
            if "counted" in options:
                assert not found[3].any()
    found, expected = gradient(network, x, True, step=1e-2, units=range(2, 4))
    assert_close(found, expected, bound(dtype, 1e-2), "units")
    assert (found[[0, 1, 4, 5]] == 7).all(), "other units were written"


@pytest.mark.parametrize("bias", [False, True])
def test_gradient_of_given_columns(simd, dtype, rng, bias):
    x, network = inputs(rng, dtype), above(rng, dtype, "cross_entropy", "sigmoid", (6, 4))
    entries = np.count_nonzero(x) + (ROWS if bias else 0)
    columns = (rng.standard_normal((2, 6, entries)) * 1e-2).astype(dtype)
    found, expected = gradient(network, x, bias, step=1e-2, columns=columns)
    assert_close(found, expected, bound(dtype, 1e-2), "columns")


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_gradients_of_any_layout_are_filled(dtype, rng, order):
    # np.zeros_like keeps the order of a weight in Fortran order
    x, network = inputs(rng, dtype), above(rng, dtype, "cross_entropy", "tanh", (6, 4))
    plain, weight = np.zeros((6, INPUTS), dtype), np.zeros((6, 2 * INPUTS), dtype)[:, ::2]
    if order != "strided":
        weight = np.zeros((6, INPUTS), dtype, order=order)
    for to in (plain, weight):
        _kernels.difference_gradient(network, x, step=1e-3, scale=1.0, grad_weight=to, units=range(1, 5))
    np.testing.assert_array_equal(weight, plain)
    for to in (plain, weight):
        kernels.linear_backward(x, np.zeros((6, INPUTS), dtype), np.ones((ROWS, 6), dtype), weight_grad=to)
    np.testing.assert_array_equal(weight, plain)


def test_a_weight_in_fortran_order_has_the_same_gradient(rng):
    x, t = rng.standard_normal((9, 7)), rng.integers(0, 3, 9)
    found = []
    for order in ("C", "F"):
        model = nn.Sequential(
            nn.Linear(7, 5, rng=0, dtype=np.float64), nn.Tanh(), nn.Linear(5, 3, rng=1, dtype=np.float64)
        )
        for parameter in model.parameters():
            parameter.value = np.asarray(parameter.value, order=order)
        for strategy in (nn.CentralDifference(), nn.CentralDifference(interpolate=False), nn.Backprop()):
            strategy(model, nn.CrossEntropyLoss(), x, t)
            found.append([p.grad.copy() for p in model.parameters()])
    for one, other in zip(found[:3], found[3:], strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


# ---- curves ----


def curves(network, distance, **options):
    def run():
        shape = network.outputs, ROWS
        level, bend = np.full((2, *shape), 7, distance.dtype)
        doubtful, state = np.zeros(shape, bool), np.zeros(network.outputs, np.uint8)
        own = {"level": level, "bend": bend, "doubtful": doubtful, "state": state}
        _kernels.difference_curves(network, distance, **own, **options)
        return level, bend, doubtful, state

    return both(run)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_quotients(simd, dtype, rng, name, loss):
    for widths in ((4,), (5, 3), (6, 7, 4), (3, 2)):
        network = above(rng, dtype, loss, name, widths)
        for step in (1e-4, 1e-2, 2.0):
            distance = np.abs(rng.standard_normal(ROWS) * step).astype(dtype)
            distance[2] = 0
            found, expected = curves(network, distance, tolerance=-1)
            assert_close(found[0], expected[0], bound(dtype, step), f"{widths}, step {step}")
            for one, other in zip(found[1:], expected[1:], strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_curves(simd, rng, name, loss):
    for widths in ((5, 3), (6, 7, 4)):
        network = above(rng, np.float64, loss, name, widths)
        for step, tolerance in ((1e-2, 1e-7), (3e-2, 1e-5), (3e-2, 1e-9), (0.5, 1e-3), (0.5, 1e-1)):
            found, expected = curves(network, np.abs(rng.standard_normal(ROWS)) * step, tolerance=tolerance)
            np.testing.assert_array_equal(found[3], expected[3])
            np.testing.assert_array_equal(found[2], expected[2])
            scale = np.abs(expected[0]).max(initial=1e-300)
            for one, other in zip(found[:2], expected[:2], strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * scale)


def test_curves_of_given_columns_and_units(simd, dtype, rng):
    network = above(rng, dtype, "cross_entropy", "sigmoid", (6, 4))
    distance = np.full(ROWS, 1e-2, dtype)
    columns = (rng.standard_normal((6, 6, ROWS)) * 1e-2).astype(dtype)
    found, expected = curves(network, distance, tolerance=-1, columns=columns, units=range(1, 3))
    assert_close(found[0], expected[0], bound(dtype, 1e-2), "columns")
    assert (found[0][[0, 3, 4, 5]] == 7).all()


def test_curves_of_chosen_units(simd, dtype, rng):
    network, chosen = above(rng, dtype, "cross_entropy", "tanh", (6, 4)), np.array([1, 0, 0, 1, 1, 0], bool)
    for step in (1e-12, 1e-2):  # straight or sampled
        found, expected = curves(network, np.full(ROWS, step, dtype), tolerance=1e-6, chosen=chosen)
        everything, _ = curves(network, np.full(ROWS, step, dtype), tolerance=1e-6)
        for one, other, whole in zip(found, expected, everything, strict=True):
            np.testing.assert_array_equal(one[chosen], whole[chosen])
            np.testing.assert_array_equal(one[~chosen], other[~chosen])
        assert (found[0][~chosen] == 7).all()


def test_selected_products(simd, dtype, rng):
    for outputs, rows, inputs in ((4, 33, 50), (1, 1, 1), (3, 100, 784), (2, 0, 5)):
        a, b = rng.standard_normal((outputs, rows)).astype(dtype), rng.standard_normal((rows, inputs)).astype(dtype)
        for share in (0.0, 0.1, 1.0):
            entries = np.flatnonzero(rng.random(outputs * inputs) <= share)

            def run(a=a, b=b, entries=entries):
                out = np.full(len(entries), 7, a.dtype)
                _kernels.selected_products(a, b, entries, out)
                return out

            found, expected = both(run)
            np.testing.assert_allclose(found, expected, rtol=0, atol=(1e-13 if dtype == np.float64 else 1e-5))


def sparse(rng, rows, inner, dtype):
    start = np.concatenate([[0], np.cumsum(rng.integers(0, 9, rows))])
    return start, rng.integers(0, inner, start[-1]), rng.standard_normal(start[-1]).astype(dtype)


@pytest.mark.parametrize("columns", [0, 1, 5, 16, 63, 128, 131, 300])
def test_sparse_product(simd, dtype, rng, columns):
    for rows, inner in ((1, 1), (75, 30), (0, 4)):
        start, column, value = sparse(rng, rows, inner, dtype)
        b = rng.standard_normal((inner, columns)).astype(dtype)
        found, expected = both(lambda s=start, c=column, v=value, b=b: _kernels.sparse_product(s, c, v, b))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=(1e-13 if dtype == np.float64 else 1e-5))


def test_the_same_bits_on_every_instruction_set(dtype, rng):
    if not {"avx2", "avx512"} <= set(_kernels.simd_available()):
        pytest.skip("needs a processor with AVX-512")
    a, b = rng.standard_normal((5, 77)).astype(dtype), rng.standard_normal((77, 30)).astype(dtype)
    matrix, dense = sparse(rng, 70, 30, dtype), rng.standard_normal((30, 201)).astype(dtype)
    networks = [above(rng, dtype, loss, name, (9, 70, 40, 4)) for loss in LOSSES for name in ("tanh", "relu")]
    entries, found, before = np.arange(0, 150, 2), [], _kernels.get_simd()
    try:
        for name in ("avx2", "avx512"):
            _kernels.set_simd(name)
            products = np.empty(len(entries), dtype)
            _kernels.selected_products(a, b, entries, products)
            found.append([products, _kernels.sparse_product(*matrix, dense)])
            for network in networks:
                for step in (1e-12, 1e-4):
                    level, bend = np.empty((2, 9, ROWS), dtype)
                    doubtful, state = np.zeros((9, ROWS), bool), np.zeros(9, np.uint8)
                    own = {"level": level, "bend": bend, "doubtful": doubtful, "state": state}
                    _kernels.difference_curves(network, np.full(ROWS, step, dtype), tolerance=1e-6, **own)
                    found[-1] += [level, bend, doubtful, state]
    finally:
        _kernels.set_simd(before)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


# ---- in reference mode ----


def test_strategies_run_on_the_references(rng, monkeypatch):
    x, t = rng.standard_normal((9, 40)), rng.integers(0, 3, 9)
    model = nn.Sequential(
        nn.Linear(40, 5, rng=0, dtype=np.float64), nn.Tanh(), nn.Linear(5, 3, rng=1, dtype=np.float64)
    )
    called = []
    for name in ("difference_gradient", "difference_curves"):
        run = getattr(reference, name)
        monkeypatch.setattr(reference, name, lambda *a, name=name, run=run: (called.append(name), run(*a)))
    for options in ({}, {"interpolate": False}):

        def take(options=options):
            nn.CentralDifference(**options)(model, nn.CrossEntropyLoss(), x, t)
            return [p.grad.copy() for p in model.parameters()]

        for found, expected in zip(*both(take), strict=True):
            assert_close(found, expected, 1e-8)
    assert set(called) == {"difference_gradient", "difference_curves"}
