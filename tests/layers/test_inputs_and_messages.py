"""Several inputs through the whole of training, and messages that name what was meant."""

import copy
import pickle

import numpy as np
import pytest

import nnframe as nn

RNG = np.random.default_rng(0)
X, Z = RNG.standard_normal((20, 4)), RNG.standard_normal((20, 2))
T = RNG.integers(0, 3, 20)


class Both(nn.Layer):
    def __init__(self):
        self.a = nn.Linear(4, 3, rng=0)
        self.b = nn.Linear(2, 3, rng=1)

    def forward(self, x):
        a, b = x
        return np.tanh(self.a(a) + self.b(b))


class Product(nn.Layer):
    def __init__(self):
        self.w = nn.Parameter(np.ones((2, 3)))

    def forward(self, x):
        a, b = x
        return (a[:, :2] * b) @ self.w.value


def branches():
    return nn.Sequential(nn.Branches(nn.Linear(4, 3, rng=0), nn.Linear(2, 3, rng=1)), nn.Tanh(), nn.Linear(3, 3, rng=2))


def with_ids():
    return nn.Branches(nn.Embedding(5, 3, rng=0), nn.Linear(2, 3, rng=1))


@pytest.mark.parametrize("strategy", [nn.CentralDifference, nn.Backprop])
@pytest.mark.parametrize("make", [branches, Both, Product, with_ids])
def test_a_tuple_is_trained_on_measured_and_predicted_from(make, strategy):
    model = make()
    x = (np.arange(20) % 5, Z) if make is with_ids else (X, Z)
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.1), strategy())
    history = trainer.fit(x, T, epochs=2, batch_size=8, validation_data=(x, T), progress=False)
    assert trainer.evaluate(x, T, batch_size=7)["loss"] == pytest.approx(history["val_loss"][-1], abs=1e-6)
    np.testing.assert_allclose(trainer.predict(x, batch_size=7), model(x), atol=1e-6)

    double = make().astype(np.float64)
    loss = nn.CrossEntropyLoss()
    strategy()(double, loss, x, T)
    for parameter in double.parameters():
        expected = nn.numerical_gradient(lambda _: loss(double(x), T), parameter.value)
        np.testing.assert_allclose(parameter.grad, expected, atol=1e-8)


@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer])
@pytest.mark.parametrize(
    "use",
    [
        lambda x, w: x @ w,
        lambda x, w: w @ x,
        lambda x, w: x * w,
        lambda x, w: w - x,
        lambda x, w: np.exp(w),
        lambda x, w: np.dot(x, w),
        lambda x, w: x + np.asarray(w)[0],
    ],
)
def test_a_parameter_in_place_of_its_array_is_named(kind, use):
    with pytest.raises(TypeError, match=rf"expected an array, got a {kind.__name__} .*its array is \.value"):
        use(np.ones((2, 2)), kind(np.ones((2, 2))))


def test_an_attribute_of_the_array_is_pointed_to():
    with pytest.raises(AttributeError, match=r"a Parameter has no 'T'; its array does: \.value\.T"):
        nn.Parameter([1.0]).T  # noqa: B018
    with pytest.raises(AttributeError, match="a Parameter has no 'weight'$"):
        nn.Parameter([1.0]).weight  # noqa: B018


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda held: pickle.loads(pickle.dumps(held))])
def test_parameters_and_buffers_are_copied(copied):
    parameter = copied(nn.Parameter([1.0, 2.0], np.float64, trainable=False))
    np.testing.assert_array_equal(parameter.value, [1, 2])
    assert parameter.value.dtype == np.float64
    assert not parameter.trainable
    np.testing.assert_array_equal(copied(nn.Buffer([3])).value, [3])


class Block(nn.Layer):
    def __init__(self):
        self.body = nn.Sequential(nn.Linear(5, 5, rng=0), nn.Linear(3, 2, rng=0))

    def forward(self, x):
        return self.body(x)


def test_an_error_names_the_layer_by_its_whole_path():
    model = nn.Sequential(nn.Linear(4, 5, rng=0), Block())
    optimizer = nn.SGD(model.parameters(), 0.1)
    for run in (
        lambda: model(X),
        lambda: model(X, training=True),
        lambda: nn.Trainer(model, nn.CrossEntropyLoss(), optimizer).fit(X, T, progress=False),
        lambda: nn.Backprop()(model, nn.CrossEntropyLoss(), X, T),
    ):
        with pytest.raises(ValueError, match="expected shape") as caught:
            run()
        assert caught.value.__notes__ == ["in the forward pass of layer 1.body.1: Linear(3, 2)"]


