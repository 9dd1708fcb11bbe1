"""Tables of gradients: how fast, how exact, what training by them takes. Printed by speed.py."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from networks import classifier, images, naive
from peers import ratio, set_threads
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
    loop_seconds = _loop_seconds(loop, x, t, sample)
    times = measure(ways_to(model, x, t), 7)
    loop_seconds = (loop_seconds + _loop_seconds(loop, x, t, sample)) / 2
    count = sum(p.value.size for p in model.parameters())
    how = "in full" if full else f"from {LOOP_SAMPLE:,} of them"
    rows = [["loop over parameters, NumPy, float64", seconds(loop_seconds), "1"]]
    rows += [[way, seconds(each), ratio(loop_seconds, each, 0)] for way, each in times.items()]
    title += f", {count:,} parameters (loop timed {how}); {nn.config_info()['simd']}, {nn.get_num_threads()} threads"
    return title + "\n\n" + table(["a full gradient", "time", "times the loop's speed"], rows)


def gradient(full: bool) -> str:
    """One full gradient of a 50-unit sigmoid network at batch 100: loop, central differences, backpropagation."""
    name, x, t = images(100)
    title = f"{x.shape[1]}-50-10 sigmoid, batch 100 of {name}"
    return against_the_loop(title, classifier([x.shape[1], 50, 10]), x, t, full)


def _loop_seconds(loop: Any, x: np.ndarray, t: np.ndarray, sample: int | None) -> float:
    found = []
    for threads in {1, nn.get_num_threads()}:
        set_threads(threads)
        found.append(loop.seconds_for_a_gradient(x, t, sample))
    return min(found)


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
            "compiled, central": lambda: nn.numerical_gradient(f, x, scheme="central"),
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
        ("Rosenbrock in C, auto", "compiled", "`approx_fprime` (forward), C behind Python", "approx_fprime"),
        (
            "Rosenbrock in C, central",
            "compiled, central",
            "`approx_fprime` (forward), C behind Python",
            "approx_fprime",
        ),
        (
            "Rosenbrock in C, forward",
            "compiled, forward",
            "`approx_fprime` (forward), C behind Python",
            "approx_fprime",
        ),
        ("the same C behind Python, auto", "wrapped", "`approx_derivative`, 3-point", "3-point"),
        ("v @ v in Python, auto", "cheap", "`approx_derivative`, 3-point", "cheap, 3-point"),
    ]
    rows = [
        [what, seconds(times[ours]), other, seconds(times[theirs]), f"{times[theirs] / times[ours]:.1f}"]
        for what, ours, other, theirs in pairs
    ]
    header = ["function", "`numerical_gradient`", "SciPy", "time", "times as fast"]
    title = f"gradients of functions of 1,000 variables (C: {' '.join(OPTIONS)}); {nn.get_num_threads()} threads"
    return title + "\n\n" + table(header, rows)


LARGE = [784, 512, 512, 10]


def large(full: bool) -> str:
    """A gradient of 784-512-512-10 at batch 128: what was estimated, what it took, how much memory."""
    name, x, t = images(128)
    with tempfile.TemporaryDirectory() as folder:
        batch = Path(folder, "batch.npz")  # read by a process of its own, whose peak memory tells
        np.savez(batch, x=x.astype(np.float32), t=t)
        lines = subprocess.run([sys.executable, __file__, batch], capture_output=True, check=True, text=True).stdout
    sizes = "-".join(map(str, [x.shape[1], *LARGE[1:]]))
    return f"{sizes} ReLU, batch 128 of {name}, float32; {nn.get_num_threads()} threads\n\n{lines.strip()}"


def measure_large(batch: str) -> None:
    """Print the table of `large`, for the mini-batch in a file."""
    data = np.load(batch)
    x, t = data["x"], data["t"]
    model = classifier([x.shape[1], *LARGE[1:]], nn.ReLU, np.float32)
    loss = nn.CrossEntropyLoss()
    rows = []
    for what, strategy in (
        ("`CentralDifference`", nn.CentralDifference()),
        ("weight by weight", nn.CentralDifference(interpolate=False)),
        ("`NodePerturbation`", nn.NodePerturbation()),
    ):
        cost = strategy.cost(model, loss, x, t)
        reports: list[float] = []
        start = time.perf_counter()
        strategy(model, loss, x, t, progress=lambda done, total, seen=reports: seen.append(done / total))
        taken = time.perf_counter() - start
        memory = peak_memory()
        row = [what, f"{cost.evaluations:,}", seconds(cost.seconds), seconds(taken), f"{cost.seconds / taken:.2f}"]
        rows.append([*row, f"{len(reports)}", f"{memory:.0f} MB"])
    header = ["way", "evaluations", "estimate", "time", "estimate / time", "reports of progress", "peak memory so far"]
    print(table(header, rows))


def peak_memory() -> float:
    """Return the most MB that this process has held at a time."""
    try:  # unlike ru_maxrss, not that of the process that started this one
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def training(full: bool) -> str:
    """The textbook's network and settings by central differences only, until 94 % of the test images are right."""
    name, _, _ = images(1)
    (x, t), test = (nn.data.mnist if name == "MNIST" else nn.data.digits)(dtype=np.float32)
    rows = []
    for what, strategy, dtype in (
        ("`CentralDifference`", nn.CentralDifference(), np.float32),
        ("`CentralDifference`", nn.CentralDifference(), np.float64),
        ("weight by weight", nn.CentralDifference(interpolate=False), np.float32),
        ("weight by weight", nn.CentralDifference(interpolate=False), np.float64),
        ("`Backprop`", nn.Backprop(), np.float32),
    ):
        rng = np.random.default_rng(0)
        model = nn.Sequential(
            nn.Linear(x.shape[1], 50, init=nn.Normal(0.01), rng=rng, dtype=dtype),
            nn.Sigmoid(),
            nn.Linear(50, 10, init=nn.Normal(0.01), rng=rng, dtype=dtype),
        )
        trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), lr=0.1), strategy)
        start, epochs, right = time.perf_counter(), 0, 0.0
        inputs = x.astype(dtype)
        while right < 0.94 and epochs < 100:
            trainer.fit(inputs, t, batch_size=100, replacement=True, rng=rng, progress=False)
            epochs += 1
            right = trainer.evaluate(*test)["accuracy"] or math.nan
        steps = epochs * -(-len(x) // 100)
        taken = time.perf_counter() - start
        rows.append([what, np.dtype(dtype).name, f"{steps:,}", seconds(taken), f"{right:.2%}"])
    title = f"{x.shape[1]}-50-10 sigmoid, SGD 0.1, weights 0.01 normal, batch 100 of {name} drawn with replacement"
    header = ["gradient", "dtype", "steps", "time", "test accuracy"]
    return f"{title}; {nn.get_num_threads()} threads\n\n" + table(header, rows)


def interrupts(full: bool) -> str:
    """How long after Ctrl-C each long loop ends, and whether what it worked on is as before."""
    rng = np.random.default_rng(0)
    x, t, loss = rng.standard_normal((256, 784)), rng.integers(0, 10, 256), nn.CrossEntropyLoss()
    model = classifier([784, 1024, 1024, 1024, 10], nn.ReLU)
    small = classifier([784, 100, 10], nn.Tanh)
    point = rng.standard_normal(2000)

    def python(v: np.ndarray) -> float:
        return float(np.sin(v).sum())

    def step() -> None:
        trainer = nn.Trainer(small, loss, nn.SGD(small.parameters(), 0.0), nn.CentralDifference(interpolate=False))
        if trainer.fit(x, t, epochs=10000, progress=False).interrupted:
            raise KeyboardInterrupt

    ways: dict[str, Callable[[], object]] = {
        "`CentralDifference`, weight by weight, in C": lambda: nn.CentralDifference(interpolate=False)(
            model, loss, x, t
        ),
        "`CentralDifference`, curves": lambda: [nn.CentralDifference()(model, loss, x, t) for _ in range(100)],
        "`CentralDifference`, custom layer": lambda: nn.CentralDifference()(
            nn.Sequential(*model[:2], _Reversed(), *model[2:]), loss, x, t
        ),
        "`NodePerturbation`": lambda: [nn.NodePerturbation()(model, loss, x, t) for _ in range(100)],
        "`SPSA`": lambda: nn.SPSA(samples=1000)(model, loss, x, t),
        "`numerical_gradient`, Python": lambda: [nn.numerical_gradient(python, point) for _ in range(1000)],
        "`Trainer.fit`": step,
    }
    rows = []
    for what, way in ways.items():
        before = [p.value.copy() for p in (*model.parameters(), *small.parameters())] + [point.copy()]
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        start = time.perf_counter()
        timer.start()
        try:
            way()
            after = "ended first"
        except KeyboardInterrupt:
            after = seconds(time.perf_counter() - start - 0.5)
        timer.join()
        arrays = [p.value for p in (*model.parameters(), *small.parameters())] + [point]
        same = all((a == b).all() for a, b in zip(before, arrays, strict=True))
        rows.append([what, after, "yes" if same else "NO"])
    return "Ctrl-C after half a second\n\n" + table(["loop", "ends after another", "arrays as before"], rows)


class _Reversed(nn.Layer):
    """A rowwise layer that C does not know."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x[..., ::-1]


if __name__ == "__main__":
    measure_large(sys.argv[1])
