"""The layer protocol.

A layer is a pure function of its parameters, its buffers and its input. `forward` changes nothing, so that it may be
evaluated any number of times, at any point, by any thread: all that central differences need.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nnframe.core import local
from nnframe.core.backward import backward_by_differences
from nnframe.core.chain import Link, call_inside
from nnframe.core.network import network_of
from nnframe.core.parameter import Array, Parameter
from nnframe.core.protocol import Traits, passes_of, traits, traits_of_class
from nnframe.core.run import Run, _here, at_the_door, current_run, name_layer, read_only, run_layer
from nnframe.core.summary import summarize
from nnframe.core.tree import Tree, path_of


class Layer(Tree):
    """A pure function with parameters: what networks are made of.

    A custom layer needs `forward` only: what else there is to know about it, nnframe finds out. Everything else is an
    offer. `backward` lets it take part in `Backprop` as it was written, `difference` and `perturb` save evaluations
    and digits, `forward_saving` hands what backward needs from forward to backward, `observe` keeps statistics.
    Attributes that are `Parameter`, `Buffer` or `Layer` objects, alone or in lists, tuples and dicts, are found by
    themselves; no `__init__` has to be called. A helper that a class inherits counts only where no more derived class
    overrides `forward`.

    Attributes
    ----------
    couples : {"entries", "rows", "batch"}, optional
        Whether entry i of y depends on entry i of x alone, row n of y on row n of x alone, or anything on anything.
        None: it is found out. What is said is compared with what is found.
    takes_integers : bool
        Whether x holds ids: arrays of integers then reach `forward` as they are, instead of as floating-point numbers.
    verified : bool
        Whether `check_gradients` or `Backprop(verify=...)` has found its backward right, and neither that nor `forward`
        has been replaced since. Copies are not verified.
    """

    couples: str | None = None
    takes_integers: bool = False
    _traits: ClassVar[Traits]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _take_old_flags(cls)
        cls._traits = traits_of_class(cls, Layer)

    # ---- the function ----

    def forward(self, x: Array) -> Array:
        """y = f(x), where axis 0 of x and y counts the rows of a mini-batch. Changes nothing.

        x cannot be written to. It comes in float32 or float64, whatever the model's dtype is: differences of a layer
        without a `difference` are taken in float64.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def forward_saving(self, x: Array) -> tuple[Array, Any]:
        """Return forward(x), and what backward needs besides x and y: it is handed to it as a fourth argument."""
        return self.forward(x), None

    def backward(self, x: Array, y: Array, dy: Array, saved: Any = None) -> Array:
        """Add to each parameter's `.grad`, and return the gradient of the loss with respect to x.

        `y` is forward(x), `dy` the gradient of the loss with respect to y; none of the three can be written to. A layer
        with a `forward_saving` is also given what that saved. This default takes central differences of forward.
        """
        dx = backward_by_differences(self._link(x, y), dy, self._step())
        assert dx is not None
        return dx

    def backward_parameters(self, x: Array, y: Array, dy: Array, *saved: Any) -> None:
        """Do as `backward` where the gradient of x is not needed, as in the lowest layer: override it to save work."""
        self.backward(x, y, dy, *saved)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        """forward(x + dx) - y, for one dx of the shape of x or a stack of them, (S, *x.shape).

        This default subtracts two evaluations, in float64 whatever the dtype, so that digits are left. A layer that
        knows a form without cancellation overrides it.
        """
        return local.difference_of(self._link(x, y), dx)

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Array, y: Array) -> Array:
        """How y changes when one entry of a parameter of this layer moves by `step`.

        Returns (S, *y.shape): for each s the change for entry `indices[s]` (an index into the flattened parameter).
        This default moves the entry in a float64 copy of the layer and runs forward.
        """
        up, _, width = local.perturbations(self._link(x, y), parameter, indices, step)
        return up * (2 * step / width).reshape(-1, *[1] * y.ndim)

    def observe(self, x: Array, y: Array) -> None:
        """See the input and output of a training step, after it: the only method that may change a buffer."""

    @property
    def training(self) -> bool:
        """Whether the layer runs for a gradient (True), or to predict and to measure (False). Nobody switches it."""
        run = current_run()
        return run is not None and run.training

    def __call__(self, x: npt.ArrayLike | tuple[npt.ArrayLike, ...], *, training: bool = False) -> Array:
        """Forward for any array of numbers, converted to the model's dtype here and nowhere else.

        Runs in evaluation mode unless `training` asks for the other. A tuple is one input each for `Branches`. Inside
        the forward pass of another layer the mode is that layer's.
        """
        run: Run | None = getattr(_here, "run", None)
        if run is not None:
            frame = run.frame
            if frame is not None:
                return call_inside(self, x, run, frame)
            return run_layer(self, at_the_door(self, x))
        try:
            if not training:
                y = self._predict(x)
            else:
                with Run(True, root=self):
                    y = run_layer(self, at_the_door(self, x))
        except Exception as error:
            name_layer(error, self)
            raise
        # the caller may write to it: it shares no memory with the model's input
        return y if y.flags.writeable else y.copy()

    def _predict(self, x: Any) -> Array:
        """Run in evaluation mode: in one call where C knows all layers."""
        network = network_of(self) if self._traits.order else None
        if network is None:
            return run_layer(self, at_the_door(self, x))
        given = x if network.takes(x) else at_the_door(self, x, network.dtype)
        return network.forward(given) if network.takes(given) else run_layer(self, given)

    @property
    def verified(self) -> bool:
        """Whether its backward, the one that it has now, was found right."""
        known = getattr(self, "_verified", None)
        return known is not None and known == passes_of(self)

    @verified.setter
    def verified(self, found: bool) -> None:
        object.__setattr__(self, "_verified", passes_of(self) if found else None)

    @property
    def has_backward(self) -> bool:
        """Whether a backward pass was written for this layer."""
        return traits(self).backward

    # ---- what holds it together ----

    def path_of(self, layer: Tree) -> str:
        """Return where a layer is inside this one, such as "body.1"; "" for this one itself."""
        return path_of(self, layer)

    def summary(self, input_shape: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None) -> str:
        """Return a table of the layers: output shapes, parameters, and how each gets its gradient.

        `input_shape` is that of one row of the input, without the mini-batch, for several inputs a tuple of shapes;
        where it is not given, that of a first `Linear` is tried.
        """
        return summarize(self, input_shape)

    def _link(self, x: Array, y: Array) -> Link:
        """Return this layer by itself as a link, as a strategy would see it without its own helpers."""
        return Link(self, Layer._traits, [p for p in self.parameters() if p.trainable], read_only(x), y)

    def _step(self) -> float | None:
        run = current_run()
        return None if run is None else run.step

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


Layer._traits = traits_of_class(Layer, Layer)


def _take_old_flags(cls: type[Layer]) -> None:
    """Read the flags of 0.2, `elementwise` and `rowwise`, as what `couples` says."""
    flags = {name: vars(cls)[name] for name in ("elementwise", "rowwise") if isinstance(vars(cls).get(name), bool)}
    if not flags or "couples" in vars(cls):
        return
    warnings.warn(
        f"{cls.__name__}: elementwise and rowwise are now found out; couples = 'entries', 'rows' or 'batch' says it",
        DeprecationWarning,
        stacklevel=3,
    )
    if flags.get("elementwise"):
        cls.couples = "entries"
    elif flags.get("rowwise") is False:
        cls.couples = "batch"


def as_layers(layers: Iterable[Any]) -> tuple[Layer, ...]:
    """`layers` checked to be layers, at least one."""
    found = tuple(layers)
    if not found:
        raise ValueError("layers: expected at least one layer, got none")
    for i, layer in enumerate(found):
        if not isinstance(layer, Layer):
            raise TypeError(f"layers: expected Layer objects, got {layer!r} at position {i}")
    return found
