"""Layers made of layers: one after another, around a shortcut, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

import numpy as np

from nnframe.core.backward import backward_through
from nnframe.core.chain import Link, links_inside
from nnframe.core.layer import Layer, as_layers
from nnframe.core.local import run_differences
from nnframe.core.parameter import Array
from nnframe.core.run import Run, current_run, run_layer
from nnframe.core.tree import Buffer, Parameter, Tree


class Container(Layer):
    """What containers share: passes go through those of the layers in them, whatever each of these has written."""

    @property
    def takes_integers(self) -> bool:  # type: ignore[override]
        """Whether one of its layers takes ids: then ids reach the container as they are."""
        return any(layer.takes_integers for layer in self._layers())

    @property
    def has_backward(self) -> bool:
        """Whether all its layers have one."""
        return all(layer.has_backward for layer in self._layers())

    def backward(self, x: Array, y: Array, dy: Array, saved: Any = None) -> Array:
        dx = backward_through(self._links(x), dy, self._step())
        assert dx is not None
        return dx

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return run_differences(self._links(x), dx)

    def _links(self, x: Array) -> list[Link]:
        """Run the container again and return its links: its layers', whatever a derived class has written."""
        run = current_run() or Run(True, root=self)
        return links_inside(self, x, run)

    def _layers(self) -> Sequence[Layer]:
        raise NotImplementedError(f"{type(self).__name__} has no layers")


class Sequential(Container):
    """Layers one after another; parameters are named `0.weight`, `0.bias`, `2.weight` ...

    Parameters
    ----------
    *layers : Layer
        At least one.
    """

    def __init__(self, *layers: Layer) -> None:
        self.layers = as_layers(layers)

    @property
    def takes_integers(self) -> bool:  # type: ignore[override]
        """Whether its first layer takes ids."""
        return self.layers[0].takes_integers

    def children(self) -> Iterator[tuple[str, Parameter | Buffer | Tree]]:
        """Return the layers, named by position, and what else a derived class holds."""
        for i, layer in enumerate(self.layers):
            yield str(i), layer
        if len(vars(self)) > 1:
            for name, value in super().children():
                if name.partition(".")[0] != "layers":
                    yield name, value

    def order(self) -> Sequence[Layer]:
        """Return the layers, each of which is given what the one before it returned."""
        return self.layers

    def forward(self, x: Array) -> Array:
        run = current_run()
        if run is not None and run.frame is not None:  # a derived class has called this: its layers are seen
            for layer in self.layers:
                x = layer(x)
            return x
        for layer in self.layers:
            x = run_layer(layer, x)
        return x

    def _layers(self) -> Sequence[Layer]:
        return self.layers

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
        return _nested(type(self).__name__, [(f"({i})", layer) for i, layer in enumerate(self.layers)])


