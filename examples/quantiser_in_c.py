"""A network with an 8-bit quantiser written in C, trained through it without a straight-through trick.

    python examples/quantiser_in_c.py [--data digits|mnist] [--epochs N] [--ways WAY ...] [--seed N] [--out picture.png]

The hidden layer's outputs go through a quantiser that the system's C compiler makes into a library, called through
ctypes: 256 levels, as an 8-bit processor has them. Its derivative is 0 between two levels and does not exist at the
edges. The usual trick is to say that it is 1 (Bengio, Leonard and Courville 2013). Here nobody says so: central
differences whose step is a few levels long find what the slope is, of this quantiser or of any other.

    central    (L(w + h) - L(w - h)) / 2h for every weight; on MNIST only when asked for, as an epoch takes minutes
    hybrid     `Backprop(h)`: written backward passes, and central differences of the quantiser alone
    frozen     the weights below the quantiser stay as they were drawn
    left out   the quantiser is not there
    added      the quantiser comes in after the network has been trained without it

How long must a step be? A staircase with levels D apart rises over 2 h by 2 h to within D, so that the slope is off by
at most D / 2h. D is not taken from the C code but asked of the layer (`widest_level`). Of a step so small that no
change passes, or up to 1e-3 so few that the gradient does not fit the loss, nnframe says so; for steps between that and
D it cannot know, and the picture shows by how much slopes are then off.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import nnframe as nn

LEVELS_PER_STEP = 8  # h in levels: slopes are then off by at most 1 / 16
SETTINGS = {  # hidden units, epochs, batch size, first learning rate
    "digits": (200, 30, 32, 0.02),
    "mnist": (256, 12, 100, 0.004),
}
WAYS = ("central", "hybrid", "frozen", "left out", "added")

SOURCE = """
#include <math.h>
#include <stddef.h>
#include <stdint.h>
/* y = x in unsigned fixed point with 2 bits before the point and 6 after it: 0, 1/64, ..., 255/64. */
void quantise(const double *x, double *y, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const double code = floor(64 * x[i] + 0.5);
        const uint8_t held = code > 0 ? (code < 255 ? (uint8_t)code : 255) : 0; /* 0 for NaN */
        y[i] = held / 64.0;
    }
}
"""


def compiled(source: str) -> ctypes.CDLL:
    """Compile C with the system's compiler, and load it."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise SystemExit("this example compiles C, and found none of cc, gcc and clang: please install a C compiler")
    with tempfile.TemporaryDirectory() as folder:
        code, library = Path(folder, "code.c"), Path(folder, "code.so")
        code.write_text(source)
        command = [compiler, "-std=c11", "-O2", "-shared", "-fPIC", "-o", library, code, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{compiler} could not compile the quantiser:\n{done.stderr}")
        return ctypes.CDLL(str(library))


class Quantiser(nn.Layer):
    """The quantiser in C, elementwise. All that nnframe needs of a layer is `forward`."""

    def __init__(self) -> None:
        self.quantise = compiled(SOURCE).quantise
        self.quantise.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self.quantise.restype = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        given = np.ascontiguousarray(x, np.float64)
        held = np.empty_like(given)
        self.quantise(given.ctypes.data, held.ctypes.data, given.size)
        return held.astype(x.dtype)


def widest_level(layer: nn.Layer, low: float = 0.0, high: float = 3.9) -> float:
    """Ask an elementwise layer how far the edges of its staircase are apart at most, by a ramp from low to high."""
    ramp = np.linspace(low, high, 100_001)
    edges = ramp[1:][np.diff(layer(ramp[None])[0]) != 0]
    if len(edges) < 2:
        raise ValueError(f"{layer!r}: expected a staircase, found {len(edges)} edges from {low:g} to {high:g}")
    return float(np.diff(edges).max())


class Result(NamedTuple):
    """What one way of training gave."""

    accuracy: float  # on the test images
    curve: list[float]  # the same after each epoch
    seconds: float


def train(data: str, way: str, epochs: int, quantiser: Quantiser, step: float, seed: int = 0) -> Result:
    """Train a network with one hidden layer; the learning rate falls to 0 along a line."""
    (x, t), test = nn.data.mnist() if data == "mnist" else nn.data.digits()
    hidden, _, batch_size, rate = SETTINGS[data]
    rng = np.random.default_rng(seed)
    below, above = nn.Linear(x.shape[1], hidden, init=nn.He(), rng=rng), nn.Linear(hidden, 10, rng=rng)
    without, whole = nn.Sequential(below, nn.ReLU(), above), nn.Sequential(below, nn.ReLU(), quantiser, above)
    model = without if way in ("left out", "added") else whole
    optimizer = nn.Adam((above if way == "frozen" else model).parameters(), rate)
    strategy = {
        "central": nn.CentralDifference(step),
        "frozen": nn.CentralDifference(only=above.parameters()),  # above the quantiser nothing is a staircase
    }.get(way, nn.Backprop(step))
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), optimizer, strategy)
    curve, start = [], time.perf_counter()
    for epoch in range(epochs):
        optimizer.lr = rate * (1 - epoch / epochs)
        history = trainer.fit(x, t, batch_size=batch_size, validation_data=test, rng=rng, progress=False)
        curve += history["val_accuracy"]
    seconds = time.perf_counter() - start
    if way == "added":
        curve.append(nn.Trainer(whole, nn.CrossEntropyLoss(), optimizer, strategy).evaluate(*test)["accuracy"] or 0.0)
    return Result(curve[-1], curve, seconds)


