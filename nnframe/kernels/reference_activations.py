"""The activations in readable NumPy: one record each, with its formula, its slope and its difference together.

Functions take arrays of one float dtype and the parameter alpha, last; y is f(x), d the change of x. Arguments have
been checked by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


class Activation(NamedTuple):
    """y = f(x), elementwise.

    forward : (x, alpha) -> f(x)
    slope : (x, y, alpha) -> f'(x)
    difference : (x, y, d, alpha) -> f(x + d) - f(x) without cancellation
    alpha : default of the parameter
    """

    forward: Callable[[Floats, float], Floats]
    slope: Callable[[Floats, Floats, float], Floats]
    difference: Callable[[Floats, Floats, Floats, float], Floats]
    alpha: float = 0.0


# ---- what several have in common ----


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), with exp of negative numbers only."""
    e = np.exp(-np.abs(x))
    y: Floats = np.where(x >= 0, 1, e) / (1 + e)
    return y


def _sigmoid_difference(x: Floats, d: Floats) -> Floats:
    # s(x+d) - s(x) = s(x+d) (1 - s(x)) (1 - exp(-d)), with the sign chosen so that exp does not overflow
    up = sigmoid(x + d) * sigmoid(-x) * -np.expm1(-np.maximum(d, 0))
    down = sigmoid(x) * sigmoid(-(x + d)) * np.expm1(np.minimum(d, 0))
    return np.where(d >= 0, up, down)


def _from_below(x: Floats) -> Floats:
    """`x`, but no less than -1000: there x g(x) is 0 already, and at -infinity the product would be NaN."""
    return np.maximum(x, -1000)


def _near(x: Floats) -> Floats:
    """`x` between -1000 and 1000: beyond, x g'(x) is 0, and at infinity the product would be NaN."""
    return np.clip(x, -1000, 1000)


# ---- the identity, and what is linear in pieces ----

IDENTITY = Activation(
    forward=lambda x, alpha: x,
    slope=lambda x, y, alpha: np.ones_like(x),
    difference=lambda x, y, d, alpha: d,
)


def _step(x: Floats, alpha: float) -> Floats:
    return np.where(np.isnan(x), x, x > 0).astype(x.dtype)


STEP = Activation(
    forward=_step,
    slope=lambda x, y, alpha: np.zeros_like(x),
    difference=lambda x, y, d, alpha: _step(x + d, alpha) - y,
)


def _relu_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    moved = x + d
    both = np.where((x > 0) & (moved > 0), d, 0)
    difference: Floats = both + np.where((x > 0) & (moved <= 0), -x, 0) + np.where((x <= 0) & (moved > 0), moved, 0)
    return difference


RELU = Activation(
    forward=lambda x, alpha: np.maximum(x, 0),
    slope=lambda x, y, alpha: (x > 0).astype(x.dtype),
    difference=_relu_difference,
)


def _leaky_relu_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    moved = x + d
    below = np.where(moved > 0, moved - alpha * x, alpha * d)
    return np.where(x > 0, np.where(moved > 0, d, alpha * moved - x), below)


LEAKY_RELU = Activation(
    forward=lambda x, alpha: np.where(x < 0, alpha * x, x),
    slope=lambda x, y, alpha: np.where(x > 0, 1, np.where(np.isnan(x), x, alpha)),
    difference=_leaky_relu_difference,
    alpha=0.01,
)

# ---- of exp alone ----

SIGMOID = Activation(
    forward=lambda x, alpha: sigmoid(x),
    slope=lambda x, y, alpha: y * sigmoid(-x),
    difference=lambda x, y, d, alpha: _sigmoid_difference(x, d),
)

TANH = Activation(
    forward=lambda x, alpha: np.tanh(x),
    slope=lambda x, y, alpha: 4 * sigmoid(2 * x) * sigmoid(-2 * x),  # 1 - y^2 without cancellation
    difference=lambda x, y, d, alpha: 2 * _sigmoid_difference(2 * x, 2 * d),  # tanh(x) = 2 s(2x) - 1
)


