"""The networks and the data that the benchmarks use."""

from __future__ import annotations

import itertools
import os

import numpy as np

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
