"""Attention and the transformer's layers: against PyTorch in float64, masks, what is refused."""

import itertools

import numpy as np
import pytest

import nnframe as nn
from nnframe.testing import check_layer

CLOSE = 1e-10


def pair(embed_dim, heads, **options):
    """A layer, and PyTorch's with the same weights."""
    torch = pytest.importorskip("torch")
    bias = options.get("bias", True)
    layer = nn.MultiheadAttention(embed_dim, heads, **options, dtype=np.float64, rng=0)
    theirs = torch.nn.MultiheadAttention(embed_dim, heads, bias=bias, batch_first=True).double()
    rng = np.random.default_rng(7)
    for p in layer.parameters():
        p.value[...] = rng.standard_normal(p.value.shape) * 0.5
    return layer, loaded(layer, theirs)


def loaded(layer, theirs):
    import torch

    assert [n for n, _ in layer.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    theirs.load_state_dict({n: torch.tensor(p.value) for n, p in layer.named_parameters()})
    return theirs


def assert_like(layer, theirs, found):
    for (name, p), q in zip(layer.named_parameters(), theirs.parameters(), strict=True):
        found[name] = p.grad, q.grad
    for name, (ours, other) in found.items():
        np.testing.assert_allclose(ours, other.detach().numpy(), rtol=0, atol=CLOSE, err_msg=name)


@pytest.mark.parametrize(("embed_dim", "heads"), [(6, 1), (6, 2), (16, 2), (3, 3)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_self_attention_like_pytorch(simd, embed_dim, heads, bias, causal, padded, rng):
    torch = pytest.importorskip("torch")
    for rows, length in ((3, 5), (2, 21), (1, 1)):
        layer, theirs = pair(embed_dim, heads, bias=bias, is_causal=causal)
        x = rng.standard_normal((rows, length, embed_dim))
        lengths = rng.integers(1, length + 1, rows).astype(np.float64)
        their_x = torch.tensor(x, requires_grad=True)
        hidden = torch.tensor(np.arange(length) >= lengths[:, None]) if padded else None
        future = torch.triu(torch.ones(length, length, dtype=torch.bool), 1) if causal else None
        their_y, _ = theirs(their_x, their_x, their_x, key_padding_mask=hidden, attn_mask=future, need_weights=False)
        dy = rng.standard_normal(their_y.shape)
        their_y.backward(torch.tensor(dy))
        given = (x, lengths) if padded else x
        y, saved = layer.forward_saving(given)
        dx = layer.backward(given, y, dy, saved)
        assert_like(layer, theirs, {"y": (y, their_y), "dx": (dx[0] if padded else dx, their_x.grad)})
        looked = theirs(
            their_x, their_x, their_x, key_padding_mask=hidden, attn_mask=future, average_attn_weights=False
        )
        np.testing.assert_allclose(layer.probabilities(given), looked[1].detach().numpy(), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("arrays", [2, 3])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_cross_attention_like_pytorch(simd, arrays, padded, causal, rng):
    torch = pytest.importorskip("torch")
    for queries, keys in ((4, 7), (7, 4), (1, 3)):
        layer, theirs = pair(8, 2, is_causal=causal)
        given = [rng.standard_normal((3, length, 8)) for length in (queries, keys, keys)[:arrays]]
        lengths = rng.integers(1, keys + 1, 3).astype(np.float64)
        their = [torch.tensor(one, requires_grad=True) for one in given]
        hidden = torch.tensor(np.arange(keys) >= lengths[:, None]) if padded else None
        future = torch.triu(torch.ones(queries, keys, dtype=torch.bool), 1) if causal else None
        their_y, _ = theirs(
            their[0], their[1], their[-1], key_padding_mask=hidden, attn_mask=future, need_weights=False
        )
        dy = rng.standard_normal(their_y.shape)
        their_y.backward(torch.tensor(dy))
        x = (*given, lengths) if padded else tuple(given)
        y, saved = layer.forward_saving(x)
        dx = layer.backward(x, y, dy, saved)
        found = {f"dx[{i}]": (dx[i], one.grad) for i, one in enumerate(their)}
        assert_like(layer, theirs, {"y": (y, their_y), **found})


OPTIONS = list(itertools.product((True, False), ("relu", "gelu"), (True, False), (True, False)))


@pytest.mark.parametrize(("norm_first", "activation", "bias", "causal"), OPTIONS)
def test_encoder_layer_like_pytorch(norm_first, activation, bias, causal, rng):
    torch = pytest.importorskip("torch")
    layer = nn.TransformerEncoderLayer(
        8, 2, 12, 0.0, activation, 1e-4, True, norm_first, bias, is_causal=causal, dtype=np.float64, rng=0
    )
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, activation, 1e-4, True, norm_first, bias).double()
    for p in layer.parameters():
        p.value[...] = rng.standard_normal(p.value.shape) * 0.5
    loaded(layer, theirs)
    x, t = rng.standard_normal((3, 5, 8)), rng.standard_normal((3, 5, 8))
    their_x = torch.tensor(x, requires_grad=True)
    future = torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64) if causal else None
    their_y = theirs(their_x, src_mask=future)
    loss = torch.nn.functional.mse_loss(their_y, torch.tensor(t))
    loss.backward()
    found = nn.Backprop()(layer, nn.MSELoss(), x, t)
    assert abs(float(found) - loss.item()) < CLOSE
    assert_like(layer, theirs, {"y": (layer(x), their_y)})


@pytest.mark.parametrize("norm_first", [True, False])
def test_training_follows_pytorch(norm_first, rng):
    """20 steps of Adam from the same weights."""
    torch = pytest.importorskip("torch")
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, norm_first=norm_first, dtype=np.float64, rng=0)
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True, norm_first=norm_first).double()
    loaded(layer, theirs)
    x, t = rng.standard_normal((6, 5, 8)), rng.standard_normal((6, 5, 8))
    ours, optimizer = nn.Backprop(), nn.Adam(layer.parameters(), lr=0.01)
    their_optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        losses.append(float(ours(layer, nn.MSELoss(), x, t)))
        optimizer.step()
        their_optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(theirs(torch.tensor(x)), torch.tensor(t))
        loss.backward()
        their_optimizer.step()
        assert abs(loss.item() - losses[-1]) < 1e-8
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("norm_first", [True, False])
def test_padding_goes_through_a_stack_of_encoder_layers(norm_first, rng):
    """Rows padded with zeros give what they give alone, at all their steps, and 0 beyond."""
    options = {"norm_first": norm_first, "mask_zero": True, "dtype": np.float64}
    model = nn.Sequential(
        nn.PositionalEncoding(8, mask_zero=True),
        *(nn.TransformerEncoderLayer(8, 2, 12, 0.0, **options, rng=seed) for seed in range(3)),
        nn.LSTM(8, 4, mask_zero=True, return_sequences=False, dtype=np.float64, rng=3),
    )
    for p in model.parameters():
        p.value += rng.standard_normal(p.value.shape) * 0.1
    x, lengths = rng.standard_normal((4, 7, 8)), (7, 3, 5, 1)
    for row, length in zip(x, lengths, strict=True):
        row[length:] = 0
    y = model(x)
    for row, alone, length in zip(x, y, lengths, strict=True):
        np.testing.assert_allclose(model(row[None, :length])[0], alone, rtol=0, atol=1e-13)
    inside = nn.Sequential(*model.layers[:2])(x)
    assert not inside[1, 3:].any()
    assert inside[1, :3].all()
    loss = nn.MSELoss()
    nn.Backprop()(model, loss, x, y + 1)
    written = [p.grad.copy() for p in model.parameters()]
    nn.CentralDifference()(model, loss, x, y + 1)
    largest = max(np.abs(g).max() for g in written)
    assert max(np.abs(p.grad - g).max() for p, g in zip(model.parameters(), written, strict=True)) < 1e-8 * largest


