"""Each kernel in readable NumPy: what the C must compute.

The tests compare every kernel with its reference here, and NNFRAME_KERNELS=reference runs nnframe on these instead.
Arguments have been checked by the caller; letters as in csrc/nnframe.h. Activations, losses and differences have files
of their own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnframe.kernels.reference_activations import activation, activation_backward, activation_difference
from nnframe.kernels.reference_changes import central_quotients, change_quotients, moved_copies
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
from nnframe.kernels.reference_differences import difference_curves, difference_gradient, selected_products
from nnframe.kernels.reference_losses import cross_entropy_targets, softmax, softmax_cross_entropy
from nnframe.kernels.reference_network import network_forward, network_gradient

__all__ = [
    "activation",
    "activation_backward",
    "activation_difference",
    "central_quotients",
    "change_quotients",
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
    "moved_copies",
    "network_forward",
    "network_gradient",
    "optimizer_update",
    "product",
    "selected_products",
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
