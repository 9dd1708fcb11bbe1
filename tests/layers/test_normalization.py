"""Batch and layer normalization: their definitions, PyTorch, and every pass in both modes."""

import numpy as np
import pytest
from harness import assert_close, check_layer, tolerance

import nnframe as nn
from nnframe.core.run import Run

MODES = [True, False]


def filled(layer, rng):
    """The layer with numbers of no particular kind in its parameters and buffers."""
    for parameter in layer.parameters():
        parameter.value[...] = rng.uniform(0.5, 1.5, parameter.value.shape) * rng.choice([-1, 1], parameter.value.shape)
    for name, buffer in layer.named_buffers():
        if name.startswith("running"):
            buffer.value[...] = rng.uniform(0.5, 2, buffer.value.shape)
    return layer


def batch_norm(layer, x, training):
    """BatchNorm1d written as the formula of the paper, feature by feature."""
    y = np.zeros(x.shape)
    for c in range(x.shape[1]):
        values = x[:, c].astype(np.float64)
        if training or layer.running_mean is None:
            mean = sum(values.reshape(-1).tolist()) / values.size
            variance = sum(((values - mean) ** 2).reshape(-1).tolist()) / values.size
        else:
            mean, variance = float(layer.running_mean.value[c]), float(layer.running_var.value[c])
        y[:, c] = (values - mean) / (variance + layer.eps) ** 0.5
        if layer.affine:
            y[:, c] = y[:, c] * layer.weight.value[c] + layer.bias.value[c]
    return y


def layer_norm(layer, x):
    axes = tuple(range(x.ndim - len(layer.normalized_shape), x.ndim))
    x = x.astype(np.float64)
    variance = ((x - x.mean(axis=axes, keepdims=True)) ** 2).mean(axis=axes, keepdims=True)
    y = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(variance + layer.eps)
    y = y if layer.weight is None else y * layer.weight.value
    return y if layer.bias is None else y + layer.bias.value


BATCH = [{}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.3, "momentum": None}]
ROWS = [{}, {"elementwise_affine": False}, {"bias": False}, {"eps": 0.3}]


# ---- every pass of a layer by itself ----


@pytest.mark.parametrize("training", MODES)
@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 3)])
@pytest.mark.parametrize("options", BATCH, ids=str)
def test_batch_norm(dtype, rng, options, shape, training):
    layer = filled(nn.BatchNorm1d(4, **options, dtype=dtype), rng)
    x = 2 * rng.standard_normal(shape) + 1
    with Run(training):
        check_layer(layer, x, rng)
        given = x.astype(dtype)
        assert_close(layer.forward(given), batch_norm(layer, given, training), tolerance(dtype), "the formula")


@pytest.mark.parametrize("options", ROWS, ids=str)
@pytest.mark.parametrize(
    ("normalized", "shape"), [(5, (7, 5)), (5, (7, 3, 5)), ((3, 5), (7, 3, 5)), ([5], (7, 2, 3, 5))]
)
def test_layer_norm(dtype, rng, options, normalized, shape):
    layer = filled(nn.LayerNorm(normalized, **options, dtype=dtype), rng)
    x = 2 * rng.standard_normal(shape) + 1
    check_layer(layer, x, rng)
    given = x.astype(dtype)
    y = layer.forward(given)
    assert_close(y, layer_norm(layer, given), tolerance(dtype), "the formula")
    with Run(True):
        np.testing.assert_array_equal(layer.forward(given), y, err_msg="training mode")


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.LayerNorm])
def test_perturb_moves_a_parameter(dtype, rng, make):
    for shape in ((7, 4), (7, 4, 4)):
        layer = filled(make(4, dtype=dtype), rng)
        x = rng.standard_normal(shape).astype(dtype)
        with Run(True):
            y, exact = layer.forward(x), layer.astype(np.float64)
            base = exact.forward(x.astype(np.float64))
            for parameter, twin in zip(layer.parameters(), exact.parameters(), strict=True):
                found = layer.perturb(parameter, np.array([3, 0, 2]), 0.01, x, y)
                for i, index in enumerate([3, 0, 2]):
                    twin.value[index] += 0.01
                    assert_close(
                        found[i], exact.forward(x.astype(np.float64)) - base, 1e-6 if dtype == np.float32 else 1e-12
                    )
                    twin.value[index] -= 0.01


