"""Two tasks on sequences: an LSTM that remembers, and a transformer that sorts.

    python examples/sequences.py [--epochs N]

The adding problem (Hochreiter and Schmidhuber 1997): of a series of random numbers two are marked, and the last state
of an LSTM is to tell their sum. Who knows nothing answers 1, and is off by 1/6 in the mean square. The series have
different lengths, which are given beside them.

Sorting: digits come in any order, and for each place of the sorted row a transformer names the digit that belongs
there. Places differ for it only by their positional encoding.
"""

from __future__ import annotations

import argparse
import time

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


def train_adding(epochs: int) -> float:
    """Train an LSTM; returns its mean squared error on series that it has not seen."""
    rng = np.random.default_rng(0)
    x, t = adding(4000, rng)
    new_x, new_t = adding(1000, rng)
    model = nn.Sequential(nn.LSTM(2, 32, return_sequences=False, rng=0), nn.Linear(32, 1, rng=1))
    trainer = nn.Trainer(model, nn.MSELoss(), nn.Adam(model.parameters(), lr=0.005), nn.Backprop())
    trainer.fit(x, t, epochs=epochs, batch_size=50, rng=0, progress=False)
    return float(np.mean((model(new_x) - new_t) ** 2))


def train_sorting(epochs: int) -> float:
    """Train a transformer; returns which part of the places it names right in rows that it has not seen."""
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
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), lr=0.003), nn.Backprop())
    trainer.fit(x, np.sort(x), epochs=epochs, batch_size=50, rng=0, progress=False)
    return float(np.mean(model(new_x).argmax(axis=2) == np.sort(new_x)))


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Train both, and print what they have learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args(arguments).epochs
    start = time.perf_counter()
    error = train_adding(epochs)
    print(f"adding   mean squared error {error:.4f} (1/6 without looking), {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    right = train_sorting(epochs)
    print(f"sorting  {right:.1%} of all places right (10 % by chance), {time.perf_counter() - start:.1f} s")
    return error, right


if __name__ == "__main__":
    main()
