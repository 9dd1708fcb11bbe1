"""sample_weight, class_weight and validation_split."""

import numpy as np
import pytest

import nnframe as nn
from nnframe.losses.weighted import WeightedLoss, with_weights

LOSSES = {
    "cross entropy": (nn.CrossEntropyLoss(), "classes"),
    "weighted cross entropy": (nn.CrossEntropyLoss(weight=[1.0, 2.0, 0.5]), "classes"),
    "ignored classes": (nn.CrossEntropyLoss(weight=[1.0, 2.0, 0.5], ignore_index=1), "classes"),
    "likelihood": (nn.NLLLoss(weight=[1.0, 2.0, 0.5], ignore_index=2), "classes"),
    "several bits": (nn.MultiLabelSoftMarginLoss(), "bits"),
    "divergence": (nn.KLDivLoss(), "bits"),
    "sum": (nn.CrossEntropyLoss("sum"), "classes"),
    "squared error": (nn.MSELoss(), "numbers"),
    "absolute error": (nn.L1Loss(), "numbers"),
    "logits": (nn.BCEWithLogitsLoss(), "bits"),
    "hinge": (nn.MultiMarginLoss(), "classes"),
}


class RowsAlone(nn.Loss):
    def rows(self, y, t):
        return ((y - t) ** 4).sum(axis=1)


class Counting(RowsAlone):
    def divisor(self, y, t):
        return float((np.asarray(t) > 0).sum() + 1e-3 * len(y))


LOSSES["an own one"] = (RowsAlone(), "numbers")
LOSSES["an own one with a divisor"] = (Counting(), "numbers")


def data(kind, rows=24):
    rng = np.random.default_rng(0)
    labels = {
        "classes": rng.integers(0, 3, rows),
        "numbers": rng.standard_normal((rows, 3)),
        "bits": rng.integers(0, 2, (rows, 3)).astype(float),
    }
    return rng.standard_normal((rows, 5)), labels[kind]


def model(seed=0):
    return nn.Sequential(nn.Linear(5, 4, rng=seed), nn.Tanh(), nn.Linear(4, 3, rng=1)).astype(np.float64)


def gradient(strategy, loss, x, t):
    one = model()
    value = strategy(one, loss, x, t)
    return np.concatenate([[float(value)], *[p.grad.reshape(-1) for p in one.parameters()]])


STRATEGIES = [nn.Backprop(), nn.CentralDifference(), nn.CentralDifference(interpolate=False), nn.NodePerturbation()]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("name", LOSSES)
def test_a_whole_weight_stands_for_that_many_rows(name, strategy):
    loss, kind = LOSSES[name]
    x, t = data(kind)
    weights = np.random.default_rng(1).integers(0, 4, len(x))
    expected = gradient(nn.Backprop(), loss, np.repeat(x, weights, axis=0), np.repeat(t, weights, axis=0))
    found = gradient(strategy, WeightedLoss(loss), x, with_weights(t, weights))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", [
    nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=[1.0, 2.0, 0.5], ignore_index=1), nn.NLLLoss(ignore_index=0),
], ids=repr)  # fmt: skip
def test_what_a_row_of_positions_gives_to_the_divisor(loss):
    rng = np.random.default_rng(0)
    y, t = rng.standard_normal((5, 4, 3)), rng.integers(0, 3, (5, 4))
    t = loss.prepare(y, t)
    expected = [loss.divisor(y[n : n + 1], t[n : n + 1]) for n in range(5)]
    np.testing.assert_allclose(loss.row_divisors(y, t), expected)