def draw(results: dict[str, Result], quantiser: Quantiser, width: float, step: float, path: str) -> None:
    """Draw a piece of the staircase with a chord, the slopes that steps find, and the curves of accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (stairs, slopes, curves) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    x = np.linspace(1, 1 + 2.5 * step, 4001)
    stairs.plot(x, quantiser(x[None])[0], lw=1, label="quantiser")
    ends = 1 + np.array([0.25, 2.25]) * step
    stairs.plot(ends, quantiser(ends[None])[0], "o-", color="C3", label=f"chord over 2 h, h = {step / width:g} levels")
    stairs.set(title="a few of its 256 levels", xlabel="x", ylabel="y")
    stairs.legend()

    where = np.random.default_rng(0).uniform(0.5, 3.0, (1, 2000))
    steps = width * 2.0 ** np.arange(-6, 6.25, 0.25)
    found = np.array([(quantiser(where + h) - quantiser(where - h))[0] / (2 * h) for h in steps])
    slopes.fill_between(steps / width, found.min(1), found.max(1), alpha=0.3, label="least to largest slope found")
    slopes.plot(steps / width, found.mean(1), color="C0", label="mean")
    slopes.axvline(step / width, color="C3", label="the step taken here")
    slopes.set(xscale="log", yscale="symlog", xlabel="step h, in levels", title="slope at 2,000 places")
    slopes.set_yticks([0, 1, 10], ["0", "1", "10"])
    slopes.legend()

    for way, result in results.items():
        if way != "added":
            epochs = range(1, len(result.curve) + 1)
            curves.plot(epochs, result.curve, label=f"{way}: {result.accuracy:.2%}")
    if "added" in results:
        last = len(results["added"].curve) - 1
        curves.plot([last], [results["added"].accuracy], "kx", label=f"added: {results['added'].accuracy:.2%}")
    curves.set(xlabel="epoch", title="test accuracy", ylim=(0.85, 1))
    curves.legend()
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> dict[str, Result]:
    """Train in each of the ways, and print a line for it; returns what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=tuple(SETTINGS), default="digits")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all; for mnist all but central")
    parser.add_argument("--seed", type=int, default=0, help="of weights and mini-batches (default: 0)")
    parser.add_argument("--out", help="where to write a picture (needs matplotlib)")
    options = parser.parse_args(arguments)
    quantiser = Quantiser()
    width = widest_level(quantiser)
    step = LEVELS_PER_STEP * width
    print(f"levels are {width:.4f} apart; step {step:.4f}: slopes are off by at most {width / (2 * step):.1%}")
    results: dict[str, Result] = {}
    for way in options.ways or WAYS[options.data == "mnist" :]:
        epochs = options.epochs or SETTINGS[options.data][1]
        results[way] = train(options.data, way, epochs, quantiser, step, options.seed)
        print(f"{way:10}{results[way].accuracy:8.2%} of the test images{results[way].seconds:9.1f} s", flush=True)
    if options.out:
        draw(results, quantiser, width, step, options.out)
        print(f"wrote {options.out}")
    return results


if __name__ == "__main__":
    main()
