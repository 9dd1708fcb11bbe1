"""A run that is killed, interrupted or saved goes on to the bits of one that was never stopped."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import nnframe as nn
from nnframe import training
from nnframe.training import checkpoint

sys.path.insert(0, str(Path(__file__).parent.parent))
import kills

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills child processes")


def make(seed=0, gradient=None, lr=0.1):
    model = nn.Sequential(nn.Linear(5, 6, rng=seed), nn.Dropout(0.2, rng=1), nn.Tanh(), nn.Linear(6, 3, rng=1))
    return nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), lr), gradient or nn.Backprop())


def data(rows=40):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 5)).astype(np.float32), rng.integers(0, 3, rows)


def fit(trainer, epochs=3, **options):
    arguments = {"batch_size": 8, "rng": 3, "progress": False} | options
    return trainer.fit(*data(), epochs=epochs, **arguments)


def bits(trainer):
    return {name: value.tobytes() for name, value in trainer.model.state_dict().items()}


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]


@posix
def test_runs_killed_anywhere_end_with_the_bits_of_one_never_stopped():
    wrong, total = kills.compare(8, seed=1)
    assert wrong == 0
    assert sum(total.values()) > 5


@posix
def test_the_comparison_sees_a_state_that_is_not_saved(monkeypatch, capsys):
    monkeypatch.setattr(nn.SPSA, "load_state_dict", lambda self, state: None)
    monkeypatch.setattr(kills, "SCENARIOS", {"own": own_generator})
    wrong, total = kills.compare(4, seed=2)
    assert sum(total.values()) > 0
    assert wrong > 0
    assert "other bytes" in capsys.readouterr().out


def own_generator():
    model = kills.network()
    rule = nn.SGD(model.parameters(), 0.01)
    return model, rule, nn.SPSA(rng=1), [training.StopOnDivergence()], {"rng": 2}, 1


def test_another_vector_width_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    code = "import sys, kills, pathlib; sys.stdout.buffer.write(kills.run('momentum', pathlib.Path(sys.argv[1])))"
    if nn.config_info()["simd"] not in ("avx2", "avx512"):
        pytest.skip("there is one vector width with these bits")
    expected = kills.run("momentum", tmp_path)
    (tmp_path / "run.safetensors").unlink()
    monkeypatch.setattr(kills.Dying, "visit", stop_at_third_visit)
    with pytest.raises(KeyError):
        kills.run("momentum", tmp_path, "epoch", 2)
    env = os.environ | {"NNFRAME_SIMD": "avx2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-P", "-c", code, tmp_path], env=env, capture_output=True, check=True)
    assert done.stdout == expected


def stop_at_third_visit(dying):
    dying.left -= 1
    if dying.left < 0:
        raise KeyError("stopped")


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_saved_between_two_fits_goes_on(tmp_path, epochs):
    whole = make()
    expected = fit(whole)
    first, second = make(), make(seed=9)
    fit(first, epochs=epochs)
    first.save(tmp_path / "run")
    second.resume(tmp_path / "run")
    history = fit(second)
    assert bits(second) == bits(whole)
    assert without_seconds(history) == without_seconds(expected)


def test_what_was_resumed_can_be_saved_again(tmp_path):
    whole, first, second, third = make(), make(), make(), make()
    fit(whole)
    fit(first, epochs=1)
    first.save(tmp_path / "run")
    second.resume(tmp_path / "run")
    second.save(tmp_path / "again")
    third.resume(tmp_path / "again")
    assert len(fit(third)) == 3
    assert bits(third) == bits(whole)
    assert len(fit(third, epochs=1)) == 1, "a further fit is a new one"


@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize("after", [False, True], ids=["before the gradient", "after it"])
def test_an_interrupted_run_is_saved_as_of_the_last_whole_step(tmp_path, step, after):
    class Interrupted(nn.SPSA):
        calls = 0

        def __call__(self, *given):
            self.calls += 1
            if self.calls == step and not after:
                raise KeyboardInterrupt
            found = super().__call__(*given)
            if self.calls == step:
                raise KeyboardInterrupt
            return found

    whole = make(gradient=nn.SPSA(rng=4), lr=0.01)
    whole.gradient.__class__ = type("Interrupted", (nn.SPSA,), {})  # the name is compared
    expected = fit(whole)
    stopped, second = make(gradient=Interrupted(rng=4), lr=0.01), make(gradient=Interrupted(rng=5), lr=0.01)
    assert fit(stopped).interrupted
    stopped.save(tmp_path / "run")
    second.gradient.calls = step
    history = fit(second, resume=tmp_path / "run")
    assert bits(second) == bits(whole)
    assert without_seconds(history) == without_seconds(expected)
    assert second.gradient.rng.bit_generator.state == whole.gradient.rng.bit_generator.state


def test_resume_true_begins_where_there_is_no_file_and_goes_on_where_there_is(tmp_path):
    keeper = training.ModelCheckpoint(tmp_path / "run")
    whole, trainer = make(), make()
    expected = fit(whole, 4)
    fit(trainer, 2, callbacks=keeper, resume=True)
    other = make(seed=5)
    history = fit(other, 4, callbacks=keeper, resume=True)
    assert len(history) == 4
    assert without_seconds(history) == without_seconds(expected)
    assert bits(other) == bits(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: (make(), {"batch_size": 4}), r"fit: .*'batch_size': 8.*, got .*'batch_size': 4"),
        (lambda: (make(), {"callbacks": training.EarlyStopping()}), r"callbacks: .*\[\], got \['EarlyStopping'\]"),
        (lambda: (make(gradient=nn.SPSA()), {}), "expected a run of Adam, SPSA, .* got one of Adam, Backprop"),
        (lambda: (wide(), {}), r"0\.weight: expected float64, got float32"),
        (lambda: (narrow(), {}), "shape"),
    ],
    ids=["batch size", "callbacks", "strategy", "dtype", "shape"],
)
def test_another_run_is_refused_and_nothing_is_changed(tmp_path, change, message):
    first = make()
    fit(first, 1)
    first.save(tmp_path / "run")
    trainer, options = change()
    before = bits(trainer), trainer.optimizer.state_dict()["taken"]
    with pytest.raises(ValueError, match=message):
        fit(trainer, resume=tmp_path / "run", **options)
    assert (bits(trainer), trainer.optimizer.state_dict()["taken"]) == before


def wide():
    model = make().model.astype(np.float64)
    return nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), 0.1), nn.Backprop())


def narrow():
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.2), nn.Tanh(), nn.Linear(4, 3))
    return nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), 0.1), nn.Backprop())


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\x00" * 50])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, damage):
    trainer = make()
    trainer.save(tmp_path / "run")
    (tmp_path / "run").write_bytes(damage((tmp_path / "run").read_bytes()))
    with pytest.raises(ValueError, match=r"run: expected a file that Trainer\.save wrote"):
        trainer.resume(tmp_path / "run")


def test_weights_alone_are_no_training(tmp_path):
    trainer = make()
    nn.save(trainer.model, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"weights: expected a file that Trainer\.save wrote"):
        trainer.resume(tmp_path / "weights")


def test_a_trainer_lets_go_of_data():
    trainer, (x, t) = make(), data()
    seen = weakref.ref(x)
    trainer.fit(x, t, progress=False)
    del x
    gc.collect()
    assert seen() is None


def test_every_kind_of_value_comes_back_as_it_was(tmp_path):
    state = {
        "a": [1, 2**130, -0.0, 1e-320, None, True, "ä\n", (1, (2.5, "x"))],
        "b": {"c": np.float32(0.1), "d": np.arange(3, dtype=np.uint64), "e": np.zeros((0, 2)), "f": float("inf")},
    }
    checkpoint.write(tmp_path / "state", state)
    found = checkpoint.read(tmp_path / "state")
    assert found["a"] == state["a"]
    assert str(found["a"][2]) == "-0.0"
    assert type(found["b"]["c"]) is np.float32
    assert found["b"]["f"] == float("inf")
    for name in "de":
        np.testing.assert_array_equal(found["b"][name], state["b"][name])
        assert found["b"][name].dtype == state["b"][name].dtype


@pytest.mark.parametrize("value", [object(), {1: 2}, {"$x": 1}, np.array(["a"]), 1j, {3}])
def test_what_is_no_state_is_refused_by_its_name(value):
    with pytest.raises(TypeError, match=r"^s\.0: expected numbers"):
        checkpoint.to_bytes({"s": [value]})
