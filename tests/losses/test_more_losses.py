"""Losses by hand: labels (N,) for one output, the reduction "none", and what is refused."""

import numpy as np
import pytest

import nnframe as nn

REGRESSION = [nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss, nn.BCEWithLogitsLoss]
STRATEGIES = [nn.Backprop(), nn.CentralDifference(), nn.NodePerturbation(), nn.SPSA(rng=0)]


@pytest.mark.parametrize("make", REGRESSION)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_labels_n_for_one_output(rng, make, reduction):
    y, t = rng.standard_normal((6, 1)), rng.uniform(0, 1, 6)
    loss = make(reduction)
    assert loss(y, t) == loss(y, t[:, None])
    np.testing.assert_array_equal(loss.backward(y, t), loss.backward(y, t[:, None]))
    dy = rng.standard_normal((2, 6, 1))
    np.testing.assert_array_equal(loss.row_differences(y, t, dy), loss.row_differences(y, t[:, None], dy))
    for wrong in (np.zeros((6, 2)), np.zeros(5)):
        with pytest.raises(ValueError, match=r"labels: expected the shape of the output \(6, 1\), got"):
            loss(y, wrong)
    with pytest.raises(ValueError, match=r"labels: expected the shape of the output \(6,\), got \(6, 1\)"):
        loss(y[:, 0], t[:, None])


