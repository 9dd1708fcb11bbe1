"""Models that C runs in one call: chains of nnframe's own linear layers and activations, each of them once.

The layers describe themselves (`in_network`); a description counts only where no more derived class, nor the layer
itself, has changed what C assumes. Everything else runs layer by layer, as `chain` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.core.chain import ForwardPass, Link, Reshaped, run_forward
from nnframe.core.parameter import NONE, Array, Chosen, Parameter
from nnframe.core.protocol import LayerError
from nnframe.core.run import Run, at_the_door
from nnframe.core.structure import Memory
from nnframe.core.tree import Survey, Tree, survey
from nnframe.kernels import _kernels
from nnframe.kernels._kernels import gradients_of, values_of

PASSES = frozenset({"forward", "backward", "backward_parameters", "order"})
PASSES_OF_LOSSES = frozenset({"prepare", "forward", "backward", "forward_backward"})


class Network:
    """A chain of layers as C takes it.

    Attributes
    ----------
    compiled : _kernels.Network
    parameters : list of Parameter
        Weights and biases, from the input up.
    dtype : dtype
        Theirs.
    takes : callable
        Whether an array is rows of what the lowest layer takes, at least one; anything else is left to the layers.
    trained : bool
        Whether all of them are trainable.
    differentiable : bool
        Whether the backward pass of each layer was written.
    """

    __slots__ = ("compiled", "differentiable", "dtype", "parameters", "takes", "trained")

    def __init__(self, layers: list[Any], parameters: list[Parameter], inputs: int) -> None:
        stages: list[tuple[Any, Any]] = []
        for layer in layers:
            first, second = layer.in_network()
            if isinstance(first, Parameter):
                first, second = len(first.value), second is not None
            stages.append((first, second))
        self.parameters, self.dtype = parameters, parameters[0].value.dtype
        self.compiled = _kernels.Network(inputs, stages, self.dtype)
        self.takes = self.compiled.takes
        self.trained = all(parameter.trainable for parameter in parameters)
        self.differentiable = all(layer._traits.backward for layer in layers)

    def forward(self, x: Array) -> Array:
        """Return the output."""
        return self.compiled.forward(x, values_of(self.parameters))

    def gradient(
        self,
        loss: Any,
        x: Array,
        t: npt.ArrayLike,
        outputs: list[Array] | None = None,
        step: float = 0.0,
        doubtful: npt.NDArray[np.bool_] | None = None,
        described: tuple[Any, ...] | None = None,
        chosen: Chosen | None = None,
    ) -> tuple[float, Array, npt.NDArray[Any]] | None:
        """Overwrite the gradient of each parameter; returns the loss, the output and the labels as they were taken.

        step : of central differences; 0: backpropagation. doubtful : tells which rows the differences leave out. None
        where the loss does not take the labels, or C does not have such differences in one call. described : what the
        loss says of itself, where that is known. chosen : which entries are wanted, the others are 0; None: all.
        """
        parameters, described = self.parameters, described or loss.in_network(t)
        if described is None:
            return None
        values, gradients = values_of(parameters), gradients_of(parameters)
        entries = None if chosen is None else [chosen.get(id(parameter), NONE) for parameter in parameters]
        wanted: list[Any] = gradients
        if not self.trained:
            wanted = [parameter.grad if parameter.trainable else None for parameter in parameters]
        found = self.compiled.gradient(
            x, t, values, wanted, *described, outputs=outputs, step=step, doubtful=doubtful, entries=entries
        )
        if self.trained:
            return found
        for parameter in parameters:
            if not parameter.trainable and found is not None:
                parameter.grad.fill(0)
        return found


# ---- which models ----


def network_of(model: Tree) -> Network | None:
    """Return a model whose layers say their order as C takes it; None where it is more than that."""
    if model._own_children:
        return None
    found = survey(model)
    try:
        return found.networks[()]  # type: ignore[no-any-return]
    except KeyError:
        layers: list[Any] = []
        network = _network(layers, model, found) if found.fixed and _gather(model, layers) else None
        found.networks[()] = network
        return network


def network_of_links(passed: ForwardPass) -> tuple[Network, Array, list[Array]] | None:
    """Return what a chain of layers, in the order in which they were seen, is for C, its input and its outputs.

    A reshape before the lowest layer is part of its input.
    """
    links = passed.links
    while links and type(links[0].layer) is Reshaped:
        links = links[1:]
    found, key = passed.run.survey, tuple([id(link.layer) for link in links])
    if not key or not found.fixed or not all(map(found.held.__contains__, key)):
        return None  # a layer that is made anew in each run may have the id of another one
    if key not in found.networks:
        layers = [link.layer for link in links]
        known = all(not link.inner for link in links) and all(map(_is_known, layers))
        found.networks[key] = _network(layers, passed.model, found) if known else None
    network = found.networks[key]
    if network is None or not network.differentiable or not network.takes(links[0].x):
        return None
    return network, links[0].x, [link.y for link in links]


def _gather(layer: Any, layers: list[Any]) -> bool:
    """Append the layers of a chain that says its order; returns whether each is one that C knows."""
    if layer._traits.order and PASSES.isdisjoint(vars(layer)):
        return all([_gather(child, layers) for child in layer.order()])  # noqa: C419 - all of them are gathered
    layers.append(layer)
    return _is_known(layer)


def _is_known(layer: Any) -> bool:
    """Whether a layer is one of nnframe's own that describes itself."""
    t = layer._traits
    return t.plain and t.stage and hasattr(layer, "in_network") and PASSES.isdisjoint(vars(layer))


