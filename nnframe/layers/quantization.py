"""Quantisers: layers whose output has few values. Their derivative is 0 almost everywhere.

So they have no backward: train them by `CentralDifference` with a step that carries inputs over the edges. With
`straight_through` they have one that passes dy through (Bengio, Leonard and Courville 2013), which is no derivative:
`straight_through_gap` says by how much it is not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnframe._checks import as_count, as_flag
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array


class _Quantizer(Layer):
    """What quantisers share.

    `_levels(x)` is what they compute, `_slope(x)` the slope that is passed through, `_through` the class that has it.
    """

    couples = "entries"
    _through: type[Layer]

    def __new__(cls, *args: Any, straight_through: bool = False, **kwargs: Any) -> Any:
        if not as_flag("straight_through", straight_through) or issubclass(cls, _StraightThrough):
            return super().__new__(cls)
        if cls.__module__ != __name__:
            raise TypeError(
                f"straight_through: expected False for {cls.__name__}, which is derived from a quantiser and writes a "
                "backward of its own, got True"
            )
        return super().__new__(cls._through)

    def forward(self, x: Array) -> Array:
        return self._levels(x)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        change: Array = self.forward(x + dx) - y
        return change

    def straight_through_gap(self, x: Array, step: float) -> Array:
        """Return by how much the slope that `straight_through` passes is larger than the true difference quotient.

        That is slope(x) - (f(x + step) - f(x - step)) / (2 step), entry by entry, in float64. With Δ between two
        levels and no clipping its absolute value is at most Δ / (2 step): up to the whole slope where no edge is
        crossed, and little for steps of many levels. It is 0 on average over x, but not for the x that there are.

        Parameters
        ----------
        x : array
        step : float
            Above 0.

        Returns
        -------
        array of x's shape, float64
        """
        if isinstance(step, bool) or not isinstance(step, int | float | np.number) or not 0 < step < math.inf:
            raise ValueError(f"step: expected a finite number > 0, got {step!r}")
        wide = np.asarray(x, np.float64)
        quotient = (self.forward(wide + step) - self.forward(wide - step)) / (2 * step)
        gap: Array = self._slope(wide) - quotient
        return gap

    def _levels(self, x: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} has no levels")

    def _slope(self, x: Array) -> Array:
        return np.ones_like(x)

    def _arguments(self) -> list[str]:
        return []

    def __repr__(self) -> str:
        through = isinstance(self, _StraightThrough)
        name = type(self).__mro__[2].__name__ if through else type(self).__name__
        return f"{name}({', '.join([*self._arguments(), *['straight_through=True'] * through])})"


class _StraightThrough:
    """The backward of a quantiser that passes dy through."""

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        dx: Array = dy * self._slope(x)  # type: ignore[attr-defined]
        return dx


class Round(_Quantizer):
    """y = x rounded to a whole number, halves to the even one, elementwise.

    Parameters
    ----------
    straight_through : bool
        Whether there is a backward: dx = dy. The true difference of a move by 2 h is 2 h to within 1, so that this
        slope of 1 is off by at most 1 / (2 h): see `straight_through_gap`. Where no half lies between x - h and x + h,
        the true one is 0. `check_gradients` and `Backprop(verify=True)` find it wrong.
    """

    def __init__(self, *, straight_through: bool = False) -> None:
        self.straight_through = bool(straight_through)

    def _levels(self, x: Array) -> Array:
        return np.rint(x)


class Sign(_Quantizer):
    """y = 1 where x > 0, -1 where x < 0, 0 at 0, elementwise.

    Parameters
    ----------
    straight_through : bool
        Whether there is a backward: dx = dy where |x| <= 1, else 0 (Hubara et al. 2016, eq. 4). The true difference of
        a move by 2 h is 2 where 0 lies inside, else 0, so that the slope of 1 should be 1 / h there: see
        `straight_through_gap`. With h = 1 it is right on average over |x| <= 1. `check_gradients` and
        `Backprop(verify=True)` find it wrong.
    """

    def __init__(self, *, straight_through: bool = False) -> None:
        self.straight_through = bool(straight_through)

    def _levels(self, x: Array) -> Array:
        return np.sign(x)

    def _slope(self, x: Array) -> Array:
        return (np.abs(x) <= 1).astype(x.dtype)


class Quantize(_Quantizer):
    """y = the nearest of 2^bits levels, the first of which is `low`, the last `high`, evenly spaced, elementwise.

    y = low + Δ round((min(max(x, low), high) - low) / Δ), Δ = (high - low) / (2^bits - 1) (Jacob et al. 2018, eq. 12).

    Parameters
    ----------
    bits : int
        From 1 to 16.
    low, high : float
        Finite, low < high; what is outside is clipped.
    straight_through : bool
        Whether there is a backward: dx = dy where low <= x <= high, else 0. The true difference of a move by 2 h inside
        is 2 h to within Δ, so that this slope of 1 is off by at most Δ / (2 h): see `straight_through_gap`. Where no
        edge lies between x - h and x + h, the true one is 0. `check_gradients` and `Backprop(verify=True)` find it
        wrong.
    """

    def __init__(self, bits: int, low: float = -1.0, high: float = 1.0, *, straight_through: bool = False) -> None:
        self.bits = as_count("bits", bits)
        if self.bits > 16:
            raise ValueError(f"bits: expected from 1 to 16, got {bits}")
        for name, value in (("low", low), ("high", high)):
            if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
                raise ValueError(f"{name}: expected a finite number, got {value!r}")
        if not low < high:
            raise ValueError(f"low, high: expected low < high, got {low} and {high}")
        self.low, self.high, self.straight_through = float(low), float(high), bool(straight_through)

    @property
    def spacing(self) -> float:
        """Return Δ, from one level to the next."""
        return (self.high - self.low) / float(2**self.bits - 1)

    def _levels(self, x: Array) -> Array:
        kind = x.dtype.type
        steps = np.rint((np.clip(x, kind(self.low), kind(self.high)) - kind(self.low)) / kind(self.spacing))
        y: Array = steps * kind(self.spacing) + kind(self.low)
        return y

    def _slope(self, x: Array) -> Array:
        return ((x >= self.low) & (x <= self.high)).astype(x.dtype)

    def _arguments(self) -> list[str]:
        limits = [] if (self.low, self.high) == (-1, 1) else [f"{self.low:g}", f"{self.high:g}"]
        return [str(self.bits), *limits]


class _RoundThrough(_StraightThrough, Round):
    pass


class _SignThrough(_StraightThrough, Sign):
    pass


class _QuantizeThrough(_StraightThrough, Quantize):
    pass


Round._through, Sign._through, Quantize._through = _RoundThrough, _SignThrough, _QuantizeThrough
