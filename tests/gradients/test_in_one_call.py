"""Backprop and predict in one call of C: which models, the numbers of the layers one by one, and what a pass tells."""

import copy
import pickle

import numpy as np
import pytest
from harness import assert_close, tolerance

import nnframe as nn
from nnframe.core import network as in_one_call
from nnframe.core.network import NetworkPass, network_of

LOSSES = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss("sum", weight=[1.0, 2.0, 0.5], label_smoothing=0.1),
    nn.CrossEntropyLoss(ignore_index=1),
    nn.MSELoss(),
    nn.MSELoss("sum"),
]


def parts(dtype, widths=(7, 9, 6, 3)):
    rng = np.random.default_rng(0)
    acts = [nn.Tanh(), nn.LeakyReLU(0.2), nn.GELU("tanh"), nn.ELU(0.7)]
    layers = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1], bias=i != 1, dtype=dtype, rng=rng), acts[i]]
    return layers[:-1]


def data(rng, loss, rows=20, inputs=7, classes=3):
    x = rng.standard_normal((rows, inputs))
    return x, rng.standard_normal((rows, classes)) if isinstance(loss, nn.MSELoss) else rng.integers(0, classes, rows)


@pytest.fixture
def calls(monkeypatch):
    """Count what is taken in one call."""
    found, gradient = [], in_one_call.Network.gradient
    monkeypatch.setattr(in_one_call.Network, "gradient", lambda *a, **o: found.append(1) or gradient(*a, **o))
    return found


@pytest.fixture
def layer_by_layer(monkeypatch):
    """Switch the one call off."""

    def switch():
        monkeypatch.setattr("nnframe.gradients.backprop.gradient_in_one_call", lambda *_: None)
        monkeypatch.setattr("nnframe.gradients.backprop.gradient_of_chain", lambda *_: False)

    return switch


def take(model, loss, x, t, strategy=None):
    measured = (strategy or nn.Backprop())(model, loss, x, t)
    return measured, [p.grad.copy() for p in model.parameters()]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("widths", [(7, 9, 6, 3), (7, 200, 150, 3)])
def test_the_gradient_is_that_of_the_layers(dtype, rng, loss, widths, calls, layer_by_layer):
    model, (x, t) = nn.Sequential(*parts(dtype, widths)), data(rng, loss)
    measured, found = take(model, loss, x, t)
    assert calls
    layer_by_layer()
    expected_loss, expected = take(model, loss, x, t)
    assert len(calls) == 1
    assert_close(float(measured), float(expected_loss), tolerance(dtype))
    assert_close(measured.output, expected_loss.output, tolerance(dtype))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 4 * tolerance(dtype))
    one, other = measured.forward_pass, expected_loss.forward_pass
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.labels.dtype == other.labels.dtype
    assert (one.model, one.loss, one.parameters) == (other.model, other.loss, other.parameters)
    assert_close(one.x, other.x, 0)


