"""Gradients of linear layers whose curves are straight, where C cannot do it alone.

Below an elementwise layer that C does not know, its slopes are measured once, for all its entries at a time, and C
propagates through them. A layer that several places share moves the loss through each of them; where everything is
straight, what it moves is the sum. Whether all of this holds is shown by bounds (csrc/straight.inc.h) or, for what was
measured, by samples; where it does not, there is no answer, and the other ways are taken.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe.core.chain import ForwardPass, Link
from nnframe.core.local import difference_of, values_of
from nnframe.core.parameter import Array, Parameter
from nnframe.core.structure import couples_of
from nnframe.gradients.curves import TOLERANCE
from nnframe.gradients.in_c import Described, is_linear
from nnframe.gradients.work import Place
from nnframe.kernels import _kernels

STEPS = (1e-5, 1e-6, 1e-7)  # times max(1, |x|): how far an argument moves when a slope is measured
CLOSE, NOISE = 1e-9, 1e-8  # of the largest slope: what smooth functions stay below, and what noise may be
EPS = float(np.finfo(np.float64).eps)
SIDES = (1, -1, 0.5, -0.5)  # of a step: where a function is evaluated
Doubles = npt.NDArray[np.float64]


class Taken:
    """Gradients that have been taken already, as a piece of work."""

    units = 0

    def __init__(self, found: list[tuple[Parameter, Array]], evaluations: int) -> None:
        self.found, self.evaluations = found, evaluations

    def run(self, units: range) -> None:
        """Do nothing: it has been done."""

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return the parameters with their gradients."""
        return self.found


def straight_gradients(
    place: Place, described: Described | None, passed: ForwardPass, step: float, holders: int = 1
) -> list[tuple[Parameter, Array]] | None:
    """Return the gradients of a linear layer's parameters; None where its curves are not known to be straight.

    holders : how many layers move at once: each must be straight over so many times its own way, and some more, as
        a layer whose weights and input both move adds their product, which is of the second order
    """
    link = place.link
    above = _above(place, described, passed) if is_linear(link) and link.x.ndim == 2 else None
    if above is None or described is None:
        return None
    layer: Any = link.layer
    x, y = np.ascontiguousarray(link.x), link.y
    largest = np.abs(x).max(axis=1, initial=0 if layer.bias is None and holders == 1 else 1)
    level, bend = np.zeros((2, y.shape[1], len(x)), y.dtype)
    state = np.zeros(len(level), np.uint8)
    _kernels.difference_curves(
        above,
        largest * y.dtype.type(step * (1 if holders == 1 else 4 * holders)),
        tolerance=TOLERANCE[y.itemsize],
        level=level,
        bend=bend,
        doubtful=np.zeros(level.shape, bool),
        state=state,
    )
    if state.any():
        return None
    level *= y.dtype.type(described[1])
    found: list[tuple[Parameter, Array]] = [(layer.weight, kernels.batched_matmul(level, x))]
    return found if layer.bias is None else [*found, (layer.bias, level.sum(axis=1))]


def _above(place: Place, described: Described | None, passed: ForwardPass) -> _kernels.Above | None:
    """Describe what stands above a place; None where there is more than linear and elementwise layers."""
    rows = len(passed.output)
    if described is None or any(one.y.ndim != 2 or len(one.y) != rows for one in (place.link, *place.above)):
        return None
    stages = []
    for link in place.above:
        if link.traits.stage:
            stages.append(link.layer.stage(link.x, link.y))
        elif couples_of(link, passed.run) == "entries":
            make = functools.partial(_measured_and_kept, link)
            stages.append(passed.run.once((id(link.y), "measured"), make)[0])
        else:
            return None
    return _kernels.Above(place.link.y.shape[1], stages, **described[0])


def _measured_and_kept(link: Link) -> tuple[tuple[str, float, Array, Array], Array]:
    return _measured(link), link.y  # the output stays alive, and with it its id


def _measured(link: Link) -> tuple[str, float, Array, Array]:
    """Describe an elementwise layer by its slopes, and by how far each entry is straight, as C takes it.

    A smooth function has nearly the same quotient over a step and over half of it, and one-sided quotients that come
    closer as fast as the step: that tells kinks and jumps from it wherever they lie. Entries at which no step
    does have a reach of 0.
    """
    x = link.x.astype(np.float64)
    slope, reach = np.zeros((2, *x.shape))
    left, bend = np.ones(x.shape, bool), 0.0
    for step in STEPS:
        bend = max(bend, _fill_in(link, x, step, slope, reach, left))
        if not left.any():
            break
    dtype = link.y.dtype
    return "measured", bend / 2, slope.astype(dtype), reach.astype(dtype)


def _fill_in(link: Link, x: Doubles, step: float, slope: Doubles, reach: Doubles, left: npt.NDArray[np.bool_]) -> float:
    """Measure the slopes of entries that are left; returns the largest second derivative of those that are smooth."""
    size = step * np.maximum(1, np.abs(x))
    values, base, ways, eps = np.empty((len(SIDES), *x.shape)), None, None, EPS
    with np.errstate(all="ignore"):
        if link.traits.difference:
            ends: Array = np.multiply.outer(SIDES, size).astype(link.x.dtype)
            values[...], ways = difference_of(link, ends), ends.astype(np.float64)
            eps = float(np.finfo(link.y.dtype).eps)
        else:
            for k, side in enumerate(SIDES):
                values[k], base = values_of(link, x, side * size)
    flat = (len(SIDES), -1)
    return _kernels.measured_slopes(
        values.reshape(flat),
        None if base is None else base.reshape(-1),
        None if base is None else x.reshape(-1),
        None if ways is None else ways.reshape(flat),
        size.reshape(-1),
        eps,
        CLOSE,
        max(NOISE, 64 * eps),
        slope.reshape(-1),
        reach.reshape(-1),
        left.reshape(-1),
    )
