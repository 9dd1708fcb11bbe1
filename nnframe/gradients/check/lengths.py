"""A second look at a number that was found wrong: the differences themselves over ever smaller lengths.

The first look takes few steps, and trusts that a function varies over no shorter lengths than the numbers in it are
large. Where it does, or where something inside is rounded more than its values show, it is the differences that are at
fault, and not what was written.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe.gradients.check.noise import Doubles

LENGTHS = 2.0 ** -np.arange(0, 50, dtype=np.float64)  # of the size of what is moved
ALIKE = 4  # lengths one after another at which a quotient is the written number
FINE = 2.0**-20  # stairs below this, of the numbers themselves, are rounding; above it they are the function
NOISES = 16  # stairs below so many times the largest noise are rounding as well


class Lengths(NamedTuple):
    """Changes of the output, weighted by dy, where one entry is moved up and down by ever smaller lengths.

    h : what it is moved by, really
    up, down : f(x + h) - f(x) and f(x) - f(x - h)
    x, size : the entry itself, and what lengths are counted in
    reach : the largest output, here or where the entry is moved
    noise : the largest noise of an output
    """

    h: Doubles
    up: Doubles
    down: Doubles
    x: float
    size: float
    reach: float
    noise: float

    def excuse(self, written: float, numerical: float) -> bool:
        """Whether the written number may be right after all."""
        with np.errstate(all="ignore"):
            stair = self._stair()
            if stair is None:
                return self._converges(written, numerical)
            height = float(max(abs(self.up[stair]), abs(self.down[stair])))
            if not self._is_rounding(stair, height):
                return False  # the function is a staircase
            return self._converges(written, numerical) or self._rounded(written, stair, height)

    def _stair(self) -> int | None:
        """Return the smallest length at which anything moves; None where something moves at nearly all of them."""
        moves = np.flatnonzero((self.up != 0) | (self.down != 0))
        return int(moves[-1]) if moves.size and moves[-1] + ALIKE <= len(self.h) else None

    def _is_rounding(self, stair: int, height: float) -> bool:
        fine = self.h[stair] <= FINE * max(abs(self.x), self.size)
        return bool(fine or height <= max(FINE * self.reach, NOISES * self.noise))

    def _quotients(self) -> Doubles:
        return np.asarray((self.up + self.down) / (2 * self.h))

    def _converges(self, written: float, numerical: float) -> bool:
        """Whether the written number is what quotients converge to, at some lengths one after another.

        Beside a kink the quotients of both sides stay apart however close to it; those of a derivative come together.
        """
        apart = abs(written - numerical)
        above, below = self.up / self.h, self.down / self.h
        sides = np.abs(above - below)
        near = np.abs(self._quotients() - written) <= 0.1 * apart
        both = np.maximum(np.abs(above - written), np.abs(below - written)) <= 0.1 * apart
        meet = np.zeros(len(near), bool)
        meet[: 1 - ALIKE] = sides[ALIKE - 1 :] <= 0.25 * sides[: 1 - ALIKE]
        for first in np.flatnonzero(near):
            some = slice(first, first + ALIKE)
            if len(near[some]) == ALIKE and near[some].all() and (meet[first] or both[some].all()):
                return True
        return False

    def _rounded(self, written: float, stair: int, height: float) -> bool:
        """Whether stairs of rounding are too large to tell.

        The written number fits to the first stair; and at no lengths beyond it do quotients agree on another number.
        """
        if abs(written) * self.h[stair] > 4 * height:
            return False
        q, above, below, h = (part[: stair + 1] for part in (self._quotients(), self.up, self.down, self.h))
        lost = 2 * height / h
        # both sides and the length before say the same number, and it is another one
        agree = np.maximum(np.abs(above / h - q), np.abs(below / h - q)) <= 0.25 * np.abs(q)
        moved = np.abs(np.diff(q, prepend=q[0]))
        agree &= moved <= 0.25 * np.abs(q)
        return not _in_a_row(agree & (np.abs(q - written) > 2 * moved + lost) & (lost < 0.1 * np.abs(q)))


def _in_a_row(where: npt.NDArray[np.bool_]) -> bool:
    """Whether a mask is set at some lengths one after another."""
    return any(where[first : first + ALIKE].all() for first in range(len(where) - ALIKE + 1))
