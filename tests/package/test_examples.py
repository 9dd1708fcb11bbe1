"""The examples run, and show what they claim."""

import runpy
import shutil
from pathlib import Path

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
