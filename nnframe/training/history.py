"""What happened in training: one row per epoch."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from nnframe._files import write_atomically

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")


class History:
    """A table with a row for each epoch, and a column for each thing that was measured.

    `history["loss"]` is a column as a list, `history.rows` the rows as dicts. A value that was not measured is None.

    Attributes
    ----------
    rows : list of dict
        epoch : counted from 1.
        loss, accuracy : means over the mini-batches of the epoch, each taken just before its step.
        val_loss, val_accuracy : on the validation data, after the epoch.
        seconds : what the epoch took, validation included.
        Whatever else was appended.
    columns : tuple of str
        The names of the columns: these six, then others in the order in which they came.
    interrupted : bool
        Whether Ctrl-C ended the training.
    stopped : str, optional
        Why a callback ended the training.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.columns: tuple[str, ...] = COLUMNS
        self.interrupted = False
        self.stopped: str | None = None

    def append(self, **row: Any) -> None:
        """Add an epoch, with any columns: `history.append(loss=0.3, f1=0.9)`.

        A column that is not given is None in this row, a new one None in all rows before. Where `epoch` is not given,
        it is one more than that of the row before.
        """
        if row.get("epoch") is None:
            last = _plain(self.rows[-1]["epoch"]) if self.rows else 0
            row["epoch"] = 1 + (last if isinstance(last, int | float) else len(self))
        new = tuple(name for name in row if name not in self.columns)
        for earlier in self.rows:
            earlier.update(dict.fromkeys(new))
        self.columns += new
        self.rows.append({name: row.get(name) for name in self.columns})

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self.columns:
            raise KeyError(f"expected one of {', '.join(self.columns)}, got {column!r}")
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole table."""
        rows = [{name: _plain(value) for name, value in row.items()} for row in self.rows]
        return {"columns": self.columns, "rows": rows, "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the table that `state_dict` returned."""
        self.columns, self.rows, self.stopped = state["columns"], state["rows"], state["stopped"]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as comma-separated values, with a header; the file is replaced as a whole."""
        write_atomically(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the content of the file that `to_csv` writes."""
        import csv

        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_plain(row[name]) for name in self.columns] for row in self.rows)
        return text.getvalue().encode()

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the curves; see `nnframe.plotting.plot_history`."""
        from nnframe.plotting import plot_history

        return plot_history(self, path)

    def __repr__(self) -> str:
        lines = [header(self.columns), *map(format_row, self.rows)]
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        return "\n".join(lines) + ("\ninterrupted" if self.interrupted else "")


def header(columns: Iterable[str] = COLUMNS) -> str:
    """Return the head of the table, as text: the six columns of every history, and then those of `columns`."""
    return " ".join(f"{name:>{_width(name)}}" for name in _ordered(columns))


def format_row(row: dict[str, Any]) -> str:
    """Return a row of the table, as text."""
    return " ".join(f"{_cell(name, row.get(name)):>{_width(name)}}" for name in _ordered(row))


_WIDTHS = {"epoch": 5, "seconds": 8}
_FORMS = {"loss": ".4f", "accuracy": ".2%", "val_loss": ".4f", "val_accuracy": ".2%", "seconds": ".2f"}


def _ordered(columns: Iterable[str]) -> tuple[str, ...]:
    return COLUMNS + tuple(name for name in columns if name not in COLUMNS)


def _width(name: str) -> int:
    return _WIDTHS.get(name, max(9, len(name)))


def _cell(name: str, value: Any) -> str:
    """`value` as it stands in the table; one that is no number as it prints itself."""
    value = _plain(value)
    if isinstance(value, float) or (isinstance(value, int) and name in _FORMS):
        return format(value, _FORMS.get(name, ".4f"))
    return "-" if value is None else str(value)


def _plain(value: Any) -> Any:
    """`value` as a number of Python's own, where it is one of NumPy's or an array of one entry."""
    if isinstance(value, np.generic | np.ndarray) and value.size == 1:
        value = value.item()
    return float(value) if isinstance(value, np.longdouble) else value
