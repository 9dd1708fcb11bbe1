"""RNN, GRU and LSTM: against PyTorch in float64, padding, what is refused, and what is trained."""

import itertools

import numpy as np
import pytest

import nnframe as nn
from nnframe.testing import check_layer

CLOSE = 1e-10  # float64, entries of size 1
KINDS = {
    "rnn": (nn.RNN, "RNN", {}),
    "relu": (nn.RNN, "RNN", {"nonlinearity": "relu"}),
    "gru": (nn.GRU, "GRU", {}),
    "lstm": (nn.LSTM, "LSTM", {}),
}
GRID = list(itertools.product((1, 2, 3), (False, True), (True, False)))  # layers, directions, bias


def pair(kind, inputs, hidden, **options):
    """A layer, and PyTorch's with the same weights."""
    torch = pytest.importorskip("torch")
    made, name, own = KINDS[kind]
    layer = made(inputs, hidden, **options, **own, dtype=np.float64, rng=0)
    theirs = getattr(torch.nn, name)(inputs, hidden, batch_first=True, **options, **own).double()
    names = [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in layer.named_parameters()] == names
    theirs.load_state_dict({n: torch.tensor(p.value) for n, p in layer.named_parameters()})
    return layer, theirs


def assert_like(layer, theirs, y, dx, their_y, their_dx):
    found = {"y": (y, their_y.detach()), "dx": (dx, their_dx)}
    for (name, p), q in zip(layer.named_parameters(), theirs.parameters(), strict=True):
        found[name] = p.grad, q.grad
    for name, (ours, other) in found.items():
        np.testing.assert_allclose(ours, other.numpy(), rtol=0, atol=CLOSE, err_msg=name)


@pytest.mark.parametrize(("layers", "both", "bias"), GRID)
@pytest.mark.parametrize("kind", KINDS)
def test_like_pytorch(simd, kind, layers, both, bias, rng):
    torch = pytest.importorskip("torch")
    for hidden, rows, steps, inputs in ((5, 3, 7, 2), (17, 1, 2, 3), (1, 4, 1, 1)):
        layer, theirs = pair(kind, inputs, hidden, num_layers=layers, bias=bias, bidirectional=both)
        x = rng.standard_normal((rows, steps, inputs))
        their_x = torch.tensor(x, requires_grad=True)
        their_y, _ = theirs(their_x)
        dy = rng.standard_normal(their_y.shape)
        their_y.backward(torch.tensor(dy))
        y, saved = layer.forward_saving(x)
        dx = layer.backward(x, y, dy, saved)
        assert_like(layer, theirs, y, dx, their_y, their_x.grad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sequences", [True, False])
def test_lengths_like_packed_sequences(simd, kind, sequences, rng):
    torch = pytest.importorskip("torch")
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    layer, theirs = pair(kind, 3, 4, num_layers=2, bidirectional=True)
    layer.return_sequences = sequences
    x, lengths = rng.standard_normal((5, 6, 3)), np.array([2, 6, 1, 5, 3])
    their_x = torch.tensor(x, requires_grad=True)
    packed = pack_padded_sequence(their_x, lengths, batch_first=True, enforce_sorted=False)
    their_y, last = theirs(packed)
    if sequences:
        their_y, _ = pad_packed_sequence(their_y, batch_first=True)
    else:
        last = last[0] if isinstance(last, tuple) else last
        their_y = torch.cat([last[-2], last[-1]], dim=1)
    dy = rng.standard_normal(their_y.shape)
    their_y.backward(torch.tensor(dy))
    given = x, lengths.astype(np.float64)
    y, saved = layer.forward_saving(given)
    dx, of_lengths = layer.backward(given, y, dy, saved)
    assert_like(layer, theirs, y, dx, their_y, their_x.grad)
    np.testing.assert_array_equal(of_lengths, np.zeros(5))


def test_float32_is_float64_but_for_rounding(simd, rng):
    for kind, (made, _, own) in KINDS.items():
        layer = made(20, 30, 2, bidirectional=True, **own, rng=0)
        exact = layer.astype(np.float64)
        x = rng.standard_normal((6, 9, 20)).astype(np.float32)
        np.testing.assert_allclose(layer(x), exact(x), rtol=0, atol=3e-6, err_msg=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_are_padding_where_that_is_asked_for(kind, rng):
    made, _, own = KINDS[kind]
    layer = made(3, 4, 2, bidirectional=True, **own, mask_zero=True, rng=0)
    lengths = np.array([4, 0, 7, 1])
    x = rng.standard_normal((4, 7, 3)).astype(np.float32)
    x[np.arange(7) >= lengths[:, None]] = 0
    by_zeros = layer(x)
    layer.mask_zero = False
    np.testing.assert_array_equal(by_zeros, layer((x, lengths)))
    assert not by_zeros[1].any()
    assert not by_zeros[0, 4:].any()
    assert np.abs(by_zeros - layer(x)).max() > 1e-3


def test_a_sequence_of_no_step_leaves_the_state_at_zero():
    layer = nn.LSTM(2, 3, return_sequences=False, rng=0)
    np.testing.assert_array_equal(layer((np.ones((2, 4, 2)), np.array([0, 4])))[0], np.zeros(3))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_at_the_front_is_passed_over_too(kind, rng):
    made, _, own = KINDS[kind]
    layer = made(3, 4, **own, mask_zero=True, return_sequences=False, dtype=np.float64, rng=0)
    x = rng.standard_normal((2, 5, 3))
    late = np.concatenate([np.zeros((2, 3, 3)), x], axis=1)
    np.testing.assert_allclose(layer(late), layer(x), rtol=0, atol=1e-15)


def test_the_last_state_is_that_of_each_direction(rng):
    layer = nn.GRU(3, 4, bidirectional=True, rng=0)
    x = rng.standard_normal((2, 5, 3))
    y = layer(x)
    layer.return_sequences = False
    np.testing.assert_array_equal(layer(x), np.concatenate([y[:, -1, :4], y[:, 0, 4:]], axis=1))


def test_dropout_between_layers_is_that_of_the_dropout_layer(rng):
    layer = nn.LSTM(3, 4, 2, dropout=0.5, dtype=np.float64, rng=0)
    x = rng.standard_normal((6, 5, 3))
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=True))
    assert np.abs(layer(x, training=True) - layer(x)).max() > 1e-3
    layer.dropouts[0].random.advance()
    first = layer(x, training=True)
    layer.dropouts[0].random.advance()
    assert np.abs(layer(x, training=True) - first).max() > 1e-3
    assert nn.LSTM(3, 4, dropout=0.5).dropouts == []  # nothing is handed on by a single layer