def _elu_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    # below 0: alpha exp(x) expm1(d), from the end whose exp is the larger
    moved = x + d
    low, high = np.minimum(x, 0), np.minimum(moved, 0)
    both = np.where(
        d > 0, -alpha * np.exp(high) * np.expm1(-np.maximum(d, 0)), alpha * np.exp(low) * np.expm1(np.minimum(d, 0))
    )
    below = np.where(moved > 0, moved - alpha * np.expm1(low), both)
    return np.where(x > 0, np.where(moved > 0, d, alpha * np.expm1(high) - x), below)


ELU = Activation(
    forward=lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    slope=lambda x, y, alpha: np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0))),
    difference=_elu_difference,
    alpha=1.0,
)

SILU = Activation(
    forward=lambda x, alpha: _from_below(x) * sigmoid(x),
    slope=lambda x, y, alpha: sigmoid(x) + _near(x) * sigmoid(x) * sigmoid(-x),
    difference=lambda x, y, d, alpha: d * sigmoid(x) + (x + d) * _sigmoid_difference(x, d),
)


def _softplus(x: Floats, alpha: float = 0.0) -> Floats:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def _softplus_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    # log1p(s(low) expm1(|d|)), low being the smaller end; else f(z) = z + f(-z) from the side that is small
    low, high = np.where(d >= 0, x, x + d), np.where(d >= 0, x + d, x)
    size = np.abs(d)
    near = np.log1p(sigmoid(low) * np.expm1(np.minimum(size, 80)))
    far = np.where(low < 0, _softplus(high) - _softplus(low), size + _softplus(-high) - _softplus(-low))
    return np.where(size < 80, near, far) * np.where(d >= 0, 1, -1)


SOFTPLUS = Activation(
    forward=_softplus,
    slope=lambda x, y, alpha: sigmoid(x),
    difference=_softplus_difference,
)

SELU_ALPHA = 1.6732632423543772848170429916717  # Klambauer et al. 2017, eq. 14
SELU_SCALE = 1.0507009873554804934193349852946

SELU = Activation(
    forward=lambda x, alpha: x.dtype.type(SELU_SCALE) * ELU.forward(x, SELU_ALPHA),
    slope=lambda x, y, alpha: SELU_SCALE * ELU.slope(x, y, SELU_ALPHA),
    difference=lambda x, y, d, alpha: SELU_SCALE * ELU.difference(x, y, d, SELU_ALPHA),
)


def _hardswish_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    # d (2 x + d + 3) / 6 in the middle, d on the right; between two pieces nothing cancels
    moved: Floats = x + d
    start, end = np.clip(x, -3, 3), np.clip(moved, -3, 3)
    inside: Floats = np.where((start == x) & (end == moved), d, end - start) * ((start + end + 3) / 6)
    outside = np.where(np.minimum(x, moved) >= 3, d, np.maximum(moved, 3) - np.maximum(x, 3))
    change: Floats = inside + outside
    return change


HARDSWISH = Activation(
    forward=lambda x, alpha: _from_below(x) * (np.clip(x + 3, 0, 6) / 6),
    slope=lambda x, y, alpha: np.where(x <= -3, 0, np.where(x >= 3, 1, (x + x + 3) / 6)),
    difference=_hardswish_difference,
)


def _mish_gate(x: Floats) -> tuple[Floats, Floats]:
    """tanh(log(1 + exp(x))) = E (E + 2) / (E (E + 2) + 2), E = exp(x), and its derivative."""
    e = np.exp(-np.abs(x))
    above = np.where(x < 0, e * (e + 2), 1 + 2 * e)
    below = np.where(x < 0, above + 2, above + 2 * e * e)
    return above / below, 4 * np.where(x < 0, e, e * e) * (1 + e) / (below * below)


def _mish_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    # (x + d) g(x + d) - x g(x) = d g(x) + (x + d) (g(x + d) - g(x)). From a up to b, with E = exp and r = 1 - g:
    # g(b) - g(a) = r(a) r(b) E(b) (1 - exp(a - b)) (E(a) + E(b) + 2) / 2
    a, b, fall = np.where(d >= 0, x, x + d), np.where(d >= 0, x + d, x), -np.expm1(-np.abs(d))
    ea, eb = np.exp(-np.abs(a)), np.exp(-np.abs(b))
    rest = np.where(a < 0, 2 / (ea * (ea + 2) + 2), 2 * ea * ea / (1 + 2 * ea * (1 + ea)))
    left, right = eb * (eb * (2 - fall) + 2) / (eb * (eb + 2) + 2), (2 - fall + 2 * eb) / (1 + 2 * eb * (1 + eb))
    change = rest * np.where(b < 0, left, right) * fall
    result: Floats = d * _mish_gate(x)[0] + (x + d) * np.where(d >= 0, change, -change)
    return result


