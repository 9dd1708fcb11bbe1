"""Each kernel in readable NumPy: what the C must compute.

The tests compare every kernel with its twin here, and NNFRAME_KERNELS=reference runs nnframe on the twins. Arguments
have been checked by the caller; letters as in csrc/nnframe.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def product(a: Floats, b: Floats, bias: Floats | None = None, name: str = "identity") -> Floats:
    """C = f(A B + bias), (..., m, k) @ (..., k, n)."""
    c = np.matmul(a, b)
    return activation(name, c if bias is None else c + bias)


# ---- softmax and cross-entropy ----


def softmax(x: Floats) -> Floats:
    """exp(x) / sum(exp(x)) a row."""
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis=1, keepdims=True))
    p: Floats = e / e.sum(axis=1, keepdims=True)
    return p


def softmax_cross_entropy(x: Floats, t: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], Floats]:
    """Losses (N,) and gradient (N, C) of each row; `t` holds class indices (N,) or targets (N, C)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = (x - x.max(axis=1, keepdims=True)).astype(np.float64)
        total = np.log(np.exp(shifted).sum(axis=1))
        gradient = softmax(x)
        if t.ndim == 1:
            rows = np.arange(len(x))
            gradient[rows, t] -= 1
            return total - shifted[rows, t], gradient
        weighted = np.where(t > 0, t * shifted, 0)  # 0 * -inf counts for nothing
        return total - weighted.sum(axis=1), gradient - t


# ---- activations ----


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), with exp of negative numbers only."""
    e = np.exp(-np.abs(x))
    y: Floats = np.where(x >= 0, 1, e) / (1 + e)
    return y


def _sigmoid_difference(x: Floats, y: Floats, d: Floats) -> Floats:
    # a(x+d) - a(x) = a(x+d) (1 - a(x)) (1 - exp(-d)), with the sign chosen so that exp does not overflow
    up = sigmoid(x + d) * sigmoid(-x) * -np.expm1(-np.maximum(d, 0))
    down = sigmoid(x) * sigmoid(-(x + d)) * np.expm1(np.minimum(d, 0))
    return np.where(d >= 0, up, down)


def _tanh_difference(x: Floats, y: Floats, d: Floats) -> Floats:
    # tanh(x) = 2 a(2x) - 1
    return 2 * _sigmoid_difference(2 * x, y, 2 * d)


def _relu_difference(x: Floats, y: Floats, d: Floats) -> Floats:
    moved = x + d
    both = np.where((x > 0) & (moved > 0), d, 0)
    difference: Floats = both + np.where((x > 0) & (moved <= 0), -x, 0) + np.where((x <= 0) & (moved > 0), moved, 0)
    return difference


def _step(x: Floats) -> Floats:
    return np.where(np.isnan(x), x, x > 0).astype(x.dtype)


_FORWARD: dict[str, Callable[[Floats], Floats]] = {
    "identity": lambda x: x,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "step": _step,
}
_DERIVATIVE: dict[str, Callable[[Floats, Floats], Floats]] = {
    "identity": lambda x, y: np.ones_like(x),
    "sigmoid": lambda x, y: y * sigmoid(-x),
    "tanh": lambda x, y: 4 * sigmoid(2 * x) * sigmoid(-2 * x),  # 1 - y^2 without cancellation
    "relu": lambda x, y: (x > 0).astype(x.dtype),
    "step": lambda x, y: np.zeros_like(x),
}
_DIFFERENCE: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "identity": lambda x, y, d: d,
    "sigmoid": _sigmoid_difference,
    "tanh": _tanh_difference,
    "relu": _relu_difference,
    "step": lambda x, y, d: _step(x + d) - y,
}


def activation(name: str, x: Floats, alpha: float = 0.0) -> Floats:
    """Y = f(x)."""
    return _FORWARD[name](x)


def activation_backward(name: str, x: Floats, y: Floats, dy: Floats, alpha: float = 0.0) -> Floats:
    """Dy * f'(x), where y = f(x)."""
    dx: Floats = dy * _DERIVATIVE[name](x, y)
    return dx


def activation_difference(name: str, x: Floats, y: Floats, dx: Floats, alpha: float = 0.0) -> Floats:
    """f(x + dx) - f(x), where y = f(x); dx (S, ...) or (...)."""
    return _DIFFERENCE[name](x, y, dx)
