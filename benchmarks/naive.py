"""The textbook's way, as tight as plain NumPy allows: what nnframe is compared with."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


class NaiveNetwork:
    """inputs - hidden - classes, sigmoid and softmax cross-entropy, in NumPy; the gradient loops over all parameters.

    W1 (inputs, hidden), b1, W2 (hidden, classes), b2 as in the textbook.
    """

    def __init__(self, w1: Array, b1: Array, w2: Array, b2: Array) -> None:
        self.parameters = [w1, b1, w2, b2]

    def loss(self, x: Array, t: npt.NDArray[np.integer]) -> float:
        w1, b1, w2, b2 = self.parameters
        hidden = 1 / (1 + np.exp(-(x @ w1 + b1)))
        y = hidden @ w2 + b2
        y -= y.max(axis=1, keepdims=True)
        return float((np.log(np.exp(y).sum(axis=1)) - y[np.arange(len(t)), t]).mean())

    def entries(self) -> list[tuple[Array, int]]:
        return [(p, i) for p in (p.reshape(-1) for p in self.parameters) for i in range(p.size)]

    def difference(self, entry: tuple[Array, int], x: Array, t: npt.NDArray[np.integer], step: float) -> float:
        flat, i = entry
        saved = flat[i]
        flat[i] = saved + step
        upper = self.loss(x, t)
        flat[i] = saved - step
        lower = self.loss(x, t)
        flat[i] = saved
        return (upper - lower) / (2 * step)

    def seconds_for_a_gradient(
        self, x: Array, t: npt.NDArray[np.integer], sample: int | None, step: float = 1e-4
    ) -> float:
        """Time the loop, in full or over every k-th entry (about `sample` of them), extrapolated to all."""
        entries = self.entries()
        chosen = entries if sample is None else entries[:: max(1, len(entries) // sample)]
        start = time.perf_counter()
        for entry in chosen:
            self.difference(entry, x, t, step)
        return (time.perf_counter() - start) / len(chosen) * len(entries)
