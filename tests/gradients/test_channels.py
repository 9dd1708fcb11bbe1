"""Central differences of convolution networks in C: below normalisation, dropout, groups and branches, as defined."""

import numpy as np
import pytest

import nnframe as nn
from nnframe.gradients.channels import FusedConvolution
from nnframe.kernels import _kernels, reference

ROWS = 5


class Frozen(nn.BatchNorm2d):
    """Batch normalisation by its running statistics, in training as well."""

    training = False


def frozen(dtype):
    layer = Frozen(4, dtype=dtype)
    layer.running_mean.value[...] = [0.1, -0.2, 0.3, 0]
    layer.running_var.value[...] = [1, 2, 0.5, 0.25]
    return layer


def conv(inputs, outputs, size, *rest, dtype, **options):
    return nn.Conv2d(inputs, outputs, size, *rest, rng=inputs + size, dtype=dtype, **options)


# What stands between a convolution, whose outputs are (4, 6, 6), and a linear layer
BETWEEN = {
    "batch norm": lambda d: [nn.BatchNorm2d(4, dtype=d), nn.ReLU(), nn.MaxPool2d(2)],
    "batch norm without weights": lambda d: [nn.BatchNorm2d(4, affine=False, dtype=d), nn.Tanh()],
    "batch norms and convolutions": lambda d: [
        *[nn.BatchNorm2d(4, dtype=d), nn.ReLU(), nn.MaxPool2d(2), conv(4, 5, 3, padding=1, dtype=d)],
        *[nn.BatchNorm2d(5, dtype=d), nn.SiLU(), conv(5, 5, 2, dtype=d), nn.BatchNorm2d(5, dtype=d), nn.ReLU()],
    ],
    "batch norm of what has been activated": lambda d: [
        *[nn.ReLU(), nn.BatchNorm2d(4, dtype=d), conv(4, 20, 3, 2, dtype=d), nn.BatchNorm2d(20, dtype=d)],
    ],
    "batch norm of features": lambda d: [nn.MaxPool2d(3), nn.Flatten(), nn.BatchNorm1d(16, dtype=d), nn.ReLU()],
    "frozen batch norm": lambda d: [frozen(d), nn.ReLU(), nn.MaxPool2d(2)],
    "dropout": lambda d: [nn.ReLU(), nn.Dropout(0.4, rng=1), nn.MaxPool2d(2)],
    "dropout of channels": lambda d: [nn.Dropout2d(0.5, rng=3), nn.GELU(), nn.AvgPool2d(2)],
    "group norm": lambda d: [nn.GroupNorm(2, 4, dtype=d), nn.ReLU(), conv(4, 3, 3, 2, dtype=d)],
    "group norm of each channel": lambda d: [nn.GroupNorm(4, 4, dtype=d), nn.ReLU(), nn.MaxPool2d(2)],
    "layer norm": lambda d: [nn.LayerNorm((4, 6, 6), dtype=d), nn.ReLU(), nn.AdaptiveAvgPool2d(2)],
    "layer norm of lines": lambda d: [nn.LayerNorm(6, dtype=d), nn.ReLU(), conv(4, 2, 3, dtype=d)],
    "norm of root mean squares": lambda d: [
        *[nn.RMSNorm((6, 6), dtype=d), nn.ReLU(), nn.Flatten(), nn.RMSNorm(144, dtype=d)],
    ],
    "depthwise": lambda d: [
        *[conv(4, 8, 3, 2, 1, groups=4, dtype=d), nn.BatchNorm2d(8, dtype=d), nn.ReLU(), conv(8, 3, 1, dtype=d)],
    ],
    "groups": lambda d: [nn.ReLU(), conv(4, 6, 3, 1, 1, 2, groups=2, dtype=d), nn.GroupNorm(3, 6, dtype=d)],
    "residual": lambda d: [
        nn.ReLU(),
        nn.Residual(
            *[conv(4, 4, 3, padding=1, dtype=d), nn.BatchNorm2d(4, dtype=d), nn.ReLU()],
            *[conv(4, 4, 3, padding=1, dtype=d), nn.BatchNorm2d(4, dtype=d)],
        ),
        nn.ReLU(),
    ],
    "branches": lambda d: [
        nn.BatchNorm2d(4, dtype=d),
        nn.Branches(
            nn.Sequential(conv(4, 6, 3, 2, 1, dtype=d), nn.BatchNorm2d(6, dtype=d), nn.ReLU()),
            nn.Sequential(conv(4, 6, 1, 2, dtype=d), nn.BatchNorm2d(6, dtype=d)),
            nn.Sequential(nn.MaxPool2d(2), conv(4, 6, 1, dtype=d)),
        ),
        nn.ReLU(),
    ],
    "residuals in each other": lambda d: [
        nn.Residual(nn.Tanh(), nn.Residual(conv(4, 4, 1, dtype=d), nn.Dropout(0.3, rng=2), nn.BatchNorm2d(4, dtype=d))),
        nn.MaxPool2d(2),
    ],
    "channels that are cut anew": lambda d: [nn.Reshape(2, 12, 6), nn.MaxPool2d(2), conv(2, 3, 3, dtype=d), nn.ReLU()],
}  # fmt: skip


