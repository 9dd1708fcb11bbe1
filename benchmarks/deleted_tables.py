"""What it costs to delete one backward: the hybrid gradient beside the one by written passes. Printed by speed.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from side_by_side import measure, seconds, table

import nnframe as nn

Make = Callable[[], nn.Layer]
ROWS = 16
IMAGE, STEPS, FEATURES = (4, 6, 6), (6, 8), (64,)
LAYERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "Linear(64, 64)": (lambda: nn.Linear(64, 64, rng=0), FEATURES),
    "Conv2d(4, 8, 3)": (lambda: nn.Conv2d(4, 8, 3, rng=0), IMAGE),
    "MaxPool2d(2)": (lambda: nn.MaxPool2d(2), IMAGE),
    "AvgPool2d(2)": (lambda: nn.AvgPool2d(2), IMAGE),
    "BatchNorm2d(4)": (lambda: nn.BatchNorm2d(4), IMAGE),
    "LayerNorm(64)": (lambda: nn.LayerNorm(64), FEATURES),
    "ReLU()": (nn.ReLU, IMAGE),
    "GELU()": (nn.GELU, IMAGE),
    "Embedding(50, 8)": (lambda: nn.Embedding(50, 8, rng=0), STEPS[:1]),
    "LSTM(8, 8)": (lambda: nn.LSTM(8, 8, rng=0), STEPS),
    "MultiheadAttention(8, 2)": (lambda: nn.MultiheadAttention(8, 2, rng=0), STEPS),
}
COUNTED = {"rows": 0}


def without(layer: nn.Layer, hidden: bool) -> nn.Layer:
    """Return a layer that counts the rows of its forward, and has no backward; hidden: nor anything else."""
    kind: Any = type(layer)

    def forward(self: Any, x: Any) -> Any:
        COUNTED["rows"] += len(x)
        return kind.forward(self, x)

    gone = {"backward": nn.Layer.backward, "backward_parameters": nn.Layer.backward_parameters}
    layer.__class__ = type(kind.__name__, (kind,), {"forward": forward} if hidden else gone)
    return layer


def network(make: Make, shape: tuple[int, ...], change: Callable[[nn.Layer], nn.Layer]) -> tuple[Any, Any, Any, Any]:
    """Return a model of a Linear, the layer and another Linear, and a batch; ids reach the layer first."""
    rng = np.random.default_rng(0)
    layer = change(make())
    ids = layer.takes_integers
    x = rng.integers(0, 50, (ROWS, *shape)) if ids else rng.standard_normal((ROWS, 64)).astype(np.float32)
    below = [] if ids else [nn.Linear(64, int(np.prod(shape)), rng=1), nn.Tanh(), nn.Reshape(*shape)]
    inner = nn.Sequential(*below, layer, nn.Flatten())
    model = nn.Sequential(inner, nn.Linear(inner(x).shape[1], 10, rng=2))
    return model, layer, x, rng.integers(0, 10, ROWS)


def deleted(full: bool) -> str:
    """Rows of one layer after another, its backward written, deleted, and hidden with all that it has."""
    rows = []
    for name, (make, shape) in LAYERS.items():
        ways, evaluations = {}, "-"
        for how in ("written", "deleted", "hidden"):
            change = (lambda layer: layer) if how == "written" else (lambda layer, h=how: without(layer, h == "hidden"))
            model, _, x, t = network(make, shape, change)
            strategy, loss = nn.Backprop(), nn.CrossEntropyLoss()
            ways[how] = lambda s=strategy, m=model, loss=loss, x=x, t=t: s(m, loss, x, t)
            if how == "hidden":
                counts = []
                for _ in range(6):
                    COUNTED["rows"] = 0
                    ways[how]()
                    counts.append(COUNTED["rows"] / ROWS)
                evaluations = f"{min(counts):,.0f}"
        times = measure(ways, 5, min)
        ratios = [f"{times[how] / times['written']:.1f}" for how in ("deleted", "hidden")]
        rows.append([name, seconds(times["written"]), *ratios, evaluations])
    header = [
        "layer",
        "written",
        "its backward deleted, times",
        "forward alone, times",
        "evaluations with forward alone",
    ]
    title = f"gradient of a network of three layers by `Backprop`, {ROWS} rows, float32"
    return f"{title}; {nn.get_num_threads()} threads\n\n" + table(header, rows)
