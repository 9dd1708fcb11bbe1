"""What C takes beside the plain case: class weights, ignored rows, more axes, an author's loss; the default step."""

import numpy as np
import pytest

import nnframe as nn
from nnframe.gradients.in_c import FusedLinear
from nnframe.gradients.work import EXACT_STEP, SUBTRACTED_STEP


class Huber(nn.Loss):
    """Quadratic near 0, else linear; in labels (N, ...) like the output."""

    def rows(self, y, t):
        r = np.abs(y - t).reshape(len(y), -1)
        return np.where(r < 1, r * r / 2, r - 0.5).sum(axis=1)


class Hinge(nn.Loss):
    """Multi-class hinge loss, with kinks."""

    def rows(self, y, t):
        right = y[np.arange(len(y)), t][:, None]
        return np.maximum(0, 1 + y - right).sum(axis=1) - 1


def network(dtype, activation=nn.Tanh):
    return nn.Sequential(
        nn.Linear(21, 6, rng=0, dtype=dtype),
        activation(),
        nn.Linear(6, 7, rng=1, dtype=dtype),
        activation(),
        nn.Linear(7, 4, rng=2, dtype=dtype),
    )


def gradients(strategy, model, loss, x, t):
    strategy(model, loss, x, t)
    return [p.grad.copy() for p in model.parameters()]


def pieces_of(monkeypatch, strategy, *args):
    """What there is to do where a network is not taken in one call."""
    made = []
    work = type(strategy).work
    monkeypatch.setattr(type(strategy), "step_in_one_call", lambda self: 0.0)
    monkeypatch.setattr(type(strategy), "work", lambda *given: made.append(work(*given)) or made[-1])
    strategy(*args)
    monkeypatch.undo()
    return made[-1]


def cases(rng):
    x, t = rng.standard_normal((9, 21)), rng.integers(0, 4, 9)
    ignored = np.where(np.arange(9) % 3, t, -1)
    yield nn.CrossEntropyLoss(weight=[0.5, 1, 2, 3]), x, t
    yield nn.CrossEntropyLoss(ignore_index=-1), x, ignored
    yield nn.CrossEntropyLoss("sum", weight=[0.5, 1, 2, 3], ignore_index=-1, label_smoothing=0.1), x, ignored
    yield nn.MSELoss(), x.reshape(3, 3, 21), rng.standard_normal((3, 3, 4))
    yield Huber(), x.reshape(3, 3, 21), rng.standard_normal((3, 3, 4))
    yield Huber("sum"), x, rng.standard_normal((9, 4))
    yield Hinge(), x, t


@pytest.mark.parametrize("which", range(7))
def test_in_c_and_right(monkeypatch, dtype, rng, which):
    loss, x, t = list(cases(rng))[which]
    model = network(dtype)
    expected = gradients(nn.Backprop(), model.astype(np.float64), loss, x, t)
    masks = {p: rng.random(p.value.shape) < 0.5 for p in model.parameters()}
    for strategy in (
        nn.CentralDifference(),
        nn.CentralDifference(interpolate=False),
        nn.CentralDifference(only=masks),
    ):
        pieces = pieces_of(monkeypatch, strategy, model, loss, x, t)
        assert all(isinstance(piece, FusedLinear) for piece in pieces), strategy
        for p, one in zip(model.parameters(), expected, strict=True):
            right = one * masks[p] if strategy.only else one
            bound = (3e-6 if dtype == np.float32 else 3e-9) * np.abs(one).max()
            np.testing.assert_allclose(p.grad, right, rtol=0, atol=bound)


def test_the_step_that_was_given_is_that_of_the_definition(rng):
    # the loss is then evaluated at its ends, not taken by its gradient
    x, t = rng.standard_normal((9, 21)), rng.integers(0, 4, 9)
    model = network(np.float64)
    nn.CentralDifference(0.3)(model, Hinge(), x, t)
    first = model[0].weight
    for i in ((0, 0), (3, 7), (5, 20)):
        start, ends = first.value.copy(), []
        for sign in (1, -1):
            moved = start.copy()
            moved[i] += sign * 0.3
            first.value = moved
            ends.append(Hinge()(model(x), t))
        first.value = start
        assert first.grad[i] == pytest.approx((ends[0] - ends[1]) / 0.6, rel=1e-7, abs=1e-9)


def test_curves_below_a_loss_that_is_subtracted_are_not_all_in_doubt(monkeypatch, rng):
    # in float64 every row was, and each weight was taken by itself: 3,000 times slower
    from nnframe.gradients.curves import StackedCurves

    called = []
    monkeypatch.setattr(StackedCurves, "_entry_by_entry", lambda self, units: called.append(units))
    x, t = rng.standard_normal((9, 21)), rng.standard_normal((9, 4))
    nn.CentralDifference(1e-5)(network(np.float64), Huber(), x, t)
    assert sum(map(len, called)) <= 3  # of 17 units; some may have an edge of the Huber loss within the step


# ---- the default step ----


class Centred(nn.Layer):
    def forward(self, x):
        return x - x.mean(axis=1, keepdims=True)


def test_the_default_step_depends_on_what_is_subtracted(monkeypatch, rng):
    x, t = rng.standard_normal((9, 21)), rng.integers(0, 4, 9)
    plain = network(np.float32, nn.ReLU)
    own = nn.Sequential(nn.Linear(21, 6, rng=0), Centred(), nn.Linear(6, 4, rng=1))
    for strategy in (nn.CentralDifference(), nn.NodePerturbation()):
        steps = [piece.step for piece in pieces_of(monkeypatch, strategy, plain, nn.CrossEntropyLoss(), x, t)]
        assert steps == [EXACT_STEP] * 3
        steps = [piece.step for piece in pieces_of(monkeypatch, strategy, own, nn.CrossEntropyLoss(), x, t)]
        assert steps == [SUBTRACTED_STEP, EXACT_STEP]
    steps = [
        piece.step for piece in pieces_of(monkeypatch, nn.CentralDifference(1e-3), plain, nn.CrossEntropyLoss(), x, t)
    ]
    assert steps == [1e-3] * 3
    assert repr(nn.CentralDifference()) == "CentralDifference()"
    assert repr(nn.CentralDifference(1e-5)) == "CentralDifference(step=1e-05)"


def test_no_kink_of_relu_lies_within_the_default_step(rng):
    # at 1e-5 more than half of the batches of such a network were off by more than 1e-6
    x, t = rng.random((64, 64)), rng.integers(0, 10, 64)
    model = nn.Sequential(
        *[one for i in range(3) for one in (nn.Linear(64, 64, rng=i, dtype=np.float64), nn.ReLU())],
        nn.Linear(64, 10, rng=9, dtype=np.float64),
    )
    for seed in range(10):
        batch = np.random.default_rng(seed).permutation(64)[:32]
        expected = gradients(nn.Backprop(), model, nn.CrossEntropyLoss(), x[batch], t[batch])
        found = gradients(nn.CentralDifference(), model, nn.CrossEntropyLoss(), x[batch], t[batch])
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(b).max())
