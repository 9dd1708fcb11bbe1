"""How far arrays are moved, and how much a function of them is rounded."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nnframe.kernels import _kernels

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

EPS = float(np.finfo(np.float64).eps)
SPACING = 2e-8  # between the points at which noise is looked for: six of them are as far apart as float32 rounds


class Function(Protocol):
    """A function of arrays that can be moved."""

    arrays: dict[str, Doubles]  # what it is differentiated by, each in C order
    y: Doubles  # its value where nothing has been moved

    def value(self) -> Doubles:
        """Return the function's value at what `arrays` hold now."""


@contextlib.contextmanager
def put_back(arrays: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Put back what arrays hold, whatever happens to them meanwhile; gives copies of it."""
    saved = {name: array.copy() for name, array in arrays.items()}
    try:
        yield saved
    finally:
        for name, array in arrays.items():
            array[...] = saved[name]


def sizes_of(array: Doubles) -> Doubles:
    """How large each number of an array is taken to be: itself, at least as they are in the mean, but not above 1."""
    flat = np.abs(array.reshape(-1))
    finite = flat if math.isfinite(np.dot(flat, flat)) else flat[np.isfinite(flat)]
    typical = math.sqrt(np.dot(finite, finite) / finite.size) if finite.size else 0.0
    return np.asarray(np.maximum(flat, min(typical or 1.0, 1.0)))


def largest(array: Any) -> float:
    """Return the largest absolute value of finite numbers; 0 where there are none."""
    most = float(np.abs(array).max(initial=0))
    return most if most < math.inf else float(np.abs(array[np.isfinite(array)]).max(initial=0))


class Line:
    """A random direction, on which every entry moves by half to one and a half of its size.

    Parameters
    ----------
    arrays : mapping of arrays
        What is moved, from what it holds now.
    rng : np.random.Generator
    """

    def __init__(self, arrays: Mapping[str, Any], rng: np.random.Generator) -> None:
        self.arrays, self.way = arrays, dict[str, Doubles]()
        self.sizes = {name: sizes_of(array) for name, array in arrays.items()}
        random = 2 * rng.random(sum(array.size for array in arrays.values())) - 1
        random += np.copysign(0.5, random)
        last = 0
        for name, array in arrays.items():
            first, last = last, last + array.size
            self.way[name] = (self.sizes[name] * random[first:last]).reshape(array.shape)

    def values(self, value: Callable[[], Any], distances: Any) -> list[Any]:
        """Return what `value` gives at some distances along the line."""
        found = []
        with put_back(self.arrays) as start, np.errstate(all="ignore"):
            moves = [(array, self.way[name], start[name]) for name, array in self.arrays.items()]
            for distance in map(float, distances):
                for array, way, before in moves:
                    _kernels.moved_along(before, way, distance, array)
                found.append(value())
        return found

    def slope(self, gradients: Mapping[str, Any]) -> tuple[float, float]:
        """Return the slope along the line that gradients say, and the sum of the absolute values of its terms."""
        terms = [np.asarray(gradients[name]) * self.way[name] for name in self.arrays]
        return float(sum(term.sum() for term in terms)), float(sum(np.abs(term).sum() for term in terms)) or 1.0


def noise_of(function: Function, line: Line) -> Doubles:
    """How much each output is rounded: at least as the output itself is, and as its fourth differences say.

    These are taken on a line so short that nothing but noise is left of them; on a longer one where nothing changes on
    that, on a shorter one where what is left is too much to be noise.
    """
    finite = np.where(np.isfinite(function.y), function.y, 0.0)
    largest = float(np.abs(finite).max(initial=0))
    smallest = min((float(np.abs(one).max(initial=1e-3)) for one in line.way.values()), default=1.0)
    spacing = SPACING
    own = _fourth_differences(function, line, spacing)
    while not own.any() and spacing * smallest < 1e-6:
        spacing *= 2.0**10
        own = _fourth_differences(function, line, spacing)
    for finer in (2.0**-12, 2.0**-20, 2.0**-26):
        if not own.size or float(np.sort(own, axis=None)[own.size // 2]) <= 1e-4 * largest:
            break
        less = _fourth_differences(function, line, spacing * finer)
        own = less if 0 < less.max(initial=0) < own.max() else own
    if own.size and own.ndim:
        own = np.maximum(own, np.sqrt((own * own).mean(axis=0)))  # as for other rows
    return own + EPS * np.abs(finite)


def _fourth_differences(function: Function, line: Line, spacing: float) -> Doubles:
    """Noise after Moré and Wild, "Estimating computational noise" (2011): fourth differences over sqrt(70)."""
    points = line.values(lambda: function.value().copy(), spacing * np.arange(1, 7))
    with np.errstate(all="ignore"):
        table = np.array([function.y, *points])
        for _ in range(4):
            table = table[1:] - table[:-1]
        fourth = np.abs(table).max(axis=0) / np.sqrt(70)
    return np.asarray(np.where(np.isfinite(fourth), fourth, 0.0))
