"""The layer protocol: `Parameter`, `Layer`, `Sequential`.

A layer is a pure function of its parameters and its input. `forward` changes nothing, so that it may be evaluated
any number of times, at any point, by any thread: all that central differences need.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_dtype

Array = npt.NDArray[np.floating]


def as_input(x: npt.ArrayLike, dtype: np.dtype[np.floating], name: str = "x") -> Array:
    """`x` as an array of `dtype`, converted where that loses no meaning: from any real number type."""
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{name}: expected at least one axis, the rows of a mini-batch, got a single number")
    return array.astype(dtype, copy=False)


class Parameter:
    """An array that training changes: `value`, and `grad` of the same shape and dtype.

    Parameters
    ----------
    value : array of numbers, any shape
        Copied.
    dtype : float32 or float64
        What it is kept in; float32 unless asked otherwise, as everywhere in nnframe.
    """

    __slots__ = ("grad", "value")

    value: Array
    grad: Array

    def __init__(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> None:
        self.value = np.array(value, dtype=as_dtype(dtype), order="C")
        self.grad = np.zeros_like(self.value)

    def __repr__(self) -> str:
        return f"Parameter(shape={self.value.shape}, dtype={self.value.dtype})"


class Layer:
    """A pure function with parameters: what networks are made of.

    A custom layer needs `forward` only. Everything else makes it faster (`difference`, `perturb`) or lets it take
    part in `Backprop` (`backward`). Attributes that are `Parameter` or `Layer` objects, alone or in lists, tuples
    and dicts, are found by themselves; no `__init__` has to be called.

    Attributes
    ----------
    elementwise : bool
        y[i] depends on x[i] alone (and on the parameters).
    rowwise : bool
        Row n of y depends on row n of x alone. An elementwise layer is rowwise.
    verified : bool
        Whether `check_gradients` has found its backward right.
    """

    elementwise: bool = False
    rowwise: bool = True
    verified: bool = False

    # ---- the function ----

    def forward(self, x: Array) -> Array:
        """Y = f(x), where axis 0 of x and y counts the rows of a mini-batch. Changes nothing."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, x: Array, y: Array, dy: Array) -> Array:
        """Add to each parameter's `.grad`, and return the gradient of the loss with respect to x.

        `y` is forward(x), `dy` the gradient of the loss with respect to y.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def backward_parameters(self, x: Array, y: Array, dy: Array) -> None:
        """Do as `backward` where the gradient of x is not wanted, as in the lowest layer: override it to save work."""
        self.backward(x, y, dy)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        """forward(x + dx) - y, for one dx of the shape of x or a stack of them, (S, *x.shape).

        This default subtracts two evaluations, in float64 whatever the dtype, so that digits are left. A layer that
        knows a form without cancellation overrides it.
        """
        if x.dtype == np.float64:
            twin, base = self, y
        else:
            twin = self.astype(np.float64)
            x = x.astype(np.float64)
            base = twin.forward(x)
        moved = x + dx
        if dx.ndim == x.ndim:
            return twin.forward(moved) - base
        if self.rowwise or self.elementwise:  # the whole stack as rows of one large batch
            rows = twin.forward(moved.reshape(-1, *x.shape[1:]))
            return rows.reshape(len(dx), *base.shape) - base
        return np.stack([twin.forward(one) for one in moved]) - base

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Array, y: Array) -> Array:
        """How y changes when one entry of a parameter of this layer moves by `step`.

        Returns (S, *y.shape): for each s the change for entry `indices[s]` (an index into the flattened parameter).
        This default moves the entry in a float64 copy of the layer and runs forward.
        """
        memo: dict[int, Any] = {}
        twin = self.astype(np.float64, memo)
        value = memo[id(parameter)].value.reshape(-1)
        x = x.astype(np.float64, copy=False)
        base = twin.forward(x)
        dy = np.empty((len(indices), *base.shape))
        for change, index in zip(dy, indices, strict=True):
            saved = value[index]
            value[index] = saved + step
            np.subtract(twin.forward(x), base, out=change)
            value[index] = saved
        return dy

    def __call__(self, x: npt.ArrayLike) -> Array:
        """Forward for any array of numbers: the model's door, where x is converted to the model's dtype."""
        return run_layer(self, as_input(x, self.dtype))

    @property
    def has_backward(self) -> bool:
        """Whether a backward pass was written for this layer."""
        return type(self).backward is not Layer.backward

    # ---- parameters ----

    def children(self) -> Iterator[tuple[str, Parameter | Layer]]:
        """Parameters and layers that this layer holds, by name."""
        for name, value in vars(self).items():
            yield from _find(name, value)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, with a name such as `0.weight`; a shared one under its first name."""
        seen: set[int] = set()
        for name, parameter in _walk(self, "", set()):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def parameters(self) -> list[Parameter]:
        """Every parameter once, in the order of `named_parameters`."""
        found: dict[int, Parameter] = {}
        _gather(self, found, ())
        return list(found.values())

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The one dtype of all parameters; float32 where there are none. TypeError where they differ."""
        return common_dtype(self, self.parameters())

    def astype(self, dtype: npt.DTypeLike, memo: dict[int, Any] | None = None) -> Self:
        """Copy the layer with every parameter converted; everything else is shared with this one.

        `memo` receives the copy of each parameter and layer under the `id` of its original.
        """
        twin: Self = _converted(self, as_dtype(dtype), {} if memo is None else memo)
        return twin

    def state_dict(self) -> dict[str, Array]:
        """Return a copy of every parameter's value, by name."""
        return {name: parameter.value.copy() for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Set every parameter from `state`; nothing is changed unless all names and shapes fit.

        Raises
        ------
        KeyError
            A name is missing or unknown.
        TypeError, ValueError
            A value has another shape, or is no array of floating-point numbers.
        """
        own = dict(self.named_parameters())
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise KeyError(
                f"state: expected the parameters {', '.join(own) or '(none)'}; missing: "
                f"{', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
            )
        arrays = {name: np.asarray(state[name]) for name in own}
        for name, array in arrays.items():
            if array.dtype.kind != "f":
                raise TypeError(f"{name}: expected floating-point numbers, got {array.dtype}")
            if array.shape != own[name].value.shape:
                raise ValueError(f"{name}: expected shape {own[name].value.shape}, got {array.shape}")
        for name, array in arrays.items():
            own[name].value[...] = array

    def summary(self, input_shape: tuple[int, ...] | None = None) -> str:
        """Return a table of the layers: output shapes, parameters, and how each gets its gradient.

        `input_shape` is that of one row of the input, without the mini-batch; it is needed for output shapes only.
        """
        from nnframe.core.summary import summarize

        return summarize(self, input_shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Sequential(Layer):
    """Layers one after another; parameters are named `0.weight`, `0.bias`, `2.weight` ...

    Parameters
    ----------
    *layers : Layer
        At least one.
    """

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ValueError("layers: expected at least one layer, got none")
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers: expected Layer objects, got {layer!r} at position {i}")
        self.layers = layers

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        """Whether all its layers are."""
        return all(layer.elementwise for layer in self.layers)

    @property
    def rowwise(self) -> bool:  # type: ignore[override]
        """Whether all its layers are."""
        return all(layer.rowwise or layer.elementwise for layer in self.layers)

    @property
    def has_backward(self) -> bool:
        """Whether all its layers have one."""
        return all(layer.has_backward for layer in self.layers)

    def children(self) -> Iterator[tuple[str, Parameter | Layer]]:
        """Return the layers, named by position."""
        return ((str(i), layer) for i, layer in enumerate(self.layers))

    def forward(self, x: Array) -> Array:
        for i, layer in enumerate(self.layers):
            x = run_layer(layer, x, i)
        return x

    def backward(self, x: Array, y: Array, dy: Array) -> Array:
        steps = list(self._steps(x))
        for layer, before, after in reversed(steps):
            dy = layer.backward(before, after, dy)
        return dy

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        for layer, before, after in self._steps(x):
            dx = layer.difference(before, after, dx).astype(x.dtype, copy=False)
        return dx

    def _steps(self, x: Array) -> Iterator[tuple[Layer, Array, Array]]:
        """Each layer with its input and output."""
        for i, layer in enumerate(self.layers):
            y = run_layer(layer, x, str(i))
            yield layer, x, y
            x = y

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Layer, ...]: ...
    def __getitem__(self, index: int | slice) -> Layer | tuple[Layer, ...]:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __repr__(self) -> str:
        lines = (f"  ({i}) " + repr(layer).replace("\n", "\n  ") for i, layer in enumerate(self.layers))
        return "Sequential(\n" + "\n".join(lines) + "\n)"


def common_dtype(model: Layer, parameters: list[Parameter]) -> np.dtype[np.floating]:
    """`model.dtype`, for who has the model's parameters at hand."""
    if not parameters:
        return np.dtype(np.float32)
    dtype = parameters[0].value.dtype
    for parameter in parameters:
        if parameter.value.dtype is not dtype and parameter.value.dtype != dtype:
            found = {parameter.value.dtype: name for name, parameter in model.named_parameters()}
            which = " and ".join(f"{dtype} ({name})" for dtype, name in found.items())
            raise TypeError(
                f"{type(model).__name__}: expected parameters of one dtype, got {which}; give dtype= to "
                "each layer and Parameter, or use astype"
            )
    return dtype


def run_layer(layer: Layer, x: Array, name: str | int = "") -> Array:
    """Run layer.forward(x), its output checked and brought to the dtype of x; errors say in which layer they arose."""
    try:
        y = layer.forward(x)
        if type(y) is np.ndarray and y.dtype is x.dtype and y.ndim and len(y) == len(x):
            return y
        if not isinstance(y, np.ndarray) or y.dtype.kind not in "fiub":
            came = y.dtype if isinstance(y, np.ndarray) else type(y).__name__
            raise TypeError(f"forward: expected an array of real numbers, got {came}")
        if y.ndim == 0 or len(y) != len(x):
            raise ValueError(f"forward: expected an output of {len(x)} rows like its input, got shape {y.shape}")
    except Exception as error:
        where = f"layer {name}: {layer!r}" if name != "" else f"{type(layer).__name__}"
        if not isinstance(layer, Sequential):
            error.add_note(f"in the forward pass of {where}")
        raise
    return y.astype(x.dtype, copy=False)


def _find(name: str, value: object) -> Iterator[tuple[str, Parameter | Layer]]:
    if isinstance(value, Parameter | Layer):
        yield name, value
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _find(f"{name}.{i}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _find(f"{name}.{key}", item)


_BARE = frozenset({type(None), bool, int, float, str, np.ndarray})  # what often lies beside parameters, and holds none


def _gather(value: object, found: dict[int, Parameter], inside: tuple[object, ...]) -> None:
    """Put every parameter that `value` holds into `found`: `_walk` without names, as every step asks for it."""
    held: Any
    if isinstance(value, Layer):
        if value in inside:
            return
        inside = (*inside, value)
        children = type(value).children
        if children is Layer.children:
            held = vars(value).values()
        else:
            held = value.layers if children is Sequential.children else (child for _, child in value.children())  # type: ignore[attr-defined]
    elif isinstance(value, list | tuple):
        held = value
    elif isinstance(value, dict):
        held = value.values()
    else:
        held = (value,) if isinstance(value, Parameter) else ()
    for item in held:
        if isinstance(item, Parameter):
            found[id(item)] = item
        elif type(item) not in _BARE:
            _gather(item, found, inside)


def _walk(layer: Layer, prefix: str, inside: set[int]) -> Iterator[tuple[str, Parameter]]:
    if id(layer) in inside:
        return
    for name, child in layer.children():
        if isinstance(child, Parameter):
            yield prefix + name, child
        else:
            yield from _walk(child, f"{prefix}{name}.", inside | {id(layer)})


def _converted(value: Any, dtype: np.dtype[np.floating], memo: dict[int, Any]) -> Any:
    """`value` with every Parameter and Layer in it copied, once each; anything else as it is."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, Parameter):
        memo[id(value)] = Parameter(value.value, dtype)
        return memo[id(value)]
    if isinstance(value, Layer):
        memo[id(value)] = twin = copy.copy(value)
        for name, item in vars(value).items():
            vars(twin)[name] = _converted(item, dtype, memo)
        return twin
    if isinstance(value, list):
        return [_converted(item, dtype, memo) for item in value]
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_converted(item, dtype, memo) for item in value)
    if isinstance(value, dict):
        return {key: _converted(item, dtype, memo) for key, item in value.items()}
    return value