def test_positions_are_those_of_the_paper():
    y = nn.PositionalEncoding(6, 9)(np.zeros((2, 9, 6)))
    for t, i in itertools.product(range(9), range(3)):
        angle = t / 10000 ** (2 * i / 6)
        np.testing.assert_allclose(y[1, t, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-6)
    assert nn.PositionalEncoding(5)(np.zeros((1, 2, 5))).shape == (1, 2, 5)  # an odd width ends in a sine


def test_a_query_that_sees_no_key_gives_the_bias(rng):
    layer = nn.MultiheadAttention(4, 2, dtype=np.float64, rng=0)
    layer.out_proj.bias.value[...] = [1, 2, 3, 4]
    x = rng.standard_normal((2, 3, 4)), np.array([0.0, 3.0])
    np.testing.assert_array_equal(layer(x)[0], np.tile([1.0, 2, 3, 4], (3, 1)))
    y, saved = layer.forward_saving(x)
    dx, _ = layer.backward(x, y, np.ones_like(y), saved)
    assert not dx[0].any()
    assert np.isfinite(dx).all()


def test_dropout_of_probabilities_is_unbiased_and_repeats(rng):
    layer = nn.MultiheadAttention(8, 2, 0.3, dtype=np.float64, rng=0)
    x = rng.standard_normal((16, 6, 8))
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=True))
    total = np.zeros(x.shape)
    for _ in range(400):
        total += layer(x, training=True)
        layer.drop.random.advance()
    assert np.abs(total / 400 - layer(x)).max() < 0.25
    assert np.abs(total / 400 - layer(x)).mean() < 0.03


