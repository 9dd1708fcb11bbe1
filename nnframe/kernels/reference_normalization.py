"""Batch normalisation of images in NumPy: the references of csrc/normalization.inc.h."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def _over(x: Floats) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _spread(values: Any, x: Floats) -> Any:
    return values.reshape(-1, *[1] * (x.ndim - 2))


def batch_norm(x: Floats, weight: Floats | None, bias: Floats | None, eps: float) -> tuple[Floats, Floats]:
    """Return y and the mean and variance of each channel; see `kernels.batch_norm`."""
    wide = x.astype(np.float64)
    if not x.size:
        return wide, np.zeros((2, x.shape[1]))
    mean, variance = wide.mean(axis=_over(x)), wide.var(axis=_over(x))
    y: Any = (wide - _spread(mean, x)) / _spread(np.sqrt(variance + eps), x)
    y = y if weight is None else y * _spread(weight, x)
    return y if bias is None else y + _spread(bias, x), np.stack([mean, variance])


def batch_norm_backward(
    x: Floats,
    dy: Floats,
    moments: Floats,
    weight: Floats | None,
    eps: float,
    weight_grad: Floats | None,
    bias_grad: Floats | None,
) -> Floats:
    """Return dx, and add to the gradients of weight and bias; see `kernels.batch_norm_backward`."""
    a = np.sqrt(moments[1] + eps)
    normal, g = (x - _spread(moments[0], x)) / _spread(a, x), dy.astype(np.float64)
    if not x.size:
        return g
    if weight_grad is not None:
        weight_grad += (g * normal).sum(axis=_over(x)).astype(weight_grad.dtype)
    if bias_grad is not None:
        bias_grad += g.sum(axis=_over(x)).astype(bias_grad.dtype)
    over: Any = {"axis": _over(x), "keepdims": True}
    dx: Any = (g - g.mean(**over) - normal * (g * normal).mean(**over)) / _spread(a, x)
    return dx if weight is None else dx * _spread(weight, x)  # type: ignore[no-any-return]