def network(name, dtype):
    """A convolution, what is between, a linear layer; no parameter has the value that it starts at."""
    layers = [conv(2, 4, 3, padding=1, dtype=dtype), *BETWEEN[name](dtype), nn.Flatten()]
    features = nn.Sequential(*layers)(np.zeros((ROWS, 2, 6, 6), dtype), training=True).shape[1]
    model, rng = nn.Sequential(*layers, nn.Linear(features, 3, rng=9, dtype=dtype)), np.random.default_rng(8)
    for p in model.parameters():
        p.value += rng.uniform(-0.3, 0.3, p.value.shape).astype(dtype)
    return model


def batch(dtype):
    rng = np.random.default_rng(4)
    return rng.standard_normal((ROWS, 2, 6, 6)).astype(dtype), rng.integers(0, 3, ROWS)


def gradients(strategy, model, x, t, loss=None):
    strategy(model, loss or nn.CrossEntropyLoss(), x, t)
    return [p.grad.copy() for p in model.parameters()]


def pieces_of(monkeypatch, strategy, *args):
    made = []
    work = type(strategy).work
    monkeypatch.setattr(type(strategy), "work", lambda *given: made.append(work(*given)) or made[-1])
    strategy(*args)
    monkeypatch.undo()
    return made[0]


@pytest.mark.parametrize("name", BETWEEN)
def test_the_gradient(simd, dtype, name):
    x, t = batch(dtype)
    found = gradients(nn.CentralDifference(), network(name, dtype), x, t)
    exact = network(name, dtype).astype(np.float64)
    expected = gradients(nn.Backprop(), exact, x.astype(np.float64), t)
    largest = max(np.abs(one).max() for one in expected)  # of all: biases below batch normalisation have none
    for (path, _), one, right in zip(exact.named_parameters(), found, expected, strict=True):
        bound = (1e-13 if dtype == np.float64 else 4e-6) * largest
        np.testing.assert_allclose(one, right, rtol=0, atol=bound, err_msg=path)


@pytest.mark.parametrize("step", [0.3, 1e-3])
@pytest.mark.parametrize("name", BETWEEN)
def test_every_entry_is_as_defined_at_any_step(simd, name, step):
    """Steps that reach kinks, and over which nothing is linear."""
    (x, t), loss = batch(np.float64), nn.CrossEntropyLoss()
    model = network(name, np.float64)
    found = gradients(nn.CentralDifference(step, interpolate=False), model, x, t)
    for (path, p), one in zip(model.named_parameters(), found, strict=True):
        if name == "batch norms and convolutions" and not path.startswith(("0.", "1.")):
            continue  # what is above has been seen elsewhere
        value, defined = p.value.reshape(-1), np.empty(p.value.size)
        for e in range(value.size):
            before, ends = value[e], []
            for sign in (1, -1):
                value[e] = before + sign * step
                ends.append(loss(model(x, training=True), t))
            value[e] = before
            defined[e] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(one.reshape(-1), defined, rtol=0, atol=1e-15 / step + 1e-12, err_msg=path)


