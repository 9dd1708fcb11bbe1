"""Fills the arrays of a model from others: all of them or, where one does not fit, none."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_NAMES_SHOWN = 8


def fill(own: Mapping[str, Array], state: Mapping[str, npt.ArrayLike], *, allow_nonfinite: bool = False) -> None:
    """Copy each array of `state` into the one of the same name in `own`, converted to its dtype.

    Nothing is changed unless everything fits, also where a signal (Ctrl-C) arrives meanwhile.

    Raises
    ------
    KeyError
        A name is missing or unknown.
    TypeError
        An array is of another kind: floating-point numbers, integers, or bools.
    ValueError
        A shape differs; an array of `own` is read-only; a value is none that the dtype can hold; or, unless
        `allow_nonfinite`, a NaN or infinity where `own` does not have the same one.
    """
    missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unknown:
        raise KeyError(f"expected the names of the model; missing: {_listed(missing)}; unknown: {_listed(unknown)}")
    values = [_fitted(name, np.asarray(state[name]), array, allow_nonfinite) for name, array in own.items()]
    # One call into C, during which Python runs no signal handler: an exception raised by one comes before or after.
    assign: Any = operator.setitem
    deque(map(assign, own.values(), repeat(...), values), maxlen=0)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMES_SHOWN} more" if len(ordered) > _NAMES_SHOWN else ""
    return (", ".join(ordered[:_NAMES_SHOWN]) or "none") + more


def _fitted(name: str, given: Array, own: Array, allow_nonfinite: bool) -> Array:
    """Return `given` in the dtype of `own`, whose place it can take without any other conversion."""
    kinds = {"f": "floating-point numbers", "i": "integers", "u": "integers", "b": "bools"}
    expected = kinds.get(own.dtype.kind, str(own.dtype))
    if kinds.get(given.dtype.kind, str(given.dtype)) != expected:
        raise TypeError(f"{name}: expected {expected}, got {given.dtype}")
    if given.shape != own.shape:
        raise ValueError(f"{name}: expected shape {own.shape}, got {given.shape}")
    if not own.flags.writeable:
        raise ValueError(f"{name}: expected an array of the model that can be written to, got a read-only one")
    with np.errstate(all="ignore"):
        value = given.astype(own.dtype)
    if own.dtype.kind in "iu" and given.size:
        _refuse_out_of_range(name, given, own.dtype)
    elif own.dtype.kind == "f" and not allow_nonfinite:
        _refuse_nonfinite(name, given, value, own)
    return value


def _refuse_out_of_range(name: str, given: Array, dtype: np.dtype[Any]) -> None:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    for found in (int(given.min()), int(given.max())):
        if not low <= found <= high:
            raise ValueError(f"{name}: expected integers that {dtype} can hold, got {found}")


def _refuse_nonfinite(name: str, given: Array, value: Array, own: Array) -> None:
    bad = ~np.isfinite(value) & (value != own)  # a constant of the model, such as a mask of -inf, may come back
    if not bad.any():
        return
    index = tuple(map(int, np.unravel_index(bad.argmax(), bad.shape)))
    came = f"{float(given[index])!r} at {index}" if index else f"{float(given)!r}"
    why = f", which {own.dtype} cannot hold" if np.isfinite(given[index]) else ""
    raise ValueError(f"{name}: expected finite numbers, got {came}{why} (allow_nonfinite=True takes it)")
