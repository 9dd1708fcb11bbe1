"""The table of recurrent layers and of a transformer's layer beside PyTorch. Printed by speed.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from peers import Peer, import_torch, ratio
from side_by_side import Way, measure, seconds, table

import nnframe as nn

RECURRENT = 32, 32, 128  # rows, steps, inputs and units
BLOCK = 16, 64, 128  # rows, steps, width
HEADS, FEEDFORWARD = 8, 512
CASES = ["LSTM", "GRU", "RNN", "transformer, no dropout", "transformer, dropout 0.1"]


def ours(case: str, x: np.ndarray, t: np.ndarray) -> Callable[[], None]:
    """Return a training step: forward, mean squared error, backward, Adam."""
    width = x.shape[2]
    if case.startswith("transformer"):
        dropout = 0.1 if case.endswith("0.1") else 0.0
        model: nn.Layer = nn.TransformerEncoderLayer(width, HEADS, FEEDFORWARD, dropout, rng=0)
    else:
        model = getattr(nn, case)(width, width, rng=0)
    optimizer, loss, strategy = nn.Adam(model.parameters()), nn.MSELoss(), nn.Backprop()

    def step() -> None:
        strategy(model, loss, x, t)
        optimizer.step()

    return step


def theirs(torch: Any, case: str, x: np.ndarray, t: np.ndarray) -> Callable[[], None]:
    """Return the same step of PyTorch in eager mode, with its fused Adam."""
    width = x.shape[2]
    if case.startswith("transformer"):
        dropout = 0.1 if case.endswith("0.1") else 0.0
        model = torch.nn.TransformerEncoderLayer(width, HEADS, FEEDFORWARD, dropout, batch_first=True)
    else:
        model = getattr(torch.nn, case)(width, width, batch_first=True)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(t)

    def step() -> None:
        optimizer.zero_grad()
        y = model(inputs)
        torch.nn.functional.mse_loss(y[0] if isinstance(y, tuple) else y, targets).backward()
        optimizer.step()

    return step


def sequences(full: bool) -> str:
    """A training step of a recurrent layer, and of a transformer's encoder layer, by nnframe and PyTorch."""
    torch, rng, rows = import_torch(), np.random.default_rng(0), []
    for case in CASES:
        shape = BLOCK if case.startswith("transformer") else RECURRENT
        x, t = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        ways: dict[str, Way] = {"nnframe": ours(case, x, t)}
        if torch:
            ways["PyTorch"] = Peer(theirs(torch, case, x, t))
        times = measure(ways, 15, min)
        row = [case, " x ".join(map(str, shape)), seconds(times["nnframe"])]
        row += [seconds(times["PyTorch"]), ratio(times["PyTorch"], times["nnframe"])] if torch else ["-", "-"]
        rows.append(row)
    header = ["layer", "x", "nnframe", "PyTorch", "PyTorch / nnframe"]
    title = f"forward, backward, Adam, float32, the best of 15; {nn.get_num_threads()} threads"
    return f"{title}; {HEADS} heads, {FEEDFORWARD} inner units\n\n" + table(header, rows)
