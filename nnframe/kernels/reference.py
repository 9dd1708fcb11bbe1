"""Each kernel in readable NumPy: what the C must compute.

The tests compare every kernel with its reference here, and NNFRAME_KERNELS=reference runs nnframe on these instead.
Arguments have been checked by the caller; letters as in csrc/nnframe.h. Activations and differences have files of their
own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.kernels.reference_activations import activation, activation_backward, activation_difference
from nnframe.kernels.reference_differences import difference_curves, difference_gradient
from nnframe.kernels.reference_network import network_forward, network_gradient

__all__ = [
    "activation",
    "activation_backward",
    "activation_difference",
    "cross_entropy_targets",
    "difference_curves",
    "difference_gradient",
    "network_forward",
    "network_gradient",
    "optimizer_update",
    "product",
    "softmax",
    "softmax_cross_entropy",
]

Floats = npt.NDArray[np.floating]


def product(
    a: Floats, b: Floats, bias: Floats | None = None, name: str = "identity", alpha: float | None = None
) -> Floats:
    """C = f(A B + bias), (..., m, k) @ (..., k, n)."""
    c = np.matmul(a, b)
    return activation(name, c if bias is None else c + bias, alpha)


# ---- softmax and cross-entropy ----


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
    total = q.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = (x - x.max(axis=1, keepdims=True)).astype(np.float64)
        weighted = np.where(q > 0, q * shifted, 0)  # 0 * -inf counts for nothing
        losses = np.where(total > 0, total * np.log(np.exp(shifted).sum(axis=1)) - weighted.sum(axis=1), 0)
        return losses, (total[:, None] * softmax(x) - q).astype(x.dtype, copy=False)


# ---- optimizers ----


def optimizer_update(
    rule: str,
    w: Floats,
    g: Floats,
    m: Floats | None,
    s: Floats | None,
    rate: float,
    decay: float,
    shrink: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One optimizer step of one parameter w, in place; see `kernels.optimizer_update`."""
    kind = w.dtype.type
    g = g + kind(decay) * w
    if m is not None:
        m[...] = m + kind(1 - beta1) * (g - m) if rule == "adam" else kind(beta1) * m + g
    if s is not None:
        s[...] = s + g * g if rule == "adagrad" else s + kind(1 - beta2) * (g * g - s)
    direction = g if m is None else g + kind(beta1) * m if rule == "nesterov" else m
    w -= kind(shrink) * w
    w -= kind(rate) * direction if s is None else kind(rate) * direction / (np.sqrt(s) + kind(eps))
