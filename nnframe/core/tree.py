"""What holds parameters, buffers and layers: found by themselves in attributes, lists and dicts, at any depth."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_dtype
from nnframe.core.parameter import Array, Buffer, Parameter, changes

_BARE = frozenset(
    {type(None), bool, int, float, str, np.ndarray}
)  # what often stands beside parameters, and holds none


class Tree:
    """An object whose parameters, buffers and layers are found by themselves; no `__init__` has to be called."""

    # no part of what a tree holds: what was found by a walk, and when; and which passes were found right
    __slots__ = ("__dict__", "__weakref__", "_survey", "_verified")

    _own_children = (
        False  # whether a class says itself, in `children`, what it holds, other than what its attributes hold
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "children" in vars(cls):
            cls._own_children = not cls.__module__.startswith("nnframe.")
        for name, value in {name: value for base in cls.__mro__[-2::-1] for name, value in vars(base).items()}.items():
            held = next(_find(name, value), None)
            if held is not None:
                raise TypeError(
                    f"{cls.__name__}.{name}: expected in each object, got a {type(held[1]).__name__} of the class, "
                    f"which all its objects would share; set self.{name} in __init__"
                )

    def __setattr__(self, name: str, value: Any) -> None:
        changes[0] += 1
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        changes[0] += 1
        object.__delattr__(self, name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def children(self) -> Iterator[tuple[str, Parameter | Buffer | Tree]]:
        """Parameters, buffers and layers that this one holds, by name."""
        for name, value in vars(self).items():
            yield from _find(name, value)

    def named_trees(self) -> Iterator[tuple[str, Tree]]:
        """Return this and everything below it that may hold parameters, each once, this one first under the name ""."""
        return _trees(self, "", set())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, with a name such as `0.weight`; a shared one under its first name."""
        for name, held in _named(self):
            if isinstance(held, Parameter):
                yield name, held

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Every buffer once, with a name such as `1.running_mean`; a shared one under its first name."""
        for name, held in _named(self):
            if isinstance(held, Buffer):
                yield name, held

    def parameters(self) -> list[Parameter]:
        """Every parameter once, in the order of `named_parameters`."""
        return list(survey(self).of(self))

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The one dtype of all parameters; float32 where there are none. TypeError where they differ."""
        return common_dtype(self, self.parameters())

    def astype(self, dtype: npt.DTypeLike, memo: dict[int, Any] | None = None) -> Self:
        """Copy with every parameter, and every buffer of floating-point numbers, converted.

        Anything that is neither a parameter, a buffer nor a layer is shared with the copy. `memo` receives the copy of
        each parameter, buffer and layer under the `id` of its original.
        """
        made: Self = _converted(self, as_dtype(dtype), {} if memo is None else memo)
        return made

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of every parameter's and buffer's value, by name."""
        return {name: held.value.copy() for name, held in self._state().items()}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Set every parameter and buffer from `state`; nothing is changed unless all names, shapes and kinds fit.

        Raises
        ------
        KeyError
            A name is missing or unknown.
        TypeError, ValueError
            A value has another shape, or is no array of numbers of the same kind; or an array here is read-only.
        """
        own = self._state()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise KeyError(
                f"state: expected {', '.join(own) or '(nothing)'}; missing: "
                f"{', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
            )
        arrays = {name: np.asarray(state[name]) for name in own}
        for name, array in arrays.items():
            _check_loaded(name, array, own[name].value)
        for name, array in arrays.items():
            own[name].value[...] = array

    def _state(self) -> dict[str, Parameter | Buffer]:
        """Every parameter and buffer by name; ValueError where two of them have one name."""
        found: dict[str, Parameter | Buffer] = {}
        for name, held in _named(self):
            if name in found:
                raise ValueError(f"{type(self).__name__}: expected names that differ, got two arrays named {name!r}")
            found[name] = held
        return found


