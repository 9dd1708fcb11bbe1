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
from nnframe.core.local import difference_of
from nnframe.core.parameter import Array, Parameter
from nnframe.core.structure import couples_of
from nnframe.gradients.curves import TOLERANCE
from nnframe.gradients.in_c import Described, is_linear
from nnframe.gradients.work import Place
from nnframe.kernels import _kernels

STEPS = (1e-5, 1e-6, 1e-7)  # times max(1, |x|): how far an argument moves when a slope is measured
CLOSE, NOISE = 1e-9, 1e-8  # of the largest slope: what smooth functions stay below, and what noise may be
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
    slope, reach = np.zeros(link.y.shape), np.zeros(link.y.shape)
    bend = 0.0
    left = np.ones(link.y.shape, bool)
    for step in STEPS:
        found, bent, size, good = _quotients(link, step)
        good &= left
        slope[good], reach[good] = found[good], size[good]
        bend = max(bend, float(bent[good].max(initial=0)))
        left &= ~good
        if not left.any():
            break
    dtype = link.y.dtype
    return "measured", bend / 2, slope.astype(dtype), reach.astype(dtype)


def _quotients(link: Link, step: float) -> tuple[Doubles, Doubles, Doubles, npt.NDArray[np.bool_]]:
    """Slope, |second derivative| and step at each entry, and where they are those of a smooth function."""
    x = link.x.astype(np.float64)
    size = step * np.maximum(1, np.abs(x))
    ends = np.multiply.outer([1, -1, 0.5, -0.5], size)
    if link.traits.difference:
        ends = ends.astype(link.x.dtype)
        ways = ends.astype(np.float64)
    else:
        ways = (x + ends) - x  # what rounding leaves of them
    with np.errstate(all="ignore"):
        change = np.asarray(difference_of(link, ends), np.float64)
        up, down, near_up, near_down = change / ways
        whole = (change[0] - change[1]) / (ways[0] - ways[1])
        half = (change[2] - change[3]) / (ways[2] - ways[3])
        scale = float(np.abs(whole[np.isfinite(whole)]).max(initial=0))
        eps = float(np.finfo(link.y.dtype if link.traits.difference else np.float64).eps)
        noise = 16 * eps * (np.abs(whole) if link.traits.difference else (np.abs(link.y) + np.abs(x * whole)) / size)
        most = np.maximum(CLOSE * scale, noise)
        good = (np.abs(whole - half) <= most) & (np.abs((up - down) - 2 * (near_up - near_down)) <= 4 * most)
        good &= (noise <= max(NOISE, 64 * eps) * scale) | ~change.any(axis=0)
    return (4 * half - whole) / 3, np.abs(up - down) / size, size, good
