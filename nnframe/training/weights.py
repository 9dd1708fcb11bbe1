"""`sample_weight` and `class_weight`: both are a weight for each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]


def as_sample_weight(sample_weight: npt.ArrayLike, rows: int) -> Weights:
    """`sample_weight` as (N,) of finite numbers that are not negative, not all of them 0."""
    weights = np.asarray(sample_weight)
    if weights.dtype.kind not in "biuf":
        raise TypeError(f"sample_weight: expected numbers, got {weights.dtype}")
    weights = weights.astype(np.float64)
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight: expected shape {(rows,)}, one for each row, got {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError("sample_weight: expected finite numbers >= 0, not all of them 0")
    return weights


def of_classes(class_weight: Any, t: npt.NDArray[Any]) -> Weights:
    """Return the weight of each row's class, (N,).

    Parameters
    ----------
    class_weight : dict, array (C,), or "balanced"
        A class that a dict does not mention has the weight 1. "balanced": N / (C n_c), for n_c rows of a class of C
        that there are (scikit-learn).
    t : array (N,) of integers, of 0 and 1 of any dtype, (N, 1) likewise, or one-hot (N, C)
    """
    classes = _classes(t)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight: expected a dict, an array or 'balanced', got {class_weight!r}")
        there, counts = np.unique(classes, return_counts=True)
        class_weight = dict(zip(there.tolist(), len(classes) / (len(there) * counts), strict=True))
    largest = int(classes.max())
    if isinstance(class_weight, Mapping):
        strange = [key for key in class_weight if not isinstance(key, int | np.integer) or isinstance(key, bool)]
        if strange:
            raise TypeError(f"class_weight: expected classes, whole numbers, as keys, got {strange[0]!r}")
        table = np.ones(max(largest, *map(int, class_weight), 0) + 1)
        if min(map(int, class_weight), default=0) < 0:
            raise ValueError(f"class_weight: expected classes from 0 on, got {min(class_weight)}")
        for key, value in class_weight.items():
            table[key] = value
    else:
        table = np.asarray(class_weight, np.float64)
        if table.ndim != 1 or largest >= len(table):
            raise ValueError(f"class_weight: expected {largest + 1} weights or more, got shape {table.shape}")
    if not np.isfinite(table).all() or (table < 0).any():
        raise ValueError(f"class_weight: expected finite numbers >= 0, got {table.tolist()}")
    weights: Weights = table[classes]
    if not weights.any():
        raise ValueError("class_weight: expected a class with a weight above 0 among the labels")
    return weights


def _classes(t: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    if t.ndim == 2 and t.shape[1] > 1 and ((t == 0) | (t == 1)).all() and (t.sum(axis=1) == 1).all():
        one_hot: npt.NDArray[np.intp] = t.argmax(axis=1)
        return one_hot
    flat = t[:, 0] if t.ndim == 2 and t.shape[1] == 1 else t
    if flat.ndim != 1 or not (flat.dtype.kind in "biu" or ((flat == 0) | (flat == 1)).all()) or (flat < 0).any():
        raise ValueError(
            f"class_weight: expected a class for each row, (N,) of integers from 0 on or one-hot (N, C), got "
            f"{t.dtype} of shape {t.shape}; other labels take sample_weight"
        )
    return flat.astype(np.intp)