def lengths_too(rows, rng):
    return rng.standard_normal((rows, 4, 6)), rng.integers(0, 5, rows)


def zeros_too(rows, rng):
    x = rng.standard_normal((rows, 5, 6))
    x[::2, 3:] = 0
    return x


def query_and_key(rows, rng):
    return rng.standard_normal((rows, 3, 6)), rng.standard_normal((rows, 4, 6)), rng.integers(1, 5, rows)


CHECKED = {
    "attention": (lambda: nn.MultiheadAttention(6, 2, rng=0), (5, 6), None),
    "attention, causal": (lambda: nn.MultiheadAttention(6, 3, is_causal=True, rng=0), (5, 6), None),
    "attention, dropout": (lambda: nn.MultiheadAttention(6, 2, 0.3, rng=0), (5, 6), None),
    "attention, lengths": (lambda: nn.MultiheadAttention(6, 2, rng=0), ((4, 6), ()), lengths_too),
    "cross-attention": (lambda: nn.MultiheadAttention(6, 2, rng=0), ((3, 6), (4, 6), ()), query_and_key),
    "attention, zeros": (lambda: nn.MultiheadAttention(6, 2, mask_zero=True, rng=0), (5, 6), zeros_too),
    "positions": (lambda: nn.PositionalEncoding(6), (5, 6), None),
    "positions, zeros": (lambda: nn.PositionalEncoding(6, mask_zero=True), (5, 6), zeros_too),
    "encoder": (lambda: nn.TransformerEncoderLayer(6, 2, 7, 0.0, rng=0), (5, 6), None),
    "encoder, all": (
        lambda: nn.TransformerEncoderLayer(6, 2, 7, 0.2, "gelu", norm_first=True, is_causal=True, rng=0), (5, 6), None,
    ),
    "encoder, padded": (lambda: nn.TransformerEncoderLayer(6, 2, 7, 0.0, mask_zero=True, rng=0), (5, 6), None),
}  # fmt: skip


@pytest.mark.parametrize("which", CHECKED)
def test_all_that_a_layer_must_pass(which):
    make, shape, inputs = CHECKED[which]
    check_layer(make, shape, inputs=inputs)


@pytest.mark.parametrize("norm_first", [True, False])
def test_central_differences_agree_with_backward(norm_first, rng):
    model = nn.Sequential(
        nn.Linear(3, 6, dtype=np.float64, rng=1),
        nn.TransformerEncoderLayer(6, 2, 7, 0.1, "gelu", norm_first=norm_first, dtype=np.float64, rng=0),
        nn.Linear(6, 2, dtype=np.float64, rng=2),
    )
    x, t = rng.standard_normal((3, 4, 3)), rng.standard_normal((3, 4, 2))
    nn.Backprop()(model, nn.MSELoss(), x, t)
    written = {name: p.grad.copy() for name, p in model.named_parameters()}
    nn.CentralDifference()(model, nn.MSELoss(), x, t)
    largest = max(np.abs(g).max() for g in written.values())
    for name, p in model.named_parameters():
        assert np.abs(p.grad - written[name]).max() < 1e-8 * largest, name


def test_strategies_see_the_layers_of_an_encoder_layer():
    layer = nn.TransformerEncoderLayer(4, 2, 8, rng=0)
    assert layer.path_of(layer.self_attn.out_proj) == "self_attn.out_proj"
    assert layer.dropout.p == layer.self_attn.dropout == 0.1  # PyTorch's default
    assert repr(layer) == "TransformerEncoderLayer(4, 2, dim_feedforward=8)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.MultiheadAttention(6, 4), "num_heads: expected a divisor of embed_dim, 6, got 4"),
        (lambda: nn.MultiheadAttention(6, 2, 2.0), "dropout: expected a probability"),
        (lambda: nn.MultiheadAttention(6, 2)(np.zeros((2, 3, 5))), r"x: expected shape \(N, L, 6\)"),
        (lambda: nn.MultiheadAttention(6, 2)((np.zeros((2, 3, 6)), np.zeros((2, 0, 6)))), "S at least 1"),
        (lambda: nn.MultiheadAttention(6, 2)((np.zeros((2, 3, 6)), np.full(2, 4))), r"lengths: expected .* \[0, 3\]"),
        (lambda: nn.TransformerEncoderLayer(6, 2, activation="tanh"), "activation: expected 'relu' or 'gelu'"),
        (lambda: nn.PositionalEncoding(6, 4)(np.zeros((2, 5, 6))), r"shape \(N, T, 6\) with T at most 4"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
