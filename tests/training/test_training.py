"""The trainer, its history, saved weights and the plot."""

import io
import math
import os
import signal
import sys
import threading

import numpy as np
import pytest

import nnframe as nn


def make(rng=0, lr=0.5, gradient=None, dtype=np.float32):
    generator = np.random.default_rng(rng)
    model = nn.Sequential(
        nn.Linear(64, 20, rng=generator, dtype=dtype), nn.Sigmoid(), nn.Linear(20, 10, rng=generator, dtype=dtype)
    )
    return nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), lr), gradient)


@pytest.fixture(scope="module")
def digits():
    return nn.data.digits()


@pytest.mark.parametrize("gradient", [nn.CentralDifference(), nn.Backprop()], ids=repr)
def test_it_learns(digits, gradient):
    (x, t), test = digits
    trainer = make(gradient=gradient)
    history = trainer.fit(x, t, epochs=8, batch_size=32, validation_data=test, rng=0, progress=False)
    assert history["epoch"] == list(range(1, 9))
    assert history["loss"][-1] < history["loss"][0] / 3
    assert history["val_accuracy"][-1] > 0.9
    measured = trainer.evaluate(*test)
    assert measured["accuracy"] == history["val_accuracy"][-1]
    assert measured["loss"] == pytest.approx(history["val_loss"][-1])
    assert nn.accuracy(trainer.predict(test[0]), test[1]) == measured["accuracy"]
    assert trainer.evaluate(*test, batch_size=7)["loss"] == pytest.approx(measured["loss"])


def test_central_differences_train_as_backprop_does(digits):
    (x, t), _ = digits
    runs = []
    for gradient in (nn.CentralDifference(), nn.Backprop()):
        trainer = make(gradient=gradient, dtype=np.float64)
        trainer.fit(x[:300], t[:300], epochs=2, rng=0, progress=False)
        runs.append(trainer.model.state_dict())
    for name, value in runs[0].items():
        np.testing.assert_allclose(value, runs[1][name], atol=1e-8)


def test_seeded_runs_repeat_to_the_bit(digits):
    (x, t), _ = digits
    states = []
    for _ in range(2):
        trainer = make()
        trainer.fit(x[:200], t[:200], epochs=2, rng=7, progress=False)
        states.append(trainer.model.state_dict())
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])


def test_regression_has_no_accuracy(rng):
    x = rng.standard_normal((100, 3))
    t = x @ np.array([[1.0], [2.0], [-1.0]])
    model = nn.Sequential(nn.Linear(3, 1, rng=0))
    trainer = nn.Trainer(model, nn.MSELoss(), nn.SGD(model.parameters(), 0.2))
    history = trainer.fit(x, t, epochs=30, batch_size=20, validation_data=(x, t), rng=0, progress=False)
    assert history["accuracy"][-1] is None
    assert history["val_loss"][-1] < 1e-6
    np.testing.assert_allclose(model[0].weight.value, [[1, 2, -1]], atol=1e-3)


def test_one_hot_labels_have_an_accuracy(digits):
    (x, t), _ = digits
    trainer = make()
    trainer.fit(x[:200], t[:200], epochs=3, rng=0, progress=False)
    hot = np.eye(10)[t[:200]]
    assert trainer.evaluate(x[:200], hot)["accuracy"] == trainer.evaluate(x[:200], t[:200])["accuracy"]


def test_sums_over_batches(digits):
    (x, t), _ = digits
    trainer = make()
    summed = nn.Trainer(trainer.model, nn.CrossEntropyLoss("sum"), trainer.optimizer)
    mean = trainer.evaluate(x, t)["loss"]
    assert summed.evaluate(x, t, batch_size=100)["loss"] == pytest.approx(mean * len(x), rel=1e-5)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("long", [math.inf, 0.0])
