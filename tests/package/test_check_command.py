"""`nnframe check`: what a user has in a file, from its name to the table and the exit status."""

import subprocess
import sys
import textwrap

import pytest

from nnframe.cli import main

LAYERS = """
import numpy as np
import nnframe as nn


class Scale(nn.Layer):
    def __init__(self, features=5):
        self.in_features = features
        self.w = nn.Parameter(np.linspace(0.5, 1.5, features))

    def forward(self, x):
        return x * self.w.value

    def backward(self, x, y, dy):
        self.w.grad += np.sum(dy * x, axis=0)
        return dy * self.w.value


class Wrong(Scale):
    def backward(self, x, y, dy):
        self.w.grad += np.mean(dy * x, axis=0)
        return dy * self.w.value


class Needs(Scale):
    def __init__(self, features, *, gain):
        super().__init__(features)
        self.w.value = self.w.value * gain


class Cube(nn.Layer):
    def forward(self, x):
        return x**3

    def backward(self, x, y, dy):
        return 3 * dy * x**2


class Squares(nn.Loss):
    def rows(self, y, t):
        return ((y - t) ** 2).sum(axis=1)

    def backward(self, y, t):
        return 2 * (y - t) * self.row_scale(y, t)


class Halved(Squares):
    def backward(self, y, t):
        return super().backward(y, t) / 2


def make_model():
    return nn.Sequential(nn.Linear(6, 4, rng=0), nn.Tanh(), Scale(4))


def two_inputs():
    return nn.Branches(nn.Linear(4, 3, rng=0), nn.Linear(2, 3, rng=1))


def needs_arguments(width):
    return nn.Linear(width, 3, rng=0)


def nothing():
    return None


ready = nn.Sequential(nn.Linear(3, 2, rng=0), Wrong(2))
ids = nn.Embedding(4, 3, rng=0)
number = 3
"""


