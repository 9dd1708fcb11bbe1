"""Pictures of a training run; needs matplotlib (`pip install nnframe[plot]`)."""

from __future__ import annotations

import io
import os
from typing import Any, Protocol

from nnframe._files import as_path, replaceable, write_atomically

TRAIN, VALIDATION = "#1f5fa8", "#d9622b"


class Columns(Protocol):
    """What is drawn: `nn.History`, or any other table whose columns are found by name."""

    def __len__(self) -> int: ...
    def __getitem__(self, column: str, /) -> list[Any]: ...


def plot_history(history: Columns, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw loss and accuracy against epochs, for training and validation data.

    Parameters
    ----------
    history : History
        Of at least one epoch.
    path : path, optional
        Where to write the picture; its ending says in which format, .png is added where it has none. The file is
        replaced as a whole.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        matplotlib is not installed.
    OSError
        The file cannot be written; found before anything is drawn.
    ValueError
        The history has no epoch, or matplotlib writes no such format.
    """
    if path is None:
        return _draw(history)
    target = as_path(path)
    target = target if target.suffix or target.is_dir() else target.with_name(f"{target.name}.png")
    replaceable(target)
    figure = _draw(history)
    write_atomically(target, to_bytes(figure, target.suffix[1:]))
    return figure


def to_bytes(figure: Any, ending: str) -> bytes:
    """Return a figure as the content of a file with this ending, such as "png"."""
    content = io.BytesIO()
    known = figure.canvas.get_supported_filetypes()
    if ending.lower() not in known:
        raise ValueError(f"path: expected a file ending in one of {', '.join(sorted(known))}, got {ending!r}")
    figure.savefig(content, format=ending)
    return content.getvalue()


def _draw(history: Columns) -> Any:
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install nnframe[plot]") from error
    if not len(history):
        raise ValueError("history: expected at least one epoch, got none")
    with_accuracy = any(value is not None for value in history["accuracy"] + history["val_accuracy"])
    figure = Figure(figsize=(9.6 if with_accuracy else 5.2, 3.6), dpi=150, layout="constrained")
    panels = [("loss", "Loss"), ("accuracy", "Accuracy")][: 1 + with_accuracy]
    for axes, (name, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for column, label, color in ((name, "training", TRAIN), (f"val_{name}", "validation", VALIDATION)):
            points = [(e, v) for e, v in zip(history["epoch"], history[column], strict=True) if v is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=color,
                    label=label,
                    linewidth=1.8,
                    marker="o",
                    markersize=3,
                )
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
        if name == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        elif all(min(line.get_ydata()) >= 0 for line in axes.lines):
            axes.set_ylim(bottom=0)
    return figure
