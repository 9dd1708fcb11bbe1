"""Softmax and cross-entropy in readable NumPy: what losses.inc.h in csrc must compute.

q (N, C) holds the targets: a row's loss is sum_c q_c (log(sum_k exp(x_k)) - x_c), whatever its q add up to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.kernels.reference_activations import Floats


def softmax(x: Floats) -> Floats:
    """exp(x) / sum(exp(x)) per row."""
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis=1, keepdims=True))
    p: Floats = e / e.sum(axis=1, keepdims=True)
    return p


def cross_entropy_targets(
    classes: int,
    t: npt.NDArray[Any],
    weight: Floats | None = None,
    smoothing: float = 0.0,
    ignored: int | None = None,
) -> npt.NDArray[np.float64]:
    """Q (N, C), weight_c ((1 - smoothing) t_c + smoothing / C), for class indices (N,) or targets (N, C)."""
    ignore = ignored is not None and t.ndim == 1
    if t.ndim == 1:
        rows = np.flatnonzero(t != ignored) if ignore else np.arange(len(t))
        q = np.zeros((len(t), classes))
        q[rows, t[rows]] = 1
    else:
        q = t.astype(np.float64, copy=False)
    if smoothing:
        q = (1 - smoothing) * q + smoothing / classes
    if weight is not None:
        q = q * weight
    if ignore and smoothing:
        q[t == ignored] = 0
    return q


def softmax_cross_entropy(
    x: Floats,
    t: npt.NDArray[Any],
    weight: Floats | None = None,
    smoothing: float = 0.0,
    ignored: int | None = None,
) -> tuple[npt.NDArray[np.float64], Floats]:
    """Losses (N,) and gradient (N, C) of each row; `t` holds class indices (N,) or targets (N, C)."""
    q = cross_entropy_targets(x.shape[1], t, weight, smoothing, ignored)
    losses, gradient = cross_entropy_rows(x, q)
    return losses, gradient.astype(x.dtype, copy=False)


def cross_entropy_rows(
    x: Floats, q: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """sum_c q_c (log(sum_k exp(x_k)) - x_c) of each row, (N,), and its gradient (N, C), without cancellation.

    The sum runs over all classes but that with the largest logit: 1 - p of this one is what the others add up to.
    """
    every, lead = np.arange(len(x)), x.argmax(axis=1)
    with np.errstate(invalid="ignore"):
        behind = x.astype(np.float64) - x.max(axis=1, keepdims=True).astype(np.float64)
        e = np.exp(behind)
        others, q_others = e.copy(), q.copy()
        others[every, lead] -= 1  # 0, or NaN
        q_others[every, lead] = 0
        rest, total = others.sum(axis=1), q.sum(axis=1)
        weighted = np.where(q > 0, q * behind, 0)  # 0 * -inf counts for nothing
        losses = total * np.log1p(rest) - weighted.sum(axis=1)
        gradient = total[:, None] * e / (1 + rest[:, None]) - q
        near_one = q_others.sum(axis=1) - total * rest / (1 + rest)
        gradient[every, lead] = np.where(rest < 1, near_one, gradient[every, lead])
    empty = total == 0
    losses[empty], gradient[empty] = 0, 0
    return losses, gradient
