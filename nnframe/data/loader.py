"""Random mini-batches, and the split of a data set in two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_count, as_generator

Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def as_pair(x: npt.ArrayLike, t: npt.ArrayLike, name: str = "x, t") -> Pair:
    """`x` and `t` as arrays of equally many rows, at least one; ValueError otherwise."""
    inputs, labels = np.asarray(x), np.asarray(t)
    if inputs.ndim == 0 or labels.ndim == 0 or len(inputs) != len(labels) or len(inputs) == 0:
        raise ValueError(
            f"{name}: expected arrays with the same number of rows, at least one, got shapes {inputs.shape} "
            f"and {labels.shape}"
        )
    return inputs, labels


class DataLoader:
    """Mini-batches (x, t) of two arrays, in a new random order each time it is iterated.

    Parameters
    ----------
    x, t : arrays of the same number of rows
        Inputs and labels.
    batch_size : int
        Rows of a mini-batch; the last one of an epoch has the rows that are left.
    shuffle : bool
        Whether to draw a new order for each epoch.
    replacement : bool
        Draw every row of every batch from the whole set, so that a row may come twice in an epoch or not at all.
    rng : np.random.Generator or int, optional
        An int seeds a new generator, None takes a fresh one.
    """

    def __init__(
        self,
        x: npt.ArrayLike,
        t: npt.ArrayLike,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        replacement: bool = False,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self.x, self.t = as_pair(x, t)
        self.batch_size = as_count("batch_size", batch_size)
        self.shuffle = shuffle
        self.replacement = replacement
        self.rng = as_generator(rng)

    def __len__(self) -> int:
        """Return the number of mini-batches in an epoch."""
        return -(-len(self.x) // self.batch_size)

    def __iter__(self) -> Iterator[Pair]:
        rows = len(self.x)
        if self.replacement:
            order = self.rng.integers(rows, size=len(self) * self.batch_size)
        else:
            order = self.rng.permutation(rows) if self.shuffle else np.arange(rows)
        for first in range(0, len(order), self.batch_size):
            batch = order[first : first + self.batch_size]
            yield self.x[batch], self.t[batch]

    def __repr__(self) -> str:
        return f"DataLoader({len(self.x)} rows in {len(self)} batches of {self.batch_size})"


def train_test_split(
    x: npt.ArrayLike,
    t: npt.ArrayLike,
    *,
    test_size: float = 0.2,
    rng: np.random.Generator | int | None = None,
) -> tuple[Pair, Pair]:
    """Split rows at random into (x_train, t_train), (x_test, t_test).

    Parameters
    ----------
    x, t : arrays of the same number of rows
    test_size : float in (0, 1), or int
        The share, or the number, of rows to test on; at least one row is left on either side.
    rng : np.random.Generator or int, optional

    Raises
    ------
    ValueError
        Different numbers of rows, or a test_size that leaves one side empty.
    """
    inputs, labels = as_pair(x, t)
    rows = len(inputs)
    count = round(test_size * rows) if isinstance(test_size, float) else int(test_size)
    if not 0 < count < rows:
        raise ValueError(f"test_size: expected to leave rows on both sides of {rows}, got {test_size!r} ({count} rows)")
    order = as_generator(rng).permutation(rows)
    train, test = np.sort(order[count:]), np.sort(order[:count])
    return (inputs[train], labels[train]), (inputs[test], labels[test])
