"""What a class of layers says of itself, and the error for a layer that is not what it must be."""

from __future__ import annotations

from typing import Any, NamedTuple


class LayerError(ValueError):
    """A layer breaks the law, or says of itself what is not so; the message names it, the reason and the cure."""


class CostWarning(UserWarning):
    """A gradient costs far more than it might: the message gives the reason, the price and the cure."""


# Each helper stands for what `forward` computes, and for these other helpers of the same class.
_STANDS_FOR: dict[str, tuple[str, ...]] = {
    "backward": ("forward",),
    "backward_parameters": ("forward", "backward"),
    "difference": ("forward",),
    "perturb": ("forward",),
    "forward_saving": ("forward",),
    "stage": ("forward", "backward", "difference", "perturb"),
    "stage_of_planes": ("forward", "backward", "difference", "perturb"),
    "order": ("forward", "backward", "difference"),
    "branches": ("forward", "backward", "difference"),
    "couples": ("forward",),
    "observe": (),
}


class Traits(NamedTuple):
    """Which helpers of a class count.

    One that is inherited counts only where no more derived class overrides `forward`: a class that changes what a layer
    computes does not change what the inherited helpers compute.

    own : whether the class was written outside nnframe, so that nothing about it is taken on trust
    plain : whether it is one of nnframe's own, with nothing beside forward and backward
    others : as the methods of `Layer` are called
    """

    own: bool
    backward: bool
    backward_parameters: bool
    difference: bool
    perturb: bool
    forward_saving: bool
    stage: bool
    stage_of_planes: bool
    order: bool
    branches: bool
    couples: bool
    observe: bool
    plain: bool


NOTHING = Traits(*[False] * len(Traits._fields))
FORWARD_ONLY = NOTHING._replace(own=True)


def traits_of_class(cls: type, base: type) -> Traits:
    """Find out which helpers of `cls` count; `base` holds the defaults."""
    depth = {name: _depth(cls, name, base) for name in ("forward", *_STANDS_FOR)}
    count = {
        name: depth[name] is not None and all(_at_least(depth[name], depth[other]) for other in others)
        for name, others in _STANDS_FOR.items()
    }
    written = {"forward", *(name for name, counts in count.items() if counts)}
    own = any(not _defining(cls, name).__module__.startswith("nnframe.") for name in written)
    plain = not (own or count["order"] or count["branches"] or count["forward_saving"])
    return Traits(own=own, plain=plain, **count)


def traits(layer: Any) -> Traits:
    """Which helpers of a layer count; none where this very object has a `forward` of its own."""
    if "forward" in layer.__dict__:
        return FORWARD_ONLY
    found: Traits = type(layer)._traits
    return found


def passes_of(layer: Any) -> tuple[Any, ...]:
    """Return the class of a layer and the functions that are its passes now: others where one was replaced."""
    cls, own = type(layer), vars(layer)
    names = ("forward", "forward_saving", "backward", "backward_parameters")
    return (cls, *(own[name] if name in own else getattr(cls, name) for name in names))


def named(layer: Any, root: Any) -> str:
    """Words for a layer in a message, by its path in `root` where one is known: "layer body.1: Swish()"."""
    path = "" if root is None else root.path_of(layer)
    return f"layer {path}: {layer!r}" if path else repr(layer)


def _depth(cls: type, name: str, base: type) -> int | None:
    """How far up a method is defined, 0 for `cls` itself; None where it is that of `base`, or None."""
    if getattr(cls, name, None) is None or getattr(cls, name) is getattr(base, name, None):
        return None
    return next(i for i, c in enumerate(cls.__mro__) if name in vars(c))


def _at_least(depth: int | None, other: int | None) -> bool:
    """Whether a method is defined in the class of the other one or in one derived from it."""
    return depth is not None and (other is None or depth <= other)


def _defining(cls: type, name: str) -> type:
    return next((c for c in cls.__mro__ if name in vars(c)), cls)
