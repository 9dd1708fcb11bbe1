"""What CentralDifference may be asked for: curves or not, some entries, the cost, progress."""

import itertools
import time

import numpy as np
import pytest
from test_gradients import ACTIVATIONS, Swish, by_definition, compare, gradients, network, sparse

import nnframe as nn

ONE_BY_ONE = {"interpolate": False}


def apart(one, other):
    scale = max(np.abs(g).max() for g in other.values())
    return max(np.abs(one[name] - other[name]).max() for name in other) / scale


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(label_smoothing=0.1), nn.MSELoss("sum")], ids=repr)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, Swish()], ids=repr)
def test_curves_give_the_weights_one_by_one(simd, dtype, activation, loss):
    # hardswish has numbers of its own: of the others its rows nearly cancel in a bias, and float32 leaves 5.1e-6
    rng = np.random.default_rng(1 if isinstance(activation, nn.Hardswish) else 20250101)
    for depth in (1, 2, 3):
        widths = [40, 9, 7, 3][: depth + 1]
        parts = [part for pair in itertools.pairwise(widths) for part in (pair, activation)][:-1]
        model, x = network(dtype, *parts), sparse(rng, 21, 40)
        t = rng.integers(0, widths[-1], 21)
        t = t if isinstance(loss, nn.CrossEntropyLoss) else np.eye(widths[-1])[t]
        for step in (1e-6, 1e-5, 1e-2):
            one_by_one = gradients(nn.CentralDifference(step, **ONE_BY_ONE), model, loss, x, t)
            curves = gradients(nn.CentralDifference(step), model, loss, x, t)
            assert apart(curves, one_by_one) <= (1e-9 if dtype == np.float64 else 5e-6), (depth, step)


class Kinked(nn.Layer):
    """Rowwise, unknown to C, with kinks: the largest of three neighbours, and its row's norm."""

    def forward(self, x):
        wide = np.stack([x, np.roll(x, 1, axis=-1), np.roll(x, 2, axis=-1)])
        return wide.max(axis=0) / np.sqrt((x * x).sum(axis=-1, keepdims=True) + 1)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(weight=[1, 2, 3], ignore_index=1), nn.MSELoss()], ids=repr)
@pytest.mark.parametrize("step", [1e-6, 1e-5, 1e-2, 0.3])
def test_curves_below_layers_that_c_does_not_know(dtype, rng, loss, step):
    model = network(dtype, (40, 9), nn.Tanh(), (9, 7), Kinked(), (7, 3))
    x, t = sparse(rng, 21, 40), rng.integers(0, 3, 21)
    t = t if isinstance(loss, nn.CrossEntropyLoss) else np.eye(3)[t]
    one_by_one = gradients(nn.CentralDifference(step, **ONE_BY_ONE), model, loss, x, t)
    curves = gradients(nn.CentralDifference(step), model, loss, x, t)
    assert apart(curves, one_by_one) <= (1e-9 if dtype == np.float64 else 5e-6)
    compare(curves, by_definition(model, loss, x, t, step), 1e-7 if dtype == np.float64 and step > 1e-5 else 1e-5)


def test_a_curve_with_a_kink_is_left(rng):
    # almost every unit has rows whose weights carry it over the kink of ReLU: a curve would be wrong by some percent
    model, x = network(np.float64, (40, 12), nn.ReLU(), (12, 3)), sparse(rng, 30, 40)
    loss, t, step = nn.CrossEntropyLoss(), rng.integers(0, 3, 30), 0.05
    before = model[0](x)
    near = (np.abs(before) < step * np.abs(x).max(axis=1, keepdims=True)).any(axis=0)
    assert near.sum() > 9
    curves = gradients(nn.CentralDifference(step), model, loss, x, t)
    compare(curves, by_definition(model, loss, x, t, step), 1e-9)
    assert apart(curves, gradients(nn.Backprop(), model, loss, x, t)) > 1e-3


@pytest.mark.parametrize("step", [0.3, 5.0, 200.0])
def test_a_step_function_is_never_a_curve(rng, step):
    model, x = network(np.float64, (30, 6), nn.Step(), (6, 3)), sparse(rng, 10, 30)
    t = rng.integers(0, 3, 10)
    compare(
        gradients(nn.CentralDifference(step), model, nn.CrossEntropyLoss(), x, t),
        by_definition(model, nn.CrossEntropyLoss(), x, t, step),
        1e-9,
    )


