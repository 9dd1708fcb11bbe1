"""Gradients of compiled functions: ctypes, cffi, SciPy, Numba."""

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
from nnframe import numerical

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
static long calls;
long evaluations(void) { return __atomic_exchange_n(&calls, 0, __ATOMIC_RELAXED); }
double counted(const double *x, intptr_t n, void *data) {
    __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    return rosenbrock(x, n, data);
}
double waves(const double *x, intptr_t n, void *data) {
    double sum = 0;
    for (intptr_t i = 0; i < n; i++) sum += sin(x[i]);
    return sum;
}
double in_float(const double *x, intptr_t n, void *data) {
    double sum = 0;
    for (intptr_t i = 0; i < n; i++) sum += sinf((float)x[i]);
    return sum;
}
double in_steps(const double *x, intptr_t n, void *data) { return floor(waves(x, n, data) * 1e9) / 1e9; }
double counts_up(const double *x, intptr_t n, void *data) {
    return waves(x, n, data) + 1e-7 * (double)__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
}
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
        found.append(numerical.central_difference(f, x, step=1e-6))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], rosenbrock_gradient(x), atol=1e-4)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(numerical.central_difference(f, x[::-1].copy()[::-1], step=1e-6), found[0])
    grid = x[:96].reshape(8, 12)
    assert numerical.central_difference(f, grid).shape == (8, 12)


def test_compiled_by_a_ctypes_callback(rng):
    kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.POINTER(ctypes.c_double), ctypes.c_ssize_t, ctypes.c_void_p)
    f = kind(lambda x, n, data: math.fsum(x[i] ** 2 for i in range(n)))
    x = rng.standard_normal(20)
    np.testing.assert_allclose(numerical.central_difference(f, x), 2 * x, atol=1e-8)


def test_compiled_by_cffi(library, rng):
    cffi = pytest.importorskip("cffi")
    ffi = cffi.FFI()
    ffi.cdef("double rosenbrock(const double *x, intptr_t n, void *data); int other(int);")
    f = ffi.dlopen(str(library)).rosenbrock
    x = rng.standard_normal(30)
    np.testing.assert_allclose(numerical.central_difference(f, x), rosenbrock_gradient(x), atol=1e-4)
    with pytest.raises(TypeError, match="f: expected a cffi function pointer of signature"):
        numerical.central_difference(ffi.cast("int(*)(int)", 0), x)


def test_compiled_by_scipy(library, rng):
    scipy = pytest.importorskip("scipy")
    lib = ctypes.CDLL(library)
    factor = ctypes.c_double(3.0)
    f = scipy.LowLevelCallable(typed(lib.scaled), ctypes.cast(ctypes.pointer(factor), ctypes.c_void_p))
    x = rng.standard_normal(30)
    gradient = numerical.central_difference(f, x)
    np.testing.assert_allclose(gradient, 3 * rosenbrock_gradient(x), atol=1e-3)
    sine = lib.rosenbrock
    sine.restype, sine.argtypes = ctypes.c_double, [ctypes.c_double]
    with pytest.raises(TypeError, match=r"LowLevelCallable of signature .* got 'double \(double\)'"):
        numerical.central_difference(scipy.LowLevelCallable(sine), x)


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
    np.testing.assert_allclose(numerical.central_difference(f, x), 2 * x, atol=1e-8)


def test_a_compiled_function_of_another_signature_is_refused(library, rng):
    x = rng.standard_normal(5)
    with pytest.raises(TypeError, match=r"set f\.restype = c_double"):
        numerical.central_difference(ctypes.CDLL(library).rosenbrock, x)
    with pytest.raises(TypeError, match="x: expected float64 for a compiled function, got float32"):
        numerical.central_difference(typed(ctypes.CDLL(library).rosenbrock), x.astype(np.float32))


@pytest.mark.parametrize("scheme", ["forward", "central", "central4", "richardson"])
def test_compiled_with_every_scheme(library, rng, scheme):
    f = typed(ctypes.CDLL(library).rosenbrock)
    x = rng.standard_normal(40)
    bound = 0.1 if scheme == "forward" else 1e-4
    np.testing.assert_allclose(nn.numerical_gradient(f, x, scheme=scheme), rosenbrock_gradient(x), atol=bound)
    bounds = (x.copy(), np.inf)
    found = nn.numerical_gradient(f, x, scheme=scheme, bounds=bounds)
    np.testing.assert_allclose(found, rosenbrock_gradient(x), atol=10 * bound)
    with pytest.raises(FloatingPointError, match="got inf at x itself"):
        nn.numerical_gradient(f, np.full(3, 1e200))
    with pytest.raises(TypeError, match="a compiled function .* takes one array"):
        nn.numerical_gradient(f, {"x": x})
    with pytest.raises(TypeError, match="a compiled function .* takes one array"):
        nn.numerical_jacobian(f, x)


def test_compiled_of_many_variables(library, rng):
    lib = ctypes.CDLL(library)
    x = rng.uniform(0.5, 1, 400)
    lib.evaluations()
    gradient = nn.numerical_gradient(typed(lib.counted), x)
    np.testing.assert_allclose(gradient, rosenbrock_gradient(x), atol=1e-6)
    assert 2 * 400 + 4 <= lib.evaluations() <= 2.2 * 400 + 4
    nn.numerical_gradient(typed(lib.counted), x, scheme="central")
    assert lib.evaluations() == 2 * 400 + 2
    bounded = nn.numerical_gradient(typed(lib.counted), x, bounds=(x, np.where(np.arange(400) % 2, x + 1, x)))
    np.testing.assert_allclose(bounded[1::2], rosenbrock_gradient(x)[1::2], rtol=1e-9, atol=1e-9)
    assert np.isnan(bounded[::2]).all()
    # noise that nobody measured beforehand: a fixed step is 1e-2 off for both
    for f, bound in ((lib.in_float, 2e-4), (lib.in_steps, 2e-5)):
        assert np.abs(nn.numerical_gradient(typed(f), x, scheme="central") - np.cos(x)).max() > bound
        np.testing.assert_allclose(nn.numerical_gradient(typed(f), x), np.cos(x), atol=bound)
    with pytest.raises(ValueError, match="same value for the same x"):
        nn.numerical_gradient(typed(lib.counts_up), x)


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_stops_a_compiled_loop(library):
    f = typed(ctypes.CDLL(library).slow)
    x = np.zeros(4000)  # some minutes of work
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        numerical.central_difference(f, x)
    timer.join()
    assert time.monotonic() - start < 60  # it stopped; how fast is for the benchmarks
    assert not x.any()
