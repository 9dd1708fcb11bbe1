"""Each kernel in readable NumPy: what the C must compute.

The tests compare every kernel with its twin here, and NNFRAME_KERNELS=reference runs nnframe on the twins. Arguments
have been checked by the caller; letters as in csrc/nnframe.h.
"""

from __future__ import annotations

import math
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


def cross_entropy_targets(
    classes: int,
    t: npt.NDArray[Any],
    weight: Floats | None = None,
    smoothing: float = 0.0,
    ignored: int | None = None,
) -> npt.NDArray[np.float64]:
    """Q (N, C), weight_c ((1 - smoothing) t_c + smoothing / C), for class indices (N,) or targets (N, C)."""
    keep = np.ones(len(t), bool) if ignored is None or t.ndim == 2 else t != ignored
    if t.ndim == 1:
        one_hot = np.zeros((len(t), classes))
        one_hot[keep, t[keep]] = 1
        t = one_hot
    q = (1 - smoothing) * t + smoothing / classes
    weighted: npt.NDArray[np.float64] = (q if weight is None else q * weight) * keep[:, None]
    return weighted


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


def _step(x: Floats, alpha: float) -> Floats:
    return np.where(np.isnan(x), x, x > 0).astype(x.dtype)


def _leaky_relu_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    moved = x + d
    below = np.where(moved > 0, moved - alpha * x, alpha * d)
    return np.where(x > 0, np.where(moved > 0, d, alpha * moved - x), below)


def _elu_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    # below 0: alpha exp(x) expm1(d), from the end whose exp is the larger
    moved = x + d
    low, high = np.minimum(x, 0), np.minimum(moved, 0)
    both = np.where(
        d > 0, -alpha * np.exp(high) * np.expm1(-np.maximum(d, 0)), alpha * np.exp(low) * np.expm1(np.minimum(d, 0))
    )
    below = np.where(moved > 0, moved - alpha * np.expm1(low), both)
    return np.where(x > 0, np.where(moved > 0, d, alpha * np.expm1(high) - x), below)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _normal_cdf(x: Floats) -> Floats:
    cdf: Floats = (_erfc(x * -math.sqrt(0.5)) / 2).astype(x.dtype) if x.size else x
    return cdf


def _normal_density(x: Floats) -> Floats:
    density: Floats = np.exp(-0.5 * x * x) * x.dtype.type(math.sqrt(0.5 / math.pi))
    return density


def _gelu_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    # (x + d) P(x + d) - x P(x) = d P(x) + (x + d) (P(x + d) - P(x)), this by Gauss-Legendre or from the tail
    wide = x.astype(np.float64)
    d64 = np.broadcast_to(d.astype(np.float64), d.shape)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    inside = sum(w * _normal_density(wide + d64 * ((1 + n) / 2)) for n, w in zip(nodes, weights, strict=True)) * d64 / 2
    right = 2 * wide + d64 > 0
    low, high = np.where(right, -(wide + d64), wide), np.where(right, -wide, wide + d64)
    change = np.where(np.abs(d64) < 1, inside, _normal_cdf(high) - _normal_cdf(low))
    result: Floats = (d64 * _normal_cdf(wide) + (wide + d64) * change).astype(x.dtype)
    return result


