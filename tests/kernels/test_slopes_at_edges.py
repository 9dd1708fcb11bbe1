"""Slopes of activations where two pieces meet, and far out: the same in C and in the NumPy reference."""

import numpy as np
import pytest

from nnframe import kernels
from nnframe.kernels import reference

EDGES = [-np.inf, -1e30, -3.0, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 3.0, 1e30, np.inf]
ALPHA = {"leaky_relu": 0.25, "elu": 1.5}
AT_ZERO = {"relu": 0.0, "step": 0.0, "leaky_relu": 0.25, "elu": 1.5, "sigmoid": 0.25, "tanh": 1.0, "softplus": 0.5,
           "hardswish": 0.5, "mish": 0.6, "selu": 1.7580993408473768}  # fmt: skip
NAMES = [*AT_ZERO, "identity", "gelu", "gelu_tanh", "silu"]


@pytest.mark.parametrize("name", NAMES)
def test_the_slope_at_an_edge_is_the_references(simd, dtype, name):
    x = np.array(EDGES, dtype)
    alpha = ALPHA.get(name, 0.0)
    y = kernels.activation(name, x, alpha=alpha)
    found = kernels.activation_backward(name, x, y, np.ones_like(x), alpha=alpha)
    expected = reference.activation_backward(name, x, y, np.ones_like(x), alpha=alpha)
    np.testing.assert_allclose(found, expected, rtol=50 * np.finfo(dtype).eps, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", AT_ZERO)
def test_the_slope_at_zero(simd, dtype, name):
    alpha = ALPHA.get(name, 0.0)
    x = np.array([0.0, -0.0], dtype)
    y = reference.activation(name, x, alpha)
    for backward in (kernels.activation_backward, reference.activation_backward):
        slope = backward(name, x, y, np.ones_like(x), alpha=alpha)
        np.testing.assert_allclose(slope, AT_ZERO[name], rtol=1e-6, err_msg=f"{name} of {backward.__module__}")
