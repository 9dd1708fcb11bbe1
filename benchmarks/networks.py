"""The networks and the data that the benchmarks use."""

from __future__ import annotations

import itertools
import os

import numpy as np
from naive import NaiveNetwork

import nnframe as nn


def images(rows: int) -> tuple[str, np.ndarray, np.ndarray]:
    """Return a name, `rows` images and their labels: of MNIST where NNFRAME_DATA is set, else of the shipped digits."""
    if os.environ.get("NNFRAME_DATA"):
        (x, t), _ = nn.data.mnist(dtype=np.float64)
        return "MNIST", x[:rows], t[:rows]
    (x, t), _ = nn.data.digits(dtype=np.float64)
    return "digits", x[:rows], t[:rows]


def classifier(sizes: list[int], activation: type[nn.Layer] = nn.Sigmoid, dtype: type = np.float64) -> nn.Sequential:
    """Linear layers of these sizes with an activation between them, seeded."""
    rng = np.random.default_rng(0)
    layers: list[nn.Layer] = []
    for below, above in itertools.pairwise(sizes):
        layers += [nn.Linear(below, above, dtype=dtype, rng=rng), activation()]
    return nn.Sequential(*layers[:-1])


def naive(model: nn.Sequential) -> NaiveNetwork:
    """Return the textbook's loop over the same parameters."""
    activation = "relu" if any(isinstance(layer, nn.ReLU) for layer in model) else "sigmoid"
    return NaiveNetwork([np.ascontiguousarray(p.value.T) for p in model.parameters()], activation)


class NumpyNetwork:
    """The same network and Adam written by hand in NumPy, as a careful user would: what a step is compared with."""

    def __init__(self, sizes: list[int], lr: float = 1e-3) -> None:
        rng = np.random.default_rng(0)
        self.w = [
            (rng.standard_normal(pair) / np.sqrt(pair[0])).astype(np.float32) for pair in itertools.pairwise(sizes)
        ]
        self.b = [np.zeros(size, np.float32) for size in sizes[1:]]
        self.parameters = [*self.w, *self.b]
        self.means = [np.zeros_like(p) for p in self.parameters]
        self.squares = [np.zeros_like(p) for p in self.parameters]
        self.lr, self.steps = np.float32(lr), 0

    def step(self, x: np.ndarray, t: np.ndarray) -> None:
        """Forward, backward, Adam."""
        activations = [x]
        for i, (w, b) in enumerate(zip(self.w, self.b, strict=True)):
            y = activations[-1] @ w
            y += b
            activations.append(np.maximum(y, 0, out=y) if i < len(self.w) - 1 else y)
        e = np.exp(activations[-1] - activations[-1].max(axis=1, keepdims=True))
        e /= e.sum(axis=1, keepdims=True)
        e[np.arange(len(t)), t] -= 1
        e /= np.float32(len(t))
        grads: list[np.ndarray] = []
        biases: list[np.ndarray] = []
        for i in range(len(self.w) - 1, -1, -1):
            grads.insert(0, activations[i].T @ e)
            biases.insert(0, e.sum(axis=0))
            if i:
                e = (e @ self.w[i].T) * (activations[i] > 0)
        self.adam([*grads, *biases])

    def adam(self, grads: list[np.ndarray]) -> None:
        """Update in place."""
        self.steps += 1
        scale = np.sqrt(np.float32(1 - 0.999**self.steps))
        rate = self.lr * scale / np.float32(1 - 0.9**self.steps)
        for p, g, m, s in zip(self.parameters, grads, self.means, self.squares, strict=True):
            m += np.float32(0.1) * (g - m)
            s += np.float32(0.001) * (g * g - s)
            p -= rate * m / (np.sqrt(s) + np.float32(1e-8) * scale)
