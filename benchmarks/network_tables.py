"""The table of small networks with many rows, taken a tile of rows at a time. Printed by speed.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from limits import peak
from networks import classifier
from side_by_side import measure, seconds, table

import nnframe as nn

SIZES = [4, 32, 16, 4]
ROWS = (100, 1000, 10_000)


def torch_step(torch: Any, x: np.ndarray, t: np.ndarray, threads: int) -> Callable[[], None]:
    """The same step of PyTorch in eager mode, with its fused Adam."""
    layers: list[Any] = []
    for below, above in itertools.pairwise(SIZES):
        layers += [torch.nn.Linear(below, above), torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(t)

    def step() -> None:
        torch.set_num_threads(threads)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    return step


def nnframe_step(x: np.ndarray, t: np.ndarray, threads: int) -> Callable[[], None]:
    model = classifier(SIZES, nn.Tanh, np.float32)
    optimizer, loss, strategy = nn.Adam(model.parameters()), nn.CrossEntropyLoss(), nn.Backprop()

    def step() -> None:
        if nn.get_num_threads() != threads:  # which looks at files
            nn.set_num_threads(threads)
        strategy(model, loss, x, t)
        optimizer.step()

    return step


def tiles(full: bool) -> str:
    """A training step of a tiny network with many rows: each library at its better number of threads, and the peak."""
    try:
        import torch
    except ImportError:
        torch = None
    threads, rng = nn.get_num_threads(), np.random.default_rng(0)
    macs = sum(below * above for below, above in itertools.pairwise(SIZES))
    rows = []
    for count in ROWS:
        x, t = rng.standard_normal((count, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], count)
        ways = {f"nnframe {n}": nnframe_step(x, t, n) for n in {1, threads}}
        if torch:
            ways |= {f"PyTorch {n}": torch_step(torch, x, t, n) for n in {1, threads}}
        times = measure(ways, 9)
        best = {name: min(v for k, v in times.items() if k.startswith(name)) for name in {k[:7] for k in times}}
        limit = peak("float32")
        flops = 2 * count * (3 * macs - SIZES[0] * SIZES[1])  # the gradient of the input is not computed
        rate = flops / times[f"nnframe {threads}"]
        row = [f"{count:,}", seconds(times["nnframe 1"]), seconds(times[f"nnframe {threads}"])]
        row += [f"{times['nnframe 1'] / times[f'nnframe {threads}']:.2f}", f"{rate / 1e9:.0f}"]
        row += ["-" if limit is None else f"{rate / limit / threads:.2f}"]
        rows.append([*row, f"{best['PyTorch'] / best['nnframe']:.1f}" if torch else "-"])
    nn.set_num_threads(threads)
    header = [
        "rows",
        "1 thread",
        f"{threads} threads",
        "1 over all",
        "GFLOP/s",
        "of the cores' peak",
        "PyTorch / nnframe",
    ]
    return f"forward, backward, Adam of {'-'.join(map(str, SIZES))}, tanh, float32\n\n" + table(header, rows)
