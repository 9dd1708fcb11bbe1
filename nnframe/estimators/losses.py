"""Losses with a weight for each row, in forms that take labels as one array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.core.parameter import Array
from nnframe.losses import Loss


class WeightedSquares(Loss):
    """sum_n w_n mean_i (y_ni - t_ni)^2 / 2, for labels (N, I + 1), the last column of which is w."""

    def __init__(self) -> None:
        super().__init__("sum")

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        return np.asarray(t, y.dtype)

    def rows(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        found: Array = ((y - t[:, :-1]) ** 2).mean(axis=1) * (t[:, -1] / 2)
        return found

    def backward(self, y: Array, t: npt.NDArray[Any]) -> Array:
        found: Array = (y - t[:, :-1]) * (t[:, -1:] / y.shape[1])
        return found


class WeightedCrossEntropy(Loss):
    """sum_n w_n (log(sum_c exp(y_nc)) - y_nt), for labels (N, 2), the class t and w."""

    def __init__(self) -> None:
        super().__init__("sum")

    def prepare(self, y: Array, t: npt.ArrayLike) -> npt.NDArray[Any]:
        return np.asarray(t, np.float64)

    def rows(self, y: Array, t: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        classes = t[:, 0].astype(np.intp)
        d = y.astype(np.float64) - y.max(axis=1, keepdims=True)
        found: npt.NDArray[np.floating] = t[:, 1] * (np.log(np.exp(d).sum(axis=1)) - d[np.arange(len(d)), classes])
        return found

    def backward(self, y: Array, t: npt.NDArray[Any]) -> Array:
        gradient = kernels.softmax(y)
        gradient[np.arange(len(y)), t[:, 0].astype(np.intp)] -= 1
        found: Array = gradient * t[:, 1:].astype(y.dtype)
        return found
