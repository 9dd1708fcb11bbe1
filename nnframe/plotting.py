"""Pictures of a training run; needs matplotlib (`pip install nnframe[plot]`)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnframe.training.history import History

TRAIN, VALIDATION = "#1f5fa8", "#d9622b"


def plot_history(history: History, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw loss and accuracy against epochs, for training and validation data.

    Parameters
    ----------
    history : History
        Of at least one epoch.
    path : path, optional
        Where to write the picture; its ending says in which format.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        The history has no epoch.
    """
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
        axes.legend(frameon=False)
        if name == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        else:
            axes.set_ylim(bottom=0)
    if path is not None:
        figure.savefig(path)
    return figure
