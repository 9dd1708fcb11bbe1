"""One layer of your own in NumPy, C, Cython and Numba: checked, compared and timed.

    python examples/custom_layers.py [--epochs N] [--out picture.png]

The layer is a rational activation (Molina, Schramowski and Kersting 2020) whose coefficients are trained, five for each
column: y = (p0 + p1 x + p2 x^2 + p3 x^3) / (1 + (q x)^2). nnframe sees arrays alone, so that whatever fills arrays can
be a layer: here a pair of functions

    forward(x, p, q, y)                  fills y
    backward(x, p, q, dy, dx, dp, dq)    fills dx, adds to dp and dq

for contiguous arrays of one dtype, (N, C), p and dp (4, C), q and dq (C,). C is compiled by the system's compiler and
called through ctypes. What is not installed is skipped, and named.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nnframe as nn

Code = tuple[Callable[..., Any], Callable[..., Any]]  # forward, backward


class Rational(nn.Layer):
    """y = (p0 + p1 x + p2 x^2 + p3 x^3) / (1 + (q x)^2), elementwise; at first close to tanh."""

    couples = "entries"

    def __init__(self, features: int, code: Code) -> None:
        self.p = nn.Parameter(np.tile(np.array([[0], [1], [0], [1 / 15]], np.float32), features))
        self.q = nn.Parameter(np.full(features, 0.4**0.5, np.float32))
        self.fill_forward, self.fill_backward = code

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(x)
        y = np.empty_like(x)
        self.fill_forward(x, self.p.value.astype(x.dtype), self.q.value.astype(x.dtype), y)
        return y

    def backward(self, x: np.ndarray, y: np.ndarray, dy: np.ndarray) -> np.ndarray:
        x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy, x.dtype)
        p, q = self.p.value.astype(x.dtype), self.q.value.astype(x.dtype)
        dx, dp, dq = np.empty_like(x), np.zeros_like(p), np.zeros_like(q)
        self.fill_backward(x, p, q, dy, dx, dp, dq)
        self.p.grad += dp
        self.q.grad += dq
        return dx


class Missing(Exception):
    """Something that a language needs is not there."""


# ---- NumPy ----


def in_numpy() -> Code:
    """Return the formulas, array by array."""

    def forward(x, p, q, y):  # type: ignore[no-untyped-def]
        y[...] = (((p[3] * x + p[2]) * x + p[1]) * x + p[0]) / (1 + (q * x) ** 2)

    def backward(x, p, q, dy, dx, dp, dq):  # type: ignore[no-untyped-def]
        share = dy / (1 + (q * x) ** 2)
        y = (((p[3] * x + p[2]) * x + p[1]) * x + p[0]) / (1 + (q * x) ** 2)
        dx[...] = share * ((3 * p[3] * x + 2 * p[2]) * x + p[1] - 2 * q * q * x * y)
        dq -= np.sum(share * 2 * q * x * x * y, axis=0)
        for k in range(4):
            dp[k] += share.sum(axis=0)
            share = share * x

    return forward, backward


# ---- C ----

C = """
#include <stddef.h>

void forward(size_t rows, size_t columns, const real *restrict x, const real *restrict p, const real *restrict q,
             real *restrict y) {
    const real *p0 = p, *p1 = p + columns, *p2 = p + 2 * columns, *p3 = p + 3 * columns;
    for (size_t n = 0; n < rows; n++, x += columns, y += columns)
        for (size_t c = 0; c < columns; c++) {
            const real z = q[c] * x[c];
            y[c] = (((p3[c] * x[c] + p2[c]) * x[c] + p1[c]) * x[c] + p0[c]) / (1 + z * z);
        }
}

