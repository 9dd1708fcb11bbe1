"""Memory that is written: shared with no other argument, of the right shape, and written itself."""

import numpy as np
import pytest
from calls import CALLS, CLASSES, ROWS, floats

from nnframe import kernels


def values_of(name, shape):
    if name == "labels":
        return np.eye(CLASSES)[np.arange(ROWS) % CLASSES]
    return floats(*shape)


def sharing(shapes, one, other, shift, step):
    """All arrays, of which `one` and `other` share a buffer, the latter from `shift` on."""
    arrays = {name: values_of(name, shape) for name, shape in shapes.items()}
    size = max(arrays[one].size, shift + step * arrays[other].size)
    buffer = np.ones(size)
    view = buffer[shift : shift + step * arrays[other].size : step].reshape(arrays[other].shape)
    assert np.shares_memory(view, buffer)
    view[...] = arrays[other]
    arrays[one], arrays[other] = buffer[: arrays[one].size].reshape(arrays[one].shape), view
    return arrays


def overlaps():
    for kernel, (_, shapes, written, _) in CALLS.items():
        for one in written:
            for other in shapes:
                if other != one:
                    yield kernel, one, other


@pytest.mark.parametrize(("kernel", "one", "other"), list(overlaps()))
def test_memory_that_is_written_is_not_shared(kernel, one, other):
    call, shapes, written, allowed = CALLS[kernel]
    for shift, step in ((0, 1), (1, 1), (2, 1), (0, 2), (1, 2)):
        arrays = sharing(shapes, one, other, shift, step)
        in_place = (one, other) in allowed and (shift, step) == (0, 1)
        before = {name: a.copy() for name, a in arrays.items()}
        if in_place:
            apart = {name: a.copy() for name, a in arrays.items()}
            call(apart)
            call(arrays)
            np.testing.assert_array_equal(arrays[one], apart[one], err_msg="in place")
            continue
        with pytest.raises(ValueError, match="shares no memory|in C order|contiguous") as error:
            call(arrays)
        named = str(error.value)
        assert named.startswith((one, other) if other in written else one), named
        for name, a in arrays.items():
            np.testing.assert_array_equal(a, before[name], err_msg=f"{name} was changed")


def test_columns_of_one_matrix_are_not_shared_memory():
    big = floats(4, 10)
    left, right = big[:, :5], big[:, 5:]
    gradient = floats(4, 5)
    expected = [left - 0.1 * gradient, right - 0.1 * gradient]
    kernels.optimizer_update("sgd", [left, right], [gradient, gradient], rate=0.1)
    np.testing.assert_allclose([left, right], expected)


# ---- out ----


@pytest.mark.parametrize("shape", [(7,), (2, 3, 7), (0, 3, 7), (2, 1, 3, 7)])
def test_linear_writes_out_itself(dtype, shape):
    x, w = floats(*shape).astype(dtype), floats(5, 7).astype(dtype)
    out = np.full((*shape[:-1], 5), np.nan, dtype)
    assert kernels.linear(x, w, out=out) is out
    np.testing.assert_allclose(out, x @ w.T, rtol=1e-5)
    assert kernels.linear(x[..., :0], w[:, :0]).shape == out.shape
    wide = np.zeros((*shape[:-1], 10), dtype)
    read_only = np.zeros_like(out)
    read_only.flags.writeable = False
    refused = [
        (wide[..., ::2], "in C order"),
        (read_only, "read-only"),
        (np.zeros((6, 5), dtype), "of shape"),
        (np.zeros((*shape[:-1], 5), np.int32), "got int32"),
        (wide.astype(">f8")[..., :5], "in C order|got"),
    ]
    for wrong, message in refused:
        if wrong.size:
            with pytest.raises(ValueError, match=f"out: expected .*({message})"):
                kernels.linear(x, w, out=wrong)
    with pytest.raises(TypeError, match="out: expected an array, got list"):
        kernels.linear(x, w, out=[[0.0]])


@pytest.mark.parametrize("kernel", CALLS)
def test_arrays_to_be_written_are_checked(kernel):
    call, shapes, written, _ = CALLS[kernel]
    for name in written:
        arrays = {other: values_of(other, shape) for other, shape in shapes.items()}
        read_only = arrays[name].copy()
        read_only.flags.writeable = False
        for wrong in (read_only, arrays[name].astype(np.float32), np.zeros((9, 9)), [1.0], "out"):
            if name.startswith("values") and wrong is not read_only and isinstance(wrong, np.ndarray):
                continue  # a parameter may have another dtype or shape; then its gradient does not fit
            before = {other: a.copy() for other, a in arrays.items() if other != name}
            with pytest.raises((TypeError, ValueError), match=rf"^{name.replace('[', '.')[:-2]}") as error:
                call(arrays | {name: wrong})
            assert "expected" in str(error.value)
            for other, a in before.items():
                np.testing.assert_array_equal(arrays[other], a, err_msg=f"{other} was changed")


# ---- parameters of any layout ----


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("rule", ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "rmsprop_momentum"])
def test_an_update_of_any_layout(dtype, rule):
    def layouts(a):
        yield np.asfortranarray(a)
        yield np.repeat(a, 2, axis=1)[:, ::2]
        yield np.asmatrix(np.asfortranarray(a))
        yield a[::-1].copy()[::-1]
        yield a.astype(a.dtype.newbyteorder())

    plain = [floats(14, 10).astype(dtype) for _ in range(8)]
    for strange in zip(*map(layouts, plain), strict=True):
        results = []
        for arrays in (plain, strange):
            mine = [a.copy(order="K") if a is not strange[1] else a for a in arrays]
            lists = mine[:2], mine[2:4], mine[4:6], mine[6:]
            kernels.optimizer_update(rule, *lists, rate=0.1, beta1=0.9, beta2=0.9, eps=1e-3)
            results.append(mine)
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_update_is_all_or_nothing():
    values = [np.asfortranarray(floats(4, 3)), floats(4, 3)]
    before = [v.copy() for v in values]
    with pytest.raises(ValueError, match=r"gradients\[1\]: expected float64 of shape \(4, 3\) like its value"):
        kernels.optimizer_update("sgd", values, [floats(4, 3), floats(3, 4)], rate=0.1)
    with pytest.raises(ValueError, match=r"values\[0\]: expected an array that shares no memory with values\[1\]"):
        kernels.optimizer_update("sgd", [values[0], values[0]], [floats(4, 3), floats(4, 3)], rate=0.1)
    np.testing.assert_array_equal(values, before)
