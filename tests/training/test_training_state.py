"""State that is no parameter: statistics move in `observe`, random numbers from step to step, and nothing else."""

import numpy as np
import pytest

import nnframe as nn

STRATEGIES = [nn.CentralDifference(), nn.Backprop(), nn.NodePerturbation(), nn.SPSA(rng=0)]


class BatchNorm(nn.Layer):
    """Statistics of the batch in training, running ones in evaluation."""

    def __init__(self, features):
        self.mean, self.seen = nn.Buffer(np.zeros(features)), nn.Buffer(np.array(0))

    def forward(self, x):
        return x - (x.mean(axis=0) if self.training else self.mean.value)

    def observe(self, x, y):
        self.mean.value[...] = 0.5 * self.mean.value + 0.5 * x.mean(axis=0)
        self.seen.value += 1


class Dropout(nn.Layer):
    def __init__(self, seed=0):
        self.random = nn.Random(seed)

    def forward(self, x):
        return x * (self.random.uniform(x) < 0.6) if self.training else 0.6 * x


def trained(model, strategy, rows=12, batch_size=4, epochs=1, lr=0.1):
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((rows, 5)).astype(np.float32), rng.integers(0, 3, rows)
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), lr), strategy)
    trainer.fit(x, t, epochs=epochs, batch_size=batch_size, shuffle=False, progress=False)
    return x, t, trainer


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_statistics_move_once_a_step(strategy):
    norm = BatchNorm(5)
    model = nn.Sequential(norm, nn.Linear(5, 3, rng=0))
    x, _, trainer = trained(model, strategy)
    expected = np.zeros(5)
    for first in (0, 4, 8):
        expected = 0.5 * expected + 0.5 * x[first : first + 4].mean(axis=0)
    np.testing.assert_allclose(norm.mean.value, expected, rtol=1e-6)
    assert norm.seen.value == 3
    before = model.state_dict()
    trainer.predict(x)
    trainer.evaluate(x, np.zeros(12, int))
    strategy(model, nn.CrossEntropyLoss(), x, np.zeros(12, int))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=f"{name} moved without a step")


def test_evaluation_does_not_depend_on_the_batch_size():
    model = nn.Sequential(BatchNorm(5), Dropout(), nn.Linear(5, 3, rng=0))
    x, t, trainer = trained(model, nn.Backprop())
    assert trainer.evaluate(x, t, batch_size=1)["loss"] == pytest.approx(trainer.evaluate(x, t)["loss"], rel=1e-6)
    np.testing.assert_array_equal(trainer.predict(x, batch_size=1), trainer.predict(x))
    np.testing.assert_array_equal(model(x), model(x))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_a_mask_lasts_one_step(strategy):
    seen = []

    class Watched(Dropout):
        def observe(self, x, y):
            seen.append(y != 0)

    trained(nn.Sequential(Watched(), nn.Linear(5, 3, rng=0)), strategy, rows=8, batch_size=4, epochs=2)
    assert len(seen) == 4
    for i, mask in enumerate(seen):
        assert 0.2 < mask.mean() < 0.95
        for other in seen[:i]:
            assert (mask != other).any(), "the same mask in two steps"


def test_a_run_that_is_saved_and_resumed_has_the_same_masks(tmp_path):
    def network():
        return nn.Sequential(nn.Linear(5, 6, rng=0), Dropout(7), nn.Linear(6, 3, rng=1))

    whole, first, second = network(), network(), network()
    trained(whole, nn.Backprop(), epochs=2)
    trained(first, nn.Backprop())
    nn.save(first, tmp_path / "half.safetensors")
    second[0].weight.value[...] = 0
    nn.load(second, tmp_path / "half.safetensors")
    trained(second, nn.Backprop())
    for name, value in whole.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[name], value, err_msg=name)


def test_the_rows_of_a_batch_have_masks_of_their_own():
    layer = Dropout()
    mask = layer(np.ones((50, 40)), training=True) != 0
    assert len({row.tobytes() for row in mask}) == 50
    assert 0.5 < mask.mean() < 0.7
    np.testing.assert_array_equal(layer(np.ones((20, 40)), training=True) != 0, mask[:20])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6])
def test_evaluate_weighs_classes_over_all_rows(batch_size):
    model = nn.Sequential(nn.Linear(1, 2, rng=0))
    x, t = np.arange(6.0)[:, None], np.array([0, 0, 0, 0, 0, 1])
    loss = nn.CrossEntropyLoss(weight=[1, 20])
    trainer = nn.Trainer(model, loss, nn.SGD(model.parameters(), 0.1))
    assert trainer.evaluate(x, t, batch_size=batch_size)["loss"] == pytest.approx(loss(model(x), t), rel=1e-6)
