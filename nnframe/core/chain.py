"""A model run once, seen as a chain of layers: where all strategies start.

The order of layers is seen, not declared. A `Sequential` says its order; any other layer that holds layers is run as
it is written, and the calls of the layers inside it are noted. Where each of them was given what the one before it
returned, the run is a chain, found anew at each run; otherwise the layer stays one link, opaque.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe.core.parameter import Array, Parameter
from nnframe.core.protocol import FORWARD_ONLY, NOTHING, Traits, traits
from nnframe.core.run import Run, at_the_door, checked_output, dtype_of, noted, read_only, run_layer
from nnframe.core.structure import refuse_changed
from nnframe.core.tree import LAYERS, PARAMETERS, Tree, common_dtype, survey

if TYPE_CHECKING:
    from nnframe.core.layer import Layer


class Link(NamedTuple):
    """One layer of the chain, its input and its output.

    traits : which of the layer's helpers count
    parameters : those of the layer that are trainable
    x, y : input and output
    saved : what `forward_saving` returned for the backward pass
    inner : the runs of a container's branches; the calls that were noted inside an opaque layer; else empty
    chain : whether `inner` is one run that computes the same as the layer, whose backward was written
    """

    layer: Any  # a Layer, with the methods that its traits name
    traits: Traits
    parameters: list[Parameter]
    x: Any
    y: Array
    saved: Any = None
    inner: tuple[Branch, ...] = ()
    chain: bool = False


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
    parameters : list of Parameter
        Those of the model.
    loss, labels, value :
        Set by `measure`: the loss, the labels as it takes them, its value as a float.
    """

    loss: Any = None
    labels: npt.NDArray[Any]
    value = np.nan

    def __init__(self, model: Layer, run: Run, x: Any, links: list[Link], parameters: list[Parameter]) -> None:
        self.model, self.run, self.x, self.links, self.parameters = model, run, x, links, parameters

    @property
    def output(self) -> Array:
        """What the model returned."""
        return self.links[-1].y

    def observe(self) -> None:
        """Let every layer that keeps statistics see its input and output, and random layers go on to new numbers.

        What a trainer calls once per training step, after the optimizer: the one moment at which buffers change.
        """
        seen: set[int] = set()
        _observe(self.links, seen)
        for path, tree in self.model.named_trees():
            advance = getattr(tree, "advance", None)
            if advance is not None:
                advance()
            of_class = getattr(tree, "_traits", None)
            if of_class is not None and of_class.observe and id(tree) not in seen:
                self._tell_unseen(path, tree)

    def _tell_unseen(self, path: str, layer: Tree) -> None:
        memory = self.run.memory
        if memory is not None and memory.first_time("unseen", layer):
            warnings.warn(
                f"layer {path}: {layer!r} has not been seen to run, so that it keeps no statistics; call it as "
                f"self.{path.rpartition('.')[2]}(x), not its forward",
                RuntimeWarning,
                stacklevel=3,
            )


def _observe(links: list[Link], seen: set[int]) -> None:
    for link in links:
        if link.traits.observe:
            seen.add(id(link.layer))
            link.layer.observe(read_only(link.x), read_only(link.y))
        for branch in link.inner:
            _observe(branch.links, seen)


def refuse_no_model(model: object) -> None:
    """Raise TypeError where a strategy is given something else in place of a model."""
    if not isinstance(model, Tree):
        raise TypeError(f"model: expected a Layer, got {model!r}; a strategy is called as (model, loss, x, t)")


def run_forward(model: Layer, x: Any, run: Run) -> ForwardPass:
    """Run a model, layer by layer, inside `run`; x is converted as the model's own call converts it."""
    refuse_no_model(model)
    run.survey = survey(model)
    parameters = run.survey.of(model)
    inputs = at_the_door(model, x, common_dtype(model, parameters) if parameters else None)
    run.dtype = dtype_of(inputs, model)
    links: list[Link] = []
    _run(model, inputs, links, run)
    return ForwardPass(model, run, inputs, links, parameters)


def links_inside(container: Any, x: Any, run: Run) -> list[Link]:
    """Return the links of a container's layers, as its class in nnframe runs them.

    A derived class may have a backward of its own, which calls that of the container.
    """
    outer = vars(run).get("survey"), run.dtype, run.frame
    run.survey, run.dtype, run.frame = survey(container), dtype_of(x, container), None
    own: Any = next(c for c in type(container).__mro__ if c.__module__.startswith("nnframe."))
    t: Traits = own._traits
    links: list[Link] = []
    try:
        if t.order:
            for child in container.order():
                x = _run(child, x, links, run)
        else:
            links.append(_run_branches(container, t, x, run))
    finally:
        run.dtype, run.frame = outer[1:]
        if outer[0] is not None:
            run.survey = outer[0]
    return links


