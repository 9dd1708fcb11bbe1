"""Tables of gradients: how fast, how exact, what training by them takes. Printed by speed.py."""

from __future__ import annotations

import ctypes
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from networks import classifier, images, naive
from side_by_side import measure, seconds, table

import nnframe as nn

LOOP_SAMPLE = 1000  # parameters from which the loop's time is extrapolated


def ways_to(model: nn.Sequential, x: np.ndarray, t: np.ndarray) -> dict[str, Callable[[], object]]:
    """Every way to the gradient of a mini-batch, in both dtypes."""
    loss, single, x32 = nn.CrossEntropyLoss(), model.astype(np.float32), x.astype(np.float32)
    strategies = {
        "`CentralDifference`": nn.CentralDifference(),
        "`CentralDifference`, weight by weight": nn.CentralDifference(interpolate=False),
        "`Backprop`": nn.Backprop(),
    }

    def run(strategy: Any, model: nn.Sequential, x: np.ndarray) -> Callable[[], object]:
        return lambda: strategy(model, loss, x, t)

    found: dict[str, Callable[[], object]] = {}
    for name, strategy in strategies.items():
        found[name + ", float64"] = run(strategy, model, x)
        found[name + ", float32"] = run(strategy, single, x32)
    return found


def against_the_loop(title: str, model: nn.Sequential, x: np.ndarray, t: np.ndarray, full: bool) -> str:
    """Every way to a gradient, and how much faster than the textbook's loop it is."""
    loop = naive(model)
    sample = None if full else LOOP_SAMPLE
    loop_seconds = loop.seconds_for_a_gradient(x, t, sample)
    times = measure(ways_to(model, x, t), 7)
    loop_seconds = (loop_seconds + loop.seconds_for_a_gradient(x, t, sample)) / 2
    count = sum(p.value.size for p in model.parameters())
    how = "in full" if full else f"from {LOOP_SAMPLE:,} of them"
    rows = [["loop over parameters, NumPy, float64", seconds(loop_seconds), "1"]]
    rows += [[way, seconds(each), f"{loop_seconds / each:,.0f}"] for way, each in times.items()]
    title += f", {count:,} parameters (loop timed {how}); {nn.config_info()['simd']}, {nn.get_num_threads()} threads"
    return title + "\n\n" + table(["a full gradient", "time", "times the loop's speed"], rows)


def gradient(full: bool) -> str:
    """One full gradient of a 50-unit sigmoid network at batch 100: loop, central differences, backpropagation."""
    name, x, t = images(100)
    title = f"{x.shape[1]}-50-10 sigmoid, batch 100 of {name}"
    return against_the_loop(title, classifier([x.shape[1], 50, 10]), x, t, full)


def dense(full: bool) -> str:
    """The same where no input is zero."""
    _, x, t = images(100)
    x = np.random.default_rng(0).standard_normal(x.shape)
    title = f"{x.shape[1]}-50-10 sigmoid, batch 100 of random numbers"
    return against_the_loop(title, classifier([x.shape[1], 50, 10]), x, t, full)


def deep(full: bool) -> str:
    """Two hidden layers of 100 units, ReLU."""
    name, x, t = images(100)
    title = f"{x.shape[1]}-100-100-10 ReLU, batch 100 of {name}"
    return against_the_loop(title, classifier([x.shape[1], 100, 100, 10], nn.ReLU), x, t, full)


