"""Random numbers that a layer may draw and still be a pure function."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.core.parameter import Array, Buffer
from nnframe.core.run import current_run
from nnframe.core.tree import Tree

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Random(Tree):
    """Random numbers for the rows of a mini-batch, the same at each call until a training step has been taken.

    Number i of row n depends on the seed, on how many training steps have been taken, on n and on i alone. So both
    sides of a difference, a part of the mini-batch and a stack of copies of it all see the same numbers; `Trainer` goes
    on to new ones after each training step, and a run that is saved and resumed has the same masks. Held in an
    attribute of a layer:

        self.random = nn.Random(seed)
        ...
        mask = self.random.uniform(x) < 0.8

    The numbers are hashes of a counter: SplitMix64 (Steele, Lea and Flood 2014) with Stafford's mix 13.

    Parameters
    ----------
    seed : int, optional
        In [0, 2^64); None draws one.
    """

    def __init__(self, seed: int | None = None) -> None:
        if seed is not None and (not isinstance(seed, int | np.integer) or isinstance(seed, bool)):
            raise TypeError(f"seed: expected an integer or None, got {seed!r}")
        if seed is not None and not 0 <= seed < 1 << 64:
            raise ValueError(f"seed: expected an integer in [0, 2^64), got {seed}")
        self.state = Buffer(np.array([int.from_bytes(os.urandom(8)) if seed is None else seed, 0], np.uint64))

    def uniform(self, x: Array) -> Array:
        """Return numbers in [0, 1), of the shape of x (N, ...) and its dtype; multiples of 2^-24, the same in both."""
        columns = x[0].size if len(x) else 0
        return kernels.uniform(self._keys(x, 0), columns, _dtype(x)).reshape(x.shape)

    def normal(self, x: Array) -> Array:
        """Return standard normal numbers (Box and Muller 1958), of the shape of x (N, ...) and its dtype."""
        first = ((self._bits(x, 0) >> np.uint64(11)) + 1.0) * 2.0**-53
        second = (self._bits(x, 1) >> np.uint64(11)) * 2.0**-53
        found = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
        shaped: Array = found.astype(_dtype(x)).reshape(x.shape)
        return shaped

    def advance(self) -> None:
        """Go on to new numbers; called once per training step."""
        self.state.value[1] += np.uint64(1)

    def _bits(self, x: Array, stream: int) -> npt.NDArray[np.uint64]:
        """64 random bits for each entry of x, (N, entries of a row)."""
        columns = np.arange(x[0].size if len(x) else 0, dtype=np.uint64)
        with np.errstate(over="ignore"):
            return _mix(self._keys(x, stream)[:, None] + (columns + np.uint64(1)) * _GOLDEN)  # type: ignore[no-any-return]

    def _keys(self, x: Array, stream: int) -> npt.NDArray[np.uint64]:
        """Return what the numbers of each row are hashed with."""
        seed, counter = self.state.value
        with np.errstate(over="ignore"):
            key = _mix(_mix(seed + _GOLDEN) + counter * _GOLDEN + np.uint64(stream))
            return _mix(key + (_row_numbers(len(x)) + np.uint64(1)) * _GOLDEN)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Random({int(self.state.value[0])})"


def _row_numbers(count: int) -> npt.NDArray[np.uint64]:
    """Numbers of the rows of the mini-batch that an array of `count` rows holds."""
    run = current_run()
    rows = None if run is None else run.rows
    if rows is None:
        return np.arange(count, dtype=np.uint64)
    if len(rows) == count:
        return rows.astype(np.uint64)
    if len(rows) == 0 or count % len(rows):
        raise ValueError(
            f"random numbers: expected the rows of the mini-batch, or equally many for each of its {len(rows)} rows, "
            f"got {count}"
        )
    each = count // len(rows)
    return (rows[:, None] * each + np.arange(each)).reshape(-1).astype(np.uint64)


def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


def _dtype(x: Array) -> np.dtype[Any]:
    return x.dtype if x.dtype.kind == "f" else np.dtype(np.float32)
