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
        Case("abs(x - 1.001) + x^2 at 1", lambda x: np.abs(x - 1.001) + x**2, 1.0, 1.0),
        Case("max(x, 0)^2 sin at 0.01", lambda x: np.maximum(x, 0) ** 2 * np.sin(x), 0.01,
             float(0.02 * np.sin(0.01) + 1e-4 * np.cos(0.01))),
        Case("abs(x)^1.5 at 1e-3", lambda x: np.abs(x) ** 1.5, 1e-3, float(1.5 * np.sqrt(1e-3))),
        Case("flat: 1 + 1e-9 sin at 1", lambda x: 1 + 1e-9 * np.sin(x), 1.0, float(1e-9 * np.cos(1.0))),
    ]  # fmt: skip
    return found


def _special() -> tuple[Callable[[Any], Any], ...]:
    from scipy import special

    return special.erf, special.gamma, special.j0, lambda x: special.airy(x)[0], special.zeta


# ---- ways to differentiate ----


class Counted:
    """A function of n numbers, the mean of f of each, and how often it was evaluated."""

    def __init__(self, f: Callable[[Any], Any]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        x = np.asarray(x, np.float64).reshape(-1)
        return float(self.f(x[0])) if x.size == 1 else float(np.mean([self.f(each) for each in x]))


def ways() -> dict[str, Callable[[Any, Any], Any]]:
    """Gradients of a function of an array, by each library."""

    def by(scheme: str) -> Callable[[Any, Any], Any]:
        return lambda f, x: nn.numerical_gradient(f, x, scheme=scheme)

    found: dict[str, Callable[[Any, Any], Any]] = {scheme: by(scheme) for scheme in SCHEMES}
    try:
        import numdifftools

        found["numdifftools"] = lambda f, x: numdifftools.Gradient(f)(x)
    except ImportError:
        pass
    try:
        import jacobi

        found["jacobi"] = lambda f, x: jacobi.jacobi(f, x)[0]
    except ImportError:
        pass
    from scipy.differentiate import derivative
    from scipy.optimize._numdiff import approx_derivative

    found["SciPy 3-point"] = lambda f, x: approx_derivative(f, x, method="3-point")
    found["SciPy derivative"] = lambda f, x: derivative(np.vectorize(f, otypes=[float]), x).df
    return found


SCHEMES = ("auto", "forward", "central", "central4", "richardson")
MANY = 10  # variables, over which evaluations for each are counted


def once(way: Callable[[Any, Any], Any], f: Callable[[Any], Any], x: Any) -> tuple[float, int]:
    """First entry of a gradient, and evaluations; nan where the way fails."""
    counted = Counted(f)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return float(np.ravel(way(counted, x))[0]), counted.calls
        except (ArithmeticError, ValueError):
            return np.nan, counted.calls


def measured(cases: list[Case]) -> dict[str, list[tuple[float, int, float]]]:
    """Relative error (absolute where the derivative is 0), evaluations, and those for each of many variables."""
    found: dict[str, list[tuple[float, int, float]]] = {}
    for name, way in ways().items():
        found[name] = []
        for case in cases:
            got, calls = once(way, case.f, np.array([case.x]))
            many = once(way, case.f, np.full(MANY, case.x))[1] / MANY if name != "SciPy derivative" else float(calls)
            error = abs(got - case.exact) / (abs(case.exact) or 1.0)
            found[name].append((max(error, 1e-16) if np.isfinite(error) else np.inf, calls, many))
    return found


def accuracy(full: bool) -> str:
    """Print relative errors and evaluations over all functions, and how the default compares."""
    every = cases()
    found = measured(every)
    rows = [
        [case.name, *(f"{each[i][0]:.0e} ({each[i][1]}, {each[i][2]:.1f})" for each in found.values())]
        for i, case in enumerate(every)
    ]
    lines = [table(["function", *found], rows), ""]
    for other in ("numdifftools", "jacobi"):
        if other in found:
            lines.append(_compared(every, found["auto"], found[other], other))
    title = (
        f"{len(every)} derivatives of functions of one variable: relative error (evaluations; evaluations a "
        f"variable in {MANY} such variables)"
    )
    return "\n\n".join([title, *lines, honesty(10000 if full else 2000), hessians()])


def _compared(every: list[Case], ours: Any, theirs: Any, other: str) -> str:
    pairs = list(zip(ours, theirs, strict=True))
    exact = sum(a[0] <= 3 * b[0] for a, b in pairs)
    fewer = sum(a[2] <= b[2] for a, b in pairs)
    lost = [case.name for case, (a, b) in zip(every, pairs, strict=True) if a[0] > 0.1 and b[0] < 0.1]
    means = [f"{np.mean([each[k] for each in way]):.1f}" for k in (1, 2) for way in (ours, theirs)]
    return (
        f"auto is at least as exact as {other}, within a factor of 3, at {exact} of {len(every)} "
        f"({exact / len(every):.0%}); no more evaluations a variable at {fewer}; means {means[0]} against {means[1]} "
        f"for one variable, {means[2]} against {means[3]} a variable for {MANY}; off by 10 % where {other} is right: "
        f"{', '.join(lost) or 'nowhere'}"
    )


# ---- how honest the error estimates are ----

SMOOTH: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
    (np.sin, np.cos),
    (np.exp, np.exp),
    (np.tanh, lambda u: 1 / np.cosh(u) ** 2),
    (lambda u: 1 / (1 + u * u), lambda u: -2 * u / (1 + u * u) ** 2),
    (lambda u: u**3 - u, lambda u: 3 * u * u - 1),
    (lambda u: np.log(1e-3 + u * u), lambda u: 2 * u / (1e-3 + u * u)),
    (lambda u: np.sqrt(1 + u * u), lambda u: u / np.sqrt(1 + u * u)),
    (lambda u: np.exp(-u * u / 2), lambda u: -u * np.exp(-u * u / 2)),
]


