"""LeNet-5: a training step beside PyTorch's, and a gradient by central differences beside the loop over all weights.

Printed by speed.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from peers import Peer, import_torch
from side_by_side import measure, seconds, table

import nnframe as nn


def lenet(dtype: type) -> nn.Sequential:
    """Return LeNet-5 for 28 x 28, 44,426 weights (LeCun et al. 1998, with ReLU and the largest of each window)."""
    options = {"dtype": dtype, "rng": 0}
    return nn.Sequential(
        *[nn.Conv2d(1, 6, 5, **options), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(6, 16, 5, **options), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()],
        *[nn.Linear(256, 120, **options), nn.ReLU(), nn.Linear(120, 84, **options), nn.ReLU()],
        nn.Linear(84, 10, **options),
    )


def digits(rows: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels, seeded."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((rows, 1, 28, 28)).astype(dtype), rng.integers(0, 10, rows)


def our_step(x: np.ndarray, t: np.ndarray) -> Callable[[], object]:
    model, strategy, loss = lenet(np.float32), nn.Backprop(), nn.CrossEntropyLoss()
    optimizer = nn.Adam(model.parameters())

    def step() -> None:
        strategy(model, loss, x, t)
        optimizer.step()

    return step


def their_step(x: np.ndarray, t: np.ndarray) -> Callable[[], object] | None:
    torch = import_torch()
    if torch is None:
        return None
    layers = torch.nn
    model = layers.Sequential(
        *[layers.Conv2d(1, 6, 5), layers.ReLU(), layers.MaxPool2d(2)],
        *[layers.Conv2d(6, 16, 5), layers.ReLU(), layers.MaxPool2d(2), layers.Flatten()],
        *[layers.Linear(256, 120), layers.ReLU(), layers.Linear(120, 84), layers.ReLU(), layers.Linear(84, 10)],
    )
    optimizer, images, labels = torch.optim.Adam(model.parameters(), 1e-3), torch.tensor(x), torch.tensor(t)

    def step() -> None:
        optimizer.zero_grad()
        layers.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def loop_seconds(x: np.ndarray, t: np.ndarray) -> float:
    """How long two evaluations for each weight take, from twenty of them."""
    model, loss = lenet(np.float64), nn.CrossEntropyLoss()
    start = time.perf_counter()
    for _ in range(20):
        loss(model(x), t)
    return (time.perf_counter() - start) / 20 * 2 * sum(p.value.size for p in model.parameters())


def convolution(full: bool) -> str:
    """Steps and gradients of LeNet-5."""
    x, t = digits(128, np.float32)
    theirs = their_step(x, t)
    calls = {"ours": our_step(x, t)} | ({} if theirs is None else {"theirs": Peer(theirs)})
    times = measure(calls, 40)
    other = [seconds(times["theirs"]), f"{times['theirs'] / times['ours']:.1f}"] if theirs else ["", ""]
    rows = [["training step, 128 rows, float32", seconds(times["ours"]), *other]]
    for dtype in (np.float32, np.float64):
        x, t = digits(64, dtype)
        model, strategy = lenet(dtype), nn.CentralDifference()
        ours = measure({"ours": lambda m=model, s=strategy, x=x, t=t: s(m, nn.CrossEntropyLoss(), x, t)}, 7)["ours"]
        loop = loop_seconds(x.astype(np.float64), t)
        name = f"central differences of every weight, 64 rows, {np.dtype(dtype).name}"
        rows.append([name, seconds(ours), seconds(loop), f"{loop / ours:,.0f}"])
    title = f"LeNet-5; {nn.get_num_threads()} threads; beside PyTorch, or the loop over all weights"
    return f"{title}\n\n" + table(["what", "nnframe", "the other", "ratio"], rows)
