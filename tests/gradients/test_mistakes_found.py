"""Part of the corpus of mistakes (benchmarks/mistakes.py): each kind once, and random right layers."""

import functools
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import nnframe as nn

pytest.importorskip("scipy")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from checkers import ask_nnframe
from mistakes import MISTAKES
from planting import FUNCTIONS, LAYERS, LOSSES, what_is_wrong
from right_layers import KINKS, random_layer, slopes

SUBJECTS = [*LAYERS, *FUNCTIONS.values(), *LOSSES.values()]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_what_mistakes_are_planted_in_is_right(subject):
    assert not what_is_wrong(subject, subject.make())
    assert not ask_nnframe(subject, subject.make()).wrong
    made = subject.make()
    if isinstance(made, nn.Layer):  # the formula that proves mistakes is what the layer computes
        with warnings.catch_warnings():
            y = made(subject.x, training=True)
        np.testing.assert_allclose(y, subject.output(), rtol=1e-12, atol=1e-14)


@functools.cache
def first_place(kind):
    """Return a place that a kind of mistake is planted in, and what the check says of it."""
    place = next(place for place in kind.plant() if place.wrong)
    return place, ask_nnframe(place.subject, place.make())


@pytest.mark.parametrize("kind", MISTAKES, ids=lambda kind: kind.name)
def test_each_kind_is_found_where_it_is(kind):
    place, answer = first_place(kind)
    assert answer.wrong, f"{place.where}: missed"
    assert answer.entry_right(place.wrong), f"{place.where}: {answer.text}"


def test_most_causes_are_named():
    without = [kind.name for kind in MISTAKES if not any(words in first_place(kind)[1].cause for words in kind.words)]
    assert len(without) <= 0.2 * len(MISTAKES), without


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_right_layers_are_not_called_wrong(first):
    for seed in range(first, first + 50):
        layer, x = random_layer(seed)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            report = nn.check_gradients(layer, x)
        assert report, f"seed {seed}, {layer!r}:\n{report}"


# saturated, rounded to float32 in the middle, varying over 1e-10 of what x is, coupled by less than others are rounded
DIFFICULT = 645, 1340, 1350, 1480, 1645, 2053, 2202, 2639, 2796, 2957, 3347, 4235, 5275, 5650, 5831, 9287


@pytest.mark.parametrize("seed", DIFFICULT)
def test_difficult_right_layers_are_not_called_wrong(seed):
    layer, x = random_layer(seed)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        report = nn.check_gradients(layer, x)
    assert report, str(report)


def test_every_backward_in_float32_is_found():
    (kind,) = (kind for kind in MISTAKES if kind.name == "float32 inside")
    places = [place for place in kind.plant() if place.wrong]
    missed = [place.where for place in places if not ask_nnframe(place.subject, place.make()).wrong]
    assert len(places) > 80
    assert not missed


def test_right_layers_are_right():
    compared = 0
    for seed in range(60):
        layer, x = random_layer(seed)
        if any(part.name in {"float32", *KINKS} for part in layer.parts):
            continue  # rounded inside, or with kinks, where there is no one slope
        layer = layer.astype(np.float64)
        y, caches = layer.forward_saving(x)
        dy = np.random.default_rng(seed).standard_normal(y.shape)
        written = {"x": layer.backward(x, y, dy, caches)} | {n: p.grad for n, p in layer.named_parameters()}
        expected = slopes(layer, x, dy)
        largest = max(np.abs(gradient).max() for gradient in expected.values())
        for name, gradient in written.items():
            own = np.abs(expected[name]).max(initial=0)
            assert np.abs(gradient - expected[name]).max(initial=0) <= 1e-7 * own + 1e-12 * largest, (seed, name)
        compared += 1
    assert compared > 30
