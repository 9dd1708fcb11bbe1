"""The scheme "auto" for a number of many variables: central differences, a search only where they are doubtful.

A ladder for each entry costs 4 evaluations and more. Among many entries most vary over lengths for which the step of
"central" is right, and that can be seen: the second difference is then small beside the first, both are large beside
rounding, and along a random direction, at a much smaller step, f changes by what the gradient says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnframe.numerical.answers import Doubles
from nnframe.numerical.evaluators import Floats, Group
from nnframe.numerical.probe import Known, scattered_signs
from nnframe.numerical.schemes import SCHEMES, keep_partial, make_plan
from nnframe.numerical.search import Search

MANY = 100  # entries of an array, from which on this is worth it
CURVED = 0.01  # second difference by first difference: about the step by the length over which f varies
ROUNDED = 1e-3  # share of a difference that may be rounding
CLOSER = 16.0  # how much smaller the step along a direction is
STRAIGHT = 1e-6  # relative change of a quotient, by which it may differ at that step
AGREES = 1e-5  # of the root of the sum of squares of what each entry contributes


def worth_it(known: Known, point: Floats, with_error: bool) -> bool:
    """Whether f is a number of many variables, and no bound for each entry's error is asked for."""
    return known.base.ndim == 0 and point.size >= MANY and not with_error


def gradient(known: Known, leaf: int, point: Floats, bounds: Any, rooms: tuple[Floats, Floats], name: str) -> Doubles:
    """Return the derivative for each entry of one array."""
    size = float(np.abs(known.base))
    eps = min(max(known.eps, float(known.noise) / size if size else 0.0), 0.1)  # float32 may hide behind float64
    plan = make_plan(point, SCHEMES["central"], None, bounds, name, eps)
    found = np.full(point.size, np.nan)
    sure = np.zeros(point.size, bool)
    steps = np.zeros(point.size)
    group = next((each for each in plan.groups if each.central), None)
    if group is not None:
        at = group.indices
        try:
            width, found[at], sure[at] = _differences(known, leaf, group, name)
        except BaseException as error:
            if known.evaluator.unfinished is not None:
                found[at] = _quotients(group, known.evaluator.unfinished)[1]
            keep_partial(error, found)
            raise
        steps[at] = width / (2 * CLOSER)
        found[at], sure[at] = _closer(known, leaf, group, name, found[at], sure[at])
        if not _agrees(known, leaf, found, np.where(sure, steps, 0.0)):
            sure[:] = False
    if sure.all():
        return found
    search = Search(known, leaf, rooms, name, only=~sure)
    searched, _ = search.run(found)
    return np.where(sure, found, searched)


def _differences(known: Known, leaf: int, group: Group, name: str) -> tuple[Doubles, Doubles, Any]:
    """Return what lies between the points of each entry, the quotients, and whether they can be relied on."""
    evaluator = known.evaluator
    evaluator.lenient, evaluator.unfinished = True, None
    try:
        table = evaluator.values(leaf, group, name)
    finally:
        evaluator.lenient = False
    width, quotients = _quotients(group, table)
    with np.errstate(invalid="ignore", over="ignore"):
        first = table[:, 0] - table[:, 1]
        second = (table[:, 0] - known.base) + (table[:, 1] - known.base)
        noise = np.maximum(known.noise, 0.3 * known.eps * np.abs(table).max(axis=1))
        sure = (np.abs(second) <= CURVED * np.abs(first) + 4 * noise) & (noise <= ROUNDED * np.abs(first))
    return width, quotients, sure


def _quotients(group: Group, table: Doubles) -> tuple[Doubles, Doubles]:
    values = group.values.astype(np.float64)
    width = values[:, 0] - values[:, 1]
    with np.errstate(invalid="ignore", over="ignore"):
        return width, (table[:, 0] - table[:, 1]) / width


def _closer(known: Known, leaf: int, group: Group, name: str, found: Doubles, sure: Any) -> tuple[Doubles, Any]:
    """Look again at a smaller step at a few entries whose first difference is small beside the second."""
    few = np.flatnonzero(~sure & np.isfinite(found))
    if not len(few) or len(few) > len(sure) / 4:
        return found, sure
    start = group.start[few, None]
    values = np.asarray(start + (group.values[few] - start) / CLOSER, start.dtype)
    closer = Group(group.indices[few], values, group.start[few], True)
    width, again, _ = _differences(known, leaf, closer, name)
    noise = np.maximum(known.noise, known.eps * np.abs(known.base)) / width
    agree = np.abs(again - found[few]) <= STRAIGHT * np.abs(found[few]) + 2 * noise
    sure = sure.copy()
    sure[few] = agree & (noise <= CLOSER * ROUNDED * np.abs(found[few]))
    return found, sure


def _agrees(known: Known, leaf: int, found: Doubles, steps: Doubles) -> bool:
    """Whether f changes along a random direction as the gradient says."""
    if not steps.any():
        return True
    evaluator = known.evaluator
    x = evaluator.start[leaf].reshape(-1)
    direction = steps * scattered_signs(len(steps))
    ends = [(x + sign * direction).astype(x.dtype) for sign in (1, -1)]
    moved = ends[0].astype(np.float64) - ends[1].astype(np.float64)
    points = [
        [*evaluator.start[:leaf], end.reshape(evaluator.start[leaf].shape), *evaluator.start[leaf + 1 :]]
        for end in ends
    ]
    evaluator.lenient = True
    try:
        values = evaluator.at(points, " near x")
    finally:
        evaluator.lenient = False
    parts = np.where(steps > 0, found, 0.0) * moved
    noise = np.maximum(known.noise, 0.5 * known.eps * np.abs(values).max())
    return bool(abs(values[0] - values[1] - parts.sum()) <= AGREES * np.sqrt((parts**2).sum()) + 20 * noise)