class Attributes(nn.Layer):
    def __init__(self, *layers):
        self.layers = list(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Flattens(nn.Layer):
    def __init__(self, *layers):
        self.body = Attributes(*layers)

    def forward(self, x):
        return self.body(x.reshape(len(x), -1))


class MakesOne(nn.Layer):
    """Makes a layer in each run, whose id may be that of the one before."""

    def __init__(self, *layers):
        self.first, self.last, self.runs = layers[0], layers[-1], 0

    def forward(self, x):
        act = nn.Tanh() if self.kind == "tanh" else nn.ReLU()
        return self.last(act(self.first(x)))


class Reads(nn.Layer):
    """Uses a parameter of its own besides."""

    def __init__(self, *layers):
        self.body, self.own = nn.Sequential(*layers), nn.Parameter(np.ones(7))

    def forward(self, x):
        return self.body(x * self.own.value)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Renamed(nn.Tanh):
    pass


def with_own_forward():
    layer = nn.Tanh()
    layer.forward = np.sin
    return layer


def shared():
    linear = nn.Linear(7, 7, rng=0)
    return linear, nn.Tanh(), linear


def shared_parameter():
    one, other = nn.Linear(7, 7, rng=0), nn.Linear(7, 7, rng=1)
    other.weight = one.weight
    return one, nn.Tanh(), other


KNOWN = {
    "a literal Sequential": lambda: nn.Sequential(*parts(np.float32)),
    "Sequential in Sequential": lambda: nn.Sequential(nn.Sequential(*parts(np.float32)[:2]), *parts(np.float32)[2:]),
    "one linear layer": lambda: nn.Linear(7, 3, rng=0),
    "layers in a list": lambda: Attributes(*parts(np.float32)),
    "a reshape before the first": lambda: Flattens(*parts(np.float32)),
    "an empty subclass of an activation": lambda: nn.Sequential(nn.Linear(7, 3, rng=0), Renamed()),
}
UNKNOWN = {
    "a derived linear layer": lambda: nn.Sequential(nn.Linear(7, 5, rng=0), nn.Tanh(), Doubled(5, 3, rng=1)),
    "a forward of its own": lambda: nn.Sequential(nn.Linear(7, 5, rng=0), with_own_forward(), nn.Linear(5, 3, rng=1)),
    "one layer twice": lambda: nn.Sequential(*shared(), nn.Linear(7, 3, rng=1)),
    "one parameter twice": lambda: nn.Sequential(*shared_parameter(), nn.Linear(7, 3, rng=1)),
    "dropout": lambda: nn.Sequential(nn.Linear(7, 5, rng=0), nn.Dropout(0.5, rng=0), nn.Linear(5, 3, rng=1)),
    "a normalization": lambda: nn.Sequential(nn.Linear(7, 5, rng=0), nn.BatchNorm1d(5), nn.Linear(5, 3, rng=1)),
    "a shortcut": lambda: nn.Sequential(nn.Residual(nn.Linear(7, 7, rng=0)), nn.Linear(7, 3, rng=1)),
    "an activation without a backward": lambda: nn.Sequential(nn.Linear(7, 5, rng=0), nn.Step(), nn.Linear(5, 3)),
    "a parameter besides": lambda: Reads(*parts(np.float32)),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_models_that_are_taken_in_one_call(kind, rng, calls, layer_by_layer):
    model, (x, t) = KNOWN[kind](), data(rng, nn.CrossEntropyLoss())
    _, found = take(model, nn.CrossEntropyLoss(), x, t)
    assert len(calls) == 1
    layer_by_layer()
    for one, other in zip(found, take(model, nn.CrossEntropyLoss(), x, t)[1], strict=True):
        assert_close(one, other, 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNKNOWN)
def test_models_that_are_more_than_that(kind, rng, calls):
    model, (x, t) = UNKNOWN[kind](), data(rng, nn.CrossEntropyLoss())
    before = [p.grad.copy() for p in model.parameters()]
    take(model, nn.CrossEntropyLoss(), x, t)
    assert not calls
    assert any((p.grad != b).any() for p, b in zip(model.parameters(), before, strict=True))


def test_layers_that_are_made_in_each_run_are_not_mistaken(rng):
    x, t = data(rng, nn.CrossEntropyLoss())
    model, strategy = MakesOne(nn.Linear(7, 5, rng=0), nn.Linear(5, 3, rng=1)), nn.Backprop()
    kinds = {"tanh": nn.Tanh(), "relu": nn.ReLU()}
    expected = {
        kind: take(nn.Sequential(model.first, act, model.last), nn.CrossEntropyLoss(), x, t)[1]
        for kind, act in kinds.items()
    }
    for kind in ("tanh", "relu") * 10:
        object.__setattr__(model, "kind", kind)  # nothing that a walk would have to find again
        found = take(model, nn.CrossEntropyLoss(), x, t, strategy)[1]
        for one, other in zip(found, expected[kind], strict=True):
            assert_close(one, other, 1e-5)


def test_losses_of_others_and_inputs_of_other_shapes(rng, calls):
    class Half(nn.MSELoss):
        def rows(self, y, t):
            return super().rows(y, t) / 2

    model, (x, t) = nn.Sequential(*parts(np.float32)), data(rng, nn.MSELoss())
    take(model, Half(), x, t)
    loss = nn.MSELoss()
    loss.forward = lambda y, t: 1.0
    assert take(model, loss, x, t)[0] == 1
    assert not calls
    for wrong in (x[:, :6], x[0], x + 1j, "x"):
        with pytest.raises((TypeError, ValueError)):
            take(model, nn.MSELoss(), wrong, t)
    with pytest.raises(ValueError, match="x: expected at least one row"):
        take(model, nn.MSELoss(), x[:0], t[:0])


def test_labels_are_refused_as_by_the_layers(rng, layer_by_layer):
    model, (x, t) = nn.Sequential(*parts(np.float32)), data(rng, nn.CrossEntropyLoss())
    cases = [
        (nn.CrossEntropyLoss(), t + 1),
        (nn.CrossEntropyLoss(), t[:-1]),
        (nn.CrossEntropyLoss(), t.astype(float)),
        (nn.CrossEntropyLoss(), None),
        (nn.CrossEntropyLoss(), np.full((20, 3), 0.5)),
        (nn.CrossEntropyLoss(ignore_index=1), np.eye(3)[t]),
        (nn.MSELoss(), np.zeros((20, 2))),
        (nn.MSELoss(), np.zeros((20, 3), complex)),
        (nn.MSELoss(), [["a"] * 3] * 20),
    ]

    def messages():
        for loss, labels in cases:
            take(model, nn.CrossEntropyLoss(), x, t)
            before = [p.grad.copy() for p in model.parameters()]
            with pytest.raises((TypeError, ValueError)) as error:
                take(model, loss, x, labels)
            for p, b in zip(model.parameters(), before, strict=True):
                np.testing.assert_array_equal(p.grad, b)
            yield type(error.value), str(error.value)

    found = list(messages())
    layer_by_layer()
    assert found == list(messages())


def test_changes_of_the_model_are_seen(rng, layer_by_layer):
    x, t = data(rng, nn.CrossEntropyLoss())
    model, strategy = nn.Sequential(*parts(np.float32)), nn.Backprop()

    def alike():
        _, found = take(model, nn.CrossEntropyLoss(), x, t, strategy)
        y = model(x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nnframe.gradients.backprop.gradient_in_one_call", lambda *_: None)
            for one, other in zip(found, take(model, nn.CrossEntropyLoss(), x, t)[1], strict=True):
                assert_close(one, other, 1e-5)
        assert_close(y, model.forward(x.astype(np.float32)), 1e-6)

    alike()
    model.layers[0].weight.value = rng.standard_normal((9, 7))
    alike()
    model.layers[0].bias.value[...] = 3
    alike()
    model.layers[3].alpha = 0.7
    alike()
    model.layers[0].weight.trainable = False
    alike()
    assert not model.layers[0].weight.grad.any()
    model.layers[2].weight.trainable = model.layers[0].bias.trainable = False
    alike()
    model.layers[4].weight = nn.Parameter(rng.standard_normal((5, 6)))
    model.layers[4].bias = None
    alike()
    model.layers = (*model.layers, nn.Linear(5, 3, rng=3))
    alike()
    model.layers[0].weight.trainable = True
    alike()


def test_links_are_found_when_they_are_asked_for(rng, layer_by_layer):
    model, (x, t) = nn.Sequential(*parts(np.float64)), data(rng, nn.CrossEntropyLoss())
    optimizer, strategy = nn.SGD(model.parameters(), 0.1), nn.Backprop()
    measured = strategy(model, nn.CrossEntropyLoss(), x, t)
    passed = measured.forward_pass
    assert type(passed) is NetworkPass
    links = passed.links
    assert [link.layer for link in links] == list(model.layers)
    assert passed.run.memory is strategy.memory
    optimizer.step()
    assert passed.links is links
    late = strategy(model, nn.CrossEntropyLoss(), x, t).forward_pass
    optimizer.step()
    late.observe()
    with pytest.raises(nn.LayerError, match="expected parameters and x as they were in this forward pass, got others"):
        late.links  # noqa: B018
    layer_by_layer()
    model = nn.Sequential(*parts(np.float64))
    for one, other in zip(links, take(model, nn.CrossEntropyLoss(), x, t)[0].forward_pass.links, strict=True):
        assert_close(one.x, other.x, 1e-14)
        assert_close(one.y, other.y, 1e-14)


def test_verify_looks_at_what_is_taken_in_one_call(rng, calls):
    x, t = data(rng, nn.CrossEntropyLoss())
    plain, looked = nn.Sequential(*parts(np.float64)), nn.Sequential(*parts(np.float64))
    for model, strategy in ((plain, nn.Backprop()), (looked, nn.Backprop(verify=2))):
        optimizer = nn.Adam(model.parameters())
        for _ in range(6):
            strategy(model, nn.CrossEntropyLoss(), x, t)
            optimizer.step()
    assert len(calls) == 12
    assert looked.layers[0].verified
    assert not plain.layers[0].verified
    for one, other in zip(plain.parameters(), looked.parameters(), strict=True):
        np.testing.assert_array_equal(one.value, other.value)


def test_training_goes_the_same_way(rng, layer_by_layer):
    x, t = data(rng, nn.CrossEntropyLoss(), rows=150)

    def train():
        model = nn.Sequential(*parts(np.float64))
        trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), 1e-2), nn.Backprop())
        history = trainer.fit(x, t, epochs=5, validation_data=(x, t), rng=0, progress=False)
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
        return rows, trainer.evaluate(x, t), trainer.predict(x)

    found = train()
    layer_by_layer()
    for one, other in zip(found[0], train()[0], strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose([*one.values()], [*other.values()], rtol=1e-9)
    assert_close(found[2], train()[2], 1e-9)


def test_predictions_have_the_bits_of_the_layers(dtype, rng):
    x, _ = data(rng, nn.CrossEntropyLoss(), rows=300)
    for widths in ((7, 9, 6, 3), (7, 200, 150, 3)):
        model = nn.Sequential(*parts(dtype, widths))
        expected = model.forward(x.astype(dtype))
        for given in (x, x.astype(dtype), np.asfortranarray(x), x.tolist()):
            np.testing.assert_array_equal(model(given), expected)
        found = model(x)
        found[...] = 0  # it is the caller's own
        np.testing.assert_array_equal(model(x), expected)
        stacked = x.reshape(3, 100, 7)
        np.testing.assert_array_equal(model(stacked), expected.reshape(3, 100, -1))
    step = nn.Sequential(nn.Linear(7, 3, rng=0), nn.Step())
    np.testing.assert_array_equal(step(x), step.forward(x.astype(np.float32)))
    with pytest.raises(ValueError, match="x: expected shape") as error:
        model(x[:, :5])
    assert "layer 0: Linear" in str(error.value.__notes__)


def test_copies_and_pickles_have_networks_of_their_own(rng):
    x, t = data(rng, nn.CrossEntropyLoss())
    model = nn.Sequential(*parts(np.float32))
    _, expected = take(model, nn.CrossEntropyLoss(), x, t)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.astype(np.float64)):
        assert network_of(other) is not network_of(model)
        for p in model.parameters():
            p.grad.fill(0)
        _, found = take(other, nn.CrossEntropyLoss(), x, t)
        assert not any(p.grad.any() for p in model.parameters())
        for one, own in zip(found, expected, strict=True):
            assert_close(one, own, 1e-5)


