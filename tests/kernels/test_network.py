"""A whole network in one call, against its reference in NumPy and against the layers one by one."""

import itertools
import threading

import numpy as np
import pytest
from harness import assert_close, tolerance

from nnframe import kernels
from nnframe.kernels import _kernels

NAMES = tuple(_kernels.activation_names())
TILED = [(4, 32, 16, 4), (4, 16, 3), (33, 9, 17, 5), (64, 32, 10), (1, 1, 2), (20, 40, 33)]
WIDE = [(200, 100, 40), (150, 120, 3)]  # more weights than are taken by tiles
LABELS = ("indices", "soft", "weights and smoothing", "ignored", "squared error", "sum")


class Made:
    """A network with its arrays, an activation between its layers, every second layer without a bias."""

    def __init__(self, rng, dtype, widths, name, rows, labels="indices"):
        self.stages, self.values = [], []
        for i, (below, above) in enumerate(itertools.pairwise(widths)):
            self.stages.append((above, i % 2 == 0))
            self.values.append((rng.standard_normal((above, below)) / np.sqrt(below)).astype(dtype))
            if i % 2 == 0:
                self.values.append(rng.standard_normal(above).astype(dtype))
            if i < len(widths) - 2:
                self.stages.append((name, 0.3))
        self.network = _kernels.Network(widths[0], self.stages, dtype)
        self.x = rng.standard_normal((rows, widths[0])).astype(dtype)
        self.loss = ("squared_error" if labels == "squared error" else "cross_entropy",)
        self.t, self.options = self.labels(rng, labels, rows, widths[-1])

    def labels(self, rng, kind, rows, classes):
        t = rng.integers(0, classes, rows)
        if kind == "soft":
            return rng.dirichlet(np.ones(classes), rows), {}
        if kind == "weights and smoothing":
            return t, {"weight": rng.uniform(0, 2, classes), "label_smoothing": 0.1}
        if kind == "ignored":
            t[1::3] = -1
            return t, {"ignore_index": -1}
        if kind == "squared error":
            return rng.standard_normal((rows, classes)), {}
        return t, {"reduction": "sum"} if kind == "sum" else {}

    def gradient(self, values=None, gradients=None, **options):
        """Return the loss, the output and all gradients, as arrays."""
        values = self.values if values is None else values
        gradients = [np.full_like(v, 7) for v in values] if gradients is None else gradients
        value, y, _ = self.network.gradient(self.x, self.t, values, gradients, *self.loss, **self.options, **options)
        return [np.array(value), y, *gradients]


def by_reference(run):
    before = _kernels.get_simd()
    _kernels.set_simd("reference")
    try:
        return run()
    finally:
        _kernels.set_simd(before)


def compare(made, bound):
    found, expected = made.gradient(), by_reference(made.gradient)
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert_close(one, other, bound, f"{made.stages}, {len(made.x)} rows, array {i}")
    np.testing.assert_array_equal(
        made.network.forward(made.x, made.values),
        made.network.forward(np.asfortranarray(made.x), [np.asfortranarray(v) for v in made.values]),
    )
    assert_close(made.network.forward(made.x, made.values), expected[1], bound, "forward")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("widths", TILED + WIDE)
def test_against_the_reference(simd, dtype, rng, widths, name):
    for rows in (1, 17, 65):
        compare(Made(rng, dtype, widths, name, rows), 10 * tolerance(dtype))


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 31, 32, 33, 63, 64, 100, 127, 128, 129, 400, 1500])
def test_any_number_of_rows(simd, dtype, rng, rows):
    for widths in ((4, 32, 16, 4), (150, 120, 3)):
        compare(Made(rng, dtype, widths, "tanh", rows), 10 * tolerance(dtype))


