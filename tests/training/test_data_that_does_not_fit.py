"""What does not fit is found before the first step, also by losses of the user."""

import warnings

import numpy as np
import pytest

import nnframe as nn

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 4))
T = RNG.integers(0, 2, 40).astype(float)


class Squared(nn.Loss):
    def forward(self, y, t):
        return float(np.mean((y - t) ** 2))


class SquaredRows(nn.Loss):
    def rows(self, y, t):
        return ((y - t) ** 2).mean(1)


class Column(nn.Loss):
    def forward(self, y, t):
        return float(np.mean(np.abs(y[:, 0] - t)))


class Logistic(nn.Loss):
    def rows(self, y, t):
        return np.logaddexp(0, y[:, 0]) - y[:, 0] * t


def trainer(loss, outputs=1, strategy=nn.Backprop):
    model = nn.Sequential(nn.Linear(4, outputs, rng=0))
    return nn.Trainer(model, loss, nn.SGD(model.parameters(), 0.1), strategy())


@pytest.mark.parametrize(
    ("loss", "t", "cure"),
    [
        (Squared(), T, r"t\[:, None\]"),
        (SquaredRows(), T, r"t\[:, None\]"),
        (Column(), T[:, None], r"t\[:, 0\]"),
        (Column(), T[:, None] + 5, r"t\[:, 0\]"),
    ],
)
def test_outputs_and_labels_that_broadcast_are_noticed(loss, t, cure):
    with pytest.warns(RuntimeWarning, match=rf"whichever order labels come.* pass {cure}"):
        trainer(loss).fit(X, t, progress=False)


@pytest.mark.parametrize(
    ("loss", "t"),
    [
        (Squared(), T[:, None]),
        (SquaredRows(), T[:, None]),
        (Column(), T),
        (Column(), T + 5),  # all outputs below all labels: a sum of |y - t| is then the same in any order
        (Logistic(), T),
        (Squared(), np.zeros(40)),  # nothing can be told
    ],
)
def test_labels_that_meet_their_outputs_are_not_remarked_upon(loss, t):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(loss).fit(X, t, progress=False)


def test_a_strategy_by_itself_notices_too():
    model = nn.Sequential(nn.Linear(4, 1, rng=0))
    with pytest.warns(RuntimeWarning, match="whichever order"):
        nn.CentralDifference()(model, Squared(), X, T)


@pytest.mark.parametrize("bad", ["train", "validation"])
def test_labels_that_an_own_loss_cannot_take_change_nothing(bad):
    one = trainer(Squared(), outputs=3)
    before = one.model.state_dict()
    good, wrong = np.zeros((40, 3)), np.zeros((40, 2))
    t, validation = (wrong, None) if bad == "train" else (good, (X, wrong))
    with pytest.raises(ValueError, match="broadcast") as caught:
        one.fit(X, t, validation_data=validation, progress=False)
    assert ("in validation_data" in getattr(caught.value, "__notes__", [])) == (bad == "validation")
    for name, value in one.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("which", ["x", "t"])
def test_numbers_that_the_models_dtype_does_not_have_change_nothing(which):
    one = trainer(nn.MSELoss())
    before = one.model[0].weight.value.copy()
    x, t = X.copy(), T[:, None].copy()
    (x if which == "x" else t)[37, 0] = 1e300
    with pytest.raises(ValueError, match=f"finite numbers in {which}, got one above 3.4e\\+38.* in row 37"):
        one.fit(x, t, progress=False)
    np.testing.assert_array_equal(one.model[0].weight.value, before)
    wide = nn.Sequential(one.model.astype(np.float64))
    nn.Trainer(wide, nn.MSELoss(), nn.SGD(wide.parameters(), 0.0)).evaluate(np.full((2, 4), 1e100), np.zeros((2, 1)))


def test_a_class_in_place_of_an_object_is_named():
    model = nn.Sequential(nn.Linear(4, 1))
    with pytest.raises(TypeError, match=r"optimizer: expected an Optimizer.*; that is the class"):
        nn.Trainer(model, nn.MSELoss(), nn.SGD)
    with pytest.raises(TypeError, match=r"loss: expected a Loss.*; that is the class"):
        nn.Trainer(model, nn.MSELoss, nn.SGD(model.parameters(), 0.1))


def test_a_layer_that_comes_later_is_not_left_untrained():
    class Net(nn.Layer):
        def __init__(self):
            self.layers = [nn.Linear(3, 3, rng=0)]

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    model = Net()
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.1))
    model.layers.append(nn.Linear(3, 2, rng=1))
    with pytest.raises(ValueError, match=r"layers\.1\.weight, layers\.1\.bias came later"):
        trainer.fit(np.ones((4, 3)), [0, 1, 0, 1], progress=False)
    some = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.layers[0].parameters(), 0.1))
    some.fit(np.ones((4, 3)), [0, 1, 0, 1], progress=False)  # only some from the start: as it was asked for


def test_integers_that_the_dtype_does_not_hold_are_refused():
    model = nn.Linear(1, 1, rng=0)
    model(np.array([[1 << 24]]))
    with pytest.raises(ValueError, match=r"x: expected integers that float32 holds exactly, got 16777217; .*takes_int"):
        model(np.array([[(1 << 24) + 1]]))
    model.astype(np.float64)(np.array([[(1 << 24) + 1]]))