# ---- central differences ----


@pytest.fixture
def piece_by_piece(monkeypatch):
    """Switch the one call of differences off."""
    return lambda: monkeypatch.setattr(nn.CentralDifference, "step_in_one_call", lambda self: 0.0)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_differences_are_those_of_the_pieces(dtype, rng, loss, calls, piece_by_piece):
    model, (x, t) = nn.Sequential(*parts(dtype)), data(rng, loss)
    measured, found = take(model, loss, x, t, nn.CentralDifference())
    assert len(calls) == 1
    piece_by_piece()
    expected_loss, expected = take(model, loss, x, t, nn.CentralDifference())
    assert len(calls) == 1
    assert_close(float(measured), float(expected_loss), tolerance(dtype))
    assert_close(measured.output, expected_loss.output, tolerance(dtype))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 4 * tolerance(dtype))


@pytest.mark.parametrize("kind", KNOWN)
def test_models_whose_differences_are_taken_in_one_call(kind, rng, calls, piece_by_piece):
    model, (x, t) = KNOWN[kind](), data(rng, nn.CrossEntropyLoss())
    _, found = take(model, nn.CrossEntropyLoss(), x, t, nn.CentralDifference())
    assert len(calls) == 1
    piece_by_piece()
    for one, other in zip(found, take(model, nn.CrossEntropyLoss(), x, t, nn.CentralDifference())[1], strict=True):
        assert_close(one, other, 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNKNOWN)