@pytest.mark.parametrize("labels", LABELS)
def test_losses(simd, dtype, rng, labels):
    for widths, rows in itertools.product(((5, 9, 4), (7, 6, 40), (150, 120, 3)), (1, 3, 70, 200)):
        compare(Made(rng, dtype, widths, "sigmoid", rows, labels), 10 * tolerance(dtype))


def test_activations_first_and_last_and_one_after_another(simd, dtype, rng):
    for stages in (
        [("tanh", 0.0), (5, True), ("relu", 0.0)],
        [(5, True), ("tanh", 0.0), ("sigmoid", 0.0), (5, False)],
        [("tanh", 0.0), ("tanh", 0.0), (5, False), ("elu", 1.0), ("silu", 0.0)],
    ):
        made = Made(rng, dtype, (8, 5), "tanh", 70)
        made.stages, made.network = stages, _kernels.Network(8, stages, dtype)
        made.values, width = [], 8
        for first, second in stages:
            if not isinstance(first, str):
                made.values += [rng.standard_normal((first, width)).astype(dtype)]
                made.values += [rng.standard_normal(first).astype(dtype)] if second else []
                width = first
        compare(made, 10 * tolerance(dtype))


def test_the_forward_pass_has_the_bits_of_the_layers(simd, dtype, rng):
    for widths in ((4, 32, 16, 4), (40, 30, 9), (150, 120, 3)):
        made = Made(rng, dtype, widths, "tanh", 200)
        y, values = made.x, iter(made.values)
        for first, second in made.stages:
            if isinstance(first, str):
                y = kernels.activation(first, y, alpha=second)
            else:
                y = kernels.linear(y, next(values), next(values) if second else None)
        np.testing.assert_array_equal(made.network.forward(made.x, made.values), y)


