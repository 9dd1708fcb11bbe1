"""Each kernel in readable NumPy: what the C must compute.

The tests compare every kernel with its reference here, and NNFRAME_KERNELS=reference runs nnframe on these instead.
Arguments have been checked by the caller; letters as in csrc/nnframe.h. Activations, losses and differences have files
of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.kernels.reference_activations import activation, activation_backward, activation_difference
from nnframe.kernels.reference_attention import attention, attention_backward
from nnframe.kernels.reference_changes import (
    central_quotients,
    change_quotients,
    measured_slopes,
    moved_along,
    moved_copies,
)
from nnframe.kernels.reference_convolution import (
    convolution,
    convolution_difference,
    convolution_input_gradient,
    convolution_weight_gradient,
    max_pooling,
    max_pooling_backward,
    max_pooling_difference,
    mean_pooling,
    mean_pooling_backward,
)
from nnframe.kernels.reference_differences import (
    difference_curves,
    difference_gradient,
    selected_products,
    sparse_product,
)
from nnframe.kernels.reference_losses import cross_entropy_targets, softmax, softmax_cross_entropy
from nnframe.kernels.reference_network import chosen_entries, network_forward, network_gradient
from nnframe.kernels.reference_normalization import batch_norm, batch_norm_backward
from nnframe.kernels.reference_recurrent import recurrent, recurrent_backward, recurrent_change

__all__ = [
    "activation",
    "activation_backward",
    "activation_difference",
    "attention",
    "attention_backward",
    "batch_norm",
    "batch_norm_backward",
    "central_quotients",
    "change_quotients",
    "chosen_entries",
    "convolution",
    "convolution_difference",
    "convolution_input_gradient",
    "convolution_weight_gradient",
    "cross_entropy_targets",
    "difference_curves",
    "difference_gradient",
    "max_pooling",
    "max_pooling_backward",
    "max_pooling_difference",
    "mean_pooling",
    "mean_pooling_backward",
    "measured_slopes",
    "moved_along",
    "moved_copies",
    "network_forward",
    "network_gradient",
    "optimizer_update",
    "product",
    "recurrent",
    "recurrent_backward",
    "recurrent_change",
    "selected_products",
    "softmax",
    "softmax_cross_entropy",
    "sparse_product",
    "uniform",
]

Floats = npt.NDArray[np.floating]


def product(
    a: Floats, b: Floats, bias: Floats | None = None, name: str = "identity", alpha: float | None = None
) -> Floats:
    """C = f(A B + bias), (..., m, k) @ (..., k, n)."""
    c = np.matmul(a, b)
    return activation(name, c if bias is None else c + bias, alpha)


# ---- optimizers ----


def optimizer_update(
    rule: str,
    w: Floats,
    g: Floats,
    m: Floats | None,
    s: Floats | None,
    k: Floats | None = None,
    rate: float = 0.0,
    decay: float = 0.0,
    shrink: float = 0.0,
    beta1: float = 0.0,
    beta2: float = 0.0,
    eps: float = 0.0,
    gain: float = 1.0,
) -> None:
    """One optimizer step of one parameter w, in place; see `kernels.optimizer_update`."""
    kind = w.dtype.type
    g = g + kind(decay) * w
    w -= kind(shrink) * w
    if rule == "rprop":
        assert m is not None
        assert s is not None
        _rprop(w, g, m, s, beta1, beta2, eps, gain)
        return
    direction: Floats = g
    if m is not None:
        direction = _direction(rule, g, m, kind(beta1), kind(1 - beta1), kind(1 - beta2), kind(gain))
    if s is None:
        w -= kind(rate) * direction
        return
    s[...] = s + g * g if rule == "adagrad" else s + kind(1 - beta2) * (g * g - s)
    under: Floats = s
    if rule == "amsgrad":
        assert k is not None
        under = k[...] = np.maximum(k, s)
    if rule.startswith("centered"):
        assert m is not None
        under = np.maximum(s - m * m, 0)
    root = kind(gain) * np.sqrt(under) if rule == "radam" else np.sqrt(under)
    if rule.endswith("_momentum"):
        kept = m if k is None else k
        assert kept is not None
        kept[...] = kind(beta1) * kept + g / (root + kind(eps))
        w -= kind(rate) * kept
        return
    w -= kind(rate) * direction / (root + kind(eps))


def _direction(rule: str, g: Floats, m: Floats, beta1: Any, rest1: Any, rest2: Any, gain: Any) -> Floats:
    """Change m, and return the direction of the step."""
    if rule == "lion":
        way: Floats = np.sign(m + rest1 * (g - m))
        m[...] = m + rest2 * (g - m)
        return way
    if rule == "rmsprop_momentum":  # which comes after s
        return g
    if rule.startswith("centered"):
        m[...] = m + rest2 * (g - m)
        return g
    if rule in ("momentum", "nesterov"):
        m[...] = beta1 * m + (gain * g if rule == "momentum" else g)
        return g + beta1 * m if rule == "nesterov" else m
    m[...] = m + rest1 * (g - m)
    return m + gain * g if rule == "nadam" else m


def _rprop(
    w: Floats, g: Floats, m: Floats, s: Floats, shorter: float, longer: float, least: float, most: float
) -> None:
    """Each entry has a step s of its own, longer where the gradient keeps its sign, shorter where that changes."""
    kind, product = w.dtype.type, g * m
    factor = np.where(product > 0, kind(longer), np.where(product < 0, kind(shorter), kind(1)))
    s[...] = np.clip(s * factor, kind(least), kind(most))
    m[...] = np.where(product < 0, 0, g)
    w -= s * np.sign(m)


# ---- random numbers ----


def uniform(keys: npt.NDArray[np.uint64], columns: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), (rows, columns): hashes of the row's key and the column; see `kernels.uniform`."""
    with np.errstate(over="ignore"):
        z = keys[:, None] + np.arange(1, columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: npt.NDArray[np.float64] = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)) * 2.0**-24
    return found