void backward(size_t rows, size_t columns, const real *restrict x, const real *restrict p, const real *restrict q,
              const real *restrict dy, real *restrict dx, real *restrict dp, real *restrict dq) {
    const real *p0 = p, *p1 = p + columns, *p2 = p + 2 * columns, *p3 = p + 3 * columns;
    for (size_t n = 0; n < rows; n++, x += columns, dy += columns, dx += columns)
        for (size_t c = 0; c < columns; c++) {
            const real v = x[c], z = q[c] * v, share = dy[c] / (1 + z * z);
            const real y = (((p3[c] * v + p2[c]) * v + p1[c]) * v + p0[c]) / (1 + z * z);
            dx[c] = share * ((3 * p3[c] * v + 2 * p2[c]) * v + p1[c] - 2 * q[c] * z * y);
            dp[c] += share;
            dp[columns + c] += share * v;
            dp[2 * columns + c] += share * v * v;
            dp[3 * columns + c] += share * v * v * v;
            dq[c] -= share * 2 * z * v * y;
        }
}
"""


def in_c() -> Code:
    """Compile the C above once for each dtype, and load it."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise Missing("none of cc, gcc and clang is installed")
    loaded = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "rational.c")
        source.write_text(C)
        for dtype, real in (("float32", "float"), ("float64", "double")):
            library = Path(folder, f"{dtype}.so")
            run([compiler, "-std=c11", "-O3", "-shared", "-fPIC", f"-Dreal={real}", "-o", library, source])
            loaded[dtype] = ctypes.CDLL(str(library))

    def caller(name: str) -> Callable[..., None]:
        def call(*arrays: np.ndarray) -> None:
            pointers = (ctypes.c_void_p(a.ctypes.data) for a in arrays)
            getattr(loaded[str(arrays[0].dtype)], name)(*map(ctypes.c_size_t, arrays[0].shape), *pointers)

        return call

    return caller("forward"), caller("backward")


def run(command: list[Any]) -> None:
    """Run a compiler; Missing where it fails, with what it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{Path(command[0]).name} could not compile it:\n{done.stderr or done.stdout}")


# ---- Cython ----

CYTHON = """
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
from cython cimport floating


def forward(const floating[:, ::1] x, const floating[:, ::1] p, const floating[::1] q, floating[:, ::1] y):
    cdef Py_ssize_t n, c
    cdef floating v, z
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            v = x[n, c]
            z = q[c] * v
            y[n, c] = (((p[3, c] * v + p[2, c]) * v + p[1, c]) * v + p[0, c]) / (1 + z * z)


def backward(const floating[:, ::1] x, const floating[:, ::1] p, const floating[::1] q, const floating[:, ::1] dy,
             floating[:, ::1] dx, floating[:, ::1] dp, floating[::1] dq):
    cdef Py_ssize_t n, c
    cdef floating v, z, y, share
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            v = x[n, c]
            z = q[c] * v
            share = dy[n, c] / (1 + z * z)
            y = (((p[3, c] * v + p[2, c]) * v + p[1, c]) * v + p[0, c]) / (1 + z * z)
            dx[n, c] = share * ((3 * p[3, c] * v + 2 * p[2, c]) * v + p[1, c] - 2 * q[c] * z * y)
            dp[0, c] += share
            dp[1, c] += share * v
            dp[2, c] += share * v * v
            dp[3, c] += share * v * v * v
            dq[c] -= share * 2 * z * v * y