def _gelu_tanh_argument(x: Floats) -> Floats:
    z: Floats = x.dtype.type(2 * math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
    return z


def _gelu_tanh_derivative(x: Floats, y: Floats, alpha: float) -> Floats:
    z, near = _gelu_tanh_argument(x), _near(x)
    slope = x.dtype.type(2 * math.sqrt(2 / math.pi)) * (1 + x.dtype.type(0.134145) * near * near)
    return sigmoid(z) + near * slope * sigmoid(z) * sigmoid(-z)


def _gelu_tanh_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    moved, kind = x + d, x.dtype.type
    dz = kind(2 * math.sqrt(2 / math.pi)) * d * (1 + kind(0.044715) * (x * x + x * moved + moved * moved))
    z = _gelu_tanh_argument(x)
    return d * sigmoid(z) + moved * _sigmoid_difference(z, y, dz)


def _near(x: Floats) -> Floats:
    """`x` held to where x g(x) is not yet 0: at infinity the product would be NaN."""
    return np.clip(x, -1000, 1000)


def _softplus(x: Floats) -> Floats:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def _softplus_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    # log1p(s(low) expm1(|d|)), low being the smaller end; far apart, f(z) = z + f(-z) from the side that is small
    low, high = np.where(d >= 0, x, x + d), np.where(d >= 0, x + d, x)
    size = np.abs(d)
    near = np.log1p(sigmoid(low) * np.expm1(np.minimum(size, 80)))
    far = np.where(low < 0, _softplus(high) - _softplus(low), size + _softplus(-high) - _softplus(-low))
    return np.where(size < 80, near, far) * np.where(d >= 0, 1, -1)


_FORWARD: dict[str, Callable[[Floats, float], Floats]] = {
    "identity": lambda x, a: x,
    "sigmoid": lambda x, a: sigmoid(x),
    "tanh": lambda x, a: np.tanh(x),
    "relu": lambda x, a: np.maximum(x, 0),
    "step": _step,
    "leaky_relu": lambda x, a: np.where(x < 0, a * x, x),
    "elu": lambda x, a: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
    "gelu": lambda x, a: np.maximum(x, -1000) * _normal_cdf(x),
    "gelu_tanh": lambda x, a: np.maximum(x, -1000) * sigmoid(_gelu_tanh_argument(np.maximum(x, -1000))),
    "silu": lambda x, a: np.maximum(x, -1000) * sigmoid(x),
    "softplus": lambda x, a: _softplus(x),
}
_DERIVATIVE: dict[str, Callable[[Floats, Floats, float], Floats]] = {
    "identity": lambda x, y, a: np.ones_like(x),
    "sigmoid": lambda x, y, a: y * sigmoid(-x),
    "tanh": lambda x, y, a: 4 * sigmoid(2 * x) * sigmoid(-2 * x),  # 1 - y^2 without cancellation
    "relu": lambda x, y, a: (x > 0).astype(x.dtype),
    "step": lambda x, y, a: np.zeros_like(x),
    "leaky_relu": lambda x, y, a: np.where(x > 0, 1, np.where(np.isnan(x), x, a)),
    "elu": lambda x, y, a: np.where(x > 0, 1, a * np.exp(np.minimum(x, 0))),
    "gelu": lambda x, y, a: _normal_cdf(x) + _near(x) * _normal_density(_near(x)),
    "gelu_tanh": lambda x, y, a: _gelu_tanh_derivative(_near(x), y, a),
    "silu": lambda x, y, a: sigmoid(x) + _near(x) * sigmoid(x) * sigmoid(-x),
    "softplus": lambda x, y, a: sigmoid(x),
}
_DIFFERENCE: dict[str, Callable[[Floats, Floats, Floats, float], Floats]] = {
    "identity": lambda x, y, d, a: d,
    "sigmoid": lambda x, y, d, a: _sigmoid_difference(x, y, d),
    "tanh": lambda x, y, d, a: _tanh_difference(x, y, d),
    "relu": lambda x, y, d, a: _relu_difference(x, y, d),
    "step": lambda x, y, d, a: _step(x + d, a) - y,
    "leaky_relu": _leaky_relu_difference,
    "elu": _elu_difference,
    "gelu": _gelu_difference,
    "gelu_tanh": _gelu_tanh_difference,
    "silu": lambda x, y, d, a: d * sigmoid(x) + (x + d) * _sigmoid_difference(x, y, d),
    "softplus": _softplus_difference,
}


def activation(name: str, x: Floats, alpha: float = 0.0) -> Floats:
    """Y = f(x)."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return _FORWARD[name](x, alpha).astype(x.dtype, copy=False)


def activation_backward(name: str, x: Floats, y: Floats, dy: Floats, alpha: float = 0.0) -> Floats:
    """Dy * f'(x), where y = f(x)."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return (dy * _DERIVATIVE[name](x, y, alpha)).astype(x.dtype, copy=False)


def activation_difference(name: str, x: Floats, y: Floats, dx: Floats, alpha: float = 0.0) -> Floats:
    """f(x + dx) - f(x), where y = f(x); dx (S, ...) or (...)."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return _DIFFERENCE[name](x, y, dx, alpha).astype(x.dtype, copy=False)


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
    """One step of one parameter w, in place; see `kernels.optimizer_update`."""
    kind = w.dtype.type
    g = g + kind(decay) * w
    if m is not None:
        m[...] = m + kind(1 - beta1) * (g - m) if rule == "adam" else kind(beta1) * m + g
    if s is not None:
        s[...] = s + g * g if rule == "adagrad" else s + kind(1 - beta2) * (g * g - s)
    direction = g if m is None else g + kind(beta1) * m if rule == "nesterov" else m
    w -= kind(shrink) * w
    w -= kind(rate) * direction if s is None else kind(rate) * direction / (np.sqrt(s) + kind(eps))
