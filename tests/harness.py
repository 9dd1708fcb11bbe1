"""What every layer must pass, whatever it computes."""

import numpy as np

import nnframe as nn
from nnframe.testing.cases import layouts


def tolerance(dtype):
    """A bound relative to the largest entry: some tens of roundings."""
    return 50 * np.finfo(dtype).eps


def assert_close(actual, expected, bound, what=""):
    """Each entry of `actual` is within `bound` times the largest entry of `expected`."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if expected.size == 0:
        return
    scale = max(float(np.abs(expected).max()), np.finfo(np.float32).tiny)
    worst = np.unravel_index(np.argmax(np.abs(actual - expected)), expected.shape)
    error = abs(float(actual[worst]) - float(expected[worst])) / scale
    assert error <= bound, (
        f"{what}: entry {worst} is {actual[worst]}, expected {expected[worst]} ({error:.2e} > {bound:.2e})"
    )


def variants(a):
    """The same numbers in every layout that NumPy knows."""
    yield "in C order", a
    yield from layouts(a)
    yield "byte-swapped", a.astype(a.dtype.newbyteorder())


def check_layer(layer, x, rng):
    """Forward is pure and takes any layout; difference and backward agree with forward evaluated in float64."""
    x = x.astype(layer.dtype)
    before, state = x.copy(), layer.state_dict()
    y = layer.forward(x)
    assert y.dtype == layer.dtype
    assert len(y) == len(x)
    np.testing.assert_array_equal(layer.forward(x), y, err_msg="forward gives another answer the second time")
    for name, same in variants(x):
        if name != "byte-swapped":  # converted at the model's door
            np.testing.assert_array_equal(layer.forward(same), y, err_msg=f"forward of a {name} array")
    np.testing.assert_array_equal(layer(x.astype(x.dtype.newbyteorder())), y, err_msg="byte-swapped at the door")
    exact = layer.astype(np.float64)
    x64 = x.astype(np.float64)
    bound = tolerance(layer.dtype)
    assert_close(y, exact.forward(x64), bound, "forward against float64")

    dx = (rng.standard_normal((3, *x.shape)) * 0.1).astype(x.dtype)
    change = layer.difference(x, y, dx)
    expected = np.stack([exact.forward(x64 + d) - exact.forward(x64) for d in dx.astype(np.float64)])
    assert_close(change, expected, bound, "difference of a stack")
    assert_close(layer.difference(x, y, dx[0]), expected[0], bound, "difference of one")

    if layer.has_backward:
        dy = rng.standard_normal(y.shape).astype(y.dtype)
        for parameter in layer.parameters():
            parameter.grad[...] = 0
        backward = layer.backward(x, y, dy)

        def projected(_):
            return float((exact.forward(x64) * dy).sum())

        assert_close(backward, nn.numerical_gradient(projected, x64, step=1e-5), max(bound, 1e-8), "dx")
        for (name, parameter), twin in zip(layer.named_parameters(), exact.parameters(), strict=True):
            numerical = nn.numerical_gradient(projected, twin.value, step=1e-5)
            assert_close(parameter.grad, numerical, max(bound, 1e-8), name)
        once = [parameter.grad.copy() for parameter in layer.parameters()]
        layer.backward(x, y, dy)
        for parameter, gradient in zip(layer.parameters(), once, strict=True):
            assert_close(parameter.grad, 2 * gradient, bound, "a second backward adds to the gradient")
    np.testing.assert_array_equal(x, before, err_msg="x was changed")
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, state[name], err_msg=f"{name} was changed")
