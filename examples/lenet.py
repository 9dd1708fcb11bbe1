"""LeNet-5 (LeCun et al. 1998) without automatic differentiation, in three ways.

    python examples/lenet.py [--data digits|mnist] [--gradient backprop|central|hybrid] [--epochs N] [--out lenet.png]
    python examples/lenet.py --data mnist --gradient backprop --epochs 6 --batch-size 64 --lr 0.003   # 99 %

    backprop   the written backward passes of nnframe's layers
    central    (L(w + h) - L(w - h)) / 2h for every weight, propagated through the network
    hybrid     `Backprop`, where the second convolution has lost its backward: its gradients come from differences of
               that layer alone

`digits` are 1,797 images of 8 x 8 that come with nnframe; for `mnist` set NNFRAME_DATA to the folder of its files.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

import nnframe as nn


class ForwardOnly(nn.Conv2d):
    """A convolution of which nnframe knows nothing but what it gives: another `forward` sets aside what was written."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return super().forward(x)


class FallingAdam(nn.Adam):
    """Adam whose learning rate falls to 0 along a line, within so many training steps."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, training_steps: int) -> None:
        super().__init__(parameters, lr)
        self.first_rate, self.training_steps = lr, training_steps

    def step(self) -> None:
        self.lr = self.first_rate * max(0.0, 1 - self.steps / self.training_steps)
        super().step()


def lenet(side: int, second: type[nn.Conv2d] = nn.Conv2d, seed: int = 0) -> nn.Sequential:
    """Make LeNet-5 for images of side x side: 5 x 5 kernels as in 1998, or 3 x 3 with padding for small images."""
    rng = np.random.default_rng(seed)
    kernel, padding, left = (5, 0, ((side - 4) // 2 - 4) // 2) if side >= 28 else (3, 1, side // 4)
    return nn.Sequential(
        nn.Conv2d(1, 6, kernel, padding=padding, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        second(6, 16, kernel, padding=padding, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * left * left, 120, rng=rng),
        nn.ReLU(),
        nn.Linear(120, 84, rng=rng),
        nn.ReLU(),
        nn.Linear(84, 10, rng=rng),
    )


def images(data: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], int]:
    """Return images (N, 1, side, side) and labels to train on and to test on, and the side."""
    train, test = nn.data.mnist() if data == "mnist" else nn.data.digits()
    side = round(train[0].shape[1] ** 0.5)
    (x, t), (test_x, test_t) = train, test
    return (x.reshape(-1, 1, side, side), t), (test_x.reshape(-1, 1, side, side), test_t), side


def train(options: argparse.Namespace) -> tuple[nn.Sequential, nn.History, float]:
    """Train; returns the model, its history and the seconds that it took."""
    (x, t), test, side = images(options.data)
    epochs, batch_size = options.epochs, options.batch_size
    model = lenet(side, ForwardOnly if options.gradient == "hybrid" else nn.Conv2d, options.seed)
    strategy = nn.CentralDifference() if options.gradient == "central" else nn.Backprop()
    optimizer = FallingAdam(model.parameters(), options.lr, epochs * math.ceil(len(x) / batch_size))
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), optimizer, strategy)
    print(model.summary(x.shape[1:]))
    start = time.perf_counter()
    history = trainer.fit(x, t, epochs=epochs, batch_size=batch_size, validation_data=test, rng=options.seed)
    return model, history, time.perf_counter() - start


def draw(model: nn.Sequential, history: nn.History, path: str) -> None:
    """Draw the curves of loss and accuracy, and the kernels of the first convolution."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(9, 3.6), layout="constrained")
    curves, kernels = figure.subfigures(1, 2, width_ratios=[3, 2])
    loss, accuracy = curves.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    for axes, name, title in ((loss, "loss", "loss"), (accuracy, "accuracy", "accuracy")):
        axes.plot(epochs, history[name], "o-", label="training")
        axes.plot(epochs, history[f"val_{name}"], "o-", label="test")
        axes.set(xlabel="epoch", title=title)
        axes.legend()
    most = float(np.abs(model[0].weight.value).max())
    for axes, kernel in zip(kernels.subplots(2, 3).flat, model[0].weight.value, strict=True):
        axes.imshow(kernel[0], cmap="RdBu", vmin=-most, vmax=most)
        axes.set_axis_off()
    kernels.suptitle("kernels of the first convolution")
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> float:
    """Train and report; returns the test accuracy."""
    parser = argparse.ArgumentParser(description="LeNet-5 without automatic differentiation.")
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--gradient", choices=("backprop", "central", "hybrid"), default="central")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.003, help="of the first step; it falls to 0 (default: 0.003)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and mini-batches (default: 0)")
    parser.add_argument("--out", help="where to write a picture (needs matplotlib)")
    options = parser.parse_args(arguments)
    model, history, seconds = train(options)
    accuracy = float(history["val_accuracy"][-1])
    print(f"\n{options.gradient}: test accuracy {accuracy:.2%} after {seconds:.1f} s")
    if options.out:
        draw(model, history, options.out)
        print(f"wrote {options.out}")
    return accuracy


if __name__ == "__main__":
    main()