def test_weights_of_one_train_the_same():
    x, t = data("classes")
    found = []
    for weights in (None, np.ones(24)):
        one = model()
        trainer = nn.Trainer(one, nn.CrossEntropyLoss(), nn.SGD(one.parameters(), 0.3), nn.Backprop())
        history = trainer.fit(x, t, epochs=3, rng=0, batch_size=7, sample_weight=weights, progress=False)
        found.append((one.state_dict()["0.weight"], history["loss"], history["accuracy"]))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({1: 5.0}, [1, 5, 1, 1]),
        ([2.0, 0.5, 1.0], [2, 0.5, 1, 2]),
        ("balanced", [4 / (3 * 2), 4 / 3, 4 / 3, 4 / (3 * 2)]),
    ],
)
@pytest.mark.parametrize("one_hot", [False, True])
def test_class_weight_is_a_weight_for_each_row(given, expected, one_hot):
    classes = np.array([0, 1, 2, 0])
    t = np.eye(3)[classes] if one_hot else classes
    x = data("classes")[0][:4]
    found = []
    for weights in ({"class_weight": given}, {"sample_weight": expected}):
        one = model()
        trainer = nn.Trainer(one, nn.CrossEntropyLoss(), nn.SGD(one.parameters(), 0.3), nn.Backprop())
        trainer.fit(x, t, epochs=2, batch_size=4, rng=0, progress=False, **weights)
        found.append(one.state_dict()["0.weight"])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_weight": np.ones(5)}, r"sample_weight: expected shape \(24,\), one for each row, got \(5,\)"),
        ({"sample_weight": -np.ones(24)}, "sample_weight: expected finite numbers >= 0"),
        ({"sample_weight": np.zeros(24)}, "sample_weight: expected finite numbers >= 0, not all of them 0"),
        ({"sample_weight": ["a"] * 24}, "sample_weight: expected numbers"),
        ({"class_weight": {"a": 1}}, "class_weight: expected classes, whole numbers, as keys, got 'a'"),
        ({"class_weight": [1.0]}, "class_weight: expected 3 weights or more"),
        ({"class_weight": "even"}, "class_weight: expected a dict, an array or 'balanced', got 'even'"),
        ({"class_weight": {0: np.nan}}, "class_weight: expected finite numbers"),
        ({"validation_split": 0.99}, "validation_split: expected to leave rows on both sides of 24, got 0.99"),
        ({"validation_split": 1.0}, "validation_split: expected"),
        ({"validation_split": 0.5, "validation_data": data("classes")}, "validation_split: expected none with"),
        ({"validation_split": 0.5, "sample_weight": np.arange(24) > 20}, "sample_weight: expected a row with a weight"),
        ({"steps_per_epoch": 3}, "steps_per_epoch: expected None where x and t are arrays"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    one = model()
    before = one.state_dict()
    trainer = nn.Trainer(one, nn.CrossEntropyLoss(), nn.SGD(one.parameters(), 0.3), nn.Backprop())
    with pytest.raises((TypeError, ValueError), match=message):
        trainer.fit(*data("classes"), progress=False, **options)
    for name, value in one.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_a_loss_of_the_whole_batch_takes_no_weights():
    class Whole(nn.Loss):
        def forward(self, y, t):
            return float(np.max(np.abs(y - t)))

    one = model()
    trainer = nn.Trainer(one, Whole(), nn.SGD(one.parameters(), 0.3))
    with pytest.raises(TypeError, match="sample_weight, class_weight: expected a loss that is a sum over rows, got Wh"):
        trainer.fit(*data("numbers"), sample_weight=np.ones(24), progress=False)


def test_the_last_rows_are_kept_for_validation():
    x, t = data("classes")
    found = []
    for options in ({"validation_split": 0.25}, {"validation_data": (x[18:], t[18:])}):
        one = model()
        trainer = nn.Trainer(one, nn.CrossEntropyLoss(), nn.SGD(one.parameters(), 0.3), nn.Backprop())
        rows = 24 if "validation_split" in options else 18
        history = trainer.fit(x[:rows], t[:rows], epochs=2, batch_size=5, rng=0, progress=False, **options)
        found.append((history["val_loss"], history["loss"], one.state_dict()["0.weight"].tobytes()))
    assert found[0] == found[1]
