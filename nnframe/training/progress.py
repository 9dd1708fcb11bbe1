"""What is shown while a model trains: a progress bar for an epoch, and the table below which it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from nnframe.training.history import History, format_row, header

LONG_GRADIENT = 1.0  # seconds from which on a gradient has a progress bar of its own


class Report:
    """The progress bar of an epoch, and the table."""

    def __init__(self, show: bool, steps: int | None, columns: Iterable[str] = ()) -> None:
        self.show = show
        self.live = show and sys.stderr is not None and sys.stderr.isatty()  # only then tqdm draws anything
        self.steps = steps
        self.bar: Any = None
        self.gradient_bar: Any = None
        self.shown = 0.0
        self.cost: Any = None
        if show:
            print(header(columns), flush=True)

    def begin(self, epoch: int, done: int) -> None:
        """Begin an epoch of which some steps are done."""
        if self.live:
            from tqdm import tqdm

            # On stderr, and gone when the epoch is over: what stays is the table on stdout.
            cost = "" if self.cost is None else f" (gradient: {self.cost})"
            options = {"unit": "step", "leave": False, "dynamic_ncols": True}
            self.bar = tqdm(total=self.steps, initial=done, desc=f"epoch {epoch}{cost}", **options)

    @property
    def wants_cost(self) -> bool:
        """Whether it needs to know what a gradient costs."""
        return self.bar is not None and self.cost is None

    def tell_cost(self, cost: Any) -> None:
        """Show what a gradient costs."""
        self.cost = cost
        self.bar.set_description(f"{self.bar.desc.rstrip(': ')} (gradient: {cost})")

    def gradient_progress(self) -> Callable[[int, int], object] | None:
        """Return what a long gradient reports to, a bar of its own; None for a short one."""
        if self.bar is None or self.cost is None or self.cost.seconds < LONG_GRADIENT:
            return None
        from tqdm import tqdm

        options = {"unit": " evaluations", "unit_scale": True, "leave": False, "position": 1, "dynamic_ncols": True}
        bar = self.gradient_bar = tqdm(total=self.cost.evaluations, desc="gradient", **options)
        return lambda done, total: bar.update(done - bar.n)

    def step(self, means: dict[str, float]) -> None:
        """Count a training step; `means` are those of the epoch so far."""
        if self.gradient_bar is not None:
            self.gradient_bar.close()
            self.gradient_bar = None
        if self.bar is None:
            return
        now = time.perf_counter()
        if now - self.shown > 0.1:  # what tqdm itself redraws at
            self.shown = now
            texts = {"loss": f"{means['loss']:.4f}", "accuracy": f"{means['accuracy']:.2%}"}
            self.bar.set_postfix({k: v for k, v in texts.items() if "nan" not in v}, refresh=False)
        self.bar.update()

    def epoch(self, history: History) -> None:
        """End an epoch: a line of the table."""
        self.close()
        if self.show:
            print(format_row(history.rows[-1]), flush=True)

    def end(self, history: History) -> None:
        """Say why training ended early."""
        if self.show and history.interrupted:
            print(f"interrupted in epoch {len(history) + 1}; the parameters are those of the last whole step")
        elif self.show and history.stopped:
            print(f"stopped: {history.stopped}")

    def close(self) -> None:
        """Take the bars away."""
        for bar in (self.gradient_bar, self.bar):
            if bar is not None:
                bar.close()
        self.bar = self.gradient_bar = None