def lengths_too(rows, rng):
    return rng.standard_normal((rows, 4, 3)), rng.integers(0, 5, rows)


def zeros_too(rows, rng):
    x = rng.standard_normal((rows, 5, 3))
    x[::2, 3:] = 0
    return x


CHECKED = {
    "RNN": (lambda: nn.RNN(3, 4, rng=0), (5, 3), None),
    "RNN, relu, two layers": (lambda: nn.RNN(3, 4, 2, "relu", rng=0), (5, 3), None),
    "GRU, last state": (lambda: nn.GRU(3, 4, 2, bidirectional=True, return_sequences=False, rng=0), (5, 3), None),
    "LSTM, both directions": (lambda: nn.LSTM(3, 4, 2, bidirectional=True, rng=0), (5, 3), None),
    "LSTM, dropout": (lambda: nn.LSTM(3, 4, 2, dropout=0.4, rng=0), (5, 3), None),
    "LSTM, lengths": (lambda: nn.LSTM(3, 4, 2, bidirectional=True, rng=0), ((4, 3), ()), lengths_too),
    "GRU, zeros": (lambda: nn.GRU(3, 4, mask_zero=True, rng=0), (5, 3), zeros_too),
    "GRU, lengths": (lambda: nn.GRU(3, 4, return_sequences=False, rng=0), ((4, 3), ()), lengths_too),
}


@pytest.mark.parametrize("which", CHECKED)
def test_all_that_a_layer_must_pass(which):
    make, shape, inputs = CHECKED[which]
    check_layer(make, shape, inputs=inputs)


def at_entries(model, loss, x, t, p, chosen):
    """The loss as a function of some entries of a parameter."""
    flat = p.value.reshape(-1)

    def value(entries):
        kept = flat[chosen]
        flat[chosen] = entries
        try:
            return loss(model(x), t)
        finally:
            flat[chosen] = kept

    return value


