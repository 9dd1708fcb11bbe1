"""What more threads bring, and what they may cost: `python benchmarks/speed.py threads`."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from networks import classifier
from side_by_side import seconds, table

import nnframe as nn

COUNTS = (1, 2, 3, 4, 8)
TURN = 0.02  # seconds of one way before the next has its turn
Work = Callable[[], object]


def threads(full: bool) -> str:
    """Each work on 1 to 8 threads, alone and beside a process that is always busy."""
    before = nn.get_num_threads()
    title = "speed on so many threads over that on one, by all the time it took; in brackets the longest call\n\n"
    tables = []
    for name, beside in (("nothing else started", False), ("beside a busy process", True)):
        with busy_process() if beside else contextlib.nullcontext():
            rows = [row(work, call, 60 if full else 20) for work, call in works().items()]
        tables.append(table([name, "1 thread", *(f"{n} threads" for n in COUNTS[1:])], rows))
    nn.set_num_threads(before)
    return title + "\n\n".join(tables)


def row(name: str, call: Work, rounds: int) -> list[str]:
    """Time one work on all numbers of threads, in turn."""
    total, calls, longest = dict.fromkeys(COUNTS, 0.0), dict.fromkeys(COUNTS, 0), dict.fromkeys(COUNTS, 0.0)
    for turn in range(rounds):
        for count in COUNTS if turn % 2 else reversed(COUNTS):
            nn.set_num_threads(count)
            call()
            end = time.perf_counter() + TURN
            start = time.perf_counter()
            while start < end:
                call()
                now = time.perf_counter()
                total[count] += now - start
                longest[count] = max(longest[count], now - start)
                calls[count] += 1
                start = now
    mean = {count: total[count] / calls[count] for count in COUNTS}
    cells = [f"{seconds(mean[1])} ({seconds(longest[1])})"]
    return [name, *cells, *(f"{mean[1] / mean[n]:.2f} ({seconds(longest[n])})" for n in COUNTS[1:])]


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Another process that computes all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def works() -> dict[str, Work]:
    """Products of a range of sizes, a loss, a training step and a gradient by differences."""
    rng = np.random.default_rng(0)
    found: dict[str, Work] = {}
    shapes = ((4, 32, 32, 32), (4, 64, 64, 64), (16, 64, 64, 64), (1000, 16, 16, 16), (1, 128, 128, 128))
    for batch, m, k, n in (*shapes, (1, 100, 784, 50), (1, 256, 256, 256), (1, 512, 512, 512)):
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((batch, m, k), (batch, k, n)))
        out = np.empty((batch, m, n), np.float32)
        found[f"product {batch}, {m}, {k}, {n}"] = functools.partial(nn.kernels.batched_matmul, a, b, out=out)
    for rows, classes in ((1024, 10), (10000, 10), (256, 1000)):
        x, t = rng.standard_normal((rows, classes)).astype(np.float32), rng.integers(0, classes, rows)
        call = functools.partial(nn.kernels.softmax_cross_entropy, x, t, out=np.empty_like(x))
        found[f"softmax cross-entropy {rows}, {classes}"] = call
    for sizes, rows in (([4, 32, 16, 4], 1000), ([64, 32, 10], 32), ([784, 50, 10], 100)):
        found["training step " + "-".join(map(str, sizes)) + f", {rows} rows"] = training_step(sizes, rows)
    found["CentralDifference 64-32-10, 32 rows"] = difference([64, 32, 10], 32)
    found["CentralDifference 784-50-10, 100 rows"] = difference([784, 50, 10], 100)
    return found


def training_step(sizes: list[int], rows: int) -> Work:
    """Forward, backward and Adam."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((rows, sizes[0])).astype(np.float32), rng.integers(0, sizes[-1], rows)
    model = classifier(sizes, nn.Tanh, np.float32)
    optimizer, loss, strategy = nn.Adam(model.parameters()), nn.CrossEntropyLoss(), nn.Backprop()

    def step() -> None:
        strategy(model, loss, x, t)
        optimizer.step()

    return step


def difference(sizes: list[int], rows: int) -> Work:
    """One gradient by central differences."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((rows, sizes[0])).astype(np.float32), rng.integers(0, sizes[-1], rows)
    return functools.partial(
        nn.CentralDifference(), classifier(sizes, nn.Tanh, np.float32), nn.CrossEntropyLoss(), x, t
    )
