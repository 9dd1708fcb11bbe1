"""Prints tables of measured speed, ratios side by side in one run: `python benchmarks/speed.py [TABLE ...]`.

With no table named it prints all. NNFRAME_DATA=folder makes the gradient tables use MNIST instead of the shipped
digits; `--full` runs the textbook's loop over every parameter instead of a sample.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import itertools
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers

# isort: split
import numpy as np
from accuracy_tables import accuracy
from call_tables import calls
from checker_tables import checking, mistakes, right
from composition_tables import composition, structure
from convolution_tables import convolution
from deleted_tables import deleted
from depth_tables import depth, forms, learnt, selected
from gradient_tables import agreement, compiled, deep, dense, gradient, interrupts, large, training
from limits import peak
from network_tables import tiles
from networks import NumpyNetwork, classifier
from peers import Peer, import_torch, ratio
from sequence_tables import sequences
from side_by_side import Way, measure, seconds, table
from sweep import cross_entropy_ways, faster, softmax_sweep, stacks, sweep
from thread_tables import threads

import nnframe as nn

PRODUCTS = [
    (10000, 4, 4, 4), (10000, 8, 8, 8), (4000, 16, 16, 16), (1000, 32, 32, 32), (256, 64, 64, 64), (64, 128, 128, 128),
    (16, 256, 256, 256), (4, 512, 512, 512), (1, 1024, 1024, 1024), (1, 100, 784, 50), (256, 100, 50, 10),
    (32, 100, 784, 50),
]  # fmt: skip
LOGITS = [(100, 10), (1024, 10), (65536, 10), (1024, 1000), (256, 32000)]


FORMS = {"": (False, False), " A transposed": (True, False), " B transposed": (False, True)}


def product_ways(shape: tuple[int, ...], dtype: type) -> dict[str, Way]:
    """One batched product in each form, by nnframe and NumPy."""
    rng = np.random.default_rng(0)
    batch, m, k, n = shape
    ways: dict[str, Way] = {}
    out = np.empty((batch, m, n), dtype)
    for form, (ta, tb) in FORMS.items():
        a = rng.standard_normal((batch, k, m) if ta else (batch, m, k)).astype(dtype)
        b = rng.standard_normal((batch, n, k) if tb else (batch, k, n)).astype(dtype)
        views = a.swapaxes(-1, -2) if ta else a, b.swapaxes(-1, -2) if tb else b
        ways["nnframe" + form] = functools.partial(
            nn.kernels.batched_matmul, a, b, transpose_a=ta, transpose_b=tb, out=out
        )
        ways["NumPy" + form] = Peer(functools.partial(np.matmul, *views, out=out))
    return ways


def with_threads(count: int, way: Any) -> Callable[[], object]:
    def run() -> None:
        nn.set_num_threads(count)
        way()

    return run


def scaling(full: bool) -> str:
    """Products on one thread and on all, and what one core could do at most."""
    count = nn.get_num_threads()
    rows = []
    for shape in PRODUCTS:
        if 2 * math.prod(shape) < 10e6:
            continue
        for dtype in (np.float32, np.float64):
            way = product_ways(shape, dtype)["nnframe"]
            times = measure({"one": with_threads(1, way), "all": with_threads(count, way)}, 9)
            limit = peak(np.dtype(dtype).name)
            rate = 2 * math.prod(shape) / times["one"]
            of_peak = "-" if limit is None else f"{rate / limit:.2f}"
            row = [", ".join(map(str, shape)), np.dtype(dtype).name, f"{rate / 1e9:.0f}", of_peak]
            rows.append([*row, f"{times['one'] / times['all']:.2f}"])
    nn.set_num_threads(count)
    header = ["batch, m, k, n", "dtype", "GFLOP/s, 1 thread", "of the core's peak", f"{count} threads over 1"]
    return "batched_matmul, products of at least 10 MFLOP\n\n" + table(header, rows)


NETWORKS = [
    ([4, 16, 3], 32), ([64, 32, 10], 32), ([784, 50, 10], 100), ([784, 128, 10], 128), ([784, 512, 512, 10], 128),
    ([784, 1024, 1024, 1024, 10], 256),
]  # fmt: skip


def torch_step(torch: Any, sizes: list[int], x: np.ndarray, t: np.ndarray) -> Callable[[], None]:
    """A step of PyTorch in eager mode, with its fused Adam."""
    layers: list[Any] = []
    for below, above in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(below, above), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(t)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    return step


def step(full: bool) -> str:
    """One training step, forward, backward and Adam, of ReLU networks in float32."""
    torch = import_torch()
    rng = np.random.default_rng(0)
    rows = []
    for sizes, batch in NETWORKS:
        x, t = rng.standard_normal((batch, sizes[0])).astype(np.float32), rng.integers(0, sizes[-1], batch)
        model = classifier(sizes, nn.ReLU, np.float32)
        optimizer, loss, strategy = nn.Adam(model.parameters()), nn.CrossEntropyLoss(), nn.Backprop()
        by_hand = NumpyNetwork(sizes)

        def nnframe_step(args: Any = (strategy, model, loss, x, t, optimizer)) -> None:
            args[0](*args[1:5])
            args[5].step()

        ways: dict[str, Way] = {"nnframe": nnframe_step, "NumPy": Peer(lambda: by_hand.step(x, t))}
        if torch:
            ways["PyTorch"] = Peer(torch_step(torch, sizes, x, t))
        times = measure(ways, 7)
        row = ["-".join(map(str, sizes)) + f", {batch}", *(seconds(times[w]) if w in times else "-" for w in WAYS)]
        rows.append([*row, *(ratio(times[w], times["nnframe"], 1) if w in times else "-" for w in WAYS[1:])])
    header = ["layers, batch", *WAYS, "NumPy / nnframe", "PyTorch / nnframe"]
    return f"forward, backward, Adam; float32, {nn.get_num_threads()} threads\n\n" + table(header, rows)


WAYS = ["nnframe", "NumPy", "PyTorch"]


def optimizer(full: bool) -> str:
    """Steps of a million float32 parameters, against the time that a copy takes for the same bytes."""
    n = 1 << 20
    rng = np.random.default_rng(0)
    torch = import_torch()
    # what a rule reads and writes, in arrays: value (twice) and gradient, and its state (each twice)
    makers: dict[str, tuple[Callable[..., nn.Optimizer], int, Any]] = {
        "SGD": (lambda p: nn.SGD(p, 1e-3), 3, None),
        "SGD, momentum": (lambda p: nn.SGD(p, 1e-3, 0.9), 5, None),
        "SGD, Nesterov": (lambda p: nn.SGD(p, 1e-3, 0.9, nesterov=True), 5, None),
        "AdaGrad": (nn.AdaGrad, 5, torch and torch.optim.Adagrad),
        "RMSprop": (nn.RMSprop, 5, None),
        "Adam": (nn.Adam, 7, torch and torch.optim.Adam),
        "AdamW": (nn.AdamW, 7, torch and torch.optim.AdamW),
    }
    rows = []
    for name, (make, arrays, by_torch) in makers.items():
        parameter = nn.Parameter(rng.standard_normal(n))
        parameter.grad[...] = rng.standard_normal(n)
        source = rng.standard_normal(arrays * n // 2).astype(np.float32)
        target = np.empty_like(source)
        ways: dict[str, Way] = {"nnframe": make([parameter]).step, "copy": copies(source, target)}
        if by_torch:
            other = torch.nn.Parameter(torch.from_numpy(parameter.value.copy()))
            other.grad = torch.from_numpy(parameter.grad.copy())
            ways["PyTorch"] = Peer(by_torch([other], fused=True).step)
        times = measure(ways, 9)
        row = [name, seconds(times["nnframe"]), seconds(times["copy"]), f"{times['nnframe'] / times['copy']:.2f}"]
        rows.append([*row, ratio(times["PyTorch"], times["nnframe"], 1) if by_torch else "-"])
    header = ["rule", "a step", "copying as many bytes", "times the copy", "times PyTorch's fused step"]
    return f"{n:,} float32 parameters; {nn.get_num_threads()} threads\n\n" + table(header, rows)


def activation(full: bool) -> str:
    """Forward and backward of each activation over 2^18 float32 numbers, against PyTorch and a copy."""
    torch = import_torch()
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((512, 512)).astype(np.float32) for _ in range(2))
    y, out = np.empty_like(x), np.empty_like(x)
    rows = []
    for name in (
        "relu",
        "leaky_relu",
        "elu",
        "sigmoid",
        "tanh",
        "softplus",
        "silu",
        "gelu",
        "gelu_tanh",
        "hardswish",
        "mish",
        "selu",
    ):
        nn.kernels.activation(name, x, alpha=1.0, out=y)
        ways: dict[str, Way] = {
            "forward": functools.partial(nn.kernels.activation, name, x, alpha=1.0, out=out),
            "backward": functools.partial(nn.kernels.activation_backward, name, x, y, dy, alpha=1.0, out=out),
            "copy": lambda: np.copyto(out, x),
        }
        if torch:
            functional = torch.nn.functional
            gelu_tanh = functools.partial(functional.gelu, approximate="tanh")
            ways["PyTorch"] = Peer(functools.partial(getattr(functional, name, gelu_tanh), torch.from_numpy(x)))
        times = measure(ways, 5)
        row = [name, *(f"{times[w] / x.size * 1e9:.3f}" for w in ("forward", "backward"))]
        row += [f"{times[w] / times['copy']:.1f}" for w in ("forward", "backward")]
        rows.append([*row, ratio(times["PyTorch"], times["forward"], 1) if torch else "-"])
    header = [
        "function",
        "forward, ns",
        "backward, ns",
        "forward / copy",
        "backward / copy",
        "PyTorch / nnframe, forward",
    ]
    return f"activations, time for one number of {x.size:,} float32; {nn.get_num_threads()} threads\n\n" + table(
        header, rows
    )


def copies(source: np.ndarray, target: np.ndarray) -> Callable[[], object]:
    """Copy by as many threads as nnframe uses, each its part."""
    count = nn.get_num_threads()
    if count == 1:
        return lambda: np.copyto(target, source)
    pool = concurrent.futures.ThreadPoolExecutor(count)
    parts = list(zip(np.array_split(target, count), np.array_split(source, count), strict=True))
    return lambda: list(pool.map(lambda part: np.copyto(*part), parts))


def avx2(full: bool) -> str:
    """The AVX2 kernels against NumPy with OpenBLAS held to its Haswell kernels, in a process of its own."""
    code = "import numpy, speed; print(speed.against_haswell())"  # NumPy first: `peers` would let it go
    held = {**os.environ, "OPENBLAS_CORETYPE": "Haswell", "NNFRAME_SIMD": "avx2"}
    folder = Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", code], env=held, cwd=folder, capture_output=True, check=True, text=True)
    return run.stdout.strip()


def against_haswell() -> str:
    """Products in each form; called with NumPy held to its Haswell kernels and nnframe to AVX2."""
    rows = []
    for shape in PRODUCTS:
        for dtype in (np.float32, np.float64):
            times = measure(product_ways(shape, dtype), 5)
            row = [", ".join(map(str, shape)), np.dtype(dtype).name]
            rows.append(row + [f"{times['NumPy' + form] / times['nnframe' + form]:.2f}" for form in FORMS])
    header = ["batch, m, k, n", "dtype", "ratio", "A transposed", "B transposed"]
    title = f"AVX2 kernels, speed over NumPy's Haswell kernels; {nn.get_num_threads()} threads"
    return f"{title}\n\n{peers.description()}\n\n{table(header, rows)}"


def softmax(full: bool) -> str:
    """softmax_cross_entropy, loss and gradient, against NumPy, PyTorch and a copy of the logits."""
    torch = import_torch()
    rows = []
    for shape in LOGITS:
        ways = cross_entropy_ways(torch, shape, np.float32)
        source, target = np.ones(shape, np.float32), np.empty(shape, np.float32)
        ways["copy"] = functools.partial(np.copyto, target, source)
        times = measure(ways, 5)
        copy = times.pop("copy")
        row = [str(shape), *(seconds(times[w]) if w in times else "-" for w in WAYS), seconds(copy)]
        rows.append([*row, ratio(times[faster(times)], times["nnframe"], 1), f"{times['nnframe'] / copy:.1f}"])
    header = ["batch, classes", *WAYS, "copying the logits", "times the faster", "times the copy"]
    title = f"softmax_cross_entropy, loss and gradient, float32; {nn.get_num_threads()} threads"
    return title + "\n\n" + table(header, rows)


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


TABLES = {
    "start": start, "gradient": gradient, "dense": dense, "deep": deep, "agreement": agreement, "compiled": compiled,
    "accuracy": accuracy, "mistakes": mistakes, "right": right, "checking": checking,
    "composition": composition, "structure": structure, "deleted": deleted, "depth": depth, "learnt": learnt,
    "selected": selected,
    "convolution": convolution, "forms": forms, "large": large, "training": training, "interrupts": interrupts,
    "sweep": sweep, "stacks": stacks, "softmax_sweep": softmax_sweep, "scaling": scaling, "threads": threads,
    "softmax": softmax, "activation": activation, "step": step, "tiles": tiles, "calls": calls, "sequences": sequences,
    "optimizer": optimizer, "avx2": avx2,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--full", action="store_true", help="nothing sampled: takes minutes")
    options = parser.parse_args()
    for name in options.tables or TABLES:
        if name not in TABLES:
            parser.error(f"TABLE: expected one of {', '.join(TABLES)}, got {name!r}")
    print(f"{peers.description()}\n", flush=True)
    for name in options.tables or TABLES:
        print(f"{TABLES[name](options.full)}\n", flush=True)


if __name__ == "__main__":
    main()