class Branches(Container):
    """Layers side by side, their outputs joined.

    Each reads x; where x is a tuple, each reads its own part of it.

    Parameters
    ----------
    *layers : Layer
        At least one.
    join : {"add", "concatenate", "multiply"}
        "add" and "multiply" take outputs of one shape; "concatenate" joins them along the last axis.
    """

    def __init__(self, *layers: Layer, join: Literal["add", "concatenate", "multiply"] = "add") -> None:
        self.layers = as_layers(layers)
        if join not in ("add", "concatenate", "multiply"):
            raise ValueError(f"join: expected 'add', 'concatenate' or 'multiply', got {join!r}")
        self.join = join

    def children(self) -> Iterator[tuple[str, Parameter | Buffer | Tree]]:
        """Return the layers, named by position."""
        for i, layer in enumerate(self.layers):
            yield str(i), layer

    def branches(self, x: Any) -> list[tuple[Layer | None, Any]]:
        """Return each layer with what it is given; None for a layer that hands it on."""
        if not isinstance(x, tuple):
            return [(layer, x) for layer in self.layers]
        if len(x) != len(self.layers):
            raise ValueError(f"x: expected {len(self.layers)} arrays, one for each branch, got {len(x)}")
        return list(zip(self.layers, x, strict=True))

    def forward(self, x: Any) -> Array:
        return self.join_outputs(
            [given if layer is None else run_layer(layer, given) for layer, given in self.branches(x)]
        )

    def join_outputs(self, outputs: list[Array]) -> Array:
        """Join what the branches returned."""
        shapes = {y.shape if self.join != "concatenate" else y.shape[:-1] for y in outputs}
        if len(shapes) > 1:
            raise ValueError(
                f"{type(self).__name__}: expected outputs of fitting shapes for {self.join!r}, got "
                f"{', '.join(str(y.shape) for y in outputs)}"
            )
        if self.join == "concatenate":
            return np.concatenate(outputs, axis=-1)
        joined = outputs[0]
        for y in outputs[1:]:
            joined = joined + y if self.join == "add" else joined * y
        return joined

    def split_gradient(self, outputs: list[Array], dy: Array) -> list[Array]:
        """Return the gradient of each branch's output from that of the joined one."""
        if self.join == "add":
            return [dy] * len(outputs)
        if self.join == "concatenate":
            ends = np.cumsum([y.shape[-1] for y in outputs])
            return np.split(dy, ends[:-1], axis=-1)
        found = []
        for k in range(len(outputs)):
            gradient = dy
            for other in (*outputs[:k], *outputs[k + 1 :]):
                gradient = gradient * other
            found.append(gradient)
        return found

    def join_changes(self, outputs: list[Array], changes: list[Array | None]) -> Array:
        """Return the change of the joined output from those of the branches, or stacks of them; None: no change."""
        moved = next(change for change in changes if change is not None)
        lead = moved.shape[: moved.ndim - outputs[0].ndim]
        if self.join == "concatenate":
            parts = [
                np.zeros((*lead, *y.shape), moved.dtype) if change is None else change
                for y, change in zip(outputs, changes, strict=True)
            ]
            return np.concatenate(parts, axis=-1)
        if self.join == "add":
            total: Any = 0
            for change in changes:
                total = total if change is None else total + change
            return total  # type: ignore[no-any-return]
        # a product moves, factor after factor: (p + dp) (y + d) - p y = dp (y + d) + p d
        product, moved_by = np.ones_like(outputs[0]), np.zeros((*lead, *outputs[0].shape), moved.dtype)
        for y, change in zip(outputs, changes, strict=True):
            moved_by = moved_by * y if change is None else moved_by * (y + change) + product * change
            product = product * y
        return moved_by

    def _layers(self) -> Sequence[Layer]:
        return self.layers

    def __repr__(self) -> str:
        return _nested(
            type(self).__name__, [(f"({i})", layer) for i, layer in enumerate(self.layers)], f"join={self.join!r}"
        )


class Residual(Branches):
    """y = x + inner(x): a shortcut around a layer (He et al. 2016). The output of `inner` has the shape of x.

    Parameters
    ----------
    inner : Layer
        Or several, one after another.
    """

    def __init__(self, *inner: Layer) -> None:
        super().__init__(*inner)
        self.inner: Layer = inner[0] if len(inner) == 1 else Sequential(*inner)
        self.layers = (self.inner,)

    def children(self) -> Iterator[tuple[str, Parameter | Buffer | Tree]]:
        """Return the inner layer."""
        yield "inner", self.inner

    def branches(self, x: Any) -> list[tuple[Layer | None, Any]]:
        """Return the shortcut and the inner layer, each with x."""
        return [(None, x), (self.inner, x)]

    def __repr__(self) -> str:
        return _nested("Residual", [("(inner)", self.inner)])


class Joint(Layer):
    """What a change of one branch of a container goes through when the others stand still."""

    couples = "rows"

    def __init__(self, container: Branches, outputs: list[Array], which: int) -> None:
        self.container, self.outputs, self.which = container, outputs, which

    def forward(self, x: Array) -> Array:
        return self.container.join_outputs([*self.outputs[: self.which], x, *self.outputs[self.which + 1 :]])

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        changes = [dx if k == self.which else None for k in range(len(self.outputs))]
        return self.container.join_changes(self.outputs, changes)


def _nested(name: str, parts: list[tuple[str, Layer]], *options: str) -> str:
    lines = [f"  {title} " + repr(layer).replace("\n", "\n  ") for title, layer in parts]
    return f"{name}(\n" + "\n".join([*lines, *(f"  {option}" for option in options)]) + "\n)"