def test_the_bar_shows_the_cost_and_a_long_gradient(digits, monkeypatch, long):
    # what a gradient costs is there before the first has been taken; a long one has a bar of its own
    (x, t), _ = digits
    model = nn.Sequential(nn.Linear(64, 10, rng=0))
    strategy = nn.CentralDifference(interpolate=False)
    monkeypatch.setattr("nnframe.training.progress.LONG_GRADIENT", long)
    monkeypatch.setattr("sys.stderr", Terminal())
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.1), strategy)
    trainer.fit(x[:64], t[:64], batch_size=32)
    shown = sys.stderr.getvalue()
    assert "epoch 1 (gradient: 1,300 evaluations, about " in shown
    assert ("evaluations/s" in shown) == (long == 0.0)


def test_the_table_and_the_bar(digits, capsys):
    (x, t), test = digits
    make().fit(x[:100], t[:100], epochs=2, validation_data=test, rng=0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    assert lines[1].split()[4].endswith("%")


class Interrupting:
    """A strategy during which Ctrl-C is pressed at a given call."""

    def __init__(self, at):
        self.inner, self.at, self.calls = nn.Backprop(), at, 0

    def __call__(self, model, loss, x, t):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return self.inner(model, loss, x, t)


def test_ctrl_c_ends_cleanly(digits, capsys):
    (x, t), _ = digits
    trainer = make(gradient=Interrupting(at=17))
    reference = make(gradient=nn.Backprop())
    handler = signal.getsignal(signal.SIGINT)
    history = trainer.fit(x[:320], t[:320], epochs=5, rng=0)
    assert history.interrupted
    assert len(history) == 1  # ten steps an epoch
    assert "interrupted in epoch 2" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler
    # sixteen whole steps and no part of a seventeenth
    loader = nn.DataLoader(x[:320], t[:320], 32, rng=0)
    batches = [*loader, *loader][:16]
    for batch in batches:
        reference.gradient(reference.model, reference.loss, *batch)
        reference.optimizer.step()
    for name, value in reference.model.state_dict().items():
        np.testing.assert_array_equal(trainer.model.state_dict()[name], value)


def test_ctrl_c_waits_for_the_end_of_a_step(digits):
    (x, t), _ = digits
    trainer = make(gradient=nn.Backprop())
    update, changed = trainer.optimizer.update, []

    def interrupted_update():
        update_first = trainer.model.state_dict()
        os.kill(os.getpid(), signal.SIGINT)
        update()
        changed.append(any((trainer.model.state_dict()[n] != v).any() for n, v in update_first.items()))

    trainer.optimizer.update = interrupted_update
    history = trainer.fit(x[:320], t[:320], epochs=2, rng=0, progress=False)
    assert history.interrupted
    assert changed == [True]


def test_training_in_another_thread(digits):
    (x, t), _ = digits
    found = []
    worker = threading.Thread(target=lambda: found.append(make().fit(x[:64], t[:64], rng=0, progress=False)))
    worker.start()
    worker.join()
    assert len(found[0]) == 1


def test_a_loss_that_is_not_finite_stops_before_the_step(digits):
    (x, t), _ = digits

    class Exploding:
        def __call__(self, model, loss, x, t):
            value = nn.Backprop()(model, loss, x, t)
            model[0].weight.grad[3, 4] = np.inf
            return value

    trainer = make(gradient=Exploding(), lr=0.25)
    before = trainer.model.state_dict()
    with pytest.raises(
        FloatingPointError,
        match=r"epoch 1, step 1: .* but the gradient of 0.weight is not finite; .* than 0\.25 may help",
    ):
        trainer.fit(x, t, progress=False)
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    trainer.model[2].bias.value[0] = np.nan
    with pytest.raises(FloatingPointError, match=r"the value of 2\.bias is not finite"):
        trainer.fit(x, t, progress=False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, t: {"x": x[:-1]}, ValueError, "x, t: expected arrays with the same number of rows"),
        (
            lambda x, t: {"x": np.where(np.arange(len(x))[:, None] == 5, np.nan, x)},
            ValueError,
            "NaN or infinity in row 5",
        ),
        (lambda x, t: {"x": x.astype(complex)}, TypeError, "x: expected real numbers, got dtype complex"),
        (lambda x, t: {"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
        (lambda x, t: {"batch_size": -3}, ValueError, "batch_size: expected at least 1, got -3"),
        (lambda x, t: {"validation_data": x}, ValueError, r"validation_data: expected a pair \(x, t\), got ndarray"),
        (lambda x, t: {"validation_data": (x, t[:3])}, ValueError, "validation_data: expected arrays with the same"),
        (lambda x, t: {"rng": "seed"}, TypeError, "rng: expected np.random.Generator"),
    ],
)
def test_fit_refuses(digits, change, error, message):
    (x, t), _ = digits
    trainer = make()
    before = trainer.model.state_dict()
    with pytest.raises(error, match=message):
        trainer.fit(**({"x": x, "t": t, "progress": False} | change(x, t)))
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_trainer_refuses():
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = nn.SGD(model.parameters(), 0.1)
    with pytest.raises(TypeError, match="loss: expected a Loss, got 'mse'"):
        nn.Trainer(model, "mse", optimizer)
    with pytest.raises(ValueError, match="optimizer: expected parameters of this model, got others"):
        nn.Trainer(model.astype(np.float64), nn.MSELoss(), optimizer)


def test_history(tmp_path):
    history = nn.History()
    history.append(epoch=1, loss=0.5, accuracy=0.25, seconds=1.5)
    history.append(epoch=2, loss=0.25, accuracy=0.5, val_loss=0.3, val_accuracy=0.5, seconds=1.0)
    assert len(history) == 2
    assert history["val_loss"] == [None, 0.3]
    with pytest.raises(KeyError, match="expected one of epoch, loss"):
        history["lose"]
    history.to_csv(tmp_path / "h.csv")
    lines = (tmp_path / "h.csv").read_text().splitlines()
    assert lines == ["epoch,loss,accuracy,val_loss,val_accuracy,seconds", "1,0.5,0.25,,,1.5", "2,0.25,0.5,0.3,0.5,1.0"]
    assert "50.00%" in repr(history)


def test_plot(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    history = nn.History()
    with pytest.raises(ValueError, match="at least one epoch"):
        history.plot()
    for epoch in (1, 2, 3):
        history.append(epoch=epoch, loss=1 / epoch, accuracy=epoch / 4, val_loss=1.1 / epoch, val_accuracy=epoch / 5)
    figure = history.plot(tmp_path / "h.png")
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    loss, accuracy = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [0.2, 0.4, 0.6])
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install nnframe\[plot\]"):
        history.plot()


def test_save_and_load(tmp_path, digits):
    trainer, path = make(1), tmp_path / "model.safetensors"
    nn.save(trainer.model, path)
    other = make(2)
    nn.load(other.model, path)
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(other.model.state_dict()[name], value)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    double = make(3, dtype=np.float64)
    nn.load(double.model, path)
    assert double.model.dtype == np.float64
    from safetensors.numpy import load_file

    assert sorted(load_file(path)) == ["0.bias", "0.weight", "2.bias", "2.weight"]


def test_load_refuses(tmp_path):
    model, path = make().model, tmp_path / "model.safetensors"
    before = model.state_dict()
    with pytest.raises(FileNotFoundError):
        nn.load(model, path)
    nn.save(model, path)
    whole = path.read_bytes()
    for content in (b"", b"rubbish", whole[:-8], whole[:50]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors: expected a safetensors file"):
            nn.load(model, path)
    nn.save(nn.Sequential(nn.Linear(64, 20), nn.Sigmoid(), nn.Linear(20, 9)), path)
    with pytest.raises(ValueError, match=r"model\.safetensors: 2\.weight: expected shape \(10, 20\), got \(9, 20\)"):
        nn.load(model, path)
    nn.save(nn.Sequential(nn.Linear(64, 20)), path)
    with pytest.raises(ValueError, match=r"model\.safetensors: .*missing: 2\.bias, 2\.weight; unknown: none"):
        nn.load(model, path)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(ValueError, match="model: expected at least one parameter"):
        nn.save(nn.Sigmoid(), path)
