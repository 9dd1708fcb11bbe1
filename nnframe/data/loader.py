"""Random mini-batches, and the split of a data set in two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_count, as_flag, as_generator, unwrapped

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]
Inputs = npt.ArrayLike | tuple[npt.ArrayLike, ...]
Batch = tuple[Any, Array]  # (x, t), where x is an array or, for several inputs, a tuple of arrays


def as_pair(x: Inputs, t: npt.ArrayLike, name: str = "x, t") -> Batch:
    """`x` and `t` as arrays of equally many rows, at least one; a tuple of arrays stays one.

    No values are converted or copied. TypeError for what is no array of real numbers, ValueError where rows differ.
    """
    x_name, t_name = ("x", "t") if name == "x, t" else (f"{name}: x", f"{name}: t")
    labels = _as_array(t_name, t)
    several: Any = x if _is_several(x) else None
    if several is None:
        parts: tuple[Array, ...] = (_as_array(x_name, x),)
    else:
        parts = tuple(_as_array(f"{x_name}[{i}]", part) for i, part in enumerate(several))
    counts = {len(array) if array.ndim else 0 for array in (*parts, labels)}
    if len(counts) != 1 or 0 in counts:
        shapes = " and ".join(str(array.shape) for array in (*parts, labels))
        raise ValueError(
            f"{name}: expected arrays with the same number of rows, at least one, got shapes {shapes}"
            f"{_cure(x, parts, labels)}"
        )
    return parts[0] if several is None else parts, labels


def take(x: Any, rows: npt.NDArray[np.intp] | slice) -> Any:
    """Rows of an array, or of each array of a tuple."""
    return tuple(part[rows] for part in x) if isinstance(x, tuple) else x[rows]


def _is_several(x: Any) -> bool:
    """Whether x is a tuple of arrays; one of numbers, or of tuples of them, is a single array."""
    return isinstance(x, tuple) and len(x) > 0 and all(_is_array(part) for part in x)


def _is_array(value: Any) -> bool:
    return not isinstance(value, np.generic) and any(
        hasattr(value, name) for name in ("__array__", "__dlpack__", "toarray")
    )


def _as_array(name: str, value: Any) -> Array:
    if hasattr(value, "toarray") and not hasattr(value, "__array__"):
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}, a sparse one; pass its .toarray()")
    try:
        array = np.asarray(unwrapped(value))
    except (TypeError, ValueError) as error:  # rows of different lengths
        raise type(error)(f"{name}: expected an array, got {type(value).__name__}: {error}") from error
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind in "US" or (array.dtype.kind == "O" and array.size and isinstance(array.flat[0], str)):
        hint = "; classes are counted from 0: np.unique(names, return_inverse=True)[1]"
    else:
        hint = "; for columns of several types, .astype(float)" if array.dtype.kind == "O" and array.ndim == 2 else ""
    raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype} ({type(value).__name__}){hint}")


def _cure(x: Any, parts: tuple[Array, ...], labels: Array) -> str:
    """Say what was probably meant where the numbers of rows differ."""
    rows = len(labels) if labels.ndim else 1
    if isinstance(x, tuple) and len(parts) == rows > 1:
        return "; a tuple holds several inputs: stack samples into one array, np.stack(x)"
    if isinstance(x, list) and parts[0].ndim > 1 and parts[0].shape[1] == rows:
        return "; several inputs are a tuple: tuple(x)"
    if rows == 1 and parts[0].ndim:
        return "; one sample is a mini-batch of one row: x[None], with one label: [t]"
    return ""


class DataLoader:
    """Mini-batches (x, t), in a new random order each time it is iterated.

    Parameters
    ----------
    x : array of N rows, or a tuple of such arrays
        Inputs, of any number type: kept as they are. Where x is a tuple (several inputs), that of a mini-batch is one.
    t : array of N rows
        Labels.
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
        x: Inputs,
        t: npt.ArrayLike,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        replacement: bool = False,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self.x, self.t = as_pair(x, t)
        self.batch_size = as_count("batch_size", batch_size)
        self.shuffle = as_flag("shuffle", shuffle)
        self.replacement = as_flag("replacement", replacement)
        self.rng = as_generator(rng)

    def __len__(self) -> int:
        """Return the number of mini-batches in an epoch."""
        return -(-len(self.t) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.order())

    def order(self) -> npt.NDArray[np.intp]:
        """Draw the rows of an epoch, one mini-batch after another."""
        rows = len(self.t)
        if self.replacement:
            return self.rng.integers(rows, size=len(self) * self.batch_size)
        return self.rng.permutation(rows) if self.shuffle else np.arange(rows)

    def batches(self, order: npt.NDArray[np.intp], skip: int = 0) -> Iterator[Batch]:
        """Yield the mini-batches of an order, without the first `skip`."""
        for first in range(skip * self.batch_size, len(order), self.batch_size):
            batch = order[first : first + self.batch_size]
            yield take(self.x, batch), self.t[batch]

    def __repr__(self) -> str:
        return f"DataLoader({len(self.t)} rows in {len(self)} batches of {self.batch_size})"


def train_test_split(
    x: Inputs,
    t: npt.ArrayLike,
    *,
    test_size: float = 0.2,
    rng: np.random.Generator | int | None = None,
) -> tuple[Batch, Batch]:
    """Split rows at random into (x_train, t_train), (x_test, t_test).

    Parameters
    ----------
    x : array of N rows, or a tuple of such arrays
        Where it is a tuple (several inputs), x_train and x_test are tuples.
    t : array of N rows
    test_size : float in (0, 1), or int
        The share, or the number, of rows to test on; at least one row is left on either side.
    rng : np.random.Generator or int, optional

    Raises
    ------
    TypeError, ValueError
        Different numbers of rows, or a test_size that leaves one side empty.
    """
    inputs, labels = as_pair(x, t)
    rows = len(labels)
    count = _count(test_size, rows)
    order = as_generator(rng).permutation(rows)
    train, test = np.sort(order[count:]), np.sort(order[:count])
    return (take(inputs, train), labels[train]), (take(inputs, test), labels[test])


def _count(test_size: float, rows: int) -> int:
    """How many of the rows are for testing."""
    if isinstance(test_size, bool) or not isinstance(test_size, int | float | np.integer | np.floating):
        raise TypeError(f"test_size: expected a share in (0, 1) or a whole number of rows, got {test_size!r}")
    wanted = test_size if isinstance(test_size, int | np.integer) else test_size * rows
    count = round(wanted) if math.isfinite(wanted) else 0
    if not 0 < count < rows:
        raise ValueError(f"test_size: expected to leave rows on both sides of {rows}, got {test_size!r} ({count} rows)")
    return int(count)
