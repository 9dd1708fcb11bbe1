"""The command line, in this process and as a process of its own."""

import subprocess
import sys

import pytest

import nnframe as nn
from nnframe.cli import main


def test_train_digits(tmp_path, capsys):
    assert main(["train", "digits", "--epochs", "2", "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "Linear(64, 50)" in out
    assert "3,760 parameters, float32" in out
    assert "CentralDifference(step=1e-05)" in out
    assert "\nepoch " in out
    assert "\ntest accuracy " in out
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "history.csv"} <= files
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert len(rows) == 3
    model = nn.Sequential(nn.Linear(64, 50), nn.Sigmoid(), nn.Linear(50, 10))
    nn.load(model, tmp_path / "run" / "model.safetensors")
    _, (x, t) = nn.data.digits()
    assert nn.accuracy(model(x), t) == pytest.approx(float(rows[-1].split(",")[4]))


def test_the_default_reaches_97_percent(tmp_path):
    assert main(["train", "--out", str(tmp_path)]) == 0
    last = (tmp_path / "history.csv").read_text().splitlines()[-1]
    assert float(last.split(",")[4]) >= 0.97


def test_every_option(tmp_path, capsys):
    options = "--gradient backprop --hidden 20,15 --activation relu --epochs 1 --batch-size 50 --lr 0.1 --optimizer sgd"
    assert main(["train", "digits", *options.split(), "--seed", "3", "--dtype", "float64", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for text in ("Linear(20, 15)", "ReLU()", "float64", "Backprop()", "SGD lr 0.1, batch 50, seed 3"):
        assert text in out


def test_seeds(tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["train", "--epochs", "1", "--seed", seed, "--out", str(tmp_path / name)]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert nn.config_info()["simd"] in out
    assert "threads" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: train|info"),
        (["tarin"], "invalid choice: 'tarin'"),
        (["train", "cifar"], "invalid choice: 'cifar'"),
        (["train", "--epochs", "0"], "--epochs: expected a whole number of at least 1, got '0'"),
        (["train", "--epochs", "ten"], "--epochs: expected a whole number of at least 1, got 'ten'"),
        (["train", "--hidden", "50,,3"], "--hidden: expected a whole number of at least 1, got ''"),
        (["train", "--lr", "nan"], "--lr: expected a finite number above 0, got 'nan'"),
        (["train", "--seed", "-1"], "--seed: expected a whole number of at least 0, got '-1'"),
        (["train", "--gradient", "autodiff"], "invalid choice: 'autodiff'"),
        (["train", "--dtype", "float16"], "invalid choice: 'float16'"),
        (["train", "mnist"], "MNIST: expected the folder of its four IDX files"),
        (["train", "mnist", "--data-folder", "/nowhere"], "no such folder"),
        (["train", "--out", "/proc/nnframe"], "--out /proc/nnframe: cannot be written to"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.delenv("NNFRAME_DATA", raising=False)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("nnframe: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_run_that_diverges_is_one_line(tmp_path, capsys):
    options = ["--optimizer", "sgd", "--lr", "1e30", "--activation", "relu", "--gradient", "backprop"]
    assert main(["train", *options, "--out", str(tmp_path)]) == 2
    assert "nnframe: error: epoch 1, step" in capsys.readouterr().err


def test_as_a_process(tmp_path):
    run = subprocess.run(
        [sys.executable, "-P", "-m", "nnframe", "--version"], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.stdout == f"nnframe {nn.__version__}\n"
    run = subprocess.run(
        [sys.executable, "-P", "-m", "nnframe", "train", "x"], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
