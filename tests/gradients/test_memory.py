"""What a strategy remembers of layers: one object may meet many models, layers come and go, batches grow."""

import copy
import gc
import pickle
import warnings

import numpy as np
import pytest

import nnframe as nn

STRATEGIES = [nn.CentralDifference(), nn.Backprop(), nn.NodePerturbation()]


class Step(nn.Layer):
    """Nothing passes."""

    def forward(self, x):
        return np.round(x)


class Mixes(nn.Layer):
    """Rows mix in batches of more than three."""

    def forward(self, x):
        return x - np.tanh(x).mean(axis=0) if len(x) > 3 else np.tanh(x)


class Apart(nn.Layer):
    def forward(self, x):
        return np.tanh(x)


def network(layer, dtype=np.float64):
    return nn.Sequential(nn.Linear(10, 4, rng=1, dtype=dtype), layer, nn.Linear(4, 3, rng=2, dtype=dtype))


def batch(rows, seed=0):
    rng = np.random.default_rng(seed)
    return nn.CrossEntropyLoss(), rng.standard_normal((rows, 10)), rng.integers(0, 3, rows)


def check(model, loss, x, t):
    for name, parameter in model.named_parameters():
        expected = nn.numerical_gradient(lambda _: loss(model(x, training=True), t), parameter.value, scheme="central4")
        off = np.abs(parameter.grad - expected).max() / np.abs(expected).max()
        assert off <= 1e-6, f"{name}: off by {off:.1e} of the largest entry"


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_a_layer_in_the_place_of_one_that_is_gone_is_a_new_one(strategy):
    # objects are made where others were freed, until one has the id of another
    strategy = copy.deepcopy(strategy)
    ids, again = set(), 0
    kinds = np.random.default_rng(0).integers(0, 2, 60)
    for i in range(60):
        layer = (Apart if kinds[i] else Mixes)()
        again += id(layer) in ids
        ids.add(id(layer))
        model = network(layer)
        data = batch(6, i)
        strategy(model, *data)
        check(model, *data)
        del layer, model
    assert again, "expected at least one id to come again"


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_what_is_said_once_is_said_of_each_layer(strategy):
    strategy = copy.deepcopy(strategy)
    ids, again = set(), 0
    for i in range(40):
        layer = Step()
        again += id(layer) in ids
        ids.add(id(layer))
        model = network(layer)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            strategy(model, *batch(6, i))
        assert any("Step" in str(one.message) for one in seen), f"nothing was said of layer number {i}"
        del layer, model, seen
    assert again, "expected at least one id to come again"


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("runs", [1, 3, 6])
def test_more_rows_than_before_are_asked_about(strategy, runs):
    strategy = copy.deepcopy(strategy)
    model = network(Mixes())
    for i in range(runs):
        strategy(model, *batch(3, i))
    data = batch(7)
    strategy(model, *data)
    check(model, *data)


def test_far_more_rows_than_before_are_asked_about():
    class MixesFromTwelve(nn.Layer):
        def forward(self, x):
            return x - np.tanh(x).mean(axis=0) if len(x) >= 12 else np.tanh(x)

    strategy, model = nn.Backprop(), network(MixesFromTwelve())
    for i in range(2):  # between two looks, were it for the count of runs alone
        strategy(model, *batch(3, i))
    data = batch(14)
    strategy(model, *data)
    check(model, *data)


class Lookup(nn.Layer):
    """A table of which each batch uses other entries."""

    def __init__(self):
        self.table = nn.Parameter(np.random.default_rng(0).standard_normal((9, 4)), np.float64)

    def forward(self, x):
        return self.table.value[np.clip(np.floor(x[:, 0] * 3 + 4), 0, 8).astype(int)]


class Sorts(nn.Layer):
    """Each row has a pattern of its own."""

    def forward(self, x):
        return np.sort(np.tanh(x), axis=1)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_patterns_that_differ_from_batch_to_batch(strategy):
    strategy = copy.deepcopy(strategy)
    model = nn.Sequential(
        Lookup(), nn.Linear(4, 16, rng=1, dtype=np.float64), Sorts(), nn.Linear(16, 3, rng=2, dtype=np.float64)
    )
    for i in range(8):
        data = batch(4, i)
        strategy(model, *data)
        found = {name: parameter.grad.copy() for name, parameter in model.named_parameters()}
        copy.deepcopy(nn.CentralDifference(interpolate=False))(model, *data)  # has met no layer, and keeps no pattern
        for name, parameter in model.named_parameters():
            off = np.abs(found[name] - parameter.grad).max() / np.abs(parameter.grad).max()
            assert off <= 1e-6, f"{name}: off by {off:.1e} of the largest entry in batch {i}"


@pytest.mark.parametrize("strategy", [*STRATEGIES, nn.SPSA(rng=0)], ids=repr)
def test_a_copy_of_a_strategy_remembers_nothing_and_works(strategy):
    strategy = copy.deepcopy(strategy)
    model, data = network(Apart()), batch(6)
    strategy(model, *data)
    for other in (copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):
        other(model, *data)
        assert all(np.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_a_strategy_does_not_keep_models_alive(strategy):
    import weakref

    strategy = copy.deepcopy(strategy)
    model = network(Apart())
    strategy(model, *batch(6))
    gone = weakref.ref(model[1])
    del model
    gc.collect()
    assert gone() is None, "a layer is kept alive by the strategy that met it"
