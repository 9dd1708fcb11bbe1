"""Compiled functions that must not be called: of another signature, or none at all."""

import ctypes

import numpy as np
import pytest

import nnframe as nn
from nnframe.numerical.compiled import compiled_function

POINTER = ctypes.POINTER(ctypes.c_double)
RIGHT = [POINTER, ctypes.c_ssize_t, ctypes.c_void_p]


@ctypes.CFUNCTYPE(ctypes.c_double, *RIGHT)
def summed(x, n, data):
    return sum(x[i] for i in range(n))


@pytest.mark.parametrize(
    ("restype", "argtypes", "fits"),
    [
        (ctypes.c_double, RIGHT, True),
        (ctypes.c_double, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p], True),
        (ctypes.c_double, [POINTER, ctypes.c_double, ctypes.c_void_p], False),  # 8 bytes as well, in another register
        (ctypes.c_double, [POINTER, ctypes.c_void_p, ctypes.c_void_p], False),
        (ctypes.c_double, [POINTER, ctypes.c_char_p, ctypes.c_void_p], False),
        (ctypes.c_double, [POINTER, ctypes.c_int32, ctypes.c_void_p], False),
        (ctypes.c_double, [ctypes.POINTER(ctypes.c_float), ctypes.c_ssize_t, ctypes.c_void_p], False),
        (ctypes.c_double, RIGHT[:2], False),
        (ctypes.c_float, RIGHT, False),
    ],
)
def test_ctypes_signatures(restype, argtypes, fits):
    address = ctypes.cast(summed, ctypes.c_void_p).value
    f = ctypes.CFUNCTYPE(restype, *argtypes)(address)
    f.restype, f.argtypes = restype, argtypes
    if fits:
        np.testing.assert_allclose(nn.numerical_gradient(f, np.ones(4)), 1)
    else:
        with pytest.raises(TypeError, match="f: expected a ctypes function of signature"):
            compiled_function(f)


def test_what_is_no_function_of_ctypes():
    for wrong in (ctypes.c_double(1), ctypes.pointer(ctypes.c_double(1))):
        with pytest.raises(TypeError, match="f: expected a ctypes function of signature .* got (c_double|LP_c_double)"):
            compiled_function(wrong)


@pytest.mark.parametrize("n", ["double", "int", "float", "void *", "char"])
def test_cffi_signatures(n):
    ffi = pytest.importorskip("cffi").FFI()
    with pytest.raises(TypeError, match="f: expected a cffi function pointer of signature"):
        compiled_function(ffi.cast(f"double(*)(double *, {n}, void *)", 1))
    for right in ("intptr_t", "long", "ssize_t", "size_t", "int64_t"):
        assert compiled_function(ffi.cast(f"double(*)(const double *, {right}, void *)", 1)) == (1, 0)


def test_null_pointers_are_refused():
    nothing = [ctypes.CFUNCTYPE(ctypes.c_double, *RIGHT)()]
    try:
        import cffi
    except ImportError:
        pass
    else:
        nothing.append(cffi.FFI().cast("double(*)(double *, intptr_t, void *)", 0))
    for f in nothing:
        with pytest.raises(ValueError, match="f: expected a compiled function .*, got a NULL pointer"):
            nn.numerical_gradient(f, np.ones(3))
