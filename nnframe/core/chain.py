"""A model run once, seen as a chain of layers: where all strategies start.

The order of layers is seen, not declared. A `Sequential` says its order; any other layer that holds layers is run as it
is written, and the calls of the layers inside it are noted. Where each of them was given what the one before it returned,
the run is a chain, found anew at each run; otherwise the layer stays one link, opaque.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe.core.parameter import Array, Parameter
from nnframe.core.protocol import Traits, traits
from nnframe.core.run import Run, at_the_door, checked_output, noted, read_only, run_layer
from nnframe.core.tree import _BARE, Tree, common_dtype

if TYPE_CHECKING:
    from nnframe.core.layer import Layer
    from nnframe.core.structure import Memory


class Link(NamedTuple):
    """One layer of the chain, its input and its output.

    parameters : those of the layer that are trainable
    x, y : input and output
    saved : what `forward_saving` returned for the backward pass
    inner : the runs of a container's branches; the calls that were noted inside an opaque layer; else empty
    chain : whether `inner` is one run that computes the same as the layer, whose backward was written
    """

    layer: Layer
    parameters: list[Parameter]
    x: Any
    y: Array
    saved: Any = None
    inner: tuple[Branch, ...] = ()
    chain: bool = False

    @property
    def traits(self) -> Traits:
        """What the layer says of itself."""
        return traits(self.layer)


class Branch(NamedTuple):
    """A run inside a layer: what it was given, what it returned, and the links between."""

    x: Any
    y: Array
    links: list[Link]


class ForwardPass:
    """A finished forward pass of a model, and the loss of its output.

    Attributes
    ----------
    model : Layer
    run : Run
    x : array, or tuple of arrays
        The input, as the model takes it.
    links : list of Link
        From the input to the output.
    loss, labels, value :
        Set by `measure`: the loss, the labels as it takes them, its value as a float.
    """

    __slots__ = ("labels", "links", "loss", "model", "run", "value", "x")

    def __init__(self, model: Layer, run: Run, x: Any, links: list[Link]) -> None:
        self.model, self.run, self.x, self.links = model, run, x, links
        self.loss: Any = None
        self.labels: npt.NDArray[Any] = _NO_LABELS
        self.value = np.nan

    @property
    def output(self) -> Array:
        """What the model returned."""
        return self.links[-1].y

    def name(self, link: Link) -> str:
        """Words for a link's layer in a message: its path in the model, and itself."""
        path = self.model.path_of(link.layer)
        return f"layer {path}: {link.layer!r}" if path else repr(link.layer)

    def observe(self) -> None:
        """Let every layer that keeps statistics see its input and output, and random layers go on to new numbers.

        What a trainer calls once a step, after the optimizer: the one moment at which buffers change.
        """
        _observe(self.links)
        for _, tree in self.model.named_trees():
            advance = getattr(tree, "advance", None)
            if advance is not None:
                advance()


_NO_LABELS: npt.NDArray[Any] = np.zeros(0)


def _observe(links: list[Link]) -> None:
    for link in links:
        if link.traits.observe:
            link.layer.observe(read_only(link.x), read_only(link.y))
        for branch in link.inner:
            _observe(branch.links)


def run_forward(model: Layer, x: Any, run: Run) -> ForwardPass:
    """Run a model, layer by layer, inside `run`; x is converted as the model's own call converts it."""
    leaves = ordered(model)
    if leaves is None:
        inputs = at_the_door(model, x)
        links: list[Link] = []
        _run(model, inputs, links, run)
        return ForwardPass(model, run, inputs, links)
    # a literal chain: parameters are gathered once, for the dtype and for the links
    held = [layer.parameters() for layer in leaves]
    flat = [parameter for parameters in held for parameter in parameters]
    inputs = at_the_door(model, x, common_dtype(model, flat) if flat else None)
    links, current = [], inputs
    for layer, parameters in zip(leaves, held, strict=True):
        current = _run(layer, current, links, run, parameters)
    return ForwardPass(model, run, inputs, links)


def ordered(layer: Layer) -> list[Layer] | None:
    """Layers of a Sequential, those inside it included; None for any other layer."""
    if not traits(layer).order:
        return None
    found: list[Layer] = []
    for child in layer.order():
        inner = ordered(child)
        found += [child] if inner is None else inner
    return found


def _run(layer: Layer, x: Any, links: list[Link], run: Run, parameters: list[Parameter] | None = None) -> Array:
    """Run one layer and append its link, or those of the layers inside it; returns the output."""
    t = traits(layer)
    if t.order:
        for child in layer.order():
            x = _run(child, x, links, run)
        return x  # type: ignore[no-any-return]
    if parameters is None:
        parameters = layer.parameters()
    for parameter in parameters:
        if not parameter.trainable:
            parameters = [p for p in parameters if p.trainable]
            break
    if t.branches:
        link = _run_branches(layer, parameters, x, run)
    elif t.own and _holds_layers(vars(layer).values()):
        return _run_composite(layer, t, parameters, x, links, run)
    elif t.forward_saving:
        link = _run_saving(layer, parameters, x)
    else:
        link = Link(layer, parameters, x, run_layer(layer, x))
    links.append(link)
    if t.own and run.memory is not None:
        run.memory.meet(link, run)
    return link.y