def _check_loaded(name: str, given: npt.NDArray[Any], own: npt.NDArray[Any]) -> None:
    if own.dtype.kind == "f":
        if given.dtype.kind != "f":
            raise TypeError(f"{name}: expected floating-point numbers, got {given.dtype}")
    elif given.dtype != own.dtype:
        raise TypeError(f"{name}: expected {own.dtype}, got {given.dtype}")
    if given.shape != own.shape:
        raise ValueError(f"{name}: expected shape {own.shape}, got {given.shape}")
    if not own.flags.writeable:
        raise ValueError(f"{name}: expected an array that can be written, got a read-only one")


def common_dtype(tree: Tree, parameters: list[Parameter]) -> np.dtype[np.floating]:
    """Return `tree.dtype`, where its parameters have been gathered already."""
    if not parameters:
        return np.dtype(np.float32)
    dtype = parameters[0].value.dtype
    for parameter in parameters:
        own = parameter.value.dtype
        if own is not dtype and own != dtype:
            found = {parameter.value.dtype: name for name, parameter in tree.named_parameters()}
            which = " and ".join(f"{dtype} ({name})" for dtype, name in found.items())
            raise TypeError(
                f"{type(tree).__name__}: expected parameters of one dtype, got {which}; give dtype= to "
                "each layer and Parameter, or use astype"
            )
    return dtype


LAYERS, PARAMETERS = 1, 2  # what a tree holds itself: other trees, and parameters that are trained


class Survey:
    """What one walk through a tree finds.

    Attributes
    ----------
    held : dict
        By the `id` of each tree, what its `parameters` returns.
    kinds : dict
        By the `id` of each tree, the sum of LAYERS and PARAMETERS that hold for it.
    known : dict
        By the `id` of a layer, how it is run and what that needs; see `chain`.
    networks : dict
        By the `id` of each layer of a chain, the network that C runs in one call; see `network`.
    """

    __slots__ = ("containers", "fixed", "held", "kinds", "known", "met", "networks")

    def __init__(self) -> None:
        self.held: dict[int, list[Parameter]] = {}
        self.kinds: dict[int, int] = {}
        self.known: dict[int, Any] = {}
        self.networks: dict[tuple[int, ...], Any] = {}
        self.met: set[int] = set()  # layers that have been met since; see `chain`
        self.containers: list[tuple[Any, list[Any]]] = []  # lists and dicts, and what they held
        self.fixed = True  # whether a change would be seen

    def of(self, tree: Tree) -> list[Parameter]:
        """Return what `tree.parameters()` returns, and remember what is found on the way."""
        mine = self.held.get(id(tree))
        if mine is not None:
            return mine
        self.held[id(tree)] = mine = []
        kinds = 0
        values: Any = [child for _, child in tree.children()] if tree._own_children else tree.__dict__.values()
        self.fixed &= not tree._own_children
        for value in values:
            kind = type(value)
            if kind is Parameter:
                mine.append(value)
                kinds |= PARAMETERS if value.trainable else 0
            elif kind is tuple:
                kinds |= self._items(value, mine)
            elif kind not in _BARE:
                kinds |= self._items((value,), mine)
        self.kinds[id(tree)] = kinds
        if len(mine) > 2 or (len(mine) == 2 and mine[0] is mine[1]):
            once = {id(parameter): parameter for parameter in mine}
            if len(once) < len(mine):
                mine[:] = once.values()
        return mine

    def kinds_of(self, tree: Tree) -> int:
        """Return what a tree holds itself.

        One that was made in the meantime is looked at now, and not remembered: the next one may have its `id`.
        """
        kinds = self.kinds.get(id(tree))
        if kinds is None:
            found = Survey()
            found.of(tree)
            kinds = found.kinds[id(tree)]
        return kinds

    def _items(self, items: Any, mine: list[Parameter]) -> int:
        kinds = 0
        for item in items:
            if isinstance(item, Tree):
                mine += self.of(item)
                kinds |= LAYERS
            elif isinstance(item, Parameter):
                mine.append(item)
                kinds |= PARAMETERS if item.trainable else 0
            elif isinstance(item, tuple):
                kinds |= self._items(item, mine)
            elif isinstance(item, list | dict):
                values = item.values() if isinstance(item, dict) else item
                self.containers.append((item, list(values)))
                kinds |= self._items(values, mine)
        return kinds

    def holds(self) -> bool:
        """Whether the lists and dicts hold what they held."""
        for container, before in self.containers:
            values = container.values() if isinstance(container, dict) else container
            if len(values) != len(before) or not all(map(operator.is_, values, before)):
                return False
        return True


