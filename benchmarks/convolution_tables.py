"""LeNet-5 and other convolution networks: a training step beside PyTorch's, and a gradient by central differences.

Printed by speed.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def five_blocks(dtype: type) -> nn.Sequential:
    """Return the network of DeepZero (Chen et al. 2024), 12,610 weights: five convolutions with batch normalisation."""
    layers: list[nn.Layer] = []
    for k in range(5):
        convolution = nn.Conv2d(18 if k else 3, 18, 3, padding=1, dtype=dtype, rng=k)
        layers += [convolution, nn.BatchNorm2d(18, dtype=dtype), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(18, 10, dtype=dtype, rng=9))


def images(rows: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Random images of 3 x 32 x 32 and labels, seeded."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((rows, 3, 32, 32)).astype(dtype), rng.integers(0, 10, rows)


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


def loop_seconds(model: nn.Sequential, x: np.ndarray, t: np.ndarray) -> float:
    """How long two evaluations for each weight take, from twenty of them."""
    loss = nn.CrossEntropyLoss()
    start = time.perf_counter()
    for _ in range(20):
        loss(model(x), t)
    return (time.perf_counter() - start) / 20 * 2 * sum(p.value.size for p in model.parameters())


def block(inputs: int, outputs: int, stride: int, rng: np.random.Generator) -> list[nn.Layer]:
    """Return two convolutions around which there is a shortcut (He et al. 2016)."""
    first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False, rng=rng)
    second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False, rng=rng)
    inner = [first, nn.BatchNorm2d(outputs), nn.ReLU(), second, nn.BatchNorm2d(outputs)]
    if stride == 1 and inputs == outputs:
        return [nn.Residual(*inner), nn.ReLU()]
    shortcut = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride, bias=False, rng=rng),
        nn.BatchNorm2d(outputs),
    )
    return [nn.Branches(nn.Sequential(*inner), shortcut), nn.ReLU()]


def resnet8(rng: np.random.Generator) -> nn.Sequential:
    """Return ResNet-8 for 3 x 32 x 32: three blocks of 16, 32 and 64 channels."""
    first = [nn.Conv2d(3, 16, 3, padding=1, bias=False, rng=rng), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [*block(16, 16, 1, rng), *block(16, 32, 2, rng), *block(32, 64, 2, rng)]
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10, rng=rng))


def their_resnet8(torch: Any) -> Any:
    """Return the same for PyTorch."""
    layers = torch.nn

    class Block(layers.Module):  # type: ignore[name-defined, misc]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.inner = layers.Sequential(
                *[layers.Conv2d(inputs, outputs, 3, stride, 1, bias=False), layers.BatchNorm2d(outputs)],
                layers.ReLU(),
                *[layers.Conv2d(outputs, outputs, 3, padding=1, bias=False), layers.BatchNorm2d(outputs)],
            )
            projected = [layers.Conv2d(inputs, outputs, 1, stride, bias=False), layers.BatchNorm2d(outputs)]
            self.shortcut = layers.Sequential(*(projected if stride > 1 else []))

        def forward(self, x: Any) -> Any:
            return torch.relu(self.inner(x) + self.shortcut(x))

    return layers.Sequential(
        *[layers.Conv2d(3, 16, 3, padding=1, bias=False), layers.BatchNorm2d(16), layers.ReLU()],
        *[Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)],
        *[layers.AdaptiveAvgPool2d(1), layers.Flatten(), layers.Linear(64, 10)],
    )


def resnet_row(rows: int) -> list[str]:
    """A training step of ResNet-8 by SGD, beside PyTorch's."""
    x, t = images(rows, np.float32)
    model, strategy, loss = resnet8(np.random.default_rng(0)), nn.Backprop(), nn.CrossEntropyLoss()
    optimizer, torch = nn.SGD(model.parameters(), lr=0.01, momentum=0.9), import_torch()

    def step() -> None:
        strategy(model, loss, x, t)
        optimizer.step()

    calls: dict[str, Any] = {"ours": step}
    if torch is not None:
        their_model, given, labels = their_resnet8(torch), torch.tensor(x), torch.tensor(t)
        theirs = torch.optim.SGD(their_model.parameters(), 0.01, momentum=0.9)

        def their_step() -> None:
            theirs.zero_grad()
            torch.nn.functional.cross_entropy(their_model(given), labels).backward()
            theirs.step()

        calls["theirs"] = Peer(their_step)
    times = measure(calls, 15)
    other = [seconds(times["theirs"]), f"{times['theirs'] / times['ours']:.1f}"] if torch is not None else ["", ""]
    return [f"ResNet-8: training step, {rows} rows of 3 x 32 x 32, float32", seconds(times["ours"]), *other]


