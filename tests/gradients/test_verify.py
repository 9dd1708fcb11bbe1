"""`Backprop(verify=...)`: written backward passes are compared while a model is trained, and nothing else changes."""

import copy
import pickle

import numpy as np
import pytest

import nnframe as nn


class Scale(nn.Layer):
    """y = x w, with a backward that can be told to be wrong."""

    wrong = False

    def __init__(self, features):
        self.w = nn.Parameter(np.linspace(0.5, 1.5, features))

    def forward(self, x):
        return x * self.w.value.astype(x.dtype)

    def backward(self, x, y, dy):
        self.w.grad += np.sum(dy * x, axis=0) * (0.5 if Scale.wrong else 1)
        return dy * self.w.value.astype(x.dtype)


class WrongFarAway(Scale):
    """Right for inputs below 3."""

    def backward(self, x, y, dy):
        self.w.grad += np.sum(dy * np.minimum(x, 3), axis=0)
        return dy * self.w.value.astype(x.dtype)


class Centre(nn.Layer):
    """Mixes rows."""

    right = True

    def forward(self, x):
        return x - x.mean(axis=0)

    def backward(self, x, y, dy):
        return dy - dy.mean(axis=0) if self.right else dy


class WrongCentre(Centre):
    right = False


class ForwardOnly(nn.Layer):
    def __init__(self):
        self.shift = nn.Parameter(np.zeros(3))

    def forward(self, x):
        return np.arctan(x + self.shift.value)


class HalfSquares(nn.Loss):
    def rows(self, y, t):
        return ((y - t) ** 2).sum(axis=1)

    def backward(self, y, t):
        return (y - t) * y.dtype.type(self.row_scale(y, t))


@pytest.fixture(autouse=True)
def right_again():
    yield
    Scale.wrong = False


@pytest.fixture
def data(rng):
    return rng.standard_normal((20, 4)).astype(np.float32), rng.integers(0, 3, 20)


def model_with(*layers):
    return nn.Sequential(nn.Linear(4, 3, rng=0), *layers, nn.Linear(3, 3, rng=1))


def step(model, strategy, data, loss=None):
    measured = strategy(model, loss or nn.CrossEntropyLoss(), *data)
    nn.SGD(model.parameters(), 0.1).step()
    measured.forward_pass.observe()


def steps(count, model, strategy, data):
    for _ in range(count):
        step(model, strategy, data)


def test_training_is_the_same_to_the_bit(rng):
    x, t = rng.standard_normal((200, 4)).astype(np.float32), rng.integers(0, 3, 200)
    states = []
    for verify in (None, True, 7, 1):
        model = model_with(Scale(3), nn.BatchNorm1d(3), nn.Dropout(0.3, rng=2), nn.Residual(ForwardOnly()), nn.ReLU())
        strategy = nn.Backprop(verify=verify)
        trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), 0.02), strategy)
        history = trainer.fit(x, t, epochs=10, batch_size=16, rng=3, progress=False)
        states.append((model.state_dict(), history["loss"], [p.grad.copy() for p in model.parameters()]))
    for state, losses, gradients in states[1:]:
        assert losses == states[0][1]
        for name, value in state.items():
            np.testing.assert_array_equal(value, states[0][0][name], err_msg=name)
        for one, other in zip(gradients, states[0][2], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_wrong_backward_stops_at_the_first_batch(data):
    model = model_with(Scale(3))
    before = model.state_dict()
    Scale.wrong = True
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.1), nn.Backprop(verify=True))
    with pytest.raises(nn.GradientError) as error:
        trainer.fit(*data, epochs=1, batch_size=10, progress=False)
    assert isinstance(error.value, ValueError)
    text = str(error.value)
    assert text.startswith("Backprop(verify=...): gradient 1: a written backward does not fit its forward. The param")
    assert "layer 1: Scale()" in text
    assert "every entry is 2 times too small" in text
    assert not model[1].verified
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    nn.Backprop()(model, nn.CrossEntropyLoss(), *data)  # without it nobody looks


@pytest.mark.parametrize(("verify", "found_at"), [(True, 200), (50, 150), (1, 121)])
def test_drift_stops_training_at_the_next_look(data, verify, found_at):
    model, strategy = model_with(Scale(3)), nn.Backprop(verify=verify)
    steps(120, model, strategy, data)
    assert model[1].verified
    Scale.wrong = True
    words = rf"gradient {found_at}: .*\n\n(.*\n)*layer 1: Scale\(\) .*\n.* w .*WRONG"
    with pytest.raises(nn.GradientError, match=words) as error:
        steps(120, model, strategy, data)
    assert "2 times too small" in str(error.value)
    assert not model[1].verified
    assert model[0].verified
    assert [line.split()[-1] for line in model.summary().splitlines()[1:4]] == ["verified", "written", "verified"]