def survey(root: Tree) -> Survey:
    """Walk through a tree, unless nothing can have changed since the last time."""
    known: tuple[Survey, int] | None = getattr(root, "_survey", None)
    if known is not None and known[1] == changes[0] and known[0].holds():
        return known[0]
    found = Survey()
    found.of(root)
    if found.fixed:
        object.__setattr__(root, "_survey", (found, changes[0]))
    return found


def path_of(root: Tree, tree: Tree) -> str:
    """Return the name of one tree inside another, such as "body.1"; "" for the root and for what is not there."""
    return next((name for name, found in root.named_trees() if found is tree), "")


def aliases(tree: Tree) -> dict[str, str]:
    """Return the further names of what has several, each with the first: {"2.weight": "0.weight"}."""
    first: dict[int, str] = {}
    found = {}
    for name, held in _walk(tree, "", frozenset()):
        if first.setdefault(id(held), name) != name:
            found[name] = first[id(held)]
    return found


def _find(name: str, value: object) -> Iterator[tuple[str, Parameter | Buffer | Tree]]:
    if isinstance(value, Parameter | Buffer | Tree):
        yield name, value
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _find(f"{name}.{i}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _find(f"{name}.{key}", item)


def _trees(tree: Tree, name: str, seen: set[int]) -> Iterator[tuple[str, Tree]]:
    if id(tree) in seen:
        return
    seen.add(id(tree))
    yield name, tree
    for child_name, child in tree.children():
        if isinstance(child, Tree):
            yield from _trees(child, f"{name}.{child_name}" if name else child_name, seen)


def _named(tree: Tree) -> Iterator[tuple[str, Parameter | Buffer]]:
    """Every parameter and buffer once, in order, with its first name."""
    seen: set[int] = set()
    for name, held in _walk(tree, "", frozenset()):
        if id(held) not in seen:
            seen.add(id(held))
            yield name, held


def _walk(tree: Tree, prefix: str, inside: frozenset[int]) -> Iterator[tuple[str, Parameter | Buffer]]:
    if id(tree) in inside:
        return
    for name, child in tree.children():
        if isinstance(child, Tree):
            yield from _walk(child, f"{prefix}{name}.", inside | {id(tree)})
        else:
            yield prefix + name, child


def _converted(value: Any, dtype: np.dtype[np.floating], memo: dict[int, Any]) -> Any:
    """`value` with every Parameter, Buffer and Tree in it copied, once each; anything else as it is."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, Parameter):
        memo[id(value)] = Parameter(value.value, dtype, value.trainable)
        return memo[id(value)]
    if isinstance(value, Buffer):
        kept = dtype if value.value.dtype.kind == "f" else value.value.dtype
        memo[id(value)] = Buffer(value.value, kept)
        return memo[id(value)]
    if isinstance(value, Tree):
        memo[id(value)] = made = copy.copy(value)
        for name, item in vars(value).items():
            vars(made)[name] = _converted(item, dtype, memo)
        return made
    if isinstance(value, list):
        return [_converted(item, dtype, memo) for item in value]
    if isinstance(value, tuple):
        items = [_converted(item, dtype, memo) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, dict):
        return {key: _converted(item, dtype, memo) for key, item in value.items()}
    return value


__all__ = ["Array", "Buffer", "Parameter", "Tree", "aliases", "common_dtype", "path_of"]
