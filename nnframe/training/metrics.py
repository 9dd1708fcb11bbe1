"""Measures of a trained model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def accuracy(y: npt.ArrayLike, t: npt.ArrayLike) -> float:
    """Share of rows whose class is right, in [0, 1].

    Parameters
    ----------
    y : array (N, C), or (N,) of integers
        Logits or probabilities, of which the largest is taken; or predicted classes.
    t : array (N,) of integers, or (N, C)
        Classes; or one-hot or soft labels, of which the largest is taken.

    Raises
    ------
    ValueError
        Shapes that do not fit, or no rows.
    """
    predicted, expected = _classes("y", y), _classes("t", t)
    if predicted.shape != expected.shape or len(predicted) == 0:
        raise ValueError(f"y, t: expected equally many rows, at least one, got shapes {np.shape(y)} and {np.shape(t)}")
    return float(np.mean(predicted == expected))


def _classes(name: str, a: npt.ArrayLike) -> npt.NDArray[np.integer]:
    array = np.asarray(a)
    if array.ndim == 2 and array.shape[1] > 0:
        classes: npt.NDArray[np.integer] = array.argmax(axis=1)
        return classes
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: expected shape (N, C), or (N,) of integers, got {array.dtype} of shape {array.shape}"
        )
    return array
