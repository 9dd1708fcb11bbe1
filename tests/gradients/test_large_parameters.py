"""Parameters beside whose size a step is small: what was really added is what a difference is divided by."""

import numpy as np
import pytest

import nnframe as nn


class Offset(nn.Layer):
    """x + (k - 1e8): linear in k, and exact, so that nothing but the step can be wrong."""

    def __init__(self, dtype):
        self.k = nn.Parameter(1e8 + 8 * np.arange(4), dtype)

    def forward(self, x):
        return x + (self.k.value - 1e8)


@pytest.mark.parametrize("strategy", [nn.CentralDifference, nn.Backprop, nn.NodePerturbation])
@pytest.mark.parametrize("step", [1e-4, 3e-6])
def test_a_step_that_rounding_changes(strategy, step, dtype):
    # 1e8 + 3e-6 is 1e8 + 2.98e-6: the quotient by 3e-6 would be 0.7 % off
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(5, 4, rng=1, dtype=dtype), Offset(dtype), nn.Linear(4, 3, rng=2, dtype=dtype))
    x, t = rng.standard_normal((7, 5)), rng.integers(0, 3, 7)
    strategy(step)(model, nn.CrossEntropyLoss(), x, t)
    y = model.astype(np.float64)(x)
    p = np.exp(y - y.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(7), t] -= 1
    expected = p.sum(axis=0) / 7 @ model[2].weight.value.astype(np.float64)
    off = np.abs(model[1].k.grad - expected).max() / np.abs(expected).max()
    assert off <= 2e-5, f"off by {off:.1e} of the largest entry"


def test_a_step_that_is_lost_is_refused():
    model = nn.Sequential(Offset(np.float64), nn.Linear(4, 3, rng=2, dtype=np.float64))
    with pytest.raises(nn.LayerError, match=r"Offset.*step 1e-09.*larger step"):
        nn.CentralDifference(1e-9)(model, nn.CrossEntropyLoss(), np.zeros((2, 4)), np.array([0, 1]))
