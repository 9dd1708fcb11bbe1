"""NNClassifier and NNRegressor in the hands of scikit-learn: every check passes, none is skipped."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import nnframe as nn

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nnframe.estimators import NNClassifier, NNRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CHECKS = """
import sys, warnings
warnings.simplefilter("ignore")
import nnframe.estimators
from sklearn.utils.estimator_checks import check_estimator
kind = getattr(nnframe.estimators, sys.argv[1])
found = check_estimator(kind(), on_skip=None, on_fail="raise")
print(len(found), {one["status"] for one in found})
"""


@pytest.mark.parametrize("name", ["NNClassifier", "NNRegressor"])
def test_every_check_of_scikit_learn_passes_and_none_is_skipped(name):
    run = subprocess.run(
        [sys.executable, "-P", "-c", CHECKS, name],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    count, statuses = run.stdout.split(maxsplit=1)
    assert int(count) > 40
    assert statuses.strip() == "{'passed'}"


@pytest.fixture(scope="module")
def digits():
    x, t = load_digits(return_X_y=True)
    return train_test_split(x / 16, t, random_state=0, stratify=t)


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(120, 4, centers=3, cluster_std=2.0, random_state=1)


def weights_of(estimator):
    return [value for value in estimator.model_.state_dict().values() if value.dtype.kind == "f"]


def assert_same(one, other, **tolerance):
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def test_digits_are_read_as_well_as_by_mlp_classifier(digits):
    x, x_test, t, t_test = digits
    given = {"hidden_layer_sizes": (50,), "max_iter": 30, "random_state": 3}
    ours, theirs = NNClassifier(**given).fit(x, t), MLPClassifier(**given).fit(x, t)
    assert ours.score(x_test, t_test) > theirs.score(x_test, t_test) - 0.015
    assert ours.score(x_test, t_test) > 0.93
    assert [w.shape for w in ours.coefs_] == [w.shape for w in theirs.coefs_]
    assert [b.shape for b in ours.intercepts_] == [b.shape for b in theirs.intercepts_]
    assert ours.n_iter_ == theirs.n_iter_ == 30
    assert ours.t_ == theirs.t_
    assert len(ours.loss_curve_) == 30


@pytest.mark.parametrize("given", [{}, {"solver": "sgd"}, {"solver": "sgd", "momentum": 0.0}, {"alpha": 1.0}])
def test_steps_are_those_of_mlp_regressor(given):
    x, t = load_diabetes(return_X_y=True)
    x, t = StandardScaler().fit_transform(x), (t - t.mean()) / t.std()
    given |= {"hidden_layer_sizes": (5,), "activation": "tanh", "shuffle": False, "batch_size": 50}
    theirs = MLPRegressor(random_state=1, max_iter=1, **given).fit(x, t)
    ours = NNRegressor(random_state=1, max_iter=1, warm_start=True, **given).fit(x, t)
    start = MLPRegressor(random_state=1, max_iter=1, learning_rate_init=1e-300, **given).fit(x, t)
    ours._begin(x.shape[1], 1, x.dtype)
    for layer, weight, bias in zip(ours._linear(), start.coefs_, start.intercepts_, strict=True):
        layer.weight.value, layer.bias.value = weight.T, bias
    ours.fit(x, t)
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # epsilon of Adam stands elsewhere there
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-6)


def test_pipeline_grid_search_and_processes(blobs):
    x, t = blobs
    names = np.array(["red", "green", "blue"])[t]
    pipeline = make_pipeline(StandardScaler(), NNClassifier((8,), max_iter=40, learning_rate_init=0.01, random_state=0))
    search = GridSearchCV(pipeline, {"nnclassifier__alpha": [1e-4, 1.0]}, cv=2, n_jobs=2).fit(x, names)
    assert search.best_score_ > 0.8
    assert set(search.predict(x)) == {"red", "green", "blue"}
    assert cross_val_score(pipeline, x, names, cv=2).min() > 0.8
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict_proba(x), search.predict_proba(x))


def test_names_of_features(blobs):
    pandas = pytest.importorskip("pandas")
    x, t = blobs
    table = pandas.DataFrame(x, columns=list("abcd"))
    model = NNClassifier((4,), max_iter=2, random_state=0).fit(table, pandas.Series(t))
    assert list(model.feature_names_in_) == list("abcd")
    model.predict(table)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table[["b", "a", "c", "d"]])


def network(features, outputs, rng):
    return nn.Sequential(
        nn.Linear(features, 8, rng=rng),
        nn.BatchNorm1d(8),
        nn.Mish(),
        nn.Dropout(0.2, rng=rng),
        nn.Linear(8, outputs, rng=rng),
    )


def test_layers_by_a_function_or_a_list(blobs):
    x, t = blobs
    model = NNClassifier(layers=network, max_iter=30, learning_rate_init=0.02, random_state=0).fit(x, t)
    assert model.score(x, t) > 0.8
    assert model.model_[1].num_batches_tracked.value == 30  # running statistics have moved
    assert model.model_[3].random.state.value[1] == 30
    own = [nn.Linear(4, 6, rng=1), nn.Tanh(), nn.Linear(6, 3, rng=2)]
    before = own[0].weight.value.copy()
    model = NNClassifier(layers=own, max_iter=30, learning_rate_init=0.02, random_state=0)
    first, second = clone(model).fit(x, t), clone(model).fit(x, t)
    assert_same(first, second, rtol=0)
    np.testing.assert_array_equal(own[0].weight.value, before)
    with pytest.raises(ValueError, match="expected a network of 3 outputs, got rows of shape \\(6,\\)"):
        NNClassifier(layers=own[:1]).fit(x, t)


class Cube(nn.Layer):
    def forward(self, x):
        return x**3


@pytest.mark.parametrize(
    "given",
    [
        {"gradient": "central"},
        {"gradient": nn.CentralDifference(1e-3)},
        {"gradient": nn.SPSA(samples=20, rng=1)},
        {"activation": Cube},
        {"activation": nn.PReLU()},
        {"activation": "logistic"},
        {"activation": "identity"},
        {"solver": lambda parameters, lr: nn.Lion(parameters, lr)},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        {"loss": nn.MultiMarginLoss()},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 1.0},
        {"solver": "sgd", "learning_rate": "adaptive", "nesterovs_momentum": False},
    ],
)
def test_own_activations_losses_solvers_and_gradients(given, blobs):
    x, t = blobs
    model = NNClassifier((6,), **{"max_iter": 60, "learning_rate_init": 0.02, "random_state": 0} | given)
    assert make_pipeline(StandardScaler(), model).fit(x, t).score(x, t) > 0.75


def test_hidden_layers_do_not_share_an_activation(blobs):
    model = NNClassifier((6, 5), activation=nn.PReLU(), max_iter=1, random_state=0).fit(*blobs)
    assert model.model_[1].weight is not model.model_[3].weight


@pytest.mark.parametrize("kind", [NNClassifier, NNRegressor])
def test_weights_are_as_good_as_repeated_rows(kind, blobs):
    x, t = blobs
    weights = np.random.default_rng(1).integers(0, 3, len(x))
    given = {"hidden_layer_sizes": (5,), "max_iter": 20, "random_state": 0, "batch_size": 10**6}
    one = kind(**given).fit(x, t, sample_weight=weights)
    other = kind(**given).fit(x.repeat(weights, axis=0), t.repeat(weights))
    assert_same(one, other, rtol=1e-8, atol=1e-10)


def test_weights_of_classes(blobs):
    x, t = blobs
    given = {"hidden_layer_sizes": (5,), "max_iter": 5, "random_state": 0}
    one = NNClassifier(class_weight={0: 2.0, 2: 0.5}, **given).fit(x, t)
    other = NNClassifier(**given).fit(x, t, sample_weight=np.array([2.0, 1.0, 0.5])[t])
    assert_same(one, other, rtol=1e-10)
    few = np.concatenate([np.flatnonzero(t == 0)[:8], np.flatnonzero(t == 1)])
    balanced = NNClassifier(class_weight="balanced", **given).fit(x[few], t[few])
    counts = np.bincount(t[few])
    other = NNClassifier(**given).fit(x[few], t[few], sample_weight=(len(few) / (2 * counts))[t[few]])
    assert_same(balanced, other, rtol=1e-10)


def test_epoch_by_epoch(blobs):
    x, t = blobs
    given = {"hidden_layer_sizes": (5,), "random_state": 0, "batch_size": 30}
    whole = NNClassifier(max_iter=4, **given).fit(x, t)
    parts = NNClassifier(**given)
    for _ in range(4):
        parts.partial_fit(x, t, classes=[0, 1, 2])
    assert_same(whole, parts, rtol=0)
    warm = NNClassifier(max_iter=2, warm_start=True, **given).fit(x, t).fit(x, t)
    assert_same(whole, warm, rtol=0)
    cold = NNClassifier(max_iter=4, **given).fit(x, t).fit(x, t)
    assert_same(whole, cold, rtol=0)
    with pytest.raises(ValueError, match="expected classes \\[0 1 2\\], got 7"):
        parts.partial_fit(x, np.full(len(x), 7))


def test_early_stopping_keeps_the_best_weights(digits):
    x, _, t, _ = digits
    model = NNClassifier(
        (20,), early_stopping=True, max_iter=200, n_iter_no_change=3, learning_rate_init=0.02, random_state=0
    ).fit(x, t)
    assert model.n_iter_ < 200
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert len(model.validation_scores_) == model.n_iter_
    best = int(np.argmax(model.validation_scores_))
    again = clone(model).set_params(max_iter=best + 1).fit(x, t)
    assert_same(model, again, rtol=0)


def test_several_outputs():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    y = np.column_stack([x[:, 0] - x[:, 1], x[:, 2]])
    model = NNRegressor((10,), max_iter=200, learning_rate_init=0.01, random_state=0).fit(x, y)
    assert model.predict(x).shape == y.shape
    assert model.score(x, y) > 0.95
    assert NNRegressor((3,), max_iter=1).fit(x, y[:, 0]).predict(x).shape == (200,)


def test_float32_stays_float32(blobs):
    x, t = blobs
    model = NNClassifier((4,), max_iter=2).fit(x.astype(np.float32), t)
    assert model.model_.dtype == np.float32
    assert model.predict_proba(x.astype(np.float32)).dtype == np.float32


def test_a_fitted_network_travels(blobs, tmp_path):
    model = NNClassifier((4,), max_iter=2, random_state=0).fit(*blobs)
    nn.save(model.model_, tmp_path / "model.safetensors")
    again = nn.io.load_model(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again(blobs[0]), model.model_(blobs[0]))


def test_no_convergence_is_said(blobs):
    with pytest.warns(ConvergenceWarning, match="not converged after 1 epochs"):
        NNClassifier((4,), max_iter=1).fit(*blobs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes: expected widths of at least 1"),
        ({"activation": "relu6"}, "activation: expected 'identity'"),
        ({"gradient": "autograd"}, "gradient: expected 'backprop', 'central' or a strategy"),
        ({"gradient": lambda *_: 1.0}, "gradient: expected a strategy that returns a Measured loss, got 1.0"),
        ({"solver": "lbfgs"}, "solver: expected 'adam', 'sgd' or a callable, got 'lbfgs'"),
        ({"max_iter": 0}, "max_iter: expected a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size: expected a whole number"),
        ({"alpha": -1}, "alpha: expected a number >= 0"),
        ({"validation_fraction": 1.0}, "validation_fraction: expected a number in"),
        ({"learning_rate": "slow"}, "learning_rate: expected 'constant'"),
        ({"loss": "hinge"}, "loss: expected a Loss or None"),
        ({"loss": nn.CrossEntropyLoss(), "class_weight": "balanced"}, "loss: expected None with weights"),
        ({"layers": lambda *_: 3}, "layers: expected a function that returns a Layer, got 3"),
        ({"solver": "sgd", "learning_rate_init": 1e200}, "expected a finite loss and gradient"),
    ],
)
def test_what_is_refused(given, message, blobs):
    with pytest.raises((TypeError, ValueError), match=message), np.errstate(all="ignore"):
        NNClassifier(**given).fit(*blobs)
