"""Networks of convolutions trained from the same weights as PyTorch's: the same losses and weights, step by step."""

import numpy as np
import pytest

import nnframe as nn


def lenet(layers, **options):
    """LeNet-5 for 28 x 28, of nnframe's layers or PyTorch's."""
    return layers.Sequential(
        layers.Conv2d(1, 6, 5, **options), layers.ReLU(), layers.MaxPool2d(2),
        layers.Conv2d(6, 16, 5, **options), layers.ReLU(), layers.MaxPool2d(2),
        layers.Flatten(), layers.Linear(256, 120, **options), layers.ReLU(),
        layers.Linear(120, 84, **options), layers.ReLU(), layers.Linear(84, 10, **options),
    )  # fmt: skip


def batch_normalised(layers, **options):
    """Two blocks of convolution, batch normalisation, ReLU and pooling."""
    return layers.Sequential(
        layers.Conv2d(1, 4, 3, 1, 1, **options), layers.BatchNorm2d(4, **options), layers.ReLU(), layers.MaxPool2d(2),
        layers.Conv2d(4, 8, 3, 2, 1, **options), layers.BatchNorm2d(8, **options), layers.ReLU(), layers.AvgPool2d(7),
        layers.Flatten(), layers.Linear(8, 10, **options),
    )  # fmt: skip


@pytest.mark.parametrize("make", [lenet, batch_normalised])
def test_training_follows_pytorch(make, rng):
    """20 steps of Adam from the same weights; then both in evaluation mode."""
    torch = pytest.importorskip("torch")
    model, other = make(nn, dtype=np.float64), make(torch.nn, dtype=torch.float64)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.value[...] = q.detach().numpy()
    x, t = rng.standard_normal((64, 1, 28, 28)), rng.integers(0, 10, 64)
    strategy, optimizer = nn.Backprop(), nn.Adam(model.parameters(), lr=0.003)
    other_optimizer = torch.optim.Adam(other.parameters(), lr=0.003)
    losses = []
    for _ in range(20):
        measured = strategy(model, nn.CrossEntropyLoss(), x, t)
        optimizer.step()
        measured.forward_pass.observe()  # running means and variances
        other_optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(other(torch.tensor(x)), torch.tensor(t))
        loss.backward()
        other_optimizer.step()
        losses.append(float(measured))
        assert abs(loss.item() - losses[-1]) < 1e-8
    assert losses[-1] < losses[0]
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert np.abs(p.value - q.detach().numpy()).max() < 1e-8, name
    expected = other.eval()(torch.tensor(x)).detach().numpy()
    assert np.abs(model(x) - expected).max() < 1e-8
