"""Layers that lengthen the last axes: with zeros, or with what x itself holds there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from nnframe.core.layer import Layer
from nnframe.core.parameter import Array
from nnframe.layers.windows import as_sizes, shown


class _Pad(Layer):
    """What they share. Entry i of y is entry `sources[i]` of x along each axis, or 0 outside of x.

    x is (N, C, L) or (N, C, H, W); y has `padding` more entries before and after along each of the last axes.

    Parameters
    ----------
    padding : int or tuple of int
        On all sides; or (left, right), with two axes (left, right, top, bottom), as in PyTorch.
    """

    axes: ClassVar[int]
    mode: ClassVar[str]  # as np.pad has it
    most: ClassVar[int | None] = None  # entries of padding beside an axis of none: they must come from somewhere
    couples = "rows"

    def __init__(self, padding: int | Sequence[int]) -> None:
        self.padding = as_sizes("padding", padding, 2 * self.axes, 0)

    def forward(self, x: Array) -> Array:
        if x.ndim != 2 + self.axes:
            raise ValueError(f"x: expected shape (N, C, {', '.join('HW' if self.axes == 2 else 'L')}), got {x.shape}")
        for length, sides in zip(x.shape[2:], self._sides, strict=True):
            if self.mode != "constant" and (not length or (self.most is not None and max(sides) > length + self.most)):
                raise ValueError(
                    f"padding: expected at most {length + (self.most or 0)} entries beside an axis of {length}, "
                    f"got {max(sides)}"
                )
        return self._padded(x)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        for axis, (before, after) in enumerate(self._sides, 2):
            length = x.shape[axis]
            moved = np.moveaxis(dy, axis, 0)
            inside = moved[before : before + length].copy()
            if self.mode != "constant":
                sources = np.pad(np.arange(length), (before, after), mode=self.mode)  # type: ignore[call-overload]
                for i in (*range(before), *range(before + length, before + length + after)):
                    inside[sources[i]] += moved[i]
            dy = np.moveaxis(inside, 0, axis)
        return np.ascontiguousarray(dy)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return self._padded(dx)

    def _padded(self, x: Array) -> Array:
        found: Array = np.pad(x, [(0, 0)] * (x.ndim - self.axes) + self._sides, mode=self.mode)  # type: ignore[call-overload]
        return found

    @property
    def _sides(self) -> list[tuple[int, int]]:
        """How many entries come before and after, for each axis; PyTorch counts axes from the last."""
        return [(self.padding[2 * i], self.padding[2 * i + 1]) for i in reversed(range(self.axes))]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown(self.padding)})"


class ZeroPad1d(_Pad):
    """Zeros before and after the last axis of x (N, C, L).

    Parameters
    ----------
    padding : int or (left, right)
    """

    axes, mode = 1, "constant"


class ZeroPad2d(ZeroPad1d):
    """Zeros around the last two axes of x (N, C, H, W).

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
    """

    axes = 2


class ReflectionPad1d(_Pad):
    """The last axis of x (N, C, L) goes on as a mirror shows it, without its own end: c b [a b c] b a.

    Parameters
    ----------
    padding : int or (left, right)
        Less than L.
    """

    axes, mode, most = 1, "reflect", -1


class ReflectionPad2d(ReflectionPad1d):
    """The same for the last two axes of x (N, C, H, W).

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        Less than W, and than H.
    """

    axes = 2


class ReplicationPad1d(_Pad):
    """The last axis of x (N, C, L) goes on with the entries at its ends: a a [a b c] c c.

    Parameters
    ----------
    padding : int or (left, right)
    """

    axes, mode = 1, "edge"


class ReplicationPad2d(ReplicationPad1d):
    """The same for the last two axes of x (N, C, H, W).

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
    """

    axes = 2


class CircularPad1d(_Pad):
    """The last axis of x (N, C, L) goes round: b c [a b c] a b.

    Parameters
    ----------
    padding : int or (left, right)
        At most L.
    """

    axes, mode, most = 1, "wrap", 0


class CircularPad2d(CircularPad1d):
    """The same for the last two axes of x (N, C, H, W).

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        At most W, and H.
    """

    axes = 2
