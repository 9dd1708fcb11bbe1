"""Layers with a mode, buffers and random numbers, in whole models: every strategy, files, copies, training."""

import copy
import pickle

import numpy as np
import pytest

import nnframe as nn

STRATEGIES = [nn.CentralDifference(), nn.CentralDifference(interpolate=False), nn.Backprop(), nn.NodePerturbation()]
LAYERS = {
    "BatchNorm1d": lambda n, dtype: nn.BatchNorm1d(n, dtype=dtype),
    "BatchNorm1d without running": lambda n, dtype: nn.BatchNorm1d(n, track_running_stats=False, dtype=dtype),
    "LayerNorm": lambda n, dtype: nn.LayerNorm(n, dtype=dtype),
    "Dropout": lambda n, dtype: nn.Dropout(0.3, rng=3),
}


class Series(nn.Layer):
    """(N, C L) as (N, C, L)."""

    def __init__(self, length):
        self.length = length

    def forward(self, x):
        return x.reshape(len(x), -1, self.length)


class Flat(nn.Layer):
    def forward(self, x):
        return x.reshape(len(x), -1)


class Net(nn.Layer):
    """Layers in attributes and a list, called one after another."""

    def __init__(self, *layers):
        self.first, self.rest = layers[0], list(layers[1:])

    def forward(self, x):
        x = self.first(x)
        for layer in self.rest:
            x = layer(x)
        return x


class Gated(nn.Layer):
    """A layer whose inside is no chain."""

    def __init__(self, layer):
        self.inside = layer

    def forward(self, x):
        return self.inside(x) * x


def placements(layer, dtype):
    """The layer (a function of the number of features) in the places of a network; x has 5 columns, y 3."""

    def linear(inputs, outputs):
        return nn.Linear(inputs, outputs, dtype=dtype, rng=10 * inputs + outputs)

    def start(outputs):
        return linear(5, outputs), nn.Tanh()

    shared = layer(4)
    return {
        "middle": nn.Sequential(linear(5, 4), layer(4), nn.Tanh(), linear(4, 3)),
        "bottom": nn.Sequential(layer(5), linear(5, 4), nn.Sigmoid(), linear(4, 3)),
        "top": nn.Sequential(*start(4), linear(4, 3), layer(3)),
        "twice": nn.Sequential(linear(5, 4), layer(4), nn.Sigmoid(), layer(4), linear(4, 3)),
        "shared": nn.Sequential(linear(5, 4), shared, nn.Tanh(), linear(4, 4), shared, linear(4, 3)),
        "residual": nn.Sequential(*start(4), nn.Residual(layer(4), linear(4, 4)), linear(4, 3)),
        "add": nn.Sequential(*start(4), nn.Branches(layer(4), nn.Sequential(linear(4, 4), layer(4))), linear(4, 3)),
        "concatenate": nn.Sequential(*start(4), nn.Branches(layer(4), linear(4, 2), join="concatenate"), linear(6, 3)),
        "multiply": nn.Sequential(*start(4), nn.Branches(layer(4), linear(4, 4), join="multiply"), linear(4, 3)),
        "attributes": Net(linear(5, 4), layer(4), nn.Tanh(), linear(4, 3)),
        "nested": Net(linear(5, 4), Net(layer(4), nn.Tanh()), nn.Residual(Net(layer(4), linear(4, 4))), linear(4, 3)),
        "opaque": nn.Sequential(*start(4), Gated(layer(4)), linear(4, 3)),
        "opaque around weights": nn.Sequential(*start(4), Gated(nn.Sequential(linear(4, 4), layer(4))), linear(4, 3)),
        "custom above": nn.Sequential(linear(5, 4), layer(4), Flat(), linear(4, 3)),
    }


def of_series(dtype):
    """Layers for x (N, C, L) in networks."""
    for make in (
        lambda: nn.BatchNorm1d(4, dtype=dtype),
        lambda: nn.LayerNorm(3, eps=0.1, dtype=dtype),
        lambda: nn.LayerNorm((4, 3), dtype=dtype),
        lambda: nn.Dropout(0.3, rng=1),
    ):
        first, last = nn.Linear(5, 12, dtype=dtype, rng=1), nn.Linear(12, 3, dtype=dtype, rng=2)
        yield nn.Sequential(first, Series(3), make(), nn.Tanh(), Flat(), last)


