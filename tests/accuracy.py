"""Measures the error of every activation on every instruction set, in units of the last place of the result.

    python tests/accuracy.py [--every N] [--doubles N]

float32: over all finite floats, or every N-th, against float64. float64: over N random doubles, against mpmath. Fails
where an error is above the bound in test_activations.py. With --every 1 it takes some 15 minutes.

x g(x), the form of silu and gelu, is |x| times as far off where g(x) is subnormal, results below |x| times the smallest
normal number: they are held to the bound and |x| more, and are not in the table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import numpy as np
from scipy import special
from test_activations import ALPHA, FORWARD, error_in_ulps, exact_forward, forward, number

from nnframe.kernels import _kernels

Function = Callable[[np.ndarray], np.ndarray]
CHUNK = 1 << 22

# in float64, each form chosen so that nothing cancels
FLOAT64: dict[str, Function] = {
    "leaky_relu": lambda x: np.where(x > 0, x, x * ALPHA["leaky_relu"]),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * special.expit(x),
    "softplus": lambda x: np.where(x > 40, x, np.log1p(np.exp(np.minimum(x, 40)))),
    "gelu": lambda x: x * special.ndtr(x),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
}


def floats(every: int) -> Iterator[np.ndarray]:
    """Every N-th float32, by its bits, without the infinite ones and NaN."""
    for first in range(0, 1 << 32, every * CHUNK):
        bits = np.arange(first, min(first + every * CHUNK, 1 << 32), every, dtype=np.uint64).astype(np.uint32)
        numbers = bits.view(np.float32)
        finite = numbers[np.isfinite(numbers)]
        if len(finite):
            yield finite


def worst_single(name: str, every: int) -> dict[str, tuple[float, float]]:
    """Largest error in ULP and where, for each instruction set."""
    worst = dict.fromkeys(_kernels.simd_available(), (0.0, 0.0))
    for x in floats(every):
        with np.errstate(over="ignore", under="ignore"):
            expected = FLOAT64[name](x.astype(np.float64))
            rounded = np.minimum(np.abs(expected), np.finfo(np.float32).max).astype(np.float32)
            place = np.spacing(rounded).astype(np.float64)
        lost = np.where(rounded < np.abs(x) * np.finfo(np.float32).tiny, np.abs(x), 0)
        for simd in worst:
            _kernels.set_simd(simd)
            y = forward(name, x)
            over = np.isinf(y) & (np.abs(expected) > np.finfo(np.float32).max)
            errors = np.where(over, 0, np.abs(np.where(over, 0, y) - expected) / place - lost)
            at = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
            if not errors[at] <= worst[simd][0]:
                worst[simd] = float(errors[at]), float(x[at])
    return worst


def worst_double(name: str, count: int) -> dict[str, tuple[float, float]]:
    """Do as worst_single, for random doubles of all the sizes that matter."""
    rng = np.random.default_rng(0)
    third = count // 3
    small = rng.standard_normal(third) * 10.0 ** rng.integers(-30, 1, third)
    x = np.concatenate([rng.uniform(-700, 700, third), rng.uniform(-6, 6, count - 2 * third), small])
    expected = [exact_forward(name, number(a)) for a in x]
    worst = {}
    for simd in _kernels.simd_available():
        _kernels.set_simd(simd)
        lost = np.where(np.abs(np.array(expected, float)) < np.abs(x) * np.finfo(float).tiny, np.abs(x), 0)
        errors = np.array([error_in_ulps(b, e) for b, e in zip(forward(name, x), expected, strict=True)]) - lost
        at = int(np.argmax(errors))
        worst[simd] = float(errors[at]), float(x[at])
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=64, help="step through the float32 numbers (64)")
    parser.add_argument("--doubles", type=int, default=20000, help="how many float64 numbers (20000)")
    options = parser.parse_args()
    sets = _kernels.simd_available()
    print(f"| function | dtype | bound | {' | '.join(sets)} |\n{'| --- ' * (3 + len(sets))}|")
    too_far = 0
    for name in FLOAT64:
        for dtype, worst in (
            ("float32", worst_single(name, options.every)),
            ("float64", worst_double(name, options.doubles)),
        ):
            errors = " | ".join(f"{worst[simd][0]:.2f}" for simd in sets)
            print(f"| {name} | {dtype} | {FORWARD[name]} | {errors} |", flush=True)
            for simd, (error, x) in worst.items():
                if not error <= FORWARD[name]:
                    too_far += 1
                    print(f"{name}, {dtype}, {simd}: {error} ULP at {x!r}", file=sys.stderr)
    return too_far > 0


if __name__ == "__main__":
    sys.exit(main())