def test_no_jump_between_the_samples_is_missed():
    # all six samples agreed on a gradient of 0: an argument crossed both edges between two of them
    wide = {"dtype": np.float64, "rng": 0}
    model = nn.Sequential(
        nn.Linear(10, 1, bias=False, **wide), nn.Linear(1, 2, **wide), nn.Step(), nn.Linear(2, 1, **wide)
    )
    for parameter, value in zip(model.parameters(), ([0.0] * 10, [1, 1], [-0.55, -0.75], [1, -1], [0]), strict=True):
        parameter.value[...] = np.reshape(value, parameter.value.shape)
    x, t = np.array([[1, 0.65, 0.7, 0.6, 0.3, 0.2, 0.9, 0.4, 0.1, 0.66]]), np.array([[2.0]])
    found = gradients(nn.CentralDifference(1.0), model, nn.MSELoss(), x, t)
    compare(found, by_definition(model, nn.MSELoss(), x, t, 1.0), 1e-12)
    assert np.count_nonzero(found["0.weight"] == -1.5) == 4


@pytest.mark.parametrize("at", [0.3, 0.5, 0.657, 0.8, 0.95])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(), nn.ELU(2.0), nn.SELU(), nn.Hardswish()], ids=repr)
def test_no_kink_between_the_samples_is_missed(dtype, rng, activation, at):
    # at 0.657 of the largest argument the samples of a piecewise straight function agree with each other
    model = network(dtype, (12, 1), activation, (1, 3))
    x, t, step = rng.uniform(-1, 1, (1, 12)), np.array([1]), 1e-2
    model[0].bias.value[...] = 0
    kink = 3 if isinstance(activation, nn.Hardswish) else 0
    model[0].bias.value -= model[0](x)[0] - at * step - kink
    found = gradients(nn.CentralDifference(step), model, nn.CrossEntropyLoss(), x, t)
    compare(found, by_definition(model, nn.CrossEntropyLoss(), x, t, step), 1e-11 if dtype == np.float64 else 2e-5)


def test_a_bump_of_smooth_layers_between_the_samples_is_not_missed():
    # two steep steps that undo each other, at 0.6 and 0.7 of the largest argument
    wide = {"dtype": np.float64, "rng": 0}
    model = nn.Sequential(nn.Linear(10, 1, **wide), nn.Linear(1, 2, **wide), nn.Sigmoid(), nn.Linear(2, 1, **wide))
    for parameter, value in zip(
        model.parameters(), ([0.0] * 10, [0], [1e3, 1e3], [-600, -700], [1, -1], [0]), strict=True
    ):
        parameter.value[...] = np.reshape(value, parameter.value.shape)
    x, t = np.array([[1, 0.65, 0.68, 0.6, 0.3, 0.2, 0.9, 0.4, 0.1, 0.66]]), np.array([[2.0]])
    found = gradients(nn.CentralDifference(1.0), model, nn.MSELoss(), x, t)
    compare(found, by_definition(model, nn.MSELoss(), x, t, 1.0), 1e-12)
    assert found["0.weight"][0, 1] < -1.4


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=repr)
def test_the_default_step_crosses_no_kink(dtype, rng, activation):
    # at 1e-5 most batches had a unit that crossed one: entries were off by up to 1 %
    model = network(dtype, (64, 128), activation, (128, 128), activation, (128, 10))
    exact = model.astype(np.float64)
    for _ in range(8):
        x, t = rng.standard_normal((100, 64)).astype(np.float32), rng.integers(0, 10, 100)
        found = gradients(nn.CentralDifference(), model, nn.CrossEntropyLoss(), x, t)
        expected = gradients(nn.Backprop(), exact, nn.CrossEntropyLoss(), x, t)
        compare(found, expected, 1e-14 if dtype == np.float64 else 2e-6)


def test_curves_that_are_straight_are_sampled_once(rng):
    # 4 ms in place of 50: far enough apart to be told from each other on a busy machine
    model = network(np.float64, (64, 64), nn.Tanh(), (64, 64), nn.Tanh(), (64, 64), nn.Tanh(), (64, 10))
    x, t = rng.standard_normal((100, 64)), rng.integers(0, 10, 100)
    times = {1e-12: [], 1e-5: []}
    for _ in range(5):
        for step, each in times.items():
            start = time.process_time()
            nn.CentralDifference(step)(model, nn.CrossEntropyLoss(), x, t)
            each.append(time.process_time() - start)
    assert min(times[1e-12]) < min(times[1e-5]) / 2


