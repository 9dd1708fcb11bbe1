"""The command line, in this process and as a process of its own."""

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys

import pytest

import nnframe as nn
from nnframe.cli import main, train

RESULTS = ["history.csv", "history.png", "model.safetensors"]
STEPS = 45  # of an epoch of the digits, in batches of 32
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.fixture
def earlier(tmp_path):
    """The folder of an earlier run."""
    for name in RESULTS:
        (tmp_path / name).write_bytes(b"earlier")
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Signalling:
    """A strategy at whose given call a signal comes."""

    def __init__(self, number, at):
        self.number, self.at, self.calls = number, at, 0

    def __call__(self, model, loss, x, t):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), self.number)
        return nn.Backprop()(model, loss, x, t)


def test_train_digits(tmp_path, capsys):
    assert main(["train", "digits", "--epochs", "2", "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "Linear(64, 50)" in out
    assert "3,760 parameters, float32" in out
    assert "CentralDifference()" in out
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
        ([], "required: train|check|export|info"),
        (["tarin"], "invalid choice: 'tarin'"),
        (["train", "cifar"], "invalid choice: 'cifar'"),
        (["train", "--epochs", "0"], "--epochs: expected a whole number of at least 1, got '0'"),
        (["train", "--epochs", "ten"], "--epochs: expected a whole number of at least 1, got 'ten'"),
        (["train", "--hidden", "50,,3"], "--hidden: expected a whole number of at least 1, got ''"),
        (["train", "--lr", "nan"], "--lr: expected a finite number above 0, got 'nan'"),
        (["train", "--seed", "-1"], "--seed: expected a whole number of at least 0, got '-1'"),
        (["train", "--gradient", "autodiff"], "invalid choice: 'autodiff'"),
        (["train", "--dtype", "float16"], "invalid choice: 'float16'"),
        (["train", "mnist"], "mnist: expected the folder of its four IDX files, by --data-folder DIR or in"),
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


SIGNALS = pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)


@SIGNALS
def test_a_run_without_a_whole_epoch_leaves_the_earlier_one(earlier, capsys, monkeypatch, number, status):
    before = contents(earlier)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setitem(train.GRADIENTS, "central", lambda: Signalling(number, STEPS))
    assert main(["train", "--out", str(earlier)]) == status
    assert contents(earlier) == before
    assert f"no epoch is complete: nothing is written to {earlier}" in capsys.readouterr().out
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


@SIGNALS
def test_what_a_signal_cuts_short_is_written(earlier, capsys, monkeypatch, number, status):
    monkeypatch.setitem(train.GRADIENTS, "central", lambda: Signalling(number, 2 * STEPS + 3))
    assert main(["train", "--out", str(earlier)]) == status
    out = capsys.readouterr().out
    assert "interrupted in epoch 3" in out
    assert f"to {earlier}, in place of an earlier run's model.safetensors, history.csv, history.png" in out
    assert len((earlier / "history.csv").read_text().splitlines()) == 3, "a head and two whole epochs"
    found = contents(earlier)
    assert set(found) <= {*RESULTS, "checkpoint.safetensors"}, "nothing else is left there"
    assert b"earlier" not in found.values(), "a file of the earlier run among those of this one"


@pytest.mark.parametrize("at", [STEPS + 1, 2 * STEPS + 3])
def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path, capsys, monkeypatch, at):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ["train", "--epochs", "3", "--gradient", "central", "--out"]
    for folder, number, status in ((whole, -1, 0), (stopped, at, 130)):
        monkeypatch.setitem(train.GRADIENTS, "central", lambda number=number: Signalling(signal.SIGINT, number))
        assert main([*options, str(folder)]) == status
    assert "with --resume it goes on from" in capsys.readouterr().out
    monkeypatch.setitem(train.GRADIENTS, "central", lambda: Signalling(signal.SIGINT, -1))
    assert main([*options, str(stopped), "--resume"]) == 0
    assert set(contents(stopped)) == set(contents(whole)), "the checkpoint goes when the run is over"
    assert contents(stopped)["model.safetensors"] == contents(whole)["model.safetensors"]


def test_there_must_be_something_to_go_on_from(tmp_path, capsys):
    assert main(["train", "--resume", "--out", str(tmp_path)]) == 2
    assert re.search(r"--resume: expected .*checkpoint\.safetensors, .* got none", capsys.readouterr().err)


def test_other_arguments_are_no_way_to_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(train.GRADIENTS, "central", lambda: Signalling(signal.SIGINT, STEPS + 1))
    assert main(["train", "--out", str(tmp_path)]) == 130
    assert main(["train", "--resume", "--batch-size", "16", "--out", str(tmp_path)]) == 2
    assert "expected" in capsys.readouterr().err


