"""Layers with nothing but `forward`: every strategy gives the gradient of the definition, or refuses by name."""

import copy
import functools
import re
import warnings

import numpy as np
import pytest
from forward_only_layers import CASES, compiled_tanh

import nnframe as nn

BOUND = {np.float64: 1e-6, np.float32: 5e-6}  # of the largest entry of a parameter's gradient
STRATEGIES = [nn.CentralDifference(), nn.CentralDifference(interpolate=False), nn.Backprop(), nn.NodePerturbation()]
RUNS = [pytest.param(case, place, id=f"{case} {place}") for case in CASES for place in case.places]


@functools.cache
def definition(case, place, step, scale=1.0):
    """Gradients of a case at its first or second step: `numerical_gradient` of the float64 copy of its model."""
    model = case.model(place)
    if step:
        case.trained(model)
    loss, x, t = case.batch(place, step)
    model = model.astype(np.float64)

    def gradient(value):
        step = scale * 7e-4 * np.maximum(1, np.abs(value))
        return nn.numerical_gradient(lambda _: loss(model(x, training=True), t), value, step=step, scheme="central4")

    return {name: gradient(parameter.value) for name, parameter in model.named_parameters()}


def compare(model, expected, case, dtype):
    bound = min(BOUND[dtype], (case.bound or 1) if dtype is np.float64 else 1)
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for name, parameter in model.named_parameters():
        scale = largest if name in case.zero else np.abs(expected[name]).max()
        off = np.abs(parameter.grad - expected[name]).max()
        assert off <= bound * scale, f"{name}: off by {off / max(scale, 1e-300):.1e} of the largest entry {scale:.1e}"


def message_of(error):
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize(("case", "place"), RUNS)
def test_a_gradient_is_the_definitions_or_refused_by_name(case, place, strategy, dtype):
    if "FloatPointer" in case.name and compiled_tanh() is None:
        pytest.skip("needs a C compiler")
    outcome, _, words = case.expected(place, strategy, dtype).partition(": ")
    strategy = copy.deepcopy(strategy)  # one that has not met a layer yet
    model = case.model(place).astype(dtype)
    if case.adapt is not None:
        case.adapt(model)
    kind = type(case.make() if case.loss is None else case.loss).__name__
    if outcome == "refused":
        loss, x, t = case.batch(place, 0)
        with pytest.raises((ValueError, TypeError, IndexError)) as caught:
            strategy(model, loss, x, t)
        message = message_of(caught.value)
        assert kind in message, f"which layer? {message}"
        assert re.search(words, message), f"expected the reason ({words}): {message}"
        return
    for step in range(2):  # another batch, other parameters: what was found the first time may not hold
        if step:
            case.trained(model)
        loss, x, t = case.batch(place, step)
        for parameter in model.parameters():
            parameter.grad[...] = np.nan
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            value = strategy(model, loss, x, t)
        told = [str(one.message) for one in seen if not issubclass(one.category, nn.CostWarning)]
        if outcome == "warned" and step == 0:
            assert any(kind in text and re.search(words, text) for text in told), f"no warning that names it: {told}"
        if outcome == "right":
            assert told == []
        compare(model, definition(case, place, step), case, dtype)
        expected = loss(model.astype(np.float64)(x, training=True), t)
        assert float(value) == pytest.approx(expected, rel=1e-5 if dtype is np.float32 else 1e-12)


@pytest.mark.parametrize(("case", "place"), RUNS)
def test_no_case_lies_near_a_kink(case, place):
    if case.expect.startswith("refused"):
        return
    for step in range(2):
        coarse, fine = definition(case, place, step), definition(case, place, step, 0.5)
        largest = max(np.abs(gradient).max() for gradient in fine.values())
        for name, gradient in fine.items():
            scale = largest if name in case.zero else np.abs(gradient).max()
            off = np.abs(gradient - coarse[name]).max()
            assert off <= 1e-8 * scale, f"{name} at step {step}: {off / max(scale, 1e-300):.1e}; take another seed"


class MixesLater(nn.Layer):
    """Rows mix as soon as `alpha` is not 0."""

    def __init__(self):
        self.alpha = nn.Parameter(np.zeros(4))

    def forward(self, x):
        return np.tanh(x) + self.alpha.value * x.mean(axis=0)


@pytest.mark.parametrize("runs", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_rows_that_begin_to_mix_are_seen_at_the_next_look(strategy, runs):
    strategy = copy.deepcopy(strategy)
    layers = [nn.Linear(10, 4, rng=1), MixesLater(), nn.Linear(4, 3, rng=2)]
    model = nn.Sequential(*layers).astype(np.float64)
    rng = np.random.default_rng(5)
    loss, x, t = nn.CrossEntropyLoss(), rng.standard_normal((7, 10)), rng.integers(0, 3, 7)
    for _ in range(runs):
        strategy(model, loss, x, t)
    model[1].alpha.value[...] = [2.0, -1.0, 3.0, 1.5]
    for _ in range(runs + 1):  # pauses double at most
        strategy(model, loss, x, t)
    for name, parameter in model.named_parameters():
        expected = nn.numerical_gradient(lambda _: loss(model(x, training=True), t), parameter.value, scheme="central4")
        off = np.abs(parameter.grad - expected).max() / np.abs(expected).max()
        assert off <= 1e-6, f"{name}: off by {off:.1e} of the largest entry, {runs} runs after the first look"


class RootOfNegative(nn.Layer):
    def forward(self, x):
        with np.errstate(invalid="ignore"):
            return np.sqrt(x - 100)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_an_output_that_is_not_finite_is_not_hidden(strategy):
    model = nn.Sequential(nn.Linear(5, 4, rng=1), RootOfNegative(), nn.Linear(4, 3, rng=2))
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = strategy(model, nn.CrossEntropyLoss(), rng.standard_normal((7, 5)), rng.integers(0, 3, 7))
    assert np.isnan(value)
    assert np.isnan(model[2].weight.grad).any()
