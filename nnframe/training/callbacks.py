"""Callbacks: what happens beside training, and the protocol by which anybody adds more."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnframe._checks import as_count, as_flag, in_range
from nnframe._files import as_path, replaceable
from nnframe.training.checkpoint import Writer
from nnframe.training.finite import describe_non_finite, describe_non_finite_values

if TYPE_CHECKING:
    from nnframe.training.fitting import Fit


class Callback:
    """What is told about a training run, in this order; each method may be left out.

    `fit` is the run: `fit.model`, `fit.optimizer`, `fit.history`, `fit.epoch` (how many are over), `fit.step` (training
    steps of this epoch that are over), `fit.value` and `fit.forward_pass` (of the last mini-batch). `fit.stop(reason)`
    ends the training: called in `on_gradient`, before that step is taken. Ctrl-C waits until a method has returned, but
    for `on_gradient`.

    Attributes
    ----------
    state : tuple of str
        Attributes that a resumed run needs: numbers, text, arrays, lists and dicts of them.
    last : bool
        Whether it comes after those that are not, as what writes the state of the others must.
    """

    state: ClassVar[tuple[str, ...]] = ()
    last: ClassVar[bool] = False

    def on_fit_begin(self, fit: Fit) -> None:
        """Be told that training begins, or goes on from a file; refuse what does not fit."""

    def on_epoch_begin(self, fit: Fit) -> None:
        """Be told that an epoch begins."""

    def on_gradient(self, fit: Fit) -> None:
        """Look at the gradients of a mini-batch, or change them, before the optimizer uses them."""

    def on_step_end(self, fit: Fit) -> None:
        """Be told that a training step was taken."""

    def on_epoch_end(self, fit: Fit) -> None:
        """Be told that an epoch is over, whose row is `fit.history.rows[-1]`."""

    def on_fit_end(self, fit: Fit) -> None:
        """Be told that training is over, however it ended; `fit.finished`: neither by Ctrl-C nor by an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {name: getattr(self, name) for name in self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        if state.keys() != set(self.state):
            raise ValueError(f"{type(self).__name__}: expected the state {self.state}, got {tuple(state)}")
        for name, value in state.items():
            setattr(self, name, value)


class Monitor(Callback):
    """What looks for the best value of a column of the history.

    Parameters
    ----------
    monitor : str
    mode : {"auto", "min", "max"}
        Whether less or more is better; "auto": less, if the name ends in loss, mse, mae or error, else more.
    min_delta : float
        By how much a value must be better to count.
    """

    state: ClassVar[tuple[str, ...]] = ("best", "best_epoch", "wait")

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode: expected 'auto', 'min' or 'max', got {mode!r}")
        self.monitor, self.mode, self.min_delta = monitor, mode, in_range("min_delta", min_delta)
        less = mode == "min" or (mode == "auto" and monitor.endswith(("loss", "mse", "mae", "error")))
        self.sign = 1.0 if less else -1.0
        self.start()

    def start(self) -> None:
        """Forget what was seen."""
        self.best: float | None = None
        self.best_epoch = self.wait = 0

    def on_fit_begin(self, fit: Fit) -> None:
        if not fit.resumed:
            self.start()

    def is_better(self, fit: Fit) -> bool:
        """Look at the last epoch; ValueError where nothing was measured."""
        value = fit.history.rows[-1].get(self.monitor)
        if value is None:
            there = ", ".join(name for name, one in fit.history.rows[-1].items() if one is not None)
            raise ValueError(f"monitor: expected one of {there}, got {self.monitor!r}; is validation_data missing?")
        value = float(value)
        better = not math.isnan(value) and (
            self.best is None or self.sign * value < self.sign * self.best - self.min_delta
        )
        self.wait = 0 if better else self.wait + 1
        if better:
            self.best, self.best_epoch = value, fit.epoch
        return better


class EarlyStopping(Monitor):
    """Ends training when a value has not become better for `patience` epochs, and takes back the best weights.

    Parameters
    ----------
    monitor, mode, min_delta
        As for `Monitor`: a column of the history.
    patience : int
    restore_best_weights : bool
        Whether the model has the parameters and buffers of the best epoch after training, also where all epochs were
        taken. Ctrl-C and errors leave those of the last step.
    start_from_epoch : int
        Epochs that are not looked at.
    """

    state = (*Monitor.state, "weights")

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        restore_best_weights: bool = True,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = int(in_range("patience", patience))
        self.restore_best_weights = as_flag("restore_best_weights", restore_best_weights)
        self.start_from_epoch = int(in_range("start_from_epoch", start_from_epoch))

    def start(self) -> None:
        super().start()
        self.weights: dict[str, Any] | None = None

    def on_epoch_end(self, fit: Fit) -> None:
        if fit.epoch <= self.start_from_epoch:
            return
        if self.is_better(fit):
            self.weights = fit.model.state_dict() if self.restore_best_weights else None
        elif self.wait >= max(1, self.patience):
            fit.stop(f"{self.monitor} has not become better than {self.best} since epoch {self.best_epoch}")

    def on_fit_end(self, fit: Fit) -> None:
        if fit.finished and self.weights is not None:
            fit.model.load_state_dict(self.weights)


class ModelCheckpoint(Monitor):
    """Writes the whole state of the run to one file, from which `fit(resume=)` and `Trainer.resume` go on to the bit.

    The file is replaced as a whole: wherever the process is killed, the last state is there. It is written while
    training goes on; a file that cannot be written is an error at the next one, or at the end.

    Parameters
    ----------
    filepath : path
        Its folder must exist.
    save_freq : "epoch", or int
        After each epoch, or after so many training steps.
    save_best_only : bool
        Only after epochs whose `monitor` is the best so far.
    monitor, mode
        As for `EarlyStopping`.
    """

    last = True

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        save_best_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath = as_path(filepath, "filepath")
        self.save_best_only = as_flag("save_best_only", save_best_only)
        self.save_freq = save_freq if save_freq == "epoch" else as_count("save_freq", save_freq)  # type: ignore[arg-type]
        if self.save_best_only and save_freq != "epoch":
            raise ValueError(f"save_freq: expected 'epoch' with save_best_only, got {save_freq!r}")
        self.writer = Writer()

    def on_fit_begin(self, fit: Fit) -> None:
        super().on_fit_begin(fit)
        replaceable(self.filepath)

    def on_step_end(self, fit: Fit) -> None:
        if self.save_freq != "epoch" and fit.taken % self.save_freq == 0:  # type: ignore[operator]
            self.writer.write(self.filepath, fit.to_bytes())

    def on_epoch_end(self, fit: Fit) -> None:
        if self.save_freq == "epoch" and (not self.save_best_only or self.is_better(fit)):
            self.writer.write(self.filepath, fit.to_bytes())

    def on_fit_end(self, fit: Fit) -> None:
        self.writer.wait()


class ClipGradients(Callback):
    """Makes long gradients shorter, before the optimizer uses them.

    Parameters
    ----------
    norm : float, optional
        The largest Euclidean norm of all gradients together (Pascanu, Mikolov and Bengio 2013): PyTorch's
        clip_grad_norm_, Keras's global_clipnorm. A gradient that is longer keeps its direction.
    value : float, optional
        The largest absolute value of an entry.
    """

    def __init__(self, norm: float | None = None, value: float | None = None) -> None:
        if (norm is None) == (value is None):
            raise ValueError(f"norm, value: expected one of them, got {norm!r} and {value!r}")
        self.norm = None if norm is None else in_range("norm", norm)
        self.value = None if value is None else in_range("value", value)

    def on_gradient(self, fit: Fit) -> None:
        gradients = [p.grad for p in fit.optimizer.parameters if p.trainable]
        if self.value is not None:
            for gradient in gradients:
                np.clip(gradient, -self.value, self.value, out=gradient)
            return
        total = math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradients))
        if self.norm is not None and math.isfinite(total) and total > self.norm:
            for gradient in gradients:
                gradient *= gradient.dtype.type(self.norm / total)


