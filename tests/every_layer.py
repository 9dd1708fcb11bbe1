"""Every layer that nnframe has, with inputs, and how PyTorch calls it: what interchange is tested on."""

import numpy as np

import nnframe as nn

RNG = {"rng": 7}


def series(*shape):
    return lambda rng: rng.standard_normal((3, *shape))


def ids(*shape):
    return lambda rng: rng.integers(0, 5, (3, *shape))


def with_lengths(*shape):
    return lambda rng: (rng.standard_normal((3, *shape)), np.array([shape[0], 1, 2]))


def padded(*shape):
    def make(rng):
        x = rng.standard_normal((3, *shape))
        x[0, 2:] = x[1, 0] = x[2] = 0
        return x

    return make


def several(*shapes):
    return lambda rng: tuple(rng.standard_normal((3, *shape)) for shape in shapes)


# name: what makes the layer, what makes an input of 3 rows, and PyTorch's words for the same layer, if it has any
CASES = {
    "linear": (lambda: nn.Linear(5, 3, rng=1), series(5), "Linear(5, 3)"),
    "linear without bias": (lambda: nn.Linear(5, 3, bias=False, rng=1), series(5), "Linear(5, 3, bias=False)"),
    "linear of series": (lambda: nn.Linear(5, 3, rng=1), series(4, 5), "Linear(5, 3)"),
    "sigmoid": (nn.Sigmoid, series(5), "Sigmoid()"),
    "tanh": (nn.Tanh, series(5), "Tanh()"),
    "relu": (nn.ReLU, series(5), "ReLU()"),
    "leaky relu": (lambda: nn.LeakyReLU(0.2), series(5), "LeakyReLU(0.2)"),
    "elu": (lambda: nn.ELU(0.7), series(5), "ELU(0.7)"),
    "gelu": (nn.GELU, series(5), "GELU()"),
    "gelu tanh": (lambda: nn.GELU("tanh"), series(5), "GELU(approximate='tanh')"),
    "silu": (nn.SiLU, series(5), "SiLU()"),
    "softplus": (nn.Softplus, series(5), "Softplus()"),
    "selu": (nn.SELU, series(5), "SELU()"),
    "mish": (nn.Mish, series(5), "Mish()"),
    "hardswish": (nn.Hardswish, lambda rng: 4 * rng.standard_normal((3, 5)), "Hardswish()"),
    "step": (nn.Step, series(5), None),
    "prelu": (nn.PReLU, series(5), "PReLU()"),
    "prelu of channels": (lambda: nn.PReLU(4, 0.1), series(4, 2, 3), "PReLU(4, 0.1)"),
    "softmax": (lambda: nn.Softmax(1), series(5), "Softmax(1)"),
    "softmax of rows": (lambda: nn.Softmax(0), series(5), "Softmax(0)"),
    "log softmax": (lambda: nn.LogSoftmax(-1), series(4, 5), "LogSoftmax(-1)"),
    "round": (nn.Round, lambda rng: np.array([[0.5, 1.5], [-0.5, 2.4], [-2.5, 0.1]]), None),
    "round straight through": (lambda: nn.Round(straight_through=True), series(5), None),
    "sign": (nn.Sign, lambda rng: np.array([[0.0, 1.5], [-0.5, 2.4], [-2.5, 0.1]]), None),
    "quantize": (lambda: nn.Quantize(3, -0.7, 1.1), series(50), None),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, 2, 1, groups=2, **RNG), series(4, 9), "Conv1d(4, 6, 3, 2, 1, groups=2)"),
    "conv1d same": (
        lambda: nn.Conv1d(2, 3, 4, padding="same", dilation=2, **RNG),
        series(2, 9),
        "Conv1d(2, 3, 4, padding='same', dilation=2)",
    ),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, **RNG), series(3, 6, 7), "Conv2d(3, 4, 3)"),
    "conv2d of all": (
        lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, False, **RNG),
        series(4, 7, 8),
        "Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, False)",
    ),
    "conv2d valid": (
        lambda: nn.Conv2d(2, 3, 3, padding="valid", **RNG),
        series(2, 5, 6),
        "Conv2d(2, 3, 3, padding='valid')",
    ),
    "conv transpose 1d": (
        lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2, dilation=2, **RNG),
        series(4, 5),
        "ConvTranspose1d(4, 6, 3, 2, 1, 1, 2, dilation=2)",
    ),
    "conv transpose 2d": (
        lambda: nn.ConvTranspose2d(3, 2, (3, 2), 2, **RNG),
        series(3, 4, 5),
        "ConvTranspose2d(3, 2, (3, 2), 2)",
    ),
    "identity": (nn.Identity, series(5), "Identity()"),
    "zeros 1d": (lambda: nn.ZeroPad1d((2, 1)), series(2, 4), "ZeroPad1d((2, 1))"),
    "zeros 2d": (lambda: nn.ZeroPad2d((1, 2, 0, 3)), series(2, 4, 3), "ZeroPad2d((1, 2, 0, 3))"),
    "mirror 1d": (lambda: nn.ReflectionPad1d((2, 3)), series(2, 4), "ReflectionPad1d((2, 3))"),
    "mirror 2d": (lambda: nn.ReflectionPad2d((1, 2, 0, 3)), series(2, 4, 3), "ReflectionPad2d((1, 2, 0, 3))"),
    "ends 1d": (lambda: nn.ReplicationPad1d((2, 5)), series(2, 4), "ReplicationPad1d((2, 5))"),
    "ends 2d": (lambda: nn.ReplicationPad2d((1, 2, 0, 3)), series(2, 4, 3), "ReplicationPad2d((1, 2, 0, 3))"),
    "circle 1d": (lambda: nn.CircularPad1d((2, 4)), series(2, 4), "CircularPad1d((2, 4))"),
    "circle 2d": (lambda: nn.CircularPad2d((1, 2, 0, 3)), series(2, 4, 3), "CircularPad2d((1, 2, 0, 3))"),
    "max pool 1d": (lambda: nn.MaxPool1d(3, 2, 1, 2), series(2, 9), "MaxPool1d(3, 2, 1, 2)"),
    "max pool 2d": (lambda: nn.MaxPool2d(2), series(2, 5, 6), "MaxPool2d(2)"),
    "max pool 2d ceil": (
        lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        series(2, 6, 7),
        "MaxPool2d(3, 2, 1, ceil_mode=True)",
    ),
    "avg pool 1d": (lambda: nn.AvgPool1d(3, 2, 1), series(2, 9), "AvgPool1d(3, 2, 1)"),
    "avg pool 2d": (lambda: nn.AvgPool2d((2, 3)), series(2, 6, 7), "AvgPool2d((2, 3))"),
    "avg pool 2d ceil": (lambda: nn.AvgPool2d(3, 2, 1, True), series(2, 6, 8), "AvgPool2d(3, 2, 1, True)"),
    "avg pool 2d without padding": (
        lambda: nn.AvgPool2d(3, 2, 1, True, False),
        series(2, 6, 8),
        "AvgPool2d(3, 2, 1, True, False)",
    ),
    "avg pool 2d divisor": (
        lambda: nn.AvgPool2d(3, 2, 1, divisor_override=5),
        series(2, 6, 8),
        "AvgPool2d(3, 2, 1, divisor_override=5)",
    ),
    "adaptive avg pool": (lambda: nn.AdaptiveAvgPool2d((1, 2)), series(2, 5, 6), "AdaptiveAvgPool2d((1, 2))"),
    "batch norm 1d": (lambda: nn.BatchNorm1d(4), series(4), "BatchNorm1d(4)"),
    "batch norm 1d of series": (lambda: nn.BatchNorm1d(4, 1e-3, None), series(4, 5), "BatchNorm1d(4, 1e-3, None)"),
    "batch norm 2d": (lambda: nn.BatchNorm2d(4, affine=False), series(4, 3, 2), "BatchNorm2d(4, affine=False)"),
    "batch norm untracked": (
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        series(4, 3, 2),
        "BatchNorm2d(4, track_running_stats=False)",
    ),
    "layer norm": (lambda: nn.LayerNorm((3, 4)), series(2, 3, 4), "LayerNorm((3, 4))"),
    "layer norm bare": (
        lambda: nn.LayerNorm(4, 1e-3, elementwise_affine=False),
        series(4),
        "LayerNorm(4, 1e-3, False)",
    ),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), series(3, 4), "LayerNorm(4, bias=False)"),
    "group norm": (lambda: nn.GroupNorm(2, 6), series(6, 3, 2), "GroupNorm(2, 6)"),
    "group norm bare": (lambda: nn.GroupNorm(3, 6, affine=False), series(6, 4), "GroupNorm(3, 6, affine=False)"),
    "rms norm": (lambda: nn.RMSNorm(5), series(3, 5), "RMSNorm(5)"),
    "rms norm bare": (lambda: nn.RMSNorm((3, 5), 1e-3, False), series(3, 5), "RMSNorm((3, 5), 1e-3, False)"),
    "dropout": (lambda: nn.Dropout(0.3, rng=1), series(5), "Dropout(0.3)"),
    "dropout 2d": (lambda: nn.Dropout2d(0.3, rng=1), series(2, 3, 4), "Dropout2d(0.3)"),
    "embedding": (lambda: nn.Embedding(5, 3, **RNG), ids(4), "Embedding(5, 3)"),
    "embedding padded": (lambda: nn.Embedding(5, 3, 2, **RNG), ids(4), None),
    "flatten": (nn.Flatten, series(2, 3, 4), "Flatten()"),
    "flatten some": (lambda: nn.Flatten(1, 2), series(2, 3, 4), "Flatten(1, 2)"),
    "reshape": (lambda: nn.Reshape(4, -1), series(2, 6), None),
    "unflatten": (lambda: nn.Unflatten(1, (2, 3)), series(6, 2), "Unflatten(1, (2, 3))"),
    "permute": (lambda: nn.Permute(0, 2, 3, 1), series(2, 3, 4), None),
    "rnn": (lambda: nn.RNN(4, 3, **RNG), series(5, 4), "RNN(4, 3, batch_first=True)"),
    "rnn relu": (
        lambda: nn.RNN(4, 3, 2, "relu", bidirectional=True, bias=False, **RNG),
        series(5, 4),
        "RNN(4, 3, 2, 'relu', bidirectional=True, bias=False, batch_first=True)",
    ),
    "gru": (
        lambda: nn.GRU(4, 3, 2, bidirectional=True, **RNG),
        series(5, 4),
        "GRU(4, 3, 2, bidirectional=True, batch_first=True)",
    ),
    "lstm": (
        lambda: nn.LSTM(4, 3, 2, bidirectional=True, dropout=0.5, **RNG),
        series(5, 4),
        "LSTM(4, 3, 2, bidirectional=True, dropout=0.5, batch_first=True)",
    ),
    "lstm last": (lambda: nn.LSTM(4, 3, bidirectional=True, return_sequences=False, **RNG), series(5, 4), None),
    "lstm of lengths": (lambda: nn.LSTM(4, 3, 2, bidirectional=True, **RNG), with_lengths(5, 4), None),
    "gru of lengths": (lambda: nn.GRU(4, 3, return_sequences=False, **RNG), with_lengths(5, 4), None),
    "attention": (
        lambda: nn.MultiheadAttention(6, 2, 0.1, **RNG),
        series(5, 6),
        "MultiheadAttention(6, 2, 0.1, batch_first=True)",
    ),
    "attention causal": (lambda: nn.MultiheadAttention(6, 3, bias=False, is_causal=True, **RNG), series(5, 6), None),
    "attention padded": (lambda: nn.MultiheadAttention(6, 3, mask_zero=True, **RNG), padded(5, 6), None),
    "attention of lengths": (lambda: nn.MultiheadAttention(6, 3, **RNG), with_lengths(5, 6), None),
    "attention across": (lambda: nn.MultiheadAttention(6, 3, **RNG), several((5, 6), (4, 6)), None),
    "attention of three": (lambda: nn.MultiheadAttention(6, 3, **RNG), several((5, 6), (4, 6), (4, 6)), None),
    "positions": (lambda: nn.PositionalEncoding(5, 9), series(4, 5), None),
    "positions padded": (lambda: nn.PositionalEncoding(6, 9, mask_zero=True), padded(5, 6), None),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(6, 2, 8, **RNG),
        series(5, 6),
        "TransformerEncoderLayer(6, 2, 8, batch_first=True)",
    ),
    "encoder norm first": (
        lambda: nn.TransformerEncoderLayer(6, 2, 8, 0.0, "gelu", 1e-3, norm_first=True, bias=False, **RNG),
        series(5, 6),
        "TransformerEncoderLayer(6, 2, 8, 0.0, 'gelu', 1e-3, True, True, False)",
    ),
    "encoder padded": (
        lambda: nn.TransformerEncoderLayer(6, 2, 8, mask_zero=True, is_causal=True, **RNG),
        padded(5, 6),
        None,
    ),
    "sequential": (
        lambda: nn.Sequential(nn.Linear(5, 4, rng=1), nn.Tanh(), nn.Sequential(nn.Linear(4, 3, rng=2))),
        series(5),
        "Sequential(t.Linear(5, 4), t.Tanh(), t.Sequential(t.Linear(4, 3)))",
    ),
    "residual": (lambda: nn.Residual(nn.Linear(5, 5, rng=1), nn.Tanh()), series(5), None),
    "branches": (
        lambda: nn.Branches(nn.Linear(5, 4, rng=1), nn.Linear(5, 3, rng=2), join="concatenate"),
        series(5),
        None,
    ),
    "branches of two": (
        lambda: nn.Branches(nn.Linear(5, 4, rng=1), nn.Linear(3, 4, rng=2), join="multiply"),
        several((5,), (3,)),
        None,
    ),
}


def made(name):
    """Return a layer whose every array is off its initial value, and an input: both the same at each call."""
    make, give, _ = CASES[name]
    layer, rng = make(), np.random.default_rng(20261125)
    for _, held in (*layer.named_parameters(), *layer.named_buffers()):
        if held.value.dtype.kind == "f":
            held.value += 0.2 * np.abs(rng.standard_normal(held.value.shape))
        elif held.value.dtype == np.int64:
            held.value += 3
    x = give(rng)
    parts = tuple(one.astype(np.float32) if one.dtype.kind == "f" else one for one in x) if isinstance(x, tuple) else x
    return layer, parts.astype(np.float32) if not isinstance(x, tuple) and x.dtype.kind == "f" else parts
