"""What happened in training: one row an epoch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")


class History:
    """A table with a row for each epoch.

    `history["loss"]` is a column as a list, `history.rows` the rows as dicts. A value that was not measured is None.

    Attributes
    ----------
    rows : list of dict
        epoch : counted from 1.
        loss, accuracy : means over the mini-batches of the epoch, each taken just before its step.
        val_loss, val_accuracy : on the validation data, after the epoch.
        seconds : what the epoch took, validation included.
    interrupted : bool
        Whether Ctrl-C ended the training.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.interrupted = False

    def append(self, **row: Any) -> None:
        """Add an epoch."""
        self.rows.append({name: row.get(name) for name in COLUMNS})

    def __getitem__(self, column: str) -> list[Any]:
        if column not in COLUMNS:
            raise KeyError(f"expected one of {', '.join(COLUMNS)}, got {column!r}")
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as comma-separated values, with a header."""
        lines = [",".join(COLUMNS)]
        lines += [",".join("" if row[c] is None else repr(row[c]) for c in COLUMNS) for row in self.rows]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the curves; see `nnframe.plotting.plot_history`."""
        from nnframe.plotting import plot_history

        return plot_history(self, path)

    def __repr__(self) -> str:
        return "\n".join([header(), *map(format_row, self.rows)]) + ("\ninterrupted" if self.interrupted else "")


def header() -> str:
    """Return the head of the table, as text."""
    return f"{'epoch':>5} {'loss':>9} {'accuracy':>9} {'val_loss':>9} {'val_accuracy':>12} {'seconds':>8}"


def format_row(row: dict[str, Any]) -> str:
    """Return a row of the table, as text."""

    def cell(value: float | None, width: int, form: str) -> str:
        return f"{'-' if value is None else format(value, form):>{width}}"

    return (
        f"{row['epoch']:>5} {cell(row['loss'], 9, '.4f')} {cell(row['accuracy'], 9, '.2%')} "
        f"{cell(row['val_loss'], 9, '.4f')} {cell(row['val_accuracy'], 12, '.2%')} {cell(row['seconds'], 8, '.2f')}"
    )