class ReduceLROnPlateau(Monitor):
    """Multiplies the learning rate when a value has not become better for `patience` epochs, as Keras has it.

    Parameters
    ----------
    monitor, mode, min_delta
        As for `EarlyStopping`.
    factor : float in (0, 1)
    patience, cooldown : int
        Epochs to wait for a better value; and after a change, before waiting begins again.
    min_lr : float
        The learning rate goes no lower.
    """

    state = (*Monitor.state, "cooling")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = in_range("factor", factor, below=1.0)
        self.patience = as_count("patience", patience)
        self.cooldown = int(in_range("cooldown", cooldown))
        self.min_lr = in_range("min_lr", min_lr)

    def start(self) -> None:
        super().start()
        self.cooling = 0

    def on_fit_begin(self, fit: Fit) -> None:
        super().on_fit_begin(fit)
        if any("lr" in one.schedules for one in fit.optimizer.groups):
            raise ValueError("lr: expected a number with ReduceLROnPlateau, got a schedule")

    def on_epoch_end(self, fit: Fit) -> None:
        better = self.is_better(fit)
        if self.cooling:
            self.cooling -= 1
            self.wait = 0
        elif not better and self.wait >= self.patience:
            for one in fit.optimizer.groups:
                if one.lr > self.min_lr:
                    one.lr = max(self.min_lr, one.lr * self.factor)
            self.cooling, self.wait = self.cooldown, 0


