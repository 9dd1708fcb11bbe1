"""Functions of which some entries have been moved, in NumPy: copies with the moves in them, quotients of changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)


def moved_copies(x: Doubles, index: npt.NDArray[np.intp], value: Doubles, out: Doubles) -> None:
    """out[s] = x but for out[s, index[s % rows, j]] = value[s, j]."""
    out[...] = x.reshape(-1)
    for s, row in enumerate(value):
        out[s, index[s % len(index)]] = row


def change_quotients(
    y: Doubles, weight: Doubles, noise: Doubles, end: Doubles, step: Doubles, first: int, resolved: float, out: Doubles
) -> None:
    """Extrapolated quotients, their bounds and sizes: see csrc/nnframe.h."""
    _, moves, before, entries, after = y.shape
    some = slice(first, first + moves * entries)
    shape = before, entries, after
    with np.errstate(all="ignore"):
        wide, near = (y[0::2] - y[1::2]) * weight.reshape(shape)
        sums = [each.sum(axis=(1, 3)).reshape(-1) for each in (wide, near, np.abs(near))]
        wide, near = sums[:2] / (end[0::2, some] - end[1::2, some])
        size = sums[2] / step[some]
        rounding = np.tile(noise.reshape(shape).sum(axis=(0, 2)), moves) / step[some]
        rounding[(size == 0) & (step[some] < resolved)] = np.inf
        apart = near - wide
        out[:, some] = near + apart / 3, np.abs(apart) + 8 * rounding + 16 * EPS * size, size


def central_quotients(
    value: Doubles, y: Doubles, base: float, noise: float, relative: float, curved: float, rounded: float
) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """Widths, quotients and changes (3, m); and which quotients can be relied on: see csrc/nnframe.h."""
    (up, down), width = y.T, value[:, 0] - value[:, 1]
    with np.errstate(all="ignore"):
        change = np.abs(up - down)
        off = np.maximum(noise, relative * np.maximum(np.abs(up), np.abs(down)))
        sure = (
            (np.abs((up - base) + (down - base)) <= curved * change + 4 * off)
            & (off <= rounded * change)
            & (change < np.inf)
        )
        return np.array([width, (up - down) / width, change]), sure


def measured_slopes(
    value: Doubles,
    base: Doubles | None,
    x: Doubles | None,
    way: Doubles | Any,
    size: Doubles,
    eps: float,
    close: float,
    noisy: float,
    slope: Doubles,
    reach: Doubles,
    left: npt.NDArray[np.bool_],
) -> float:
    """Fill in slopes where the function is smooth; returns the largest second derivative: see csrc/nnframe.h."""
    with np.errstate(all="ignore"):
        if x is not None:
            way = (x + np.array([[1], [-1], [0.5], [-0.5]]) * size) - x
        change = value if base is None else value - base
        up, down, near_up, near_down = change / way
        whole, half = (change[0::2] - change[1::2]) / (way[0::2] - way[1::2])
        scale = float(np.abs(whole[np.isfinite(whole)]).max(initial=0))
        beside = np.abs(whole) if base is None or x is None else (np.abs(base) + np.abs(x * whole)) / size
        noise = 16 * eps * beside
        most = np.fmax(close * scale, noise)
        good = (np.abs(whole - half) <= most) & (np.abs((up - down) - 2 * (near_up - near_down)) <= 4 * most)
        good &= ((noise <= noisy * scale) | ~change.any(axis=0)) & left
        slope[good], reach[good], left[good] = ((4 * half - whole) / 3)[good], size[good], False
        return float((np.abs(up - down) / size)[good].max(initial=0))


def moved_along(start: Doubles, way: Doubles, distance: float, out: Doubles) -> None:
    """out = start + distance way."""
    np.add(start, distance * way, out=out)