def ordered(layer: Any) -> list[Layer] | None:
    """Layers of a Sequential, those inside it included; None for any other layer."""
    if not traits(layer).order:
        return None
    found: list[Layer] = []
    for child in layer.order():
        inner = ordered(child)
        found += [child] if inner is None else inner
    return found


def _trainable(layer: Layer, run: Run) -> list[Parameter]:
    """Parameters of a layer that are trained."""
    parameters = run.survey.held.get(id(layer))
    if parameters is None:
        parameters = layer.parameters()
    for parameter in parameters:
        if not parameter.trainable:
            return [p for p in parameters if p.trainable]
    return parameters


def _run(layer: Any, x: Any, links: list[Link], run: Run) -> Array:
    """Run one layer and append its link, or those of the layers inside it; returns the output."""
    known = run.survey.known.get(id(layer))
    if known is not None:
        return known[0](layer, known, x, links, run)  # type: ignore[no-any-return]
    t = layer._traits if "forward" not in layer.__dict__ else FORWARD_ONLY
    if t.order:
        return _run_order(layer, _remember(_run_order, layer, t, run), x, links, run)
    if t.plain:
        return _run_plain(layer, _remember(_run_plain, layer, t, run), x, links, run)
    if t.branches:
        link = _run_branches(layer, t, x, run)
    elif t.own and run.survey.kinds_of(layer) & LAYERS:
        values = _values_before(layer, run)
        y = _run_composite(layer, _remember(_run_composite, layer, t, run), x, links, run)
        if values is not None:
            refuse_changed(layer, values, run)
        return y
    else:
        values = _values_before(layer, run) if t.own else None
        if t.forward_saving:
            link = _run_saving(layer, t, x, run)
        else:
            link = Link(layer, t, _trainable(layer, run), x, run_layer(layer, x))
        if values is not None:
            refuse_changed(layer, values, run)
    links.append(link)
    if t.own:
        run.own = True
        if run.memory is not None:
            run.memory.meet(link, run)
    return link.y


class Known(NamedTuple):
    """How a layer of a model is run, and what that needs: it holds for as long as the model stays what it is."""

    run: Callable[[Any, Known, Any, list[Link], Run], Array]
    traits: Traits
    parameters: list[Parameter]
    has_parameters: bool  # besides those of the layers that it holds


def _remember(how: Callable[..., Array], layer: Layer, t: Traits, run: Run) -> Known:
    known = Known(how, t, _trainable(layer, run), bool(run.survey.kinds_of(layer) & PARAMETERS))
    if id(layer) in run.survey.held and (run.memory is None or not t.own or id(layer) in run.survey.met):
        run.survey.known[id(layer)] = known
    return known


def _run_order(layer: Any, known: Known, x: Any, links: list[Link], run: Run) -> Array:
    """Run a layer that says the order of those that it holds."""
    for child in layer.order():
        x = _run(child, x, links, run)
    return x  # type: ignore[no-any-return]


def _values_before(layer: Layer, run: Run) -> list[tuple[Parameter, Array]] | None:
    """Copy a layer's parameters when it is met for the first time, to see whether forward changes them."""
    if id(layer) in run.survey.met or run.memory is None:
        return None
    run.survey.met.add(id(layer))
    if not run.memory.first_time("met", layer):
        return None
    return [(parameter, parameter.value.copy()) for parameter in layer.parameters()]


def _run_plain(layer: Any, known: Known, x: Any, links: list[Link], run: Run) -> Array:
    """Run one of nnframe's own layers that has nothing beside forward and backward."""
    _, t, parameters, _ = known
    try:
        y: Array = layer.forward(x)
    except Exception as error:
        raise noted(error, layer)  # noqa: B904
    if y.dtype is not x.dtype:
        y = checked_output(layer, x, y)
    links.append(_link((layer, t, parameters, x, y, None, (), False)))
    return y


_link = functools.partial(tuple.__new__, Link)
_array = np.ndarray


