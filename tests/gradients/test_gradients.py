"""CentralDifference and Backprop against the definition, on networks of every kind."""

import itertools

import numpy as np
import pytest
from harness import assert_close

import nnframe as nn


class Swish(nn.Layer):
    def forward(self, x):
        return x / (1 + np.exp(-x))


class LearnedSwish(nn.Layer):
    """With a parameter, one for each unit."""

    def __init__(self, n, dtype):
        self.beta = nn.Parameter(np.linspace(0.5, 1.5, n), dtype)

    def forward(self, x):
        return x / (1 + np.exp(-self.beta.value * x))


class RowNorm(nn.Layer):
    def forward(self, x):
        return x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + 1)


class BatchCentre(nn.Layer):
    def forward(self, x):
        return x - x.mean(axis=0, keepdims=True) ** 2


class FourthPower(nn.Loss):
    def forward(self, y, t):
        return float(((y - t) ** 4).mean())


def labels_for(loss, rng, rows, classes):
    if isinstance(loss, nn.CrossEntropyLoss):
        return rng.integers(0, classes, rows)
    return rng.standard_normal((rows, classes))


def sparse(rng, rows, inputs):
    x = rng.standard_normal((rows, inputs))
    x[rng.random(x.shape) < 0.4] = 0
    return x


def gradients(strategy, model, loss, x, t):
    for parameter in model.parameters():
        parameter.grad[...] = np.nan  # a strategy overwrites
    value = strategy(model, loss, x, t)
    assert value == pytest.approx(loss(model(x), t))
    return {name: parameter.grad.copy() for name, parameter in model.named_parameters()}


def by_definition(model, loss, x, t, step=1e-4):
    model = model.astype(np.float64)
    return {
        name: nn.numerical_gradient(lambda _: loss(model(x), t), parameter.value, step=step)
        for name, parameter in model.named_parameters()
    }


def compare(actual, expected, bound):
    scale = max(np.abs(g).max() for g in expected.values())
    for name in expected:
        error = np.abs(actual[name] - expected[name]).max() / scale
        assert error <= bound, f"{name}: off by {error:.1e} of the largest entry"


def network(dtype, *parts):
    return nn.Sequential(
        *(nn.Linear(*part, dtype=dtype, rng=i) if isinstance(part, tuple) else part for i, part in enumerate(parts))
    )


