"""Accuracy of first and second derivatives over functions with known ones, and the evaluations that they cost.

`python benchmarks/speed.py accuracy`; numdifftools and jacobi take part where they are installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np
from side_by_side import table

import nnframe as nn

RNG = np.random.default_rng(7)
WEIGHTS = RNG.standard_normal(1000)
PHASES = RNG.standard_normal(1000)


class Case(NamedTuple):
    """A function of one number (f of a NumPy scalar or array), where it is differentiated, and the derivative there."""

    name: str
    f: Callable[[Any], Any]
    x: float
    exact: float


def by_mpmath(f: Callable[[Any], Any], x: float) -> float:
    with mpmath.workdps(60):
        return float(mpmath.diff(f, mpmath.mpf(x)))


def noisy(x: Any) -> Any:
    """Return sin with a repeatable noise of 1e-8."""
    seed = int.from_bytes(np.float64(x).tobytes(), "little")
    return np.sin(x) + 1e-8 * np.random.default_rng(seed).standard_normal()


def single(x: Any) -> Any:
    """Return a smooth function computed in float32, answered in float64."""
    x = np.float32(x)
    return float(np.exp(np.sin(x)) * np.float32(1.7))


def summed(x: Any) -> Any:
    return float(np.sum(WEIGHTS * np.sin(x * (1 + np.arange(1000) / 500) + PHASES)))


def cases() -> list[Case]:
    mp = mpmath
    rate = 1 + np.arange(1000) / 500
    erf, gamma, j0, airy, zeta = _special()
    plain: list[tuple[str, Callable[[Any], Any], Callable[[Any], Any], float]] = [
        ("sin at 1", np.sin, mp.sin, 1.0),
        ("exp at 0.3", np.exp, mp.exp, 0.3),
        ("x^3 - 2x at 0.7", lambda x: x**3 - 2 * x, lambda x: x**3 - 2 * x, 0.7),
        ("3x + 1 at 5", lambda x: 3 * x + 1, lambda x: 3 * x + 1, 5.0),
        ("x^2 at 0", lambda x: x**2, lambda x: x**2, 0.0),
        ("tanh at 0.5", np.tanh, mp.tanh, 0.5),
        ("sin at 1e6", np.sin, mp.sin, 1e6),
        ("1e6 + sin at 1", lambda x: 1e6 + np.sin(x), mp.sin, 1.0),
        ("sin(1000 x) at 1", lambda x: np.sin(1000 * x), lambda x: mp.sin(1000 * x), 1.0),
        ("sin(x / 1000) at 1", lambda x: np.sin(x / 1000), lambda x: mp.sin(x / 1000), 1.0),
        ("(x / 1e6)^3 at 1e6", lambda x: (x / 1e6) ** 3, lambda x: (x / 1e6) ** 3, 1e6),
        ("log at 1e-3", np.log, mp.log, 1e-3),
        ("log at 1e-8", np.log, mp.log, 1e-8),
        ("x log x at 1e-4", lambda x: x * np.log(x), lambda x: x * mp.log(x), 1e-4),
        ("x^20 at 0.01", lambda x: x**20, lambda x: x**20, 0.01),
        ("x^20 at 1", lambda x: x**20, lambda x: x**20, 1.0),
        ("exp at 50", np.exp, mp.exp, 50.0),
        ("exp(10 x) at 2", lambda x: np.exp(10 * x), lambda x: mp.exp(10 * x), 2.0),
        ("exp(-x^2 / 1e-4) at 0.01", lambda x: np.exp(-(x**2) / 1e-4), lambda x: mp.exp(-(x**2) / mp.mpf(1e-4)), 0.01),
        ("sqrt at 1e-4", np.sqrt, mp.sqrt, 1e-4),
        ("1 / x at 0.01", lambda x: 1 / x, lambda x: 1 / x, 0.01),
        ("1 / (x - 1) at 1.001", lambda x: 1 / (x - 1), lambda x: 1 / (x - 1), 1.001),
        ("tan at 1.57", np.tan, mp.tan, 1.57),
        ("1 / (1 + 25 x^2) at 0.5", lambda x: 1 / (1 + 25 * x**2), lambda x: 1 / (1 + 25 * x**2), 0.5),
        ("(x^2 - 1) / (x^2 + x + 3) at 2", *[lambda x: (x**2 - 1) / (x**2 + x + 3)] * 2, 2.0),
        ("sin x exp(-x) cos 3x at 1", lambda x: np.sin(x) * np.exp(-x) * np.cos(3 * x),
         lambda x: mp.sin(x) * mp.exp(-x) * mp.cos(3 * x), 1.0),
        ("sqrt(x^2 + 1e-6) at 1e-3", lambda x: np.sqrt(x**2 + 1e-6), lambda x: mp.sqrt(x**2 + mp.mpf(1e-6)), 1e-3),
        ("sin x sin 30x at 1", lambda x: np.sin(x) * np.sin(30 * x), lambda x: mp.sin(x) * mp.sin(30 * x), 1.0),
        ("logistic at 30", lambda x: 1 / (1 + np.exp(-x)), lambda x: 1 / (1 + mp.exp(-x)), 30.0),
        ("softplus at -10", lambda x: np.log1p(np.exp(x)), lambda x: mp.log1p(mp.exp(x)), -10.0),
        ("sin(1 / x) at 0.05", lambda x: np.sin(1 / x), lambda x: mp.sin(1 / x), 0.05),
        ("x sin(x^2) at 10", lambda x: x * np.sin(x**2), lambda x: x * mp.sin(x**2), 10.0),
        ("erf at 0.7", erf, mp.erf, 0.7),
        ("gamma at 4.5", gamma, mp.gamma, 4.5),
        ("J0 at 20", j0, lambda x: mp.besselj(0, x), 20.0),
        ("Airy at -5", airy, mp.airyai, -5.0),
        ("zeta at 1.1", zeta, mp.zeta, 1.1),
        ("arctan at 1e3", np.arctan, mp.atan, 1e3),
        ("(exp x - 1) / x at 1e-5", lambda x: np.expm1(x) / x, lambda x: mp.expm1(x) / x, 1e-5),
        ("1 - cos at 1e-3", lambda x: 1 - np.cos(x), lambda x: 1 - mp.cos(x), 1e-3),
    ]  # fmt: skip
    found = [Case(name, f, x, by_mpmath(exact, x)) for name, f, exact, x in plain]
    found += [
        Case("sum of 1,000 sines at 0.5", summed, 0.5, float(np.sum(WEIGHTS * rate * np.cos(0.5 * rate + PHASES)))),
        Case("sin + noise 1e-8 at 1", noisy, 1.0, float(np.cos(1.0))),
        Case("float32 inside at 0.8", single, 0.8, float(np.float32(1.7)) * np.exp(np.sin(0.8)) * np.cos(0.8)),
        Case("|x - 1.001| + x^2 at 1", lambda x: np.abs(x - 1.001) + x**2, 1.0, 1.0),
        Case("max(x, 0)^2 sin at 0.01", lambda x: np.maximum(x, 0) ** 2 * np.sin(x), 0.01,
             float(0.02 * np.sin(0.01) + 1e-4 * np.cos(0.01))),
        Case("|x|^1.5 at 1e-3", lambda x: np.abs(x) ** 1.5, 1e-3, float(1.5 * np.sqrt(1e-3))),
        Case("flat: 1 + 1e-9 sin at 1", lambda x: 1 + 1e-9 * np.sin(x), 1.0, float(1e-9 * np.cos(1.0))),
    ]  # fmt: skip
    return found


def _special() -> tuple[Callable[[Any], Any], ...]:
    from scipy import special

    return special.erf, special.gamma, special.j0, lambda x: special.airy(x)[0], special.zeta


# ---- ways to differentiate ----


class Counted:
    """A function of an array of one number, and how often it was evaluated."""

    def __init__(self, f: Callable[[Any], Any]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, x: Any) -> Any:
        x = np.asarray(x, np.float64)
        self.calls += x.size
        if x.size == 1:
            return float(self.f(x.reshape(())[()]))
        return np.array([float(self.f(each)) for each in x.reshape(-1)]).reshape(x.shape)


def ways() -> dict[str, Callable[[Callable[[Any], Any], float], float]]:
    def by(scheme: str) -> Callable[[Callable[[Any], Any], float], float]:
        return lambda f, x: float(nn.numerical_gradient(f, np.array([x]), scheme=scheme)[0])

    found = {scheme: by(scheme) for scheme in ("auto", "forward", "central", "central4", "richardson")}
    try:
        import numdifftools

        found["numdifftools"] = lambda f, x: float(np.squeeze(numdifftools.Derivative(f)(x)))
    except ImportError:
        pass
    try:
        import jacobi

        found["jacobi"] = lambda f, x: float(np.squeeze(jacobi.jacobi(f, x)[0]))
    except ImportError:
        pass
    from scipy.differentiate import derivative
    from scipy.optimize._numdiff import approx_derivative

    found["SciPy 3-point"] = lambda f, x: float(np.squeeze(approx_derivative(f, [x], method="3-point")))
    found["SciPy derivative"] = lambda f, x: float(derivative(f, x).df)
    return found


def measured(cases: list[Case]) -> dict[str, list[tuple[float, int]]]:
    """Relative error (absolute where the derivative is 0) and evaluations of each way, for each case."""
    found: dict[str, list[tuple[float, int]]] = {}
    for name, way in ways().items():
        found[name] = []
        for case in cases:
            f = Counted(case.f)
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                try:
                    got = way(f, case.x)
                except (ArithmeticError, ValueError):
                    got = np.nan
            error = abs(got - case.exact) / (abs(case.exact) or 1.0)
            found[name].append((max(error, 1e-16) if np.isfinite(error) else np.inf, f.calls))
    return found


def accuracy(full: bool) -> str:
    """Print relative errors and evaluations over all functions, and how the default compares."""
    every = cases()
    found = measured(every)
    rows = [
        [case.name, *(f"{each[i][0]:.0e} ({each[i][1]})" for each in found.values())] for i, case in enumerate(every)
    ]
    lines = [table(["function", *found], rows), ""]
    for other in ("numdifftools", "jacobi"):
        if other in found:
            pairs = list(zip(found["auto"], found[other], strict=True))
            exact = sum(a <= 3 * b for (a, _), (b, _) in pairs)
            fewer = sum(a <= b for (_, a), (_, b) in pairs)
            lost = [c.name for c, ((a, _), (b, _)) in zip(every, pairs, strict=True) if a > 0.1 and b < 0.1]
            means = [np.mean([calls for _, calls in found[way]]) for way in ("auto", other)]
            lines.append(
                f"auto is at least as exact as {other}, within a factor of 3: {exact} of {len(every)}; no more calls: "
                f"{fewer} (mean {means[0]:.1f} against {means[1]:.1f}); off by 10 % where {other} is right: {lost or 0}"
            )
    title = f"{len(every)} derivatives of functions of one variable: relative error (evaluations)"
    return title + "\n\n" + "\n".join(lines)