@pytest.mark.parametrize("training", MODES)
@pytest.mark.parametrize(
    "make", [lambda: nn.BatchNorm1d(4, dtype=np.float64), lambda: nn.LayerNorm(4, dtype=np.float64)]
)
def test_saved_values_give_the_same_backward(rng, make, training):
    layer, x, dy = filled(make(), rng), rng.standard_normal((7, 4)), rng.standard_normal((7, 4))
    with Run(training):
        y, saved = layer.forward_saving(x)
        np.testing.assert_array_equal(y, layer.forward(x))
        with_saved = layer.backward(x, y, dy, saved)
        gradients = [parameter.grad.copy() for parameter in layer.parameters()]
        without = layer.backward(x, y, dy)
    np.testing.assert_array_equal(with_saved, without)
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        np.testing.assert_array_equal(parameter.grad, 2 * gradient)


# ---- digits ----


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.LayerNorm])
def test_small_changes_keep_their_digits(rng, make):
    # against 60 digits: subtracting two outputs would leave none at 1e-9
    mp = pytest.importorskip("mpmath").mp
    x = (3 * rng.standard_normal((5, 4)) + 100).astype(np.float32)
    dx = (1e-9 * rng.standard_normal((2, 5, 4))).astype(np.float32)
    layer = make(4)
    with mp.workdps(60), Run(True):
        found = layer.difference(x, layer.forward(x), dx)

        def exact(values):
            rows = values if make is nn.LayerNorm else values.T
            y = []
            for row in rows:
                mean = mp.fsum(row) / len(row)
                a = mp.sqrt(mp.fsum((v - mean) ** 2 for v in row) / len(row) + mp.mpf(layer.eps))
                y.append([(v - mean) / a for v in row])
            return np.array(y) if make is nn.LayerNorm else np.array(y).T

        wide = np.vectorize(mp.mpf, otypes=[object])
        base = exact(wide(x.astype(float)))
        for one, d in zip(found, dx, strict=True):
            expected = (exact(wide(x.astype(float)) + wide(d.astype(float))) - base).astype(np.float64)
            assert_close(one, expected, 5e-6)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.LayerNorm])
def test_changes_of_any_size(dtype, rng, make, size):
    layer = filled(make(4, dtype=dtype), rng)
    x = rng.standard_normal((6, 4)).astype(dtype)
    dx = (size * rng.standard_normal((3, 6, 4))).astype(dtype)
    with Run(True):
        change, exact, wide = layer.difference(x, layer.forward(x), dx), layer.astype(np.float64), x.astype(np.float64)
        for one, d in zip(change, dx.astype(np.float64), strict=True):
            assert_close(one, exact.forward(wide + d) - exact.forward(wide), max(tolerance(dtype), 1e-15 / size))


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.LayerNorm])
def test_a_change_that_leaves_little(dtype, rng, make):
    # what is left is a thousandth of x, and has lost as much of its digits
    layer = make(4, eps=1e-12, dtype=dtype)
    x = rng.standard_normal((6, 4)).astype(dtype)
    dx = x / 1024 - x
    with Run(True):
        y = layer.forward(x)
        change, exact, wide = layer.difference(x, y, dx), layer.astype(np.float64), x.astype(np.float64)
        expected = exact.forward(wide + dx) - exact.forward(wide)
    assert np.abs(change - expected).max() <= 16 * 1024 * np.finfo(dtype).eps


@pytest.mark.parametrize(("mean", "width"), [(40, 5), (4000, 1)])
def test_many_rows_far_from_0_keep_their_digits(rng, mean, width):
    x = (rng.standard_normal((30_001, 3)) * width + mean).astype(np.float32)
    dy = rng.uniform(0, 1, x.shape).astype(np.float32)
    layer, exact = nn.BatchNorm1d(3), nn.BatchNorm1d(3, dtype=np.float64)
    wide, wide_dy = x.astype(np.float64), dy.astype(np.float64)
    with Run(True):
        y, expected = layer.forward(x), exact.forward(wide)
        assert_close(y, expected, 2e-6, "y")
        assert_close(layer.backward(x, y, dy), exact.backward(wide, expected, wide_dy), 5e-6, "dx")
    assert_close(layer.bias.grad, exact.bias.grad, 1e-6, "bias")
    assert np.abs(layer.weight.grad - exact.weight.grad).max() <= 2e-6 * np.abs(wide_dy * expected).sum(axis=0).max()
    layer.observe(x, x)
    exact.observe(wide, wide)
    assert_close(layer.running_mean.value, exact.running_mean.value, 1e-6, "running mean")
    assert_close(layer.running_var.value, exact.running_var.value, 5e-6, "running variance")
    rows = nn.LayerNorm(3000)
    given = x[:3000].T.copy()
    assert_close(rows.forward(given), rows.astype(np.float64).forward(given.astype(np.float64)), 2e-6, "layer norm")


# ---- running statistics ----