@pytest.mark.parametrize("name", BETWEEN)
def test_all_of_it_is_done_in_c(monkeypatch, name):
    model = network(name, np.float64)
    pieces = pieces_of(monkeypatch, nn.CentralDifference(), model, nn.CrossEntropyLoss(), *batch(np.float64))
    for piece in pieces[:-1]:
        few = name == "layer norm of lines" or name == "norm of root mean squares"
        assert isinstance(piece, FusedConvolution) or (few and len(pieces) > 1 and piece.units <= 36), piece
    assert isinstance(pieces[0], FusedConvolution)


def test_a_linear_layer_below_batch_normalisation(monkeypatch, dtype, rng):
    model = nn.Sequential(
        *[nn.Linear(7, 6, rng=0, dtype=dtype), nn.BatchNorm1d(6, dtype=dtype), nn.ReLU()],
        *[nn.Linear(6, 5, rng=1, dtype=dtype), nn.BatchNorm1d(5, dtype=dtype), nn.Tanh()],
        nn.Linear(5, 3, rng=2, dtype=dtype),
    )  # fmt: skip
    x, t = rng.standard_normal((11, 7)).astype(dtype), rng.integers(0, 3, 11)
    pieces = pieces_of(monkeypatch, nn.CentralDifference(), model, nn.CrossEntropyLoss(), x, t)
    assert [type(piece) for piece in pieces[:-1]] == [FusedConvolution] * 4
    found = gradients(nn.CentralDifference(), model, x, t)
    exact = gradients(nn.Backprop(), model.astype(np.float64), x.astype(np.float64), t)
    for one, right in zip(found, exact, strict=True):
        np.testing.assert_allclose(one, right, rtol=0, atol=1e-12 if dtype == np.float64 else 2e-6)


@pytest.mark.parametrize("name", ["batch norms and convolutions", "residual", "group norm", "dropout"])
def test_same_bits_for_any_number_of_threads_and_selection(dtype, threads, name):
    x, t = batch(dtype)
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(gradients(nn.CentralDifference(), network(name, dtype), x, t))
    model = network(name, dtype)
    selected = nn.CentralDifference(only={"0.weight": np.arange(72).reshape(4, 2, 3, 3) % 5 == 0})
    some = gradients(selected, model, x, t)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(some[0].reshape(-1)[::5], found[0][0].reshape(-1)[::5])
    assert not some[0].reshape(-1)[1::5].any()
    assert not any(one.any() for one in some[1:])


@pytest.mark.parametrize("name", BETWEEN)
def test_same_bits_with_avx2_and_avx512(dtype, name):
    if not {"avx2", "avx512"} <= set(_kernels.simd_available()):
        pytest.skip("this processor has not both")
    before, found = _kernels.get_simd(), []
    x, t = batch(dtype)
    passed = network(name, dtype)
    try:
        for isa in ("avx2", "avx512"):
            _kernels.set_simd(isa)
            found.append(gradients(nn.CentralDifference(), passed, x, t)[:2])
    finally:
        _kernels.set_simd(before)
    for one, same in zip(*found, strict=True):
        np.testing.assert_array_equal(one, same)