MISH = Activation(
    forward=lambda x, alpha: _from_below(x) * _mish_gate(x)[0],
    slope=lambda x, y, alpha: _mish_gate(x)[0] + _near(x) * _mish_gate(x)[1],
    difference=_mish_difference,
)

# ---- of the normal distribution ----

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
    d64 = d.astype(np.float64)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    inside = sum(w * _normal_density(wide + d64 * ((1 + n) / 2)) for n, w in zip(nodes, weights, strict=True)) * d64 / 2
    right = 2 * wide + d64 > 0
    low, high = np.where(right, -(wide + d64), wide), np.where(right, -wide, wide + d64)
    change = np.where(np.abs(d64) < 1, inside, _normal_cdf(high) - _normal_cdf(low))
    result: Floats = (d64 * _normal_cdf(wide) + (wide + d64) * change).astype(x.dtype)
    return result


GELU = Activation(
    forward=lambda x, alpha: _from_below(x) * _normal_cdf(x),
    slope=lambda x, y, alpha: _normal_cdf(x) + _near(x) * _normal_density(_near(x)),
    difference=_gelu_difference,
)


def _gelu_tanh_argument(x: Floats) -> Floats:
    z: Floats = x.dtype.type(2 * math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
    return z


def _gelu_tanh_slope(x: Floats, y: Floats, alpha: float) -> Floats:
    near = _near(x)
    z = _gelu_tanh_argument(near)
    slope_of_z = x.dtype.type(2 * math.sqrt(2 / math.pi)) * (1 + x.dtype.type(0.134145) * near * near)
    return sigmoid(z) + near * slope_of_z * sigmoid(z) * sigmoid(-z)


def _gelu_tanh_difference(x: Floats, y: Floats, d: Floats, alpha: float) -> Floats:
    moved, kind = x + d, x.dtype.type
    dz = kind(2 * math.sqrt(2 / math.pi)) * d * (1 + kind(0.044715) * (x * x + x * moved + moved * moved))
    z = _gelu_tanh_argument(x)
    return d * sigmoid(z) + moved * _sigmoid_difference(z, dz)


GELU_TANH = Activation(
    forward=lambda x, alpha: _from_below(x) * sigmoid(_gelu_tanh_argument(_from_below(x))),
    slope=_gelu_tanh_slope,
    difference=_gelu_tanh_difference,
)

ACTIVATIONS = {
    "identity": IDENTITY,
    "sigmoid": SIGMOID,
    "tanh": TANH,
    "relu": RELU,
    "step": STEP,
    "leaky_relu": LEAKY_RELU,
    "elu": ELU,
    "gelu": GELU,
    "gelu_tanh": GELU_TANH,
    "silu": SILU,
    "softplus": SOFTPLUS,
    "hardswish": HARDSWISH,
    "mish": MISH,
    "selu": SELU,
}


def activation(name: str, x: Floats, alpha: float | None = None) -> Floats:
    """y = f(x)."""
    f = ACTIVATIONS[name]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return f.forward(x, f.alpha if alpha is None else alpha).astype(x.dtype, copy=False)


def activation_backward(name: str, x: Floats, y: Floats, dy: Floats, alpha: float | None = None) -> Floats:
    """Dy * f'(x), where y = f(x)."""
    f = ACTIVATIONS[name]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return (dy * f.slope(x, y, f.alpha if alpha is None else alpha)).astype(x.dtype, copy=False)


def activation_difference(name: str, x: Floats, y: Floats, dx: Floats, alpha: float | None = None) -> Floats:
    """f(x + dx) - f(x), where y = f(x); dx (S, ...) or (...)."""
    f = ACTIVATIONS[name]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return f.difference(x, y, dx, f.alpha if alpha is None else alpha).astype(x.dtype, copy=False)
