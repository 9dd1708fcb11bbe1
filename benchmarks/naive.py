"""The textbook's way, as tight as plain NumPy allows: what nnframe is compared with."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


class NaiveNetwork:
    """Linear layers with sigmoid or ReLU between them, softmax cross-entropy, in NumPy; the gradient loops over all.

    Parameters
    ----------
    parameters : list of arrays
        W1 (inputs, hidden), b1, W2, b2 and so on, as in the textbook.
    activation : {"sigmoid", "relu"}
    """

    def __init__(self, parameters: list[Array], activation: str = "sigmoid") -> None:
        self.parameters = parameters
        self.activation = activation

    def loss(self, x: Array, t: npt.NDArray[np.integer]) -> float:
        last = len(self.parameters) - 2
        for i in range(0, last + 2, 2):
            x = x @ self.parameters[i] + self.parameters[i + 1]
            if i < last:
                x = 1 / (1 + np.exp(-x)) if self.activation == "sigmoid" else np.maximum(x, 0)
        x -= x.max(axis=1, keepdims=True)
        return float((np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(t)), t]).mean())

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
