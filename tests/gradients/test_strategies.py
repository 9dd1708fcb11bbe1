"""Hybrid backpropagation, node perturbation, SPSA, and the check of written backward passes."""

import math

import numpy as np
import pytest
from test_gradients import BatchCentre, FourthPower, LearnedSwish, RowNorm, Swish, compare, gradients, network, sparse

import nnframe as nn


class Scale(nn.Layer):
    """One factor for each column; rowwise, without a backward."""

    def __init__(self, n, dtype):
        self.factor = nn.Parameter(np.linspace(0.5, 1.5, n), dtype)

    def forward(self, x):
        return np.sin(x * self.factor.value) + x[:, ::-1]


# ---- hybrid: backward where written, local differences where not ----


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), FourthPower()], ids=repr)
@pytest.mark.parametrize("custom", [Swish, LearnedSwish, RowNorm, BatchCentre, Scale])
def test_backprop_through_layers_without_a_backward(dtype, rng, custom, loss):
    layer = custom(8, dtype) if custom in (LearnedSwish, Scale) else custom()
    model = network(dtype, (12, 8), nn.Tanh(), layer, (8, 5), nn.Sigmoid(), (5, 3))
    x = sparse(rng, 9, 12)
    t = rng.integers(0, 3, 9) if isinstance(loss, nn.CrossEntropyLoss) else rng.standard_normal((9, 3))
    central = gradients(nn.CentralDifference(), model, loss, x, t)
    compare(gradients(nn.Backprop(), model, loss, x, t), central, 1e-8 if dtype == np.float64 else 5e-6)


def test_hybrid_counts_its_forwards(rng):
    # two for an elementwise layer, two a column for a rowwise one, two an entry of a parameter
    class Counting(nn.Layer):
        rows = 0

        def forward(self, x):
            type(self).rows += len(x)
            return np.sin(x)

    class Dense(Counting):
        def forward(self, x):
            type(self).rows += len(x)
            return x / np.sqrt((x * x).sum(axis=1, keepdims=True))

    class Centred(Counting):
        def forward(self, x):
            type(self).rows += len(x)
            return x - x.mean(axis=0)

    for base, flags, expected in (
        (Counting, {}, 2),
        (Counting, {"couples": "rows"}, 2),  # columns that do not meet are moved together
        (Counting, {"couples": "batch"}, 2),
        (Dense, {}, 2 * 6),
        (Centred, {}, 2 * 10),  # one row of all columns at a time
    ):
        kind = type("Kind", (base,), flags | {"rows": 0})
        model, strategy = network(np.float64, (4, 6), kind(), (6, 3)), nn.Backprop()
        for _ in range(3):  # it is asked at the first, and looked at again at the second
            kind.rows = 0
            strategy(model, nn.CrossEntropyLoss(), sparse(rng, 10, 4), rng.integers(0, 3, 10))
        once = 10  # the forward pass
        assert kind.rows == once + expected * 10, (base, flags)


def test_a_finite_step_passes_a_quantiser(rng):
    class Quantiser(nn.Layer):
        def forward(self, x):
            return np.round(4 * x) / 4

    model = network(np.float32, (6, 5), Quantiser(), (5, 3))
    x, t = sparse(rng, 8, 6), rng.integers(0, 3, 8)
    with pytest.warns(
        RuntimeWarning, match=r"Quantiser\(\): its differences are all 0, .* larger step than 6.05545e-06"
    ):
        nn.Backprop()(model, nn.CrossEntropyLoss(), x, t)
    assert not model[0].weight.grad.any()
    nn.Backprop(step=0.5)(model, nn.CrossEntropyLoss(), x, t)
    assert model[0].weight.grad.any()
    assert repr(nn.Backprop(step=0.5)) == "Backprop(step=0.5)"


# ---- node perturbation ----


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss(), FourthPower()], ids=repr)
@pytest.mark.parametrize("middle", [nn.Tanh(), Swish(), RowNorm(), BatchCentre()], ids=repr)
def test_node_perturbation_has_the_gradient_as_its_limit(simd, dtype, rng, middle, loss):
    model = network(dtype, (12, 8), middle, (8, 5), nn.Sigmoid(), (5, 3))
    x = sparse(rng, 9, 12)
    t = rng.integers(0, 3, 9) if isinstance(loss, nn.CrossEntropyLoss) else rng.standard_normal((9, 3))
    exact = gradients(nn.CentralDifference(1e-5), model, loss, x, t)
    found = gradients(nn.NodePerturbation(1e-5), model, loss, x, t)
    compare(found, exact, 1e-7 if dtype == np.float64 else 5e-6)


