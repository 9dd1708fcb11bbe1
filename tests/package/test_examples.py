"""The examples run, and show what they claim."""

import re
import runpy
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import nnframe as nn

EXAMPLES = Path(__file__).parents[2] / "examples"


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler: none of cc, gcc, clang"
)


@needs_compiler
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


def test_a_convolutional_network_learns_by_differences_what_it_learns_by_backpropagation(capsys):
    main = runpy.run_path(str(EXAMPLES / "lenet.py"))["main"]
    central = main(["--gradient", "central", "--epochs", "4"])
    by_central = capsys.readouterr().out
    backprop = main(["--gradient", "backprop", "--epochs", "4"])
    assert central == backprop > 0.9
    losses = [re.findall(r"^ +\d +([0-9.]+)", text, re.MULTILINE) for text in (by_central, capsys.readouterr().out)]
    np.testing.assert_allclose(*[np.array(one, float) for one in losses], atol=2e-4)


@needs_compiler
def test_a_quantiser_in_c_is_trained_through(capsys):
    main = runpy.run_path(str(EXAMPLES / "quantiser_in_c.py"))["main"]
    found = {
        way: result.accuracy for way, result in main(["--epochs", "8", "--ways", "hybrid", "frozen", "added"]).items()
    }
    assert found["hybrid"] > 0.96
    assert found["hybrid"] > found["frozen"]
    assert found["added"] > 0.96
    assert "levels are 0.0156 apart; step 0.125" in capsys.readouterr().out


@needs_compiler
def test_the_step_is_asked_of_the_staircase():
    example = runpy.run_path(str(EXAMPLES / "quantiser_in_c.py"))
    quantiser = example["Quantiser"]()
    x = np.array([[-1.0, 0.0, 0.007, 0.008, 1.0, 3.9921, 100.0, np.nan]])
    np.testing.assert_array_equal(quantiser(x), [[0, 0, 0, 1 / 64, 1, 255 / 64, 255 / 64, 0]])
    assert example["widest_level"](quantiser) == pytest.approx(1 / 64, abs=1e-4)
    with pytest.raises(ValueError, match="expected a staircase, found 1 edges"):
        example["widest_level"](nn.Step())


@needs_compiler
def test_a_step_that_is_too_small_for_a_staircase_is_told():
    example = runpy.run_path(str(EXAMPLES / "quantiser_in_c.py"))
    with pytest.warns(RuntimeWarning, match=r"Quantiser\(\): its differences are all 0, .* a larger step than"):
        example["train"]("digits", "hybrid", 1, example["Quantiser"](), 1e-6)
    warnings.simplefilter("ignore")
    with pytest.raises(nn.LayerError, match="does not fit the loss"):
        example["train"]("digits", "hybrid", 8, example["Quantiser"](), 1e-3)


def test_a_layer_in_each_language_gives_the_same_numbers(capsys, monkeypatch):
    main = runpy.run_path(str(EXAMPLES / "custom_layers.py"))["main"]
    found = main(["--epochs", "2"])
    text = capsys.readouterr().out
    for language in ("NumPy", "C", "Cython", "Numba"):
        if language not in found:  # not installed: named, with the reason
            assert re.search(rf"^{language} +skipped: .*(installed|compile)", text, re.MULTILINE)
            continue
        for one, other in zip(found[language].numbers, found["NumPy"].numbers, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-13 * np.abs(other).max())
        assert found[language].accuracy > 0.9
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert list(main(["--epochs", "1"])) == ["NumPy"]
    text = capsys.readouterr().out
    assert [line.split()[:2] for line in text.splitlines()[2:]] == [
        [name, "skipped:"] for name in ("C", "Cython", "Numba")
    ]


@pytest.mark.parametrize(
    ("example", "arguments"),
    [
        ("lenet", ["--gradient", "backprop"]),
        ("sequences", []),
        ("custom_layers", []),
        pytest.param("quantiser_in_c", ["--ways", "hybrid", "frozen", "added"], marks=needs_compiler),
    ],
)
def test_examples_draw_what_they_found(example, arguments, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # Cython and Numba have had their turn
    picture = tmp_path / "picture.png"
    runpy.run_path(str(EXAMPLES / f"{example}.py"))["main"]([*arguments, "--epochs", "2", "--out", str(picture)])
    assert picture.read_bytes()[:4] == b"\x89PNG"