def above(rng, dtype):
    """Stages of every kind above 4 channels of (3, 4), of 5 rows."""
    d, row = rng.standard_normal((2, 5, 48)).astype(dtype)
    groups = d.reshape(5, 4, 12)
    a = np.sqrt((groups**2).mean(axis=(0, 2)) + dtype(0.01)).reshape(1, 4)
    by_row = np.sqrt((row.reshape(5, 2, 24) ** 2).mean(axis=2) + dtype(0.02))
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 2}
    stages = [
        ("fork", {}),
        ("norm", d, a, groups.sum(axis=(0, 2)).reshape(1, 4), rng.random(48).astype(dtype),
         {"by_batch": True, "centred": True, "eps": 0.01}),
        ("join", {}),
        ("factors", rng.random((5, 4)).astype(dtype), {}),
        ("convolution", rng.standard_normal((4, 2, 3, 3)).astype(dtype), (4, 3, 4), (4, 3, 4), options),
        ("norm", row, by_row, None, None, {"by_batch": False, "centred": False, "eps": 0.02}),
        ("fork", {}), ("factors", rng.random((1, 48)).astype(dtype), {}), ("other", {}), ("join", {}),
    ]  # fmt: skip
    return _kernels.Above(48, stages, "squared_error", rng.standard_normal((5, 48)).astype(dtype))


@pytest.mark.parametrize("step", [0.5, 1e-6])
def test_stages_against_the_reference(simd, dtype, rng, step):
    stages, x = above(rng, dtype), rng.standard_normal((5, 3, 5, 5)).astype(dtype)
    found = np.zeros((4, 3, 3, 2), dtype), np.zeros(4, dtype)
    expected = np.zeros((4, 3, 3, 2)), np.zeros(4)
    arguments = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 1), "groups": 1}
    _kernels.convolution_difference(
        stages, x, step=step, scale=0.5, grad_weight=found[0], grad_bias=found[1], out_size=(3, 4), **arguments
    )
    reference.convolution_difference(
        stages, x.astype(np.float64), step, 0.5, *expected, (3, 4), *arguments.values(), range(4)
    )
    for one, right in zip(found, expected, strict=True):
        bound = (1e-12 if dtype == np.float64 else 3e-6) * np.abs(expected[0]).max()
        np.testing.assert_allclose(one, right, rtol=0, atol=bound)


NORM = {"by_batch": True, "centred": True, "eps": 1e-5}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([("join", {})], "expected a 'fork' before 'join'"),
        ([("fork", {})], "expected a 'join' for each 'fork', got 1 too few"),
        ([("fork", {})] * 5, "expected at most 4 branches in each other"),
        ([("fork", {}), (np.ones((3, 6)),), ("join", {})], "expected branches of one width"),
        ([("factors", np.ones((2, 4)), {})], r"factors: expected shape \(2 or 1, divisor of 6\), got \(2, 4\)"),
        ([("factors", np.ones((3, 2)), {})], r"factors: expected shape \(2 or 1, divisor of 6\), got \(3, 2\)"),
        ([("norm", np.ones((2, 6)), np.ones((1, 4)), None, None, NORM)], r"a: expected shape \(N, divisor of 6\)"),
        ([("norm", np.ones((2, 6)), np.ones((2, 3)), None, None, NORM)], r"a: expected shape \(1, 3\), got \(2, 3\)"),
        ([("norm", np.ones((2, 5)), np.ones((1, 3)), None, None, NORM)], r"d: expected shape \(2, 6\), got \(2, 5\)"),
        (
            [("norm", np.ones((2, 6)), np.ones((1, 3)), np.ones((1, 3)), np.ones(3), NORM)],
            r"weight: expected shape \(6,\), got \(3,\)",
        ),
        ([("cut", {})], "expected a kind of stage such as 'convolution', got 'cut'"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        _kernels.Above(6, stages, "squared_error", np.ones((2, 6)))


def test_stages_of_planes_are_refused_by_what_does_not_take_them():
    stages = _kernels.Above(6, [("factors", np.ones((1, 6)), {})], "squared_error", np.ones((2, 6)))
    with pytest.raises(ValueError, match="above: expected linear layers and activations"):
        _kernels.difference_gradient(stages, np.ones((2, 3)), step=1.0, scale=1.0, grad_weight=np.ones((6, 3)))