def test_models_whose_differences_are_not(kind, rng, calls):
    model, (x, t) = UNKNOWN[kind](), data(rng, nn.CrossEntropyLoss())
    take(model, nn.CrossEntropyLoss(), x, t, nn.CentralDifference())
    assert not calls


def test_what_is_asked_for_otherwise_is_taken_piece_by_piece(rng, calls):
    x, t = data(rng, nn.CrossEntropyLoss())
    for strategy in (
        nn.CentralDifference(interpolate=False),
        nn.NodePerturbation(),
    ):
        take(nn.Sequential(*parts(np.float64)), nn.CrossEntropyLoss(), x, t, strategy)
        assert not calls
    large = nn.Sequential(nn.Linear(7, 2400, rng=0), nn.Tanh(), nn.Linear(2400, 3, rng=1), nn.Tanh(), nn.Linear(3, 3))
    take(large, nn.CrossEntropyLoss(), x, t, nn.CentralDifference())
    assert not calls


@pytest.mark.parametrize("step", [1e-9, 1e-6, 1e-3, 0.1])
def test_a_step_that_is_given_is_kept(rng, step):
    x, t = data(rng, nn.CrossEntropyLoss())
    model = nn.Sequential(*parts(np.float64))
    _, found = take(model, nn.CrossEntropyLoss(), x, t, nn.CentralDifference(step))
    _, expected = take(model, nn.CrossEntropyLoss(), x, t, nn.CentralDifference(step, interpolate=False))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 2e-13)


