"""Arguments that hold several arrays: dicts of any kind, lists, tuples, dataclasses, parameters, pandas objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def children_of(x: Any) -> list[tuple[str, Any, Any]] | None:
    """Return (how it is written behind the name of x, key, value) for each part of `x`; None for what has no parts."""
    if isinstance(x, Mapping):
        return [(f"[{key!r}]", key, value) for key, value in x.items()]
    if isinstance(x, list | tuple):
        fields = getattr(x, "_fields", None)
        return [(f".{fields[i]}" if fields else f"[{i}]", i, value) for i, value in enumerate(x)]
    if hasattr(type(x), "__dataclass_fields__"):
        import dataclasses  # loaded already, by whoever made x

        names = [field.name for field in dataclasses.fields(x)]
        return [(f".{name}", name, getattr(x, name)) for name in names]
    return None


def leaves_of(x: Any, name: str = "x") -> Iterator[tuple[str, Any]]:
    """Return the leaves of `x` with their names. None within a nesting is no leaf."""
    parts = children_of(x)
    if parts is None:
        yield name, x
        return
    for suffix, _, value in parts:
        if value is not None:
            yield from leaves_of(value, name + suffix)


def rebuilt(x: Any, leaves: Iterator[Any], answer: bool = False) -> Any:
    """Return `x` with other arrays in its leaves, in the order of `leaves_of`.

    answer: whether these are derivatives, which take the place of a parameter as plain arrays.
    """
    parts = children_of(x)
    if parts is None:
        return leaf_with(x, next(leaves), answer)
    values: list[Any] = [None if value is None else rebuilt(value, leaves, answer) for _, _, value in parts]
    if isinstance(x, Mapping):
        return _mapping_with(x, dict(zip(x, values, strict=True)))
    if isinstance(x, list | tuple):
        return type(x)(*values) if hasattr(x, "_fields") else type(x)(values)
    new = copy.copy(x)
    for (_, name, _), value in zip(parts, values, strict=True):
        object.__setattr__(new, name, value)  # frozen ones as well
    return new


def _mapping_with(x: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    if type(x) is dict:
        return values
    if isinstance(x, dict):  # of any kind: a defaultdict keeps its factory
        new = copy.copy(x)
        for key, value in values.items():
            new[key] = value
        return new
    return type(x)(values)  # type: ignore[call-arg]


def alike(x: Any, other: Any, name: str) -> list[Any]:
    """Return what belongs to each leaf of `x`: one number for all of them, or the leaves of the same nesting."""
    if isinstance(x, np.ndarray):
        return [_array_of(other)]
    names = [each for each, _ in leaves_of(x)]
    if children_of(x) is None or children_of(other) is None:
        return [_array_of(other)] * len(names)
    found = list(leaves_of(other))
    if [each for each, _ in found] != names:
        raise ValueError(f"{name}: expected one number, or the same nesting as x, got {other!r}")
    return [_array_of(value) for _, value in found]


# ---- leaves ----


def is_parameter(leaf: Any) -> bool:
    """Whether it is a parameter: an array in `.value`, with its gradient in `.grad`."""
    kind = type(leaf)
    return hasattr(kind, "grad") and hasattr(kind, "value") and isinstance(leaf.value, np.ndarray)


def is_pandas(leaf: Any) -> bool:
    """Whether it is a Series or DataFrame (pandas is not imported)."""
    return type(leaf).__module__.partition(".")[0] == "pandas" and hasattr(leaf, "to_numpy")


def _array_of(leaf: Any) -> Any:
    if is_parameter(leaf):
        return leaf.value
    return leaf.to_numpy() if is_pandas(leaf) else leaf


def array_of(leaf: Any) -> Any:
    """Return the array of a leaf: itself, that of a parameter, or a read-only copy of that of a pandas object."""
    if is_pandas(leaf):
        array = np.array(leaf.to_numpy())
        array.flags.writeable = False
        return array
    return _array_of(leaf)


def leaf_with(leaf: Any, array: Any, answer: bool) -> Any:
    """Return a leaf of the same kind with another array."""
    if is_parameter(leaf) and not answer:
        return type(leaf)(array, dtype=array.dtype, trainable=leaf.trainable)
    if is_pandas(leaf):
        axes = {"columns": leaf.columns} if hasattr(leaf, "columns") else {"name": leaf.name}
        return type(leaf)(array, index=leaf.index, **axes)
    return array
