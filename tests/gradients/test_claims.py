"""What a layer says of itself (`couples`) is compared with what is found: a contradiction is refused by name."""

import numpy as np
import pytest

import nnframe as nn
from nnframe.core.chain import run_forward
from nnframe.core.run import Run
from nnframe.core.structure import Memory, couples_of


class Softmax(nn.Layer):
    def forward(self, x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


class Centre(nn.Layer):
    def forward(self, x):
        return x - x.mean(axis=0)


class Swish(nn.Layer):
    def forward(self, x):
        return x / (1 + np.exp(-x))


FOUND = {Swish: "entries", Softmax: "rows", Centre: "batch"}
COUPLES = ["entries", "rows", "batch"]


def run(strategy, layer, dtype):
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(6, 5, dtype=dtype, rng=1), layer, nn.Linear(5, 3, dtype=dtype, rng=2))
    strategy(model, nn.CrossEntropyLoss(), rng.standard_normal((8, 6)), rng.integers(0, 3, 8))
    return [p.grad.copy() for p in model.parameters()]


@pytest.mark.parametrize("strategy", [nn.CentralDifference, nn.Backprop, nn.NodePerturbation])
@pytest.mark.parametrize("claim", COUPLES)
@pytest.mark.parametrize("base", FOUND)
def test_a_claim_is_kept_or_refused(base, claim, strategy, dtype):
    layer = type("Claiming", (base,), {"couples": claim})()
    if COUPLES.index(claim) < COUPLES.index(FOUND[base]):
        # the class that says it is more derived than the one that computes: it counts, and is wrong
        with pytest.raises(nn.LayerError, match=f"Claiming.*couples = '{claim}'.*'{FOUND[base]}'"):
            run(strategy(), layer, dtype)
        return
    expected = run(strategy(), base(), dtype)
    for one, other in zip(run(strategy(), layer, dtype), expected, strict=True):
        bound = np.abs(other).max() * (1e-8 if dtype == np.float64 else 5e-6)
        np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def test_no_such_claim():
    layer = type("Claiming", (Swish,), {"couples": "columns"})()
    with pytest.raises(nn.LayerError, match=r"Claiming.*couples: expected one of .*, got 'columns'"):
        run(nn.Backprop(), layer, np.float32)


def test_a_claim_that_is_inherited_does_not_count_for_another_forward():
    # entries are apart in the base class, and mixed in the derived one
    base = type("Base", (Swish,), {"couples": "entries", "forward": Swish.forward})
    derived = type("Derived", (base,), {"forward": Softmax.forward})
    expected = run(nn.CentralDifference(), Softmax(), np.float64)
    for one, other in zip(run(nn.CentralDifference(), derived(), np.float64), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


class Hidden(nn.Layer):
    """A batch normalization that moves the output by 1e-9 of itself."""

    def forward(self, x):
        centred = x - x.mean(axis=0)
        return 2e4 * (1.7e-9 * centred / np.sqrt(np.square(centred).mean(axis=0) + 1e-5) - 0.9)


@pytest.mark.parametrize(
    ("layer", "x", "expected"),
    [
        (Hidden(), np.zeros((3, 2)), "batch"),
        (Hidden(), np.full((5, 1), 7.0), "batch"),
        (Softmax(), np.array([[0.0, 300.0], [1.0, 400.0], [2.0, 350.0]]), "rows"),
    ],
)
def test_what_moves_others_by_little_is_coupled(layer, x, expected):
    with Run(True) as run_:
        (link,) = run_forward(layer, x, run_).links
        run_.memory = Memory()
        assert couples_of(link, run_) == expected
