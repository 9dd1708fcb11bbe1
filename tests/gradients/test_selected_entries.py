"""`only=`: entries that were not asked for have the gradient 0, whichever way the others are computed."""

import numpy as np
import pytest

import nnframe as nn


def model_and_batch(dtype):
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Linear(120, 6, dtype=dtype, rng=1), nn.Tanh(), nn.Linear(6, 5, dtype=dtype, rng=2), nn.Tanh(),
        nn.Linear(5, 3, dtype=dtype, rng=3),
    )  # fmt: skip
    return model, nn.CrossEntropyLoss(), rng.standard_normal((9, 120)), rng.integers(0, 3, 9)


@pytest.mark.parametrize("interpolate", [True, False])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.02])
def test_what_was_not_asked_for_is_zero(dtype, share, interpolate):
    # 120 inputs that are not zero: with most of them asked for, whole units are answered by curves
    model, loss, x, t = model_and_batch(dtype)
    nn.CentralDifference(interpolate=False)(model, loss, x, t)
    full = {name: p.grad.copy() for name, p in model.named_parameters()}
    rng = np.random.default_rng(1)
    masks = {name: rng.random(p.value.shape) < share for name, p in model.named_parameters()}
    nn.CentralDifference(interpolate=interpolate, only=masks)(model, loss, x, t)
    for name, parameter in model.named_parameters():
        mask = masks[name]
        assert not parameter.grad[~mask].any(), f"{name}: an entry that was not asked for has a gradient"
        off = np.abs(parameter.grad - full[name])[mask].max(initial=0) / np.abs(full[name]).max()
        assert off <= (1e-9 if dtype == np.float64 else 5e-6), f"{name}: off by {off:.1e} where it was asked for"


@pytest.mark.parametrize("step", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=lambda a: a.__name__)
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_selected_entries_where_curves_bend_or_are_in_doubt(dtype, activation, step, share):
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(120, 6, dtype=dtype, rng=1), activation(), nn.Linear(6, 3, dtype=dtype, rng=2))
    loss, x, t = nn.CrossEntropyLoss(), rng.standard_normal((9, 120)), rng.integers(0, 3, 9)
    nn.CentralDifference(step, interpolate=False)(model, loss, x, t)
    full = {name: p.grad.copy() for name, p in model.named_parameters()}
    masks = {name: rng.random(p.value.shape) < share for name, p in model.named_parameters()}
    nn.CentralDifference(step, only=masks)(model, loss, x, t)
    for name, parameter in model.named_parameters():
        expected = np.where(masks[name], full[name], 0)
        assert (parameter.grad[~masks[name]] == 0).all()
        off = np.abs(parameter.grad - expected).max() / np.abs(full[name]).max()
        assert off <= (1e-9 if dtype == np.float64 else 5e-6), f"{name}: off by {off:.1e}"


def test_progress_through_selected_entries_changes_no_bit(dtype):
    model, loss, x, t = model_and_batch(dtype)
    rng = np.random.default_rng(1)
    for share in (0.02, 0.5):
        masks = {name: rng.random(p.value.shape) < share for name, p in model.named_parameters()}
        found = []
        for progress in (None, lambda *_: None):
            nn.CentralDifference(only=masks)(model, loss, x, t, progress=progress)
            found.append([p.grad.copy() for p in model.parameters()])
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_bias_alone_leaves_the_weight_at_zero(dtype):
    model, loss, x, t = model_and_batch(dtype)
    nn.CentralDifference(only="0.bias")(model, loss, x, t)
    assert model[0].bias.grad.any()
    for name, parameter in model.named_parameters():
        assert name == "0.bias" or not parameter.grad.any(), f"{name} was not asked for"


def wide_model(dtype):
    return nn.Sequential(nn.Linear(120, 150, dtype=dtype, rng=1), nn.ReLU(), nn.Linear(150, 3, dtype=dtype, rng=2))


@pytest.mark.parametrize("share", [0.002, 0.5])
def test_selections_of_a_wide_network(dtype, share):
    rng = np.random.default_rng(0)
    model, loss = wide_model(dtype), nn.CrossEntropyLoss()
    x, t = rng.standard_normal((9, 120)), rng.integers(0, 3, 9)
    x[4] = 0  # with biases of 0 each unit is at its kink
    model[0].bias.value[...] = 0
    nn.CentralDifference(interpolate=False)(model, loss, x, t)
    masks = {name: rng.random(p.value.shape) < share for name, p in model.named_parameters()}
    expected = {name: np.where(masks[name], p.grad, 0) for name, p in model.named_parameters()}
    nn.CentralDifference(only=masks)(model, loss, x, t)
    for name, parameter in model.named_parameters():
        off = np.abs(parameter.grad - expected[name]).max() / np.abs(expected[name]).max(initial=1e-3)
        assert off <= (1e-9 if dtype == np.float64 else 5e-6), f"{name}: off by {off:.1e}"


def test_a_block_that_did_not_have_its_turn_is_the_next_one():
    model, loss, x, t = model_and_batch(np.float64)
    blocks = nn.Blocks(100, "cyclic")
    strategy = nn.CentralDifference(only=blocks)
    strategy(model, loss, x, t)
    assert blocks.at == 100
    with pytest.raises(ValueError, match="labels"):
        strategy(model, loss, x, t[:-1])
    assert blocks.at == 100
    strategy.cost(model, loss, x, t)
    assert blocks.at == 100


@pytest.mark.parametrize("size", [1, 7, 400, 600, 785])
def test_random_blocks_are_sets_of_that_size_each_entry_as_often_as_any_other(size):
    parameters = [nn.Parameter(np.zeros((40, 19))), nn.Parameter(np.zeros(25))]
    blocks, counts, times = nn.Blocks(size, rng=0), np.zeros(785), 2000
    for _ in range(times):
        found = blocks.entries(parameters)
        first, second = [found.get(id(p), np.zeros(0, int)) for p in parameters]
        block = np.concatenate([first, second + 760])
        assert len(block) == size
        assert (np.diff(block) > 0).all()
        counts[block] += 1
    share = size / 785
    assert np.abs(counts / times - share).max() <= 5 * np.sqrt(share * (1 - share) / times) + 4 / times


def test_cyclic_blocks_go_on_from_the_start():
    parameters = [nn.Parameter(np.zeros(7)), nn.Parameter(np.zeros(3))]
    blocks, seen = nn.Blocks(4, "cyclic"), []
    for _ in range(5):
        found = blocks.entries(parameters)
        seen.append(sorted([*found.get(id(parameters[0]), []), *(found.get(id(parameters[1]), np.zeros(0)) + 7)]))
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 8, 9], [2, 3, 4, 5], [6, 7, 8, 9]]
