"""What `NNClassifier` and `NNRegressor` share: scikit-learn's way to make, fit and measure a network."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from nnframe import layers
from nnframe.core.layer import Layer
from nnframe.gradients import Backprop, CentralDifference, Measured
from nnframe.initializers import XavierUniform
from nnframe.losses import Loss
from nnframe.optimizers import SGD, Adam, Optimizer

Array = npt.NDArray[Any]

ACTIVATIONS = {"identity": None, "logistic": layers.Sigmoid, "tanh": layers.Tanh, "relu": layers.ReLU}
STRATEGIES = {"backprop": Backprop, "central": CentralDifference}
LEAST_RATE = 1e-6  # of learning_rate="adaptive"
AUTOMATIC = 200  # rows of a mini-batch, at most


class Network(BaseEstimator):  # type: ignore[misc]
    """What both share. Arguments that MLPClassifier and MLPRegressor have mean what they mean there.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers.
    activation : {"identity", "logistic", "tanh", "relu"}, layer, or class of a layer
        What stands between linear layers.
    layers : list of Layer, or callable, optional
        The whole network instead of the two above: layers one after another, of which copies are trained, or
        `layers(n_features, n_outputs, rng)`, which returns one.
    gradient : {"backprop", "central"} or a strategy
        Where gradients come from, such as nn.SPSA().
    loss : Loss, optional
        Another one than the cross-entropy or half the squared error. It takes no weights of rows or classes.
    solver : {"adam", "sgd"} or callable
        `solver(parameters, lr)` returns an optimizer.
    alpha : float
        Adds alpha / (2 n) times the sum of the squared weights of a mini-batch of n rows.
    batch_size : int or "auto"
        "auto": min(200, rows).
    learning_rate : {"constant", "invscaling", "adaptive"}
        With solver="sgd".
    learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum,
    nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change
        As in scikit-learn.

    Attributes
    ----------
    model_ : Layer
        Takes X of n_features_in_ columns; nn.save and nn.io.export_c take it.
    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, n_iter_, t_, coefs_, intercepts_
        As in scikit-learn.
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        layers: Any = None,
        gradient: Any = "backprop",
        loss: Any = None,
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.layers = layers
        self.gradient = gradient
        self.loss = loss
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change

    # ---- what is made at the first fit ----

    _stratified: ClassVar[bool] = False  # whether rows that are held out are drawn class by class
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    best_validation_score_: float | None

    def _begin(self, features: int, outputs: int, dtype: npt.DTypeLike) -> None:
        random = check_random_state(self.random_state)
        self._rng = np.random.default_rng(random.randint(np.iinfo(np.int32).max))
        self.model_ = self._make(features, outputs).astype(dtype)
        self.optimizer_ = self._optimizer()
        self.n_iter_, self.t_, self.loss_curve_, self.best_loss_ = 0, 0, [], math.inf
        self.validation_scores_ = [] if self.early_stopping else None
        self.best_validation_score_ = -math.inf if self.early_stopping else None
        self._best: Any = None

    def _make(self, features: int, outputs: int) -> Layer:
        if callable(self.layers):
            model = self.layers(features, outputs, self._rng)
            if not isinstance(model, Layer):
                raise TypeError(f"layers: expected a function that returns a Layer, got {model!r} from it")
            return model
        if self.layers is not None:
            return layers.Sequential(*self.layers)
        sizes = [features, *np.atleast_1d(np.asarray(self.hidden_layer_sizes, np.intp)).tolist(), outputs]
        if min(sizes) < 1:
            raise ValueError(f"hidden_layer_sizes: expected widths of at least 1, got {self.hidden_layer_sizes!r}")
        made: list[Layer] = []
        for below, above in itertools.pairwise(sizes):
            made += [*self._activation(), layers.Linear(below, above, init=XavierUniform(), dtype="f8", rng=self._rng)]
        return layers.Sequential(*made[len(self._activation()) :])

    def _activation(self) -> list[Layer]:
        if isinstance(self.activation, Layer):
            return [self.activation.astype(np.float64)]  # a copy: hidden layers share no parameters
        if isinstance(self.activation, type) and issubclass(self.activation, Layer):
            return [self.activation()]
        if self.activation not in ACTIVATIONS:
            names = ", ".join(map(repr, ACTIVATIONS))
            raise ValueError(f"activation: expected {names} or a layer, got {self.activation!r}")
        kind = ACTIVATIONS[self.activation]
        return [] if kind is None else [kind()]

    def _optimizer(self) -> Optimizer:
        parameters, rate = [p for p in self.model_.parameters() if p.trainable], self.learning_rate_init
        if self.solver == "adam":
            return Adam(parameters, rate, betas=(self.beta_1, self.beta_2), eps=self.epsilon)
        if self.solver == "sgd":
            nesterov = bool(self.nesterovs_momentum and self.momentum)
            return SGD(parameters, rate, momentum=self.momentum, nesterov=nesterov)
        if not callable(self.solver):
            raise ValueError(f"solver: expected 'adam', 'sgd' or a callable, got {self.solver!r}")
        made: Optimizer = self.solver(parameters, rate)
        return made

    def _strategy(self) -> Any:
        if isinstance(self.gradient, str):
            if self.gradient not in STRATEGIES:
                raise ValueError(f"gradient: expected 'backprop', 'central' or a strategy, got {self.gradient!r}")
            return STRATEGIES[self.gradient]()
        return self.gradient

    # ---- fitting ----

    def _fitted(self, X: Array, t: Array, weights: Array | None, outputs: int, go_on: bool, whole: bool) -> None:
        """Train on checked arrays, `whole` or for one epoch: t as `_labels` takes it, weights (N,) or None."""
        self._refuse_strange_numbers()
        if not go_on:
            self._begin(X.shape[1], outputs, X.dtype)
        held = None
        if self.early_stopping and whole:
            X, t, weights, held = self._held_out(X, t, weights)
        y = self.model_(X[:1])
        if y.shape != (1, outputs):
            raise ValueError(f"layers: expected a network of {outputs} outputs, got rows of shape {y.shape[1:]}")
        strategy, stale = self._strategy(), 0
        try:
            for _ in range(self.max_iter if whole else 1):
                self._epoch(X, t, weights, strategy)
                stale = stale + 1 if self._is_stale(held) else 0
                if self.verbose:
                    print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
                if stale > self.n_iter_no_change and whole:
                    if self.solver != "sgd" or self.learning_rate != "adaptive" or self.optimizer_.lr <= LEAST_RATE:
                        break
                    self.optimizer_.lr /= 5
                    stale = 0
            else:
                if whole:
                    warnings.warn(
                        f"max_iter: the training has not converged after {self.max_iter} epochs",
                        ConvergenceWarning,
                        stacklevel=3,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=3)
        if held is not None and self._best is not None:
            self.model_.load_state_dict(self._best)

    def _epoch(self, X: Array, t: Array, weights: Array | None, strategy: Any) -> None:
        size = min(AUTOMATIC, len(X)) if self.batch_size == "auto" else min(self.batch_size, len(X))
        order = self._rng.permutation(len(X)) if self.shuffle else np.arange(len(X))
        total, counted = 0.0, 0.0
        penalized = [p for p in self.optimizer_.parameters if p.value.ndim > 1]
        for first in range(0, len(X), size):
            rows = order[first : first + size]
            part = None if weights is None else weights[rows]
            mass = float(len(rows) if part is None else part.sum())
            if mass == 0:
                continue
            loss, labels = self._labels(t[rows], None if part is None else part / mass)
            measured = strategy(self.model_, loss, X[rows], labels)
            if not isinstance(measured, Measured):
                raise TypeError(f"gradient: expected a strategy that returns a Measured loss, got {measured!r} from it")
            value = float(measured)
            if not math.isfinite(value) or not all(np.isfinite(p.grad).all() for p in self.optimizer_.parameters):
                raise ValueError(
                    f"epoch {self.n_iter_ + 1}: expected a finite loss and gradient, got the loss {value}; a smaller "
                    "learning_rate_init, or scaled features, may help"
                )
            for p in penalized:
                value += 0.5 * self.alpha / mass * float(np.vdot(p.value, p.value))
                p.grad += self.alpha / mass * p.value
            self.optimizer_.step()
            measured.forward_pass.observe()
            total, counted = total + value * mass, counted + mass
            self.t_ += len(rows)
        self.n_iter_ += 1
        if self.solver == "sgd" and self.learning_rate == "invscaling":
            self.optimizer_.lr = self.learning_rate_init / (self.t_ + 1) ** self.power_t
        self.loss_ = total / counted
        self.loss_curve_.append(self.loss_)

    def _is_stale(self, held: Any) -> bool:
        """Whether the last epoch was no better than the best by `tol`."""
        if held is None:
            better = self.loss_ < self.best_loss_ - self.tol
            self.best_loss_ = min(self.loss_, self.best_loss_)
            return not better
        assert self.validation_scores_ is not None
        assert self.best_validation_score_ is not None
        score = self._score_held(*held)
        self.validation_scores_.append(score)
        better = score > self.best_validation_score_ + self.tol
        if score > self.best_validation_score_:
            self.best_validation_score_, self._best = score, self.model_.state_dict()
        return not better

    def _held_out(self, X: Array, t: Array, weights: Array | None) -> Any:
        stratify = t if self._stratified else None
        given = np.ones(len(X)) if weights is None else weights
        seed = int(self._rng.integers(np.iinfo(np.int32).max))
        fit, held = train_test_split(
            np.arange(len(X)), test_size=self.validation_fraction, random_state=seed, stratify=stratify
        )
        return X[fit], t[fit], None if weights is None else given[fit], (X[held], t[held], given[held])

    def _refuse_strange_numbers(self) -> None:
        for name in ("max_iter", "n_iter_no_change", "batch_size"):
            value = getattr(self, name)
            if name == "batch_size" and value == "auto":
                continue
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if not self.alpha >= 0:
            raise ValueError(f"alpha: expected a number >= 0, got {self.alpha!r}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction: expected a number in (0, 1), got {self.validation_fraction!r}")
        if self.learning_rate not in ("constant", "invscaling", "adaptive"):
            expected = "'constant', 'invscaling' or 'adaptive'"
            raise ValueError(f"learning_rate: expected {expected}, got {self.learning_rate!r}")

    def _own_loss(self, labels: Array, weights: Array | None) -> tuple[Loss, Array]:
        if not isinstance(self.loss, Loss):
            raise TypeError(f"loss: expected a Loss or None, got {self.loss!r}")
        if weights is not None:
            raise ValueError("loss: expected None with weights of rows or classes, which another loss does not take")
        return self.loss, labels

    def _labels(self, t: Array, weights: Array | None) -> tuple[Loss, Array]:
        """Return the loss of a mini-batch and its labels; weights: of sum 1."""
        raise NotImplementedError

    def _score_held(self, X: Array, t: Array, weights: Array) -> float:
        raise NotImplementedError

    def _output(self, X: Any) -> Array:
        check_is_fitted(self, "model_")
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return self.model_(X)

    @property
    def coefs_(self) -> list[Array]:
        """Weights of the linear layers, (inputs, outputs) each."""
        return [layer.weight.value.T for layer in self._linear()]

    @property
    def intercepts_(self) -> list[Array]:
        """Biases of the linear layers."""
        return [layer.bias.value for layer in self._linear() if layer.bias is not None]

    def _linear(self) -> list[layers.Linear]:
        check_is_fitted(self, "model_")
        return [tree for _, tree in self.model_.named_trees() if isinstance(tree, layers.Linear)]


def refuse_weightless(weights: Array | None) -> Array | None:
    """`weights` of rows; ValueError where one is negative, or all are 0."""
    if weights is not None and ((weights < 0).any() or not weights.any()):
        raise ValueError("sample_weight, class_weight: expected weights >= 0, not all of them 0")
    return weights