def compare_with_definition(model, strategies, x, t, bound, loss=None):
    """Gradients of a model, its parameters and buffers being no particular numbers, and those of its float64 copy."""
    loss, rng = loss or nn.CrossEntropyLoss(), np.random.default_rng(7)
    for parameter in model.parameters():
        parameter.value += 0.1 * rng.standard_normal(parameter.value.shape)
    double = model.astype(np.float64)
    expected = {
        name: nn.numerical_gradient(lambda _: loss(double(x, training=True), t), parameter.value, step=1e-5)
        for name, parameter in double.named_parameters()
    }
    scale = max(np.abs(gradient).max() for gradient in expected.values())
    before = model.state_dict()
    for strategy in strategies:
        for parameter in model.parameters():
            parameter.grad[...] = np.nan
        assert strategy(model, loss, x, t) == pytest.approx(loss(model(x, training=True), t))
        for name, parameter in model.named_parameters():
            error = np.abs(parameter.grad - expected[name]).max() / scale
            assert error <= bound, f"{strategy!r}, {name}: off by {error:.1e} of the largest entry"
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.filterwarnings("ignore::nnframe.CostWarning")
@pytest.mark.parametrize("place", placements(lambda n: nn.Dropout(), np.float32))
@pytest.mark.parametrize("kind", LAYERS)
def test_every_strategy_is_its_definition(dtype, rng, kind, place):
    model = placements(lambda n: LAYERS[kind](n, dtype), dtype)[place]
    x, t = rng.standard_normal((7, 5)), rng.integers(0, 3, 7)
    compare_with_definition(model, STRATEGIES, x, t, 1e-8 if dtype == np.float64 else 5e-6)


@pytest.mark.filterwarnings("ignore::nnframe.CostWarning")
@pytest.mark.parametrize("kind", LAYERS)
def test_spsa_moves_along_its_direction(rng, kind):
    for place, model in placements(lambda n: LAYERS[kind](n, np.float64), np.float64).items():
        x, t = rng.standard_normal((7, 5)), rng.integers(0, 3, 7)
        nn.Backprop()(model, nn.CrossEntropyLoss(), x, t)
        gradient = np.concatenate([parameter.grad.reshape(-1) for parameter in model.parameters()])
        nn.SPSA(rng=1)(model, nn.CrossEntropyLoss(), x, t)
        found = np.concatenate([parameter.grad.reshape(-1) for parameter in model.parameters()])
        slope = np.abs(found[0])
        np.testing.assert_allclose(np.abs(found), slope, err_msg=place)
        assert abs(gradient @ np.sign(found)) == pytest.approx(slope, rel=1e-4, abs=1e-7), place


@pytest.mark.filterwarnings("ignore::nnframe.CostWarning")
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_each_step_is_seen_once_in_every_place(rng, strategy):
    for place, model in placements(lambda n: nn.BatchNorm1d(n), np.float32).items():
        layers = [tree for _, tree in model.named_trees() if isinstance(tree, nn.BatchNorm1d)]
        trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), lr=0.1), strategy)
        trainer.fit(rng.standard_normal((12, 5)), rng.integers(0, 3, 12), epochs=2, batch_size=4, progress=False)
        times = 2 if place == "shared" else 1  # a layer that runs twice sees two inputs
        assert [int(layer.num_batches_tracked.value) for layer in layers] == [6 * times] * len(layers), place
        assert all(layer.running_mean.value.any() for layer in layers), place
    for place, model in placements(lambda n: nn.Dropout(0.5), np.float32).items():
        layers = [tree for _, tree in model.named_trees() if isinstance(tree, nn.Dropout)]
        trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), lr=0.1), strategy)
        trainer.fit(rng.standard_normal((12, 5)), rng.integers(0, 3, 12), epochs=2, batch_size=4, progress=False)
        assert [int(layer.random.state.value[1]) for layer in layers] == [6] * len(layers), place


@pytest.mark.filterwarnings("ignore::nnframe.CostWarning")
@pytest.mark.parametrize("which", range(4))
def test_every_strategy_is_its_definition_with_series(dtype, rng, which):
    model = list(of_series(dtype))[which]
    x, t = 3 * rng.standard_normal((7, 5)), rng.standard_normal((7, 3))
    compare_with_definition(model, STRATEGIES, x, t, 1e-8 if dtype == np.float64 else 5e-6, nn.MSELoss())


# ---- models with every one of these layers ----


def model_of_all(seed, dtype=np.float32):
    layers = (
        nn.Linear(64, 16, dtype=dtype, rng=seed),
        nn.BatchNorm1d(16, dtype=dtype),
        nn.Tanh(),
        nn.Dropout(0.1, rng=seed),
        nn.Residual(nn.LayerNorm(16, dtype=dtype), nn.Linear(16, 16, dtype=dtype, rng=seed + 1)),
        nn.Linear(16, 10, dtype=dtype, rng=seed + 2),
    )
    return nn.Sequential(*layers)


def grey_levels(x):
    """The digits' pixels as ids, 0 to 16."""
    return np.rint(16 * x).astype(np.int64)