class WeightAverage(Callback):
    """Averages the weights over training steps, and gives the model the average when training is over.

    Parameters
    ----------
    decay : float in [0, 1), optional
        average = decay average + (1 - decay) weights after each step (Polyak and Juditsky 1992), as Keras's
        SwapEMAWeights.
        Without it, all steps count the same (stochastic weight averaging, Izmailov et al. 2018).
    start_from_epoch : int
        Epochs before the average begins.

    Attributes
    ----------
    average : list of arrays (float64)
        One for each parameter of the model.
    """

    state = ("average", "count")

    def __init__(self, decay: float | None = 0.99, start_from_epoch: int = 0) -> None:
        self.decay = None if decay is None else in_range("decay", decay, below=1.0)
        self.start_from_epoch = int(in_range("start_from_epoch", start_from_epoch))
        self.average: list[Any] = []
        self.count = 0

    def on_fit_begin(self, fit: Fit) -> None:
        if not fit.resumed:
            self.average, self.count = [], 0

    def on_step_end(self, fit: Fit) -> None:
        if fit.epoch < self.start_from_epoch:
            return
        self.count += 1
        values = [p.value for p in fit.model.parameters()]
        if not self.average:
            self.average = [value.astype(np.float64) for value in values]
            return
        share = 1 / self.count if self.decay is None else 1 - self.decay
        for average, value in zip(self.average, values, strict=True):
            average += share * (value - average)

    def on_fit_end(self, fit: Fit) -> None:
        if fit.finished and self.average:
            for parameter, average in zip(fit.model.parameters(), self.average, strict=True):
                parameter.value[...] = average


class StopOnDivergence(Callback):
    """Ends training where the loss or a gradient is no finite number or the loss grows beyond reason.

    The model gets back the weights of the last epoch whose losses were all in order, or those from before training.
    What happened is `history.stopped`: the layer or parameter, the epoch, the step. Without this callback a number that
    is not finite raises FloatingPointError, and the weights are those from before the step.

    Parameters
    ----------
    factor : float
        The loss of a mini-batch may be so many times the first one's.
    """

    state = ("first", "weights")

    def __init__(self, factor: float = 1e3) -> None:
        self.factor = in_range("factor", factor)
        self.first: float | None = None
        self.weights: dict[str, Any] = {}

    def on_fit_begin(self, fit: Fit) -> None:
        if not fit.resumed:
            self.first, self.weights = None, fit.model.state_dict()

    def on_gradient(self, fit: Fit) -> None:
        what = describe_non_finite(fit)
        if what is None and self.first is not None and abs(fit.value) > self.factor * abs(self.first) > 0:
            what = f"the loss is {fit.value:.4g}, {self.factor:g} times the first one, {self.first:.4g}, or more"
        if what is None:
            self.first = fit.value if self.first is None else self.first
            return
        fit.model.load_state_dict(self.weights)
        fit.stop(f"epoch {fit.epoch + 1}, step {fit.step + 1}: {what}; the weights are those of epoch {fit.epoch}")

    def on_epoch_end(self, fit: Fit) -> None:
        what = describe_non_finite_values(fit)
        if what is None:
            self.weights = fit.model.state_dict()
            return
        fit.model.load_state_dict(self.weights)
        fit.stop(f"epoch {fit.epoch}, its last step: {what}; the weights are those of epoch {fit.epoch - 1}")


class CSVLogger(Callback):
    """Writes the history as comma-separated values after each epoch; the file is replaced as a whole."""

    def __init__(self, filename: str | os.PathLike[str]) -> None:
        self.filename = as_path(filename, "filename")

    def on_fit_begin(self, fit: Fit) -> None:
        replaceable(self.filename)

    def on_epoch_end(self, fit: Fit) -> None:
        fit.history.to_csv(self.filename)


class TensorBoard(Callback):
    """Writes the columns of the history, and the learning rate, for TensorBoard; needs tensorboardX or PyTorch.

    Parameters
    ----------
    log_dir : path
    """

    def __init__(self, log_dir: str | os.PathLike[str] = "logs") -> None:
        self.log_dir = as_path(log_dir, "log_dir")
        self.make = _summary_writer()
        self.writer: Any = None

    def on_fit_begin(self, fit: Fit) -> None:
        self.writer = self.make(str(self.log_dir))

    def on_epoch_end(self, fit: Fit) -> None:
        row = {name: value for name, value in fit.history.rows[-1].items() if name != "epoch" and value is not None}
        row |= {f"lr_{i}" if i else "lr": one.lr for i, one in enumerate(fit.optimizer.groups)}
        for name, value in row.items():
            self.writer.add_scalar(name, float(value), fit.epoch)
        self.writer.flush()

    def on_fit_end(self, fit: Fit) -> None:
        if self.writer is not None:
            self.writer.close()


def _summary_writer() -> Callable[[str], Any]:
    from importlib import import_module

    for name in ("tensorboardX", "torch.utils.tensorboard"):
        try:
            return import_module(name).SummaryWriter  # type: ignore[no-any-return]
        except ImportError:
            continue
    raise ImportError("TensorBoard: expected tensorboardX, or PyTorch with tensorboard: pip install 'nnframe[logs]'")


def in_order(callbacks: Callback | Iterable[Callback] | None) -> list[Callback]:
    """Return callbacks in the order in which they are told; TypeError for what is none."""
    given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    for one in given:
        if not isinstance(one, Callback):
            raise TypeError(f"callbacks: expected Callback objects, got {one!r}")
    return sorted(given, key=lambda one: one.last)
