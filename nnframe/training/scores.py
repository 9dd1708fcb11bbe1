"""Measures with one protocol, `measure(y, t) -> float`: for `Trainer(metrics=)`, and as objectives of `nn.MetricLoss`.

y is what a network returns, t are labels. Where classes are meant, y is (N, C), of whose columns the largest is taken,
or one logit, (N,) or (N, 1) of floating-point numbers, above 0 for class 1. Formulas and corner cases are
scikit-learn's, which takes its arguments the other way round.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_count
from nnframe.training.metrics import accuracy, confusion_matrix

Values = npt.NDArray[Any]


def balanced_accuracy(y: npt.ArrayLike, t: npt.ArrayLike) -> float:
    """Mean over the classes that there are of the share of their rows that are right."""
    table, _ = _table(y, t)
    present = table.sum(axis=1)
    there = present > 0
    return float(np.mean(np.diagonal(table)[there] / present[there]))


def top_k_accuracy(y: npt.ArrayLike, t: npt.ArrayLike, k: int = 5) -> float:
    """Share of rows whose class is among those of the k largest outputs; one that ties with the k-th counts as less.

    y (N, C) with C > 1, t (N,) of integers or one-hot (N, C).
    """
    accuracy(y, t)  # refuses what does not fit
    outputs, labels, count = np.asarray(y), np.asarray(t), as_count("k", k)
    if outputs.ndim != 2:
        raise ValueError(f"y: expected outputs (N, C), got shape {outputs.shape}")
    labels = labels.argmax(axis=1) if labels.ndim == 2 else labels
    own = outputs[np.arange(len(labels)), labels]
    ahead = (outputs >= own[:, None]).sum(axis=1) - 1
    return float(np.mean(ahead < count))


def precision(y: npt.ArrayLike, t: npt.ArrayLike, average: str = "macro") -> float:
    """Share of the rows predicted as a class that are of it; 0 for a class that was not predicted.

    average : {"macro", "micro"}
        The mean over classes, or of all rows together. For one logit neither counts: it is that of class 1.
    """
    table, binary = _table(y, t)
    return _averaged(np.diagonal(table), table.sum(axis=0), binary, average, table)


def recall(y: npt.ArrayLike, t: npt.ArrayLike, average: str = "macro") -> float:
    """Share of the rows of a class that were predicted as it; 0 without any. `average`: see `precision`."""
    table, binary = _table(y, t)
    return _averaged(np.diagonal(table), table.sum(axis=1), binary, average, table)


def f1(y: npt.ArrayLike, t: npt.ArrayLike, average: str = "macro") -> float:
    """Harmonic mean of precision and recall of each class. `average` as in `precision`."""
    table, binary = _table(y, t)
    return _averaged(2 * np.diagonal(table), table.sum(axis=0) + table.sum(axis=1), binary, average, table)


def roc_auc(y: npt.ArrayLike, t: npt.ArrayLike) -> float:
    """Area under the ROC curve: how often a row of a class has a larger output than one of another (ties: half).

    For y (N,) or (N, 1) of class 1, for (N, 2) of the difference of its columns; for (N, C) the mean over classes of
    each one's column against all others. ValueError where a class has no rows, or all.
    """
    outputs, labels, _ = _pair(y, t)
    if outputs.ndim == 1:
        return _area(outputs, labels == 1)
    if outputs.shape[1] == 2:
        return _area(outputs[:, 1] - outputs[:, 0], labels == 1)
    return float(np.mean([_area(outputs[:, c], labels == c) for c in range(outputs.shape[1])]))


def mse(y: npt.ArrayLike, t: npt.ArrayLike) -> float:
    """Mean squared error, over all entries."""
    outputs, targets = _numbers(y, t)
    return float(np.mean((outputs - targets) ** 2))


def mae(y: npt.ArrayLike, t: npt.ArrayLike) -> float:
    """Mean absolute error, over all entries."""
    outputs, targets = _numbers(y, t)
    return float(np.mean(np.abs(outputs - targets)))


def r2(y: npt.ArrayLike, t: npt.ArrayLike) -> float:
    """Coefficient of determination, 1 - sum (y - t)^2 / sum (t - mean)^2, the mean over columns.

    A column of equal targets gives 1 where all are met, else 0.
    """
    outputs, targets = (one.reshape(len(one), -1) for one in _numbers(y, t))
    left, spread = ((outputs - targets) ** 2).sum(axis=0), ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    share = np.divide(left, spread, out=(left > 0).astype(np.float64), where=spread > 0)
    return float(np.mean(1 - share))


def _averaged(part: Values, whole: Values, binary: bool, average: str, table: Values) -> float:
    if average not in ("macro", "micro"):
        raise ValueError(f"average: expected 'macro' or 'micro', got {average!r}")
    if average == "micro" and not binary:
        return float(np.trace(table) / table.sum())
    each = np.divide(part, whole, out=np.zeros(len(table)), where=whole > 0)
    if binary:
        return float(each[1])
    there = table.sum(axis=0) + table.sum(axis=1) > 0  # classes that are neither there nor predicted are none
    return float(np.mean(each[there]))


def _table(y: npt.ArrayLike, t: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], bool]:
    """Return the confusion matrix, and whether y was one logit."""
    outputs, labels, binary = _pair(y, t)
    predicted = (outputs > 0).astype(np.int64) if binary else outputs
    return confusion_matrix(predicted, labels, 2 if binary else None).astype(np.float64), binary


def _pair(y: npt.ArrayLike, t: npt.ArrayLike) -> tuple[Values, Values, bool]:
    """Return outputs (N, C) or (N,), classes (N,), and whether y is one logit; refuse what does not fit, and NaN."""
    outputs, labels = np.asarray(y), np.asarray(t)
    if outputs.dtype.kind == "f" and np.isnan(outputs).any():
        raise ValueError("y: expected numbers, got nan")
    outputs = outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs
    binary = outputs.ndim == 1 and outputs.dtype.kind == "f"
    if not binary:
        accuracy(outputs, labels)  # refuses what does not fit
        return outputs, labels.argmax(axis=1) if labels.ndim == 2 else labels, False
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != outputs.shape or not len(labels):
        raise ValueError(f"y, t: expected one shape, at least one row, got {np.shape(y)} and {np.shape(t)}")
    if labels.dtype.kind not in "biuf" or not ((labels == 0) | (labels == 1)).all():
        raise ValueError("t: expected labels 0 and 1 for one logit")
    return outputs, labels.astype(np.int64), True


def _area(scores: Values, positive: Values) -> float:
    """Mann and Whitney's U of the ranks, over the number of pairs."""
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        raise ValueError(f"t: expected rows of a class and of others for an area, got {count} and {others}")
    _, inverse, times = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(times) - (times - 1) / 2  # of equal scores the mean
    return float((ranks[inverse][positive].sum() - count * (count + 1) / 2) / (count * others))


def _numbers(y: npt.ArrayLike, t: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    outputs, targets = np.asarray(y), np.asarray(t)
    if outputs.dtype.kind not in "biuf" or targets.dtype.kind not in "biuf":
        raise TypeError(f"y, t: expected real numbers, got {outputs.dtype} and {targets.dtype}")
    if outputs.ndim == 2 and outputs.shape[1] == 1 and targets.ndim == 1:
        outputs = outputs[:, 0]
    if outputs.shape != targets.shape or not outputs.size:
        raise ValueError(f"y, t: expected one shape, at least one row, got {np.shape(y)} and {np.shape(t)}")
    return outputs.astype(np.float64), targets.astype(np.float64)