def test_a_signal_while_results_are_written_waits(tmp_path, monkeypatch):
    together = train.write_together

    def interrupted(contents):
        os.kill(os.getpid(), signal.SIGTERM)
        together(contents)

    monkeypatch.setattr(train, "write_together", interrupted)
    assert main(["train", "--epochs", "1", "--out", str(tmp_path)]) == 143
    assert {"history.csv", "model.safetensors"} <= set(contents(tmp_path))


def test_a_diverging_run_leaves_the_earlier_one(earlier):
    before = contents(earlier)
    assert main(["train", "--optimizer", "sgd", "--lr", "1e30", "--activation", "relu", "--out", str(earlier)]) == 2
    assert contents(earlier) == before


def test_without_matplotlib_a_line_says_why(earlier, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["train", "--epochs", "1", "--out", str(earlier)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "there is no history.png: plots need matplotlib: pip install nnframe[plot]"
    assert lines[-2].startswith(f"wrote model.safetensors, history.csv to {earlier}, in place of")
    assert set(contents(earlier)) == {"history.csv", "model.safetensors"}, "the picture was of the earlier run"


def test_a_picture_that_fails_is_no_reason_to_lose_the_rest(tmp_path, capsys, monkeypatch):
    def fail(history):
        raise RuntimeError("no fonts")

    monkeypatch.setattr("nnframe.plotting.plot_history", fail)
    assert main(["train", "--epochs", "1", "--out", str(tmp_path)]) == 0
    assert "there is no history.png: no fonts" in capsys.readouterr().out
    assert set(contents(tmp_path)) == {"history.csv", "model.safetensors"}


def test_a_file_that_cannot_be_replaced_is_found_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(train.GRADIENTS, "central", None)
    (tmp_path / "history.csv").mkdir()
    assert main(["train", "--out", str(tmp_path)]) == 2
    found = capsys.readouterr().err
    assert "cannot be written to: expected a regular file, got a directory: " in found
    assert "history.csv" in found


def test_results_that_find_no_place_are_written_elsewhere(tmp_path, capsys, monkeypatch):
    together, refuge = train.write_together, tmp_path / "refuge"

    def full(contents):
        monkeypatch.setattr(train, "write_together", together)
        raise OSError(28, "No space left on device")

    refuge.mkdir()
    monkeypatch.setattr(train, "write_together", full)
    monkeypatch.setattr(train.tempfile, "mkdtemp", lambda prefix: str(refuge))
    assert main(["train", "--epochs", "1", "--out", str(tmp_path / "out")]) == 2
    assert f"No space left on device; the results are in {refuge}" in capsys.readouterr().err
    assert {"history.csv", "model.safetensors"} <= set(contents(refuge))
    assert set(contents(tmp_path / "out")) == {"checkpoint.safetensors"}


def test_a_folder_that_has_gone_meanwhile_is_made_again(tmp_path, monkeypatch):
    class Removing(Signalling):
        def __call__(self, *args):
            with contextlib.suppress(FileNotFoundError):
                (tmp_path / "out").rmdir()
            return super().__call__(*args)

    monkeypatch.setitem(train.GRADIENTS, "central", lambda: Removing(0, 0))
    assert main(["train", "--epochs", "1", "--out", str(tmp_path / "out")]) == 0
    assert {"history.csv", "model.safetensors"} <= set(contents(tmp_path / "out"))


def test_modes_are_kept_and_home_is_expanded(earlier, monkeypatch):
    monkeypatch.setenv("HOME", str(earlier.parent))
    (earlier / "history.csv").chmod(0o600)
    assert main(["train", "--epochs", "1", "--out", f"~/{earlier.name}"]) == 0
    assert stat.S_IMODE((earlier / "history.csv").stat().st_mode) == 0o600
    assert (earlier / "history.csv").read_bytes() != b"earlier"


def start(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([sys.executable, "-P", "-m", "nnframe", "train", *arguments], **options)


@pytest.mark.parametrize("ignore", [False, True], ids=["", "Ctrl-C is ignored, as in the background of a script"])
def test_sigterm_to_a_process(tmp_path, ignore):
    def prepare():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    with start("--epochs", "100000", "--out", str(tmp_path), preexec_fn=prepare if ignore else None) as process:
        while not process.stdout.readline().startswith("    2 "):
            pass
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "wrote model.safetensors, history.csv" in out
    assert err == ""
    assert len((tmp_path / "history.csv").read_text().splitlines()) >= 3


def test_a_reader_that_goes_away_takes_no_work_with_it(tmp_path):
    with start("--epochs", "30", "--out", str(tmp_path), env=BUFFERED) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0, err
    assert err == ""
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 31


@pytest.mark.parametrize("argument", ["info", "--version", "--help"])
def test_a_reader_that_was_never_there(argument):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-P", "-m", "nnframe", argument]
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=BUFFERED, check=False)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, "")


def test_without_any_stream(tmp_path):
    command = f"exec '{sys.executable}' -P -m nnframe train --epochs 1 --out '{tmp_path}' <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    assert {"history.csv", "model.safetensors"} <= set(contents(tmp_path))
    command = f"exec '{sys.executable}' -P -m nnframe train --epochs nine <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 2


def test_a_name_that_the_terminal_cannot_show(tmp_path):
    out = tmp_path / "größer \udcff"
    with start("--epochs", "1", "--out", os.fsencode(out), env=os.environ | {"PYTHONIOENCODING": "ascii"}) as process:
        shown, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "gr\\xf6" in shown
    assert {"history.csv", "model.safetensors"} <= set(contents(out))


MODEL = """
import nnframe as nn

def net(width=12, classes=10, dtype="float32"):
    below, above = nn.Linear(64, width, rng=0, dtype=dtype), nn.Linear(width, classes, rng=1, dtype=dtype)
    return nn.Sequential(below, nn.Tanh(), above)
"""


def test_a_model_of_the_users(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MODEL)
    target = f"{tmp_path / 'mine.py'}:net"
    status = main(["train", "--model", target, "--args", "width=7", "--epochs", "2", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert status == 0
    assert "Linear(64, 7)" in printed
    assert re.search(
        r"one gradient: 1,070 evaluations, about .*; an epoch takes 45, about [0-9.]+ (s|min)$", printed, re.M
    )
    model = nn.Sequential(nn.Linear(64, 7), nn.Tanh(), nn.Linear(7, 10))
    nn.load(model, tmp_path / "out/model.safetensors")
    (_, _), (x, t) = nn.data.digits()
    assert f"test accuracy {nn.accuracy(model(x), t):.2%}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nope"], "--model: expected mlp.* or FILE.py:NAME, got 'nope'"),
        (["--model", "LeNt"], "or FILE.py:NAME, got 'LeNt'; did you mean lenet?"),
        (["--args", "3"], "--args: expected with --model of a model in a file only, got --model mlp"),
        (["--model", "FILE", "--hidden", "3"], "--hidden: expected with --model of mlp only"),
        (["--model", "FILE", "--args", "classes=9"], r"expected outputs \(N, 10\), one for each class, got \(2, 9\)"),
        (
            ["--model", "FILE", "--shape", "1,8,8"],
            r"with images of shape \(2, 1, 8, 8\): ValueError.*; it takes images of --shape 64$",
        ),
        (["--model", "FILE", "--shape", "9,8"], "--shape: expected a shape of 64 numbers"),
        (["--model", "FILE", "--dtype", "float64"], "expected parameters of float64, got float32; see --dtype"),
    ],
)
def test_models_that_are_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MODEL)
    assert main(["train", *(f"{tmp_path / 'mine.py'}:net" if one == "FILE" else one for one in arguments)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_lenet(tmp_path, capsys):
    arguments = ["--model", "lenet", "--gradient", "backprop", "--epochs", "4", "--out", str(tmp_path)]
    assert main(["train", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "Conv2d(6, 16, kernel_size=3, padding=1)  (16, 4, 4)" in printed
    assert float(re.search(r"test accuracy ([0-9.]+)%", printed)[1]) > 90
    assert main(["train", "--model", "lenet", "--shape", "64"]) == 2
    assert "--shape: expected with --model of a model in a file only, got --model lenet" in capsys.readouterr().err


IMAGES = """
import numpy as np, nnframe as nn
planes = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.Flatten(), nn.Linear(72, 10, rng=1))
of_others = nn.Linear(63, 10, rng=0)
soft = nn.Sequential(nn.Linear(64, 10, rng=0), nn.Softmax(1))

class Unseen(nn.Layer):
    def __init__(self):
        self.inner = nn.Linear(64, 10, rng=0)

    def forward(self, x):
        return self.inner(np.tanh(x))
"""


@pytest.mark.filterwarnings("always::nnframe.CostWarning")
def test_what_new_users_get_wrong(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(IMAGES)

    def run(name, *arguments):
        status = main(["train", "--model", f"{tmp_path / 'mine.py'}:{name}", "--gradient", "backprop", "--epochs", "1",
                       "--out", str(tmp_path / "out"), *arguments])  # fmt: skip
        return status, capsys.readouterr()

    status, said = run("planes")
    assert status == 2
    assert said.err.endswith("Conv2d(1, 2, kernel_size=3)); it takes images of --shape 1,8,8\n")
    assert run("planes", "--shape", "1,8,8")[0] == 0
    status, said = run("of_others")
    assert status == 2
    assert "it takes" not in said.err
    status, said = run("soft")
    assert status == 0
    assert "its outputs look like probabilities; the loss, CrossEntropyLoss, takes logits" in said.out
    status, said = run("Unseen")
    assert status == 0
    assert re.search(r"^nnframe: warning: Unseen\(\): its layers are not seen one by one", said.err, re.M)
    assert "backprop.py" not in said.err