def test_running_statistics_are_those_of_the_paper():
    layer = nn.BatchNorm1d(2, momentum=0.25, dtype=np.float64)
    first, second = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]]), np.array([[8.0, 0.0], [10.0, 4.0]])
    layer.observe(first, first)
    np.testing.assert_allclose(layer.running_mean.value, [0.25 * 2, 0.25 * 2])
    np.testing.assert_allclose(layer.running_var.value, [0.75 + 0.25 * 4, 0.75 + 0.25 * 3])  # divided by N - 1
    layer.observe(second, second)
    np.testing.assert_allclose(layer.running_mean.value, [0.75 * 0.5 + 0.25 * 9, 0.75 * 0.5 + 0.25 * 2])
    np.testing.assert_allclose(layer.running_var.value, [0.75 * 1.75 + 0.25 * 2, 0.75 * 1.5 + 0.25 * 8])
    assert layer.num_batches_tracked.value == 2
    plain = nn.BatchNorm1d(2, momentum=None, dtype=np.float64)
    for x in (first, second, first):
        plain.observe(x, x)
    np.testing.assert_allclose(plain.running_mean.value, [(2 + 9 + 2) / 3, 2])
    np.testing.assert_allclose(plain.running_var.value, [(4 + 2 + 4) / 3, (3 + 8 + 3) / 3])


def test_nothing_but_observe_moves_the_statistics(rng):
    model = nn.Sequential(nn.Linear(5, 4, rng=1), nn.BatchNorm1d(4), nn.Linear(4, 3, rng=2))
    x, t = rng.standard_normal((7, 5)), rng.integers(0, 3, 7)
    before = model.state_dict()
    model(x)
    model(x, training=True)
    for strategy in (nn.CentralDifference(), nn.Backprop(), nn.NodePerturbation(), nn.SPSA(rng=1)):
        measured = strategy(model, nn.CrossEntropyLoss(), x, t)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    measured.forward_pass.observe()
    hidden = model[0](x)
    np.testing.assert_allclose(model[1].running_mean.value, 0.1 * hidden.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(model[1].running_var.value, 0.9 + 0.1 * hidden.var(axis=0, ddof=1), rtol=1e-5)
    assert model[1].num_batches_tracked.value == 1
    assert [name for name, _ in model.named_parameters()] == [
        "0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"
    ]  # fmt: skip


def test_what_a_layer_couples(rng):
    layer, x = nn.BatchNorm1d(4), rng.standard_normal((7, 4))
    assert layer.couples == "entries"
    with Run(True):
        assert layer.couples == "batch"
        assert nn.LayerNorm(4).couples == "rows"
    assert nn.BatchNorm1d(4, track_running_stats=False).couples == "batch"
    np.testing.assert_allclose(layer(x)[:2], layer(x[:2]))
    assert np.abs(layer(x, training=True)[:2] - layer(x[:2], training=True)).max() > 0.1


# ---- PyTorch ----


@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 3)])
@pytest.mark.parametrize("options", BATCH, ids=str)
def test_batch_norm_is_pytorchs(rng, options, shape):
    torch = pytest.importorskip("torch")
    layer = filled(nn.BatchNorm1d(4, **options, dtype=np.float64), rng)
    peer = torch.nn.BatchNorm1d(4, **options, dtype=torch.float64)
    assert list(layer.state_dict()) == list(peer.state_dict())
    peer.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    for training in (True, True, False, True, False):
        peer.train(training)
        x = 3 * rng.standard_normal(shape) + 2
        compare_with(torch, layer, peer, x, rng, training)
        if training:
            layer.observe(x, x)
        for name, value in peer.state_dict().items():
            np.testing.assert_allclose(layer.state_dict()[name], value.numpy(), rtol=1e-12, err_msg=name)
            assert layer.state_dict()[name].dtype == value.numpy().dtype


@pytest.mark.parametrize("options", ROWS, ids=str)
@pytest.mark.parametrize(("normalized", "shape"), [(5, (7, 5)), ((3, 5), (7, 3, 5))])
def test_layer_norm_is_pytorchs(rng, options, normalized, shape):
    torch = pytest.importorskip("torch")
    layer = filled(nn.LayerNorm(normalized, **options, dtype=np.float64), rng)
    peer = torch.nn.LayerNorm(normalized, **options, dtype=torch.float64)
    assert (layer.normalized_shape, layer.eps) == (tuple(peer.normalized_shape), peer.eps)
    peer.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    compare_with(torch, layer, peer, 3 * rng.standard_normal(shape) + 2, rng, True)


