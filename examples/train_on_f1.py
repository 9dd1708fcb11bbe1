"""Trains on F1 itself, and on the area under the ROC curve: measures that have no derivative.

    python examples/train_on_f1.py

Rare events, and labels that are noisy. A network trained on the cross-entropy learns probabilities, few of which are
above a half, while F1 is about what is said to be of class 1. The same network then goes on with -F1 as its loss, by
central differences over a wide step. Three networks are compared on rows that none has seen: the cross-entropy for as
many steps; the same with the threshold that is best on other rows; and F1. All are kept where F1 of those other rows
is best.
"""

from __future__ import annotations

import argparse

import numpy as np

import nnframe as nn
from nnframe import training


def data(seed: int, rows: int = 1200) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows to train on, to choose by, and to measure on."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3 * rows, 4)).astype(np.float32)
    t = (x[:, 0] + 0.5 * x[:, 1] ** 2 + rng.standard_normal(len(x)) > 2.2).astype(int)
    return [(x[i * rows : (i + 1) * rows], t[i * rows : (i + 1) * rows]) for i in range(3)]


def network(seed: int) -> nn.Sequential:
    """Return a network of one logit."""
    return nn.Sequential(nn.Linear(4, 8, rng=seed), nn.Tanh(), nn.Linear(8, 1, rng=seed + 1))


def train(model: nn.Layer, loss: nn.Loss, strategy: training.Strategy, measure, rows, lr: float, epochs: int) -> None:
    """Train with all rows at a time, and keep the weights whose measure of the rows to choose by is best."""
    trainer = nn.Trainer(model, loss, nn.Adam(model.parameters(), lr), strategy, {"measure": measure})
    best = nn.EarlyStopping("val_measure", patience=epochs)
    trainer.fit(*rows[0], epochs=epochs, batch_size=len(rows[0][0]), validation_data=rows[1], callbacks=best,
                progress=False)  # fmt: skip


def threshold(measure, y: np.ndarray, t: np.ndarray) -> float:
    """Return the threshold among the quantiles of y whose measure is best."""
    return max(np.quantile(y, np.linspace(0.02, 0.98, 97)), key=lambda one: measure(y - one, t))


def compare(measure, seed: int, epochs: int) -> tuple[float, float, float]:
    """Return the measure of unseen rows: by the cross-entropy, by that with a threshold, by the measure itself."""
    rows, surrogate = data(seed), nn.BCEWithLogitsLoss()
    model = network(seed)
    train(model, surrogate, nn.Backprop(), measure, rows, 0.02, 150)
    further = network(seed)
    further.load_state_dict(model.state_dict())
    train(further, surrogate, nn.Backprop(), measure, rows, 0.02, epochs)
    train(model, nn.MetricLoss(measure), nn.CentralDifference(step=0.2), measure, rows, 0.02, epochs)
    x, t = rows[2]
    best = threshold(measure, further(rows[1][0]), rows[1][1])
    return measure(further(x), t), measure(further(x) - best, t), measure(model(x), t)


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    """Compare, print, and return what was found, (seeds, 3) for each measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=150)
    options = parser.parse_args(arguments)
    found = {}
    for measure in (training.f1, training.roc_auc):
        name = measure.__name__
        found[name] = np.array([compare(measure, seed, options.epochs) for seed in range(options.seeds)])
        surrogate, tuned, itself = found[name].mean(axis=0)
        better = int((found[name][:, 2] > found[name][:, 0]).sum())
        print(f"{name:<8} by cross-entropy {surrogate:.3f}, with the best threshold {tuned:.3f}, by the measure itself "
              f"{itself:.3f}: better than the first with {better} of {options.seeds} seeds")  # fmt: skip
    return found


if __name__ == "__main__":
    main()