class Pixels(nn.Layer):
    """A vector for each grey level, 64 of them side by side."""

    takes_integers = True

    def __init__(self, seed, dtype=np.float32):
        self.table = nn.Embedding(17, 2, padding_idx=0, dtype=dtype, rng=seed)
        self.drop = nn.Dropout(0.05, rng=seed)
        self.top = nn.Linear(128, 10, dtype=dtype, rng=seed + 1)

    def forward(self, x):
        return self.top(self.drop(self.table(x).reshape(len(x), -1)))


def digits(kind, rows=None):
    (x, t), (test_x, test_t) = nn.data.digits()
    if kind == "Pixels":
        x, test_x = grey_levels(x), grey_levels(test_x)
    return (x[:rows], t[:rows]), (test_x, test_t)


MODELS = {"all": model_of_all, "Pixels": Pixels}


def trained(model, strategy, x, t, epochs, batch_size=50):
    lr = 1.0 if isinstance(model, Pixels) else 0.3
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), lr=lr), strategy)
    trainer.fit(x, t, epochs=epochs, batch_size=batch_size, shuffle=False, progress=False)
    return trainer


def assert_same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    assert list(mine) == list(theirs)
    for name, value in mine.items():
        assert value.dtype == theirs[name].dtype
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.parametrize("strategy", [nn.Backprop(), nn.NodePerturbation()], ids=repr)
@pytest.mark.parametrize("kind", MODELS)
def test_a_resumed_run_has_the_same_bits(dtype, tmp_path, kind, strategy):
    (x, t), (test_x, test_t) = digits(kind, 180)
    whole, first, resumed = (MODELS[kind](seed, dtype) for seed in (1, 1, 5))
    expected = trained(whole, strategy, x, t, 2).evaluate(test_x, test_t)
    trained(first, strategy, x, t, 1)
    nn.save(first, tmp_path / "model.safetensors")
    nn.load(resumed, tmp_path / "model.safetensors")
    assert_same(first, resumed)
    np.testing.assert_array_equal(resumed(test_x), first(test_x))
    np.testing.assert_array_equal(resumed(x, training=True), first(x, training=True))
    assert trained(resumed, strategy, x, t, 1).evaluate(test_x, test_t) == expected
    assert_same(whole, resumed)


@pytest.mark.parametrize("kind", MODELS)
def test_copies_are_apart(kind):
    (x, t), _ = digits(kind, 100)
    model = MODELS[kind](1)
    trained(model, nn.Backprop(), x, t, 1)
    before = model.state_dict()
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.astype(np.float32)):
        assert repr(made) == repr(model)
        assert_same(made, model)
        for mode in (True, False):
            np.testing.assert_array_equal(made(x, training=mode), model(x, training=mode))
        trained(made, nn.Backprop(), x, t, 1)
        for name, value in made.state_dict().items():
            if not name.endswith("table.weight") and value.size > 1 and "state" not in name:
                assert not np.array_equal(value, before[name]), name
    assert_same(model, _filled(MODELS[kind](2), before))
    shallow = copy.copy(model)  # shares its arrays, as a copy of any object does
    assert shallow.parameters()[0] is model.parameters()[0]
    np.testing.assert_array_equal(shallow(x, training=True), model(x, training=True))


