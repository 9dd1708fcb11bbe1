"""Random shapes by a fixed seed, instead of chosen ones: `python benchmarks/speed.py sweep stacks softmax_sweep`."""

from __future__ import annotations

import functools
import math
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
import peers
from side_by_side import Way, measure, seconds, table

import nnframe as nn

SHAPES = 200
MOST_BATCH, MOST_SIDE = 10_000, 1_500
MOST_WORK = 4e8  # multiplications and additions of one call
MOST_BYTES = 96e6  # of all operands in float64
FORMS = {"": 0.4, "transposed": 0.25, "part of wider rows": 0.15, "every other column": 0.08, "one for all": 0.12}


@dataclass(frozen=True)
class Product:
    """A product of two stacks of matrices, and how each operand lies in memory."""

    batch: int
    m: int
    k: int
    n: int
    form_a: str
    form_b: str

    def __str__(self) -> str:
        forms = [f"{name} {form}" for name, form in (("A", self.form_a), ("B", self.form_b)) if form]
        return f"{self.batch}, {self.m}, {self.k}, {self.n}" + "".join(f"; {form}" for form in forms)

    def ways(self, dtype: type, torch: Any) -> dict[str, Way]:
        """Return the product by nnframe, NumPy and PyTorch, each into an array that is there."""
        rng = np.random.default_rng(0)
        a = operand(rng, self.batch, self.m, self.k, self.form_a, dtype)
        b = operand(rng, self.batch, self.k, self.n, self.form_b, dtype)
        out = np.empty((*(() if a.ndim == b.ndim == 2 else (self.batch,)), self.m, self.n), dtype)
        found: dict[str, Way] = {
            "nnframe": functools.partial(nn.kernels.batched_matmul, a, b, out=out),
            "NumPy": peers.Peer(functools.partial(np.matmul, a, b, out=out)),
        }
        if torch:
            tensors = [torch.from_numpy(x) for x in (a, b)]
            found["PyTorch"] = peers.Peer(functools.partial(torch.matmul, *tensors, out=torch.from_numpy(out)))
        return found


def operand(rng: np.random.Generator, batch: int, rows: int, columns: int, form: str, dtype: type) -> np.ndarray:
    """Return random matrices (batch, rows, columns), or (rows, columns) for all, that lie in memory as `form` says."""
    lead = () if form == "one for all" else (batch,)
    shape = {
        "transposed": (columns, rows),
        "part of wider rows": (rows, columns + 7),
        "every other column": (rows, 2 * columns),
    }.get(form, (rows, columns))
    base = rng.standard_normal((*lead, *shape), dtype=np.float32).astype(dtype)
    if form == "transposed":
        return base.swapaxes(-1, -2)
    if form == "every other column":
        return base[..., ::2]
    return base[..., :columns]


def products(count: int = SHAPES, seed: int = 0) -> list[Product]:
    """Draw sides and batches evenly in their logarithms, up to some work and memory."""
    rng = np.random.default_rng(seed)
    found: list[Product] = []
    names, chances = list(FORMS), list(FORMS.values())
    while len(found) < count:
        batch = int(MOST_BATCH ** rng.random())
        m, k, n = (int(MOST_SIDE ** rng.random()) for _ in range(3))
        form_a, form_b = rng.choice(names, 2, p=chances)
        if 2 * batch * m * k * n <= MOST_WORK and 8 * batch * (m * k + k * n + m * n) <= MOST_BYTES:
            found.append(Product(batch, m, k, n, str(form_a), str(form_b)))
    return found


def faster(times: dict[str, float]) -> str:
    """Return the name of the faster peer."""
    return min((name for name in times if name != "nnframe"), key=times.__getitem__)


def sweep(full: bool) -> str:
    """200 random products, both dtypes: how the ratio over the faster of NumPy and PyTorch is distributed."""
    torch = peers.import_torch()
    reduce = statistics.median if nn.get_num_threads() == 1 else min
    found = []
    for dtype in (np.float32, np.float64):
        for product in products():
            times = measure(product.ways(dtype, torch), 7 if full else 5, reduce)
            found.append((product, np.dtype(dtype).name, times))
    how = "medians of its own time" if nn.get_num_threads() == 1 else "minima"
    title = f"batched_matmul, {SHAPES} random shapes in each dtype, speed over the faster peer, {how}"
    return distribution(title, "batch, m, k, n; how operands lie", found)


