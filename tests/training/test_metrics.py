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
