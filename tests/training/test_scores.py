"""Measures, against their definitions, in the history, and as objectives."""

import itertools

import numpy as np
import pytest

import nnframe as nn
from nnframe import training

RNG = np.random.default_rng(0)
LOGITS, CLASSES = np.round(RNG.standard_normal((60, 4)), 1), RNG.integers(0, 4, 60)
LOGIT, BITS = np.round(RNG.standard_normal(60), 1), RNG.integers(0, 2, 60)


def counts(predicted, expected, c):
    right = int(((predicted == c) & (expected == c)).sum())
    return right, int((predicted == c).sum()), int((expected == c).sum())


@pytest.mark.parametrize(("name", "of"), [
    ("precision", lambda right, predicted, there: right / predicted if predicted else 0.0),
    ("recall", lambda right, predicted, there: right / there if there else 0.0),
    ("f1", lambda right, predicted, there: 2 * right / (predicted + there)),
])  # fmt: skip
def test_scores_of_classes_are_their_definitions(name, of):
    measure, predicted = getattr(training, name), LOGITS.argmax(axis=1)
    each = [of(*counts(predicted, CLASSES, c)) for c in range(4)]
    assert measure(LOGITS, CLASSES) == pytest.approx(np.mean(each))
    assert measure(predicted, CLASSES) == pytest.approx(np.mean(each))
    assert measure(LOGITS, np.eye(4)[CLASSES]) == pytest.approx(np.mean(each))
    assert measure(LOGITS, CLASSES, "micro") == pytest.approx(np.mean(predicted == CLASSES))
    one = of(*counts((LOGIT > 0).astype(int), BITS, 1))
    for y, t in ((LOGIT, BITS), (LOGIT[:, None], BITS), (LOGIT[:, None], BITS[:, None].astype(float))):
        assert measure(y, t) == pytest.approx(one)


def test_a_class_that_is_neither_there_nor_predicted_does_not_count():
    assert training.f1(np.eye(4)[[0, 1, 1, 0]], [0, 1, 1, 0]) == 1.0
    assert training.balanced_accuracy(np.eye(4)[[0, 1, 3, 0]], [0, 1, 1, 0]) == 0.75


def test_balanced_accuracy():
    predicted = LOGITS.argmax(axis=1)
    expected = np.mean([np.mean(predicted[c == CLASSES] == c) for c in range(4)])
    assert training.balanced_accuracy(LOGITS, CLASSES) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k(k):
    y = RNG.standard_normal((60, 4))
    expected = np.mean([t in np.argsort(-row)[:k] for row, t in zip(y, CLASSES, strict=True)])
    assert training.top_k_accuracy(y, CLASSES, k) == expected
    assert training.top_k_accuracy(np.zeros((60, 4)), CLASSES, k) == (k == 4), "equal outputs are no guess"


def pairs(scores, positive):
    return np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(scores[positive], scores[~positive])])


def test_the_area_is_the_share_of_pairs_in_order():
    assert training.roc_auc(LOGIT, BITS) == pytest.approx(pairs(LOGIT, BITS == 1))
    assert training.roc_auc(LOGITS[:, :2], BITS) == pytest.approx(pairs(LOGITS[:, 1] - LOGITS[:, 0], BITS == 1))
    expected = np.mean([pairs(LOGITS[:, c], c == CLASSES) for c in range(4)])
    assert training.roc_auc(LOGITS, CLASSES) == pytest.approx(expected)
    with pytest.raises(ValueError, match="t: expected rows of a class and of others for an area, got 60 and 0"):
        training.roc_auc(LOGIT, np.ones(60, int))


def test_errors_of_numbers():
    y, t = RNG.standard_normal((20, 3)), RNG.standard_normal((20, 3))
    assert training.mse(y, t) == pytest.approx(np.mean((y - t) ** 2))
    assert training.mae(y, t) == pytest.approx(np.mean(np.abs(y - t)))
    expected = [1 - np.sum((y[:, c] - t[:, c]) ** 2) / np.sum((t[:, c] - t[:, c].mean()) ** 2) for c in range(3)]
    assert training.r2(y, t) == pytest.approx(np.mean(expected))
    assert training.r2(t, t) == 1
    assert training.r2(np.zeros(3), np.zeros(3)) == 1
    assert training.r2(np.ones(3), np.zeros(3)) == 0
    assert training.mse(y[:, :1], t[:, 0]) == pytest.approx(np.mean((y[:, 0] - t[:, 0]) ** 2))


