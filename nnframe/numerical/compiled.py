"""Compiled functions of many variables: recognised, and held to their signature where that is known."""

from __future__ import annotations

from typing import Any

from nnframe.kernels import _kernels

SIGNATURE = "double f(const double *x, intptr_t n, void *data)"


def compiled_function(f: Any) -> tuple[int, int] | None:
    """Return the addresses of a compiled function and of its data; None for a Python callable.

    The packages that make compiled functions are recognised, never imported. Those that know a signature are held to
    it. A NULL pointer is refused.
    """
    origin = {base.__module__.partition(".")[0] for base in type(f).__mro__}
    if "_ctypes" in origin:
        found = _ctypes_function(f), 0
    elif "_cffi_backend" in origin:
        found = _cffi_function(f), 0
    elif "numba" in origin and hasattr(f, "address"):
        found = int(f.address), 0
    elif type(f).__name__ == "LowLevelCallable" and "scipy" in origin:
        found = _low_level_callable(f)
    elif callable(f):
        return None
    else:
        raise TypeError(f"f: expected a callable, or a compiled function {SIGNATURE}, got {type(f).__name__}")
    if not found[0]:
        raise ValueError(f"f: expected a compiled function {SIGNATURE}, got a NULL pointer")
    return found


def _low_level_callable(f: Any) -> tuple[int, int]:
    import re

    signature, address, data = _kernels.low_level_callable(f)
    integer = "intptr_t|ptrdiff_t|ssize_t|Py_ssize_t|npy_intp|long|long long"
    if not re.fullmatch(rf"double \((const double|double const|double) \*, ({integer}), void \*\)", signature):
        raise TypeError(f"f: expected a LowLevelCallable of signature {SIGNATURE}, got {signature!r}")
    return address, data


def _ctypes_function(f: Any) -> int:
    import ctypes

    kinds = [getattr(kind, "_type_", kind) for kind in getattr(f, "argtypes", None) or ()]
    fits = len(kinds) == 3 and kinds[0] in (ctypes.c_double, "P") and kinds[2] == "P" and kinds[1] in set("iIlLqQ")
    if not fits or f.restype is not ctypes.c_double or ctypes.sizeof(f.argtypes[1]) != ctypes.sizeof(ctypes.c_ssize_t):
        got = f"restype {f.restype} and argtypes {f.argtypes}" if hasattr(f, "argtypes") else type(f).__name__
        raise TypeError(
            f"f: expected a ctypes function of signature {SIGNATURE}: set f.restype = c_double and f.argtypes = "
            f"[POINTER(c_double), c_ssize_t, c_void_p]; got {got}"
        )
    return ctypes.cast(f, ctypes.c_void_p).value or 0


def _cffi_function(f: Any) -> int:
    import _cffi_backend  # already imported by whoever made f

    ffi = _cffi_backend.FFI()
    kind = ffi.typeof(f)
    if not (_is_cffi_function(kind) and ffi.sizeof(kind.args[1]) == ffi.sizeof("intptr_t")):
        raise TypeError(f"f: expected a cffi function pointer of signature {SIGNATURE}, got {kind}")
    return int(ffi.cast("intptr_t", f))


def _is_cffi_function(kind: Any) -> bool:
    if kind.kind != "function" or kind.result.cname != "double" or len(kind.args) != 3:
        return False
    x, n, data = kind.args
    is_integer = n.kind == "primitive" and "double" not in n.cname and "float" not in n.cname
    return x.cname == "double *" and is_integer and data.kind == "pointer"