@pytest.fixture
def layers(tmp_path, monkeypatch):
    (tmp_path / "layers.py").write_text(LAYERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "texts"),
    [
        ("layers.py:Scale", 0, ["Scale()", "of shape (8, 5)", "Nothing is wrong."]),
        ("layers:Scale", 0, ["Nothing is wrong."]),
        ("layers.py:Wrong", 1, ["WRONG", "8.0 = N times too small"]),
        ("layers.py:Wrong --input 3,5", 1, ["of shape (3, 5)", "3.0 = N times too small"]),
        ("layers.py:Needs --args 4,gain=0.5", 0, ["of shape (8, 4)"]),
        ("layers.py:Cube --input 2,3,4", 0, ["of shape (2, 3, 4)", "24"]),
        ("layers.py:make_model", 0, ["of shape (8, 6)", "layer 0: Linear(6, 4)", "the whole model"]),
        ("layers.py:needs_arguments --args 7", 0, ["Linear(7, 3)", "of shape (8, 7)"]),
        ("layers.py:two_inputs --input 5,4 --input 5,2", 0, ["of shape (5, 4) and (5, 2)"]),
        ("layers.py:ready", 1, ["of shape (8, 3)", "layer 1: Wrong()"]),
        ("layers.py:ids", 0, ["Embedding(4, 3)", "of shape (8,)"]),
        ("layers.py:Squares", 0, ["Squares()", "y of shape (8, 3)"]),
        ("layers.py:Squares --input 2,2 --labels 1,2,3,4.5", 0, ["y of shape (2, 2)"]),
        ("layers.py:Halved", 1, ["2 times too small"]),
        ("nnframe:CrossEntropyLoss", 0, ["CrossEntropyLoss()", "Nothing is wrong."]),
        ("nnframe:CrossEntropyLoss --input 4,5 --labels 0,4,2,1", 0, ["y of shape (4, 5)"]),
        ("nnframe:Linear --args 3,2", 0, ["Linear(3, 2)"]),
        ("nnframe.layers.linear:Linear --args 3,2,bias=False", 0, ["Linear(3, 2, bias=False)"]),
    ],
)
def test_tables_and_exit_status(layers, capsys, arguments, status, texts):
    assert main(["check", *arguments.split()]) == status
    captured = capsys.readouterr()
    assert not captured.err
    for text in texts:
        assert text in captured.out


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ("layers.py", ["layers.py: expected a name; there are: layers.py:Scale, layers.py:Wrong", "layers.py:ready"]),
        ("layers.py:Scales", ["there is no 'Scales' in it", "there are: layers.py:Scale,"]),
        ("nowhere.py:Scale", ["nowhere.py: no such file"]),
        ("no.such.module:Scale", ["no.such.module: cannot be imported: ModuleNotFoundError"]),
        ("broken.py:Scale", ["broken.py: cannot be imported: NameError: name 'nothing' is not defined (line 3)"]),
        ("typo.py", ["typo.py: cannot be imported: SyntaxError"]),
        ("leaves.py", ["leaves.py: cannot be imported: SystemExit: 3"]),
        ("empty.py", ["it holds no layer, no loss, and no function that could return one"]),
        ("layers.py:number", ["expected a layer, a loss or a function that returns one, got 3"]),
        ("layers.py:nothing", ["expected it to return a layer or a loss, got None from it"]),
        ("layers.py:Needs", ["cannot be made: missing a required argument: 'features'; --args '4, 3'"]),
        ("layers.py:Scale --args 2,3,4", ["cannot be made: too many positional arguments"]),
        ("layers.py:Scale --args -1", ["layers.py:Scale: cannot be made: ValueError"]),
        ("layers.py:Scale --args import", ["--args: expected arguments as in a call"]),
        ("layers.py:Scale --args f(3)", ["--args: expected arguments as in a call, such as '4, 3, bias=False'"]),
        ("layers.py:Scale --args 3);(4", ["--args: expected arguments as in a call"]),
        ("layers.py:ready --args 3", ["--args: expected none, as layers.py:ready is made already"]),
        ("layers.py:Cube", ["--input: expected the shape of the input of Cube()", "--input 8,5 for 8 rows of 5"]),
        ("layers.py:Scale --input 8,x", ["argument --input: expected a whole number of at least 1, got 'x'"]),
        (
            "layers.py:Scale --input 8,4",
            ["layers.py:Scale: with x of shape (8, 4): ValueError: operands could not be broadcast"],
        ),
        ("layers.py:Scale --labels 1,2", ["--labels: expected a loss, got Scale()"]),
        ("layers.py:Squares --labels 1,2", ["--labels: expected 8, one for each row, or 24, got 2"]),
        ("layers.py:Squares --labels a", ["argument --labels: expected numbers with commas between, got 'a'"]),
        (":Scale", ["TARGET: expected FILE.py:NAME or MODULE:NAME, got ':Scale'"]),
        ("", ["the following arguments are required: TARGET"]),
    ],
)
def test_what_cannot_be_checked_is_one_line(layers, capsys, arguments, texts):
    (layers / "broken.py").write_text("import numpy\n\nnothing(3)\n")
    (layers / "typo.py").write_text("def f(:\n    pass\n")
    (layers / "leaves.py").write_text("raise SystemExit(3)\n")
    (layers / "empty.py").write_text("import nnframe as nn\nfrom nnframe import Linear\n")
    assert main(["check", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("nnframe: error: ")
    assert captured.err.count("\n") == 1
    assert not captured.out
    for text in texts:
        assert text in captured.err


def test_the_only_layer_of_a_file_needs_no_name(layers, capsys):
    (layers / "one.py").write_text(
        textwrap.dedent("""
            from layers import Scale

            class Mine(Scale):
                pass
        """)
    )
    assert main(["check", "one.py"]) == 0
    assert "Mine()" in capsys.readouterr().out


def test_an_input_that_was_guessed_says_so(layers, capsys):
    (layers / "deep.py").write_text(
        "import nnframe as nn\nflat = nn.Sequential(nn.Residual(nn.Linear(3, 3)), nn.Linear(3, 2), nn.Linear(5, 1))\n"
    )
    assert main(["check", "deep.py:flat"]) == 2
    error = capsys.readouterr().err
    assert "(8, 3)" in error
    assert "its shape was guessed: --input gives another" in error
    assert "in the forward pass of layer 2: Linear(5, 1)" in error


def test_nothing_is_left_behind(layers, capsys):
    path, known = list(sys.path), "broken" in sys.modules
    (layers / "broken.py").write_text("1 / 0\n")
    assert main(["check", "broken.py:Scale"]) == 2
    assert ("broken" in sys.modules) == known
    assert main(["check", "layers.py:Scale"]) == 0
    assert sys.path == path


def test_as_a_process(layers):
    found = [
        subprocess.run(
            [sys.executable, "-P", "-m", "nnframe", "check", f"layers.py:{name}"], capture_output=True, text=True
        )
        for name in ("Scale", "Wrong", "Nobody")
    ]
    assert [one.returncode for one in found] == [0, 1, 2]
    assert "N times too small" in found[1].stdout
    assert "Traceback" not in found[2].stderr