def distribution(title: str, what: str, found: list[tuple[object, str, dict[str, float]]]) -> str:
    """Two tables: quantiles and means of the ratio for each dtype, and the ten worst cases."""
    title += f"; {nn.get_num_threads()} threads"
    if peers.doubt():
        return f"{title}: no ratio, as the peers are {peers.doubt()}"
    rows = []
    for dtype in sorted({each[1] for each in found}):
        ratios = sorted(times[faster(times)] / times["nnframe"] for _, name, times in found if name == dtype)
        mean = math.exp(statistics.mean(map(math.log, ratios)))
        row = [dtype, f"{mean:.2f}", f"{sum(r >= 1 for r in ratios) / len(ratios):.1%}", f"{ratios[0]:.2f}"]
        cuts = statistics.quantiles(ratios, n=20, method="inclusive")
        rows.append([*row, *(f"{cuts[i]:.2f}" for i in (0, 4, 9, 14, 18)), f"{ratios[-1]:.1f}"])
    header = ["dtype", "geometric mean", "at least 1.0", "least", "5 %", "25 %", "median", "75 %", "95 %", "most"]
    worst = sorted(found, key=lambda each: each[2][faster(each[2])] / each[2]["nnframe"])[:10]
    ten = [
        [
            str(case),
            dtype,
            seconds(times["nnframe"]),
            faster(times),
            peers.ratio(times[faster(times)], times["nnframe"]),
        ]
        for case, dtype, times in worst
    ]
    return f"{title}\n\n{table(header, rows)}\n\nthe ten worst\n\n" + table(
        [what, "dtype", "nnframe", "faster peer", "ratio"], ten
    )


def stacks(full: bool) -> str:
    """Stacks of 1 to 16 matrices of 4x4 to 64x64, broadcast or not, with `out` and without, against NumPy."""
    rng = np.random.default_rng(0)
    found = []
    for batch in (1, 2, 4, 16):
        for side in (4, 8, 16, 23, 32, 64):
            for dtype in (np.float32, np.float64):
                a, b = (rng.standard_normal((batch, side, side)).astype(dtype) for _ in range(2))
                out = np.empty_like(a)
                for form, second in (("", b), ("; B one for all", b[0])):
                    for how, options in (("out", {"out": out}), ("no out", {})):
                        ways: dict[str, Way] = {
                            "nnframe": functools.partial(nn.kernels.batched_matmul, a, second, **options),
                            "NumPy": peers.Peer(functools.partial(np.matmul, a, second, **options)),
                        }
                        name = f"{batch} of {side}x{side}{form}; {how}"
                        found.append((name, np.dtype(dtype).name, measure(ways, 7, enough=0.002)))
    return distribution("batched_matmul, small stacks, speed over NumPy", "stack", found)


def softmax_sweep(full: bool) -> str:
    """40 random shapes of logits: softmax cross-entropy, loss and gradient."""
    rng = np.random.default_rng(0)
    torch = peers.import_torch()
    found = []
    while len(found) < 40:
        shape = int(MOST_BATCH ** rng.random()), int(2 + 10_000 ** rng.random())
        dtype = (np.float32, np.float64)[len(found) % 2]
        if shape[0] * shape[1] <= 4_000_000:
            times = measure(cross_entropy_ways(torch, shape, dtype), 7)
            found.append((shape, np.dtype(dtype).name, times))
    return distribution("softmax_cross_entropy, loss and gradient, 40 random shapes", "batch, classes", found)


def cross_entropy_ways(torch: Any, shape: tuple[int, int], dtype: type) -> dict[str, Way]:
    """Loss and gradient of logits by nnframe, NumPy and PyTorch."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal(shape).astype(dtype), rng.integers(0, shape[1], shape[0])
    out = np.empty_like(x)
    ways: dict[str, Way] = {
        "nnframe": lambda: nn.kernels.softmax_cross_entropy(x, t, out=out),
        "NumPy": peers.Peer(lambda: numpy_cross_entropy(x, t)),
    }
    if torch:
        logits, labels = torch.from_numpy(x).requires_grad_(), torch.from_numpy(t)

        def by_torch() -> None:
            logits.grad = None
            torch.nn.functional.cross_entropy(logits, labels).backward()

        ways["PyTorch"] = peers.Peer(by_torch)
    return ways


def numpy_cross_entropy(x: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and gradient in the shortest NumPy."""
    e = np.exp(x - x.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    rows = np.arange(len(t))
    loss = -np.log(p[rows, t]).mean()
    p[rows, t] -= 1
    return float(loss), p / len(t)
