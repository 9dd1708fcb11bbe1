"""Losses against PyTorch, in float64, over a grid of their arguments; skipped where PyTorch is not installed."""

import warnings

import numpy as np
import pytest

import nnframe as nn

CLOSE = 1e-10
N, C = 7, 4
WEIGHT = np.array([0.5, 2.0, 0.0, 3.0])
numbers = lambda rng: rng.standard_normal((N, C))  # noqa: E731
labels = lambda rng: rng.integers(0, C, N)  # noqa: E731
log_probabilities = lambda rng: nn.LogSoftmax(1).forward(rng.standard_normal((N, C)))  # noqa: E731
binary = lambda rng: rng.integers(0, 2, (N, C)).astype(float)  # noqa: E731
chances = lambda rng: rng.uniform(0.01, 0.99, (N, C))  # noqa: E731
shares = lambda rng: rng.dirichlet(np.ones(C), N)  # noqa: E731
soft = lambda rng: rng.uniform(0, 1, (N, C))  # noqa: E731
signs = lambda rng: rng.choice([-1.0, 1.0], (N, C))  # noqa: E731


def distribution(rng):
    t = rng.dirichlet(np.ones(C), N)
    t[0, 1] = 0
    return t


CASES = [
    ("MSELoss", {}, numbers, numbers),
    ("L1Loss", {}, numbers, numbers),
    *(("HuberLoss", {"delta": d}, numbers, numbers) for d in (0.3, 1.0, 2.5)),
    *(("SmoothL1Loss", {"beta": b}, numbers, numbers) for b in (0.0, 0.3, 1.0, 2.5)),
    *(
        ("BCEWithLogitsLoss", {"weight": w, "pos_weight": p}, lambda rng: 10 * numbers(rng), t)
        for w in (None, WEIGHT)
        for p in (None, np.array([3.0]), WEIGHT)
        for t in (binary, soft)
    ),
    *(("BCELoss", {"weight": w}, chances, t) for w in (None, WEIGHT) for t in (binary, soft)),
    *(("MultiLabelSoftMarginLoss", {"weight": w}, numbers, t) for w in (None, WEIGHT) for t in (binary, soft)),
    *(
        ("NLLLoss", {"weight": w, "ignore_index": i}, log_probabilities, labels)
        for w in (None, WEIGHT)
        for i in (None, 1, -100)
    ),
    *(
        ("CrossEntropyLoss", {"weight": w, "label_smoothing": s, **i}, numbers, t)
        for w in (None, WEIGHT)
        for s in (0.0, 0.2)
        for i, t in (({}, labels), ({"ignore_index": 1}, labels), ({}, shares))
    ),
    ("KLDivLoss", {"log_target": False}, log_probabilities, distribution),
    ("KLDivLoss", {"log_target": True}, log_probabilities, log_probabilities),
    *(("HingeEmbeddingLoss", {"margin": m}, numbers, signs) for m in (1.0, 0.3, -0.2)),
    *(
        ("MultiMarginLoss", {"p": p, "margin": m, "weight": w}, numbers, labels)
        for p in (1, 2)
        for m in (1.0, 0.4)
        for w in (None, WEIGHT)
    ),
]


def theirs(torch, name, options, reduction):
    given = {key: torch.tensor(v) if isinstance(v, np.ndarray) else v for key, v in options.items()}
    if given.get("ignore_index", 0) is None:
        given.pop("ignore_index")
    return getattr(torch.nn, name)(**given, reduction=reduction)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]}")
