"""`Trainer`: mini-batches, gradient, step, epoch after epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_count, in_range, unwrapped
from nnframe.core.chain import run_forward
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array
from nnframe.core.run import Run, rows_of
from nnframe.data.loader import DataLoader, as_pair
from nnframe.gradients import CentralDifference, Measured
from nnframe.gradients.work import WorkingStrategy
from nnframe.losses.base import Loss, as_float, as_labels, value_of
from nnframe.losses.weighted import WeightedLoss, with_weights
from nnframe.optimizers import Optimizer
from nnframe.training.callbacks import Callback, in_order
from nnframe.training.checkpoint import read, write
from nnframe.training.fitting import Fit, found_state
from nnframe.training.history import History
from nnframe.training.interrupts import DeferredInterrupt
from nnframe.training.progress import Report
from nnframe.training.sources import Rows, Stream
from nnframe.training.sums import rows_right
from nnframe.training.weights import Weights, as_sample_weight, of_classes

Strategy = Callable[..., float]
Metric = Callable[[Any, Any], float]
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
    metrics : list or dict of callables
        What `evaluate` measures besides, and with it `fit` after each epoch of the validation data: `metric(y, t)` of
        all outputs and labels, such as `nnframe.training.f1`; in a list under the names of the functions.
    """

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        optimizer: Optimizer,
        gradient: Strategy | None = None,
        metrics: Mapping[str, Metric] | Iterable[Metric] = (),
    ) -> None:
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
        self.metrics = _named(metrics)
        self._refuse_strange_parameters()
        self._all_trained = not self._untrained()
        self._fit: Fit | None = None  # the one that is going on
        self._place: dict[str, Any] | None = None  # where the last one ended, or the one that was resumed
        self._goes_on = False  # whether the next one goes on from there

    def fit(
        self,
        x: Any,
        t: npt.ArrayLike | None = None,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        validation_data: tuple[Any, npt.ArrayLike] | None = None,
        validation_split: float = 0.0,
        sample_weight: npt.ArrayLike | None = None,
        class_weight: Any = None,
        steps_per_epoch: int | None = None,
        shuffle: bool = True,
        replacement: bool = False,
        rng: np.random.Generator | int | None = None,
        progress: bool = True,
        callbacks: Callback | Iterable[Callback] | None = None,
        resume: str | os.PathLike[str] | bool = False,
    ) -> History:
        """Train on (x, t) for some epochs; a further call goes on from there.

        Ctrl-C ends the training at the last whole step, and the history so far is returned with `interrupted` set.

        Parameters
        ----------
        x : array (N, ...), or a tuple of arrays of N rows; or, without t, what yields mini-batches
            Finite numbers; converted to the model's dtype a mini-batch at a time, so that a memory-mapped array is
            never copied as a whole. Mini-batches: a `DataLoader`, which then says how they are drawn; any iterable of
            pairs (x, t), iterated anew for each epoch; a function that returns one; or, with `steps_per_epoch`, an
            iterator such as a generator. Those are checked as they come.
        t : array of N rows, optional
            Labels, as the loss takes them. All of them are checked before the first step.
        epochs, batch_size : int
        validation_data : (x, t), optional
            Measured after each epoch.
        validation_split : float in [0, 1)
            The share of rows, the last ones, that are kept out of training and measured in its place.
        sample_weight : array (N,), optional
            A weight for each row: the loss is a weighted mean. It counts in training alone, as `class_weight` does.
        class_weight : dict, array (C,) or "balanced", optional
            A weight for the rows of each class: {1: 5.0}, others 1; "balanced", N / (C n_c) as in scikit-learn. With
            both, their product counts.
        steps_per_epoch : int, optional
            Mini-batches of an epoch, where they come from an iterator or iterable.
        shuffle, replacement, rng
            How mini-batches are drawn; see `DataLoader`.
        progress : bool
            Whether to show a progress bar and print a line for each epoch.
        callbacks : Callback, or several
            See `nnframe.training.callbacks`.
        resume : path or bool
            A file that `save` or a `ModelCheckpoint` wrote, from which to go on; True: that of the `ModelCheckpoint`
            among the callbacks, if it is there.

        Raises
        ------
        FloatingPointError
            The loss or a gradient is no finite number: the error names the layer or parameter; the parameters are those
            from before that step.
        TypeError, ValueError
            An argument that does not fit; nothing has been changed.
        """
        epochs, batch_size = as_count("epochs", epochs), as_count("batch_size", batch_size)
        self._refuse_strange_parameters()
        self._refuse_added_parameters()
        if t is None:
            if validation_split or sample_weight is not None or class_weight is not None:
                raise ValueError("validation_split, sample_weight, class_weight: expected none without t")
            validation = self._checked_validation(validation_data, batch_size)
            fit = Fit(self, self.loss, self._source(x, steps_per_epoch), epochs, validation, in_order(callbacks))
        else:
            if steps_per_epoch is not None:
                raise ValueError("steps_per_epoch: expected None where x and t are arrays")
            inputs, labels = self._checked(x, t, "x, t", batch_size)
            weights = _row_weights(sample_weight, class_weight, labels)
            loss = self.loss if weights is None else WeightedLoss(self.loss)
            rows = _kept(validation_split, len(labels), validation_data)
            if rows < len(labels):
                validation_data = _part(inputs, slice(rows, None)), labels[rows:]
            validation = self._checked_validation(validation_data, batch_size)
            inputs, labels = _part(inputs, slice(rows)), labels[:rows]
            loader = DataLoader(inputs, labels, batch_size, shuffle=shuffle, replacement=replacement, rng=rng)
            if weights is not None:
                if not weights[:rows].any():
                    raise ValueError("sample_weight: expected a row with a weight above 0 to train on, got none")
                loader.t = with_weights(labels, weights[:rows])
            fit = Fit(self, loss, Rows(loader), epochs, validation, in_order(callbacks))
        state = found_state(resume, fit.callbacks)
        place = state["fit"] if state is not None else self._place if self._goes_on else None
        if place is not None:
            fit.refuse_other(place)
            if state is not None:
                self.load_state_dict(state)
            fit.load_state_dict(place)
        self._fit, self._goes_on = fit, False
        measured = [] if validation is None else [f"val_{name}" for name in self.metrics]
        try:
            return fit.run(Report(progress, fit.steps, measured))
        finally:
            self._fit, self._place = None, fit.state_dict()  # data and activations are let go

    def _source(self, x: Any, steps: int | None) -> Rows | Stream:
        """Return where mini-batches come from; TypeError for arrays whose labels are missing."""
        if isinstance(x, DataLoader):
            if steps is not None:
                raise ValueError("steps_per_epoch: expected None with a DataLoader, which has a length")
            self._checked(x.x, x.t, "x, t", x.batch_size)
            return Rows(x)
        if hasattr(x, "__array__") or (isinstance(x, tuple) and any(hasattr(one, "__array__") for one in x)):
            raise TypeError("t: expected labels, or in place of x what yields mini-batches (x, t), got None")
        return Stream(x, steps, self._refuse_numbers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that goes on to the bit from here: see `resume`.

        Weights, buffers, the states of the optimizer and the gradient strategy, and of the last `fit`, whether it ended
        by itself or by Ctrl-C: the place in the epoch, the order of its rows, random states, callbacks, the history.
        One file, safetensors with JSON in its header; nothing in it runs. It is replaced as a whole.

        Raises
        ------
        OSError
            The file cannot be written.
        TypeError
            A state is neither number, text nor array.
        """
        write(path, self.state_dict())

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go back to what `save`, or a `ModelCheckpoint`, wrote: the next `fit` goes on from there.

        With the model, loss, optimizer, strategy, data and arguments of the run that was saved, that `fit` ends with
        the bits of a run that was never stopped, whatever the number of threads. Its `epochs` counts those that are
        done.

        Raises
        ------
        OSError
            There is no such file.
        ValueError
            It is damaged, or its state is not one of this model, optimizer or strategy; nothing has been changed.
        """
        state = read(path)
        self.load_state_dict(state)
        self._place, self._goes_on = state["fit"], state["fit"] is not None

    def state_dict(self) -> dict[str, Any]:
        """Return what `save` writes, as a dict."""
        strategy: Any = self.gradient
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gradient": strategy.state_dict() if hasattr(strategy, "state_dict") else {},
            "names": [type(self.optimizer).__name__, _name(strategy), repr(self.loss)],
            "fit": self._place if self._fit is None else self._fit.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the model, the optimizer and the strategy from what `state_dict` returned; nothing if it is another's."""
        strategy: Any = self.gradient
        names = [type(self.optimizer).__name__, _name(strategy), repr(self.loss)]
        if state["names"] != names:
            raise ValueError(f"expected a run of {', '.join(names)}, got one of {', '.join(state['names'])}")
        own, given = self.model.state_dict(), state["model"]
        for name in (name for name in own if name in given):
            if own[name].dtype != given[name].dtype:
                raise ValueError(f"{name}: expected {own[name].dtype}, got {given[name].dtype}")
        optimizer = self.optimizer.state_dict()
        with DeferredInterrupt() as interrupt:
            interrupt.hold()
            try:
                self.optimizer.load_state_dict(state["optimizer"])
                self.model.load_state_dict(given)
                if state["gradient"]:
                    strategy.load_state_dict(state["gradient"])
            except BaseException:
                self.optimizer.load_state_dict(optimizer)
                raise
            interrupt.release()

    def take_gradient(self, loss: Loss, x: Inputs, t: npt.NDArray[Any], report: Report) -> Measured:
        """Take a gradient; where a strategy returns a plain number, the forward pass is made up for."""
        strategy: Any = self.gradient
        if report.wants_cost and hasattr(strategy, "cost"):
            report.tell_cost(strategy.cost(self.model, loss, x, t))
        told = report.gradient_progress()
        if told is not None and isinstance(strategy, WorkingStrategy):
            found = strategy(self.model, loss, x, t, progress=told)
        else:
            found = strategy(self.model, loss, x, t)
        if isinstance(found, Measured):
            return found
        with Run(True, root=self.model) as run:
            passed = run_forward(self.model, x, run)
        passed.loss, passed.labels = loss, loss.prepare(passed.output, t)
        passed.value = as_float(found, loss)
        return Measured(passed)

    def evaluate(self, x: Any, t: npt.ArrayLike, *, batch_size: int = 1000) -> dict[str, float | None]:
        """Measure the model on (x, t): {"loss": ..., "accuracy": ...}, accuracy None where labels are no classes.

        Works through `batch_size` rows at a time, which bounds memory and changes no result beyond rounding: what the
        rows give is added up and divided once. A loss that writes `forward` alone, and `metrics`, are measured of all
        outputs together.
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
            if self.metrics or not self.loss.is_sum_over_rows:
                outputs.append(y)
            found = self._right(y, some)
            right, counted = right + found[0], counted + found[1]
        everything = np.concatenate(outputs) if outputs else np.empty(0)
        if not self.loss.is_sum_over_rows:
            value = value_of(self.loss, everything, self.loss.prepare(everything, labels))
        else:
            value = total if self.loss.reduction == "sum" else total / divisor if divisor else math.nan
        share = right / counted if counted and not math.isnan(right) else None
        measured = {name: float(metric(everything, labels)) for name, metric in self.metrics.items()}
        return {"loss": value, "accuracy": share} | measured

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
        self._refuse_numbers(inputs, labels, name)
        try:
            self._check_labels(inputs, labels, batch_size)
        except (TypeError, ValueError) as error:
            if name != "x, t":
                error.add_note(f"in {name}")
            raise
        return inputs, labels

    def _refuse_numbers(self, inputs: Inputs, labels: npt.NDArray[Any], name: str) -> None:
        most = np.float64(np.finfo(self.model.dtype).max)
        for one in inputs if isinstance(inputs, tuple) else (inputs,):
            _refuse_numbers(one, name, "x", most)
        _refuse_numbers(labels, name, "t", most, kinds=None)

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


def _name(strategy: Any) -> str:
    return getattr(strategy, "__name__", type(strategy).__name__)


def _row_weights(sample_weight: npt.ArrayLike | None, class_weight: Any, t: npt.NDArray[Any]) -> Weights | None:
    """Return the weight of each row; None where all count the same."""
    of_rows = None if sample_weight is None else as_sample_weight(sample_weight, len(t))
    of_class = None if class_weight is None else of_classes(class_weight, t)
    return of_class if of_rows is None else of_rows if of_class is None else of_rows * of_class


def _kept(validation_split: float, rows: int, validation_data: object) -> int:
    """Return how many rows are trained on."""
    split = in_range("validation_split", validation_split, below=1.0)
    if not split:
        return rows
    if validation_data is not None:
        raise ValueError("validation_split: expected none with validation_data")
    kept = int(rows * (1 - split))  # as in Keras
    if not 0 < kept < rows:
        raise ValueError(f"validation_split: expected to leave rows on both sides of {rows}, got {validation_split}")
    return kept


def _named(metrics: Mapping[str, Metric] | Iterable[Metric]) -> dict[str, Metric]:
    """Return metrics by name, refusing what is none, or has a name that means something else."""
    pairs = list(metrics.items()) if isinstance(metrics, Mapping) else [(_name(one), one) for one in metrics]
    for name, metric in pairs:
        if not callable(metric):
            raise TypeError(f"metrics: expected functions of outputs and labels, got {metric!r}")
        if name in ("loss", "accuracy") or [other for other, _ in pairs].count(name) > 1:
            raise ValueError(f"metrics: expected names of their own, got {name!r}; a dict gives them others")
    return dict(pairs)
