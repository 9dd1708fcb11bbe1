"""Dropout: entries that are left out at random while a network is trained."""

from __future__ import annotations

import numpy as np

from nnframe.core.layer import Layer
from nnframe.core.parameter import Array
from nnframe.core.random import Random
from nnframe.layers.windows import flat_rows


class Dropout(Layer):
    """y = x / (1 - p) with probability 1 - p, else 0, for each entry (Srivastava et al. 2014, in its inverted form).

    In evaluation mode y = x. Each training step has a new mask; within it all evaluations see the same one, whichever
    part or stack of the mini-batch they are of, and a run that is saved and resumed sees the masks that it would have
    seen.

    Parameters
    ----------
    p : float
        In [0, 1]: how likely an entry is to be left out.
    rng : np.random.Generator or int, optional
        What the masks are drawn from: an int seeds them (layers of the same seed and shape share their masks), a
        generator draws a seed, None takes a fresh one.

    Attributes
    ----------
    random : nn.Random
        Its state, a seed and the number of training steps taken, is saved with the model.
    """

    couples = "entries"

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | int | None = None) -> None:
        self.p = as_probability("p", p)
        if rng is not None and not isinstance(rng, int | np.integer | np.random.Generator):
            raise TypeError(f"rng: expected np.random.Generator, an int or None, got {type(rng).__name__}")
        self.random = Random(
            int(rng.integers(1 << 64, dtype=np.uint64)) if isinstance(rng, np.random.Generator) else rng
        )

    def forward(self, x: Array) -> Array:
        return self.forward_saving(x)[0]

    def forward_saving(self, x: Array) -> tuple[Array, Array | None]:
        factors = self.factors(x)
        return (x.copy() if factors is None else x * factors), factors

    def backward(self, x: Array, y: Array, dy: Array, saved: Array | None = None) -> Array:
        factors = self.factors(x) if saved is None else saved
        return dy if factors is None else dy * factors

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        factors = self.factors(x)
        return dx if factors is None else dx * factors

    def stage_of_planes(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        factors = self.factors(x)
        return () if factors is None else ("factors", flat_rows(factors), {})

    def factors(self, x: Array) -> Array | None:
        """Return what each entry is multiplied by; None where it is 1."""
        if not self.training or self.p == 0:
            return None
        kept = self.random.uniform(x) >= self.p
        return np.multiply(kept, 1 / (1 - self.p) if self.p < 1 else 0, dtype=x.dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.p:g})"


class Dropout2d(Dropout):
    """Dropout of whole channels: all entries of a channel of x (N, C, ...) are left out together (Tompson et al. 2015).

    Parameters, attributes : as for `Dropout`.

    Raises
    ------
    ValueError
        x has no axis of channels.
    """

    def factors(self, x: Array) -> Array | None:
        """Return what each channel is multiplied by, (N, C, 1, ...); None where it is 1."""
        if x.ndim < 3:
            raise ValueError(f"x: expected channels of several entries, shape (N, C, H, W), got {x.shape}")
        factors = super().factors(np.empty(x.shape[:2], x.dtype))
        return None if factors is None else factors.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def as_probability(name: str, p: float) -> float:
    """`p` as a float in [0, 1]; an error that names the argument otherwise."""
    if isinstance(p, bool | np.bool_) or not isinstance(p, int | float | np.number):
        raise TypeError(f"{name}: expected a number, got {p!r}")
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: expected a probability in [0, 1], got {p!r}")
    return float(p)
