"""Error of central differences against the step, for plain quotients and for propagated differences.

    python benchmarks/error_against_step.py [PICTURE]

Prints a table; with a file name it also draws it. The network is 64-20-10 sigmoid with cross-entropy at a batch of 50
digits; the error is the largest difference of an entry from `Backprop` in float64, over the largest entry.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
from naive import NaiveNetwork
from networks import classifier
from side_by_side import table

import nnframe as nn

STEPS = [10.0**-k for k in (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9, 10)]
ONE_BY_ONE = {"interpolate": False}


def errors() -> dict[str, list[float]]:
    """Error of each way at each step."""
    (x, t), _ = nn.data.digits(dtype=np.float64)
    x, t = x[:50], t[:50]
    model, loss = classifier([64, 20, 10]), nn.CrossEntropyLoss()
    nn.Backprop()(model, loss, x, t)
    exact = np.concatenate([p.grad.reshape(-1) for p in model.parameters()])

    def apart(gradient: np.ndarray) -> float:
        return max(float(np.abs(gradient - exact).max() / np.abs(exact).max()), 1e-17)

    def differences(dtype: type, step: float, options: dict[str, bool]) -> float:
        twin = model.astype(dtype)
        nn.CentralDifference(step, **options)(twin, loss, x, t)
        return apart(np.concatenate([p.grad.reshape(-1) for p in twin.parameters()]))

    def plain(dtype: type, step: float) -> float:
        loop = NaiveNetwork([np.ascontiguousarray(p.value.T.astype(dtype)) for p in model.parameters()])
        inputs = x.astype(dtype)
        found = [loop.difference(entry, inputs, t, step) for entry in loop.entries()]
        shapes = [p.value.T.shape for p in model.parameters()]
        parts = np.split(np.array(found), np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
        ordered = [part.reshape(shape).T.reshape(-1) for part, shape in zip(parts, shapes, strict=True)]
        return apart(np.concatenate(ordered))

    ways: dict[str, list[float]] = {}
    for dtype, step in itertools.product((np.float64, np.float32), STEPS):
        name = np.dtype(dtype).name
        ways.setdefault(f"plain, {name}", []).append(plain(dtype, step))
        ways.setdefault(f"differences, {name}", []).append(differences(dtype, step, ONE_BY_ONE))
        ways.setdefault(f"curves, {name}", []).append(differences(dtype, step, {}))
    return ways


def draw(ways: dict[str, list[float]], path: str) -> None:
    """Draw all ways into one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.4), dpi=120)
    colours = {"float64": "tab:blue", "float32": "tab:orange"}
    for name, values in ways.items():
        kind, dtype = name.split(", ")
        style = {"plain": ":", "differences": "-", "curves": "none"}[kind]
        marker = {"plain": "x", "differences": "", "curves": "o"}[kind]
        axes.loglog(STEPS, values, linestyle=style, marker=marker, ms=5, mfc="none", color=colours[dtype], label=name)
    axes.set_xlabel("step h")
    axes.set_ylabel("error / largest entry")
    axes.set_ylim(1e-17, 10)
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    axes.set_title("central differences: error against the step", fontsize=10)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    ways = errors()
    rows = [[f"{h:.0e}", *(f"{values[i]:.1e}" for values in ways.values())] for i, h in enumerate(STEPS)]
    print(table(["h", *ways], rows))
    if len(sys.argv) > 1:
        draw(ways, sys.argv[1])


if __name__ == "__main__":
    main()