def agreement(full: bool) -> str:
    """How far the ways to the same gradient lie apart, relative to its largest entry."""
    name, x, t = images(100)
    model = classifier([x.shape[1], 50, 10])
    loss = nn.CrossEntropyLoss()
    single, x32 = model.astype(np.float32), x.astype(np.float32)

    def run(strategy: Any, model: nn.Sequential, x: np.ndarray) -> list[np.ndarray]:
        strategy(model, loss, x, t)
        return [p.grad.astype(np.float64) for p in model.parameters()]

    back = run(nn.Backprop(), model, x)
    largest = max(np.abs(g).max() for g in back)

    def apart(one: list[np.ndarray], other: list[np.ndarray]) -> str:
        return f"{max(np.abs(a - b).max() for a, b in zip(one, other, strict=True)) / largest:.1e}"

    by_weight = {h: run(nn.CentralDifference(h, interpolate=False), model, x) for h in (1e-4, 1e-5)}
    rows = []
    for h in (1e-4, 1e-5):
        rows += [
            [
                f"curves and weight by weight, float64, h = {h:g}",
                apart(run(nn.CentralDifference(h), model, x), by_weight[h]),
            ],
            [f"weight by weight and `Backprop`, float64, h = {h:g}", apart(by_weight[h], back)],
        ]
    rows += [
        ["curves in float32 and `Backprop` in float64", apart(run(nn.CentralDifference(), single, x32), back)],
        [
            "weight by weight in float32 and `Backprop` in float64",
            apart(run(nn.CentralDifference(interpolate=False), single, x32), back),
        ],
    ]
    if full:
        values = [p.value for p in model.parameters()]
        numerical = [nn.numerical_gradient(lambda _: loss(model(x), t), value, step=1e-4) for value in values]
        rows += [["weight by weight and `numerical_gradient`, float64, h = 0.0001", apart(by_weight[1e-4], numerical)]]
    title = f"{x.shape[1]}-50-10 sigmoid, batch 100 of {name}: largest difference of an entry over the largest entry"
    return title + "\n\n" + table(["ways", "apart"], rows)


ROSENBROCK = """
#include <stdint.h>
double rosenbrock(const double *x, intptr_t n, void *data) {
    double sum = 0;
    for (intptr_t i = 0; i + 1 < n; i++) {
        const double a = x[i + 1] - x[i] * x[i], b = 1 - x[i];
        sum += 100 * a * a + b * b;
    }
    return sum;
}
"""
OPTIONS = ["-Ofast", "-march=native"]


