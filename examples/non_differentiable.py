"""Layers without a derivative, trained by central differences with a finite step.

    python examples/non_differentiable.py [--epochs N]

A classifier of handwritten digits has a hidden layer whose outputs go through something that is constant almost
everywhere: a comparator, a quantiser, a table of measured values, a simulator written in C. Its derivative is 0, so
that backpropagation could train only what lies above it. For each of them four networks are compared:

    trained    all weights, by central differences whose step crosses the edges
    hybrid     the same by `Backprop`, with local differences of that layer alone
    frozen     the weights below the layer stay as they were drawn
    left out   the layer is not there
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import nnframe as nn

STEP = 1.0  # in a weight; pixels go up to 1, and the comparators' inputs to some 10


class Quantiser(nn.Layer):
    """Rounds to the nearest of a few levels between -1 and 1."""

    def __init__(self, levels: int = 4) -> None:
        self.levels = levels

    def forward(self, x: np.ndarray) -> np.ndarray:
        scale = (self.levels - 1) / 2
        return np.rint((np.clip(x, -1, 1) + 1) * scale) / scale - 1


class LookupTable(nn.Layer):
    """Answers with the value that was measured nearest to its input: 24 noisy samples of some device."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.low, self.high = -3.0, 3.0
        at = np.linspace(self.low, self.high, 24)
        self.measured = np.tanh(at) + 0.1 * rng.standard_normal(at.size)

    def forward(self, x: np.ndarray) -> np.ndarray:
        position = (np.clip(x, self.low, self.high) - self.low) / (self.high - self.low)
        return self.measured[np.rint(position * (self.measured.size - 1)).astype(int)].astype(x.dtype)


CONVERTER = """
#include <math.h>
#include <stddef.h>
/* A 3-bit analogue-to-digital converter: successive approximation, with a comparator that is a little off. */
void convert(const double *x, double *y, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double level = 0;
        int code = 0;
        for (int bit = 2; bit >= 0; bit--) {
            const double trial = level + ldexp(1.0, bit) / 4 - 1.0 / 64 * bit;
            if (x[i] + 1 >= trial) level = trial, code |= 1 << bit;
        }
        y[i] = code / 3.5 - 1;
    }
}
"""


class Converter(nn.Layer):
    """A simulator in C, compiled here and called through ctypes."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "converter.c"), Path(folder, "converter.so")
            source.write_text(CONVERTER)
            compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
            if compiler is None:
                raise SystemExit("this example compiles C, and found none of cc, gcc and clang: install a C compiler")
            subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-lm"], check=True)
            self.convert = ctypes.CDLL(str(library)).convert
        self.convert.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self.convert.restype = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        volts = np.ascontiguousarray(x, np.float64)
        codes = np.empty_like(volts)
        self.convert(volts.ctypes.data, codes.ctypes.data, volts.size)
        return codes.astype(x.dtype)


LAYERS: dict[str, Callable[[], nn.Layer]] = {
    "comparator, nn.Step()": nn.Step,
    "quantiser, 4 levels": Quantiser,
    "lookup table, 24 values": LookupTable,
    "converter of 3 bits, in C": Converter,
}


def accuracy(middle: nn.Layer | None, way: str, epochs: int) -> tuple[float, float]:
    """Train 64-100-10 with `middle` between the linear layers; test accuracy and seconds."""
    (x, t), test = nn.data.digits()
    rng = np.random.default_rng(0)
    below, above = nn.Linear(64, 100, rng=rng), nn.Linear(100, 10, rng=rng)
    model = nn.Sequential(below, above) if middle is None else nn.Sequential(below, middle, above)
    strategy = {
        "trained": nn.CentralDifference(STEP),
        "hybrid": nn.Backprop(STEP),
        "frozen": nn.CentralDifference(only=above.parameters()),
        "left out": nn.CentralDifference(),
    }[way]
    optimizer = nn.Adam((above if way == "frozen" else model).parameters(), lr=0.02)
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), optimizer, strategy)
    start = time.perf_counter()
    trainer.fit(x, t, epochs=epochs, batch_size=32, rng=0, progress=False)
    return trainer.evaluate(*test)["accuracy"] or 0.0, time.perf_counter() - start


def main(arguments: list[str] | None = None) -> list[dict[str, float]]:
    """Print a line for each layer; returns the accuracies."""
    parser = argparse.ArgumentParser(description="Train through layers that have no derivative.")
    parser.add_argument("--epochs", type=int, default=15)
    epochs = parser.parse_args(arguments).epochs
    left_out, _ = accuracy(None, "left out", epochs)
    print(f"{'layer':28}{'trained':>9}{'seconds':>9}{'hybrid':>9}{'seconds':>9}{'frozen':>9}{'left out':>10}")
    found = []
    for name, make in LAYERS.items():
        trained, seconds = accuracy(make(), "trained", epochs)
        hybrid, hybrid_seconds = accuracy(make(), "hybrid", epochs)
        frozen, _ = accuracy(make(), "frozen", epochs)
        found.append({"trained": trained, "hybrid": hybrid, "frozen": frozen, "left out": left_out})
        print(
            f"{name:28}{trained:9.2%}{seconds:9.1f}{hybrid:9.2%}{hybrid_seconds:9.1f}{frozen:9.2%}{left_out:10.2%}",
            flush=True,
        )
    return found


if __name__ == "__main__":
    main()
