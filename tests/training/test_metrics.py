"""Measures of a trained model: what counts as right, and what is no answer at all."""

import numpy as np
import pytest

import nnframe as nn

LOGITS = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])


def test_the_share_of_rows_whose_largest_logit_is_the_label():
    assert nn.accuracy(LOGITS, [1, 0, 0]) == pytest.approx(2 / 3), "classes as integers"
    assert nn.accuracy(LOGITS, np.eye(2)[[1, 0, 0]]) == pytest.approx(2 / 3), "one-hot labels"
    assert nn.accuracy(LOGITS, np.eye(2, dtype=bool)[[1, 0, 0]]) == pytest.approx(2 / 3), "one-hot labels of bool"
    assert nn.accuracy(np.array([1, 0, 1]), np.eye(2)[[1, 0, 0]]) == pytest.approx(2 / 3), "predicted classes"
    assert type(nn.accuracy(LOGITS, [1, 0, 0])) is float, "a plain number, that a table can print"


def test_one_column_has_no_largest_entry():
    one_logit = np.array([[-2.0], [3.0], [4.0]])
    with pytest.raises(ValueError, match=r"y: expected a column for each class.* shape \(3, 1\)") as caught:
        nn.accuracy(one_logit, [0, 1, 1])
    assert "pass (y[:, 0] > 0).astype(int)" in str(caught.value), "the message has the cure"
    assert nn.accuracy((one_logit[:, 0] > 0).astype(int), [0, 1, 1]) == 1.0, "and the cure gives the right answer"
    with pytest.raises(ValueError, match=r"t: .* got one column, shape \(3, 1\), .* pass t\[:, 0\]"):
        nn.accuracy(LOGITS, [[1], [1], [1]])
    with pytest.raises(ValueError, match="t: .* got one column"):
        nn.accuracy([1, 1, 1], np.ones((3, 1)))


def test_only_counted_rows_count():
    labels = np.array([1, -100, 0])
    assert nn.accuracy(LOGITS, labels) == pytest.approx(1 / 3), "without a mask a row of another label is wrong"
    assert nn.accuracy(LOGITS, labels, labels != -100) == 0.5
    assert nn.accuracy(LOGITS, labels, counted=[True, False, False]) == 1.0
    for mask, error, message in (
        ([1, 0, 1], TypeError, "counted: expected True or False for each row, got int64"),
        ([True, False], ValueError, r"counted: expected shape \(3,\), one entry for each row, got \(2,\)"),
        (True, ValueError, r"counted: expected shape \(3,\)"),
        ([[True], [True], [True]], ValueError, r"counted: expected shape \(3,\)"),
        ([False] * 3, ValueError, "counted: expected at least one row that counts, got none of 3"),
    ):
        with pytest.raises(error, match=message):
            nn.accuracy(LOGITS, labels, mask)


@pytest.mark.parametrize(
    ("y", "t", "message"),
    [
        (LOGITS, [1, 0], "equally many rows, at least one"),
        (np.zeros((0, 2)), np.zeros(0, int), "at least one"),
        (LOGITS, np.eye(3), r"equally many classes, got shapes \(3, 2\) and \(3, 3\)"),
        (LOGITS, np.zeros(3), r"t: expected shape \(N, C\), or \(N,\) of integers, got float64 of shape \(3,\)"),
        (LOGITS, np.zeros(3, bool), "t: .* got bool"),
        (np.zeros((3, 0)), [0, 0, 0], r"y: .* got float64 of shape \(3, 0\)"),
        (LOGITS.astype(complex), [0, 0, 0], "y: .* got complex128"),
        (LOGITS.astype(object), [0, 0, 0], "y: .* got object"),
        (LOGITS[None], [0, 0, 0], r"y: .* got float64 of shape \(1, 3, 2\)"),
        (LOGITS, 1, r"t: .* of shape \(\)"),
    ],
)
def test_what_has_no_accuracy_is_refused(y, t, message):
    with pytest.raises(ValueError, match=message):
        nn.accuracy(y, t)


def test_binary_accuracy_of_one_logit_and_of_several_labels():
    assert nn.binary_accuracy([[-2.0], [3.0], [4.0]], [0, 1, 0]) == pytest.approx(2 / 3)
    assert nn.binary_accuracy([-2.0, 3.0, 4.0], [False, True, True]) == 1.0
    assert nn.binary_accuracy([0.2, 0.7], [0, 1], threshold=0.5) == 1.0, "probabilities"
    y, t = np.array([[1.0, -1, 2], [-1, -1, -1]]), np.array([[1, 0, 0], [0, 0, 0]])
    assert nn.binary_accuracy(y, t) == pytest.approx(5 / 6)
    assert nn.binary_accuracy(y, t, exact=True) == 0.5
    assert nn.binary_accuracy(y, t, counted=[False, True]) == 1.0
    for args, error, message in (
        ((y, [1, 0]), ValueError, r"y, t: expected one shape, at least one row, got \(2, 3\) and \(2,\)"),
        ((y[:0], t[:0]), ValueError, "at least one row"),
        (([[0.5], [2]], [-1, 1]), ValueError, "t: expected labels 0 and 1, got -1"),
        (([np.nan], [1]), ValueError, "y: expected numbers, got nan"),
        ((["a"], [1]), TypeError, "y, t: expected real numbers"),
    ):
        with pytest.raises(error, match=message):
            nn.binary_accuracy(*args)


def test_confusion_matrix_and_what_follows_from_it():
    predicted, t = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    table = nn.confusion_matrix(predicted, t)
    np.testing.assert_array_equal(table, [[1, 0, 1], [1, 1, 0], [0, 0, 2]])
    np.testing.assert_array_equal(nn.confusion_matrix(np.eye(3)[predicted], np.eye(3)[t]), table)
    assert nn.confusion_matrix(predicted, t, 4).shape == (4, 4)
    scores = nn.precision_recall_f1(predicted, t, 4)
    np.testing.assert_allclose(scores.precision, [1 / 2, 1, 2 / 3, 0])
    np.testing.assert_allclose(scores.recall, [1 / 2, 1 / 2, 1, 0])
    np.testing.assert_allclose(scores.f1, [1 / 2, 2 / 3, 4 / 5, 0])
    with pytest.raises(ValueError, match=r"y, t: expected classes in \[0, 2\), got 2"):
        nn.confusion_matrix(predicted, t, 2)
    with pytest.raises(ValueError, match=r"expected classes in \[0, 3\), got -1"):
        nn.confusion_matrix(predicted, np.where(t == 0, -1, t))


@pytest.mark.parametrize("several", [False, True])
def test_a_trainer_measures_one_logit_and_several_labels(rng, several):
    x = rng.standard_normal((60, 3)).astype(np.float32)
    t = (x @ rng.standard_normal((3, 2)) > 0).astype(int) if several else (x[:, 0] > 0).astype(int)
    model = nn.Sequential(nn.Linear(3, 2 if several else 1, rng=0))
    trainer = nn.Trainer(model, nn.BCEWithLogitsLoss(), nn.Adam(model.parameters(), 0.1), nn.Backprop())
    history = trainer.fit(x, t, epochs=20, progress=False)
    found = trainer.evaluate(x, t)["accuracy"]
    assert found == pytest.approx(nn.binary_accuracy(model(x), t))
    assert found > 0.9
    assert 0 < history["accuracy"][0] <= history["accuracy"][-1]
    soft = nn.Trainer(model, nn.BCEWithLogitsLoss(), nn.SGD(model.parameters(), 0.1))
    assert soft.evaluate(x, t * 0.9)["accuracy"] is None
