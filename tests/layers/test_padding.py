"""Layers that lengthen axes: against PyTorch in float64, and what is refused."""

import numpy as np
import pytest

import nnframe as nn

KINDS = ("ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [0, 1, 2, (2, 0), (0, 1), (1, 2, 0, 2), (2, 1, 3, 0)])
@pytest.mark.parametrize("axes", [1, 2])
def test_like_pytorch(rng, kind, padding, axes):
    torch = pytest.importorskip("torch")
    if isinstance(padding, tuple) and len(padding) != 2 * axes:
        with pytest.raises(ValueError, match=rf"padding: expected a whole number, or {2 * axes} of them, got"):
            getattr(nn, f"{kind}{axes}d")(padding)
        return
    layer, theirs = getattr(nn, f"{kind}{axes}d")(padding), getattr(torch.nn, f"{kind}{axes}d")(padding)
    for shape in ((3, 2, 4, 5)[: 2 + axes], (1, 1, 5, 3)[: 2 + axes]):
        x = rng.standard_normal(shape)
        given = torch.from_numpy(x).requires_grad_()
        expected = theirs(given)
        y = layer.forward(x)
        np.testing.assert_array_equal(y, expected.detach().numpy())
        dy = rng.standard_normal(y.shape)
        expected.backward(torch.from_numpy(dy))
        np.testing.assert_allclose(layer.backward(x, y, dy), given.grad.numpy(), rtol=0, atol=1e-12)
        dx = rng.standard_normal((2, *x.shape))
        np.testing.assert_allclose(layer.difference(x, y, dx), [layer.forward(x + d) - y for d in dx], atol=1e-14)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (lambda: nn.ReflectionPad1d(3), (2, 1, 3), "padding: expected at most 2 entries beside an axis of 3, got 3"),
        (lambda: nn.CircularPad2d((0, 0, 0, 4)), (2, 1, 3, 9), "padding: expected at most 3 .* axis of 3, got 4"),
        (lambda: nn.ReplicationPad1d(1), (2, 1, 0), "padding: expected at most 0 entries beside an axis of 0"),
        (lambda: nn.ZeroPad2d(1), (2, 3, 4), r"x: expected shape \(N, C, H, W\), got \(2, 3, 4\)"),
        (lambda: nn.ZeroPad1d(1), (2, 3), r"x: expected shape \(N, C, L\), got \(2, 3\)"),
        (lambda: nn.ZeroPad1d(-1), (2, 1, 3), "padding: expected at least 0, got -1"),
    ],
)
def test_what_does_not_fit_is_named(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer().forward(np.zeros(shape))


def test_padding_mode_names_the_layer_that_does_it():
    assert nn.Conv2d(1, 1, 3, 1, 1, 1, 1, True, "zeros").padding == (1, 1)
    for mode, name in (
        ("reflect", "ReflectionPad2d"),
        ("replicate", "ReplicationPad2d"),
        ("circular", "CircularPad2d"),
    ):
        with pytest.raises(ValueError, match=rf"padding_mode: expected 'zeros', got '{mode}'; nn\.{name} below it"):
            nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode)
    with pytest.raises(ValueError, match="padding_mode: expected 'zeros', got 'zero'"):
        nn.Conv1d(1, 1, 3, padding_mode="zero")


def test_a_padded_convolution_like_pytorch(rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 6, 5))
    for mode, pad in (
        ("reflect", nn.ReflectionPad2d),
        ("replicate", nn.ReplicationPad2d),
        ("circular", nn.CircularPad2d),
    ):
        ours = nn.Sequential(pad((2, 2, 1, 1)), nn.Conv2d(3, 4, (3, 5), dtype=np.float64, rng=0))
        theirs = torch.nn.Conv2d(3, 4, (3, 5), padding=(1, 2), padding_mode=mode).double()
        theirs.load_state_dict({n: torch.from_numpy(getattr(ours[1], n).value) for n in ("weight", "bias")})
        np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", [lambda b: nn.MultiheadAttention(4, 2, batch_first=b),
                                  lambda b: nn.TransformerEncoderLayer(4, 2, batch_first=b)])  # fmt: skip
def test_rows_come_first(make):
    make(True)
    with pytest.raises(ValueError, match="batch_first: expected True, as rows are the first axis"):
        make(False)
