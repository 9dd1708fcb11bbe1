"""numerical_gradient and central_difference: any function, Python or compiled."""

import ctypes
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import nnframe as nn
from nnframe import kernels


def cubic(x):
    return float((x**3).sum() + 2 * x.flat[0] * x.flat[-1])


def cubic_gradient(x):
    gradient = np.array(3 * x.astype(np.float64) ** 2)
    gradient.flat[0] += 2 * float(x.flat[-1])
    gradient.flat[-1] += 2 * float(x.flat[0])
    return gradient


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1,), (), (0,)])
@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_schemes(dtype, rng, shape, scheme):
    x = np.array(rng.standard_normal(shape), dtype)
    before = x.copy()
    if x.size:
        gradient = nn.numerical_gradient(cubic, x, scheme=scheme)
        expected = cubic_gradient(x)
    else:
        gradient, expected = nn.numerical_gradient(lambda _: 0.0, x, scheme=scheme), x
    assert gradient.dtype == dtype
    assert gradient.shape == x.shape
    eps = float(np.finfo(dtype).eps)
    bound = 300 * eps ** (2 / 3) if scheme == "central" else 100 * eps**0.5
    np.testing.assert_allclose(gradient, expected, atol=bound)
    np.testing.assert_array_equal(x, before)


def test_the_textbooks_example():
    # integers would be cut off: [25000, 35000] instead of [6, 8]
    with pytest.raises(TypeError, match=r"x: expected an array of float32 or float64, got int64; use x\.astype"):
        nn.numerical_gradient(lambda x: x[0] ** 2 + x[1] ** 2, np.array([3, 4]))
    gradient = nn.numerical_gradient(lambda x: x[0] ** 2 + x[1] ** 2, np.array([3.0, 4.0]))
    np.testing.assert_allclose(gradient, [6, 8], rtol=1e-9)


def test_a_function_that_reads_the_array_where_it_lives(rng):
    model = nn.Sequential(nn.Linear(3, 2, dtype=np.float64, rng=1))
    x, t = rng.standard_normal((4, 3)), np.array([0, 1, 1, 0])
    loss = nn.CrossEntropyLoss()
    weight = model[0].weight
    numerical = nn.numerical_gradient(lambda _: loss(model(x), t), weight.value)
    nn.Backprop()(model, loss, x, t)
    np.testing.assert_allclose(numerical, weight.grad, atol=1e-9)


