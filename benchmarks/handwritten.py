"""Layers in plain NumPy as people write them: pairs of a forward, which keeps a cache, and a backward.

Each pair is right; `mistakes.py` makes it wrong. The forwards take complex numbers too, so that a complex step (Squire
and Trapp 1998) gives their derivative to rounding, without a word from the backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import nnframe as nn

Array = np.ndarray
Pair = tuple[Callable[..., Any], Callable[..., Any]]
EPS = 0.1  # of the normalizations: large, so that where it stands is seen


class Handwritten(nn.Layer):
    """A layer made of such a pair; its parameters are the arguments of `forward` after x."""

    def __init__(self, pair: Pair, dtype: Any = np.float64, **parameters: Any) -> None:
        self.function, self.derivative = pair
        self.names = tuple(parameters)
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value, dtype))

    def forward(self, x: Array) -> Array:
        return self.forward_saving(x)[0]

    def forward_saving(self, x: Array) -> tuple[Array, Any]:
        return self.function(x, *(getattr(self, name).value for name in self.names))

    def backward(self, x: Array, y: Array, dy: Array, saved: Any) -> Array:
        found = self.derivative(dy, saved)
        dx, *gradients = found if isinstance(found, tuple) else (found,)
        for name, gradient in zip(self.names, gradients, strict=True):
            getattr(self, name).grad += gradient
        return dx

    def __repr__(self) -> str:
        return f"Handwritten({self.function.__name__})"


# ---- one input ----


def affine(x: Array, w: Array, b: Array) -> Any:  # (N, I), (O, I), (O,)
    return x @ w.T + b, (x, w)


def affine_backward(dy: Array, cache: Any) -> Any:
    x, w = cache
    return dy @ w, dy.T @ x, dy.sum(axis=0)


def scale(x: Array, w: Array, b: Array) -> Any:  # (N, C), (C,), (C,)
    return x * w + b, (x, w)


def scale_backward(dy: Array, cache: Any) -> Any:
    x, w = cache
    return dy * w, (dy * x).sum(axis=0), dy.sum(axis=0)


def softmax(x: Array) -> Any:
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))
    y = e / e.sum(axis=-1, keepdims=True)
    return y, (y,)


def softmax_backward(dy: Array, cache: Any) -> Any:
    (y,) = cache
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


def cumsum(x: Array) -> Any:
    return np.cumsum(x, axis=1), ()


def cumsum_backward(dy: Array, cache: Any) -> Any:
    return np.cumsum(dy[:, ::-1], axis=1)[:, ::-1]


def delay(x: Array) -> Any:
    y = np.zeros_like(x)
    y[:, 1:] = x[:, :-1]
    return y, ()


def delay_backward(dy: Array, cache: Any) -> Any:
    dx = np.zeros_like(dy)
    dx[:, :-1] = dy[:, 1:]
    return dx


def mean_pool(x: Array) -> Any:  # (N, T, D) to (N, D)
    return x.mean(axis=1), x.shape


def mean_pool_backward(dy: Array, shape: Any) -> Any:
    return np.broadcast_to(dy[:, None] / shape[1], shape).copy()


def max_pool(x: Array) -> Any:  # (N, C, 2 L) to (N, C, L)
    pairs = x.reshape(*x.shape[:2], -1, 2)
    first = pairs[..., 0].real >= pairs[..., 1].real
    return np.where(first, pairs[..., 0], pairs[..., 1]), (x.shape, first)


def max_pool_backward(dy: Array, cache: Any) -> Any:
    shape, first = cache
    return np.stack([dy * first, dy * ~first], axis=-1).reshape(shape)


def convolution(x: Array, w: Array, b: Array) -> Any:  # (N, C, L), (O, C, K), (O,) to (N, O, L - K + 1)
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2], axis=2)
    return np.einsum("nclk,ock->nol", windows, w) + b[:, None], (x, w)


def convolution_backward(dy: Array, cache: Any) -> Any:
    x, w = cache
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2], axis=2)
    dx = np.zeros(x.shape, dy.dtype)
    for k in range(w.shape[2]):
        dx[:, :, k : k + dy.shape[2]] += np.einsum("nol,oc->ncl", dy, w[:, :, k])
    return dx, np.einsum("nol,nclk->ock", dy, windows), dy.sum(axis=(0, 2))


def recurrent(x: Array, u: Array, w: Array, b: Array) -> Any:  # (N, T, D), (H, D), (H, H), (H,) to the last state
    states = [np.zeros((len(x), len(b)), np.result_type(x, w))]
    for t in range(x.shape[1]):
        states.append(np.tanh(x[:, t] @ u.T + states[-1] @ w.T + b))
    return states[-1], (x, u, w, states)


def recurrent_backward(dy: Array, cache: Any, through_time: bool = True) -> Any:
    x, u, w, states = cache
    dx, du, dw, db = np.zeros(x.shape, dy.dtype), np.zeros_like(u), np.zeros_like(w), np.zeros(len(w), w.dtype)
    dh = dy
    for t in reversed(range(x.shape[1])):
        da = dh * (1 - states[t + 1] ** 2)
        dx[:, t] = da @ u
        du += da.T @ x[:, t]
        dw += da.T @ states[t]
        db += da.sum(axis=0)
        if not through_time:
            break
        dh = da @ w
    return dx, du, dw, db


def attention(
    x: Array, q: Array, k: Array, v: Array, kb: Array
) -> Any:  # (N, T, D), (D, D) thrice, the keys' bias (D,)
    queries, keys, values = x @ q, x @ k + kb, x @ v
    scores = queries @ keys.swapaxes(1, 2) / np.sqrt(len(q))
    p, _ = softmax(scores)
    return p @ values, (x, q, k, v, queries, keys, values, p)


def attention_backward(dy: Array, cache: Any, temperature: bool = True) -> Any:
    x, q, k, v, queries, keys, values, p = cache
    dvalues = p.swapaxes(1, 2) @ dy
    dscores = softmax_backward(dy @ values.swapaxes(1, 2), (p,)) / (np.sqrt(len(q)) if temperature else 1)
    dqueries, dkeys = dscores @ keys, dscores.swapaxes(1, 2) @ queries
    sums = [np.einsum("nti,ntj->ij", x, g) for g in (dqueries, dkeys, dvalues)]
    return dqueries @ q.T + dkeys @ k.T + dvalues @ v.T, *sums, dkeys.sum(axis=(0, 1))


def gate(x: Array) -> Any:  # (N, 2 H) to (N, H)
    a, b = np.split(x, 2, axis=1)
    s = 1 / (1 + np.exp(-b))
    return a * s, (a, s)


def gate_backward(dy: Array, cache: Any) -> Any:
    a, s = cache
    return np.concatenate([dy * s, dy * a * s * (1 - s)], axis=1)


def unit_rows(x: Array) -> Any:
    length = np.sqrt((x * x).sum(axis=1, keepdims=True))
    return x / length, (x / length, length)


def unit_rows_backward(dy: Array, cache: Any) -> Any:
    y, length = cache
    return (dy - y * (dy * y).sum(axis=1, keepdims=True)) / length


def quadratic(x: Array, a: Array) -> Any:  # x^T A x for each row, to (N, 1)
    return np.einsum("ni,ij,nj->n", x, a, x)[:, None], (x, a)


def quadratic_backward(dy: Array, cache: Any) -> Any:
    x, a = cache
    return dy * (x @ a.T + x @ a), np.einsum("no,ni,nj->ij", dy, x, x)


def cube(x: Array) -> Any:
    return x**3, x


def cube_backward(dy: Array, x: Array) -> Any:
    return dy * 3 * x**2


def sine(x: Array) -> Any:  # of angles in turns
    return np.sin(2 * np.pi * x), x


def sine_backward(dy: Array, x: Array) -> Any:
    return dy * 2 * np.pi * np.cos(2 * np.pi * x)


def absolute(x: Array) -> Any:
    return np.where(x.real < 0, -x, x), x


def absolute_backward(dy: Array, x: Array) -> Any:
    return dy * np.sign(x)


def clip(x: Array) -> Any:
    return np.where(np.abs(x.real) <= 1, x, np.sign(x.real)), x


def clip_backward(dy: Array, x: Array) -> Any:
    return dy * (np.abs(x) < 1)


def sigmoid(x: Array) -> Any:
    y = 1 / (1 + np.exp(-x))
    return y, y


def sigmoid_backward(dy: Array, y: Array) -> Any:
    return dy * y * (1 - y)


def normalize(axis: int) -> Pair:
    """Batch (axis 0) or layer (axis 1) normalization of x (N, C) with scale and shift."""

    def forward(x: Array, w: Array, b: Array) -> Any:
        d = x - x.mean(axis=axis, keepdims=True)
        a = np.sqrt((d * d).mean(axis=axis, keepdims=True) + EPS)
        return d / a * w + b, (x, d, a, w)

    def backward(dy: Array, cache: Any) -> Any:
        _, d, a, w = cache
        return normalized_input(dy * w, d, a, axis), (dy * d / a).sum(axis=0), dy.sum(axis=0)

    forward.__name__ = ("batch", "layer")[axis] + "_norm"
    return forward, backward


def normalized_input(g: Array, d: Array, a: Array, axis: int, mean: bool = True, variance: bool = True) -> Array:
    """Return the gradient of x behind d / a; `mean` and `variance`: whether what passes through each is counted."""
    dx = g
    if mean:
        dx = dx - g.mean(axis=axis, keepdims=True)
    if variance:
        dx = dx - d / a**2 * (g * d).mean(axis=axis, keepdims=True)
    return dx / a


# ---- several inputs, as plain functions ----


def product(x: Array, y: Array) -> Any:
    return x * y, (x, y)


def product_backward(dz: Array, cache: Any) -> Any:
    x, y = cache
    return dz * y, dz * x


def matmul(a: Array, b: Array) -> Any:
    return a @ b, (a, b)


def matmul_backward(dc: Array, cache: Any) -> Any:
    a, b = cache
    return dc @ b.T, a.T @ dc


def add_row(x: Array, b: Array) -> Any:  # (N, C), (C,)
    return np.tanh(x) + b, x


def add_row_backward(dy: Array, x: Array) -> Any:
    return dy * (1 - np.tanh(x) ** 2), dy.sum(axis=0)


def times_column(x: Array, c: Array) -> Any:  # (N, C), (N, 1)
    return x * c, (x, c)


def times_column_backward(dy: Array, cache: Any) -> Any:
    x, c = cache
    return dy * c, (dy * x).sum(axis=1, keepdims=True)


def quotient(x: Array, y: Array) -> Any:
    return x / y, (x, y)


def quotient_backward(dz: Array, cache: Any) -> Any:
    x, y = cache
    return dz / y, -dz * x / y**2