def test_rows_of_zeros_and_an_empty_batch(dtype, rng):
    for bias in (True, False):
        model = nn.Sequential(nn.Linear(20, 5, bias=bias, dtype=dtype, rng=0), nn.Tanh(), nn.Linear(5, 3, dtype=dtype))
        x, t = sparse(rng, 9, 20), rng.integers(0, 3, 9)
        x[3] = 0
        found = gradients(nn.CentralDifference(), model, nn.CrossEntropyLoss(), x, t)
        compare(found, gradients(nn.Backprop(), model, nn.CrossEntropyLoss(), x, t), 1e-5)
        nn.CentralDifference()(model, nn.CrossEntropyLoss("sum"), x[:0], t[:0])
        assert all((p.grad == 0).all() for p in model.parameters())


# ---- some entries ----


def model_and_batch(rng, dtype=np.float64):
    model = network(dtype, (30, 8), nn.Sigmoid(), (8, 6), nn.ReLU(), (6, 4))
    return model, nn.CrossEntropyLoss(), sparse(rng, 15, 30), rng.integers(0, 4, 15)


@pytest.mark.parametrize("interpolate", [True, False])
def test_only_some_parameters(rng, interpolate):
    model, loss, x, t = model_and_batch(rng)
    full = gradients(nn.CentralDifference(interpolate=interpolate), model, loss, x, t)
    mask = rng.random((8, 30)) < 0.4
    for only, asked in (
        ("2.weight", {"2.weight": True}),
        (model[0].bias, {"0.bias": True}),
        (["0.weight", model[4].bias], {"0.weight": True, "4.bias": True}),
        ({"0.weight": mask, model[4].weight: True}, {"0.weight": mask, "4.weight": True}),
        ([], {}),
    ):
        some = gradients(nn.CentralDifference(interpolate=interpolate, only=only), model, loss, x, t)
        for name, whole in full.items():
            expected = np.where(asked.get(name, False), whole, 0)
            np.testing.assert_allclose(some[name], expected, rtol=0, atol=1e-10, err_msg=f"{only}: {name}")
            assert ((some[name] != 0) <= np.broadcast_to(asked.get(name, False), whole.shape)).all()


@pytest.mark.parametrize("only", ["0.weight", "0.bias", ["0.bias", "2.weight"], nn.Blocks(50, rng=0)], ids=repr)
def test_some_entries_of_built_in_layers_are_taken_in_c(rng, only, monkeypatch):
    model, loss, x, t = model_and_batch(rng)
    monkeypatch.setattr("nnframe.gradients.central.StackedEntries.run", lambda *_: pytest.fail("taken entry by entry"))
    nn.CentralDifference(only=only)(model, loss, x, t)
    assert any(p.grad.any() for p in model.parameters())


def test_a_shared_weight_beside_a_bias_of_its_own(rng):
    one, two = nn.Linear(6, 6, dtype=np.float64, rng=1), nn.Linear(6, 6, dtype=np.float64, rng=2)
    two.weight = one.weight
    two.bias.value[...] = rng.standard_normal(6)
    model = nn.Sequential(one, nn.Tanh(), two, nn.Linear(6, 3, dtype=np.float64, rng=3))
    loss, x, t = nn.CrossEntropyLoss(), sparse(rng, 8, 6), rng.integers(0, 3, 8)
    full = gradients(nn.CentralDifference(), model, loss, x, t)
    compare(full, by_definition(model, loss, x, t), 1e-8)
    some = gradients(nn.CentralDifference(only=["0.weight", "2.bias"]), model, loss, x, t)
    np.testing.assert_allclose(some["0.weight"], full["0.weight"], rtol=1e-9)
    np.testing.assert_allclose(some["2.bias"], full["2.bias"], rtol=1e-6, atol=1e-10)
    assert (some["0.bias"] == 0).all()


def test_only_some_entries_of_custom_layers(rng):
    class Scale(nn.Layer):
        def __init__(self):
            self.factor = nn.Parameter(np.linspace(1, 2, 8), np.float64)

        def forward(self, x):
            return x * self.factor.value

    model = network(np.float64, (30, 8), Scale(), Swish(), (8, 3))
    x, t = sparse(rng, 12, 30), rng.integers(0, 3, 12)
    full = gradients(nn.CentralDifference(), model, nn.CrossEntropyLoss(), x, t)
    mask = np.arange(8) % 3 == 0
    weights = rng.random((8, 30)) < 0.2
    some = gradients(
        nn.CentralDifference(only={"1.factor": mask, "0.weight": weights}), model, nn.CrossEntropyLoss(), x, t
    )
    np.testing.assert_allclose(some["1.factor"], np.where(mask, full["1.factor"], 0), rtol=1e-9)
    np.testing.assert_allclose(some["0.weight"], np.where(weights, full["0.weight"], 0), rtol=1e-6, atol=1e-12)
    assert (some["3.weight"] == 0).all()


