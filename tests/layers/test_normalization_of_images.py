"""BatchNorm2d, GroupNorm, RMSNorm and Dropout2d, against PyTorch where it is installed."""

import numpy as np
import pytest

import nnframe as nn
from nnframe.core.run import Run

CLOSE = 1e-10
IMAGES = (5, 4, 3, 2)
CASES = [
    *(
        ("BatchNorm2d", {"num_features": 4, "eps": e, "momentum": m, "affine": a, "track_running_stats": t}, IMAGES)
        for e in (1e-5, 0.1)
        for m in (0.1, None)
        for a in (True, False)
        for t in (True, False)
    ),
    *(
        ("GroupNorm", {"num_groups": g, "num_channels": 6, "eps": e, "affine": a}, (5, 6, *rest))
        for g in (1, 2, 6)
        for e in (1e-5, 0.1)
        for a in (True, False)
        for rest in ((), (3,), (3, 2), (2, 1, 3))
        if g < 6 or rest
    ),
    *(
        ("RMSNorm", {"normalized_shape": n, "eps": e, "elementwise_affine": a}, (5, *rest, *n))
        for n in ((4,), (3, 2))
        for e in (None, 1e-5, 0.1)
        for a in (True, False)
        for rest in ((), (2,))
    ),
]


def both(rng, torch, name, options):
    """Our layer and that of PyTorch, of the same random parameters."""
    ours = getattr(nn, name)(**options, dtype=np.float64)
    theirs = getattr(torch.nn, name)(**options, dtype=torch.float64)
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        parameter.value[...] = rng.standard_normal(parameter.value.shape)
        other.data.copy_(torch.from_numpy(parameter.value))
    return ours, theirs


@pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_as_pytorch(rng, name, options, shape, training):
    torch = pytest.importorskip("torch")
    ours, theirs = both(rng, torch, name, options)
    theirs.train(training)
    x, dy = rng.standard_normal(shape) * 2 + 3, rng.standard_normal(shape)
    given = torch.from_numpy(x.copy()).requires_grad_()
    expected = theirs(given)
    expected.backward(torch.from_numpy(dy))
    with Run(training, root=ours):
        y, saved = ours.forward_saving(x)
        dx = ours.backward(x, y, dy, saved)
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=CLOSE)
        np.testing.assert_allclose(dx, given.grad.numpy(), rtol=0, atol=CLOSE)
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(parameter.grad, other.grad.numpy(), rtol=0, atol=CLOSE)
        changes = rng.standard_normal((3, *shape)) * np.array([1e-3, 0.5, 20]).reshape(-1, *[1] * len(shape))
        found = ours.difference(x, y, changes)
        small = 1e-12 * dy
        along = (ours.difference(x, y, small) * dy).sum()
    theirs.momentum = 0.0  # a run of PyTorch's would move its statistics once more
    with torch.no_grad():
        moved = [theirs(torch.from_numpy(x + d)).numpy() - y for d in changes]
    np.testing.assert_allclose(found, moved, rtol=0, atol=1e-9)
    assert along == pytest.approx((small * dx).sum(), rel=1e-8, abs=1e-22)  # no digits are lost to cancellation


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_follow_pytorch(rng, momentum):
    torch = pytest.importorskip("torch")
    ours, theirs = both(rng, torch, "BatchNorm2d", {"num_features": 3, "momentum": momentum})
    for _ in range(4):
        x = rng.standard_normal((5, 3, 2, 4)) * 3 + 1
        theirs(torch.from_numpy(x))
        ours.observe(x, ours(x, training=True))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        np.testing.assert_allclose(getattr(ours, name).value, getattr(theirs, name).numpy(), rtol=0, atol=CLOSE)
    theirs.eval()
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=0, atol=CLOSE)


def test_training_a_network_of_images_by_each_strategy(rng):
    class Flat(nn.Layer):
        def forward(self, x):
            return x.reshape(len(x), -1)

        def backward(self, x, y, dy):
            return dy.reshape(x.shape)

    x, t = rng.standard_normal((8, 3, 2, 2)), rng.integers(0, 4, 8)
    found = []
    for strategy in (nn.Backprop(), nn.CentralDifference(), nn.NodePerturbation()):
        below = nn.BatchNorm2d(3), nn.GroupNorm(3, 3), nn.Dropout2d(0.3, rng=1), Flat()
        model = nn.Sequential(*below, nn.Linear(12, 4, rng=0), nn.RMSNorm(4)).astype(np.float64)
        value = strategy(model, nn.CrossEntropyLoss(), x, t)
        found.append([value, *(p.grad.copy() for p in model.parameters())])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-7)


def test_dropout2d_leaves_out_whole_channels(rng):
    x = rng.standard_normal((200, 50, 3, 2)) + 5
    layer = nn.Dropout2d(0.3, rng=0)
    y = layer(x, training=True)
    kept = y[:, :, 0, 0] != 0
    np.testing.assert_allclose(y, x * kept[:, :, None, None] / 0.7, rtol=1e-15)
    assert kept.mean() == pytest.approx(0.7, abs=0.02)
    np.testing.assert_array_equal(layer(x), x)
    with pytest.raises(ValueError, match=r"x: expected channels of several entries, .* got \(4, 3\)"):
        layer(np.zeros((4, 3)), training=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.BatchNorm2d(3)(np.zeros((4, 3))), ValueError, r"x: expected shape \(N, 3, H, W\), got \(4, 3\)"),
        (lambda: nn.BatchNorm1d(3)(np.zeros((4, 2))), ValueError, r"shape \(N, 3\) or \(N, 3, L\), got \(4, 2\)"),
        (lambda: nn.BatchNorm2d(3)(np.zeros((1, 3, 1, 1)), training=True), ValueError, "more than 1 value"),
        (lambda: nn.GroupNorm(2, 3), ValueError, "num_channels: expected a multiple of num_groups 2, got 3"),
        (lambda: nn.GroupNorm(2, 4)(np.zeros((4, 3))), ValueError, r"x: expected shape \(N, 4, ...\), got \(4, 3\)"),
        (lambda: nn.RMSNorm((3, 2))(np.zeros((4, 2, 3))), ValueError, r"x: expected shape \(N, ..., 3, 2\), got"),
        (lambda: nn.RMSNorm(()), ValueError, "normalized_shape: expected at least one axis"),
        (lambda: nn.RMSNorm(3, -1), ValueError, "eps: expected a finite number >= 0, got -1"),
        (lambda: nn.Dropout2d(2), ValueError, r"p: expected a probability in \[0, 1\], got 2"),
    ],
)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_repr():
    assert repr(nn.GroupNorm(2, 4, 0.1)) == "GroupNorm(2, 4, eps=0.1)"
    assert repr(nn.RMSNorm(4)) == "RMSNorm(4)"
    assert repr(nn.RMSNorm((3, 2), 0.5, False)) == "RMSNorm((3, 2), eps=0.5, elementwise_affine=False)"
    assert repr(nn.BatchNorm2d(3)) == "BatchNorm2d(3)"
    assert repr(nn.Dropout2d(0.2)) == "Dropout2d(0.2)"
