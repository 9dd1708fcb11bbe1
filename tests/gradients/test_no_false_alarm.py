"""Healthy forward-only networks are never refused: kinks, saturation, small and large inputs are no layer's fault."""

import itertools
import warnings

import numpy as np
import pytest

import nnframe as nn


class ReLU(nn.Layer):
    def forward(self, x):
        return np.maximum(x, 0)


class Leaky(nn.Layer):
    def forward(self, x):
        return np.where(x > 0, x, 0.1 * x)


class PairsMax(nn.Layer):
    def forward(self, x):
        return np.repeat(x.reshape(len(x), -1, 2).max(axis=-1), 2, axis=1)


class Sort(nn.Layer):
    def forward(self, x):
        return np.sort(x, axis=1)


class Clip(nn.Layer):
    def forward(self, x):
        return np.clip(x, -1, 1)


class BatchNorm(nn.Layer):
    def __init__(self):
        self.gamma, self.beta = nn.Parameter(np.ones(16)), nn.Parameter(np.zeros(16))

    def forward(self, x):
        return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5) * self.gamma.value + self.beta.value


class Absolute(nn.Loss):
    def forward(self, y, t):
        return float(np.abs(y - t).mean())


class Hinge(nn.Loss):
    def rows(self, y, t):
        return np.maximum(0, 1 - y * np.sign(t)).sum(axis=1)


class OwnCrossEntropy(nn.CrossEntropyLoss):
    def forward(self, y, t):
        y = y - y.max(axis=1, keepdims=True)
        return float((np.log(np.exp(y).sum(axis=1)) - y[np.arange(len(t)), t]).mean())


LAYERS = [ReLU, Leaky, PairsMax, Sort, Clip, BatchNorm]
LOSSES = [nn.CrossEntropyLoss(), OwnCrossEntropy(), Absolute(), Hinge()]
STRATEGIES = [nn.CentralDifference, nn.Backprop, nn.NodePerturbation]


@pytest.mark.parametrize("scale", [1.0, 255.0, 1e-3])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layer", LAYERS)
def test_healthy_networks_pass(layer, strategy, scale, dtype):
    for seed, loss in itertools.product(range(3), LOSSES):
        rng = np.random.default_rng(seed)
        layers = [nn.Linear(12, 16, rng=seed), layer(), nn.Linear(16, 3, rng=seed + 1)]
        model = nn.Sequential(*layers).astype(dtype)
        x = scale * (rng.random((16, 12)) if seed % 2 else rng.standard_normal((16, 12)))
        t = rng.integers(0, 3, 16) if isinstance(loss, nn.CrossEntropyLoss) else rng.standard_normal((16, 3))
        taken = strategy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinks within the step
            for _ in range(2):
                value = taken(model, loss, x, t)
        assert np.isfinite(value), f"seed {seed}, {loss!r}"
        assert all(np.isfinite(p.grad).all() for p in model.parameters()), f"seed {seed}, {loss!r}"


@pytest.mark.parametrize(
    ("layer", "strategy"),
    [(ReLU, nn.CentralDifference()), (ReLU, nn.Backprop()), (PairsMax, nn.Backprop()), (BatchNorm, nn.Backprop())],
    ids=lambda value: value.__name__ if isinstance(value, type) else repr(value),
)
def test_healthy_networks_train_without_a_word(layer, strategy):
    (x, t), _ = nn.data.digits()
    model = nn.Sequential(nn.Linear(64, 16, rng=0), layer(), nn.Linear(16, 10, rng=1))
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), 0.01), strategy)
    history = trainer.fit(x[:320], t[:320], epochs=12, batch_size=16, rng=0, progress=False)
    assert history["loss"][-1] < 0.2 * history["loss"][0]