def test_bad_choices_are_refused(rng):
    model, loss, x, t = model_and_batch(rng)
    for only, error, message in (
        ("0.wieght", KeyError, "0.wieght"),
        (nn.Parameter([1.0]), KeyError, "parameters of the model"),
        ({"0.weight": np.ones((8, 29), bool)}, ValueError, r"\(8, 30\).*\(8, 29\)"),
        ({"0.weight": np.ones((8, 30))}, ValueError, "float64"),
    ):
        before = [p.grad.copy() for p in model.parameters()]
        with pytest.raises(error, match=message):
            nn.CentralDifference(only=only)(model, loss, x, t)
        for p, grad in zip(model.parameters(), before, strict=True):
            np.testing.assert_array_equal(p.grad, grad)
    with pytest.raises(ValueError, match="size"):
        nn.Blocks(0)
    with pytest.raises(ValueError, match="order"):
        nn.Blocks(3, "sideways")


def test_cyclic_blocks_reach_every_entry_once(rng):
    model, loss, x, t = model_and_batch(rng)
    full = gradients(nn.CentralDifference(interpolate=False), model, loss, x, t)
    count = sum(g.size for g in full.values())
    strategy = nn.CentralDifference(only=nn.Blocks(-(-count // 4), "cyclic"), interpolate=False)
    parts = [gradients(strategy, model, loss, x, t) for _ in range(4)]
    for name in full:
        total = sum(part[name] for part in parts)
        times = sum((part[name] != 0).astype(int) for part in parts)
        assert (times <= 1).all() or name == "0.weight"  # the last block wraps around into the first parameter
        where = times == 1
        np.testing.assert_allclose(total[where], full[name][where], rtol=1e-12)


def test_random_blocks_train(rng):
    model, loss, x, t = model_and_batch(rng)
    strategy = nn.CentralDifference(only=nn.Blocks(60, rng=0))
    first = [gradients(strategy, model, loss, x, t) for _ in range(2)]
    assert sum((g != 0).sum() for g in first[0].values()) <= 60
    assert any((first[0][name] != first[1][name]).any() for name in first[0])
    before = loss(model(x), t)
    trainer = nn.Trainer(model, loss, nn.SGD(model.parameters(), 0.5), strategy)
    trainer.fit(x, t, epochs=60, batch_size=15, progress=False)
    assert loss(model(x), t) < before - 0.1


# ---- cost and progress ----


def test_cost_counts_evaluations(rng):
    model, loss, x, t = model_and_batch(rng)
    count = sum(p.value.size for p in model.parameters())
    for p in model.parameters():
        p.grad[...] = 7
    cost = nn.CentralDifference().cost(model, loss, x, t)
    assert cost.evaluations == 2 * count
    assert cost.seconds > 0
    assert f"{2 * count:,} evaluations" in str(cost)
    assert all((p.grad == 7).all() for p in model.parameters())
    assert nn.CentralDifference(only="0.bias").cost(model, loss, x, t).evaluations == 16


@pytest.mark.parametrize("interpolate", [True, False])
def test_progress_ends_at_the_cost_and_changes_no_bit(rng, interpolate):
    class Scale(nn.Layer):
        def __init__(self):
            self.factor = nn.Parameter(np.linspace(1, 2, 8), np.float64)

        def forward(self, x):
            return x * self.factor.value

    model = network(np.float64, (30, 8), Scale(), nn.Sigmoid(), (8, 3))
    loss, x, t = nn.CrossEntropyLoss(), sparse(rng, 12, 30), rng.integers(0, 3, 12)
    strategy = nn.CentralDifference(interpolate=interpolate)
    strategy(model, loss, x, t)
    plain = [p.grad.copy() for p in model.parameters()]
    seen = []
    strategy(model, loss, x, t, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (strategy.cost(model, loss, x, t).evaluations,) * 2
    rounding = 1e-12 if nn.config_info()["simd"] == "reference" else 0  # NumPy's products are not the same in parts
    for p, grad in zip(model.parameters(), plain, strict=True):
        np.testing.assert_allclose(p.grad, grad, rtol=rounding, atol=rounding * np.abs(grad).max())


def test_the_same_bits_with_any_number_of_threads(rng):
    model, loss, x, t = model_and_batch(rng)
    threads = nn.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            nn.set_num_threads(count)
            found.append(gradients(nn.CentralDifference(), model, loss, x, t))
    finally:
        nn.set_num_threads(threads)
    for other in found[1:]:
        for name, grad in found[0].items():
            np.testing.assert_array_equal(other[name], grad)
