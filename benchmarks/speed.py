"""Prints tables of measured speed, ratios side by side in one run: `python benchmarks/speed.py [TABLE ...]`.

With no table named it prints all. NNFRAME_DATA=folder makes the gradient tables use MNIST instead of the shipped
digits; `--full` runs the textbook's loop over every parameter instead of a sample.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import numpy as np
from naive import NaiveNetwork
from networks import classifier, images
from side_by_side import measure, seconds, table

import nnframe as nn

LOOP_SAMPLE = 2000


def gradient(full: bool) -> str:
    """One full gradient of a 50-unit sigmoid network at batch 100: loop, central differences, backpropagation."""
    name, x, t = images(100)
    model = classifier([x.shape[1], 50, 10])
    weights = [model[0].weight.value.T, model[0].bias.value, model[2].weight.value.T, model[2].bias.value]
    loop = NaiveNetwork(*(np.ascontiguousarray(w) for w in weights))
    loss = nn.CrossEntropyLoss()
    single = model.astype(np.float32)
    x32 = x.astype(np.float32)
    loop_seconds = loop.seconds_for_a_gradient(x, t, None if full else LOOP_SAMPLE)
    times = measure(
        {
            "`CentralDifference`, float64": lambda: nn.CentralDifference()(model, loss, x, t),
            "`CentralDifference`, float32": lambda: nn.CentralDifference()(single, loss, x32, t),
            "`Backprop`, float64": lambda: nn.Backprop()(model, loss, x, t),
            "`Backprop`, float32": lambda: nn.Backprop()(single, loss, x32, t),
        }
    )
    loop_seconds = (loop_seconds + loop.seconds_for_a_gradient(x, t, None if full else LOOP_SAMPLE)) / 2
    count = sum(p.value.size for p in model.parameters())
    how = "in full" if full else f"from {LOOP_SAMPLE:,} of them"
    rows = [["loop over parameters, NumPy, float64", seconds(loop_seconds), "1"]]
    rows += [[way, seconds(each), f"{loop_seconds / each:,.0f}"] for way, each in times.items()]
    title = (
        f"{x.shape[1]}-50-10 sigmoid, batch 100 of {name}, {count:,} parameters (loop timed {how}); "
        f"{nn.config_info()['simd']}, {nn.get_num_threads()} threads"
    )
    return title + "\n\n" + table(["a full gradient", "time", "times the loop's speed"], rows)


def agreement(full: bool) -> str:
    """How far the ways to the same gradient lie apart, relative to its largest entry."""
    name, x, t = images(100)
    model = classifier([x.shape[1], 50, 10])
    loss = nn.CrossEntropyLoss()

    def run(strategy: object, model: nn.Sequential, x: np.ndarray) -> list[np.ndarray]:
        strategy(model, loss, x, t)  # type: ignore[operator]
        return [p.grad.astype(np.float64) for p in model.parameters()]

    back = run(nn.Backprop(), model, x)
    largest = max(np.abs(g).max() for g in back)

    def apart(one: list[np.ndarray], other: list[np.ndarray]) -> str:
        return f"{max(np.abs(a - b).max() for a, b in zip(one, other, strict=True)) / largest:.1e}"

    central = run(nn.CentralDifference(1e-4), model, x)
    rows = [["`CentralDifference` and `Backprop`, float64, h = 1e-4", apart(central, back)]]
    rows += [["the same at the default step", apart(run(nn.CentralDifference(), model, x), back)]]
    single, x32 = model.astype(np.float32), x.astype(np.float32)
    rows += [
        ["the same, both float32", apart(run(nn.CentralDifference(), single, x32), run(nn.Backprop(), single, x32))]
    ]
    if full:
        values = [p.value for p in model.parameters()]
        numerical = [nn.numerical_gradient(lambda _: loss(model(x), t), value, step=1e-4) for value in values]
        rows += [["`CentralDifference` and `numerical_gradient`, float64, h = 1e-4", apart(central, numerical)]]
    title = f"{x.shape[1]}-50-10 sigmoid, batch 100 of {name}: largest difference of an entry over the largest entry"
    return title + "\n\n" + table(["ways", "apart"], rows)


PRODUCTS = [
    (10000, 4, 4, 4), (10000, 8, 8, 8), (4000, 16, 16, 16), (1000, 32, 32, 32), (256, 64, 64, 64), (64, 128, 128, 128),
    (16, 256, 256, 256), (4, 512, 512, 512), (1, 1024, 1024, 1024), (1, 100, 784, 50), (256, 100, 50, 10),
    (32, 100, 784, 50),
]  # fmt: skip
LOGITS = [(100, 10), (1024, 10), (65536, 10), (1024, 1000), (256, 32000)]


def matmul(full: bool) -> str:
    """Batched matrix products against NumPy, and PyTorch where it is installed."""
    rng = np.random.default_rng(0)
    torch = import_torch()
    rows = []
    for batch, m, k, n in PRODUCTS:
        for dtype in (np.float32, np.float64):
            a, b = rng.standard_normal((batch, m, k)).astype(dtype), rng.standard_normal((batch, n, k)).astype(dtype)
            c, out = b.swapaxes(-1, -2).copy(), np.empty((batch, m, n), dtype)
            ways = {
                "nnframe": lambda: nn.kernels.batched_matmul(a, c, out=out),
                "NumPy": lambda: np.matmul(a, c, out=out),
                "nnframe T": lambda: nn.kernels.batched_matmul(a, b, transpose_b=True, out=out),
                "NumPy T": lambda: np.matmul(a, b.swapaxes(-1, -2), out=out),
            }
            if torch:
                ta, tb, tc, tout = (torch.from_numpy(array) for array in (a, b, c, out))
                ways["PyTorch"] = lambda: torch.bmm(ta, tc, out=tout)
                ways["PyTorch T"] = lambda: torch.bmm(ta, tb.transpose(1, 2), out=tout)
            times = measure(ways, 5)
            row = [f"{batch}, {m}, {k}, {n}", np.dtype(dtype).name]
            for form in ("", " T"):
                best = min(times[way + form] for way in ("NumPy", "PyTorch") if way + form in times)
                row += [
                    f"{2 * batch * m * k * n / times['nnframe' + form] / 1e9:.0f}",
                    f"{best / times['nnframe' + form]:.2f}",
                ]
            rows.append(row)
    others = "NumPy and PyTorch" if torch else "NumPy (PyTorch is not installed)"
    header = ["batch, m, k, n", "dtype", "GFLOP/s", "ratio", "GFLOP/s, B transposed", "ratio"]
    return f"batched_matmul, speed over the faster of {others}; {nn.get_num_threads()} threads\n\n" + table(
        header, rows
    )


def softmax(full: bool) -> str:
    """softmax_cross_entropy, loss and gradient, against NumPy, PyTorch and a copy of the logits."""
    rng = np.random.default_rng(0)
    torch = import_torch()
    rows = []
    for shape in LOGITS:
        x, t = rng.standard_normal(shape).astype(np.float32), rng.integers(0, shape[1], shape[0])
        out = np.empty_like(x)
        ways = {
            "nnframe": lambda: nn.kernels.softmax_cross_entropy(x, t, out=out),
            "NumPy": lambda: numpy_softmax_cross_entropy(x, t),
            "copy": lambda: np.copyto(out, x),
        }
        if torch:
            tx, tt = torch.from_numpy(x).requires_grad_(), torch.from_numpy(t)

            def by_torch() -> None:
                tx.grad = None
                torch.nn.functional.cross_entropy(tx, tt).backward()

            ways["PyTorch"] = by_torch
        times = measure(ways, 5)
        best = min(times[way] for way in ("NumPy", "PyTorch") if way in times)
        rows.append(
            [str(shape), *(seconds(times[w]) if w in times else "-" for w in ("nnframe", "NumPy", "PyTorch", "copy"))]
        )
        rows[-1] += [f"{best / times['nnframe']:.1f}", f"{times['nnframe'] / times['copy']:.1f}"]
    header = [
        "batch, classes",
        "nnframe",
        "NumPy",
        "PyTorch",
        "copying the logits",
        "times the faster",
        "times the copy",
    ]
    return f"softmax_cross_entropy, loss and gradient, float32; {nn.get_num_threads()} threads\n\n" + table(
        header, rows
    )


def numpy_softmax_cross_entropy(x: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    rows = np.arange(len(t))
    loss = -np.log(p[rows, t]).mean()
    p[rows, t] -= 1
    return float(loss), p / len(t)


def import_torch() -> object:
    """Return PyTorch, on as many threads as nnframe, or None."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(nn.get_num_threads())
    return torch


def start(full: bool) -> str:
    """Time `import nnframe` against `import numpy`, each in a fresh process."""
    code = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"

    def once(module: str) -> float:
        run = subprocess.run([sys.executable, "-P", "-c", code.format(module)], capture_output=True, check=True)
        return float(run.stdout)

    pairs = [(once("numpy"), once("nnframe")) for _ in range(15)]
    ratio = statistics.median(nnframe / numpy for numpy, nnframe in pairs)
    times = [seconds(statistics.median(each)) for each in zip(*pairs, strict=True)]
    return "import, medians of 15 pairs\n\n" + table(["numpy", "nnframe", "ratio"], [[*times, f"{ratio:.2f}"]])


TABLES = {"start": start, "gradient": gradient, "agreement": agreement, "matmul": matmul, "softmax": softmax}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--full", action="store_true", help="nothing sampled: takes minutes")
    options = parser.parse_args()
    for name in options.tables or TABLES:
        if name not in TABLES:
            parser.error(f"TABLE: expected one of {', '.join(TABLES)}, got {name!r}")
    for name in options.tables or TABLES:
        print(f"{TABLES[name](options.full)}\n", flush=True)


if __name__ == "__main__":
    main()