def _run_saving(layer: Layer, parameters: list[Parameter], x: Any) -> Link:
    try:
        found = layer.forward_saving(read_only(x))
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"forward_saving: expected a pair (y, saved), got {type(found).__name__}")
        return Link(layer, parameters, x, checked_output(layer, x, found[0]), found[1])
    except Exception as error:
        raise noted(error, layer)  # noqa: B904


def _run_branches(layer: Layer, parameters: list[Parameter], x: Any, run: Run) -> Link:
    branches = []
    for child, given in layer.branches(x):
        inner: list[Link] = []
        y = given if child is None else _run(child, given, inner, run)
        branches.append(Branch(given, y, inner))
    try:
        y = layer.join_outputs([branch.y for branch in branches])
    except Exception as error:
        raise noted(error, layer)  # noqa: B904
    return Link(layer, parameters, x, y, None, tuple(branches))


def _run_composite(layer: Layer, t: Traits, parameters: list[Parameter], x: Any, links: list[Link], run: Run) -> Array:
    """Run a layer that holds layers as it is written, and see whether it is a chain of them."""
    given = read_only(x)
    outer, run.frames = run.frames, []
    try:
        y = layer.forward(given)
        if type(y) is not np.ndarray or y.dtype is not getattr(x, "dtype", None) or not y.ndim or len(y) != len(x):
            y = checked_output(layer, x, y)
    except Exception as error:
        raise noted(error, layer)  # noqa: B904
    finally:
        frames, run.frames = run.frames, outer
    chain = _as_chain(frames, given, y)
    if chain is not None and not t.backward:
        links += chain
        return y
    inner = tuple(frames) if chain is None else (Branch(given, y, chain),)
    link = Link(layer, parameters, x, y, None, inner, chain is not None)
    links.append(link)
    if run.memory is not None:
        run.memory.meet(link, run)
    return y


def call_inside(layer: Layer, x: Any, run: Run) -> Array:
    """Run a layer that another one has called in its forward pass, and note the call."""
    links: list[Link] = []
    given = at_the_door(layer, x)
    y = read_only(_run(layer, given, links, run))
    assert run.frames is not None
    run.frames.append(Branch(x if given is x else given, y, links))
    return y  # type: ignore[no-any-return]


def _as_chain(frames: list[Branch], x: Any, y: Array) -> list[Link] | None:
    """Links of calls that hand on to each other what they return, from x to y; None where they do not."""
    if not frames:
        return None
    links: list[Link] = []
    current = x
    for branch in frames:
        if branch.x is not current and not _append_reshaped(current, branch.x, links):
            return None
        links += branch.links
        current = branch.y
    if y is not current and not _append_reshaped(current, y, links):
        return None
    return links


def _append_reshaped(x: Any, y: Any, links: list[Link]) -> bool:
    """Append a link where y is x in another shape, row by row, and not another array; returns whether it is."""
    if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray) or y.dtype != x.dtype or y.size != x.size:
        return False
    same = y.__array_interface__["data"][0] == x.__array_interface__["data"][0]
    if not same or y.ndim == 0 or len(y) != len(x) or not (x.flags.c_contiguous and y.flags.c_contiguous):
        return False
    if y.shape != x.shape:
        links.append(Link(Reshaped(y.shape[1:]), [], x, y))  # type: ignore[arg-type]
    return True


class Reshaped(Tree):
    """What `x.reshape(len(x), ...)` between two layers is in a chain."""

    couples = "rows"
    takes_integers = False
    _traits = Traits(False, True, False, True, False, False, False, False, False, True, False)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x: Array) -> Array:
        """Return x in the other shape."""
        return x.reshape(len(x), *self.shape)

    def backward(self, x: Array, y: Array, dy: Array) -> Array:
        """Return the gradient in the shape of x."""
        return dy.reshape(x.shape)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        """Return the change in the shape of y."""
        return dx.reshape(*dx.shape[: dx.ndim - x.ndim], *y.shape)

    def __repr__(self) -> str:
        return f"reshape(len(x), {', '.join(map(str, self.shape))})"


def _holds_layers(values: Any) -> bool:
    """Whether a layer is among some attributes, alone or in lists and dicts."""
    for value in values:
        if type(value) in _BARE or isinstance(value, Parameter):
            continue
        if isinstance(value, Tree):
            if hasattr(value, "forward"):
                return True
        elif isinstance(value, list | tuple):
            if _holds_layers(value):
                return True
        elif isinstance(value, dict) and _holds_layers(value.values()):
            return True
    return False


def expanded(links: list[Link]) -> list[Link]:
    """Return the links, with layers whose backward was written taken apart into the chain that they are."""
    if not any(link.chain for link in links):
        return links
    found: list[Link] = []
    for link in links:
        found += expanded(link.inner[0].links) if link.chain else [link]
    return found


def begin(model: Layer, x: Any, memory: Memory | None = None, step: float | None = None) -> ForwardPass:
    """Run a model in training mode, for a strategy."""
    run = Run(True, memory, step, model)
    with run:
        return run_forward(model, x, run)