@pytest.mark.parametrize("name", ["balanced_accuracy", "precision", "recall", "f1", "roc_auc"])
@pytest.mark.parametrize(
    ("y", "t"), [(LOGIT, BITS + 1), (LOGIT, BITS[:5]), (LOGITS, CLASSES[:5]), (LOGIT * np.nan, BITS), (LOGITS, LOGIT)]
)
def test_what_does_not_fit_is_refused(name, y, t):
    with pytest.raises((TypeError, ValueError), match="y|t"):
        getattr(training, name)(y, t)


@pytest.mark.parametrize("name", ["mse", "mae", "r2"])
def test_numbers_of_other_shapes_are_refused(name):
    with pytest.raises(ValueError, match="y, t: expected one shape"):
        getattr(training, name)(np.zeros((3, 2)), np.zeros(3))


def unbalanced(rows=300):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((rows, 4)).astype(np.float32)
    return x, (x[:, 0] + 0.8 * rng.standard_normal(rows) > 1.6).astype(int)


def test_metrics_are_columns_of_the_history_and_can_be_monitored():
    x, t = unbalanced()
    model = nn.Linear(4, 1, rng=0)
    metrics = [training.f1, training.roc_auc]
    trainer = nn.Trainer(model, nn.BCEWithLogitsLoss(), nn.SGD(model.parameters(), 0.5), nn.Backprop(), metrics)
    stopping = nn.EarlyStopping("val_roc_auc", patience=2)
    history = trainer.fit(x, t, epochs=30, validation_split=0.3, callbacks=stopping, progress=False)
    assert history.stopped
    assert stopping.best == max(history["val_roc_auc"])
    found = trainer.evaluate(x, t, batch_size=7)
    assert found["f1"] == training.f1(trainer.predict(x), t)
    assert "roc_auc" in found


@pytest.mark.parametrize("metrics", [[3], {"loss": training.f1}, [training.f1, training.f1]])
def test_metrics_that_are_none_are_refused(metrics):
    model = nn.Linear(4, 1, rng=0)
    with pytest.raises((TypeError, ValueError), match="metrics: expected"):
        nn.Trainer(model, nn.MSELoss(), nn.SGD(model.parameters(), 0.5), metrics=metrics)


@pytest.mark.parametrize("measure", [training.f1, training.roc_auc, training.balanced_accuracy])
def test_a_measure_as_the_objective_becomes_better_than_by_the_surrogate(measure):
    x, t = unbalanced()
    model = nn.Linear(4, 1, rng=0)
    surrogate = nn.Trainer(model, nn.BCEWithLogitsLoss(), nn.Adam(model.parameters(), 0.05), nn.Backprop())
    surrogate.fit(x, t, epochs=100, batch_size=len(x), progress=False)
    before = measure(surrogate.predict(x), t)
    strategy, rule = nn.CentralDifference(step=0.3), nn.Adam(model.parameters(), 0.01)
    trainer = nn.Trainer(model, nn.MetricLoss(measure), rule, strategy, {"measure": measure})
    stopping = nn.EarlyStopping("val_measure", patience=100)
    trainer.fit(x, t, epochs=100, batch_size=len(x), validation_data=(x, t), callbacks=stopping, progress=False)
    assert measure(trainer.predict(x), t) > before


def test_a_measure_to_be_made_small():
    loss = nn.MetricLoss(training.mae, maximize=False)
    assert loss(np.ones((3, 1)), np.zeros((3, 1))) == 1
    assert repr(loss) == "MetricLoss(mae, maximize=False)"
    with pytest.raises(TypeError, match="metric: expected a function"):
        nn.MetricLoss(3)