def test_what_is_wrong_for_other_data_is_found_when_they_come(data):
    x, t = data
    model, strategy = nn.Sequential(WrongFarAway(4), nn.Linear(4, 3, rng=0)), nn.Backprop(verify=5)
    steps(20, model, strategy, (np.clip(x, -2, 2), t))
    assert model[0].verified
    with pytest.raises(nn.GradientError, match=r"gradient 25: .*\n\n.*\n.*WrongFarAway"):
        steps(5, model, strategy, (x + 6, t))


def test_kinks_and_flat_places_do_not_stop_training(rng):
    x = rng.integers(-2, 3, (20, 4)).astype(np.float32)  # many arguments at 0, where ReLU has its kink
    model = nn.Sequential(nn.Linear(4, 5, rng=0), nn.ReLU(), nn.LeakyReLU(), nn.Residual(nn.ReLU()), nn.Linear(5, 3))
    model[0].weight.value[...] = np.round(model[0].weight.value)
    model[0].bias.value[:2] = -100  # units that are off
    strategy, optimizer = nn.Backprop(verify=1), nn.SGD(model.parameters(), 1.0)
    for _ in range(60):
        strategy(model, nn.CrossEntropyLoss(), x, rng.integers(0, 3, 20))
        for parameter in model.parameters():
            parameter.grad[...] = np.round(parameter.grad)
        optimizer.step()
    assert all(layer.verified for layer in model if not isinstance(layer, nn.Residual))


def test_saturated_and_broken_numbers_do_not_stop_training(data):
    model, strategy = model_with(nn.Tanh(), Scale(3)), nn.Backprop(verify=1)
    model[0].weight.value[...] *= 1e4
    steps(5, model, strategy, data)
    model[3].weight.value[0, 0] = np.nan
    strategy(model, nn.CrossEntropyLoss(), *data)  # a trainer says so itself


def test_rows_that_count_for_nothing_do_not_stop_training(data):
    x, _ = data
    t = np.full(20, -1)
    t[7] = 2
    model, strategy = model_with(Scale(3)), nn.Backprop(verify=1)
    for loss in (nn.CrossEntropyLoss(ignore_index=-1), nn.CrossEntropyLoss("sum", ignore_index=-1)):
        for _ in range(6):
            step(model, strategy, (x, t), loss)


def test_the_summary_says_written_numerical_verified(data):
    model = model_with(ForwardOnly(), Scale(3), nn.Residual(nn.Linear(3, 3, rng=4), nn.Tanh()))
    words = [line.split()[-1] for line in model.summary().splitlines() if "layer" not in line]
    assert words[0] == "written"
    step(model, nn.Backprop(verify=True), data)
    shown = model.summary((4,)).splitlines()
    assert shown[1].endswith("verified")
    assert "numerical (entries)" in shown[2]
    assert all(line.endswith("verified") for line in shown[3:-1])
    assert not model[1].verified


def test_a_backward_that_is_replaced_is_no_longer_verified_and_looked_at_anew(data):
    class Fresh(Scale):
        pass

    model, strategy = model_with(Fresh(3)), nn.Backprop(verify=10)
    steps(10, model, strategy, data)
    assert model[1].verified
    assert not copy.deepcopy(model)[1].verified
    Fresh.backward = lambda self, x, y, dy: Scale.backward(self, x, y, dy) * 1
    assert not model[1].verified
    steps(10, model, strategy, data)
    assert model[1].verified
    model[1].backward = lambda x, y, dy: Scale.backward(model[1], x, y, dy) * 1
    assert not model[1].verified
    del model[1].backward
    assert model[1].verified
    model[1].__class__ = WrongFarAway
    assert not model[1].verified
    model[1].__class__ = Fresh
    Fresh.forward = lambda self, x: np.sin(x)
    assert not model[1].verified
    Fresh.backward = lambda self, x, y, dy: dy * np.sin(x)
    with pytest.raises(nn.GradientError, match="gradient 30"):
        steps(10, model, strategy, data)


def test_a_wrong_loss_is_found(data):
    x, _ = data
    model, t = model_with(), np.zeros((20, 3), np.float32)
    with pytest.raises(nn.GradientError, match=r"HalfSquares\(\).*(.|\n)*2 times too small"):
        nn.Backprop(verify=True)(model, HalfSquares(), x, t)


def test_layers_that_mix_rows_are_given_all_of_them(data):
    for _ in range(3):
        step(model_with(Centre()), nn.Backprop(verify=1), data)
    with pytest.raises(nn.GradientError, match="WrongCentre"):
        step(model_with(WrongCentre()), nn.Backprop(verify=True), data)


def test_inside_containers_the_path_is_told(data):
    model = nn.Sequential(nn.Linear(4, 3, rng=0), nn.Branches(nn.Tanh(), nn.Sequential(nn.Tanh(), Scale(3))))
    strategy = nn.Backprop(verify=5)
    steps(4, model, strategy, data)
    Scale.wrong = True
    with pytest.raises(nn.GradientError, match=r"gradient 5: .*\n\n.*\n.*layer 1\.1\.1: Scale"):
        step(model, strategy, data)


