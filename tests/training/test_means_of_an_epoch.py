"""What the history says of an epoch, where its mini-batches are not of one size and not alike."""

import numpy as np
import pytest

import nnframe as nn


def uneven():
    """Five rows of one kind, then two of another, whose loss and accuracy differ: batches of 5 and 2."""
    x = np.zeros((7, 2), np.float32)
    x[:5, 0], x[5:, 1] = 1, 3
    t = np.array([0, 0, 0, 0, 1, 0, 0])
    model = nn.Sequential(nn.Linear(2, 2, rng=0))
    model[0].weight.value[...] = [[1, -1], [-1, 1]]
    return model, x, t


@pytest.mark.parametrize("strategy", [nn.Backprop(), nn.CentralDifference(), nn.NodePerturbation()], ids=repr)
def test_loss_and_accuracy_count_rows_not_batches(strategy):
    model, x, t = uneven()
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.0), strategy)
    history = trainer.fit(x, t, batch_size=5, shuffle=False, progress=False)
    parts = [nn.CrossEntropyLoss()(model(x[rows]), t[rows]) for rows in (slice(0, 5), slice(5, 7))]
    assert abs(parts[0] - parts[1]) > 1  # else a wrong weight would not show
    assert history["loss"] == [pytest.approx((5 * parts[0] + 2 * parts[1]) / 7, rel=1e-6)]
    assert history["accuracy"] == [pytest.approx(4 / 7)]


def test_the_means_are_those_of_evaluate():
    model, x, t = uneven()
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.0), nn.Backprop())
    history = trainer.fit(x, t, batch_size=3, shuffle=False, validation_data=(x, t), progress=False)
    measured = trainer.evaluate(x, t)
    for name in ("loss", "accuracy"):
        assert history[name][0] == pytest.approx(measured[name], rel=1e-6), name
        assert history[f"val_{name}"][0] == pytest.approx(measured[name], rel=1e-6), f"val_{name}"


class WithOldOutput:
    """A strategy of a user's own: its `output` is one of long ago, and it returns a bare number."""

    def __init__(self):
        self.inner, self.output = nn.Backprop(), None

    def __call__(self, model, loss, x, t):
        value = float(self.inner(model, loss, x, t))
        if self.output is None:
            self.output = model(x)
        return value


def test_the_output_of_an_earlier_batch_is_not_taken_for_this_ones():
    model, x, t = uneven()
    strategy = WithOldOutput()
    strategy(model, nn.CrossEntropyLoss(), x[::-1][:5], t[::-1][:5])
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.0), strategy)
    history = trainer.fit(x, t, batch_size=5, shuffle=False, progress=False)
    assert history["accuracy"] == [pytest.approx(4 / 7)]


def test_training_sees_the_output_before_the_step():
    # the loss and the accuracy of a step are those with which its gradient was taken
    model, x, t = uneven()
    before = nn.CrossEntropyLoss()(model(x), t), nn.accuracy(model(x), t)
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 5.0), nn.Backprop())
    history = trainer.fit(x, t, batch_size=7, shuffle=False, progress=False)
    assert (history["loss"][0], history["accuracy"][0]) == pytest.approx(before, rel=1e-6)
    assert nn.CrossEntropyLoss()(model(x), t) != pytest.approx(before[0], rel=0.1)


def test_a_batch_in_which_nothing_counts_is_passed_over():
    model, x, _ = uneven()
    t = np.array([0, 0, 0, 0, 1, -1, -1])
    loss = nn.CrossEntropyLoss(ignore_index=-1)
    trainer = nn.Trainer(model, loss, nn.SGD(model.parameters(), 0.0), nn.Backprop())
    history = trainer.fit(x, t, batch_size=5, shuffle=False, progress=False)
    assert history["loss"] == [pytest.approx(nn.CrossEntropyLoss()(model(x[:5]), t[:5]), rel=1e-6)]
    assert history["accuracy"] == [pytest.approx(4 / 5)]
