"""Which inputs move which outputs, and which of them may be moved together (Curtis, Powell and Reid 1974).

Columns of a Jacobian that share no row get one colour: they are moved at once, and which of them
moved an output is known. A 3x3 convolution of C channels needs 9 C colours, whatever the size of its images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Doubles = npt.NDArray[np.float64]


class Colour(NamedTuple):
    """Inputs that are moved together.

    columns : which inputs
    outputs : the outputs that they move, those of the first column first
    starts : where each column's outputs begin in `outputs`
    """

    columns: Indices
    outputs: Indices
    starts: Indices

    def gathered(self, products: Doubles) -> Doubles:
        """Sum (..., O) over the outputs of each column, (..., columns)."""
        return np.add.reduceat(products[..., self.outputs], self.starts, axis=-1)


def colour(touched: Sequence[Indices], outputs: int) -> list[Colour]:
    """Give columns colours, greedily in their order; `touched` holds the outputs that each of them moves.

    Columns that move nothing get none.
    """
    used = np.zeros((8, outputs), bool)
    members: list[list[int]] = []
    for column, own in enumerate(touched):
        if not len(own):
            continue
        count = len(members)
        free = ~used[:count, own].any(axis=1)
        chosen = int(free.argmax()) if free.any() else count
        if chosen == count:
            members.append([])
            if count == len(used):
                used = np.concatenate([used, np.zeros_like(used)])
        members[chosen].append(column)
        used[chosen, own] = True
    found = []
    for columns in members:
        sizes = [len(touched[column]) for column in columns]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
        found.append(Colour(np.array(columns, np.intp), np.concatenate([touched[c] for c in columns]), starts))
    return found


class Pattern(NamedTuple):
    """Which inputs move which outputs.

    touched : for each column the outputs that it moves
    colours : the columns that move some, coloured
    silent : those that have been seen to move none
    outputs : how many there are
    """

    touched: Sequence[Indices]
    colours: list[Colour]
    silent: Indices
    outputs: int

    def unexpected(self, moved: npt.NDArray[np.bool_], own: Indices | None) -> bool:
        """Whether outputs have moved, (rows, outputs), that the moved columns did not move before; `own` are theirs."""
        if own is None:
            return bool(moved.any())
        others = np.ones(self.outputs, bool)
        others[own] = False
        return bool(moved[:, others].any())


def pattern_from(touched: Sequence[Indices], outputs: int) -> Pattern:
    """Colour a pattern."""
    silent = np.flatnonzero([not len(own) for own in touched])
    return Pattern(touched, colour(touched, outputs), silent, outputs)


def joined(first: Sequence[Indices], second: Sequence[Indices]) -> list[Indices]:
    """For each column the outputs that either of two patterns has."""
    return [np.union1d(one, other).astype(np.intp) for one, other in zip(first, second, strict=True)]


def pattern_of(count: int, width: int, moved: Callable[[Indices], npt.NDArray[np.bool_]]) -> list[Indices]:
    """Which outputs each of `count` columns moves.

    moved(columns) returns (len(columns), outputs) of bool; it is called for as many columns at a time as keep arrays of
    `width` numbers per column small.
    """
    many = max(1, (1 << 23) // (8 * max(1, width)))
    touched: list[Indices] = []
    for first in range(0, count, many):
        changed = moved(np.arange(first, min(first + many, count)))
        touched += [np.flatnonzero(row) for row in changed]
    return touched