def compiled(full: bool) -> str:
    """Functions of 1,000 variables, compiled and in Python, against SciPy."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    try:
        from scipy.optimize import approx_fprime
        from scipy.optimize._numdiff import approx_derivative
    except ImportError:
        return "compiled: needs SciPy"
    if compiler is None:
        return "compiled: needs a C compiler"
    x = np.random.default_rng(0).standard_normal(1000)
    pointer = ctypes.POINTER(ctypes.c_double)
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "f.c"), Path(folder, "f.so")
        source.write_text(ROSENBROCK)
        subprocess.run([compiler, "-shared", "-fPIC", *OPTIONS, "-o", library, source], check=True)
        f = ctypes.CDLL(str(library)).rosenbrock
    f.restype, f.argtypes = ctypes.c_double, [pointer, ctypes.c_ssize_t, ctypes.c_void_p]

    def wrapped(v: np.ndarray) -> float:
        return float(f(v.ctypes.data_as(pointer), v.size, None))

    def cheap(v: np.ndarray) -> float:
        return float(v @ v)

    times = measure(
        {
            "compiled": lambda: nn.numerical_gradient(f, x),
            "compiled, forward": lambda: nn.numerical_gradient(f, x, scheme="forward"),
            "approx_fprime": lambda: approx_fprime(x, wrapped),
            "wrapped": lambda: nn.numerical_gradient(wrapped, x),
            "3-point": lambda: approx_derivative(wrapped, x, method="3-point"),
            "cheap": lambda: nn.numerical_gradient(cheap, x),
            "cheap, 3-point": lambda: approx_derivative(cheap, x, method="3-point"),
        },
        7,
    )
    pairs = [
        ("Rosenbrock in C, central", "compiled", "`approx_fprime` (forward), C behind Python", "approx_fprime"),
        (
            "Rosenbrock in C, forward",
            "compiled, forward",
            "`approx_fprime` (forward), C behind Python",
            "approx_fprime",
        ),
        ("the same C behind Python, central", "wrapped", "`approx_derivative`, 3-point", "3-point"),
        ("v @ v in Python, central", "cheap", "`approx_derivative`, 3-point", "cheap, 3-point"),
    ]
    rows = [
        [what, seconds(times[ours]), other, seconds(times[theirs]), f"{times[theirs] / times[ours]:.1f}"]
        for what, ours, other, theirs in pairs
    ]
    header = ["function", "`numerical_gradient`", "SciPy", "time", "times as fast"]
    title = f"gradients of functions of 1,000 variables (C: {' '.join(OPTIONS)}); {nn.get_num_threads()} threads"
    return title + "\n\n" + table(header, rows)


def large(full: bool) -> str:
    """A gradient of 784-512-512-10 at batch 128: what was estimated, what it took, how much memory."""
    return subprocess.run([sys.executable, __file__], capture_output=True, check=True, text=True).stdout.strip()


def measure_large() -> None:
    """Run in a process of its own, whose peak memory tells."""
    name, x, t = images(128)
    model = classifier([x.shape[1], 512, 512, 10], nn.ReLU, np.float32)
    loss, inputs = nn.CrossEntropyLoss(), x.astype(np.float32)
    rows = []
    for what, strategy in (
        ("`CentralDifference`", nn.CentralDifference()),
        ("weight by weight", nn.CentralDifference(interpolate=False)),
    ):
        cost = strategy.cost(model, loss, inputs, t)
        reports = []
        start = time.perf_counter()
        strategy(model, loss, inputs, t, progress=lambda done, total, seen=reports: seen.append(done / total))
        taken = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        row = [what, f"{cost.evaluations:,}", seconds(cost.seconds), seconds(taken), f"{cost.seconds / taken:.2f}"]
        rows.append([*row, f"{len(reports)}", f"{memory:.0f} MB"])
    header = ["way", "evaluations", "estimate", "time", "estimate / time", "reports of progress", "peak memory so far"]
    print(f"{x.shape[1]}-512-512-10 ReLU, batch 128 of {name}, float32; {nn.get_num_threads()} threads\n")
    print(table(header, rows))


def training(full: bool) -> str:
    """The textbook's network and settings by central differences only, until 94 % of the test images are right."""
    name, _, _ = images(1)
    (x, t), test = (nn.data.mnist if name == "MNIST" else nn.data.digits)(dtype=np.float32)
    rows = []
    for what, strategy in (
        ("`CentralDifference`", nn.CentralDifference()),
        ("weight by weight", nn.CentralDifference(interpolate=False)),
        ("`Backprop`", nn.Backprop()),
    ):
        rng = np.random.default_rng(0)
        model = nn.Sequential(
            nn.Linear(x.shape[1], 50, init=nn.Normal(0.01), rng=rng),
            nn.Sigmoid(),
            nn.Linear(50, 10, init=nn.Normal(0.01), rng=rng),
        )
        trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), lr=0.1), strategy)
        start, steps, right = time.perf_counter(), 0, 0.0
        while right < 0.94 and steps < 30000:
            rows_of_some = rng.integers(0, len(x), 100 * 200)
            trainer.fit(x[rows_of_some], t[rows_of_some], batch_size=100, shuffle=False, progress=False)
            steps += 200
            right = trainer.evaluate(*test)["accuracy"] or math.nan
        rows.append([what, f"{steps:,}", seconds(time.perf_counter() - start), f"{right:.2%}"])
    title = f"{x.shape[1]}-50-10 sigmoid, SGD 0.1, weights 0.01 normal, batch 100 of {name} with replacement, float32"
    header = ["gradient", "steps", "time", "test accuracy"]
    return f"{title}; {nn.get_num_threads()} threads\n\n" + table(header, rows)


if __name__ == "__main__":
    measure_large()
