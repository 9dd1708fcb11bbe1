"""Finite differences of any function: the loop over the entries of its argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe import _kernels

Floats = npt.NDArray[np.floating]
SIGNATURE = "double f(const double *x, intptr_t n, void *data)"


def central_difference(
    f: Callable[[Floats], float] | Any,
    x: Floats,
    *,
    step: npt.ArrayLike | None = None,
    out: Floats | None = None,
) -> Floats:
    """Gradient of a function by central differences: (f(x + h e_i) - f(x - h e_i)) / 2h for every entry i.

    Parameters
    ----------
    f : callable
        `f(x)` returns a number. While it runs, x itself holds the moved entry, so that a function which reads the array
        where it lives (a parameter of a model, say) works as well. Or a compiled function `double f(const double *x,
        intptr_t n, void *data)` from ctypes, cffi, Numba's `cfunc` or `scipy.LowLevelCallable`: that one is run without
        the GIL, on all threads, on copies of x, and must be safe to run so.
    x : array of float32 or float64, any shape
        float64 for a compiled function. Restored to the bit, whatever happens. A read-only array is copied first.
    step : float or array like x, optional
        h, above 0; eps^(1/3) max(1, |x_i|) if not given, with eps of x's dtype.
    out : array of x's shape and dtype, optional
        Receives the gradient; changed only when the whole gradient is known.

    Returns
    -------
    array of x's shape and dtype
        Quotients by the step that was really added, which rounding makes differ from h.

    Raises
    ------
    TypeError
        x holds integers or another dtype; f is no callable, has another signature, or returns no single number.
    ValueError
        A step that is not positive and finite or too small to move an entry; an `out` that does not fit.
    """
    point = as_point(x)
    compiled = compiled_function(f)
    steps = as_steps(point, step, float(np.finfo(point.dtype).eps) ** (1 / 3))
    check_output(out, point)
    gradient = _compiled(*compiled, point, steps) if compiled else _central(f, point, steps)
    if out is None:
        return gradient
    out[...] = gradient
    return out


def forward_difference(f: Callable[[Floats], float], x: Floats, *, step: npt.ArrayLike | None = None) -> Floats:
    """Gradient by forward differences, (f(x + h e_i) - f(x)) / h; arguments and errors as `central_difference`.

    The step is eps^(1/2) max(1, |x_i|) if not given. A compiled function is not taken.
    """
    point = as_point(x)
    steps = as_steps(point, step, float(np.finfo(point.dtype).eps) ** (1 / 2))
    point = point if point.flags.writeable else point.copy()
    base = as_number(f(point), None)
    gradient = np.empty(point.shape, point.dtype.newbyteorder("="))
    result, flat = gradient.reshape(-1), point.flat
    for i in range(len(result)):
        saved = flat[i]
        above = saved + steps[i]
        try:
            flat[i] = above
            upper = as_number(f(point), i)
        finally:
            flat[i] = saved
        result[i] = (upper - base) / (float(above) - float(saved))
    return gradient


def _central(f: Callable[[Floats], float], point: Floats, steps: Floats) -> Floats:
    point = point if point.flags.writeable else point.copy()
    gradient = np.empty(point.shape, point.dtype.newbyteorder("="))
    result, flat = gradient.reshape(-1), point.flat
    for i in range(len(result)):
        saved = flat[i]
        above, below = saved + steps[i], saved - steps[i]
        try:
            flat[i] = above
            upper = as_number(f(point), i)
            flat[i] = below
            lower = as_number(f(point), i)
        finally:
            flat[i] = saved
        result[i] = (upper - lower) / (float(above) - float(below))
    return gradient


def _compiled(address: int, data: int, point: Floats, steps: Floats) -> Floats:
    if point.dtype != np.float64:
        raise TypeError(f"x: expected float64 for a compiled function, got {point.dtype}")
    start = np.ascontiguousarray(point, np.float64).reshape(-1)
    gradient = np.empty(point.shape)
    _kernels.compiled_central_difference(address, data, np.require(start, requirements="A"), steps, gradient)
    return gradient


def as_point(x: Floats) -> Floats:
    """`x` as an array of float32 or float64; TypeError for anything else, as x + h must not be cut off."""
    point = np.asarray(x)
    if point.dtype.kind != "f" or point.dtype.itemsize not in (4, 8):
        hint = "; use x.astype(np.float64)" if point.dtype.kind in "iub" else ""
        raise TypeError(f"x: expected an array of float32 or float64, got {point.dtype}{hint}")
    return point


def as_steps(point: Floats, step: npt.ArrayLike | None, relative: float) -> Floats:
    """Return the step of each entry, flat, in the dtype of `point`; `relative` times max(1, |x|) if none is given."""
    kind = point.dtype.newbyteorder("=")
    chosen = relative * np.maximum(1, np.abs(point)) if step is None else np.asarray(step)
    if chosen.dtype.kind not in "biuf":
        raise TypeError(f"step: expected a number or an array of numbers, got {step!r}")
    if chosen.shape not in ((), point.shape):
        raise ValueError(f"step: expected a number or an array of shape {point.shape}, got shape {chosen.shape}")
    steps: Floats = np.array(np.broadcast_to(chosen, point.shape), kind, order="C").reshape(-1)
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise ValueError(f"step: expected finite numbers above 0, got {step!r}")
    flat = point.reshape(-1)
    still = np.flatnonzero(flat + steps == flat)
    if len(still):
        i = still[0]
        raise ValueError(
            f"step: expected one that moves every entry of x, but {flat[i]:g} + {steps[i]:g} at entry {i} is "
            "no other number"
        )
    return steps


def as_number(value: object, index: int | None) -> float:
    """`value` as a float; TypeError, naming the entry that was moved, where it is no single number."""
    if isinstance(value, float):
        return value
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        where = "" if index is None else f" for entry {index}"
        raise TypeError(f"f: expected a single number, got {type(value).__name__} of shape {array.shape}{where}")
    return float(array.reshape(()))


def check_output(out: Floats | None, point: Floats) -> None:
    """Refuse an `out` that cannot take a gradient at `point`."""
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected an array, got {type(out).__name__}")
    if out.shape != point.shape or out.dtype != point.dtype:
        raise ValueError(f"out: expected {point.dtype} of shape {point.shape}, got {out.dtype} of shape {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: expected a writeable array")


def compiled_function(f: Any) -> tuple[int, int] | None:
    """Return the addresses of a compiled function and of its data; None for a Python callable.

    The packages that make compiled functions are recognised, never imported. Those that know a signature are held to
    it.
    """
    origin = {base.__module__.partition(".")[0] for base in type(f).__mro__}
    if "_ctypes" in origin:
        return _ctypes_function(f), 0
    if "_cffi_backend" in origin:
        return _cffi_function(f), 0
    if "numba" in origin and hasattr(f, "address"):
        return int(f.address), 0
    if type(f).__name__ == "LowLevelCallable" and "scipy" in origin:
        return _low_level_callable(f)
    if not callable(f):
        raise TypeError(f"f: expected a callable, or a compiled function {SIGNATURE}, got {type(f).__name__}")
    return None


def _low_level_callable(f: Any) -> tuple[int, int]:
    import re

    signature, address, data = _kernels.low_level_callable(f)
    integer = "intptr_t|ptrdiff_t|ssize_t|Py_ssize_t|npy_intp|long|long long"
    if not re.fullmatch(rf"double \((const double|double const|double) \*, ({integer}), void \*\)", signature):
        raise TypeError(f"f: expected a LowLevelCallable of signature {SIGNATURE}, got {signature!r}")
    return address, data


def _ctypes_function(f: Any) -> int:
    import ctypes

    kinds = [getattr(kind, "_type_", kind) for kind in f.argtypes or ()]
    fits = len(kinds) == 3 and kinds[0] in (ctypes.c_double, "P") and kinds[2] == "P"
    if not fits or f.restype is not ctypes.c_double or ctypes.sizeof(f.argtypes[1]) != ctypes.sizeof(ctypes.c_ssize_t):
        raise TypeError(
            f"f: expected a ctypes function of signature {SIGNATURE}: set f.restype = c_double and f.argtypes = "
            f"[POINTER(c_double), c_ssize_t, c_void_p]; got restype {f.restype} and argtypes {f.argtypes}"
        )
    return ctypes.cast(f, ctypes.c_void_p).value or 0


def _cffi_function(f: Any) -> int:
    import _cffi_backend  # already imported by whoever made f

    ffi = _cffi_backend.FFI()
    kind = str(ffi.typeof(f))
    if "'double(*)(double *, " not in kind or kind.count(",") != 2:
        raise TypeError(f"f: expected a cffi function pointer of signature {SIGNATURE}, got {kind}")
    return int(ffi.cast("intptr_t", f))