def off_by(entries: int) -> float:
    """How far central differences in C are from two evaluations for each of some random entries, by the largest one."""
    model, loss, step = five_blocks(np.float64), nn.CrossEntropyLoss(), 1e-6
    x, t = images(100, np.float64)
    nn.CentralDifference(step)(model, loss, x, t)
    found = np.concatenate([p.grad.reshape(-1) for p in model.parameters()])
    chosen = np.sort(np.random.default_rng(2).choice(len(found), entries, replace=False))
    numeric, first = [], 0
    for p in model.parameters():
        value = p.value.reshape(-1)
        some = chosen[(chosen >= first) & (chosen < first + value.size)] - first
        first += value.size
        before = value[some]

        def of(numbers: np.ndarray, value: np.ndarray = value, some: np.ndarray = some) -> float:
            value[some] = numbers
            return loss(model(x, training=True), t)

        if len(some):
            numeric.append(nn.numerical_gradient(of, before.copy(), step=step))
        value[some] = before
    return float(np.abs(np.concatenate(numeric) - found[chosen]).max() / np.abs(found).max())


IN_A_PROCESS = """
import sys, time
sys.path.insert(0, {folder!r})
import numpy as np, nnframe as nn
from convolution_tables import five_blocks, images
nn.set_num_threads({threads})
model, strategy = five_blocks(np.{dtype}), nn.CentralDifference()
x, t = images(100, np.{dtype})
times = []
for _ in range({rounds}):
    start = time.perf_counter()
    strategy(model, nn.CrossEntropyLoss(), x, t)
    times.append(time.perf_counter() - start)
status = open("/proc/self/status").read()
print(min(times), int(status.partition("VmHWM:")[2].split()[0]) / 1024)
"""


def in_a_process(dtype: str, rounds: int) -> tuple[float, float]:
    """Seconds of a gradient of five blocks, the best of some, and the most memory of the process, in MB."""
    folder = str(Path(__file__).parent)
    code = IN_A_PROCESS.format(folder=folder, threads=nn.get_num_threads(), dtype=dtype, rounds=rounds)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, memory = map(float, found.stdout.split())
    return took, memory


def blocks_table(full: bool) -> str:
    """Central differences of each of the 12,610 weights of five blocks with batch normalisation."""
    entries = 500 if full else 50
    loop = loop_seconds(five_blocks(np.float64), *images(100, np.float64))
    rows = []
    for dtype in ("float32", "float64"):
        took, memory = in_a_process(dtype, 3 if full else 1)
        rows.append([dtype, seconds(took), seconds(loop), f"{loop / took:,.0f}", f"{memory:.0f} MB"])
    title = (
        "Five blocks of convolution, batch normalisation, ReLU and pooling, 100 images of 3 x 32 x 32: central "
        f"differences of every weight; at most {off_by(entries):.1e} of the largest from the definition at {entries} "
        "random entries (float64)"
    )
    head = ["dtype", "nnframe", "loop over all weights", "ratio", "memory of the process"]
    return f"{title}\n\n" + table(head, rows)


def convolution(full: bool) -> str:
    """Steps and gradients of LeNet-5."""
    x, t = digits(128, np.float32)
    theirs = their_step(x, t)
    calls = {"ours": our_step(x, t)} | ({} if theirs is None else {"theirs": Peer(theirs)})
    times = measure(calls, 40)
    other = [seconds(times["theirs"]), f"{times['theirs'] / times['ours']:.1f}"] if theirs else ["", ""]
    rows = [["LeNet-5: training step, 128 rows, float32", seconds(times["ours"]), *other]]
    rows += [resnet_row(32), resnet_row(128)]
    for dtype in (np.float32, np.float64):
        x, t = digits(64, dtype)
        model, strategy = lenet(dtype), nn.CentralDifference()
        ours = measure({"ours": lambda m=model, s=strategy, x=x, t=t: s(m, nn.CrossEntropyLoss(), x, t)}, 7)["ours"]
        loop = loop_seconds(lenet(np.float64), x.astype(np.float64), t)
        name = f"LeNet-5: central differences of every weight, 64 rows, {np.dtype(dtype).name}"
        rows.append([name, seconds(ours), seconds(loop), f"{loop / ours:,.0f}"])
    title = f"{nn.get_num_threads()} threads; beside PyTorch, or the loop over all weights"
    return f"{title}\n\n" + table(["what", "nnframe", "the other", "ratio"], rows) + "\n\n" + blocks_table(full)
