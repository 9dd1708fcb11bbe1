"""A graph of ONNX while it grows, and what flows through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.core.layer import Layer
from nnframe.core.parameter import Buffer, Parameter

OPSET = 18


@dataclass(frozen=True)
class Value:
    """What flows from node to node: its name, and what it is for an input of two rows of zeros."""

    name: str
    example: npt.NDArray[Any]


class Graph:
    """Nodes and arrays of the graph of a model, named as in its `state_dict`; all in float32.

    Arrays of the model stand in it under their names, in their layouts: what ONNX has in another order is put into it
    by nodes, which runtimes run once, when they load the model.
    """

    def __init__(self, model: Layer) -> None:
        self.model = model
        self.nodes: list[Any] = []
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self._names = {id(held): name for name, held in (*model.named_parameters(), *model.named_buffers())}

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        return self.node_of(op, inputs, 1, **attributes)[0]

    def node_of(self, op: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node of several outputs."""
        from onnx import helper

        names = [f"t{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add an array that is no part of the state, unless it is there."""
        array = np.asarray(value, dtype)
        for name, known in self.arrays.items():
            same = known.dtype == array.dtype and known.shape == array.shape and np.array_equal(known, array)
            if name[:1] == "c" and name[1:].isdigit() and same:
                return name
        name = f"c{len(self.arrays)}"
        self.arrays[name] = array
        return name

    def whole(self, values: int | Sequence[int]) -> str:
        """Add whole numbers, such as a shape or axes."""
        return self.constant(values, np.int64)

    def held(self, held: Parameter | Buffer) -> str:
        """Add an array of the model, under its name."""
        name = self._names[id(held)]
        self.arrays[name] = held.value.astype(np.float32)
        return name

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        """Add a node that gives rows another shape: -1 or 0 stands for their number."""
        return self.node("Reshape", name, self.whole(list(shape)))
