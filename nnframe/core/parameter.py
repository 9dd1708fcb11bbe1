"""The two kinds of arrays that a layer keeps: parameters, which are trained, and buffers, which are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_dtype

Array = npt.NDArray[np.floating]
Entries = npt.NDArray[np.intp]
Chosen = dict[int, Entries]  # flat indices of the entries of each parameter, ascending, by the parameter's `id`
NONE: Entries = np.zeros(0, np.intp)

changes = [
    0
]  # counts assignments to attributes of layers and to `trainable`: what was found by a walk may be stale after


class _Held:
    """What is no array itself: NumPy's functions and operators refuse it, and say where the array is."""

    __slots__ = ()

    def __array_ufunc__(self, ufunc: np.ufunc, *_: Any, **__: Any) -> Any:
        raise self._is_no_array(f"in np.{ufunc.__name__}")

    def __array__(self, *_: Any, **__: Any) -> npt.NDArray[Any]:
        raise self._is_no_array("where an array is expected")

    if not TYPE_CHECKING:  # a type checker is to see the attributes that there are

        def __getattr__(self, name: str) -> Any:
            kind = type(self).__name__
            hint = f"; its array does: .value.{name}" if name[:1] != "_" and hasattr(np.ndarray, name) else ""
            raise AttributeError(f"a {kind} has no {name!r}{hint}", name=name, obj=self)

    def _is_no_array(self, where: str) -> TypeError:
        kind = type(self).__name__
        return TypeError(f"expected an array, got a {kind} {where}; its array is .value, as in self.w.value")


class Parameter(_Held):
    """An array that training changes: `value`, and `grad` of the same shape and dtype.

    Parameters
    ----------
    value : array of numbers, any shape
        Copied.
    dtype : float32 or float64
        What it is kept in; float32 unless given, as everywhere in nnframe.
    trainable : bool
        Strategies and optimizers leave a parameter alone that is not trainable; its gradient is 0.

    Raises
    ------
    ValueError
        A value or gradient of another shape is assigned. One that fits is copied and converted, as at first.
    """

    __slots__ = ("__weakref__", "grad", "trainable", "value")

    value: Array
    grad: Array
    trainable: bool

    def __init__(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32, trainable: bool = True) -> None:
        self.value = np.array(value, dtype=as_dtype(dtype), order="C")
        self.grad = np.zeros_like(self.value)
        self.trainable = trainable

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("value", "grad") and (own := getattr(self, name, None)) is not None and value is not own:
            value = _fitting(name, value, getattr(self, "value"))  # noqa: B009
        elif name == "trainable" and not isinstance(value, bool | np.bool_):
            raise TypeError(f"trainable: expected True or False, got {value!r}")
        if name == "trainable":
            changes[0] += 1
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        fixed = "" if self.trainable else ", trainable=False"
        return f"Parameter(shape={self.value.shape}, dtype={self.value.dtype}{fixed})"


def _fitting(name: str, given: Any, like: Array) -> Array:
    try:
        array = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name}: expected an array of shape {like.shape}, got {type(given).__name__}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
    if array.shape != like.shape:
        raise ValueError(
            f"{name}: expected shape {like.shape} like the parameter's value, got {array.shape}; for another shape "
            "make a new Parameter"
        )
    return np.array(array, like.dtype, order="C")


class Buffer(_Held):
    """An array that belongs to a layer's state but is never differentiated: running statistics, a counter.

    It is saved, loaded, copied and (where it holds floating-point numbers) converted as a parameter is. Only a layer's
    `observe` may change it.

    Parameters
    ----------
    value : array of numbers, any shape
        Copied.
    dtype : dtype, optional
        What it is kept in: any number type; that of `value` if not given, floating-point numbers then as float32.
    """

    __slots__ = ("value",)

    value: npt.NDArray[Any]

    def __init__(self, value: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> None:
        array = np.array(value, dtype=dtype, order="C")
        if array.dtype.kind not in "biuf":
            raise TypeError(f"value: expected numbers, got {array.dtype}")
        if dtype is None and array.dtype.kind == "f":
            array = array.astype(np.float32)
        self.value = array

    def __repr__(self) -> str:
        return f"Buffer(shape={self.value.shape}, dtype={self.value.dtype})"