def test_value_gradient_and_differences(rng, case):
    torch = pytest.importorskip("torch")
    name, options, outputs, targets = case
    y, t = outputs(rng), targets(rng)
    for reduction in getattr(nn, name).reductions:
        loss, other = getattr(nn, name)(reduction, **options), theirs(torch, name, options, reduction)
        given = torch.from_numpy(y.copy()).requires_grad_()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "reduction: 'mean' divides")  # said by PyTorch of KLDivLoss
            expected = other(given, torch.from_numpy(t))
        found = loss(y, t)
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=CLOSE, atol=CLOSE)
        if reduction == "none":
            assert found.shape == tuple(expected.shape)
            with pytest.raises(ValueError, match="reduction: expected one that gives a number, got 'none'"):
                loss.backward(y, t)
            continue
        expected.backward()
        np.testing.assert_allclose(loss.backward(y, t), given.grad.numpy(), rtol=0, atol=CLOSE)
        for size in (1e-3, 0.7, 30.0):
            dy = rng.standard_normal((3, *y.shape)) * size
            if name == "BCELoss":  # which takes probabilities only
                dy = np.clip(y + dy, 0, 1) - y
            with torch.no_grad(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "reduction: 'mean' divides")
                moved = [float(other(torch.from_numpy(y + d), torch.from_numpy(t)) - expected) for d in dy]
            np.testing.assert_allclose(loss.difference(y, t, dy), moved, rtol=1e-9, atol=1e-12 * max(1, N * size))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]}")
def test_small_differences_are_the_gradient(rng, case):
    # subtracting would leave four digits of a change by 1e-12
    name, options, outputs, targets = case
    y, t = outputs(rng), targets(rng)
    loss = getattr(nn, name)("sum", **options)
    dy = 1e-12 * rng.standard_normal((3, *y.shape))
    expected = (dy * loss.backward(y, t)).sum(axis=(1, 2))
    np.testing.assert_allclose(loss.difference(y, t, dy), expected, rtol=1e-8, atol=1e-22)


@pytest.mark.parametrize("name", ["NLLLoss", "CrossEntropyLoss"])
@pytest.mark.parametrize("ignored", [None, 1])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_a_class_at_each_position(rng, name, ignored, weight, shape):
    # PyTorch has classes on axis 1
    torch = pytest.importorskip("torch")
    y, t = nn.LogSoftmax(-1).forward(rng.standard_normal((N, *shape, C))), rng.integers(0, C, (N, *shape))
    options = {"weight": weight} | ({} if ignored is None else {"ignore_index": ignored})
    for reduction in ("mean", "sum", "none"):
        loss, other = getattr(nn, name)(reduction, **options), theirs(torch, name, options, reduction)
        given = torch.from_numpy(y.copy()).requires_grad_()
        expected = other(torch.movedim(given, -1, 1).contiguous(), torch.from_numpy(t))
        np.testing.assert_allclose(loss(y, t), expected.detach().numpy(), rtol=CLOSE, atol=CLOSE)
        if reduction == "none":
            continue
        expected.backward()
        np.testing.assert_allclose(loss.backward(y, t), given.grad.numpy(), rtol=0, atol=CLOSE)
        dy = rng.standard_normal((3, *y.shape))
        with torch.no_grad():
            moved = [
                float(other(torch.from_numpy(np.moveaxis(y + d, -1, 1)), torch.from_numpy(t)) - expected) for d in dy
            ]
        np.testing.assert_allclose(loss.difference(y, t, dy), moved, rtol=1e-9, atol=1e-12)


def test_reduction_none_is_refused_by_training(rng):
    x, t = rng.standard_normal((8, 3)), rng.integers(0, C, 8)
    for make in (nn.CrossEntropyLoss, nn.NLLLoss):
        for strategy in (nn.Backprop(), nn.CentralDifference(), nn.NodePerturbation(), nn.SPSA()):
            with pytest.raises(ValueError, match="reduction: expected one that gives a number, got 'none'"):
                strategy(nn.Sequential(nn.Linear(3, C, rng=0), nn.LogSoftmax(1)), make("none"), x, t)
        with pytest.raises(ValueError, match="reduction: expected one that gives a number, got 'none'"):
            nn.Backprop()(nn.Linear(3, C, rng=0), make("none"), x, t)
        model = nn.Linear(3, C, rng=0)
        with pytest.raises(ValueError, match="reduction: expected one that gives a number, got 'none'"):
            nn.Trainer(model, make("none"), nn.SGD(model.parameters(), 0.1)).fit(x, t, progress=False)


@pytest.mark.parametrize("labels", [np.zeros((7, 4), int), np.zeros((4, 5), int), np.zeros(7, int)])
def test_positions_of_nll_are_refused_by_name(labels):
    with pytest.raises(ValueError, match=r"labels: expected class indices of shape \(7, 5\) for outputs \(7, 5, 4\)"):
        nn.NLLLoss()(np.zeros((7, 5, 4)), labels)
