"""Initializers against their definitions: limits, variances, orthogonality; and against PyTorch, if installed."""

import math

import numpy as np
import pytest

import nnframe as nn
from nnframe.initializers import gain_of

SHAPE = (300, 40, 5)  # 200 inputs, 1500 outputs of each


def drawn(init, shape=SHAPE):
    return init(shape, np.random.default_rng(3))


@pytest.mark.parametrize(
    ("init", "std", "limit"),
    [
        (nn.Uniform(-1, 3), 4 / math.sqrt(12), (-1, 3)),
        (nn.XavierNormal(), math.sqrt(2 / 1700), None),
        (nn.XavierNormal(3.0), 3 * math.sqrt(2 / 1700), None),
        (nn.XavierUniform(), math.sqrt(2 / 1700), math.sqrt(6 / 1700)),
        (nn.XavierUniform(0.5), math.sqrt(2 / 1700) / 2, math.sqrt(6 / 1700) / 2),
        (nn.KaimingNormal(), math.sqrt(2 / 200), None),
        (nn.KaimingNormal(mode="fan_out", nonlinearity="linear"), math.sqrt(1 / 1500), None),
        (nn.KaimingUniform(), math.sqrt(2 / 200), math.sqrt(6 / 200)),
        (nn.KaimingUniform(math.sqrt(5)), math.sqrt(1 / 600), math.sqrt(1 / 200)),  # PyTorch's default of a Linear
        (nn.KaimingUniform(nonlinearity="tanh"), 5 / 3 / math.sqrt(200), 5 / 3 * math.sqrt(3 / 200)),
    ],
    ids=repr,
)
def test_variance_and_limits(init, std, limit):
    weight = drawn(init)
    assert weight.shape == SHAPE
    assert weight.std() == pytest.approx(std, rel=0.01)
    if limit is None:
        assert np.abs(weight).max() > 3.5 * std
        return
    low, high = limit if isinstance(limit, tuple) else (-limit, limit)
    assert low <= weight.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < weight.max() <= high
    assert weight.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))


@pytest.mark.parametrize(("mean", "std", "a", "b"), [(0, 1, -2, 2), (1, 0.5, 0.8, 3), (0, 0.02, -0.03, 0.01)])
def test_truncated_normal_numbers(mean, std, a, b):
    weight = drawn(nn.TruncNormal(mean, std, a, b))
    assert a <= weight.min()
    assert weight.max() <= b
    low, high = (a - mean) / std, (b - mean) / std
    density = [math.exp(-z * z / 2) / math.sqrt(2 * math.pi) for z in (low, high)]
    share = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
    shift = (density[0] - density[1]) / share
    variance = 1 + (low * density[0] - high * density[1]) / share - shift**2
    assert weight.mean() == pytest.approx(mean + std * shift, abs=0.02 * std)
    assert weight.std() == pytest.approx(std * math.sqrt(variance), rel=0.02)


@pytest.mark.parametrize("shape", [(30, 30), (50, 20), (20, 50), (8, 3, 5), (40, 2, 3)])
@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_orthogonal(shape, gain):
    weight = drawn(nn.Orthogonal(gain), shape)
    assert weight.shape == shape
    flat = weight.reshape(shape[0], -1)
    product = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    np.testing.assert_allclose(product, gain**2 * np.eye(len(product)), rtol=0, atol=1e-13)


def test_orthogonal_prefers_no_direction():
    # without the signs of R, diagonals would all be of one sign
    diagonals = [np.diagonal(nn.Orthogonal()((4, 4), np.random.default_rng(i))) for i in range(400)]
    assert np.abs(np.mean(diagonals, axis=0)).max() < 0.1


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (nn.XavierUniform(2.0), "xavier_uniform_", {"gain": 2.0}),
        (nn.XavierNormal(2.0), "xavier_normal_", {"gain": 2.0}),
        (nn.KaimingUniform(0.3, "fan_out"), "kaiming_uniform_", {"a": 0.3, "mode": "fan_out"}),
        (nn.KaimingNormal(nonlinearity="selu"), "kaiming_normal_", {"nonlinearity": "selu"}),
        (nn.TruncNormal(0.1, 0.5, -0.2, 1), "trunc_normal_", {"mean": 0.1, "std": 0.5, "a": -0.2, "b": 1}),
    ],
    ids=repr,
)
def test_the_distribution_of_pytorch(ours, theirs, options):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    large = (300, 400, 5)
    expected = getattr(torch.nn.init, theirs)(torch.empty(large, dtype=torch.float64), **options).numpy()
    found = drawn(ours, large)
    quantiles = np.linspace(0.02, 0.98, 25)
    error = np.abs(np.quantile(found, quantiles) - np.quantile(expected, quantiles)).max()
    assert error < 0.03 * expected.std()


@pytest.mark.parametrize("name", ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains_of_pytorch(name):
    torch = pytest.importorskip("torch")
    assert gain_of(name, 0.3) == pytest.approx(torch.nn.init.calculate_gain(name, 0.3), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Uniform(1, 1), "a, b: expected a < b, got 1 and 1"),
        (lambda: nn.Uniform(0, np.inf), "b: expected a finite number, got inf"),
        (
            lambda: nn.TruncNormal(0, 1, 5, 6),
            "a, b: expected at least 1 % of .* got 0.00% between 5 and 6",
        ),
        (lambda: nn.XavierUniform(-1), "gain: expected a finite number >= 0, got -1"),
        (lambda: nn.KaimingNormal(mode="out"), "mode: expected 'fan_in' or 'fan_out', got 'out'"),
        (lambda: nn.KaimingNormal(nonlinearity="swish"), "nonlinearity: expected one of linear, .*, got 'swish'"),
        (lambda: drawn(nn.Orthogonal(), (4,)), r"shape: expected at least \(out_features, in_features\), got \(4,\)"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_layers_take_them():
    layer = nn.Linear(6, 6, init=nn.Orthogonal(), rng=0, dtype=np.float64)
    np.testing.assert_allclose(layer.weight.value @ layer.weight.value.T, np.eye(6), atol=1e-13)
    assert repr(nn.KaimingUniform(0.5)) == "KaimingUniform(a=0.5)"
    assert repr(nn.XavierUniform()) == "XavierUniform()"
    assert repr(nn.TruncNormal()) == "TruncNormal(0.0, 1.0, -2.0, 2.0)"
