"""The embedding: a table that ids look up, and that each strategy trains."""

import numpy as np
import pytest
from harness import assert_close

import nnframe as nn

IDS = [((7,), ()), ((7, 5), (5,)), ((7, 5, 2), (5, 2))]


class Total(nn.Layer):
    """Ids looked up, and their vectors summed with weights that differ from position to position."""

    takes_integers = True

    def __init__(self, embedding):
        self.embedding = embedding

    def forward(self, x):
        found = self.embedding(x).reshape(len(x), -1, self.embedding.embedding_dim)
        return (found * np.linspace(-1, 1, found.shape[1] + 1, dtype=found.dtype)[:-1, None]).sum(axis=1)


@pytest.mark.parametrize(("shape", "tail"), IDS)
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.uint64])
def test_ids_look_up_vectors(dtype, rng, kind, shape, tail):
    layer = nn.Embedding(11, 3, dtype=dtype, rng=1)
    x = rng.integers(0, 11, shape).astype(kind)
    y = layer(x)
    assert y.shape == (7, *tail, 3)
    assert y.dtype == dtype
    for index in np.ndindex(*shape):
        np.testing.assert_array_equal(y[index], layer.weight.value[int(x[index])])
    np.testing.assert_array_equal(layer(x, training=True), y)
    np.testing.assert_array_equal(layer(np.asfortranarray(x)), y)
    y += 1
    assert not np.array_equal(y, layer(x))


@pytest.mark.parametrize(("shape", "tail"), IDS)
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_backward_adds_up_each_vectors_gradient(dtype, rng, padding_idx, shape, tail):
    layer = nn.Embedding(11, 3, padding_idx, dtype=dtype, rng=1)
    x = rng.integers(0, 11, shape)
    dy = rng.standard_normal((*shape, 3)).astype(dtype)
    expected = np.zeros((11, 3))
    for index in np.ndindex(*shape):
        if padding_idx is None or x[index] != padding_idx % 11:
            expected[x[index]] += dy[index]
    y = layer(x)
    assert layer.backward(x, y, dy).shape == x.shape
    once = layer.weight.grad.copy()
    assert_close(once, expected, 5e-7 if dtype == np.float32 else 1e-14)
    layer.backward_parameters(x, y, dy)
    np.testing.assert_array_equal(layer.weight.grad, 2 * once)
    empty = nn.Embedding(11, 3, dtype=dtype)
    empty.backward_parameters(x[:0], y[:0], dy[:0])
    assert not empty.weight.grad.any()


def test_backward_has_the_same_bits_for_the_same_rows(rng):
    x, dy = rng.integers(0, 5, 100_000), rng.uniform(0.5, 1.5, (100_000, 2)).astype(np.float32)
    found = []
    for kind in (np.int64, np.uint8, np.int32):
        layer = nn.Embedding(5, 2, rng=1)
        layer.backward_parameters(x.astype(kind), layer(x), dy)
        found.append(layer.weight.grad)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    exact = np.stack([dy[x == i].sum(axis=0, dtype=np.float64) for i in range(5)])
    assert_close(found[0], exact, 1e-6)
    for many in (1 << 16, (1 << 16) + 1):
        wide = nn.Embedding(many, 2, rng=1)
        ids = x + many - 5
        wide.backward_parameters(ids, wide(ids), dy)
        np.testing.assert_array_equal(wide.weight.grad[-5:], found[0])
        assert not wide.weight.grad[:-5].any()


def test_perturb_tells_which_outputs_an_entry_moves(dtype, rng):
    layer = nn.Embedding(300, 3, padding_idx=1, dtype=dtype, rng=1)
    x = rng.integers(0, 4, (7, 5)).astype(np.uint8)
    y = layer(x)
    indices = np.array([3 * 0 + 2, 3 * 3 + 0, 3 * 1 + 1, 3 * 256 + 2])  # 256 is 0 in uint8
    changes = layer.perturb(layer.weight, indices, 0.5, x, y)
    expected = np.zeros((4, *y.shape))
    expected[0, ..., 2] = 0.5 * (x == 0)
    expected[1, ..., 0] = 0.5 * (x == 3)
    np.testing.assert_array_equal(changes, expected)
    assert changes.dtype == dtype