def _network(layers: list[Any], model: Tree, found: Survey) -> Network | None:
    """Return the network of these layers; None where widths or dtypes do not fit, or anything is used twice."""
    parameters: list[Parameter] = []
    inputs = width = 0
    for layer in layers:
        first, second = layer.in_network()
        if not isinstance(first, Parameter):
            continue
        if first.value.ndim != 2 or (width and first.value.shape[1] != width):
            return None
        inputs, width = inputs or first.value.shape[1], len(first.value)
        parameters += [first] if second is None else [first, second]
    own, once = found.of(model), {id(parameter) for parameter in parameters}
    if not once or not len(once) == len(parameters) == len(own) or once != {id(parameter) for parameter in own}:
        return None
    same = len({parameter.value.dtype for parameter in parameters}) == 1 and len({*map(id, layers)}) == len(layers)
    return Network(layers, parameters, inputs) if same else None


def is_known_loss(loss: Any) -> bool:
    """Whether a loss is one of nnframe's own that describes itself."""
    t: Any = getattr(loss, "_traits", None)
    return getattr(t, "in_network", False) and not t.own and PASSES_OF_LOSSES.isdisjoint(loss.__dict__)


# ---- gradients ----


class NetworkPass(ForwardPass):
    """A forward pass that C has taken. Its links are found when they are asked for, by running the layers.

    Attributes
    ----------
    left_out : array of int, or None
        Rows that gradients by differences leave out, as a kink may lie within the step; None: none.
    taken : tuple of arrays
        x, the output and the labels as C took them, where rows are left out: each position of x is a row of its own.
    """

    output: Array = None  # type: ignore[assignment]
    left_out: npt.NDArray[np.intp] | None = None
    taken: tuple[Array, Array, npt.NDArray[Any]]
    again: ForwardPass | None = None

    def __init__(self, model: Any, memory: Memory, x: Any, loss: Any) -> None:
        self.model, self.memory, self.x, self.loss = model, memory, x, loss

    @property
    def parameters(self) -> list[Parameter]:  # type: ignore[override]
        """Those of the model."""
        return survey(self.model).of(self.model)

    @property
    def run(self) -> Run:  # type: ignore[override]
        """The run of the layers."""
        return self._layer_by_layer().run

    @property
    def links(self) -> list[Link]:  # type: ignore[override]
        """From the input to the output; LayerError where the model or x has changed since the pass."""
        return self._layer_by_layer().links

    def _layer_by_layer(self) -> ForwardPass:
        if self.again is None:
            with Run(True, self.memory, root=self.model) as run:
                again = run_forward(self.model, self.x, run)
            bound = 1e-3 if self.output.dtype == np.float32 else 1e-10
            size = np.abs(self.output).max(initial=0, where=np.isfinite(self.output))
            if not np.allclose(again.output, self.output, bound, bound * size, equal_nan=True):
                raise LayerError(
                    f"{type(self.model).__name__}: expected parameters and x as they were in this forward pass, got "
                    "others; ask for its links before the optimizer's step"
                )
            self.again = again
        return self.again

    def leave_out(self, doubtful: npt.NDArray[np.bool_], x: Array) -> None:
        """Note the rows of x, as C took it, that gradients leave out; output and labels are still as C gave them."""
        if doubtful.any():
            self.left_out, self.taken = np.flatnonzero(doubtful), (x, self.output, self.labels)

    def observe(self) -> None:
        """Do nothing: none of the layers that C knows keeps anything."""


