"""`NNRegressor`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import _check_sample_weight, validate_data

from nnframe.estimators.base import Array, Network, refuse_weightless
from nnframe.losses import Loss, MSELoss
from nnframe.losses.weighted import WeightedLoss, with_weights


class NNRegressor(RegressorMixin, Network):  # type: ignore[misc]
    """A network that gives numbers: half the squared error, the mean over outputs where there are several.

    Parameters
    ----------
    hidden_layer_sizes, activation, layers, gradient, loss, solver, ...
        As in `Network`.

    Attributes
    ----------
    n_outputs_ : int
    """

    n_outputs_: int

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NNRegressor:
        """Train on rows X (N, features) and numbers y, (N,) or (N, outputs); from where it stands with `warm_start`."""
        go_on = bool(self.warm_start) and hasattr(self, "model_")
        self._fit(X, y, sample_weight, go_on, True)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> NNRegressor:
        """Go on for one epoch."""
        self._fit(X, y, sample_weight, hasattr(self, "model_"), False)
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any, go_on: bool, whole: bool) -> None:
        X, y = validate_data(
            self, X, y, dtype=(np.float64, np.float32), multi_output=True, y_numeric=True, reset=not go_on
        )
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        t = np.asarray(y, X.dtype).reshape(len(X), -1)
        if go_on and t.shape[1] != self.n_outputs_:
            raise ValueError(f"y: expected {self.n_outputs_} outputs, as before, got shape {np.shape(y)}")
        self.n_outputs_, self._flat = t.shape[1], y.ndim == 1
        self._fitted(X, t, refuse_weightless(weights), t.shape[1], go_on, whole)

    def _labels(self, t: Array, weights: Array | None) -> tuple[Loss, Array]:
        if self.loss is not None:
            return self._own_loss(t, weights)
        each = np.full(len(t), 1 / len(t)) if weights is None else weights
        return WeightedLoss(MSELoss("sum")), with_weights(t, each / (2 * t.shape[1]))

    def _score_held(self, X: Array, t: Array, weights: Array) -> float:
        return float(r2_score(t, self.model_(X), sample_weight=weights))

    def predict(self, X: Any) -> Array:
        """Return a number for each row, (N,), or (N, outputs) as y was."""
        y = self._output(X)
        return y[:, 0] if self._flat else y

    def __sklearn_tags__(self) -> Any:
        """Say that y may have several columns."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