def _filled(model, state):
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_astype_converts_what_is_floating_point(kind):
    (x, t), _ = digits(kind, 100)
    single = MODELS[kind](1)
    trained(single, nn.Backprop(), x, t, 1)
    double = single.astype(np.float64)
    for name, value in double.state_dict().items():
        own = single.state_dict()[name]
        assert value.dtype == (np.float64 if own.dtype == np.float32 else own.dtype)
        np.testing.assert_array_equal(value, own)
    assert double(x, training=True).dtype == np.float64
    for mode in (True, False):
        np.testing.assert_allclose(double(x, training=mode), single(x, training=mode), atol=2e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_evaluation_does_not_depend_on_the_batch_size(kind):
    (x, t), (test_x, test_t) = digits(kind)
    trainer = trained(MODELS[kind](1), nn.Backprop(), x, t, 6)
    found = [trainer.evaluate(test_x, test_t, batch_size=size) for size in (1, 7, 1000)]
    assert len({one["accuracy"] for one in found}) == 1
    assert found[0]["accuracy"] > 0.9
    np.testing.assert_allclose([one["loss"] for one in found], found[0]["loss"], rtol=1e-5)
    predicted = [trainer.predict(test_x, batch_size=size) for size in (1, 7, 1000)]
    np.testing.assert_allclose(predicted[0], predicted[1], atol=1e-5)
    np.testing.assert_allclose(predicted[0], predicted[2], atol=1e-5)


def test_names_of_the_state():
    state = model_of_all(1).state_dict()
    assert list(state) == [
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
        "3.random.state", "4.inner.0.weight", "4.inner.0.bias", "4.inner.1.weight", "4.inner.1.bias",
        "5.weight", "5.bias",
    ]  # fmt: skip
    assert state["1.num_batches_tracked"].dtype == np.int64
    assert state["3.random.state"].dtype == np.uint64
    buffers = {"1.running_mean", "1.running_var", "1.num_batches_tracked", "3.random.state"}
    assert {name for name, _ in model_of_all(1).named_buffers()} == buffers
    assert not buffers & {name for name, _ in model_of_all(1).named_parameters()}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_what_is_not_trainable_stays(strategy):
    (x, t), _ = digits("all", 40)
    model = model_of_all(1)
    frozen = [model[1].weight, model[4].inner[0].bias, model[0].weight, model[5].bias]
    for parameter in frozen:
        parameter.trainable = False
    before = [parameter.value.copy() for parameter in frozen]
    moving = {name: p.value.copy() for name, p in model.named_parameters() if p.trainable}
    trained(model, strategy, x, t, 1, batch_size=20)
    for parameter, value in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(parameter.value, value)
        assert not parameter.grad.any()
    for name, parameter in model.named_parameters():
        if parameter.trainable and name != "0.bias":  # which has no effect below batch normalization
            assert not np.array_equal(parameter.value, moving[name]), name
    (ids, labels), _ = digits("Pixels", 40)
    pixels = Pixels(1)
    pixels.table.weight.trainable = False
    table, top = pixels.table.weight.value.copy(), pixels.top.weight.value.copy()
    trained(pixels, strategy, ids, labels, 1, batch_size=20)
    np.testing.assert_array_equal(pixels.table.weight.value, table)
    assert not np.array_equal(pixels.top.weight.value, top)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("kind", ["BatchNorm1d", "LayerNorm", "Dropout", "Pixels"])
def test_digits_are_learnt(kind, strategy):
    (x, t), (test_x, test_t) = digits(kind)
    if kind == "Pixels":
        model = Pixels(1)
    else:
        layer = nn.Dropout(0.1, rng=1) if kind == "Dropout" else LAYERS[kind](12, np.float32)
        model = nn.Sequential(nn.Linear(64, 12, rng=1), layer, nn.Tanh(), nn.Linear(12, 10, rng=2))
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), lr=0.03), strategy)
    trainer.fit(x, t, epochs=4, batch_size=64, rng=1, progress=False)
    assert trainer.evaluate(test_x, test_t)["accuracy"] > 0.9


def test_an_empty_batch_and_one_row_where_they_may_be(rng):
    model = nn.Sequential(nn.Linear(5, 4, rng=1), nn.LayerNorm(4), nn.Dropout(0.5, rng=1), nn.Linear(4, 3, rng=2))
    assert model(np.zeros((0, 5))).shape == (0, 3)
    assert model(np.zeros((0, 5)), training=True).shape == (0, 3)
    for strategy in STRATEGIES:
        strategy(model, nn.CrossEntropyLoss(), rng.standard_normal((1, 5)), [2])
        strategy(model, nn.CrossEntropyLoss(reduction="sum"), np.zeros((0, 5)), np.zeros(0, int))
        assert not any(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_nothing_is_said_where_a_gradient_is_0_as_it_should_be(strategy):
    model = nn.Sequential(nn.Linear(3, 4, rng=1), nn.Dropout(1), nn.LayerNorm(4), nn.Linear(4, 2, rng=2))
    strategy(model, nn.CrossEntropyLoss(), np.ones((5, 3)), [0, 1, 0, 1, 1])
    assert not model[2].weight.grad.any()
    assert model[2].bias.grad.any()
    padding = Pixels(1)
    strategy(padding, nn.CrossEntropyLoss(), np.zeros((5, 64), int), [0, 1, 0, 1, 1])
    assert not padding.table.weight.grad.any()


def test_summary_and_check_gradients(rng):
    model = model_of_all(1)
    lines = model.summary().splitlines()
    assert lines[2].split() == ["1", "BatchNorm1d(16)", "16", "32", "written"]
    assert [line.split()[-1] for line in lines[1:-1]] == ["written"] * 6
    checks = nn.check_gradients(model, rng.standard_normal((7, 64)))
    assert all(check.right for check in checks), [str(check) for check in checks if not check.right]
    pixels = Pixels(1)
    checks = nn.check_gradients(pixels, rng.integers(0, 17, (5, 64)))
    assert [check.what for check in checks if "Embedding" in check.layer] == ["weight"]
    assert all(check.right for check in checks)
    assert pixels.table.verified
    model[0].weight.trainable = model[1].bias.trainable = False
    checks = nn.check_gradients(model, rng.standard_normal((7, 64)))
    assert all(check.right for check in checks)
    assert [check.what for check in checks if check.layer.startswith(("layer 0:", "layer 1:"))] == [
        "x",
        "bias",
        "x",
        "weight",
    ]