def gradient_in_one_call(
    model: Any,
    loss: Any,
    x: Any,
    t: npt.ArrayLike,
    memory: Memory,
    step: float = 0.0,
    chosen: Chosen | None = None,
) -> NetworkPass | None:
    """Overwrite the gradients of a model's parameters, in one call; None where model, loss or x ask for the layers.

    step, chosen : as for `Network.gradient`
    """
    network = network_in_one_call(model, step) if is_known_loss(loss) else None
    if network is None:
        return None
    rows, labels = x, t
    if not network.takes(x):
        x = at_the_door(model, x, network.dtype)
        rows, labels = _positions(x, t, loss)
        if not network.takes(rows):
            return None
    doubtful = np.zeros(len(rows), bool) if step else None
    found = network.gradient(loss, rows, labels, step=step, doubtful=doubtful, chosen=chosen)
    if found is None:
        return None
    passed = NetworkPass(model, memory, x, loss)
    passed.value, passed.output, passed.labels = found
    if doubtful is not None:
        passed.leave_out(doubtful, rows)
    if rows is not x and rows.ndim != x.ndim:
        passed.output = passed.output.reshape(*x.shape[:-1], -1)
        passed.labels = passed.labels.reshape(x.shape[:-1] if passed.labels.ndim == 1 else passed.output.shape)
    return passed


def network_in_one_call(model: Any, step: float) -> Network | None:
    """Return a model as C takes its gradients, by differences where there is a step; None: it does not."""
    network = network_of(model) if isinstance(model, Tree) else None
    if network is None or not network.differentiable or (step and not network.compiled.differences):
        return None
    return network


def _positions(x: Any, t: npt.ArrayLike, loss: Any) -> tuple[Any, npt.ArrayLike]:
    """Return x (N, ..., inputs) and its labels, one at each position, as rows; others as they are."""
    labels = np.asarray(t)
    if getattr(x, "ndim", 0) < 3 or not x.size or labels.shape[: x.ndim - 1] != x.shape[:-1]:
        return x, t
    if labels.ndim > x.ndim or (labels.ndim < x.ndim and (loss.in_network(t) or [""])[0] != "cross_entropy"):
        return x, t
    return x.reshape(-1, x.shape[-1]), labels.reshape(-1, *labels.shape[x.ndim - 1 :])


def gradient_of_chain(
    passed: ForwardPass, loss: Any, t: npt.ArrayLike, step: float = 0.0, chosen: Chosen | None = None
) -> bool:
    """Overwrite the gradients after a forward pass, in one call, and measure it; whether that could be done.

    step, chosen : as for `Network.gradient`
    """
    if not is_known_loss(loss) or not len(passed.output):
        return False
    chain = network_of_links(passed)
    if chain is None:
        return False
    network, x, outputs = chain
    if step and not network.compiled.differences:
        return False
    found = network.gradient(loss, x, t, outputs, step, chosen=chosen)
    if found is None:
        return False
    passed.loss, passed.value, passed.labels = loss, found[0], found[2]
    return True