@pytest.mark.parametrize("init", ["he", 0, np.zeros((2, 3)), nn.He])
def test_an_init_that_is_none_is_named(init):
    for make in (lambda: nn.Linear(3, 2, init=init), lambda: nn.Embedding(3, 2, init=init)):
        with pytest.raises(TypeError, match=r"init: expected an initializer such as nn\.He\(\)"):
            make()


def test_flags_and_dtypes_of_other_kinds_are_named():
    with pytest.raises(TypeError, match="bias: expected True or False"):
        nn.Linear(2, 3, bias=np.zeros(3))
    with pytest.raises(TypeError, match="dtype: expected float32 or float64, got 'foo'"):
        nn.Linear(2, 3, dtype="foo")


def test_parameters_in_lists_and_mixins_of_a_class_are_refused():
    class Mixin:
        w = nn.Parameter(np.ones(2))

    with pytest.raises(TypeError, match=r"Listed\.ws: expected in each object, got a Parameter of the class"):

        class Listed(nn.Layer):
            ws = (nn.Parameter(np.ones(2)),)

    with pytest.raises(TypeError, match=r"Keyed\.body: expected in each object, got a Linear of the class"):

        class Keyed(nn.Layer):
            body = {"a": nn.Linear(2, 2)}  # noqa: RUF012

    with pytest.raises(TypeError, match=r"Mixed\.w: expected in each object, got a Parameter of the class"):

        class Mixed(Mixin, nn.Layer):
            pass

    class Shadowed(Mixin, nn.Layer):
        w = None


@pytest.mark.parametrize("strategy", [nn.CentralDifference, nn.Backprop, nn.NodePerturbation, nn.SPSA])
def test_a_strategy_given_a_loss_in_place_of_a_model_says_so(strategy):
    with pytest.raises(TypeError, match="model: expected a Layer, got CrossEntropyLoss"):
        strategy()(nn.CrossEntropyLoss(), branches(), X, T)


class Counts(nn.Layer):
    """Changes a buffer that its output does not depend on."""

    def __init__(self):
        self.mean = nn.Buffer(np.zeros(4))

    def forward(self, x):
        self.mean.value = 0.9 * self.mean.value + 0.1 * x.mean(0)
        return x * 2


def test_a_forward_that_changes_a_buffer_is_refused():
    model = nn.Sequential(nn.Linear(4, 4, rng=0), Counts(), nn.Linear(4, 3, rng=1))
    with pytest.raises(nn.LayerError, match="layer 1: .*forward changes the buffer mean"):
        nn.Backprop()(model, nn.CrossEntropyLoss(), X, T)


def test_a_summary_takes_a_shape_for_each_input_and_does_without():
    lines = branches().summary(((4,), (2,))).splitlines()
    assert lines[-2].split()[3] == "3"
    assert "Linear(3, 3)" in branches().summary()
    assert Both().summary().splitlines()[-1].startswith("24 parameters")
    table = nn.Sequential(nn.Embedding(10, 3), nn.Linear(3, 2)).summary()
    assert table.splitlines()[1].split()[3] == "3"
    for shape in (3, "a", (-3,), (2.5,)):
        with pytest.raises(TypeError, match="input_shape: expected a tuple such as"):
            nn.Linear(3, 2).summary(shape)


def test_an_assigned_value_or_gradient_is_copied():
    given = np.ones((2, 2), np.float32)
    one, other = nn.Parameter(np.zeros((2, 2))), nn.Parameter(np.zeros((2, 2)))
    one.value = one.grad = other.value = given
    nn.SGD([one, other], lr=0.5).step()
    np.testing.assert_array_equal(given, np.ones((2, 2)))
    np.testing.assert_array_equal(one.value, np.full((2, 2), 0.5))
    np.testing.assert_array_equal(other.value, given)
    kept = one.value
    one.value -= 1
    assert one.value is kept


def test_what_is_assigned_is_named():
    parameter = nn.Parameter(np.zeros((2, 2)))
    for value in (None, "a", nn.Parameter(np.zeros((2, 2))), [[1, 2], [3]]):
        with pytest.raises((TypeError, ValueError), match="expected"):
            parameter.value = value
    with pytest.raises(TypeError, match="std: expected a number"):
        nn.Normal("a")
