"""Second derivatives from the values of a function at points that differ from x in one entry or in two."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.numerical.answers import Doubles
from nnframe.numerical.evaluators import Evaluator, Floats, Group
from nnframe.numerical.probe import Known
from nnframe.numerical.schemes import as_steps, keep_partial
from nnframe.numerical.search import JUMP, Search

LEVELS = 5  # distances that are extrapolated, at most
LADDERS = 3  # of such distances, each JUMP times lower than the one before where that did not converge

ROUGH = 1e-10  # error in units of the largest derivative, above which that is tried


def steps_of(point: Floats, step: npt.ArrayLike | None, eps: float) -> Floats:
    """Return the steps of "central", by which x + h and x - h are as far from x."""
    given = as_steps(point, step, max(eps, float(np.finfo(point.dtype).eps)) ** 0.25)
    return exact(np.array(point, point.dtype.newbyteorder("=")).reshape(-1), given)


def exact(flat: Floats, steps: Any) -> Floats:
    """Round steps to what can be added to and subtracted from x without rounding."""
    steps = np.asarray(steps, flat.dtype)
    room = np.maximum(np.abs(flat + steps), np.abs(flat - steps))
    rounded: Floats = np.maximum(np.rint(steps / np.spacing(room)), 1) * np.spacing(room)
    return rounded


def central(known: Known, steps: Floats, with_error: bool) -> tuple[Doubles, Doubles]:
    """Return the second derivatives at these steps, and their errors from twice these where asked for."""
    hessian, rounding = at_steps(known, steps)
    if not with_error:
        return hessian, rounding
    wider, _ = at_steps(known, 2 * steps)
    return hessian, np.abs(wider - hessian) / 3 + rounding


def extrapolated(known: Known) -> tuple[Doubles, Doubles]:
    """Return the second derivatives, extrapolated from steps that are looked for, and bounds of their errors."""
    x = known.evaluator.start[0].reshape(-1)
    flat = x.astype(x.dtype.newbyteorder("="))
    far = np.full(len(flat), np.inf)
    search = Search(known, 0, (far, far), "x", order=2)
    diagonal, diagonal_error = search.run()
    best, error = np.full((len(flat),) * 2, np.nan), np.full((len(flat),) * 2, np.inf)
    steps = search.scale
    for _ in range(LADDERS if len(flat) > 1 else 0):
        best, error, converged = _ladder(known, flat, steps, best, error)
        if converged:
            break
        steps = steps / JUMP
    if len(flat) > 1 and (error > ROUGH * np.abs(best).max()).any():  # by rounding: a wider step may have less
        best, error, _ = _ladder(known, flat, search.scale * JUMP, best, error)
    at = np.arange(len(flat))
    best[at, at], error[at, at] = diagonal, diagonal_error
    return best, error


def _ladder(known: Known, flat: Floats, steps: Doubles, best: Doubles, error: Doubles) -> tuple[Doubles, Doubles, bool]:
    """Extrapolate from these steps, their halves and so on; return the better of the best, and if it converged."""
    table: list[Doubles] = []
    spreads: list[Doubles] = []
    least = np.full_like(error, np.inf)
    floor = least
    for k in range(LEVELS):
        row, spread = at_steps(known, exact(flat, steps / 2**k))
        was, before, table, spreads = table, spreads, [row], [spread]
        for j, coarser in enumerate(was):
            ratio = 4.0 ** (j + 1)
            table.append(table[j] + (table[j] - coarser) / (ratio - 1))
            spreads.append((ratio * spreads[j] + before[j]) / (ratio - 1))
            off = np.maximum(np.abs(table[-1] - table[j]), np.abs(table[-1] - coarser)) + 2 * spreads[-1]
            best, error = np.where(off < error, table[-1], best), np.fmin(off, error)
            floor, least = np.where(off < least, spreads[-1], floor), np.fmin(off, least)
        if k and (least <= 6 * floor).all():
            return best, error, True
    return best, error, bool((least <= 1e-6 * np.abs(best).max() + 100 * floor).all())


def at_steps(known: Known, steps: Floats) -> tuple[Doubles, Doubles]:
    """Return the second derivatives at one step for each entry, n (n + 1) evaluations, and their rounding."""
    evaluator, n = known.evaluator, len(steps)
    h = steps.astype(np.float64)
    start = evaluator.start[0].reshape(-1).copy()
    hessian = np.full((n, n), np.nan)
    if not n:
        return hessian, hessian
    native = start.astype(start.dtype.newbyteorder("="))
    both = np.stack([native + steps, native - steps], axis=1)
    try:
        single = evaluator.values(0, Group(np.arange(n), both, native, True), "x")
        base = float(known.base)
        hessian[np.arange(n), np.arange(n)] = ((single[:, 0] - base) + (single[:, 1] - base)) / h**2
        for i in range(n - 1):
            _mixed(hessian, evaluator, i, both, native, single, base, h)
    except BaseException as error:
        shape = evaluator.start[0].shape
        keep_partial(error, hessian.reshape((*shape, *shape)))
        raise
    finally:
        evaluator.start[0].reshape(-1)[...] = start
    noise = max(float(known.noise), 0.5 * known.eps * np.abs(single).max())
    return hessian, 4 * noise / np.multiply.outer(h, h)


def _mixed(
    hessian: Doubles,
    evaluator: Evaluator,
    i: int,
    both: Floats,
    start: Floats,
    single: Doubles,
    base: float,
    h: Doubles,
) -> None:
    """Fill what belongs to entry i and those after it."""
    others = np.arange(i + 1, len(h))
    flat = evaluator.start[0].reshape(-1)
    pairs = []
    for side in (0, 1):
        flat[i] = both[i, side]
        moved = Group(others, both[others, side][:, None], start[others], False)
        pairs.append(evaluator.values(0, moved, "x")[:, 0])
    flat[i] = start[i]
    up, down = pairs[0] - single[i, 0] - single[others, 0] + base, pairs[1] - single[i, 1] - single[others, 1] + base
    hessian[i, others] = hessian[others, i] = (up + down) / (2 * h[i] * h[others])