STRATEGIES = [nn.CentralDifference(), nn.CentralDifference(interpolate=False), nn.Backprop(), nn.NodePerturbation()]


def models(dtype, padding_idx=None):
    """Models with a table at the bottom: seen in an attribute, inside an opaque layer, in a Sequential, shared."""

    def table():
        return nn.Embedding(6, 4, padding_idx, dtype=dtype, rng=1)

    class Flat(nn.Layer):
        takes_integers = True

        def __init__(self):
            self.table, self.tanh = table(), nn.Tanh()
            self.norm, self.top = nn.BatchNorm1d(20, dtype=dtype), nn.Linear(20, 3, dtype=dtype, rng=2)

        def forward(self, x):
            found = self.table(x)
            return self.top(self.tanh(self.norm(found.reshape(len(x), -1))))

    tied = table()
    yield Flat()
    yield nn.Sequential(Total(table()), nn.Tanh(), nn.Linear(4, 3, dtype=dtype, rng=2))
    yield nn.Sequential(table(), nn.LayerNorm((5, 4), dtype=dtype), Sum(), nn.Linear(4, 3, dtype=dtype, rng=2))
    yield nn.Sequential(
        nn.Branches(Total(table()), Total(table()), join="multiply"), nn.Linear(4, 3, dtype=dtype, rng=2)
    )
    yield nn.Sequential(nn.Branches(Total(tied), nn.Sequential(Total(tied), nn.Tanh()), join="concatenate"),
                        nn.Linear(8, 3, dtype=dtype, rng=2))  # fmt: skip


class Sum(nn.Layer):
    def forward(self, x):
        return x.sum(axis=1)


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_each_strategy_has_the_gradient_of_the_definition(dtype, rng, strategy, which, padding_idx):
    model = list(models(dtype, padding_idx))[which]
    loss, double = nn.CrossEntropyLoss(), model.astype(np.float64)
    x, t = np.argsort(rng.random((7, 5)), axis=0) % 5, rng.integers(0, 3, 7)  # the last id does not occur
    for k in range(2):  # a second batch holds other ids
        ids = (x + k) % 6
        assert strategy(model, loss, ids, t) == pytest.approx(loss(model(ids, training=True), t))
        expected = {
            name: nn.numerical_gradient(lambda _: loss(double(ids, training=True), t), parameter.value, step=1e-5)  # noqa: B023
            for name, parameter in double.named_parameters()
        }
        scale = max(np.abs(g).max() for g in expected.values())
        for name, parameter in model.named_parameters():
            error = np.abs(parameter.grad - expected[name]).max() / scale
            assert error <= (1e-8 if dtype == np.float64 else 5e-6), f"{name}: {error:.1e}"


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_padding_is_not_trained(dtype, rng, strategy):
    for model in (one for i, one in enumerate(models(dtype, 2)) if i in (0, 2)):
        table = model.table if hasattr(model, "table") else model[0]
        assert not table.weight.value[2].any()
        x, t = rng.integers(0, 6, (7, 5)), rng.integers(0, 3, 7)
        strategy(model, nn.CrossEntropyLoss(), x, t)
        assert not table.weight.grad[2].any()
        table.weight.value[2] = 7
        assert not table(np.array([2])).any()
        table.weight.value[2] = 0
        assert table.weight.grad[np.unique(x[x != 2])].any(axis=1).all()
        trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters()), strategy)
        trainer.fit(x, t, epochs=2, progress=False)
        assert not table.weight.value[2].any()