LOSSES = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss("sum"),
    nn.CrossEntropyLoss(label_smoothing=0.1),
    nn.CrossEntropyLoss(weight=[1, 2, 3], ignore_index=1),
    nn.MSELoss(),
    nn.MSELoss("sum"),
]
ACTIVATIONS = [
    nn.Sigmoid(),
    nn.Tanh(),
    nn.ReLU(),
    nn.LeakyReLU(),
    nn.ELU(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Softplus(),
    nn.SELU(),
    nn.Mish(),
    nn.Hardswish(),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_built_in_networks(simd, dtype, rng, depth, activation, loss):
    sizes = [9, 6, 7, 5, 3]
    widths = [*sizes[:depth], 3]
    parts = []
    for i, pair in enumerate(itertools.pairwise(widths)):
        parts += [pair, activation] if i < depth - 1 else [pair]
    model = network(dtype, *parts)
    x, t = sparse(rng, 11, 9), labels_for(loss, rng, 11, 3)
    step = 1e-6 if type(activation) in (nn.ReLU, nn.LeakyReLU, nn.SELU, nn.Hardswish) else 1e-4
    central = gradients(nn.CentralDifference(step), model, loss, x, t)
    back = gradients(nn.Backprop(), model, loss, x, t)
    if dtype == np.float64:
        compare(central, by_definition(model, loss, x, t, step), 1e-8)
        compare(central, back, 1e-7)
    else:
        compare(central, back, 2e-6)
        compare(central, by_definition(model, loss, x, t, step), 2e-6)


def test_a_large_network(simd, dtype, rng):
    # several tiles a row, several blocks of inputs, rows that are all zero
    model = network(dtype, (300, 20), nn.Sigmoid(), (20, 17), nn.Tanh(), (17, 10))
    x, t = sparse(rng, 13, 300), rng.integers(0, 10, 13)
    x[4] = 0
    for loss in (nn.CrossEntropyLoss(), nn.MSELoss()):
        labels = t if isinstance(loss, nn.CrossEntropyLoss) else np.eye(10)[t]
        central = gradients(nn.CentralDifference(), model, loss, x, labels)
        compare(central, gradients(nn.Backprop(), model, loss, x, labels), 1e-9 if dtype == np.float64 else 2e-6)


@pytest.mark.parametrize("step", [1e-8, 1e-3, 0.05, 1.0, 40.0])
def test_any_step_is_the_central_difference_of_that_step(simd, dtype, rng, step):
    # large steps leave the range of every series: what comes is still (L(w+h) - L(w-h)) / 2h
    for parts in (((6, 5), nn.Sigmoid(), (5, 4), nn.Tanh(), (4, 3)), ((6, 5), nn.ReLU(), (5, 3)), ((6, 3),)):
        model, x, t = network(dtype, *parts), sparse(rng, 7, 6), rng.integers(0, 3, 7)
        for loss, labels in ((nn.CrossEntropyLoss(), t), (nn.MSELoss(), np.eye(3)[t])):
            central = gradients(nn.CentralDifference(step), model, loss, x, labels)
            expected = by_definition(model, loss, x, labels, step if step > 1e-6 else 1e-5)
            compare(central, expected, 1e-8 if dtype == np.float64 else 4e-6)


@pytest.mark.parametrize("loss", [*LOSSES, FourthPower()], ids=repr)
@pytest.mark.parametrize(
    "parts",
    [
        ((7, 5), Swish(), (5, 3)),
        ((7, 5), "learned", (5, 3)),
        ((7, 5), "learned", nn.Sigmoid(), Swish(), (5, 3)),
        ((7, 5), nn.Tanh(), Swish(), nn.Tanh(), (5, 6), nn.ReLU(), (6, 3)),
        ((7, 5), nn.Tanh(), (5, 5), "learned", (5, 3)),
        ((7, 5), RowNorm(), (5, 3)),
        ((7, 5), BatchCentre(), (5, 4), Swish(), (4, 3)),
        (Swish(), (7, 5), RowNorm(), nn.Sigmoid(), (5, 3), RowNorm()),
        ((7, 5), "nested", (4, 3)),
    ],
    ids=str,
)
def test_custom_layers_anywhere(dtype, rng, parts, loss):
    def make(part, i):
        if part == "learned":
            return LearnedSwish(5, dtype)
        if part == "nested":
            return nn.Sequential(nn.Tanh(), nn.Linear(5, 4, dtype=dtype, rng=9))
        return nn.Linear(*part, dtype=dtype, rng=i) if isinstance(part, tuple) else part

    model = nn.Sequential(*(make(part, i) for i, part in enumerate(parts)))
    x, t = sparse(rng, 11, 7), labels_for(loss, rng, 11, 3)
    actual = gradients(nn.CentralDifference(), model, loss, x, t)
    compare(actual, by_definition(model, loss, x, t, 1e-5), 1e-8 if dtype == np.float64 else 2e-6)


def test_a_subclass_is_not_taken_for_its_base(rng):
    class Doubled(nn.Sigmoid):
        def forward(self, x):
            return 2 * super().forward(x)

        def difference(self, x, y, dx):
            return 2 * super().difference(x, y / 2, dx)

    class Halved(nn.CrossEntropyLoss):
        def forward(self, y, t):
            return super().forward(y, t) / 2

        def difference(self, y, t, dy):
            return super().difference(y, t, dy) / 2

    model = network(np.float64, (7, 5), Doubled(), (5, 3))
    x, t = sparse(rng, 11, 7), rng.integers(0, 3, 11)
    for loss in (nn.CrossEntropyLoss(), Halved()):
        compare(gradients(nn.CentralDifference(), model, loss, x, t), by_definition(model, loss, x, t), 1e-8)


def test_shared_parameters(dtype, rng):
    shared = nn.Linear(5, 5, dtype=dtype, rng=1)
    model = network(dtype, (7, 5), nn.Tanh(), shared, nn.Sequential(nn.Tanh(), shared), nn.Tanh(), (5, 3))
    x, t = sparse(rng, 11, 7), rng.integers(0, 3, 11)
    loss = nn.CrossEntropyLoss()
    expected = by_definition(model, loss, x, t, 1e-5)
    bound = 1e-8 if dtype == np.float64 else 2e-6
    compare(gradients(nn.CentralDifference(), model, loss, x, t), expected, bound)
    compare(gradients(nn.Backprop(), model, loss, x, t), expected, bound)


def test_linear_on_three_axes(dtype, rng):
    model = network(dtype, (4, 5), nn.Sigmoid(), (5, 2))
    x, t = rng.standard_normal((3, 6, 4)), rng.standard_normal((3, 6, 2))
    expected = by_definition(model, nn.MSELoss(), x, t)
    for strategy in (nn.CentralDifference(), nn.Backprop()):
        compare(gradients(strategy, model, nn.MSELoss(), x, t), expected, 1e-7 if dtype == np.float64 else 2e-6)


def test_a_network_of_steps_trains(rng):
    # no derivative anywhere: only a finite step sees the edges
    x = rng.standard_normal((200, 2)).astype(np.float32)
    t = (x[:, 0] * x[:, 1] > 0).astype(int)
    model = nn.Sequential(nn.Linear(2, 12, rng=1), nn.Step(), nn.Linear(12, 2, rng=2))
    with pytest.warns(RuntimeWarning, match=r"Step\(\): its differences are all 0, so that no gradient passes"):
        nn.Backprop()(model, nn.CrossEntropyLoss(), x, t)
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), 0.05), nn.CentralDifference(0.3))
    before = trainer.evaluate(x, t)["accuracy"]
    trainer.fit(x, t, epochs=40, batch_size=50, rng=0, progress=False)
    assert trainer.evaluate(x, t)["accuracy"] > max(0.9, before)


