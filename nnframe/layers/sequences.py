"""What layers of sequences share: which steps of x (N, T, features) are part of a sequence, and which are padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_flag
from nnframe.core.parameter import Array

Mask = npt.NDArray[np.bool_] | None


def refuse_time_first(batch_first: bool) -> None:
    """ValueError unless rows are the first axis, as of every array in nnframe."""
    if not as_flag("batch_first", batch_first):
        raise ValueError(
            "batch_first: expected True, as rows are the first axis of every array in nnframe, got False; "
            "x.transpose(1, 0, 2) brings (T, N, features) into that order"
        )


def split_lengths(x: Any) -> tuple[Array, Array | None]:
    """Return an array and None, or the two of a tuple (x, lengths)."""
    if not isinstance(x, tuple):
        return x, None
    if len(x) != 2 or x[1].ndim != 1:
        shapes = ", ".join(str(one.shape) for one in x)
        raise ValueError(f"x: expected an array, or a tuple (x, lengths) with lengths (N,), got shapes {shapes}")
    return x


def real_steps(x: Array, lengths: Array | None, mask_zero: bool) -> Mask:
    """Which steps of x (N, T, features) are part of a sequence, (N, T); None where all are.

    Lengths come as floating-point numbers, like all that a model is given; one that moves a little, as in a central
    difference, is the same length still.
    """
    real: Mask = None
    if lengths is not None:
        if not ((lengths > -0.5) & (lengths < x.shape[1] + 0.5)).all():
            raise ValueError(f"lengths: expected numbers of steps in [0, {x.shape[1]}], got {lengths}")
        real = np.arange(x.shape[1]) + 0.5 < lengths[:, None]
    if mask_zero:
        filled = (x != 0).any(axis=2)
        real = filled if real is None else real & filled
    return real