def honesty(count: int) -> str:
    """Return how often an error estimate is at least a tenth of the error, over random smooth functions and points."""
    rows = []
    for scheme in SCHEMES:
        rng = np.random.default_rng(0)
        ratios, relative, zeros = [], [], 0
        while len(ratios) < count:
            f, derivative = SMOOTH[rng.integers(len(SMOOTH))]
            a, s, c = 10 ** rng.uniform(-3, 3), 10 ** rng.uniform(-2, 2), rng.standard_normal()
            offset = rng.choice([0, 1, 100.0]) * rng.standard_normal()
            x = rng.standard_normal() * 10 ** rng.uniform(-2, 1)
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                exact = float(a * s * derivative(s * x + c))
                if not 1e-100 < abs(exact) < 1e100:
                    continue
                g, e = nn.numerical_gradient(
                    lambda v: float(a * f(s * v[0] + c) + offset), np.array([x]), scheme=scheme, return_error=True
                )
            own = 2e-16 * abs(exact) * (4 + abs(s * x) + (s * x + c) ** 2)  # what `exact` is off itself
            off = max(abs(g[0] - exact) - own, 0.0)
            zeros += e[0] == 0 and off > 0
            ratios.append(e[0] / off if off else np.inf)
            relative.append(e[0] / abs(exact))
        share = np.mean(np.array(ratios) >= 0.1)
        rows.append([scheme, f"{share:.2%}", str(zeros), f"{np.median(relative):.0e}"])
    header = ["scheme", "estimate at least a tenth of the error", "0 for an error", "median estimate, relative"]
    return f"error estimates at {count:,} random smooth points\n\n" + table(header, rows)


# ---- second derivatives ----

SECOND: list[tuple[str, Callable[..., Any], list[float]]] = [
    ("Rosenbrock", lambda m, u, v, w: 100 * (v - u**2) ** 2 + (1 - u) ** 2 + 100 * (w - v**2) ** 2, [0.5, -0.3, 1.2]),
    ("exp(u v) w", lambda m, u, v, w: m.exp(u * v) * w, [0.5, -0.3, 1.2]),
    ("sin(u v) + cos w", lambda m, u, v, w: m.sin(u * v) + m.cos(w), [1.5, 0.7, 2.0]),
    ("log(u + 2 v^2 + w)", lambda m, u, v, w: m.log(u + 2 * v**2 + w), [0.5, 0.3, 1.2]),
    ("log(u) v + w^2, u = 1e-3", lambda m, u, v, w: m.log(u) * v + w**2, [1e-3, 0.3, 1.2]),
    ("a quadratic form, u = 100", lambda m, u, v, w: u**2 + 3 * u * v - w**2 + v * w, [100.0, 0.3, 1.2]),
    ("sin(100 u) v + 1e-6 w^4", lambda m, u, v, w: m.sin(100 * u) * v + 1e-6 * w**4, [0.4, 0.3, 30.0]),
    ("tanh(u + v) w", lambda m, u, v, w: m.tanh(u + v) * w, [0.4, 0.3, 3.0]),
]


def hessians() -> str:
    """Return relative errors (of the largest entry) and evaluations of Hessians of three variables."""
    rows = []
    for name, f, x in SECOND:
        exact = _exact_hessian(f, x)
        counted = Counted(lambda v: v)

        def g(v: Any, f: Callable[..., Any] = f, counted: Counted = counted) -> float:
            counted.calls += 1
            return float(f(np, *v))

        row = [name]
        for way in _hessian_ways():
            counted.calls = 0
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                off = np.abs(way[1](g, np.array(x)) - exact).max() / np.abs(exact).max()
            row.append(f"{off:.0e} ({counted.calls})")
        rows.append(row)
    header = ["function", *(name for name, _ in _hessian_ways())]
    return "Hessians: largest error over the largest entry (evaluations)\n\n" + table(header, rows)


def _hessian_ways() -> list[tuple[str, Callable[[Any, Any], Any]]]:
    found: list[tuple[str, Callable[[Any, Any], Any]]] = [
        (scheme, lambda f, x, scheme=scheme: nn.numerical_hessian(f, x, scheme=scheme))
        for scheme in ("auto", "central")
    ]
    try:
        import numdifftools

        found.append(("numdifftools", lambda f, x: numdifftools.Hessian(f)(x)))
    except ImportError:
        pass
    return found


def _exact_hessian(f: Callable[..., Any], x: list[float]) -> np.ndarray:
    n = len(x)
    found = np.zeros((n, n))
    with mpmath.workdps(60):
        for i in range(n):
            for j in range(n):
                order = [(k == i) + (k == j) for k in range(n)]
                found[i, j] = float(mpmath.diff(lambda *v: f(mpmath, *v), tuple(map(mpmath.mpf, x)), tuple(order)))
    return found
