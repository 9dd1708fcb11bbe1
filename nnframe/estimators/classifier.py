"""`NNClassifier`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import _check_sample_weight, validate_data

from nnframe.estimators.base import Array, Network, refuse_weightless
from nnframe.layers import LogSoftmax, Softmax
from nnframe.losses import CrossEntropyLoss, Loss
from nnframe.losses.weighted import WeightedLoss, with_weights


class NNClassifier(ClassifierMixin, Network):  # type: ignore[misc]
    """A network that tells classes apart: softmax and cross-entropy over as many outputs as classes.

    Parameters
    ----------
    class_weight : dict, "balanced", or None
        A factor for the loss of each class, as elsewhere in scikit-learn.
    hidden_layer_sizes, activation, layers, gradient, loss, solver, ...
        As in `Network`.

    Attributes
    ----------
    classes_ : array
        What `predict` may return; column i of `predict_proba` is that of classes_[i].
    """

    _stratified = True

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        layers: Any = None,
        gradient: Any = "backprop",
        loss: Any = None,
        class_weight: Any = None,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            layers=layers,
            gradient=gradient,
            loss=loss,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NNClassifier:
        """Train on rows X (N, features) and their classes y (N,); from where it stands with `warm_start`."""
        go_on = bool(self.warm_start) and hasattr(self, "model_")
        X, t, weights = self._checked(X, y, sample_weight, None, reset=not go_on, keep=go_on)
        self._fitted(X, t, weights, len(self.classes_), go_on, True)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> NNClassifier:
        """Go on for one epoch. `classes`: all that there will be, at the first call."""
        go_on = hasattr(self, "model_")
        if classes is None and not go_on:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        X, t, weights = self._checked(X, y, sample_weight, classes, reset=not go_on, keep=go_on)
        self._fitted(X, t, weights, len(self.classes_), go_on, False)
        return self

    def _checked(self, X: Any, y: Any, sample_weight: Any, classes: Any, *, reset: bool, keep: bool) -> Any:
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), reset=reset)
        check_classification_targets(y)
        there = unique_labels(y)
        if not keep:
            self.classes_ = there if classes is None else unique_labels(classes)
        elif classes is not None and not np.array_equal(self.classes_, unique_labels(classes)):
            raise ValueError(f"classes: expected those of the first call, {self.classes_}, got {classes}")
        strange = np.setdiff1d(there, self.classes_)
        if len(strange):
            raise ValueError(f"y: expected classes {self.classes_}, got {strange.tolist()[0]!r}")
        t = np.searchsorted(self.classes_, y)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        if self.class_weight is not None:
            each = compute_class_weight(self.class_weight, classes=self.classes_, y=y, sample_weight=weights)
            weights = each[t] * (1.0 if weights is None else weights)
        return X, t, refuse_weightless(weights)

    def _labels(self, t: Array, weights: Array | None) -> tuple[Loss, Array]:
        if self.loss is not None:
            return self._own_loss(t, weights)
        if weights is None:
            return CrossEntropyLoss(), t
        return WeightedLoss(CrossEntropyLoss("sum")), with_weights(t, weights)

    def _score_held(self, X: Array, t: Array, weights: Array) -> float:
        return float(accuracy_score(t, self.model_(X).argmax(axis=1), sample_weight=weights))

    def predict(self, X: Any) -> Array:
        """Return the class of each row, (N,)."""
        y = self._output(X)
        return self.classes_[y.argmax(axis=1)]  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (N, classes)."""
        return Softmax(1)(self._output(X))

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of what `predict_proba` returns."""
        return LogSoftmax(1)(self._output(X))
