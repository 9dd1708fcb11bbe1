"""`Trainer`: mini-batches, gradient, step, epoch after epoch."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe._checks import as_count
from nnframe.core.layer import Array, Layer, as_input, run_layer
from nnframe.data.loader import DataLoader, Pair, as_pair
from nnframe.gradients import CentralDifference
from nnframe.gradients.work import PiecewiseStrategy
from nnframe.losses import Loss
from nnframe.optimizers import Optimizer
from nnframe.training.history import History, format_row, header
from nnframe.training.interrupts import DeferredInterrupt
from nnframe.training.metrics import accuracy

LONG_GRADIENT = 1.0  # seconds from which on a gradient has a progress bar of its own

Strategy = Callable[[Layer, Loss, npt.NDArray[Any], npt.NDArray[Any]], float]


class Trainer:
    """Trains a model, measures it, and lets it predict.

    Parameters
    ----------
    model : Layer
    loss : Loss
    optimizer : Optimizer
        Over the parameters of the model.
    gradient : callable
        A strategy, called as `gradient(model, loss, x, t)`: returns the loss and overwrites every `.grad`.
        `CentralDifference()` if not given, which works with every layer. One that leaves the model's output in
        `.output` saves the trainer a forward pass; one with a `cost` has it shown in the progress bar.
    """

    def __init__(self, model: Layer, loss: Loss, optimizer: Optimizer, gradient: Strategy | None = None) -> None:
        for name, value, kind in (
            ("model", model, Layer),
            ("loss", loss, Loss),
            ("optimizer", optimizer, Optimizer),
        ):
            if not isinstance(value, kind):
                raise TypeError(f"{name}: expected a {kind.__name__}, got {value!r}")
        own = {id(parameter) for parameter in model.parameters()}
        if not all(id(parameter) in own for parameter in optimizer.parameters):
            raise ValueError("optimizer: expected parameters of this model, got others (made before model.astype?)")
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.gradient: Strategy = CentralDifference() if gradient is None else gradient

    def fit(
        self,
        x: npt.ArrayLike,
        t: npt.ArrayLike,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        validation_data: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        shuffle: bool = True,
        replacement: bool = False,
        rng: np.random.Generator | int | None = None,
        progress: bool = True,
    ) -> History:
        """Train on (x, t) for some epochs; a further call goes on from there.

        Ctrl-C ends the training at the last whole step, and the history so far is returned with `interrupted` set.

        Parameters
        ----------
        x : array (N, ...)
            Finite numbers.
        t : array of N rows
            Labels, as the loss takes them.
        epochs, batch_size : int
        validation_data : (x, t), optional
            Measured after each epoch.
        shuffle, replacement, rng
            How mini-batches are drawn; see `DataLoader`.
        progress : bool
            Whether to show a progress bar and print a line for each epoch.

        Raises
        ------
        FloatingPointError
            The loss or a gradient is no finite number; the parameters are those from before that step.
        TypeError, ValueError
            An argument that does not fit; nothing has been changed.
        """
        inputs, labels = self._checked(x, t, "x, t")
        epochs = as_count("epochs", epochs)
        validation = self._checked_validation(validation_data)
        loader = DataLoader(inputs, labels, batch_size, shuffle=shuffle, replacement=replacement, rng=rng)
        history = History()
        report = _Report(progress, len(loader))
        with DeferredInterrupt() as interrupt:
            try:
                for epoch in range(1, epochs + 1):
                    history.append(**self._epoch(epoch, loader, validation, interrupt, report))
                    report.epoch(history)
            except KeyboardInterrupt:
                history.interrupted = True
            finally:
                report.close()
        if history.interrupted and progress:
            print(f"interrupted in epoch {len(history) + 1}; the parameters are those of the last whole step")
        return history

    def _epoch(
        self,
        epoch: int,
        loader: DataLoader,
        validation: Pair | None,
        interrupt: DeferredInterrupt,
        report: _Report,
    ) -> dict[str, Any]:
        start = time.perf_counter()
        sums = {"loss": 0.0, "accuracy": 0.0}
        rows = 0
        report.begin(epoch)
        for step, (x, t) in enumerate(loader, 1):
            if hasattr(self.gradient, "output"):
                self.gradient.output = None  # an old one would be taken for this mini-batch's
            loss = report.gradient(self, x, t)
            self._refuse_non_finite(loss, epoch, step)
            output = getattr(self.gradient, "output", None)
            right = self._accuracy(self.model(x) if output is None else output, t)
            interrupt.hold()
            self.optimizer.step()
            interrupt.release()
            rows += len(x)
            sums["loss"] += loss * len(x)
            sums["accuracy"] += math.nan if right is None else right * len(x)
            report.step({name: value / rows for name, value in sums.items()})
        row = {"epoch": epoch, **{name: None if math.isnan(s) else s / rows for name, s in sums.items()}}
        if validation is not None:
            measured = self.evaluate(*validation)
            row |= {f"val_{name}": value for name, value in measured.items()}
        return row | {"seconds": time.perf_counter() - start}

    def _refuse_non_finite(self, loss: float, epoch: int, step: int) -> None:
        if math.isfinite(loss) and all(kernels.all_finite(p.grad) for p in self.optimizer.parameters):
            return
        what = "gradient" if math.isfinite(loss) else f"loss ({loss})"
        raise FloatingPointError(
            f"epoch {epoch}, step {step}: expected a finite loss and gradient, got a {what} that is not; the "
            f"parameters are those from before this step. A smaller learning rate than {self.optimizer.lr:g} may help."
        )

    def evaluate(self, x: npt.ArrayLike, t: npt.ArrayLike, *, batch_size: int = 1000) -> dict[str, float | None]:
        """Measure the model on (x, t): {"loss": ..., "accuracy": ...}, accuracy None where labels are no classes.

        Works through `batch_size` rows at a time, which bounds memory and changes no result beyond rounding.
        """
        inputs, labels = self._checked(x, t, "x, t")
        total, right = 0.0, 0.0
        for rows in _slices(len(inputs), as_count("batch_size", batch_size)):
            y = self.model(inputs[rows])
            loss = float(self.loss(y, labels[rows]))
            found = self._accuracy(y, labels[rows])
            total += loss * (len(y) if self.loss.reduction == "mean" else 1)
            right += math.nan if found is None else found * len(y)
        return {
            "loss": total / len(inputs) if self.loss.reduction == "mean" else total,
            "accuracy": None if math.isnan(right) else right / len(inputs),
        }

    def predict(self, x: npt.ArrayLike, *, batch_size: int = 1000) -> Array:
        """Return the model's output for x, `batch_size` rows at a time."""
        inputs = as_input(x, self.model.dtype)
        size = as_count("batch_size", batch_size)
        if len(inputs) <= size:
            return run_layer(self.model, inputs)
        slices = _slices(len(inputs), size)
        return np.concatenate([self.model(inputs[rows]) for rows in slices])

    def _accuracy(self, y: Array, t: npt.NDArray[Any]) -> float | None:
        """Accuracy where labels are classes, or rows of class probabilities; else None."""
        classes = t.ndim == 1 and t.dtype.kind in "iu"
        if y.ndim != 2 or not (classes or (t.shape == y.shape and self._is_one_hot(t))):
            return None
        return accuracy(y, t)

    @staticmethod
    def _is_one_hot(t: npt.NDArray[Any]) -> bool:
        return t.shape[1] > 1 and bool(((t == 0) | (t == 1)).all() and (t.sum(axis=1) == 1).all())

    def _checked(self, x: npt.ArrayLike, t: npt.ArrayLike, name: str) -> Pair:
        """`x` in the model's dtype and `t`, checked against each other and against the model."""
        inputs, labels = as_pair(x, t, name)
        inputs = as_input(inputs, self.model.dtype)
        if not np.isfinite(inputs).all():
            row = int((~np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)).argmax())
            raise ValueError(f"{name}: expected finite numbers in x, got NaN or infinity in row {row}")
        return inputs, labels

    def _checked_validation(self, data: tuple[npt.ArrayLike, npt.ArrayLike] | None) -> Pair | None:
        if data is None:
            return None
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise ValueError(f"validation_data: expected a pair (x, t), got {type(data).__name__}")
        return self._checked(data[0], data[1], "validation_data")

    def __repr__(self) -> str:
        return f"Trainer({self.model!r}, {self.loss!r}, {type(self.optimizer).__name__}, {self.gradient!r})"


