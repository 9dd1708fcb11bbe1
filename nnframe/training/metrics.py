"""Measures of a trained model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


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
    positions = np.shape(y)[: max(1, np.ndim(y) - 1)]
    y, t = _positions(np.asarray(y), np.asarray(t))
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


def _classes(name: str, a: npt.ArrayLike) -> npt.NDArray[np.integer]:
    array = np.asarray(a)
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
