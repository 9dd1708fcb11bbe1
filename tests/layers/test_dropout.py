"""Dropout: a mask for each step, the same one wherever the step looks."""

import numpy as np
import pytest
from harness import check_layer

import nnframe as nn
from nnframe.core.local import difference_of
from nnframe.core.run import Run, run_layer


def steps_on(layer, count=1):
    for _ in range(count):
        layer.random.advance()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0, 0.3, 1])
@pytest.mark.parametrize("shape", [(7, 4), (7, 3, 2)])
def test_every_pass(dtype, rng, shape, p, training):
    layer = nn.Sequential(nn.Linear(shape[-1], shape[-1], dtype=dtype, rng=1), nn.Dropout(p, rng=5))
    with Run(training):
        check_layer(layer, rng.standard_normal(shape), rng)


def test_what_is_kept_is_larger_by_as_much_as_is_left_out(dtype):
    x = np.arange(1, 200_001, dtype=dtype).reshape(400, 500)
    layer = nn.Dropout(0.3, rng=2)
    y = layer(x, training=True)
    kept = y != 0
    np.testing.assert_array_equal(y[kept], x[kept] * dtype(1 / 0.7))
    assert y.dtype == dtype
    assert kept.mean() == pytest.approx(0.7, abs=0.005)
    # no row and no column stands out, and neighbours are independent
    assert 0.55 < kept.mean(axis=0).min() < kept.mean(axis=0).max() < 0.85
    assert 0.55 < kept.mean(axis=1).min() < kept.mean(axis=1).max() < 0.85
    for one, other in ((kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1])):
        assert abs(np.mean(one & other) - 0.49) < 0.01
    np.testing.assert_array_equal(nn.Dropout(0)(x, training=True), x)
    assert not nn.Dropout(1)(x, training=True).any()


def test_evaluation_mode_hands_on_a_copy(dtype, rng):
    x = rng.standard_normal((7, 4)).astype(dtype)
    y = nn.Dropout(0.9)(x)
    np.testing.assert_array_equal(y, x)
    y += 1
    assert not np.array_equal(y, x)


def test_a_step_has_a_mask_of_its_own(rng):
    model = nn.Sequential(nn.Linear(6, 8, rng=1), nn.Dropout(0.5, rng=3), nn.Linear(8, 3, rng=2))
    x, t = rng.standard_normal((7, 6)), rng.integers(0, 3, 7)
    first = model(x, training=True)
    np.testing.assert_array_equal(model(x, training=True), first)
    for strategy in (nn.CentralDifference(), nn.Backprop(), nn.NodePerturbation(), nn.SPSA(rng=1)):
        measured = strategy(model, nn.CrossEntropyLoss(), x, t)
        np.testing.assert_array_equal(measured.output, first)
    measured.forward_pass.observe()
    second = model(x, training=True)
    assert not np.array_equal(second, first)
    again = nn.Sequential(nn.Linear(6, 8, rng=1), nn.Dropout(0.5, rng=3), nn.Linear(8, 3, rng=2))
    np.testing.assert_array_equal(again(x, training=True), first)
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(again(x, training=True), second)


def test_parts_and_stacks_of_a_batch_see_its_mask(dtype, rng):
    layer = nn.Dropout(0.5, rng=3)
    x = rng.standard_normal((7, 4)).astype(dtype)
    rows = np.array([5, 0, 5, 3])
    with Run(True) as run:
        link = nn.Sequential(layer)
        y = run_layer(layer, x)
        factors = y / x
        dx = rng.standard_normal((3, 7, 4)).astype(dtype)
        np.testing.assert_array_equal(layer.difference(x, y, dx), dx * factors)
        np.testing.assert_array_equal(run.evaluate(layer, x[rows], rows), y[rows])
        np.testing.assert_array_equal(run.evaluate(layer, np.concatenate([x, x]), np.tile(np.arange(7), 2))[7:], y)
        # as a strategy asks
        from nnframe.core.chain import run_forward

        link = run_forward(nn.Sequential(layer), x, run).links[0]
        part = rng.standard_normal((4, 4)).astype(dtype)
        np.testing.assert_array_equal(difference_of(link, part, rows), part * factors[rows])
        np.testing.assert_array_equal(difference_of(link, dx[:, :4], rows), dx[:, :4] * factors[rows])
        assert run.rows is None


def test_float32_and_float64_have_one_mask(rng):
    x = rng.standard_normal((500, 400))
    for p in (0.1, 0.5, 1 / 3):
        layer = nn.Dropout(p, rng=1)
        single, double = (layer(x.astype(dtype), training=True) != 0 for dtype in (np.float32, np.float64))
        np.testing.assert_array_equal(single, double)


def test_what_masks_are_drawn_from(rng):
    x = np.ones((20, 30))
    same = [nn.Dropout(rng=4)(x, training=True) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    generator = np.random.default_rng(4)
    others = [nn.Dropout(rng=generator)(x, training=True) for _ in range(2)]
    assert not np.array_equal(*others)
    np.testing.assert_array_equal(others[0], nn.Dropout(rng=np.random.default_rng(4))(x, training=True))
    assert not np.array_equal(nn.Dropout()(x, training=True), nn.Dropout()(x, training=True))
    masks = []
    layer = nn.Dropout(rng=4)
    for _ in range(50):
        masks.append(layer(x, training=True).tobytes())
        steps_on(layer)
    assert len(set(masks)) == 50


def test_pytorchs_gradient_for_the_same_mask(rng):
    torch = pytest.importorskip("torch")
    layer = nn.Dropout(0.3, rng=1)
    x, dy = rng.standard_normal((2, 7, 4))
    with Run(True):
        y, saved = layer.forward_saving(x)
        mask = torch.from_numpy((y != 0) / 0.7)
        tensor = torch.tensor(x, requires_grad=True)
        expected = tensor * mask
        expected.backward(torch.from_numpy(dy))
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-10)
        np.testing.assert_allclose(layer.backward(x, y, dy, saved), tensor.grad.numpy(), rtol=1e-10)
    torch.manual_seed(0)
    theirs = torch.nn.Dropout(0.3)(torch.ones(400, 500)).numpy()
    ours = layer(np.ones((400, 500), np.float32), training=True)
    np.testing.assert_allclose(np.unique(theirs), np.unique(ours), rtol=1e-6)


def test_couples_entries(rng):
    assert nn.Dropout().couples == "entries"
    with Run(True):
        assert nn.Dropout().couples == "entries"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Dropout(1.5), r"p: expected a probability in \[0, 1\], got 1.5"),
        (lambda: nn.Dropout(-0.1), r"p: expected a probability in \[0, 1\], got -0.1"),
        (lambda: nn.Dropout(float("nan")), r"p: expected a probability in \[0, 1\], got nan"),
        (lambda: nn.Dropout("half"), "p: expected a number, got 'half'"),
        (lambda: nn.Dropout(True), "p: expected a number, got True"),
        (lambda: nn.Dropout(rng="seed"), "rng: expected np.random.Generator, an int or None, got str"),
        (lambda: nn.Dropout(rng=-1), r"seed: expected an integer in \[0, 2\^64\), got -1"),
    ],
)
def test_arguments_are_refused_by_name(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_repr():
    assert repr(nn.Dropout(0.25)) == "Dropout(0.25)"
    assert nn.Dropout(0.25).p == 0.25