@pytest.mark.parametrize("padding_idx", [None, 3])
def test_pytorch(rng, padding_idx):
    torch = pytest.importorskip("torch")
    layer = nn.Embedding(11, 3, padding_idx, dtype=np.float64, rng=1)
    peer = torch.nn.Embedding(11, 3, padding_idx, dtype=torch.float64)
    assert list(layer.state_dict()) == list(peer.state_dict())
    with torch.no_grad():
        peer.weight.copy_(torch.from_numpy(layer.weight.value))
    x, dy = rng.integers(0, 11, (7, 5)), rng.standard_normal((7, 5, 3))
    y = peer(torch.from_numpy(x))
    y.backward(torch.from_numpy(dy))
    assert_close(layer(x), y.detach().numpy(), 1e-10)
    layer.backward(x, layer(x), dy)
    assert_close(layer.weight.grad, peer.weight.grad.numpy(), 1e-10)
    assert nn.Embedding(3000, 3, rng=1).weight.value.std() == pytest.approx(1, rel=0.03)


def test_ids_above_2_to_24_arrive_exactly():
    most = 2**24 + 1
    layer = nn.Embedding(most + 1, 1, init=lambda shape, rng: np.broadcast_to(np.float32(0), shape))
    layer.weight.value[most] = 3
    model = nn.Sequential(layer, nn.Linear(1, 1, init=nn.Normal(1), rng=1))
    weight = model[1].weight.value[0, 0]
    np.testing.assert_array_equal(model(np.array([most, most - 1, 0])), [[3 * weight], [0], [0]])
    nn.Backprop()(model, nn.MSELoss(), np.array([most, 5]), np.zeros((2, 1)))
    assert list(np.flatnonzero(layer.weight.grad)) == [most]
    only = np.zeros(layer.weight.value.shape, bool)
    only[[most - 1, most]] = True
    central = nn.CentralDifference(only={layer.weight: only})
    central(model, nn.MSELoss(), np.array([most, 5]), np.zeros((2, 1)))
    assert list(np.flatnonzero(layer.weight.grad)) == [most]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([[0, 5]], r"x: expected ids in \[0, 5\), got 5"),
        ([[0, 16777217]], r"x: expected ids in \[0, 5\), got 16777217"),
        ([[0, -1]], r"x: expected ids in \[0, 5\), got -1"),
        ([[0.0, 1.0]], "x: expected ids, an array of integers, got float32; .* takes_integers = True"),
        ([[True, False]], "x: expected ids, an array of integers, got"),
        ([["a"]], "x: expected real numbers"),
    ],
)
def test_strange_ids_are_refused(ids, words):
    model = nn.Sequential(nn.Embedding(5, 2), nn.LayerNorm(2))
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        model(ids)
    if "real" not in words:
        assert any("layer 0: Embedding(5, 2)" in note for note in caught.value.__notes__)


def test_a_model_that_does_not_say_it_takes_ids_is_told_how():
    class Model(nn.Layer):
        def __init__(self):
            self.table = nn.Embedding(5, 2)

        def forward(self, x):
            return self.table(x)

    with pytest.raises(TypeError, match="takes_integers = True"):
        Model()(np.array([1, 2]))
    with pytest.raises(TypeError, match="takes_integers = True"):
        nn.Sequential(nn.Linear(2, 2), nn.Embedding(5, 2))(np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Embedding(0, 2), "num_embeddings: expected at least 1, got 0"),
        (lambda: nn.Embedding(2, 1.5), "embedding_dim: expected a whole number, got 1.5"),
        (lambda: nn.Embedding(5, 2, 5), r"padding_idx: expected an id in \[-5, 5\), got 5"),
        (lambda: nn.Embedding(5, 2, 1.0), r"padding_idx: expected an integer or None, got 1\.0"),
        (lambda: nn.Embedding(5, 2, init=lambda shape, rng: np.zeros(3)), r"init: expected a weight of shape \(5, 2\)"),
        (lambda: nn.Embedding(5, 2, dtype=int), "dtype: expected float32 or float64"),
        (lambda: nn.Embedding(5, 2, rng="seed"), "rng: expected np.random.Generator"),
    ],
)
def test_arguments_are_refused_by_name(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_attributes_and_repr():
    layer = nn.Embedding(5, 2, padding_idx=-1)
    assert layer.couples == "rows"
    assert (layer.num_embeddings, layer.embedding_dim, layer.padding_idx) == (5, 2, 4)
    assert repr(layer) == "Embedding(5, 2, padding_idx=4)"
    assert repr(nn.Embedding(5, 2)) == "Embedding(5, 2)"