@pytest.mark.parametrize("kind", KINDS)
def test_central_differences_agree_with_backward_and_with_numerical_gradient(kind, rng):
    made, _, own = KINDS[kind]
    layers = 1 if kind == "relu" else 2  # with few kinks, so that none is within a step
    model = nn.Sequential(
        nn.Linear(3, 4, dtype=np.float64, rng=1),
        made(4, 5, layers, bidirectional=True, **own, return_sequences=False, dtype=np.float64, rng=0),
        nn.Linear(10, 3, dtype=np.float64, rng=2),
    )
    x, t = rng.standard_normal((3, 4, 3)), rng.integers(0, 3, 3)
    loss = nn.CrossEntropyLoss()
    nn.Backprop()(model, loss, x, t)
    written = {name: p.grad.copy() for name, p in model.named_parameters()}
    nn.CentralDifference()(model, loss, x, t)
    largest = max(np.abs(g).max() for g in written.values())
    for name, p in model.named_parameters():
        assert np.abs(p.grad - written[name]).max() < 1e-8 * largest, name
        chosen = rng.permutation(p.value.size)[:3]
        found = nn.numerical_gradient(at_entries(model, loss, x, t, p, chosen), p.value.reshape(-1)[chosen], step=3e-6)
        assert np.abs(found - p.grad.reshape(-1)[chosen]).max() < 1e-8 * largest, name


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.LSTM(0, 3), ValueError, "input_size: expected at least 1, got 0"),
        (lambda: nn.LSTM(3, 2.5), TypeError, "hidden_size: expected a whole number, got 2.5"),
        (lambda: nn.LSTM(3, 2, 0), ValueError, "num_layers: expected at least 1"),
        (lambda: nn.LSTM(3, 2, batch_first=False), ValueError, "batch_first: expected True, as rows are"),
        (lambda: nn.LSTM(3, 2, dropout=1.5), ValueError, "dropout: expected a probability"),
        (lambda: nn.RNN(3, 2, 1, "sigmoid"), ValueError, "nonlinearity: expected 'tanh' or 'relu', got 'sigmoid'"),
        (lambda: nn.GRU(3, 2)(np.zeros((4, 5, 2))), ValueError, r"x: expected shape \(N, T, 3\), T at least 1, got"),
        (lambda: nn.GRU(3, 2)(np.zeros((4, 0, 3))), ValueError, r"x: expected shape \(N, T, 3\), T at least 1, got"),
        (lambda: nn.GRU(3, 2)((np.zeros((4, 5, 3)), np.zeros((4, 5)))), ValueError, r"tuple \(x, lengths\)"),
        (lambda: nn.GRU(3, 2)((np.zeros((2, 5, 3)), np.array([1, 6]))), ValueError, r"lengths: expected .* \[0, 5\]"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_repr():
    assert repr(nn.LSTM(3, 4)) == "LSTM(3, 4)"
    assert repr(nn.RNN(3, 4, 2, "relu", bidirectional=True)) == (
        "RNN(3, 4, 2, nonlinearity='relu', bidirectional=True)"
    )
    assert repr(nn.GRU(3, 4, bias=False, dropout=0.25, mask_zero=True, return_sequences=False)) == (
        "GRU(3, 4, bias=False, dropout=0.25, mask_zero=True, return_sequences=False)"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_training_follows_pytorch(kind, rng):
    """20 steps of Adam from the same weights."""
    torch = pytest.importorskip("torch")
    layer, theirs = pair(kind, 2, 8)
    head = nn.Linear(8, 1, dtype=np.float64, rng=1)
    their_head = torch.nn.Linear(8, 1).double()
    their_head.load_state_dict({n: torch.tensor(p.value) for n, p in head.named_parameters()})
    model = nn.Sequential(layer, head)
    x = rng.uniform(-1, 1, (16, 10, 2))
    t = np.cumsum(x.prod(axis=2, keepdims=True), axis=1)
    ours, optimizer = nn.Backprop(), nn.Adam(model.parameters(), lr=0.02)
    their_optimizer = torch.optim.Adam([*theirs.parameters(), *their_head.parameters()], lr=0.02)
    losses = []
    for _ in range(20):
        losses.append(float(ours(model, nn.MSELoss(), x, t)))
        optimizer.step()
        their_optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(their_head(theirs(torch.tensor(x))[0]), torch.tensor(t))
        loss.backward()
        their_optimizer.step()
        assert abs(loss.item() - losses[-1]) < 1e-8
    assert losses[-1] < losses[0]
    for p, q in zip(layer.parameters(), theirs.parameters(), strict=True):
        assert np.abs(p.value - q.detach().numpy()).max() < 1e-8


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True, "dropout": 0.3},
        {"num_layers": 2, "bidirectional": True, "return_sequences": False},
        {"bias": False},
        {"mask_zero": True},
    ],
)
def test_central_differences_are_exact(kind, options, dtype, rng):
    # nothing is subtracted: the gradient is that of the written backward to rounding, in float32 as well
    bound = 2e-15 if dtype is np.float64 else 2e-6
    x, t = rng.standard_normal((5, 6, 3)).astype(dtype), rng.integers(0, 4, 5)
    below = [nn.Linear(3, 3, dtype=dtype, rng=4)]
    if "mask_zero" in options:
        x[1, 4:], x[3, 2], below = 0, 0, []
    layer = kind(3, 4, dtype=dtype, rng=1, **options)
    width = nn.Flatten()(layer(x)).shape[1]
    model = nn.Sequential(*below, layer, nn.Flatten(), nn.Linear(width, 4, dtype=dtype, rng=2))
    found = []
    for strategy in (nn.Backprop(), nn.CentralDifference()):
        strategy(model, nn.CrossEntropyLoss(), x, t)
        found.append([parameter.grad.copy() for parameter in model.parameters()])
    largest = max(np.abs(gradient).max() for gradient in found[0])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=bound * largest)


def test_a_change_that_makes_or_fills_padding(rng):
    layer = nn.LSTM(3, 4, mask_zero=True, dtype=np.float64, rng=1)
    x = rng.standard_normal((4, 5, 3))
    x[1, 3:] = 0
    dx = 0.1 * rng.standard_normal((2, *x.shape))
    dx[0, 2, 1] = -x[2, 1]
    y = layer(x)
    np.testing.assert_allclose(layer.difference(x, y, dx), [layer(x + one) - y for one in dx], rtol=0, atol=1e-14)