def test_node_perturbation_is_its_definition(rng):
    # with a large step it differs from the central difference, and is what its formula says
    model, h = network(np.float64, (5, 4), nn.Tanh(), (4, 3)), 0.5
    x, t, loss = sparse(rng, 6, 5), rng.integers(0, 3, 6), nn.CrossEntropyLoss()
    found = gradients(nn.NodePerturbation(h), model, loss, x, t)
    y = model[0](x)
    g = np.zeros_like(y)
    for n in range(6):
        for o in range(4):
            for sign in (1, -1):
                moved = y.copy()
                moved[n, o] += sign * h
                g[n, o] += sign * loss(model[2](np.tanh(moved)), t) / (2 * h)
    np.testing.assert_allclose(found["0.weight"], g.T @ x, atol=1e-12)
    np.testing.assert_allclose(found["0.bias"], g.sum(axis=0), atol=1e-12)
    central = gradients(nn.CentralDifference(h), model, loss, x, t)
    assert np.abs(found["0.weight"] - central["0.weight"]).max() > 1e-3


def test_node_perturbation_counts_outputs(rng):
    model = network(np.float64, (5, 4), nn.Tanh(), (4, 3))
    x, t = sparse(rng, 6, 5), rng.integers(0, 3, 6)
    cost = nn.NodePerturbation().cost(model, nn.CrossEntropyLoss(), x, t)
    assert cost.evaluations == 2 * 6 * (4 + 3)
    assert repr(nn.NodePerturbation(0.1)) == "NodePerturbation(step=0.1)"


def test_a_layer_that_stands_twice_gets_both_gradients(rng):
    shared = nn.Linear(5, 5, dtype=np.float64, rng=1)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(5, 3, dtype=np.float64, rng=2))
    x, t = sparse(rng, 6, 5), rng.integers(0, 3, 6)
    compare(
        gradients(nn.NodePerturbation(), model, nn.CrossEntropyLoss(), x, t),
        gradients(nn.Backprop(), model, nn.CrossEntropyLoss(), x, t),
        1e-7,
    )


# ---- SPSA ----


def small(rng):
    model = network(np.float64, (4, 3), nn.Tanh(), (3, 2))
    return model, nn.CrossEntropyLoss(), sparse(rng, 8, 4), rng.integers(0, 2, 8)


def flat(found):
    return np.concatenate([g.reshape(-1) for g in found.values()])


@pytest.mark.parametrize(("distribution", "factor"), [("rademacher", -1), ("gaussian", 1)])
def test_spsa_has_the_mean_and_the_variance_that_it_states(rng, distribution, factor):
    model, loss, x, t = small(rng)
    exact = flat(gradients(nn.Backprop(), model, loss, x, t))
    strategy = nn.SPSA(1e-5, distribution=distribution, rng=0)
    draws = np.array([flat(gradients(strategy, model, loss, x, t)) for _ in range(2000)])
    size = float(exact @ exact)
    variance = (len(exact) + factor) * size
    squared = ((draws - exact) ** 2).sum(axis=1)
    assert squared.mean() == pytest.approx(variance, rel=0.15)
    assert ((draws.mean(axis=0) - exact) ** 2).sum() <= 3 * variance / len(draws)
    several = nn.SPSA(1e-5, samples=16, distribution=distribution, rng=0)
    draws = np.array([flat(gradients(several, model, loss, x, t)) for _ in range(300)])
    assert ((draws - exact) ** 2).sum(axis=1).mean() == pytest.approx(variance / 16, rel=0.2)


