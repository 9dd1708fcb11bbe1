"""`Trainer`: mini-batches, gradient, step, epoch after epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe._checks import as_count, unwrapped
from nnframe.core.chain import ForwardPass, run_forward
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array
from nnframe.core.run import Run, rows_of
from nnframe.data.loader import DataLoader, as_pair
from nnframe.gradients import CentralDifference, Measured
from nnframe.gradients.work import WorkingStrategy
from nnframe.losses.base import Loss, as_float, as_labels, value_of
from nnframe.optimizers import Optimizer
from nnframe.training.history import History
from nnframe.training.interrupts import DeferredInterrupt
from nnframe.training.metrics import accuracy
from nnframe.training.progress import Report

Strategy = Callable[..., float]
Inputs = Any  # an array, or a tuple of arrays of equally many rows

MOST_NUMBERS = 1 << 24  # of outputs that stand in for those of a whole data set when its labels are checked


class Trainer:
    """Trains a model, measures it, and lets it predict.

    Parameters
    ----------
    model : Layer
    loss : Loss
    optimizer : Optimizer
        Over parameters of the model.
    gradient : callable
        A strategy, called as `gradient(model, loss, x, t)`: returns the loss and overwrites every `.grad`.
        `CentralDifference()` if not given, which works with every layer. One that returns a `Measured` loss saves the
        trainer a forward pass; one with a `cost` has it shown in the progress bar.
    """

    def __init__(self, model: Layer, loss: Loss, optimizer: Optimizer, gradient: Strategy | None = None) -> None:
        for name, value, kind in (
            ("model", model, Layer),
            ("loss", loss, Loss),
            ("optimizer", optimizer, Optimizer),
        ):
            if not isinstance(value, kind):
                article = "an" if kind is Optimizer else "a"
                hint = "; that is the class, not one of its objects" if isinstance(value, type) else ""
                raise TypeError(f"{name}: expected {article} {kind.__name__}, got {value!r}{hint}")
        if gradient is not None and (isinstance(gradient, type) or not callable(gradient)):
            hint = f"; did you mean {gradient.__name__}()?" if isinstance(gradient, type) else ""
            raise TypeError(f"gradient: expected a strategy such as nn.Backprop(), got {gradient!r}{hint}")
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.gradient: Strategy = CentralDifference() if gradient is None else gradient
        self._refuse_strange_parameters()
        self._all_trained = not self._untrained()

    def fit(
        self,
        x: Any,
        t: npt.ArrayLike,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        validation_data: tuple[Any, npt.ArrayLike] | None = None,
        shuffle: bool = True,
        replacement: bool = False,
        rng: np.random.Generator | int | None = None,
        progress: bool = True,
    ) -> History:
        """Train on (x, t) for some epochs; a further call goes on from there.

        Ctrl-C ends the training at the last whole step, and the history so far is returned with `interrupted` set.

        Parameters
        ----------
        x : array (N, ...), or a tuple of arrays of N rows
            Finite numbers; converted to the model's dtype a mini-batch at a time.
        t : array of N rows
            Labels, as the loss takes them. All of them are checked before the first step.
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
        epochs, batch_size = as_count("epochs", epochs), as_count("batch_size", batch_size)
        self._refuse_strange_parameters()
        self._refuse_added_parameters()
        inputs, labels = self._checked(x, t, "x, t", batch_size)
        validation = self._checked_validation(validation_data, batch_size)
        loader = DataLoader(inputs, labels, batch_size, shuffle=shuffle, replacement=replacement, rng=rng)
        history = History()
        report = Report(progress, len(loader))
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
        validation: tuple[Inputs, npt.NDArray[Any]] | None,
        interrupt: DeferredInterrupt,
        report: Report,
    ) -> dict[str, Any]:
        start = time.perf_counter()
        sums = _Sums(self.loss)
        report.begin(epoch)
        for step, (x, t) in enumerate(loader, 1):
            measured = self._take_gradient(x, t, report)
            passed = measured.forward_pass
            divisor = sums.divisor_of(passed)
            if divisor != 0:
                self._refuse_non_finite(measured, epoch, step)
                interrupt.hold()
                self.optimizer.step()
                passed.observe()
                interrupt.release()
            sums.add(passed, float(measured), divisor)
            report.step(sums.means())
        means = sums.means()
        row = {"epoch": epoch, **{name: None if math.isnan(value) else value for name, value in means.items()}}
        if validation is not None:
            found = self.evaluate(*validation)
            row |= {f"val_{name}": value for name, value in found.items()}
        return row | {"seconds": time.perf_counter() - start}

    def _take_gradient(self, x: Inputs, t: npt.NDArray[Any], report: Report) -> Measured:
        """Take a gradient; where a strategy returns a plain number, the forward pass is made up for."""
        strategy: Any = self.gradient
        if report.wants_cost and hasattr(strategy, "cost"):
            report.tell_cost(strategy.cost(self.model, self.loss, x, t))
        told = report.gradient_progress()
        if told is not None and isinstance(strategy, WorkingStrategy):
            found = strategy(self.model, self.loss, x, t, progress=told)
        else:
            found = strategy(self.model, self.loss, x, t)
        if isinstance(found, Measured):
            return found
        with Run(True, root=self.model) as run:
            passed = run_forward(self.model, x, run)
        passed.loss, passed.labels = self.loss, self.loss.prepare(passed.output, t)
        passed.value = as_float(found, self.loss)
        return Measured(passed)

    def _refuse_non_finite(self, loss: float, epoch: int, step: int) -> None:
        if math.isfinite(loss) and all(kernels.all_finite(p.grad) for p in self.optimizer.parameters):
            return
        what = "gradient" if math.isfinite(loss) else f"loss ({float(loss)})"
        raise FloatingPointError(
            f"epoch {epoch}, step {step}: expected a finite loss and gradient, got a {what} that is not; the "
            f"parameters are those from before this step. A smaller learning rate than {self.optimizer.lr:g} may help."
        )

    def evaluate(self, x: Any, t: npt.ArrayLike, *, batch_size: int = 1000) -> dict[str, float | None]:
        """Measure the model on (x, t): {"loss": ..., "accuracy": ...}, accuracy None where labels are no classes.

        Works through `batch_size` rows at a time, which bounds memory and changes no result beyond rounding: what the
        rows give is added up and divided once. A loss that writes `forward` alone is measured of all outputs together.
        """
        size = as_count("batch_size", batch_size)
        inputs, labels = self._checked(x, t, "x, t", size)
        count = len(labels)
        total = divisor = right = counted = 0.0
        outputs = []
        for rows in _slices(count, size):
            y = self.model(_part(inputs, rows))
            some = self.loss.prepare(y, labels[rows])
            if self.loss.is_sum_over_rows:
                added = self.loss.total(y, some)
                total, divisor = total + added[0], divisor + added[1]
            else:
                outputs.append(y)
            found = self._right(y, some)
            right, counted = right + found[0], counted + found[1]
        if outputs:
            everything = np.concatenate(outputs)
            value = value_of(self.loss, everything, self.loss.prepare(everything, labels))
        else:
            value = total if self.loss.reduction == "sum" else total / divisor if divisor else math.nan
        return {"loss": value, "accuracy": right / counted if counted and not math.isnan(right) else None}

    def predict(self, x: Any, *, batch_size: int = 1000) -> Array:
        """Return the model's output for x, `batch_size` rows at a time."""
        size = as_count("batch_size", batch_size)
        inputs = tuple(np.asarray(unwrapped(one)) for one in x) if isinstance(x, tuple) else np.asarray(unwrapped(x))
        first = inputs[0] if isinstance(inputs, tuple) else inputs
        if first.ndim == 0 or rows_of(inputs) <= size:
            return self.model(inputs)
        return np.concatenate([self.model(_part(inputs, rows)) for rows in _slices(rows_of(inputs), size)])

    def _right(self, y: Array, t: npt.NDArray[Any]) -> tuple[float, float]:
        """How many rows are right, and of how many; NaN where labels are no classes."""
        return rows_right(self.loss, y, t)

    def _refuse_strange_parameters(self) -> None:
        own = {id(parameter) for parameter in self.model.parameters()}
        strange = [i for i, p in enumerate(self.optimizer.parameters) if id(p) not in own]
        if strange:
            raise ValueError(
                f"optimizer: expected parameters of this model, got others (number {strange[0]} of "
                f"{len(self.optimizer.parameters)}); was a layer or Parameter replaced, or the optimizer made before "
                "model.astype? Make the optimizer anew, from model.parameters()"
            )

    def _untrained(self) -> list[str]:
        """Names of trainable parameters of the model that the optimizer does not have."""
        held = {id(parameter) for parameter in self.optimizer.parameters}
        return [name for name, p in self.model.named_parameters() if p.trainable and id(p) not in held]

    def _refuse_added_parameters(self) -> None:
        """Refuse parameters that came after an optimizer that had all of them: nobody would train them."""
        if self._all_trained and (names := self._untrained()):
            raise ValueError(
                f"optimizer: expected all parameters of the model, as when the Trainer was made, but "
                f"{', '.join(names)} came later. Make the optimizer and the Trainer anew"
            )

    def _checked(self, x: Any, t: npt.ArrayLike, name: str, batch_size: int) -> tuple[Inputs, npt.NDArray[Any]]:
        """`x` and `t` checked against each other, against the model and the loss, before anything is changed."""
        inputs, labels = as_pair(x, t, name)
        most = np.float64(np.finfo(self.model.dtype).max)
        for one in inputs if isinstance(inputs, tuple) else (inputs,):
            _refuse_numbers(one, name, "x", most)
        _refuse_numbers(labels, name, "t", most, kinds=None)
        try:
            self._check_labels(inputs, labels, batch_size)
        except (TypeError, ValueError) as error:
            if name != "x, t":
                error.add_note(f"in {name}")
            raise
        return inputs, labels

    def _check_labels(self, inputs: Inputs, labels: npt.NDArray[Any], batch_size: int) -> None:
        """Run the model and the loss on the first rows, and check all labels."""
        first = slice(0, batch_size)
        sample = self.model(_part(inputs, first))
        shape = sample.shape[1:]
        many = max(1, MOST_NUMBERS // max(1, math.prod(shape)))
        for rows in _slices(len(labels), many):
            some = labels[rows]
            self.loss.prepare(np.broadcast_to(sample[:1], (len(some), *shape)), some)
        value_of(self.loss, sample, as_labels(self.loss, sample, labels[first]))

    def _checked_validation(
        self, data: tuple[Any, npt.ArrayLike] | None, batch_size: int
    ) -> tuple[Inputs, npt.NDArray[Any]] | None:
        if data is None:
            return None
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise ValueError(f"validation_data: expected a pair (x, t), got {type(data).__name__}")
        return self._checked(data[0], data[1], "validation_data", batch_size)

    def __repr__(self) -> str:
        return f"Trainer({self.model!r}, {self.loss!r}, {type(self.optimizer).__name__}, {self.gradient!r})"


class _Sums:
    """What adds up over the mini-batches of an epoch."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.total = self.divisor = self.right = self.counted = 0.0

    def divisor_of(self, passed: ForwardPass) -> float:
        """Return what a mini-batch's mean was divided by; 1 for a sum."""
        if self.loss.reduction == "sum":
            return 1.0
        if self.loss.is_sum_over_rows:
            return self.loss.total_divisor(passed.output, passed.labels)
        return float(len(passed.output))

    def add(self, passed: ForwardPass, loss: float, divisor: float) -> None:
        """Add a mini-batch."""
        if divisor:
            self.total += loss * divisor
            self.divisor += divisor
        right, counted = rows_right(self.loss, passed.output, passed.labels)
        self.right += right
        self.counted += counted

    def means(self) -> dict[str, float]:
        """Loss and accuracy so far; the loss itself where it is a sum."""
        if self.loss.reduction == "sum" and self.loss.is_sum_over_rows:
            loss = self.total
        else:
            loss = self.total / self.divisor if self.divisor else math.nan
        return {"loss": loss, "accuracy": self.right / self.counted if self.counted else math.nan}


def rows_right(loss: Loss, y: Array, t: npt.NDArray[Any]) -> tuple[float, float]:
    """How many rows, or positions in them, have the right class, and of how many; NaN where labels are no classes."""
    shares = loss.right(y, t) if len(y) else None
    if shares is not None:
        return float(shares.sum()), float(len(y))
    classes = t.shape == y.shape[:-1] and t.dtype.kind in "iu"
    if y.ndim < 2 or y.shape[-1] < 2 or not (classes or (t.shape == y.shape and _is_one_hot(t))):
        return math.nan, float(len(y))
    counted = loss.counted(t)
    if counted is not None and not counted.all():
        y, t = y[counted], t[counted]
    rows = math.prod(y.shape[:-1])
    return (accuracy(y, t) * rows if rows else 0.0), float(rows)


def _is_one_hot(t: npt.NDArray[Any]) -> bool:
    return t.shape[-1] > 1 and bool(((t == 0) | (t == 1)).all() and (t.sum(axis=-1) == 1).all())


def _refuse_numbers(a: npt.NDArray[Any], name: str, which: str, most: np.float64, kinds: str | None = "biuf") -> None:
    """Refuse what is no number, not finite, or above `most`; looks at some rows at a time."""
    if kinds is not None and a.dtype.kind not in kinds:
        raise TypeError(f"{which}: expected real numbers, got dtype {a.dtype}")
    if a.dtype.kind != "f":
        return
    for rows in _slices(len(a), max(1, (1 << 20) // max(1, a[0].size if len(a) else 1))):
        finite = np.abs(a[rows]) <= most
        if not finite.all():
            row = rows.start + int((~finite.reshape(len(finite), -1).all(axis=1)).argmax())
            came = "NaN or infinity" if not np.isfinite(a[row]).all() else f"one above {most:.2g}, the model's largest,"
            raise ValueError(f"{name}: expected finite numbers in {which}, got {came} in row {row}")


def _part(x: Inputs, rows: slice) -> Inputs:
    return tuple(one[rows] for one in x) if isinstance(x, tuple) else x[rows]


def _slices(rows: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, rows, size))