"""


def in_cython() -> Code:
    """Compile the Cython above, and import it."""
    for name in ("Cython", "setuptools"):
        if importlib.util.find_spec(name) is None:
            raise Missing(f"{name} is not installed (pip install {name.lower()})")
    folder = Path(tempfile.mkdtemp(prefix="rational-"))
    try:
        (folder / "rational.pyx").write_text(CYTHON)
        run([sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-q", folder / "rational.pyx"])
        (library,) = [path for path in folder.iterdir() if path.suffix in (".so", ".pyd")]
        spec: Any = importlib.util.spec_from_file_location("rational", library)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return module.forward, module.backward


# ---- Numba ----


def in_numba() -> Code:
    """Compile the loops below when they are first called."""
    if importlib.util.find_spec("numba") is None:
        raise Missing("numba is not installed (pip install numba)")
    import numba

    @numba.njit
    def forward(x, p, q, y):  # type: ignore[no-untyped-def]
        for n in range(x.shape[0]):
            for c in range(x.shape[1]):
                v = x[n, c]
                z = q[c] * v
                y[n, c] = (((p[3, c] * v + p[2, c]) * v + p[1, c]) * v + p[0, c]) / (1 + z * z)

    @numba.njit
    def backward(x, p, q, dy, dx, dp, dq):  # type: ignore[no-untyped-def]
        for n in range(x.shape[0]):
            for c in range(x.shape[1]):
                v = x[n, c]
                z = q[c] * v
                share = dy[n, c] / (1 + z * z)
                y = (((p[3, c] * v + p[2, c]) * v + p[1, c]) * v + p[0, c]) / (1 + z * z)
                dx[n, c] = share * ((3 * p[3, c] * v + 2 * p[2, c]) * v + p[1, c] - 2 * q[c] * z * y)
                dp[0, c] += share
                dp[1, c] += share * v
                dp[2, c] += share * v * v
                dp[3, c] += share * v * v * v
                dq[c] -= share * 2 * z * v * y

    return forward, backward


LANGUAGES = {"NumPy": in_numpy, "C": in_c, "Cython": in_cython, "Numba": in_numba}


# ---- what is done with each ----


class Found(NamedTuple):
    """What one language gave."""

    numbers: list[np.ndarray]  # y, dx, dp, dq in float64
    seconds: float  # a forward and a backward pass, 128 rows of 512 columns in float32
    accuracy: float  # on the test images, trained by Backprop
    layer: Rational  # after training


def passes(layer: Rational, x: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """Return y, dx, dp and dq."""
    layer.p.grad[...] = layer.q.grad[...] = 0
    y = layer.forward(x)
    return [y, layer.backward(x, y, dy), layer.p.grad, layer.q.grad]


def examine(code: Code, epochs: int) -> Found:
    """Check the layer's backward, take its numbers, time it, and train with it."""
    rng = np.random.default_rng(0)
    for check in nn.check_gradients(Rational(7, code), rng.standard_normal((5, 7))):
        assert check.right, check
    x, dy = rng.standard_normal((2, 128, 512))
    numbers = passes(Rational(512, code).astype(np.float64), x, dy)
    layer, small, small_dy, times = Rational(512, code), x.astype(np.float32), dy.astype(np.float32), []
    for _ in range(30):
        start = time.perf_counter()
        passes(layer, small, small_dy)
        times.append(time.perf_counter() - start)
    (train_x, t), test = nn.data.digits()
    layer = Rational(100, code)
    model = nn.Sequential(nn.Linear(64, 100, rng=0), layer, nn.Linear(100, 10, rng=1))
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), 0.005), nn.Backprop())
    trainer.fit(train_x, t, epochs=epochs, rng=0, progress=False)
    return Found(numbers, min(times), trainer.evaluate(*test)["accuracy"] or 0.0, layer)


def draw(results: dict[str, Found], path: str) -> None:
    """Draw how long each takes, and the functions that training has made of the first one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (times, curves) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    bars = times.barh(list(results), [1e3 * found.seconds for found in results.values()])
    times.bar_label(bars, fmt="%.2f", padding=3)
    times.invert_yaxis()
    times.margins(x=0.15)
    times.set(xlabel="ms", title="forward and backward, 128 x 512, float32")
    x, layer = np.linspace(-4, 4, 400), results["NumPy"].layer
    p, q = layer.p.value, layer.q.value
    for c in range(0, 100, 5):
        curves.plot(x, np.polyval(p[::-1, c], x) / (1 + (q[c] * x) ** 2), lw=0.8, color="C0")
    curves.plot([], [], color="C0", label="after training, 20 of the units")
    curves.plot(x, (x + x**3 / 15) / (1 + 0.4 * x**2), "k--", label="before: close to tanh")
    curves.set(xlabel="x", title="what the units compute")
    curves.legend()
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> dict[str, Found]:
    """Print a line for each language; returns what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", help="where to write a picture (needs matplotlib)")
    options = parser.parse_args(arguments)
    results: dict[str, Found] = {}
    print(f"{'language':10}{'gradients':>11}{'furthest from NumPy':>21}{'ms':>8}{'test accuracy':>15}")
    for name, make in LANGUAGES.items():
        try:
            code = make()
        except Missing as why:
            print(f"{name:10}skipped: {why}")
            continue
        found = results[name] = examine(code, options.epochs)
        pairs = zip(found.numbers, results["NumPy"].numbers, strict=True)
        apart = max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)
        print(f"{name:10}{'right':>11}{apart:21.1e}{1e3 * found.seconds:8.2f}{found.accuracy:15.2%}", flush=True)
    if options.out:
        draw(results, options.out)
        print(f"wrote {options.out}")
    return results


if __name__ == "__main__":
    main()