def test_inputs_of_other_kinds(rng):
    t = rng.integers(0, 3, 20)
    shared = nn.Linear(3, 3, rng=1)
    pairs = (rng.standard_normal((20, 4)).astype(np.float32), rng.standard_normal((20, 2)).astype(np.float32))
    for model, x in (
        (nn.Sequential(nn.Embedding(5, 3, rng=0), shared, nn.Tanh(), shared), rng.integers(0, 5, 20)),
        (nn.Sequential(nn.Branches(nn.Linear(4, 3, rng=0), nn.Linear(2, 3, rng=1)), nn.Tanh()), pairs),
        (nn.Linear(4, 3, dtype=np.float64, rng=0), pairs[0]),
    ):
        strategy = nn.Backprop(verify=2)
        for _ in range(6):
            step(model, strategy, (x, t))


def test_few_evaluations(data):
    calls = 0

    class Counted(Scale):
        def forward(self, x):
            nonlocal calls
            calls += 1
            return super().forward(x)

        def backward(self, x, y, dy):  # beside another forward one that is inherited does not count
            return super().backward(x, y, dy)

    counts = []
    for strategy in (nn.Backprop(), nn.Backprop(verify=True)):
        model = model_with(Counted(3))
        steps(199, model, strategy, data)
        calls = 0
        step(model, strategy, data)
        at_look, calls = calls, 0
        steps(99, model, strategy, data)
        counts.append((at_look, calls))
    (plain, without), (at_look, between) = counts
    assert plain == 1
    assert 2 < at_look < 40
    assert between == without < 99 + 20  # looks at the layer and at the model as a whole


def test_a_model_for_one_dtype_is_refused(data):
    class Single(Scale):
        def forward(self, x):
            if x.dtype != np.float32:
                raise TypeError("float32 only")
            return super().forward(x)

        def backward(self, x, y, dy):
            return super().backward(x, y, dy)

    with pytest.raises(nn.LayerError, match=r"does not run in float64 on 8 rows .*float32 only; train without verify"):
        step(model_with(Single(3)), nn.Backprop(verify=True), data)


@pytest.mark.parametrize("verify", [0, -1, 2.5, "yes"])
def test_refused(verify):
    with pytest.raises(ValueError, match="verify: expected True, False, or after how many gradients"):
        nn.Backprop(verify=verify)


def test_the_strategy_as_an_object(data):
    assert repr(nn.Backprop(verify=True)) == "Backprop(verify=True)"
    assert repr(nn.Backprop(0.1, verify=7)) == "Backprop(step=0.1, verify=7)"
    assert repr(nn.Backprop(verify=False)) == "Backprop()"
    strategy = nn.Backprop(verify=2)
    step(model_with(Scale(3)), strategy, data)
    Scale.wrong = True
    for other in (pickle.loads(pickle.dumps(strategy)), copy.deepcopy(strategy)):
        with pytest.raises(nn.GradientError):
            step(model_with(Scale(3)), other, data)


class Shift(nn.Layer):
    def __init__(self, features):
        self.b = nn.Parameter(np.zeros(features))

    def forward(self, x):
        return x + self.b.value.astype(x.dtype)

    def backward(self, x, y, dy):
        self.b.grad += dy.sum(axis=0)
        return dy


class ReLUAndSum(nn.Layer):
    """Kinks in a layer whose columns depend on each other, so that they are moved one by one."""

    def forward(self, x):
        return np.maximum(x, 0) + x.sum(axis=1, keepdims=True)

    def backward(self, x, y, dy):
        return dy * (x > 0) + dy.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kinks", [nn.ReLU, ReLUAndSum])
@pytest.mark.parametrize("seconds", [None, 1e-6])
def test_kinks_of_a_whole_model_are_no_alarm(rng, seed, kinks, seconds):
    # what dropout sets to 0 lies at kinks, few of which are seen in a short time
    layers = nn.Linear(4, 40, rng=seed), nn.Dropout(0.5, rng=seed), Shift(40), kinks(), nn.Linear(40, 3, rng=1)
    report = nn.check_gradients(nn.Sequential(*layers), rng.standard_normal((12, 4)), seconds=seconds)
    assert report, report


def test_a_short_time_is_kept_for_wide_layers_that_are_not_known(rng):
    calls = 0

    class Wide(nn.Layer):
        def __init__(self):
            self.w = nn.Parameter(rng.standard_normal((50, 400)))

        def forward(self, x):
            nonlocal calls
            calls += 1
            return x @ self.w.value.T

        def backward(self, x, y, dy):
            self.w.grad += dy.T @ x
            return dy @ self.w.value

    report = nn.check_gradients(Wide(), rng.standard_normal((8, 400)), seconds=0.01)
    assert report
    assert report[1].checked < report[1].size == 20_000
    assert calls < 20_000  # as a search for what moves what would take, or all entries
