"""The scheme "auto" for a number of many variables: central differences, a search only where they are doubtful.

A ladder for each entry costs 4 evaluations and more. Among many entries most vary over lengths for which the step of
"central" is right, and that can be seen: the second difference is then small beside the first, both are large beside
rounding, and along a random direction, at a much smaller step, f changes by what the gradient says. The noise of a
compiled function is measured only where that does not hold: it would show there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnframe.kernels import _kernels
from nnframe.numerical.answers import Doubles
from nnframe.numerical.evaluators import Floats, Group
from nnframe.numerical.probe import Known, scattered_signs
from nnframe.numerical.schemes import SCHEMES, keep_partial, make_plan
from nnframe.numerical.search import Search

MANY = 100  # entries of an array, from which on this is worth it
CURVED = 0.01  # second difference by first difference: about the step by the length over which f varies
ROUNDED = 1e-3  # share of a difference that may be rounding
CLOSER = 16.0  # how much smaller the step along a direction is
COARSER = 100.0  # how much larger noise has to be than expected, for another step to be worth it
STRAIGHT = 1e-6  # relative change of a quotient, by which it may differ at that step
AGREES = 1e-5  # of the root of the sum of squares of what each entry contributes


def gradient(known: Known, leaf: int, point: Floats, bounds: Any, rooms: tuple[Floats, Floats], name: str) -> Doubles:
    """Return the derivative for each entry of one array, where f is a number."""
    size = float(np.abs(known.base))
    eps = min(max(known.eps, float(known.noise) / size if size else 0.0), 0.1)  # float32 may hide behind float64
    plan = make_plan(point, SCHEMES["central"], None, bounds, name, eps)
    group = next((each for each in plan.groups if each.central), None)
    if group is not None and len(group.indices) == point.size:
        found, sure = _confirmed(known, leaf, group, name, np.full(point.size, np.nan))
    else:
        found, sure = np.full(point.size, np.nan), np.zeros(point.size, bool)
        if group is not None:
            found[group.indices], sure[group.indices] = _confirmed(known, leaf, group, name, found)
    if sure.all():
        return found
    if known.look is not None:
        known = known.look()
        if float(known.noise) > (COARSER if sure.any() else 1) * eps * size:  # another step, or other limits, may do
            return gradient(known, leaf, point, bounds, rooms, name)
    search = Search(known, leaf, rooms, name, only=~sure)
    searched, _ = search.run(found)
    return np.where(sure, found, searched)


def _confirmed(known: Known, leaf: int, group: Group, name: str, partial: Doubles) -> tuple[Doubles, Any]:
    """Return central differences, and which of them can be relied on."""
    try:
        width, found, sure, size = _differences(known, leaf, group, name)
    except BaseException as error:
        if known.evaluator.unfinished is not None:
            table = known.evaluator.unfinished
            partial[group.indices] = (table[:, 0] - table[:, 1]) / _width(group)
        keep_partial(error, partial)
        raise
    twice = np.zeros_like(sure)
    if not sure.all():
        twice = _closer(known, leaf, group, name, found, sure)
        sure = sure | twice
    residue, allowed = _along(known, leaf, group.indices, found, sure * (width / (2 * CLOSER)))
    if residue > allowed:
        return found, np.zeros_like(sure)
    if known.look is not None:  # f's noise was only assumed, and shows in the residue, by that of all quotients as well
        sure &= (residue / np.sqrt(1 + len(sure) / (CLOSER**2 / 2)) <= ROUNDED * size) | twice
    return found, sure


def _differences(known: Known, leaf: int, group: Group, name: str) -> tuple[Doubles, Doubles, Any, Doubles]:
    """Return the width between the points of each entry, the quotient, whether to rely on it, and how f changes."""
    table, values = _values(known, leaf, group, name), group.values.astype(np.float64, copy=False)
    about = float(known.base), float(known.noise), 0.3 * known.eps, CURVED, ROUNDED
    (width, found, size), sure = _kernels.central_quotients(values, table, *about)
    return width, found, sure, size


def _values(known: Known, leaf: int, group: Group, name: str) -> Doubles:
    evaluator = known.evaluator
    evaluator.lenient, evaluator.unfinished = True, None
    try:
        return evaluator.values(leaf, group, name)
    finally:
        evaluator.lenient = False


def _width(group: Group) -> Doubles:
    return np.subtract(group.values[:, 0], group.values[:, 1], dtype=np.float64)


def _closer(known: Known, leaf: int, group: Group, name: str, found: Doubles, sure: Any) -> Any:
    """Look again at a smaller step where the first difference is small beside the second; return where it agrees."""
    twice = np.zeros_like(sure)
    few = np.flatnonzero(~sure & np.isfinite(found))
    if not len(few) or len(few) > len(sure) / 4:
        return twice
    start, there = group.start[few], np.abs(found[few])
    far = start[:, None]
    values = np.asarray(far + (group.values[few] - far) / CLOSER, start.dtype)
    width, again, _, _ = _differences(known, leaf, Group(group.indices[few], values, start, True), name)
    with np.errstate(invalid="ignore", over="ignore"):
        noise = max(float(known.noise), known.eps * abs(float(known.base))) / width
        agree = np.abs(again - found[few]) <= STRAIGHT * there + 2 * noise
    twice[few] = agree & (noise <= CLOSER * ROUNDED * there)
    return twice


def _along(known: Known, leaf: int, at: Any, found: Doubles, steps: Doubles) -> tuple[float, float]:
    """Return how far the change of f along a random direction is from what derivatives say, and what is allowed."""
    evaluator = known.evaluator
    start = evaluator.start[leaf]
    if len(at) == start.size:
        at = slice(None)
    whole = np.zeros(start.shape)
    whole.reshape(-1)[at] = steps * scattered_signs(start.size)[at]
    ends = [np.asarray(start + whole, start.dtype), np.asarray(start - whole, start.dtype)]
    parts = np.subtract(*ends, dtype=np.float64).reshape(-1)[at]
    moves = parts != 0
    if not moves.any():
        return 0.0, 0.0
    parts = np.multiply(parts, found, out=parts, where=moves)  # what was not found is not moved
    evaluator.lenient = True
    try:
        up, down = evaluator.at(
            [[*evaluator.start[:leaf], end, *evaluator.start[leaf + 1 :]] for end in ends], " near x"
        )
    finally:
        evaluator.lenient = False
    noise = max(float(known.noise), 0.5 * known.eps * max(abs(up), abs(down)))
    off = abs(up - down - float(parts.sum()))
    return (off if off == off else np.inf), AGREES * float(np.sqrt(parts @ parts)) + 20 * noise
