"""The table of a training run: its columns, its text, its file and its picture."""

import csv
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

import nnframe as nn
from nnframe.plotting import plot_history
from nnframe.training.history import COLUMNS, format_row, header


@pytest.fixture
def history():
    table = nn.History()
    for epoch in (1, 2, 3):
        table.append(epoch=epoch, loss=1 / epoch, accuracy=epoch / 4, val_loss=1.1 / epoch, val_accuracy=epoch / 5)
    return table


def test_the_six_columns():
    history = nn.History()
    assert repr(history) == header(), "an empty table is its head"
    history.append(epoch=1, loss=0.5, accuracy=0.25, seconds=1.5)
    history.append(epoch=2, loss=0.25, accuracy=0.5, val_loss=0.3, val_accuracy=0.5, seconds=1.0)
    assert len(history) == 2
    assert history.columns == COLUMNS
    assert history["val_loss"] == [None, 0.3]
    with pytest.raises(KeyError, match="expected one of epoch, loss, .* got 'lose'"):
        history["lose"]
    assert repr(history).splitlines() == [
        "epoch      loss  accuracy  val_loss val_accuracy  seconds",
        "    1    0.5000    25.00%         -            -     1.50",
        "    2    0.2500    50.00%    0.3000       50.00%     1.00",
    ]
    history.interrupted = True
    assert repr(history).endswith("\ninterrupted")


def test_any_column_is_kept():
    history = nn.History()
    history.append(loss=0.5)
    history.append(f1=0.9, loss=0.4, learning_rate=0.01)
    history.append(note="last", f1=np.float32(0.5))
    assert history.columns == (*COLUMNS, "f1", "learning_rate", "note")
    assert history["f1"] == [None, 0.9, 0.5], "None in the rows from before the column came"
    assert history["learning_rate"] == [None, 0.01, None]
    assert history["loss"] == [0.5, 0.4, None]
    assert all(tuple(row) == history.columns for row in history.rows), "each row has all columns, in one order"
    head, *rows = repr(history).splitlines()
    assert head == header() + "        f1 learning_rate      note"
    assert rows[0].split() == ["1", "0.5000", *"-------"]
    assert rows[1].endswith("    0.9000        0.0100         -")
    assert rows[2].endswith("    0.5000             -      last")
    assert len({len(line) for line in (head, *rows)}) == 1, "columns stand below one another"


def test_columns_of_one_history_are_not_those_of_another():
    first, second = nn.History(), nn.History()
    first.append(f1=0.9)
    second.append(loss=0.5)
    assert second.columns == COLUMNS
    with pytest.raises(KeyError, match="got 'f1'"):
        second["f1"]


def test_epochs_count_on():
    history = nn.History()
    history.append(loss=3.0)
    history.append(loss=2.0)
    history.append(epoch=10, loss=1.0)
    history.append(epoch=None)
    history.append(epoch=np.int64(20))
    history.append()
    history.append(epoch="again")
    history.append()
    assert history["epoch"] == [1, 2, 10, 11, 20, 21, "again", 8]


def test_a_line_of_the_table():
    assert format_row({"epoch": 7, "loss": 0, "accuracy": 1, "val_loss": None, "seconds": np.float64(2)}) == (
        "    7    0.0000   100.00%         -            -     2.00"
    )
    assert format_row({"epoch": 1, "loss": np.float32("nan"), "f1": 3, "done": True}).split() == (
        ["1", "nan", "-", "-", "-", "-", "3", "True"]
    )
    assert format_row({"epoch": 1, "loss": np.longdouble(2)}).split()[1] == "2.0000"


def test_the_file_holds_plain_numbers(tmp_path):
    history = nn.History()
    history.append(epoch=np.int64(1), loss=np.float64(0.475), accuracy=np.float32(0.1), seconds=1.5)
    history.append(loss=np.array(0.1), accuracy=np.longdouble(0.5), val_loss=np.inf, best=np.bool_(True), note="a,b")
    history.to_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text().splitlines() == [
        "epoch,loss,accuracy,val_loss,val_accuracy,seconds,best,note",
        "1,0.475,0.10000000149011612,,,1.5,,",
        '2,0.1,0.5,inf,,,True,"a,b"',
    ]
    with (tmp_path / "h.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [0.475, 0.1], "to the last digit"
    assert rows[1]["note"] == "a,b"
    assert [row["val_accuracy"] for row in rows] == ["", ""], "nothing where nothing was measured"


def test_the_file_is_replaced_as_a_whole(tmp_path, history, monkeypatch):
    path = tmp_path / "h.csv"
    path.write_text("old")
    path.chmod(0o600)

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            history.to_csv(path)
    assert path.read_text() == "old"
    history.to_csv(path)
    assert path.read_text() != "old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["h.csv"]


@pytest.mark.parametrize("draw", [nn.History.plot, plot_history], ids=["history.plot", "plot_history"])
def test_the_picture(tmp_path, history, draw):
    pytest.importorskip("matplotlib")
    figure = draw(history, tmp_path / "h.png")
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    loss, accuracy = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [0.2, 0.4, 0.6])
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]
    draw(history, tmp_path / "h.svg")
    assert b"<svg" in (tmp_path / "h.svg").read_bytes(), "the ending says in which format"
    draw(history, tmp_path / "curves")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "h.png", "h.svg"]


def test_a_picture_of_what_was_measured():
    pytest.importorskip("matplotlib")
    history = nn.History()
    history.append(f1=0.5)
    (axes,) = history.plot().axes
    assert not axes.lines, "neither loss nor accuracy was measured"
    history.append(loss=-3.0)
    history.append(loss=-4.0)
    (axes,) = history.plot().axes
    assert axes.get_ylim()[0] < -4, "a loss below 0 is in the picture"


def test_the_picture_is_refused_before_it_is_drawn(tmp_path, history, monkeypatch):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="history: expected at least one epoch, got none"):
        nn.History().plot(tmp_path / "h.png")
    with pytest.raises(ValueError, match="path: expected a file ending in one of .*png.* got 'docx'"):
        history.plot(tmp_path / "h.docx")
    monkeypatch.setattr("nnframe.plotting._draw", None)
    with pytest.raises(IsADirectoryError):
        history.plot(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(history, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install nnframe\[plot\]"):
        history.plot()


def test_a_picture_cut_short_leaves_the_old_one(tmp_path):
    pytest.importorskip("matplotlib")
    code = (
        "import os, sys, nnframe as nn\n"
        "history = nn.History()\n"
        "history.append(loss=1.0)\n"
        "os.fsync = lambda file: os.kill(os.getpid(), 9)\n"
        "history.plot(sys.argv[1])\n"
    )
    path = tmp_path / "h.png"
    path.write_bytes(b"old")
    run = subprocess.run([sys.executable, "-P", "-c", code, path], check=False)
    assert run.returncode == -9
    assert path.read_bytes() == b"old"
