"""Callbacks: when they are told, and what those of nnframe do."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import nnframe as nn
from nnframe import training


def data(rows=40):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 5)).astype(np.float32)
    return x, (x @ rng.standard_normal((5, 3))).argmax(axis=1)


def make(lr=0.1, gradient=None):
    model = nn.Sequential(nn.Linear(5, 6, rng=0), nn.Tanh(), nn.Linear(6, 3, rng=1))
    return nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), lr), gradient or nn.Backprop())


def fit(trainer, callbacks, epochs=3, **options):
    arguments = {"batch_size": 20, "rng": 3, "progress": False, "validation_data": data()} | options
    return trainer.fit(*data(), epochs=epochs, callbacks=callbacks, **arguments)


class Noting(training.Callback):
    def __init__(self):
        self.seen = []

    def on_fit_begin(self, fit):
        self.seen.append("fit begin")

    def on_epoch_begin(self, fit):
        self.seen.append(f"epoch begin {fit.epoch}")

    def on_gradient(self, fit):
        self.seen.append(f"gradient {fit.step}")

    def on_step_end(self, fit):
        self.seen.append(f"step end {fit.step} {fit.taken}")

    def on_epoch_end(self, fit):
        self.seen.append(f"epoch end {fit.epoch} {len(fit.history)}")

    def on_fit_end(self, fit):
        self.seen.append(f"fit end {fit.finished}")


def test_the_order_in_which_a_callback_is_told():
    noting = Noting()
    fit(make(), noting, epochs=2)
    assert noting.seen == [
        "fit begin",
        *("epoch begin 0", "gradient 0", "step end 1 1", "gradient 1", "step end 2 2", "epoch end 1 1"),
        *("epoch begin 1", "gradient 0", "step end 1 3", "gradient 1", "step end 2 4", "epoch end 2 2"),
        "fit end True",
    ]


def test_an_error_ends_a_run_that_callbacks_are_told_of():
    class Failing(training.Callback):
        def on_step_end(self, fit):
            raise RuntimeError("here")

    noting = Noting()
    with pytest.raises(RuntimeError, match="here"):
        fit(make(), [noting, Failing()])
    assert noting.seen[-1] == "fit end False"


@pytest.mark.parametrize("wrong", [3, [training.EarlyStopping], [None]])
def test_what_is_no_callback_is_refused(wrong):
    with pytest.raises(TypeError, match="callbacks|iterable"):
        fit(make(), wrong)


class Scripted(training.Callback):
    """Writes given values into the history, under the name of the validation loss."""

    def __init__(self, values):
        self.values = values

    def on_epoch_end(self, fit):
        fit.history.rows[-1]["val_loss"] = self.values[fit.epoch - 1]


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([3, 2, 2, 1, 5], 0, 3, 2),
        ([3, 2, 2, 1, 5], 1, 3, 2),
        ([3, 2, 2, 1, 5], 2, 5, 4),
        ([3, 2, 5, 5, 5], 2, 4, 2),
        ([math.nan, 2, math.nan, 1, 3], 2, 5, 4),
    ],
)
def test_early_stopping_takes_back_the_best_weights(values, patience, epochs, best):
    kept = []

    class Keeping(training.Callback):
        def on_epoch_end(self, fit):
            kept.append(fit.model.state_dict())

    trainer, stopping = make(), training.EarlyStopping(patience=patience)
    history = fit(trainer, [Scripted(values), Keeping(), stopping], epochs=5)
    assert len(history) == epochs
    assert stopping.best_epoch == best
    assert (history.stopped is not None) == (epochs < 5)
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, kept[best - 1][name])


def test_early_stopping_says_what_it_can_look_at():
    with pytest.raises(ValueError, match=r"monitor: expected one of epoch, loss, accuracy, seconds, got 'val_loss'"):
        fit(make(), training.EarlyStopping(), validation_data=None)


@pytest.mark.parametrize(("monitor", "mode", "less"), [
    ("val_loss", "auto", True), ("val_accuracy", "auto", False), ("mse", "auto", True), ("x", "min", True),
])  # fmt: skip
def test_whether_less_is_better(monitor, mode, less):
    assert training.EarlyStopping(monitor, mode=mode).sign == (1 if less else -1)


def test_clipping_by_norm_keeps_the_direction_and_by_value_the_entries():
    class Given(nn.Backprop):
        def __call__(self, *given):
            found = super().__call__(*given)
            given[0][0].weight.grad[...] = np.arange(-15, 15).reshape(6, 5)
            return found

    seen = {}

    class Seeing(training.Callback):
        def on_gradient(self, fit):
            seen["all"] = [p.grad.copy() for p in fit.model.parameters()]

    fit(make(gradient=Given()), [training.ClipGradients(norm=2.0), Seeing()], epochs=1)
    assert math.sqrt(sum(float((g**2).sum()) for g in seen["all"])) == pytest.approx(2.0, rel=1e-5)
    ratio = seen["all"][0].reshape(-1)[:10] / np.arange(-15, -5)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    fit(make(gradient=Given()), [training.ClipGradients(value=3.0), Seeing()], epochs=1)
    np.testing.assert_array_equal(seen["all"][0].reshape(-1), np.clip(np.arange(-15, 15), -3, 3))
    trainer = make()
    expected = make()
    fit(trainer, training.ClipGradients(norm=1e6))
    fit(expected, [])
    assert trainer.model.state_dict()["0.weight"].tobytes() == expected.model.state_dict()["0.weight"].tobytes()


def test_the_rate_falls_where_nothing_becomes_better():
    rates = []

    class Rates(training.Callback):
        def on_epoch_end(self, fit):
            rates.append(fit.optimizer.lr)

    plateau = training.ReduceLROnPlateau(factor=0.5, patience=2, cooldown=1, min_lr=0.03)
    fit(make(), [Scripted([3, 2, 2, 2, 2, 2, 2, 2, 2, 2]), plateau, Rates()], epochs=10)
    assert rates == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.03, 0.03, 0.03]
    with pytest.raises(ValueError, match="lr: expected a number with ReduceLROnPlateau, got a schedule"):
        fit(make(lr=lambda step: 0.1), plateau)


@pytest.mark.parametrize("decay", [0.9, None])
def test_the_weights_are_averaged_over_steps(decay):
    seen = []

    class Seeing(training.Callback):
        def on_step_end(self, fit):
            seen.append(fit.model[0].weight.value.astype(np.float64))

    trainer = make()
    fit(trainer, [Seeing(), training.WeightAverage(decay, start_from_epoch=1)])
    seen = seen[2:]
    expected = np.mean(seen, axis=0)
    if decay is not None:
        expected = seen[0]
        for one in seen[1:]:
            expected = decay * expected + (1 - decay) * one
    np.testing.assert_allclose(trainer.model[0].weight.value, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model[0].weight.grad.__setitem__((1, 2), np.nan), "the gradient of 0.weight is not finite"),
        (lambda model: model[2].bias.value.__setitem__(0, np.inf), "the value of 2.bias is not finite"),
    ],
    ids=["gradient", "value"],
)
def test_divergence_is_named_and_gives_back_the_last_good_weights(spoil, message):
    class Spoiling(nn.Backprop):
        calls = 0

        def __call__(self, model, *given):
            self.calls += 1
            found = super().__call__(model, *given)
            if self.calls == 4:
                spoil(model)
            return found

    trainer, expected = make(gradient=Spoiling()), make()
    history = fit(trainer, training.StopOnDivergence(), epochs=5)
    fit(expected, [], epochs=1)
    assert history.stopped in (
        f"epoch 2, step 2: {message}; the weights are those of epoch 1",
        f"epoch 2, its last step: {message}; the weights are those of epoch 1",
    )
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, expected.model.state_dict()[name])


def test_the_layer_where_a_loss_stops_being_finite_is_named():
    class Root(nn.Layer):
        def forward(self, x):
            with np.errstate(invalid="ignore"):
                return np.sqrt(x) if self.training else np.abs(x)

    model = nn.Sequential(nn.Linear(5, 6, rng=0), Root(), nn.Linear(6, 3, rng=1))
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.1), once)
    with pytest.raises(FloatingPointError, match=r"the loss is nan, from the output of Root \(1\) on; the parameters"):
        fit(trainer, [])


def once(model, loss, x, t):
    with np.errstate(invalid="ignore"):
        return loss(model(x, training=True), t)


def test_a_loss_that_grows_without_end_stops():
    trainer = make(lr=0.1)
    trainer.gradient = lambda model, loss, x, t: nn.Backprop()(model, loss, x, t) * 0 + 5.0 ** next(count)
    count = iter(range(100))
    history = fit(trainer, training.StopOnDivergence(factor=100), epochs=10)
    assert history.stopped.startswith("epoch 2, step 2: the loss is 125, 100 times the first one, 1, or more; ")


def test_csv_has_the_epochs_so_far(tmp_path):
    sizes = []

    class Sizes(training.Callback):
        def on_epoch_end(self, fit):
            sizes.append(len((tmp_path / "log.csv").read_text().splitlines()))

    history = fit(make(), [training.CSVLogger(tmp_path / "log.csv"), Sizes()])
    assert sizes == [2, 3, 4]
    assert (tmp_path / "log.csv").read_bytes() == history.to_bytes()
    with pytest.raises(OSError, match="expected an existing folder"):
        fit(make(), training.CSVLogger(tmp_path / "none" / "log.csv"))


def test_tensorboard_gets_the_columns_and_the_rate(monkeypatch, tmp_path):
    told = []

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def flush(self):
            told.append("flush")

        def close(self):
            told.append("close")

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=SummaryWriter))
    history = fit(make(), training.TensorBoard(tmp_path), epochs=2)
    assert [one for one in told if one[0] == "val_loss"] == [
        ("val_loss", history["val_loss"][i], i + 1) for i in (0, 1)
    ]
    assert ("lr", 0.1, 2) in told
    assert told[-2:] == ["flush", "close"]


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nnframe.training.checkpoint.write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        fit(make(), training.ModelCheckpoint(tmp_path / "run"), epochs=1)


def test_only_the_best_epoch_is_kept(tmp_path):
    keeper = training.ModelCheckpoint(tmp_path / "run", save_best_only=True)
    fit(make(), [Scripted([3, 1, 2]), keeper])
    trainer = make()
    trainer.resume(tmp_path / "run")
    expected = make()
    fit(expected, [], epochs=2)
    assert trainer.model.state_dict()["0.weight"].tobytes() == expected.model.state_dict()["0.weight"].tobytes()
