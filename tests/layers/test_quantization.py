"""Quantisers: their levels, training through them, and how far off a straight-through gradient is."""

import copy
import pickle

import numpy as np
import pytest

import nnframe as nn

QUANTIZERS = [nn.Round, nn.Sign, lambda **options: nn.Quantize(2, -1.5, 1.5, **options)]
NAMES = ["Round", "Sign", "Quantize"]


def test_levels(dtype):
    x = np.array([[-3, -1.2, -0.5, -0.0, 0.4, 0.5, 1.5, 2.51]], dtype)
    np.testing.assert_array_equal(nn.Round().forward(x), [[-3, -1, 0, 0, 0, 0, 2, 3]])
    np.testing.assert_array_equal(nn.Sign().forward(x), [[-1, -1, -1, 0, 1, 1, 1, 1]])
    np.testing.assert_array_equal(nn.Quantize(1).forward(x), [[-1, -1, -1, -1, 1, 1, 1, 1]])
    y = nn.Quantize(2, -1.5, 1.5).forward(x)
    np.testing.assert_array_equal(y, [[-1.5, -1.5, -0.5, 0.5, 0.5, 0.5, 1.5, 1.5]])
    assert y.dtype == dtype


@pytest.mark.parametrize("bits", [1, 3, 8, 16])
def test_as_many_levels_as_bits_allow(rng, bits):
    layer = nn.Quantize(bits, -0.3, 0.9)
    x = np.linspace(-1, 2, 400_001)
    levels = np.unique(layer.forward(x))
    np.testing.assert_allclose(levels, np.linspace(-0.3, 0.9, 2**bits), rtol=0, atol=1e-15)
    inside = (x >= -0.3) & (x <= 0.9)
    assert np.abs(layer.forward(x) - x)[inside].max() <= layer.spacing / 2 + 1e-12


@pytest.mark.parametrize("make", QUANTIZERS, ids=NAMES)
def test_only_the_straight_through_ones_have_a_backward(rng, make):
    x, dy = rng.standard_normal((5, 4)) * 2, rng.standard_normal((5, 4))
    plain, through = make(), make(straight_through=True)
    assert not plain.has_backward
    assert through.has_backward
    assert isinstance(through, type(plain))
    np.testing.assert_array_equal(through.forward(x), plain.forward(x))
    edge = {"Round": np.inf, "Sign": 1, "Quantize": 1.5}[type(plain).__name__]
    np.testing.assert_array_equal(through.backward(x, through.forward(x), dy), np.where(np.abs(x) <= edge, dy, 0))
    report = nn.check_gradients(through, x)
    assert not report  # it is no derivative, and the checker says so
    shown = repr(plain)[:-1] + ("" if repr(plain).endswith("()") else ", ") + "straight_through=True)"
    assert repr(through) == shown


@pytest.mark.parametrize("make", QUANTIZERS, ids=NAMES)
def test_copies_stay_straight_through(rng, make):
    x = rng.standard_normal((3, 4))
    through = make(straight_through=True)
    for other in (copy.deepcopy(through), pickle.loads(pickle.dumps(through)), through.astype(np.float64)):
        assert other.has_backward
        assert repr(other) == repr(through)
        np.testing.assert_array_equal(other.forward(x), through.forward(x))


@pytest.mark.parametrize("make", QUANTIZERS, ids=NAMES)
@pytest.mark.parametrize("step", [0.01, 0.3, 3.7])
def test_the_gap_is_the_slope_less_the_difference(rng, make, step):
    x = rng.standard_normal((50, 4))
    layer = make()
    gap = layer.straight_through_gap(x, step)
    quotient = (layer.forward(x + step) - layer.forward(x - step)) / (2 * step)
    slope = make(straight_through=True).backward(x, layer.forward(x), np.ones_like(x))
    np.testing.assert_allclose(gap + quotient, slope, rtol=0, atol=1e-12)
    assert np.abs(gap).max() > 0.01


@pytest.mark.parametrize("step", [0.01, 0.3, 4.0])
def test_the_gap_is_bounded_by_the_spacing_and_0_on_average(step):
    # a whole number of periods: for Round the mean over x is 0, and the bound 1 / (2 step) is reached
    x = np.linspace(-2, 2, 40_000, endpoint=False) + 1e-7
    gap = nn.Round().straight_through_gap(x, step)
    assert np.abs(gap).max() <= 1 / (2 * step) + 1e-9
    assert abs(gap.mean()) < 1e-3 / step
    layer = nn.Quantize(4, -8, 8)
    assert np.abs(layer.straight_through_gap(x, step)).max() <= layer.spacing / (2 * step) + 1e-9


def test_a_network_with_a_quantiser_learns_by_differences_and_straight_through():
    (x, t), _ = nn.data.digits()
    x, t = x[:300], t[:300]
    for through, strategy in ((False, nn.CentralDifference(0.1)), (True, nn.Backprop())):
        quantizer = nn.Quantize(3, -2, 2, straight_through=through)
        model = nn.Sequential(nn.Linear(64, 12, rng=0), quantizer, nn.Linear(12, 10, rng=1))
        optimizer = nn.Adam(model.parameters(), 0.02)
        trainer = nn.Trainer(model, nn.CrossEntropyLoss(), optimizer, strategy)
        before = nn.accuracy(model(x), t)
        trainer.fit(x, t, epochs=6, batch_size=50, progress=False)
        assert before < 0.3
        assert nn.accuracy(model(x), t) > 0.8


def test_a_derived_quantiser_writes_its_own_backward():
    class Floor(nn.Round):
        def forward(self, x):
            return np.floor(x)

    assert not Floor().has_backward
    with pytest.raises(TypeError, match="straight_through: expected False for Floor, .* a backward of its own"):
        Floor(straight_through=True)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Quantize(0), ValueError, "bits: expected at least 1, got 0"),
        (lambda: nn.Quantize(17), ValueError, "bits: expected from 1 to 16, got 17"),
        (lambda: nn.Quantize(2.5), TypeError, "bits: expected a whole number, got 2.5"),
        (lambda: nn.Quantize(2, 1, 1), ValueError, "low, high: expected low < high, got 1 and 1"),
        (lambda: nn.Quantize(2, 0, np.inf), ValueError, "high: expected a finite number, got inf"),
        (lambda: nn.Round(straight_through=1), TypeError, "straight_through: expected True or False, got 1"),
        (lambda: nn.Round().straight_through_gap(np.zeros(3), 0), ValueError, "step: expected a finite number > 0"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