def compare_with(torch, layer, peer, x, rng, training):
    dx, dy = 0.3 * rng.standard_normal((2, *x.shape)), rng.standard_normal(x.shape)
    tensor = torch.tensor(x, requires_grad=True)
    expected = peer(tensor)
    peer.zero_grad()
    expected.backward(torch.from_numpy(dy))
    for parameter in layer.parameters():
        parameter.grad[...] = 0
    kept = [buffer.clone() for buffer in peer.buffers()]
    with Run(training), torch.no_grad():
        y, saved = layer.forward_saving(x)
        assert_close(y, expected.detach().numpy(), 1e-10, "forward")
        assert_close(layer.backward(x, y, dy, saved), tensor.grad.numpy(), 1e-10, "dx")
        for (name, mine), theirs in zip(layer.named_parameters(), peer.parameters(), strict=True):
            assert_close(mine.grad, theirs.grad.numpy(), 1e-10, name)
        changes = [(peer(tensor + torch.from_numpy(d)) - expected).numpy() for d in dx]
        assert_close(layer.difference(x, y, dx), np.stack(changes), 1e-10, "difference")
    for buffer, value in zip(peer.buffers(), kept, strict=True):
        buffer.copy_(value)


# ---- refused ----


def test_a_single_row_is_refused_in_training(rng):
    model = nn.Sequential(nn.Linear(5, 4, rng=1), nn.BatchNorm1d(4), nn.Linear(4, 3, rng=2))
    x, t = rng.standard_normal((1, 5)), np.array([1])
    assert model(x).shape == (1, 3)
    words = r"x: expected more than 1 value for each feature in training, .* got shape \(1, 4\); choose a batch_size"
    for strategy in (nn.CentralDifference(), nn.Backprop(), nn.NodePerturbation()):
        with pytest.raises(ValueError, match=words) as caught:
            strategy(model, nn.CrossEntropyLoss(), x, t)
        assert any("layer 1: BatchNorm1d(4)" in note for note in caught.value.__notes__)
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(4, track_running_stats=False)(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(4)(np.zeros((0, 4)), training=True)
    assert nn.BatchNorm1d(4)(np.zeros((1, 4, 2)), training=True).shape == (1, 4, 2)
    assert nn.BatchNorm1d(4)(np.zeros((0, 4))).shape == (0, 4)
    assert nn.LayerNorm(4)(np.zeros((0, 4))).shape == (0, 4)


def test_arguments_are_refused_by_name():
    for make, words in (
        (lambda: nn.BatchNorm1d(0), "num_features: expected at least 1, got 0"),
        (lambda: nn.BatchNorm1d(2.0), "num_features: expected a whole number"),
        (lambda: nn.BatchNorm1d(2, eps=-1), "eps: expected a finite number >= 0, got -1"),
        (lambda: nn.BatchNorm1d(2, momentum=1.5), r"momentum: expected a number in \[0, 1\] or None, got 1.5"),
        (lambda: nn.BatchNorm1d(2, momentum="no"), "momentum: expected a number, got 'no'"),
        (lambda: nn.BatchNorm1d(2, affine=1), "affine: expected True or False, got 1"),
        (lambda: nn.BatchNorm1d(2, track_running_stats=None), "track_running_stats: expected True or False"),
        (lambda: nn.BatchNorm1d(2, dtype=np.float16), "dtype: expected float32 or float64"),
        (lambda: nn.LayerNorm(()), "normalized_shape: expected at least one axis"),
        (lambda: nn.LayerNorm((2, 0)), "normalized_shape: expected at least 1, got 0"),
        (lambda: nn.LayerNorm(2.5), "normalized_shape: expected a whole number, got 2.5"),
        (lambda: nn.LayerNorm(2, elementwise_affine=1), "elementwise_affine: expected True or False"),
        (lambda: nn.LayerNorm(2, bias=1), "bias: expected True or False"),
        (lambda: nn.BatchNorm1d(3)(np.zeros((4, 2))), r"x: expected shape \(N, 3\) or \(N, 3, L\), got \(4, 2\)"),
        (lambda: nn.BatchNorm1d(3)(np.zeros(3)), r"x: expected shape \(N, 3\)"),
        (lambda: nn.BatchNorm1d(3)(np.zeros((2, 3, 4, 5))), r"x: expected shape \(N, 3\)"),
        (lambda: nn.LayerNorm((2, 3))(np.zeros((2, 3))), r"x: expected shape \(N, ..., 2, 3\), got \(2, 3\)"),
        (lambda: nn.LayerNorm(3)(np.zeros((4, 2))), r"x: expected shape \(N, ..., 3\), got \(4, 2\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            make()


def test_repr_is_how_a_layer_is_made():
    for words in (
        "BatchNorm1d(4)",
        "BatchNorm1d(4, eps=0.001, momentum=None, affine=False, track_running_stats=False)",
        "LayerNorm(4)",
        "LayerNorm((4, 2), eps=0.001, bias=False)",
        "LayerNorm(4, elementwise_affine=False)",
    ):
        assert repr(eval(f"nn.{words}")) == words