class _Report:
    """The progress bar of an epoch, and the table below which it runs."""

    def __init__(self, show: bool, steps: int) -> None:
        self.show = show
        self.live = show and sys.stderr.isatty()  # only then tqdm draws anything
        self.steps = steps
        self.bar: Any = None
        self.shown = 0.0
        self.cost: Any = None
        if show:
            print(header(), flush=True)

    def begin(self, epoch: int) -> None:
        if self.live:
            from tqdm import tqdm

            # On stderr, and gone when the epoch is over: what stays is the table on stdout.
            cost = "" if self.cost is None else f" (gradient: {self.cost})"
            self.bar = tqdm(total=self.steps, desc=f"epoch {epoch}{cost}", unit="step", leave=False, dynamic_ncols=True)

    def gradient(self, trainer: Trainer, x: npt.NDArray[Any], t: npt.NDArray[Any]) -> float:
        """Take a gradient; a long one, of a strategy that tells its cost, with a bar of its own."""
        strategy: Any = trainer.gradient
        if self.bar is None or not hasattr(strategy, "cost"):
            return trainer.gradient(trainer.model, trainer.loss, x, t)
        if self.cost is None:
            self.cost = strategy.cost(trainer.model, trainer.loss, x, t)
            self.bar.set_description(f"{self.bar.desc.rstrip(': ')} (gradient: {self.cost})")
        if self.cost.seconds < LONG_GRADIENT or not isinstance(strategy, PiecewiseStrategy):
            return trainer.gradient(trainer.model, trainer.loss, x, t)
        from tqdm import tqdm

        options = {"unit": " evaluations", "unit_scale": True, "leave": False, "position": 1, "dynamic_ncols": True}
        with tqdm(total=self.cost.evaluations, desc="gradient", **options) as bar:
            return strategy(trainer.model, trainer.loss, x, t, progress=lambda done, total: bar.update(done - bar.n))

    def step(self, means: dict[str, float]) -> None:
        if self.bar is None:
            return
        now = time.perf_counter()
        if now - self.shown > 0.1:  # what tqdm itself redraws at
            self.shown = now
            texts = {"loss": f"{means['loss']:.4f}", "accuracy": f"{means['accuracy']:.2%}"}
            self.bar.set_postfix({k: v for k, v in texts.items() if "nan" not in v}, refresh=False)
        self.bar.update()

    def epoch(self, history: History) -> None:
        self.close()
        if self.show:
            print(format_row(history.rows[-1]), flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _slices(rows: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, rows, size))
