"""Central differences of one layer: what `Backprop` takes where no backward was written, and checks compare with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.core.layer import Array, Layer, Parameter
from nnframe.losses import Loss

STACK_BYTES = 1 << 23  # of the widest array in a stack of perturbations
STEP = float(np.finfo(np.float64).eps) ** (1 / 3)


def as_step(step: float | None) -> float | None:
    """`step` checked; None stays, and means STEP max(1, |x|)."""
    if step is not None and not (isinstance(step, int | float | np.number) and 0 < step < math.inf):
        raise ValueError(f"step: expected a finite number above 0, got {step!r}")
    return None if step is None else float(step)


def backward(
    layer: Layer, x: Array, y: Array, dy: Array, step: float | None = None, input_gradient: bool = True
) -> Array | None:
    """Do what `layer.backward` would: add to each parameter's `.grad`, and return the gradient with respect to x.

    An elementwise layer is evaluated twice, a rowwise one twice for each column of x, any other twice for each entry;
    and each twice for each entry of a parameter.
    """
    for parameter in layer.parameters():
        parameter.grad += parameter_gradient(layer, parameter, x, y, dy, step)
    if not input_gradient:
        return None
    slope = _elementwise if layer.elementwise else _rowwise if layer.rowwise else _entrywise
    dx: Array = slope(layer, x, y, dy.astype(np.float64), step).astype(x.dtype)
    if not dx.any() and dy.any() and x.size:
        warnings.warn(
            f"{layer!r}: its differences are all 0, so that no gradient passes; give Backprop a larger step than "
            f"{STEP if step is None else step:g}",
            RuntimeWarning,
            stacklevel=4,
        )
    return dx


def parameter_gradient(
    layer: Layer, parameter: Parameter, x: Array, y: Array, dy: Array, step: float | None = None
) -> npt.NDArray[np.float64]:
    """Gradient of sum(dy * forward(x)) with respect to one parameter, of its shape."""
    h = STEP if step is None else step
    gradient = np.zeros(parameter.value.size)
    weights = dy.astype(np.float64)
    for indices in chunks(parameter.value.size, y.size):
        up, down = (layer.perturb(parameter, indices, sign * h, x, y) for sign in (1, -1))
        gradient[indices] = _projected(up, down, weights) / (2 * h)
    return gradient.reshape(parameter.value.shape)


def loss_gradient(loss: Loss, y: Array, t: npt.NDArray[Any], step: float | None = None) -> Array:
    """Gradient of a loss with respect to y, entry by entry."""
    sizes = _steps(y, step).reshape(-1)
    gradient = np.zeros(y.size)
    for indices in chunks(y.size, y.size):
        dy = np.zeros((len(indices), y.size))
        dy[np.arange(len(indices)), indices] = sizes[indices]
        stack = dy.reshape(-1, *y.shape)
        change = loss.difference(y, t, stack) - loss.difference(y, t, -stack)
        gradient[indices] = change / (2 * sizes[indices])
    return gradient.reshape(y.shape).astype(y.dtype)


def _steps(x: Array, step: float | None) -> npt.NDArray[np.float64]:
    return STEP * np.maximum(1, np.abs(x.astype(np.float64))) if step is None else np.full(x.shape, step)


def _elementwise(layer: Layer, x: Array, y: Array, dy: npt.NDArray[np.float64], step: float | None) -> Any:
    h = _steps(x, step).astype(x.dtype)
    up, down = _differences(layer, x, y, np.stack([h, -h]))
    return dy * (up - down) / (2 * h.astype(np.float64))


def _rowwise(layer: Layer, x: Array, y: Array, dy: npt.NDArray[np.float64], step: float | None) -> Any:
    h = _steps(x, step).reshape(len(x), -1).astype(x.dtype)
    dx = np.zeros(h.shape)
    for columns in chunks(h.shape[1], max(x.size, y.size)):
        moved = np.zeros((len(columns), *h.shape), x.dtype)
        moved[np.arange(len(columns)), :, columns] = h[:, columns].T
        stack = moved.reshape(-1, *x.shape)
        change = _differences(layer, x, y, stack) - _differences(layer, x, y, -stack)
        rows = (change * dy).reshape(len(columns), len(x), -1).sum(axis=2)
        dx[:, columns] = rows.T / (2 * h[:, columns].astype(np.float64))
    return dx.reshape(x.shape)


def _entrywise(layer: Layer, x: Array, y: Array, dy: npt.NDArray[np.float64], step: float | None) -> Any:
    h = _steps(x, step).reshape(-1).astype(x.dtype)
    dx = np.zeros(x.size)
    for entries in chunks(x.size, max(x.size, y.size)):
        moved = np.zeros((len(entries), x.size), x.dtype)
        moved[np.arange(len(entries)), entries] = h[entries]
        stack = moved.reshape(-1, *x.shape)
        up, down = _differences(layer, x, y, stack), _differences(layer, x, y, -stack)
        dx[entries] = _projected(up, down, dy) / (2 * h[entries].astype(np.float64))
    return dx.reshape(x.shape)


def _differences(layer: Layer, x: Array, y: Array, stack: Array) -> npt.NDArray[np.float64]:
    return layer.difference(x, y, stack).astype(np.float64, copy=False)


def _projected(up: Array, down: Array, dy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    change = (up.astype(np.float64) - down).reshape(len(up), -1)
    found: npt.NDArray[np.float64] = change @ dy.reshape(-1)
    return found


def chunks(count: int, width: int) -> Iterator[npt.NDArray[np.intp]]:
    """Cut `count` perturbations, each of arrays of `width` numbers, into parts that fit STACK_BYTES."""
    many = max(1, STACK_BYTES // (8 * max(1, width)))
    return (np.arange(first, min(first + many, count)) for first in range(0, count, many))
