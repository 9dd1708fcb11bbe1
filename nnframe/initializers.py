"""What weights start at. An initializer is called as `init(shape, rng)`, shape (out_features, in_features, ...)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnframe._checks import in_range

if TYPE_CHECKING:  # np.random takes a fifth of NumPy's own import, and is loaded only when it is first used
    from collections.abc import Callable

    Initializer = Callable[[tuple[int, ...], np.random.Generator], npt.NDArray[np.floating]]


def initial(
    init: Initializer | None, default: Initializer, shape: tuple[int, ...], rng: np.random.Generator
) -> npt.NDArray[np.floating]:
    """Return what `init`, or the default where it is None, draws: checked to have the shape of the weight."""
    if isinstance(init, type) or not (init is None or callable(init)):
        hint = f"; did you mean {init.__name__}()?" if isinstance(init, type) else ""
        raise TypeError(
            f"init: expected an initializer such as nn.He(), called as init(shape, rng), got {init!r}{hint}"
        )
    weight = np.asarray((default if init is None else init)(shape, rng))
    if weight.shape != shape:
        raise ValueError(f"init: expected a weight of shape {shape}, got {weight.shape}")
    return weight


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs one output has, and how many outputs one input has, for a weight of this shape."""
    if len(shape) < 2:
        raise ValueError(f"shape: expected at least (out_features, in_features), got {shape}")
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


class Normal:
    """Independent normal numbers of mean 0 and standard deviation `std`."""

    def __init__(self, std: float = 0.01) -> None:
        self.std = in_range("std", std)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Draw a weight."""
        return self.std * rng.standard_normal(shape)

    def __repr__(self) -> str:
        return f"Normal({self.std})"


class Xavier:
    """Normal numbers of variance 2 / (inputs + outputs): for sigmoid and tanh (Glorot and Bengio 2010, eq. 12)."""

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Draw a weight."""
        return math.sqrt(2 / sum(fans(shape))) * rng.standard_normal(shape)

    def __repr__(self) -> str:
        return "Xavier()"


class He:
    """Normal numbers of variance 2 / inputs: for ReLU (He et al. 2015, eq. 10)."""

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Draw a weight."""
        return math.sqrt(2 / fans(shape)[0]) * rng.standard_normal(shape)

    def __repr__(self) -> str:
        return "He()"


class Zeros:
    """All zero."""

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Make the weight; draws nothing."""
        return np.zeros(shape)

    def __repr__(self) -> str:
        return "Zeros()"