def _run_saving(layer: Layer, t: Traits, x: Any, run: Run) -> Link:
    try:
        found = layer.forward_saving(read_only(x))
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"forward_saving: expected a pair (y, saved), got {type(found).__name__}")
        return Link(layer, t, _trainable(layer, run), x, checked_output(layer, x, found[0]), found[1])
    except Exception as error:
        raise noted(error, layer)  # noqa: B904


def _run_branches(layer: Any, t: Traits, x: Any, run: Run) -> Link:
    branches = []
    for child, given in layer.branches(x):
        inner: list[Link] = []
        y = given if child is None else _run(child, given, inner, run)
        branches.append(Branch(given, y, inner))
    try:
        y = layer.join_outputs([branch.y for branch in branches])
    except Exception as error:
        raise noted(error, layer)  # noqa: B904
    return Link(layer, t, _trainable(layer, run), x, y, None, tuple(branches))


class Frame:
    """What is noted while a layer runs that holds others: the links of those it calls, and whether they are a chain.

    given : what the layer itself was given
    current : what the last one returned, and the next one of a chain is given; at first the same as `given`, where that
        is an array of the model's dtype
    """

    given: Any
    current: Any = None
    links: list[Link]
    chain = True


def _run_composite(layer: Layer, known: Known, x: Any, links: list[Link], run: Run) -> Array:
    """Run a layer that holds layers as it is written, and see whether it is a chain of them."""
    _, t, parameters, has_parameters = known
    run.own = True
    outer = run.frame
    run.frame = frame = Frame()
    seen: list[Link] = []
    frame.links = seen
    if outer is not None and x is outer.current:
        frame.given = frame.current = given = x
    else:
        frame.given = given = read_only(x)
        if type(given) is _array and given.dtype is run.dtype:
            frame.current = given
    try:
        y: Array = layer.forward(given)
        if y is not frame.current or not frame.chain:
            y = checked_output(layer, x, y)
    except Exception as error:
        raise noted(error, layer)  # noqa: B904
    finally:
        run.frame = outer
    chain = frame.chain and bool(seen) and (y is frame.current or _append_reshaped(frame.current, y, seen))
    if has_parameters:
        chain = False  # what it does with a parameter of its own is seen by nobody
    if chain and not t.backward:
        links += seen
        return y
    run.opaque = run.opaque or not chain
    link = Link(layer, t, parameters, x, y, None, (Branch(given, y, seen),), chain)
    links.append(link)
    if run.memory is not None:
        run.memory.meet(link, run)
    return y


def call_inside(layer: Any, x: Any, run: Run, frame: Frame) -> Array:
    """Run a layer that another one has called in its forward pass, and note the call."""
    given = x
    if x is not frame.current:
        if type(x) is not _array or x.dtype is not run.dtype or not x.ndim:
            given = at_the_door(layer, x, run.dtype)
        if frame.links or given is not frame.given:  # ids reach the first layer as they are
            frame.chain = frame.chain and _append_reshaped(frame.current, given, frame.links)
    known = run.survey.known.get(id(layer))
    y: Array
    if known is None:
        y = read_only(_run(layer, given, frame.links, run))
    else:
        y = known[0](layer, known, given, frame.links, run)
        if known[0] is _run_plain:
            y.setflags(False)  # type: ignore[call-arg]  # no longer writeable; a keyword takes twice as long
        elif y.flags.writeable:
            y = read_only(y)
    frame.current = y
    return y


def _append_reshaped(x: Any, y: Any, links: list[Link]) -> bool:
    """Append a link where y is x in another shape, row by row, and not another array; returns whether it is."""
    if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray) or y.dtype != x.dtype or y.size != x.size:
        return False
    same = y.__array_interface__["data"][0] == x.__array_interface__["data"][0]
    if not same or y.ndim == 0 or len(y) != len(x) or not (x.flags.c_contiguous and y.flags.c_contiguous):
        return False
    if y.shape != x.shape:
        links.append(Link(Reshaped(y.shape[1:]), Reshaped._traits, [], x, y))
    return True


class Reshaped(Tree):
    """What `x.reshape(len(x), ...)` between two layers is in a chain."""

    couples = "rows"
    takes_integers = False
    has_backward = True
    verified = False
    _traits = NOTHING._replace(backward=True, difference=True, couples=True)

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


def expanded(links: list[Link]) -> list[Link]:
    """Return the links; a layer that is a chain with a written backward is replaced by the links of that chain."""
    if not any(link.chain for link in links):
        return links
    found: list[Link] = []
    for link in links:
        found += expanded(link.inner[0].links) if link.chain else [link]
    return found
