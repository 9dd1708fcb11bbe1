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