def test_any_layout(rng):
    x = rng.standard_normal((4, 6))
    expected = cubic_gradient(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    for same in (np.asfortranarray(x), x[:, ::-1].copy()[:, ::-1], read_only, x.astype(">f8")):
        before = same.copy()
        gradient = nn.numerical_gradient(cubic, same)
        assert gradient.dtype == np.float64
        np.testing.assert_allclose(gradient, expected, atol=1e-8)
        np.testing.assert_array_equal(same, before)


def test_steps(rng):
    x = rng.standard_normal(4)
    coarse = kernels.central_difference(cubic, x, step=0.5)
    np.testing.assert_allclose(coarse, cubic_gradient(x) + 0.25, atol=1e-12)  # x^3: the truncation is h^2
    steps = np.array([0.5, 1e-5, 0.5, 1e-5])
    np.testing.assert_allclose(
        kernels.central_difference(cubic, x, step=steps), cubic_gradient(x) + np.where(steps > 0.1, 0.25, 0), atol=1e-8
    )
    large = np.array([1e8, -3e5])
    np.testing.assert_allclose(nn.numerical_gradient(lambda v: float((v * v).sum()), large), 2 * large, rtol=1e-5)
    for step, message in (
        (0, "above 0"),
        (-1e-3, "above 0"),
        (np.nan, "finite"),
        ([1e-3], r"shape \(4,\), got shape \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.central_difference(cubic, x, step=step)
    with pytest.raises(ValueError, match=r"moves every entry of x, but 1e\+08 \+ 1e-12 at entry 0"):
        kernels.central_difference(cubic, large, step=1e-12)
    with pytest.raises(TypeError, match="step: expected a number"):
        kernels.central_difference(cubic, x, step="small")


def test_restored_after_an_error(rng):
    x = rng.standard_normal(5)
    before = x.copy()

    def f(v):
        if not np.array_equal(v[:3], before[:3]):
            raise RuntimeError("no")
        return float(v.sum())

    with pytest.raises(RuntimeError, match="no"):
        kernels.central_difference(f, x)
    np.testing.assert_array_equal(x, before)


def test_out(rng):
    x, out = rng.standard_normal(4), np.empty(4)
    assert kernels.central_difference(cubic, x, out=out) is out
    np.testing.assert_allclose(out, cubic_gradient(x), atol=1e-8)
    for wrong, message in ((np.empty(3), r"shape \(4,\), got .*\(3,\)"), (np.empty(4, np.float32), "got float32")):
        with pytest.raises(ValueError, match=message):
            kernels.central_difference(cubic, x, out=wrong)
    with pytest.raises(TypeError, match="out: expected an array, got list"):
        kernels.central_difference(cubic, x, out=[0] * 4)


def test_refused(rng):
    x = rng.standard_normal(3)
    with pytest.raises(TypeError, match=r"f: expected a single number, got ndarray of shape \(3,\) for entry 0"):
        nn.numerical_gradient(lambda v: v, x)
    with pytest.raises(TypeError, match="f: expected a single number, got NoneType"):
        nn.numerical_gradient(lambda v: None, x, scheme="forward")
    with pytest.raises(TypeError, match="f: expected a callable, or a compiled function .* got float"):
        nn.numerical_gradient(3.0, x)
    with pytest.raises(ValueError, match="scheme: expected one of forward, central, got 'upward'"):
        nn.numerical_gradient(cubic, x, scheme="upward")
    assert nn.numerical_gradient(lambda v: np.array([[v.sum()]]), x) == pytest.approx(np.ones(3))


SOURCE = """
#include <stdint.h>
#include <math.h>
double rosenbrock(const double *x, intptr_t n, void *data) {
    double sum = 0;
    for (intptr_t i = 0; i + 1 < n; i++) {
        const double a = x[i + 1] - x[i] * x[i], b = 1 - x[i];
        sum += 100 * a * a + b * b;
    }
    return sum;
}
double scaled(const double *x, intptr_t n, void *data) { return *(double *)data * rosenbrock(x, n, 0); }
double slow(const double *x, intptr_t n, void *data) {
    double sum = 0;
    for (int k = 0; k < 1000; k++) for (intptr_t i = 0; i < n; i++) sum += sin(x[i] + k);
    return sum;
}
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "f.c").write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", folder / "f.so", folder / "f.c", "-lm"], check=True)
    return folder / "f.so"


def typed(function):
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.POINTER(ctypes.c_double), ctypes.c_ssize_t, ctypes.c_void_p]
    return function


def rosenbrock_gradient(x):
    a, b = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    gradient = np.zeros_like(x)
    gradient[:-1] += -400 * a * x[:-1] - 2 * b
    gradient[1:] += 200 * a
    return gradient


def test_compiled_by_ctypes(library, rng, threads):
    f = typed(ctypes.CDLL(library).rosenbrock)
    x = rng.standard_normal(97)
    before = x.copy()
    found = []
    for n in (1, 2):
        threads(n)
        found.append(kernels.central_difference(f, x, step=1e-6))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], rosenbrock_gradient(x), atol=1e-4)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(kernels.central_difference(f, x[::-1].copy()[::-1], step=1e-6), found[0])
    grid = x[:96].reshape(8, 12)
    assert kernels.central_difference(f, grid).shape == (8, 12)


def test_compiled_by_a_ctypes_callback(rng):
    kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.POINTER(ctypes.c_double), ctypes.c_ssize_t, ctypes.c_void_p)
    f = kind(lambda x, n, data: math.fsum(x[i] ** 2 for i in range(n)))
    x = rng.standard_normal(20)
    np.testing.assert_allclose(kernels.central_difference(f, x), 2 * x, atol=1e-8)


def test_compiled_by_cffi(library, rng):
    cffi = pytest.importorskip("cffi")
    ffi = cffi.FFI()
    ffi.cdef("double rosenbrock(const double *x, intptr_t n, void *data); int other(int);")
    f = ffi.dlopen(str(library)).rosenbrock
    x = rng.standard_normal(30)
    np.testing.assert_allclose(kernels.central_difference(f, x), rosenbrock_gradient(x), atol=1e-4)
    with pytest.raises(TypeError, match="f: expected a cffi function pointer of signature"):
        kernels.central_difference(ffi.cast("int(*)(int)", 0), x)


def test_compiled_by_scipy(library, rng):
    scipy = pytest.importorskip("scipy")
    lib = ctypes.CDLL(library)
    factor = ctypes.c_double(3.0)
    f = scipy.LowLevelCallable(typed(lib.scaled), ctypes.cast(ctypes.pointer(factor), ctypes.c_void_p))
    x = rng.standard_normal(30)
    gradient = kernels.central_difference(f, x)
    np.testing.assert_allclose(gradient, 3 * rosenbrock_gradient(x), atol=1e-3)
    sine = lib.rosenbrock
    sine.restype, sine.argtypes = ctypes.c_double, [ctypes.c_double]
    with pytest.raises(TypeError, match=r"LowLevelCallable of signature .* got 'double \(double\)'"):
        kernels.central_difference(scipy.LowLevelCallable(sine), x)


def test_compiled_by_numba(rng):
    numba = pytest.importorskip("numba")
    types = numba.types
    signature = types.double(types.CPointer(types.double), types.intp, types.voidptr)

    @numba.cfunc(signature)
    def f(x, n, data):
        total = 0.0
        for i in range(n):
            total += x[i] * x[i]
        return total

    x = rng.standard_normal(30)
    np.testing.assert_allclose(kernels.central_difference(f, x), 2 * x, atol=1e-8)


def test_a_compiled_function_of_another_signature_is_refused(library, rng):
    x = rng.standard_normal(5)
    with pytest.raises(TypeError, match=r"set f\.restype = c_double"):
        kernels.central_difference(ctypes.CDLL(library).rosenbrock, x)
    with pytest.raises(TypeError, match="x: expected float64 for a compiled function, got float32"):
        kernels.central_difference(typed(ctypes.CDLL(library).rosenbrock), x.astype(np.float32))


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_stops_a_compiled_loop(library):
    f = typed(ctypes.CDLL(library).slow)
    x = np.zeros(4000)  # some minutes of work
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        kernels.central_difference(f, x)
    timer.join()
    assert time.monotonic() - start < 60  # it stopped; how fast is for the benchmarks
    assert not x.any()
