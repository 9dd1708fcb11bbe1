"""One call of `Trainer.fit`: where it is, and the loop."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any

from nnframe.losses.base import Loss
from nnframe.training.callbacks import Callback, ModelCheckpoint
from nnframe.training.checkpoint import read, to_bytes
from nnframe.training.finite import describe_non_finite
from nnframe.training.history import History
from nnframe.training.interrupts import DeferredInterrupt
from nnframe.training.progress import Report
from nnframe.training.sources import Rows, Stream
from nnframe.training.sums import Sums

if TYPE_CHECKING:
    from nnframe.training.trainer import Trainer

HOOKS = ("fit_begin", "epoch_begin", "gradient", "step_end", "epoch_end", "fit_end")


class Fit:
    """A training run, as callbacks see it.

    Attributes
    ----------
    trainer, model, loss, optimizer, callbacks, history
    epochs, steps : int
        How many there are to be; of steps, in an epoch, None where that is not known.
    epoch, step, taken : int
        Epochs that are over; training steps of this epoch that are over; those of all epochs.
    value, forward_pass
        The loss of the last mini-batch, and the run of the model that it comes from.
    stopped : str, optional
        Why `stop` was called.
    resumed, finished : bool
        Whether it goes on from a file; whether it ended neither by Ctrl-C nor by an error.
    """

    value = math.nan
    forward_pass: Any = None
    resumed = finished = False

    def __init__(
        self,
        trainer: Trainer,
        loss: Loss,
        source: Rows | Stream,
        epochs: int,
        validation: tuple[Any, Any] | None,
        callbacks: list[Callback],
    ) -> None:
        self.trainer, self.model, self.optimizer = trainer, trainer.model, trainer.optimizer
        self.loss, self.source, self.steps = loss, source, source.steps
        self.epochs, self.validation, self.callbacks = epochs, validation, callbacks
        self.history, self.sums = History(), Sums(loss)
        self.epoch = self.step = self.taken = 0
        self.stopped: str | None = None
        self.seconds = 0.0  # that this epoch took before the run was resumed
        ask = getattr(trainer.gradient, "state_dict", None)
        self.ask = ask if ask is not None and ask() else None  # the state of a strategy that has one
        self.open = False  # whether an epoch has begun and is not over
        self.before: dict[str, Any] | None = None  # state of the strategy before the step that is being taken
        self.hooks = {
            name: [getattr(one, f"on_{name}") for one in callbacks if _overrides(one, f"on_{name}")] for name in HOOKS
        }

    def stop(self, reason: str) -> None:
        """End training here."""
        self.stopped = self.history.stopped = reason

    def to_bytes(self) -> bytes:
        """Return the content of the file that `Trainer.save` would write now."""
        return to_bytes(self.trainer.state_dict())

    def run(self, report: Report) -> History:
        """Train until all epochs are over, a callback stops it, or Ctrl-C comes."""
        try:
            with DeferredInterrupt() as interrupt:
                try:
                    self._tell("fit_begin")
                    while self.epoch < self.epochs and not self.stopped:
                        self._run_epoch(interrupt, report)
                    self.finished = True
                except KeyboardInterrupt:
                    self.history.interrupted = True
        finally:
            report.close()
            if self.before:  # a step that was not taken has drawn nothing
                self.trainer.gradient.load_state_dict(self.before)  # type: ignore[attr-defined]
            self._tell("fit_end")
        report.end(self.history)
        return self.history

    def _run_epoch(self, interrupt: DeferredInterrupt, report: Report) -> None:
        self.start = time.perf_counter() - self.seconds
        interrupt.hold()
        if not self.open:
            self._tell("epoch_begin")
        batches, self.open = self.source.batches(self.step, self.taken), True
        interrupt.release()
        report.begin(self.epoch + 1, self.step)
        for x, t in batches:
            self._take_step(x, t, interrupt, report)
            if self.stopped:
                return
            report.step(self.sums.means())
        row = self.sums.means() | self._validate()
        row = {name: None if value is None or math.isnan(value) else value for name, value in row.items()}
        interrupt.hold()
        self.history.append(epoch=self.epoch + 1, **row, seconds=time.perf_counter() - self.start)
        self.epoch, self.step, self.seconds, self.sums = self.epoch + 1, 0, 0.0, Sums(self.loss)
        self.source.end_epoch()
        self.open = False
        self._tell("epoch_end")
        report.epoch(self.history)
        interrupt.release()

    def _take_step(self, x: Any, t: Any, interrupt: DeferredInterrupt, report: Report) -> None:
        if self.ask is not None:
            self.before = self.ask()
        measured = self.trainer.take_gradient(self.loss, x, t, report)
        passed = measured.forward_pass
        self.value, self.forward_pass = float(measured), passed
        divisor = self.sums.divisor_of(passed)
        if divisor != 0:
            if self.hooks["gradient"]:
                self._tell("gradient")
                if self.stopped:
                    return
            self._refuse_non_finite()
        interrupt.hold()
        if divisor != 0:
            self.optimizer.step()
            passed.observe()
        self.sums.add(passed, self.value, divisor)
        self.step, self.taken, self.before = self.step + 1, self.taken + 1, None
        if self.hooks["step_end"]:
            self._tell("step_end")
        interrupt.release()

    def _validate(self) -> dict[str, float | None]:
        if self.validation is None:
            return {}
        return {f"val_{name}": value for name, value in self.trainer.evaluate(*self.validation).items()}

    def _tell(self, hook: str) -> None:
        for told in self.hooks[hook]:
            told(self)

    def _refuse_non_finite(self) -> None:
        what = describe_non_finite(self)
        if what is not None:
            raise FloatingPointError(
                f"epoch {self.epoch + 1}, step {self.step + 1}: expected a finite loss and gradient, but {what}; the "
                f"parameters are those from before this step. A smaller learning rate than "
                f"{self.optimizer.groups[0].lr:g} may help."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return where the run is."""
        return {
            "data": self.source.facts,
            "source": self.source.state_dict(),
            "place": [self.epoch, self.step, self.taken, self.open],
            "seconds": time.perf_counter() - self.start if self.step else 0.0,
            "sums": self.sums.state_dict(),
            "history": self.history.state_dict(),
            "callbacks": [[type(one).__name__, one.state_dict()] for one in self.callbacks],
        }

    def refuse_other(self, state: dict[str, Any]) -> None:
        """Refuse, by a ValueError, the state of a run whose data, arguments or callbacks are others."""
        expected, given = [type(one).__name__ for one in self.callbacks], [name for name, _ in state["callbacks"]]
        if expected != given:
            raise ValueError(f"callbacks: expected those of the run that was saved, {given}, got {expected}")
        facts = self.source.facts
        if state["data"] != facts:
            raise ValueError(f"fit: expected what the run that was saved had, {state['data']}, got {facts}")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was called."""
        self.resumed = True
        self.epoch, self.step, self.taken, self.open = state["place"]
        self.seconds = state["seconds"]
        self.sums.load_state_dict(state["sums"])
        self.history.load_state_dict(state["history"])
        self.stopped = self.history.stopped
        self.source.load_state_dict(state["source"])
        for one, (_, own) in zip(self.callbacks, state["callbacks"], strict=True):
            one.load_state_dict(own)


def found_state(resume: str | os.PathLike[str] | bool, callbacks: list[Callback]) -> dict[str, Any] | None:
    """Return the state that `fit(resume=)` asks for; None: training begins."""
    if resume is False:
        return None
    if resume is True:
        files = [one.filepath for one in callbacks if isinstance(one, ModelCheckpoint)]
        if len(files) != 1:
            raise ValueError(f"resume: expected a path, or True with one ModelCheckpoint, got True with {len(files)}")
        if not files[0].exists():
            return None
        resume = files[0]
    state = read(resume)
    if state["fit"] is None:
        raise ValueError(f"resume: expected a file of a run that began, got {os.fspath(resume)!r} from before a fit")
    return state


def _overrides(callback: Callback, name: str) -> bool:
    return getattr(type(callback), name) is not getattr(Callback, name) or name in vars(callback)