def test_a_custom_layer_trains_in_the_middle_of_a_network():
    (x, t), test = nn.data.digits()
    for middle in (Swish(), LearnedSwish(30, np.float32)):
        rng = np.random.default_rng(0)
        model = nn.Sequential(nn.Linear(64, 30, rng=rng), middle, nn.Linear(30, 10, rng=rng))
        start = model.state_dict()
        trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.Adam(model.parameters(), 0.02), nn.CentralDifference())
        trainer.fit(x, t, epochs=5, batch_size=64, rng=rng, progress=False)
        assert trainer.evaluate(*test)["accuracy"] > 0.93
        assert all((model.state_dict()[name] != value).any() for name, value in start.items())


def test_the_same_bits_with_any_number_of_threads(dtype, rng, threads):
    deep = network(dtype, (200, 30), nn.Sigmoid(), (30, 20), nn.ReLU(), (20, 10))
    wide = network(dtype, (200, 30), nn.Tanh(), (30, 10))
    custom = network(dtype, (60, 30), Swish(), (30, 10))
    t = rng.integers(0, 10, 50)
    for model in (deep, wide, custom):
        x = sparse(rng, 50, model[0].in_features)
        found = []
        for n in (1, 2, 3):
            threads(n)
            found.append(gradients(nn.CentralDifference(), model, nn.CrossEntropyLoss(), x, t))
        for name in found[0]:
            np.testing.assert_array_equal(found[0][name], found[1][name])
            np.testing.assert_array_equal(found[0][name], found[2][name])


def test_the_model_is_never_changed(rng):
    model = network(np.float32, (7, 5), LearnedSwish(5, np.float32), (5, 3))
    before = model.state_dict()
    nn.CentralDifference()(model, nn.CrossEntropyLoss(), sparse(rng, 6, 7), rng.integers(0, 3, 6))

    class Failing(nn.Layer):
        calls = 0

        def forward(self, x):
            Failing.calls += 1
            if Failing.calls == 3:
                raise KeyboardInterrupt
            return x.copy()

    broken = nn.Sequential(*model.layers, Failing())
    for parameter in model.parameters():
        parameter.grad[...] = 5
    with pytest.raises(KeyboardInterrupt):
        nn.CentralDifference()(broken, nn.CrossEntropyLoss(), sparse(rng, 6, 7), rng.integers(0, 3, 6))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert all((p.grad == 5).all() for p in model.parameters())


def test_refused(rng):
    model = network(np.float32, (7, 3))
    x, t = sparse(rng, 6, 7), rng.integers(0, 3, 6)
    for step in (0, -1e-3, float("nan"), "small"):
        with pytest.raises(ValueError, match="step: expected a finite number above 0"):
            nn.CentralDifference(step)
    with pytest.raises(TypeError, match="loss: expected a Loss such as"):
        nn.CentralDifference()(model, "cross entropy", x, t)
    for strategy in (nn.CentralDifference(), nn.Backprop()):
        with pytest.raises(ValueError, match=r"class indices in \[0, 3\), got 9"):
            strategy(model, nn.CrossEntropyLoss(), x, np.full(6, 9))

    class Vector(nn.Loss):
        def forward(self, y, t):
            return y.sum(axis=1)

    with pytest.raises(TypeError, match=r"Vector\(\): expected a single number, got ndarray of shape \(6,\)"):
        nn.CentralDifference()(model, Vector(), x, t)


def test_error_against_the_step(rng):
    # truncation falls with h^2 and no cancellation stops it, unlike for the plain quotient
    model = network(np.float64, (9, 6), nn.Sigmoid(), (6, 4))
    x, t = sparse(rng, 11, 9), rng.integers(0, 4, 11)
    back = gradients(nn.Backprop(), model, nn.CrossEntropyLoss(), x, t)
    errors = []
    for step in (1e-2, 1e-4, 1e-6, 1e-8):
        central = gradients(nn.CentralDifference(step), model, nn.CrossEntropyLoss(), x, t)
        scale = max(np.abs(g).max() for g in back.values())
        errors.append(max(np.abs(central[n] - back[n]).max() for n in back) / scale)
    assert errors[0] < 1e-4
    assert errors[1] < 1e-8
    assert errors[2] < 1e-12
    assert errors[3] < 1e-14


def test_assert_close_notices(rng):
    # the harness itself can fail
    with pytest.raises(AssertionError, match="entry"):
        assert_close(np.ones(3), np.array([1, 1, 1.1]), 1e-3)
