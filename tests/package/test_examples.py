"""The examples run, and show what they claim."""

import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="needs a C compiler")
def test_layers_without_a_derivative_are_worth_training(capsys):
    found = runpy.run_path(str(EXAMPLES / "non_differentiable.py"))["main"](["--epochs", "3"])
    assert len(found) == 4
    for accuracies in found:
        assert accuracies["trained"] > max(accuracies["frozen"], accuracies["left out"]), accuracies
        assert accuracies["hybrid"] > accuracies["left out"], accuracies
    assert capsys.readouterr().out.count("%") == 16


def test_sequences_are_learned(capsys):
    error, right = runpy.run_path(str(EXAMPLES / "sequences.py"))["main"](["--epochs", "6"])
    assert error < 0.1
    assert right > 0.7
    assert capsys.readouterr().out.count("\n") == 2


def test_a_convolutional_network_learns_by_differences_what_it_learns_by_backpropagation(capsys, tmp_path):
    main = runpy.run_path(str(EXAMPLES / "lenet.py"))["main"]
    picture = tmp_path / "lenet.png"
    central = main(["--gradient", "central", "--epochs", "4", "--out", str(picture)])
    by_central = capsys.readouterr().out
    backprop = main(["--gradient", "backprop", "--epochs", "4"])
    assert central == backprop > 0.9
    losses = [re.findall(r"^ +\d +([0-9.]+)", text, re.MULTILINE) for text in (by_central, capsys.readouterr().out)]
    np.testing.assert_allclose(*[np.array(one, float) for one in losses], atol=2e-4)
    assert picture.read_bytes()[:4] == b"\x89PNG"
