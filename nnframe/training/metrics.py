"""Measures of a trained model."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_count, unwrapped


def accuracy(y: npt.ArrayLike, t: npt.ArrayLike, counted: npt.ArrayLike | None = None) -> float:
    """Share of rows whose class is right, in [0, 1].

    Parameters
    ----------
    y : array (N, C) with C > 1, or (N,) of integers
        Logits or probabilities, of which the largest is taken; or predicted classes.
    t : array (N,) of integers, or (N, C) with C > 1
        Classes; or one-hot or soft labels, of which the largest is taken. Outputs of more axes, (N, ..., C) with
        labels (N, ...) or (N, ..., C), have a label at each position, and each counts.
    counted : array (N,), or (N, ...), of bool, optional
        The rows that count, all if not given: `accuracy(y, t, t != -100)` leaves out rows labelled -100.

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes that do not fit, or no row that counts.
    """
    y, t = np.asarray(unwrapped(y)), np.asarray(unwrapped(t))
    positions = y.shape[: max(1, y.ndim - 1)]
    y, t = _positions(y, t)
    predicted, expected = _classes("y", y), _classes("t", t)
    if predicted.shape != expected.shape or len(predicted) == 0:
        raise ValueError(f"y, t: expected equally many rows, at least one, got shapes {np.shape(y)} and {np.shape(t)}")
    if np.ndim(y) == np.ndim(t) == 2 and np.shape(y) != np.shape(t):
        raise ValueError(f"y, t: expected equally many classes, got shapes {np.shape(y)} and {np.shape(t)}")
    right = (predicted == expected).reshape(positions)
    return float(np.mean(right if counted is None else right[_mask(counted, right.shape)]))


def _positions(y: npt.NDArray[Any], t: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return outputs (N, ..., C) as (positions, C), and their labels likewise; others as they are."""
    if y.ndim < 3 or t.shape not in (y.shape, y.shape[:-1]):
        return y, t
    return y.reshape(-1, y.shape[-1]), t.reshape(-1, *t.shape[y.ndim - 1 :])


def binary_accuracy(
    y: npt.ArrayLike,
    t: npt.ArrayLike,
    threshold: float = 0.0,
    *,
    exact: bool = False,
    counted: npt.ArrayLike | None = None,
) -> float:
    """Share of labels 0 and 1 that are right, in [0, 1]: of one logit, or of several labels at once.

    Parameters
    ----------
    y : array (N,), (N, 1) or (N, C)
        Logits; 1 is predicted where they are above `threshold`.
    t : array of y's shape, or (N,) for (N, 1)
        0 or 1.
    threshold : float
        0 for logits, 0.5 for probabilities.
    exact : bool
        Whether the share of rows is meant whose labels are all right, in place of the share of labels.
    counted : array (N,) of bool, optional
        The rows that count, all if not given.

    Raises
    ------
    TypeError, ValueError
        Shapes, dtypes or labels that do not fit, or no row that counts.
    """
    outputs, labels = np.asarray(unwrapped(y)), np.asarray(unwrapped(t))
    if outputs.dtype.kind not in "biuf" or labels.dtype.kind not in "biuf":
        raise TypeError(f"y, t: expected real numbers, got {outputs.dtype} and {labels.dtype}")
    if outputs.ndim == 2 and outputs.shape[1] == 1 and labels.ndim == 1:
        outputs = outputs[:, 0]
    if outputs.shape != labels.shape or not outputs.ndim or not outputs.size:
        raise ValueError(f"y, t: expected one shape, at least one row, got {np.shape(y)} and {np.shape(t)}")
    if not ((labels == 0) | (labels == 1)).all():
        wrong = labels[(labels != 0) & (labels != 1)][0]
        raise ValueError(f"t: expected labels 0 and 1, got {wrong}; classes are for accuracy")
    if np.isnan(outputs).any():
        raise ValueError("y: expected numbers, got nan")
    right = ((outputs > threshold) == (labels == 1)).reshape(len(labels), -1)
    rows = right.all(axis=1) if exact else right.mean(axis=1)
    return float(np.mean(rows if counted is None else rows[_mask(counted, rows.shape)]))


def confusion_matrix(y: npt.ArrayLike, t: npt.ArrayLike, classes: int | None = None) -> npt.NDArray[np.int64]:
    """Return how often each class was predicted for each: entry [i, j] counts rows of class i with j predicted.

    Parameters
    ----------
    y, t : arrays
        As for `accuracy`.
    classes : int, optional
        How many there are; as many as y has columns, or as the largest class says, if not given.

    Returns
    -------
    array (C, C) of int64

    Raises
    ------
    TypeError, ValueError
        What `accuracy` refuses, or a class that is not in [0, C).
    """
    accuracy(y, t)  # refuses what does not fit
    outputs, labels = _positions(np.asarray(unwrapped(y)), np.asarray(unwrapped(t)))
    predicted, expected = _classes("y", outputs), _classes("t", labels)
    largest = max(int(predicted.max()), int(expected.max()))
    columns = [one.shape[1] for one in (outputs, labels) if one.ndim == 2]
    count = as_count("classes", classes) if classes is not None else columns[0] if columns else largest + 1
    least = min(int(predicted.min()), int(expected.min()))
    if least < 0 or largest >= count:
        raise ValueError(f"y, t: expected classes in [0, {count}), got {least if least < 0 else largest}")
    pairs = expected.astype(np.intp) * count + predicted.astype(np.intp)
    return np.bincount(pairs, minlength=count * count).astype(np.int64).reshape(count, count)


class Scores(NamedTuple):
    """Of each class, (C,): see `precision_recall_f1`."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]


def precision_recall_f1(y: npt.ArrayLike, t: npt.ArrayLike, classes: int | None = None) -> Scores:
    """Return for each class how many of those predicted are right, how many of it were found, and their harmonic mean.

    `precision_recall_f1(y, t).f1.mean()` is the macro average. Of a class that was never predicted the precision is 0,
    of one without rows the recall is 0 (as in scikit-learn), and so is then F1.

    Parameters, errors : as for `confusion_matrix`.
    """
    table = confusion_matrix(y, t, classes).astype(np.float64)
    right, predicted, present = np.diagonal(table), table.sum(axis=0), table.sum(axis=1)
    return Scores(
        _share(right, predicted),
        _share(right, present),
        _share(2 * right, predicted + present),
    )


def _share(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _classes(name: str, a: npt.ArrayLike) -> npt.NDArray[np.integer]:
    array = np.asarray(unwrapped(a))
    if array.ndim == 2 and array.shape[1] == 1:
        cure = "(y[:, 0] > 0).astype(int) for one logit, > 0.5 for one probability" if name == "y" else "t[:, 0]"
        raise ValueError(
            f"{name}: expected a column for each class, or (N,) of integers, got one column, shape {array.shape}, "
            f"whose largest entry says nothing; pass {cure}"
        )
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "biuf":
        classes: npt.NDArray[np.integer] = array.argmax(axis=1)
        return classes
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: expected shape (N, C), or (N,) of integers, got {array.dtype} of shape {array.shape}"
        )
    return array


def _mask(counted: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    mask = np.asarray(counted)
    if mask.dtype != bool:
        raise TypeError(f"counted: expected True or False for each row, got {mask.dtype} of shape {mask.shape}")
    if mask.shape != shape:
        raise ValueError(f"counted: expected shape {shape}, one entry for each row, got {mask.shape}")
    if not mask.any():
        raise ValueError(f"counted: expected at least one row that counts, got none of {len(mask)}")
    return mask
