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


class Uniform:
    """Independent numbers, uniform in [a, b)."""

    def __init__(self, a: float = 0.0, b: float = 1.0) -> None:
        self.a, self.b = _as_number("a", a), _as_number("b", b)
        if not self.a < self.b:
            raise ValueError(f"a, b: expected a < b, got {a} and {b}")

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Draw a weight."""
        return rng.uniform(self.a, self.b, shape)

    def __repr__(self) -> str:
        return f"Uniform({self.a}, {self.b})"


class TruncNormal:
    """Normal numbers of mean `mean` and standard deviation `std` before those outside [a, b] are drawn again.

    a and b are limits of the numbers themselves, as in PyTorch; [a, b] must hold at least 1 % of them.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> None:
        self.mean, self.std = _as_number("mean", mean), in_range("std", std)
        self.a, self.b = _as_number("a", a), _as_number("b", b)
        if not self.std:
            raise ValueError(f"std: expected a finite number > 0, got {std!r}")
        low, high = (math.erf((limit - self.mean) / (self.std * math.sqrt(2))) for limit in (self.a, self.b))
        share = (high - low) / 2
        if not share >= 0.01:
            raise ValueError(
                f"a, b: expected at least 1 % of normal numbers of mean {mean} and std {std} between them, "
                f"got {share:.2%} between {a} and {b}"
            )

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Draw a weight."""
        weight = np.asarray(self.mean + self.std * rng.standard_normal(shape))
        outside = (weight < self.a) | (weight > self.b)
        while outside.any():
            weight[outside] = self.mean + self.std * rng.standard_normal(int(outside.sum()))
            outside = (weight < self.a) | (weight > self.b)
        return weight

    def __repr__(self) -> str:
        return f"TruncNormal({self.mean}, {self.std}, {self.a}, {self.b})"


class XavierNormal:
    """Normal numbers of variance gain^2 2 / (inputs + outputs) (Glorot and Bengio 2010, eq. 12)."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = in_range("gain", gain)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Draw a weight."""
        return self.gain * math.sqrt(2 / sum(fans(shape))) * rng.standard_normal(shape)

    def __repr__(self) -> str:
        return f"XavierNormal({'' if self.gain == 1 else self.gain})"


class XavierUniform:
    """Uniform numbers of that variance: in [-l, l) with l = gain sqrt(6 / (inputs + outputs)) (the same, eq. 16)."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = in_range("gain", gain)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Draw a weight."""
        limit = self.gain * math.sqrt(6 / sum(fans(shape)))
        return rng.uniform(-limit, limit, shape)

    def __repr__(self) -> str:
        return f"XavierUniform({'' if self.gain == 1 else self.gain})"


class _Kaiming:
    """What KaimingNormal and KaimingUniform share: the standard deviation."""

    def __init__(self, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> None:
        if mode not in ("fan_in", "fan_out"):
            raise ValueError(f"mode: expected 'fan_in' or 'fan_out', got {mode!r}")
        self.a, self.mode, self.nonlinearity = _as_number("a", a), mode, nonlinearity
        self.gain = gain_of(nonlinearity, self.a)

    def std(self, shape: tuple[int, ...]) -> float:
        """Return the standard deviation of a weight of this shape."""
        return self.gain / math.sqrt(fans(shape)[self.mode == "fan_out"])

    def __repr__(self) -> str:
        defaults = {"a": 0.0, "mode": "fan_in", "nonlinearity": "leaky_relu"}
        given = [f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value]
        return f"{type(self).__name__}({', '.join(given)})"


class KaimingNormal(_Kaiming):
    """Normal numbers of variance gain^2 / inputs (He et al. 2015, eq. 10 and 14).

    Parameters
    ----------
    a : float
        Slope below 0 of the leaky ReLU that follows, if one does.
    mode : {"fan_in", "fan_out"}
        Whether inputs or outputs are counted: what is kept from layer to layer on the way up, or down.
    nonlinearity : str
        What follows, see `gain_of`.
    """

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Draw a weight."""
        return self.std(shape) * rng.standard_normal(shape)


class KaimingUniform(_Kaiming):
    """Uniform numbers of the variance of `KaimingNormal`: in [-l, l) with l = gain sqrt(3 / inputs).

    Parameters : as for `KaimingNormal`.
    """

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Draw a weight."""
        limit = math.sqrt(3) * self.std(shape)
        return rng.uniform(-limit, limit, shape)


class Orthogonal:
    """A random orthogonal matrix (Saxe, McClelland and Ganguli 2014), times `gain`: uniform among them (Mezzadri 2007).

    The weight is taken as (out_features, everything else): of its rows and columns the fewer are orthonormal.
    """

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = in_range("gain", gain)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Draw a weight."""
        fans(shape)  # refuses less than two axes
        rows, columns = shape[0], math.prod(shape[1:])
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)

    def __repr__(self) -> str:
        return f"Orthogonal({'' if self.gain == 1 else self.gain})"


def gain_of(nonlinearity: str, a: float = 0.01) -> float:
    """Return by what a weight is larger for what follows it: PyTorch's calculate_gain.

    linear, sigmoid: 1; tanh: 5/3; relu: sqrt(2); leaky_relu: sqrt(2 / (1 + a^2)), a being its slope below 0; selu: 3/4.
    """
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + a * a)),
        "selu": 0.75,
    }
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity: expected one of {', '.join(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity]


def _as_number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


class Zeros:
    """All zero."""

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        """Make the weight; draws nothing."""
        return np.zeros(shape)

    def __repr__(self) -> str:
        return "Zeros()"