@pytest.mark.parametrize("make", REGRESSION)
@pytest.mark.parametrize("strategy", [nn.Backprop(), nn.CentralDifference(), nn.NodePerturbation()], ids=repr)
def test_training_with_labels_n_for_one_output(rng, make, strategy):
    x, t = rng.standard_normal((20, 3)), rng.uniform(0, 1, 20)
    found = []
    for labels in (t, t[:, None]):
        model = nn.Sequential(
            nn.Linear(3, 4, rng=0, dtype=np.float64), nn.Tanh(), nn.Linear(4, 1, rng=1, dtype=np.float64)
        )
        value = strategy(model, make(), x, labels)
        found.append([value, *(p.grad.copy() for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(g.any() for g in found[0][1:])


@pytest.mark.parametrize("make", REGRESSION)
def test_a_trainer_takes_labels_n_for_one_output(rng, make):
    x = rng.standard_normal((200, 3)).astype(np.float32)
    t = (x @ [1.0, -2.0, 0.5] > 0).astype(np.float32)
    model = nn.Sequential(nn.Linear(3, 1, rng=0))
    trainer = nn.Trainer(model, make(), nn.SGD(model.parameters(), 0.1))
    history = trainer.fit(x, t, epochs=4, batch_size=20, validation_data=(x, t), progress=False)
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize(
    "strategy", [nn.Backprop(), nn.CentralDifference(), nn.NodePerturbation(), nn.SPSA(rng=0)], ids=repr
)
@pytest.mark.parametrize("make", [nn.MSELoss, nn.L1Loss])
def test_no_strategy_takes_the_reduction_none(rng, make, strategy):
    model = nn.Sequential(nn.Linear(3, 2, rng=0), nn.Tanh())
    x, t = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    loss = make("none")
    assert loss(model(x), t).shape == (4, 2)
    before = [p.grad.copy() for p in model.parameters()]
    with pytest.raises(ValueError, match="reduction: expected one that gives a number, got 'none'"):
        strategy(model, loss, x, t)
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.grad, gradient)
    trainer = nn.Trainer(model, loss, nn.SGD(model.parameters(), 0.1), strategy)
    with pytest.raises(ValueError, match="got 'none'"):
        trainer.fit(x, t, progress=False)
    with pytest.raises(ValueError, match="got 'none'"):
        trainer.evaluate(x, t)


def test_values_by_hand():
    assert nn.L1Loss()([[1.0, -2.0]], [[0, 0]]) == 1.5
    assert nn.HuberLoss("sum", 2.0)([[1.0, 3.0]], [[0, 0]]) == 0.5 + 2 * (3 - 1)
    assert nn.SmoothL1Loss("sum", 2.0)([[1.0, 3.0]], [[0, 0]]) == 0.25 + (3 - 1)
    assert nn.BCEWithLogitsLoss(pos_weight=[3])(np.zeros((2, 1)), [1, 0]) == pytest.approx(2 * np.log(2))
    assert nn.BCEWithLogitsLoss()([[800.0], [-800.0]], [0, 1]) == 800  # nothing overflows
    assert nn.NLLLoss(weight=[1, 3])(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 1]) == pytest.approx(
        (np.log(2) - 3 * np.log(0.75)) / 4
    )
    assert nn.KLDivLoss("batchmean")(np.log([[0.5, 0.5]]), [[1.0, 0]]) == pytest.approx(np.log(2))
    assert nn.HingeEmbeddingLoss("sum")([[0.25, 0.25, 2]], [[1, -1, -1]]) == 1
    assert nn.MultiMarginLoss("sum")([[1.0, 0.5, 3.0]], [0]) == pytest.approx((0.5 + 3) / 3)
    assert nn.MultiLabelSoftMarginLoss()(np.zeros((2, 4)), np.ones((2, 4))) == pytest.approx(np.log(2))


def test_ignored_rows_may_hold_anything(rng):
    y, t = np.log(rng.dirichlet(np.ones(3), 4)), np.array([0, -1, 2, -1])
    other = y.copy()
    other[1] = -np.inf
    loss = nn.NLLLoss(ignore_index=-1)
    assert loss(other, t) == loss(y, t) == nn.NLLLoss()(y[[0, 2]], t[[0, 2]])
    np.testing.assert_array_equal(loss.backward(y, t)[[1, 3]], 0)
    assert np.isnan(loss(y, [-1] * 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.L1Loss("max"), ValueError, "reduction: expected 'mean', 'sum' or 'none', got 'max'"),
        (lambda: nn.CrossEntropyLoss("max"), ValueError, "reduction: expected 'mean', 'sum' or 'none', got 'max'"),
        (lambda: nn.L1Loss("batchmean"), ValueError, "reduction: expected .* got 'batchmean'"),
        (lambda: nn.HuberLoss(delta=0), ValueError, "delta: expected a finite number > 0, got 0"),
        (lambda: nn.SmoothL1Loss(beta=-1), ValueError, "beta: expected a finite number >= 0, got -1"),
        (lambda: nn.HingeEmbeddingLoss(margin=np.nan), ValueError, "margin: expected a finite number, got nan"),
        (lambda: nn.MultiMarginLoss(p=3), ValueError, "p: expected 1 or 2, got 3"),
        (lambda: nn.KLDivLoss(log_target=1), TypeError, "log_target: expected True or False, got 1"),
        (lambda: nn.NLLLoss(weight=[[1.0]]), ValueError, r"weight: expected shape \(C,\).*got \(1, 1\)"),
        (lambda: nn.NLLLoss(weight=[-1.0]), ValueError, r"weight: expected finite numbers >= 0, got \[-1.0\]"),
        (lambda: nn.BCEWithLogitsLoss(weight={0: 1}), TypeError, "weight: expected an array of numbers, got {0: 1}"),
        (
            lambda: nn.BCEWithLogitsLoss(pos_weight=[1, 2])(np.zeros((2, 3)), np.zeros((2, 3))),
            ValueError,
            r"pos_weight: expected a shape that fits each row of the output \(3,\), got \(2,\)",
        ),
        (
            lambda: nn.BCEWithLogitsLoss()(np.zeros((2, 1)), [-1, 1]),
            ValueError,
            r"labels: expected numbers in \[0, 1\], got .*-1.0.*; -1 and 1 become \(t \+ 1\) / 2",
        ),
        (lambda: nn.HingeEmbeddingLoss()(np.zeros((2, 1)), [0, 1]), ValueError, "labels: expected 1 or -1, got .*0.0"),
        (lambda: nn.KLDivLoss()(np.zeros((1, 2)), [[-1, 2]]), ValueError, "labels: expected probabilities >= 0, got"),
        (lambda: nn.NLLLoss()(np.zeros((2, 3)), np.eye(3)), ValueError, r"labels: expected class indices of"),
        (lambda: nn.NLLLoss()(np.zeros((2, 3)), [0, 3]), ValueError, "labels"),
        (lambda: nn.NLLLoss(weight=[1, 2])(np.zeros((2, 3)), [0, 1]), ValueError, r"weight: expected shape \(3,\)"),
        (lambda: nn.MultiMarginLoss()(np.zeros((2, 3)), [0.5, 1]), (TypeError, ValueError), "labels"),
        (lambda: nn.MultiLabelSoftMarginLoss()(np.zeros(2), [0, 1]), ValueError, "y: expected a logit for each label"),
    ],
)  # fmt: skip
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(nn.HuberLoss()) == "HuberLoss()"
    assert repr(nn.HuberLoss("sum", 2.0)) == "HuberLoss('sum', delta=2.0)"
    assert repr(nn.BCEWithLogitsLoss(pos_weight=[2])) == "BCEWithLogitsLoss(pos_weight=[2.0])"
    assert repr(nn.NLLLoss(ignore_index=3)) == "NLLLoss(ignore_index=3)"