@pytest.mark.parametrize("loss", [*LOSSES, nn.CrossEntropyLoss("sum")], ids=repr)
def test_rows_at_a_kink_are_added(rng, loss, calls):
    model = nn.Sequential(
        nn.Linear(7, 6, rng=0, dtype=np.float64), nn.ReLU(), nn.Linear(6, 3, rng=1, dtype=np.float64), nn.LeakyReLU(0.1)
    )
    model[2].weight.trainable = False
    x, t = data(rng, loss, rows=150)
    x[[3, 70, 149]] = 0
    x[5] = 0
    model[0].bias.value[:4] = [0, 1e-13, -3e-13, 0.5]
    model[2].bias.value[:] = [0.2, -0.3, 0.1]
    counts = t != 1 if loss == LOSSES[2] else np.ones(150, bool)
    for step in (None, 2e-13):
        measured, found = take(model, loss, x, t, nn.CentralDifference(step))
        left_out = measured.forward_pass.left_out
        assert left_out.tolist() == [i for i in (3, 5, 70, 149) if counts[i]]
        one_by_one = nn.CentralDifference(1e-12 if step is None else step, interpolate=False)
        expected_loss, expected = take(model, loss, x, t, one_by_one)
        assert float(measured) == pytest.approx(float(expected_loss), rel=1e-13)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, 2e-13)
        _, smooth = take(model, loss, x, t)
        assert any(np.abs(a - b).max() > 1e-4 * np.abs(b).max() for a, b in zip(found, smooth, strict=True) if b.any())
        assert not found[2].any()