def test_spsa_is_the_two_sided_slope_along_its_directions(rng):
    model, loss, x, t = small(rng)
    strategy = nn.SPSA(0.1, rng=3)
    found = flat(gradients(strategy, model, loss, x, t))
    parameters = model.parameters()
    seed = np.random.default_rng(3).integers(0, 2**63, 1)[0]
    direction = list(strategy.directions(seed, parameters))
    assert {float(v) for d in direction for v in d.reshape(-1)} == {-1.0, 1.0}
    before = [p.value.copy() for p in parameters]
    sides = []
    for sign in (0.1, -0.1):
        for p, value, d in zip(parameters, before, direction, strict=True):
            p.value[...] = value + sign * d
        sides.append(loss(model(x), t))
    expected = (sides[0] - sides[1]) / 0.2 * np.concatenate([d.reshape(-1) for d in direction])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_spsa_repeats_and_leaves_the_model(dtype, rng):
    model = network(dtype, (4, 3), Swish(), (3, 2))
    x, t = sparse(rng, 8, 4), rng.integers(0, 2, 8)
    before = model.state_dict()
    runs = [gradients(nn.SPSA(samples=3, rng=5), model, nn.CrossEntropyLoss(), x, t) for _ in range(2)]
    compare(runs[0], runs[1], 0)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert nn.SPSA(samples=3).cost(model, nn.CrossEntropyLoss(), x, t).evaluations == 7


def test_spsa_trains(rng):
    x = rng.standard_normal((64, 2))
    t = (x[:, 0] + x[:, 1] > 0).astype(int)
    model = network(np.float32, (2, 2))
    strategy = nn.SPSA(samples=4, rng=0)
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.2), strategy)
    trainer.fit(x, t, epochs=30, batch_size=16, rng=0, progress=False)
    assert trainer.evaluate(x, t)["accuracy"] > 0.93


def test_bad_arguments():
    for make, message in (
        (lambda: nn.SPSA(samples=0), "samples: expected an integer of at least 1, got 0"),
        (lambda: nn.SPSA(distribution="uniform"), "distribution: expected 'rademacher' or 'gaussian'"),
        (lambda: nn.SPSA(0), "step: expected a finite number above 0, got 0"),
        (lambda: nn.NodePerturbation(-1), "step: expected a finite number above 0, got -1"),
        (lambda: nn.Backprop(math.nan), "step: expected a finite number above 0, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# ---- checking what was written ----


class Wrong(nn.Layer):
    """tanh with one planted mistake in its backward."""

    def __init__(self, mistake):
        self.mistake = mistake

    def forward(self, x):
        return np.tanh(x)

    def backward(self, x, y, dy):
        dx = dy * (1 - y * y)
        dx[self.mistake] *= 1.01
        return dx


def test_check_gradients_finds_a_single_wrong_entry(rng):
    model = nn.Sequential(nn.Linear(5, 4, rng=0), Wrong((2, 3)), nn.Linear(4, 3, rng=1))
    checks = nn.check_gradients(model, rng.standard_normal((7, 5)))
    assert [(c.layer.partition(":")[0], c.what) for c in checks] == [
        ("layer 0", "x"), ("layer 0", "weight"), ("layer 0", "bias"), ("layer 1", "x"),
        ("layer 2", "x"), ("layer 2", "weight"), ("layer 2", "bias"),
    ]  # fmt: skip
    assert [c.right for c in checks] == [True, True, True, False, True, True, True]
    assert not checks
    assert checks[3].entry == (2, 3)
    assert checks[3].counts == {"right": 27, "WRONG": 1}
    assert "WRONG" in str(checks[3])
    assert "only in one entry, [2, 3], it is wrong, by the factor 1.01" in checks.cause
    assert [layer.verified for layer in model] == [True, False, True]


@pytest.mark.parametrize(
    "layer",
    [nn.Sigmoid(), nn.Tanh(), nn.ELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Softplus(), nn.SELU(), nn.Mish()],
    ids=repr,
)
def test_built_in_layers_are_right(rng, layer):
    assert all(check.right for check in nn.check_gradients(layer, rng.standard_normal((6, 5))))
    assert layer.verified


def test_check_gradients_passes_over_layers_without_a_backward(rng):
    report = nn.check_gradients(Swish(), rng.standard_normal((3, 4)))
    assert [check.verdict for check in report] == ["not checked"]
    assert "Nothing was checked" in str(report)
    before = nn.Linear(4, 3)
    before.weight.grad[...] = 7
    nn.check_gradients(before, rng.standard_normal((3, 4)))
    assert (before.weight.grad == 7).all()
