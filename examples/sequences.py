"""Two tasks on sequences: an LSTM that remembers, and a transformer that sorts.

    python examples/sequences.py [--epochs N] [--out picture.png]

The adding problem (Hochreiter and Schmidhuber 1997): of a series of random numbers two are marked, and the last state
of an LSTM is to tell their sum. Who knows nothing answers 1, and is off by 1/6 in the mean square. The series have
different lengths, which are given beside them.

Sorting: digits come in any order, and for each place of the sorted row a transformer names the digit that belongs
there. Places differ for it only by their positional encoding. The picture shows where its heads look.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import numpy as np

import nnframe as nn

DIGITS, PLACES = 10, 8


def adding(count: int, rng: np.random.Generator, steps: int = 20) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Series (count, steps, 2) of a number and a mark, their lengths, and the sums of the two marked numbers."""
    x, lengths = np.zeros((count, steps, 2), np.float32), rng.integers(steps // 2, steps + 1, count)
    x[..., 0] = rng.random((count, steps))
    for row, length in zip(x, lengths, strict=True):
        row[rng.choice(length, 2, replace=False), 1] = 1
        row[length:] = 0
    return (x, lengths), (x[..., 0] * x[..., 1]).sum(axis=1, keepdims=True)


class Learned(NamedTuple):
    """A model that has been trained, how, and what it is measured with: series that it has not seen."""

    model: nn.Sequential
    history: nn.History
    x: Any
    t: np.ndarray


def train_adding(epochs: int) -> Learned:
    """Train an LSTM to add."""
    rng = np.random.default_rng(0)
    x, t = adding(4000, rng)
    unseen = adding(1000, rng)
    model = nn.Sequential(nn.LSTM(2, 32, return_sequences=False, rng=0), nn.Linear(32, 1, rng=1))
    trainer = nn.Trainer(model, nn.MSELoss(), nn.Adam(model.parameters(), lr=0.005), nn.Backprop())
    history = trainer.fit(x, t, epochs=epochs, batch_size=50, validation_data=unseen, rng=0, progress=False)
    return Learned(model, history, *unseen)


def train_sorting(epochs: int) -> Learned:
    """Train a transformer to sort."""
    rng = np.random.default_rng(0)
    x, new_x = rng.integers(0, DIGITS, (6000, PLACES)), rng.integers(0, DIGITS, (1000, PLACES))
    width = 32
    model = nn.Sequential(
        nn.Embedding(DIGITS, width, rng=0),
        nn.PositionalEncoding(width),
        nn.TransformerEncoderLayer(width, 4, 64, 0.0, norm_first=True, rng=1),
        nn.TransformerEncoderLayer(width, 4, 64, 0.0, norm_first=True, rng=2),
        nn.Linear(width, DIGITS, rng=3),
    )
    unseen = (new_x, np.sort(new_x))
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), lr=0.003), nn.Backprop())
    history = trainer.fit(x, np.sort(x), epochs=epochs, batch_size=50, validation_data=unseen, rng=0, progress=False)
    return Learned(model, history, *unseen)


def attention(model: nn.Sequential, row: np.ndarray) -> np.ndarray:
    """Return what each head of the first block, at each place of a row, takes of each of its digits: (4, L, L)."""
    embedding, places, block = model[0], model[1], model[2]
    return block.self_attn.probabilities(block.norm1(places(embedding(row[None]))))[0]


def draw(adder: Learned, sorter: Learned, path: str) -> None:
    """Draw how both have learned, what the LSTM answers, and where the transformer looks in one row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 6), layout="constrained")
    above, below = figure.subfigures(2, 1)
    error, answers, right = above.subplots(1, 3)
    for axes, learned, name, title in (
        (error, adder, "loss", "adding: mean squared error"),
        (right, sorter, "accuracy", "sorting: places right"),
    ):
        epochs = range(1, len(learned.history) + 1)
        axes.plot(epochs, learned.history[name], "o-", label="training")
        axes.plot(epochs, learned.history[f"val_{name}"], "o-", label="unseen")
        axes.set(title=title, xlabel="epoch")
    error.set(yscale="log")
    error.axhline(1 / 6, color="grey", ls=":", label="without looking")
    error.legend()
    right.legend()
    answers.plot([0, 2], [0, 2], color="grey", lw=1)
    answers.plot(adder.t[:, 0], adder.model(adder.x)[:, 0], ".", ms=2)
    answers.set(title="adding: unseen series", xlabel="sum", ylabel="the LSTM's answer")
    row = sorter.x[0]
    named = "".join(map(str, sorter.model(row[None])[0].argmax(axis=1)))
    below.suptitle(f"where the heads of the first block look while {''.join(map(str, row))} is sorted into {named}")
    maps = attention(sorter.model, row)
    for head, (axes, seen) in enumerate(zip(below.subplots(1, 4), maps, strict=True), 1):
        axes.imshow(seen, cmap="Blues", vmin=0, vmax=maps.max())
        axes.set_xticks(range(PLACES), row)
        axes.set_yticks(range(PLACES), range(1, PLACES + 1))
        axes.set(title=f"head {head}", xlabel="digit looked at", ylabel="place" if head == 1 else "")
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Train both, and print what they have learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", help="where to write a picture (needs matplotlib)")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    adder = train_adding(options.epochs)
    error = float(np.mean((adder.model(adder.x) - adder.t) ** 2))
    print(f"adding   mean squared error {error:.4f} (1/6 without looking), {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    sorter = train_sorting(options.epochs)
    right = float(np.mean(sorter.model(sorter.x).argmax(axis=2) == sorter.t))
    print(f"sorting  {right:.1%} of all places right (10 % by chance), {time.perf_counter() - start:.1f} s")
    if options.out:
        draw(adder, sorter, options.out)
        print(f"wrote {options.out}")
    return error, right


if __name__ == "__main__":
    main()