def test_differences_tell_progress_and_cost(rng):
    x, t = data(rng, nn.CrossEntropyLoss(), rows=300)
    model = nn.Sequential(*parts(np.float32))
    for p in model.parameters():
        p.grad[...] = 5
    cost = nn.CentralDifference().cost(model, nn.CrossEntropyLoss(), x, t)
    assert all((p.grad == 5).all() for p in model.parameters())
    count = 2 * sum(p.value.size for p in model.parameters())
    assert cost.evaluations == count
    assert 0 < cost.seconds < 1
    seen = []
    nn.CentralDifference()(model, nn.CrossEntropyLoss(), x, t, lambda *a: seen.append(a))
    assert seen == [(count, count)]


def test_training_by_differences_goes_the_same_way(rng, piece_by_piece):
    x, t = data(rng, nn.CrossEntropyLoss(), rows=150)

    def train():
        model = nn.Sequential(*parts(np.float64))
        trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), 1e-2), nn.CentralDifference())
        trainer.fit(x, t, epochs=5, rng=0, progress=False)
        return trainer.predict(x)

    found = train()
    piece_by_piece()
    assert_close(found, train(), 1e-10)


def test_selected_entries_are_those_of_the_whole_gradient(rng, calls):
    x, t = data(rng, nn.CrossEntropyLoss())
    model, loss = nn.Sequential(*parts(np.float64)), nn.CrossEntropyLoss()
    nn.CentralDifference()(model, loss, x, t)
    whole = {name: p.grad.copy() for name, p in model.named_parameters()}
    mask = rng.random(model[0].weight.value.shape) < 0.4
    nn.CentralDifference(only={"0.weight": mask})(model, loss, x, t)
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.grad, whole[name] * mask if name == "0.weight" else 0)
    cyclic = nn.CentralDifference(only=nn.Blocks(50, "cyclic"))
    total = {name: np.zeros_like(grad) for name, grad in whole.items()}
    seen = []
    for _ in range(-(-sum(grad.size for grad in whole.values()) // 50)):
        cyclic(model, loss, x, t, progress=lambda done, count: seen.append(count))
        for name, p in model.named_parameters():
            total[name] = np.where(p.grad != 0, p.grad, total[name])
    for name, grad in whole.items():
        np.testing.assert_array_equal(total[name], grad)
    assert set(seen) == {100}
    assert len(calls) >= 3
    assert cyclic.cost(model, loss, x, t).evaluations == 100


def test_selected_entries_where_rows_reach_a_kink(rng, calls):
    x, t = data(rng, nn.CrossEntropyLoss())
    model = nn.Sequential(
        nn.Linear(x.shape[1], 6, rng=0, dtype=np.float64), nn.ReLU(), nn.Linear(6, 3, rng=1, dtype=np.float64)
    )
    loss, step = nn.CrossEntropyLoss(), 0.02
    nn.CentralDifference(step, interpolate=False)(model, loss, x, t)
    expected = model[0].weight.grad.copy()
    blocks = nn.Blocks(model[0].weight.value.size, "cyclic")  # the first of them is that weight
    nn.CentralDifference(step, only=blocks)(model, loss, x, t)
    np.testing.assert_allclose(model[0].weight.grad, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    assert not model[2].weight.grad.any()
    assert blocks.at == blocks.size


def test_a_selection_that_is_not_the_models_is_refused_before_anything_is_changed(rng):
    x, t = data(rng, nn.CrossEntropyLoss())
    model = nn.Sequential(*parts(np.float64))
    for p in model.parameters():
        p.grad[...] = 7
    with pytest.raises(KeyError, match="only: expected parameters of the model"):
        nn.CentralDifference(only="nothing")(model, nn.CrossEntropyLoss(), x, t)
    assert all((p.grad == 7).all() for p in model.parameters())


@pytest.mark.parametrize("step", [None, 0.03])
@pytest.mark.parametrize("kind", ["indices", "soft", "squared"])
def test_each_position_is_a_row(rng, calls, kind, step):
    x = rng.standard_normal((20, 5, 7))
    t = {"indices": rng.integers(0, 3, (20, 5)), "soft": rng.dirichlet(np.ones(3), (20, 5))}.get(
        kind, rng.standard_normal((20, 5, 3))
    )
    loss = nn.MSELoss() if kind == "squared" else nn.CrossEntropyLoss()
    model = nn.Sequential(nn.Linear(7, 6, rng=0), nn.ReLU(), nn.Linear(6, 3, rng=1)).astype(np.float64)
    exact = nn.CentralDifference(step, interpolate=False)(model, loss, x, t)
    expected = [p.grad.copy() for p in model.parameters()]
    found = nn.CentralDifference(step)(model, loss, x, t)
    assert found == pytest.approx(float(exact), rel=1e-14)
    assert found.output.shape == (20, 5, 3)
    assert found.forward_pass.labels.shape == t.shape
    assert [link.y.shape for link in found.forward_pass.links][-1] == (20, 5, 3)
    for p, one in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(p.grad, one, rtol=0, atol=1e-12 * np.abs(one).max())
    assert calls or step
    value = nn.Backprop()(model, loss, x, t)
    assert value == pytest.approx(float(exact), rel=1e-14)
    if step is None:
        for p, one in zip(model.parameters(), expected, strict=True):
            np.testing.assert_allclose(p.grad, one, rtol=0, atol=1e-11 * np.abs(one).max())


def test_labels_of_positions_that_do_not_fit_are_left_to_the_layers(rng):
    model = nn.Sequential(nn.Linear(7, 1, rng=0)).astype(np.float64)
    for t in (rng.standard_normal((20, 5)), rng.integers(0, 2, (20, 5))):
        with pytest.raises(ValueError, match=r"labels: expected the shape of the output \(20, 5, 1\), got \(20, 5\)"):
            nn.Backprop()(model, nn.MSELoss(), rng.standard_normal((20, 5, 7)), t)


class Quartic(nn.Loss):
    def rows(self, y, t):
        return ((y - t) ** 4).sum(axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_below_a_loss_of_ones_own(rng, calls, dtype, activation):
    x, t = rng.standard_normal((20, 7)).astype(dtype), rng.standard_normal((20, 3)).astype(dtype)
    model = nn.Sequential(nn.Linear(7, 6, rng=0), activation(), nn.Linear(6, 3, rng=1)).astype(dtype)
    for loss in (Quartic(), Quartic("sum")):
        exact = nn.CentralDifference(1e-5, interpolate=False)(model, loss, x, t)
        expected = [p.grad.copy() for p in model.parameters()]
        del calls[:]
        found = nn.CentralDifference()(model, loss, x, t)
        assert calls
        assert found == float(exact)
        for p, one in zip(model.parameters(), expected, strict=True):
            bound = 1e-5 if dtype == np.float32 else 1e-8
            np.testing.assert_allclose(p.grad, one, rtol=0, atol=bound * np.abs(one).max())
    del calls[:]
    nn.CentralDifference(1e-5)(model, Quartic(), x, t)  # a step that was given: at its ends, as the definition says
    assert not calls


def test_a_loss_of_ones_own_without_a_finite_gradient_is_left_to_the_layers(rng, calls):
    class Log(nn.Loss):
        def rows(self, y, t):
            with np.errstate(all="ignore"):
                return np.log(y - y).sum(axis=1)

    model = nn.Sequential(nn.Linear(7, 6, rng=0), nn.Tanh(), nn.Linear(6, 3, rng=1))
    with np.errstate(all="ignore"):
        nn.CentralDifference()(model, Log(), rng.standard_normal((4, 7)), np.zeros((4, 3)))
    assert not calls
