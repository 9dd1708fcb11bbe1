"""Activations that are layers of their own, against PyTorch where it is installed, and by hand."""

import numpy as np
import pytest

import nnframe as nn

CLOSE = 1e-10
SAME = {
    "SELU": (nn.SELU, "SELU", {}),
    "Mish": (nn.Mish, "Mish", {}),
    "Hardswish": (nn.Hardswish, "Hardswish", {}),
    "PReLU": (nn.PReLU, "PReLU", {}),
    "PReLU of channels": (nn.PReLU, "PReLU", {"num_parameters": 3, "init": -0.375}),
    "Softmax": (nn.Softmax, "Softmax", {"dim": 1}),
    "Softmax, last": (nn.Softmax, "Softmax", {"dim": -1}),
    "Softmax over rows": (nn.Softmax, "Softmax", {"dim": 0}),
    "LogSoftmax": (nn.LogSoftmax, "LogSoftmax", {"dim": 1}),
    "LogSoftmax, last": (nn.LogSoftmax, "LogSoftmax", {"dim": -1}),
    "LogSoftmax over rows": (nn.LogSoftmax, "LogSoftmax", {"dim": 0}),
}


def wide(make, options):
    return make(**options, dtype=np.float64) if make is nn.PReLU else make(**options)


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (2, 3, 4, 2), (1, 3)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("kind", SAME)
def test_as_pytorch(rng, kind, scale, shape):
    torch = pytest.importorskip("torch")
    make, name, options = SAME[kind]
    layer, theirs = wide(make, options), getattr(torch.nn, name)(**options).double()
    x, dy = rng.standard_normal(shape) * scale, rng.standard_normal(shape)
    x.flat[:2] = 0, -3 if kind == "Hardswish" else -0.5
    given = torch.from_numpy(x.copy()).requires_grad_()
    expected = theirs(given)
    expected.backward(torch.from_numpy(dy))
    y = layer.forward(x)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=CLOSE * max(1, scale))
    np.testing.assert_allclose(layer.backward(x, y, dy), given.grad.numpy(), rtol=0, atol=CLOSE)
    for parameter, other in zip(layer.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(parameter.grad, other.grad.numpy(), rtol=0, atol=CLOSE * scale * y.size)
    for size in (1e-7, 0.3, 8.0, 2000.0):
        dx = rng.standard_normal((2, *shape)) * size
        moved = np.stack([theirs(torch.from_numpy(x + d)).detach().numpy() for d in dx])
        change = layer.difference(x, y, dx)
        np.testing.assert_allclose(change, moved - y, rtol=1e-10, atol=1e-13 * (scale + size) * x.size)


@pytest.mark.parametrize("layer", [nn.Softmax(1), nn.LogSoftmax(1)], ids=repr)
def test_small_differences_keep_their_digits(rng, layer):
    # the derivative times the change, but for its square: subtracting would leave four digits
    x, dx = rng.standard_normal((4, 6)), rng.standard_normal((4, 6)) * 1e-12
    y = layer.forward(x)
    p = nn.kernels.softmax(x)
    along = (p * dx).sum(axis=1, keepdims=True)
    expected = dx - along if isinstance(layer, nn.LogSoftmax) else p * (dx - along)
    np.testing.assert_allclose(layer.difference(x, y, dx), expected, rtol=1e-9, atol=1e-24)


def test_softmax_of_far_numbers():
    x = np.array([[1000.0, 0, -1000], [-1e300, 1e300, 0], [-np.inf, 0, 0]])
    np.testing.assert_array_equal(nn.Softmax(1).forward(x), [[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    np.testing.assert_allclose(nn.LogSoftmax(1).forward(x)[0], [0, -1000, -2000])
    assert np.isneginf(nn.LogSoftmax(1).forward(x)[2, 0])


def test_a_log_softmax_below_an_nll_loss_is_the_cross_entropy(rng):
    x, t = rng.standard_normal((6, 4)), rng.integers(0, 3, 6)
    found = []
    for top, loss in (([nn.LogSoftmax(1)], nn.NLLLoss()), ([], nn.CrossEntropyLoss())):
        model = nn.Sequential(nn.Linear(4, 3, rng=0, dtype=np.float64), *top)
        for strategy in (nn.Backprop(), nn.CentralDifference()):
            value = strategy(model, loss, x, t)
            found.append((value, *(p.grad.copy() for p in model.parameters())))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-10)


def test_axes_and_channels_that_are_not_there():
    with pytest.raises(ValueError, match=r"x: expected an axis 2, got shape \(4, 3\)"):
        nn.Softmax(2)(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"axis -1 to be one of each row, got shape \(4,\).*dim=0"):
        nn.LogSoftmax(-1)(np.zeros(4))
    with pytest.raises(TypeError, match=r"dim: expected an axis of x, an integer, got None"):
        nn.Softmax(None)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 3, ...\), a slope for each channel, got \(4, 2\)"):
        nn.PReLU(3)(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="num_parameters: expected at least 1, got 0"):
        nn.PReLU(0)
    with pytest.raises(ValueError, match="init: expected a finite number, got nan"):
        nn.PReLU(init=float("nan"))
    assert repr(nn.PReLU(3, 0.1)) == "PReLU(3, init=0.1)"
    assert repr(nn.Softmax(-1)) == "Softmax(-1)"
