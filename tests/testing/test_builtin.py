"""Every layer and loss of nnframe under the checks that it offers for those of others."""

import numpy as np
import planes
import pytest

import nnframe as nn
from nnframe.testing import checks

LABELS = [0, 1, 2, 1, 0]
TWO = ((4,), (2,))  # two inputs


def two_branches(join):
    return nn.Branches(
        nn.Linear(4, 3, rng=0), nn.Sequential(nn.Linear(4, 3, rng=1), nn.BatchNorm1d(3), nn.Tanh()), join=join
    )


LAYERS = {
    "Sigmoid": (nn.Sigmoid, (4,)),
    "Tanh": (nn.Tanh, (4,)),
    "ReLU": (nn.ReLU, (2, 4)),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), (4,)),
    "ELU": (lambda: nn.ELU(0.7), (4,)),
    "GELU": (nn.GELU, (4,)),
    "GELU, tanh": (lambda: nn.GELU("tanh"), (4,)),
    "SiLU": (nn.SiLU, ()),
    "Softplus": (nn.Softplus, (4,)),
    "SELU": (nn.SELU, (4,)),
    "Mish": (nn.Mish, (4,)),
    "Hardswish": (nn.Hardswish, (4,)),
    "PReLU": (nn.PReLU, (4,)),
    "PReLU, channels": (lambda: nn.PReLU(3, 0.1), (3, 2)),
    "Softmax": (lambda: nn.Softmax(1), (4,)),
    "Softmax, last of three": (lambda: nn.Softmax(-1), (3, 4)),
    "Softmax, channels": (lambda: nn.Softmax(1), (3, 2)),
    "Softmax over rows": (lambda: nn.Softmax(0), (4,)),
    "LogSoftmax": (lambda: nn.LogSoftmax(-1), (4,)),
    "LogSoftmax, channels": (lambda: nn.LogSoftmax(1), (3, 2)),
    "Step": (nn.Step, (4,)),
    "Round": (nn.Round, (4,)),
    "Sign": (nn.Sign, (4,)),
    "Quantize": (lambda: nn.Quantize(3, -2, 2), (4,)),
    "Linear": (lambda: nn.Linear(4, 3, rng=0), (4,)),
    "Linear, stacked": (lambda: nn.Linear(4, 3, rng=0), (2, 4)),
    "Linear without bias": (lambda: nn.Linear(4, 3, False, rng=0), (4,)),
    "LayerNorm": (lambda: nn.LayerNorm(4), (4,)),
    "LayerNorm, stacked": (lambda: nn.LayerNorm(4), (3, 4)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), (4,)),
    "BatchNorm1d, sequences": (lambda: nn.BatchNorm1d(4), (4, 3)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (3, 2, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), (6,)),
    "GroupNorm of images": (lambda: nn.GroupNorm(2, 4), (4, 2, 3)),
    "GroupNorm without parameters": (lambda: nn.GroupNorm(1, 3, affine=False), (3, 2)),
    "RMSNorm": (lambda: nn.RMSNorm(4), (4,)),
    "RMSNorm of two axes": (lambda: nn.RMSNorm((3, 2), 1e-3), (2, 3, 2)),
    "RMSNorm without a weight": (lambda: nn.RMSNorm(4, elementwise_affine=False), (3, 4)),
    "Dropout2d": (lambda: nn.Dropout2d(0.4, rng=3), (3, 2, 2)),
    "Dropout": (lambda: nn.Dropout(0.4, rng=3), (4,)),
    "Embedding": (lambda: nn.Embedding(7, 3, rng=0), (2,)),
    "Embedding with padding": (lambda: nn.Embedding(7, 3, 2, rng=0), ()),
    "RNN": (lambda: nn.RNN(4, 3, rng=0), (2, 4)),
    "GRU": (lambda: nn.GRU(4, 3, 2, bidirectional=True, rng=0), (2, 4)),
    "LSTM": (lambda: nn.LSTM(4, 3, return_sequences=False, rng=0), (2, 4)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2, rng=0), (3, 4)),
    "PositionalEncoding": (lambda: nn.PositionalEncoding(4), (3, 4)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 6, rng=0), (3, 4)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 3, rng=0), nn.ReLU(), nn.Linear(3, 2, rng=1)), (4,)),
    "Sequential of ids": (lambda: nn.Sequential(nn.Embedding(7, 3, rng=0), nn.Linear(3, 2, rng=1)), (2,)),
    "Residual": (lambda: nn.Residual(nn.Linear(4, 4, rng=0), nn.Tanh()), (4,)),
    "Branches, added": (lambda: two_branches("add"), (4,)),
    "Branches, side by side": (lambda: two_branches("concatenate"), (4,)),
    "Branches, multiplied": (lambda: two_branches("multiply"), (4,)),
    "Branches of two inputs": (lambda: nn.Branches(nn.Linear(4, 3, rng=0), nn.Linear(2, 3, rng=1)), TWO),
    "a shared layer": (lambda: nn.Sequential(*[nn.Linear(4, 4, rng=0)] * 2), (4,)),
    **planes.LAYERS,
}
PROBABILITIES = lambda rows, rng: rng.uniform(0.1, 0.9, (rows, 3))  # noqa: E731
LOSSES = {
    "MSELoss": (nn.MSELoss, (3,), None),
    "MSELoss, sum": (lambda: nn.MSELoss("sum"), (3,), None),
    "MSELoss of numbers": (nn.MSELoss, (), None),
    "MSELoss of tables": (nn.MSELoss, (2, 3), None),
    "MSELoss of one output": (nn.MSELoss, (1,), lambda rows, rng: rng.standard_normal(rows)),
    "L1Loss": (nn.L1Loss, (3,), None),
    "L1Loss, sum": (lambda: nn.L1Loss("sum"), (2, 3), None),
    "HuberLoss": (lambda: nn.HuberLoss(delta=0.7), (3,), None),
    "HuberLoss, sum, one output": (lambda: nn.HuberLoss("sum"), (1,), lambda rows, rng: rng.standard_normal(rows)),
    "SmoothL1Loss": (lambda: nn.SmoothL1Loss(beta=0.7), (3,), None),
    "SmoothL1Loss, beta 0": (lambda: nn.SmoothL1Loss("sum", 0), (), None),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss, (1,), lambda rows, rng: rng.integers(0, 2, rows)),
    "BCEWithLogitsLoss, weights": (
        lambda: nn.BCEWithLogitsLoss("sum", [0.5, 1, 2], [3, 1, 2]),
        (3,),
        lambda rows, rng: rng.uniform(0, 1, (rows, 3)),
    ),
    "BCELoss": (
        nn.BCELoss,
        (1,),
        lambda rows, rng: rng.integers(0, 2, rows),
        lambda rows, rng: rng.uniform(0.1, 0.9, (rows, 1)),
    ),
    "BCELoss, weights": (
        lambda: nn.BCELoss("sum", [0.5, 1, 2]),
        (3,),
        lambda rows, rng: rng.uniform(0, 1, (rows, 3)),
        PROBABILITIES,
    ),
    "MultiLabelSoftMarginLoss": (
        lambda: nn.MultiLabelSoftMarginLoss(weight=[0.5, 1, 2]),
        (3,),
        lambda rows, rng: rng.integers(0, 2, (rows, 3)),
    ),
    "NLLLoss": (nn.NLLLoss, (3,), LABELS),
    "NLLLoss, all": (lambda: nn.NLLLoss("mean", [0.5, 1, 2], 2), (3,), LABELS),
    "KLDivLoss": (nn.KLDivLoss, (3,), lambda rows, rng: rng.dirichlet(np.ones(3), rows)),
    "KLDivLoss, batchmean": (lambda: nn.KLDivLoss("batchmean", True), (3,), None),
    "HingeEmbeddingLoss": (nn.HingeEmbeddingLoss, (3,), lambda rows, rng: rng.choice([-1, 1], (rows, 3))),
    "MultiMarginLoss": (nn.MultiMarginLoss, (3,), LABELS),
    "MultiMarginLoss, squares": (lambda: nn.MultiMarginLoss("sum", 2, 0.5, [0.5, 1, 2]), (3,), LABELS),
    "CrossEntropyLoss": (nn.CrossEntropyLoss, (3,), LABELS),
    "CrossEntropyLoss, sum": (lambda: nn.CrossEntropyLoss("sum"), (3,), LABELS),
    "CrossEntropyLoss, one-hot": (nn.CrossEntropyLoss, (3,), np.eye(3)[LABELS]),
    "CrossEntropyLoss, soft": (nn.CrossEntropyLoss, (3,), lambda rows, rng: rng.dirichlet(np.ones(3), rows)),
    "CrossEntropyLoss, weights": (lambda: nn.CrossEntropyLoss(weight=[0.5, 1, 2]), (3,), LABELS),
    "CrossEntropyLoss, smoothed": (lambda: nn.CrossEntropyLoss(label_smoothing=0.2), (3,), LABELS),
    "CrossEntropyLoss, ignored": (lambda: nn.CrossEntropyLoss(ignore_index=2), (3,), LABELS),
    "CrossEntropyLoss, all": (lambda: nn.CrossEntropyLoss("sum", [1, 2, 3], 0.1, 2), (3,), LABELS),
}


def every(make, shape, **options):
    """All checks of one, as single tests."""
    return [pytest.param(check, id=name) for name, check in checks(make, shape, **options)]


def parameters(things):
    return [
        pytest.param(check.values[0], id=f"{name}: {check.id}")
        for name, (make, shape, *more) in things.items()
        for check in every(make, shape, **dict(zip(("labels", "inputs"), more, strict=False)))
    ]


@pytest.mark.parametrize("check", parameters(LAYERS))
def test_layers(check):
    check()


@pytest.mark.parametrize("check", parameters(LOSSES))
def test_losses(check):
    check()


def test_no_layer_or_loss_is_forgotten():
    tested = {type(make()) for make, *_ in [*LAYERS.values(), *LOSSES.values()]}
    public = {getattr(nn, name) for name in nn.__all__ if isinstance(getattr(nn, name), type)}
    built_in = {cls for cls in public if issubclass(cls, nn.Layer | nn.Loss)} - {nn.Layer, nn.Loss}
    assert not {cls.__name__ for cls in built_in - tested}
