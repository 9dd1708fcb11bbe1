"""Each kernel in readable NumPy: what the C must compute.

The tests compare every kernel with its reference here, and NNFRAME_KERNELS=reference runs nnframe on these instead.
Arguments have been checked by the caller; letters as in csrc/nnframe.h. Activations, losses and differences have files
of their own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnframe.kernels.reference_activations import activation, activation_backward, activation_difference
from nnframe.kernels.reference_attention import attention, attention_backward
from nnframe.kernels.reference_differences import difference_curves, difference_gradient, selected_products
from nnframe.kernels.reference_losses import cross_entropy_targets, softmax, softmax_cross_entropy
from nnframe.kernels.reference_network import network_forward, network_gradient
from nnframe.kernels.reference_recurrent import recurrent, recurrent_backward

__all__ = [
    "activation",
    "activation_backward",
    "activation_difference",
    "attention",
    "attention_backward",
    "cross_entropy_targets",
    "difference_curves",
    "difference_gradient",
    "network_forward",
    "network_gradient",
    "optimizer_update",
    "product",
    "recurrent",
    "recurrent_backward",
    "selected_products",
    "softmax",
    "softmax_cross_entropy",
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


# ---- random numbers ----


def uniform(keys: npt.NDArray[np.uint64], columns: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), (rows, columns): hashes of the row's key and the column; see `kernels.uniform`."""
    with np.errstate(over="ignore"):
        z = keys[:, None] + np.arange(1, columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: npt.NDArray[np.float64] = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)) * 2.0**-24
    return found
