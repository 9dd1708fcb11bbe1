"""Trains on F1 itself, and on the area under the ROC curve: measures that have no derivative.

    python examples/train_on_f1.py

Rare events: one row in nine is of class 1, as far as a curved border says so, and labels are noisy. A network trained on the
cross-entropy is asked for probabilities, and says no to nearly all rows near the border; F1 is about rows above 0. The
same network then goes on with -F1 as its loss, by central differences over a wide step, and is kept where F1 of the
validation rows is best; the cross-entropy goes on for as many steps, and is kept by the same rule. Both are measured on
rows that neither has seen.
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


def compare(measure, seed: int, epochs: int) -> tuple[float, float]:
    """Return the measure of unseen rows, trained on the cross-entropy alone, and then on the measure itself."""
    rows, surrogate = data(seed), nn.BCEWithLogitsLoss()
    model = network(seed)
    train(model, surrogate, nn.Backprop(), measure, rows, 0.02, 150)
    further = network(seed)
    further.load_state_dict(model.state_dict())
    train(further, surrogate, nn.Backprop(), measure, rows, 0.02, epochs)
    train(model, nn.MetricLoss(measure), nn.CentralDifference(step=0.2), measure, rows, 0.02, epochs)
    x, t = rows[2]
    return measure(further(x), t), measure(model(x), t)


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    """Compare, print, and return what was found, (seeds, 2) for each measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=150)
    options = parser.parse_args(arguments)
    found = {}
    for measure in (training.f1, training.roc_auc):
        found[measure.__name__] = np.array([compare(measure, seed, options.epochs) for seed in range(options.seeds)])
        by_surrogate, by_itself = found[measure.__name__].mean(axis=0)
        better = int((found[measure.__name__][:, 1] > found[measure.__name__][:, 0]).sum())
        print(f"{measure.__name__:<8} trained on cross-entropy {by_surrogate:.3f}, on the measure itself {by_itself:.3f}, "
              f"better with {better} of {options.seeds} seeds")  # fmt: skip
    return found


if __name__ == "__main__":
    main()