@pytest.mark.parametrize("widths", [(4, 32, 16, 4), (150, 120, 3)])
def test_the_same_bits_with_any_number_of_threads(simd, dtype, threads, widths):
    found = []
    for n in (1, 2, 3, 8):
        threads(n)
        found.append(Made(np.random.default_rng(1), dtype, widths, "tanh", 3000).gradient())
    for more in found[1:]:
        for one, other in zip(found[0], more, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.skipif("avx512" not in _kernels.simd_available(), reason="needs AVX-512")
@pytest.mark.parametrize("name", NAMES)
def test_avx2_gives_the_bits_of_avx512(dtype, name):
    before, found = _kernels.get_simd(), []
    for isa in ("avx2", "avx512"):
        _kernels.set_simd(isa)
        widths = (widths for widths in TILED + WIDE if widths[-1] <= 32)  # the softmax of a longer row sums in lanes
        made = (Made(np.random.default_rng(1), dtype, w, name, n) for w in widths for n in (1, 50, 700))
        found.append([array for one in made for array in one.gradient()])
    _kernels.set_simd(before)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_many_rows_keep_their_digits(simd, rng):
    made = Made(rng, np.float32, (4, 32, 16, 4), "tanh", 30_000)
    wide = Made(rng, np.float64, (4, 32, 16, 4), "tanh", 30_000)
    wide.x, wide.t, wide.values = made.x.astype(np.float64), made.t, [v.astype(np.float64) for v in made.values]
    for one, other in zip(made.gradient(), wide.gradient(), strict=True):
        assert_close(one, other, 2e-5)


def test_what_is_not_finite_stays_in_its_row(simd, dtype, rng):
    for rows in (3, 70, 140):  # the last tile is filled up
        made = Made(rng, dtype, (3, 6, 4), "tanh", rows)
        made.values[1][2] = np.inf  # tanh makes 1 of it
        found = made.gradient()
        for one, other in zip(found, by_reference(made.gradient), strict=True):
            assert np.isfinite(one).all()
            assert_close(one, other, 10 * tolerance(dtype))
    made = Made(rng, dtype, (3, 6, 4), "relu", 40)
    made.x[7, 1] = np.nan
    value, y, *gradients = made.gradient()
    assert np.isnan(value)
    assert np.isnan(y[7]).all()
    assert np.isfinite(np.delete(y, 7, axis=0)).all()
    assert all(np.isnan(g).any() for g in gradients)


def test_some_gradients(simd, dtype, rng):
    for widths in ((4, 9, 6, 4), (150, 120, 3)):
        made = Made(rng, dtype, widths, "tanh", 90)
        everything = made.gradient()[2:]
        count = len(made.values)
        for wanted in itertools.product((False, True), repeat=count):
            some = made.gradient(
                gradients=[np.full_like(v, 7) if w else None for v, w in zip(made.values, wanted, strict=True)]
            )
            assert some[0] == made.gradient()[0]
            for one, expected in zip(some[2:], everything, strict=True):
                assert one is None or np.array_equal(one, expected)


def test_no_rows(simd, dtype, rng):
    for widths in ((4, 9, 4), (150, 120, 3)):
        made = Made(rng, dtype, widths, "tanh", 0)
        value, y, *gradients = made.gradient()
        assert np.isnan(value)
        assert y.shape == (0, widths[-1])
        assert not any(g.any() for g in gradients)
        assert made.network.forward(made.x, made.values).shape == (0, widths[-1])


def test_rows_that_are_all_ignored(simd, dtype, rng):
    made = Made(rng, dtype, (4, 9, 4), "tanh", 30, "ignored")
    made.t[:] = -1
    value, _, *gradients = made.gradient()
    assert np.isnan(value)
    assert not any(g.any() for g in gradients)


def test_outputs_that_are_known_are_not_computed_again(simd, dtype, rng):
    for widths in ((4, 9, 4), (150, 120, 3)):
        made = Made(rng, dtype, widths, "relu", 30)
        y, outputs, values = made.x, [], iter(made.values)
        for first, second in made.stages:
            if isinstance(first, str):
                y = kernels.activation(first, y, alpha=second)
            else:
                y = kernels.linear(y, next(values), next(values) if second else None)
            outputs.append(y)
        expected, found = made.gradient(), made.gradient(outputs=outputs)
        assert found[1] is None
        for i in (0, *range(2, len(expected))):
            np.testing.assert_array_equal(found[i], expected[i])


def test_arrays_of_any_layout(simd, dtype, rng):
    for widths in ((4, 9, 6), (150, 120, 3)):
        made = Made(rng, dtype, widths, "tanh", 50)
        expected = made.gradient()
        values = [np.asfortranarray(v) if v.ndim == 2 else np.repeat(v, 2)[::2] for v in made.values]
        gradients = [np.full_like(v, 7) for v in values]
        gradients[1] = np.full((len(values[1]), 3), 7, dtype)[:, 1]
        made.x = np.repeat(made.x, 2, axis=1)[:, ::2]
        found = made.gradient(values, gradients)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_several_threads_at_once(threads):
    threads(2)
    made = Made(np.random.default_rng(1), np.float32, (4, 32, 16, 4), "tanh", 2000)
    expected, wrong = made.gradient(), []

    def work():
        for _ in range(20):
            if not all(map(np.array_equal, made.gradient(), expected)):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


WRONG = [
    ({"x": np.zeros((6, 5))}, ValueError, r"x: expected shape \(N, 4\), got \(6, 5\)"),
    ({"x": np.zeros((6, 4), np.float32)}, TypeError, "x: expected float64"),
    ({"x": np.zeros(4)}, ValueError, "x: expected shape"),
    ({"t": np.zeros(5, int)}, ValueError, "labels: expected 6 class indices"),
    ({"t": np.full(6, 3)}, ValueError, r"labels: expected class indices in \[0, 3\), got 3 at position 0"),
    ({"t": np.array([0, 1, 2, 0, -1, 0])}, ValueError, r"labels: expected class indices in \[0, 3\), got -1 at pos"),
    ({"t": np.zeros(6)}, TypeError, "labels: expected integers"),
    ({"values": [np.zeros((5, 4)), np.zeros(5)]}, ValueError, "values: expected 3 arrays, got 2"),
    (
        {"values": [np.zeros((5, 4)), np.zeros(5), np.zeros((5, 3))]},
        ValueError,
        r"values\[2\]: expected shape \(3, 5\)",
    ),
    ({"values": [np.zeros((5, 4)), np.zeros(4), np.zeros((3, 5))]}, ValueError, r"values\[1\]: expected shape \(5,\)"),
    ({"gradients": [np.zeros((5, 4)), np.zeros(5)]}, ValueError, "gradients: expected 3 arrays, got 2"),
    ({"gradients": [np.zeros((5, 4)), np.zeros(5), [0.0]]}, TypeError, r"gradients\[2\]: expected an array, got list"),
    (
        {"gradients": [np.zeros((5, 4)), np.zeros(5), np.zeros((3, 5), np.float32)]},
        ValueError,
        r"gradients\[2\]: expected float64 of shape \(3, 5\), got float32",
    ),
    ({"loss": "hinge"}, ValueError, "loss: expected one of cross_entropy, squared_error, linear, got 'hinge'"),
    ({"reduction": "none"}, ValueError, "reduction: expected 'mean' or 'sum', got 'none'"),
    ({"weight": [1.0, 2.0]}, ValueError, "weight: expected 3 numbers"),
    ({"label_smoothing": 2.0}, ValueError, "label_smoothing: expected a number"),
    ({"outputs": [np.zeros((6, 5))]}, ValueError, "outputs: expected 3 arrays, got 1"),
    ({"outputs": [np.zeros((6, 5)), np.zeros((6, 5)), np.zeros((6, 4))]}, ValueError, r"outputs\[2\]: expected shape"),
    ({"loss": "squared_error"}, ValueError, r"labels: expected the shape of the output \(6, 3\), got \(6,\)"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
def test_what_does_not_fit_is_refused_before_anything_is_written(wrong, error, message):
    network = _kernels.Network(4, [(5, True), ("tanh", 0.0), (3, False)], np.float64)
    given = {
        "x": np.zeros((6, 4)),
        "t": np.zeros(6, int),
        "values": [np.zeros((5, 4)), np.zeros(5), np.zeros((3, 5))],
        "gradients": [np.full((5, 4), 7.0), np.full(5, 7.0), np.full((3, 5), 7.0)],
        "loss": "cross_entropy",
    }
    given = given | wrong
    own = [given.pop(name) for name in ("x", "t", "values", "gradients", "loss")]
    with pytest.raises(error, match=message):
        network.gradient(*own, **given)
    if "gradients" not in wrong:
        assert all((g == 7).all() for g in own[3])


def test_a_read_only_gradient_is_refused():
    network = _kernels.Network(2, [(3, True)], np.float64)
    gradients = [np.full((3, 2), 7.0), np.zeros(3)]
    gradients[1].setflags(write=False)
    with pytest.raises(ValueError, match=r"gradients\[1\]: expected an array that can be written, got a read-only one"):
        network.gradient(np.zeros((2, 2)), [0, 1], [np.zeros((3, 2)), np.zeros(3)], gradients, "cross_entropy")
    assert (gradients[0] == 7).all()


def test_networks_that_are_none():
    for arguments, message in (
        ((0, [(3, True)], np.float64), "inputs, stages: expected at least one of each"),
        ((4, [], np.float64), "inputs, stages: expected at least one of each"),
        ((4, [(0, True)], np.float64), r"stages\[0\]: expected at least one output, got 0"),
        ((4, [("swish", 0.0)], np.float64), "activation: expected one of"),
        ((4, [(3, "yes")], np.float64), r"stages\[0\], has_bias: expected True or False"),
        ((4, [(3, True)], np.int64), "dtype: expected float32 or float64"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            _kernels.Network(*arguments)
