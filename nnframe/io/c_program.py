"""A C program while it grows: its arrays, its memory, its steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.io.c_functions import ACTIVATIONS, FUNCTIONS, MACROS

PER_LINE = 8


@dataclass(eq=False)
class Block:
    """What one step left: where it is, the shape of one row, and how many steps are still to read it.

    offset : its place in the memory of the program; None: the input, which is not written to
    """

    offset: int | None
    shape: tuple[int, ...]
    uses: int = 1

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return "x" if self.offset is None else f"work + {self.offset}" if self.offset else "work"


class Program:
    """Steps of a forward pass for one row.

    Blocks are taken where no block lies that is still to be read, the first place that is large enough.
    """

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.needs: set[str] = set()  # names of functions
        self.arrays: dict[str, str] = {}  # text of each, by name
        self.parameters = 0
        self.memory = 0
        self._live: list[Block] = []
        self._names: dict[str, str] = {}  # of arrays in C, by the names that they were given

    def take(self, shape: Iterable[int]) -> Block:
        """Return a new block of memory."""
        block = Block(0, tuple(int(n) for n in shape))
        for other in sorted(self._live, key=lambda one: one.offset or 0):
            assert other.offset is not None
            assert block.offset is not None
            if block.offset + block.size <= other.offset:
                break
            block.offset = max(block.offset, other.offset + other.size)
        assert block.offset is not None
        self._live.append(block)
        self.memory = max(self.memory, block.offset + block.size)
        return block

    def release(self, block: Block) -> None:
        """Note that one of those that were to read a block has done so."""
        block.uses -= 1
        if not block.uses and block.offset is not None:
            self._live.remove(block)

    def writable(self, block: Block) -> Block:
        """Return a block of the same numbers that may be overwritten: itself, if nobody else is to read it."""
        if block.offset is not None and block.uses == 1:
            return block
        copy = self.take(block.shape)
        self.step(f"for (int i = 0; i < {block.size}; i++) ({copy})[i] = ({block})[i];")
        self.release(block)
        return copy

    def reshaped(self, block: Block, shape: tuple[int, ...]) -> Block:
        """Return a block of the same numbers in another shape, for the same reader."""
        if block.offset is None:
            return Block(None, shape)
        if shape != block.shape:
            block = self.writable(block)
            block.shape = shape
        return block

    def step(self, text: str) -> None:
        """Add a statement."""
        self.steps.append(text)

    def call(self, function: str, *arguments: object) -> None:
        """Add a call of one of FUNCTIONS."""
        self.needs.add(function)
        self.step(f"{function}({', '.join(map(str, arguments))});")

    def array(self, name: str, values: npt.ArrayLike) -> str:
        """Add an array of float, or of int, once for each name; ValueError where a value is not finite."""
        if name not in self._names:
            made = "a_" + "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
            while made in self.arrays:
                made += "_"
            self._names[name] = made
            self.arrays[made] = self._declared(made, np.asarray(values).reshape(-1))
        return self._names[name]

    def _declared(self, name: str, flat: npt.NDArray[Any]) -> str:
        if not np.isfinite(flat.astype(np.float32)).all():
            raise ValueError(f"{name}: expected finite numbers in float32")
        words = [str(v) for v in flat] if flat.dtype.kind == "i" else [number(v) for v in flat]
        lines = [", ".join(words[i : i + PER_LINE]) for i in range(0, len(words), PER_LINE)]
        kind = "int" if flat.dtype.kind == "i" else "float"
        self.parameters += len(words)
        return f"static const {kind} {name}[{len(words)}] = {{\n    " + ",\n    ".join(lines) + "};\n"

    def text(self, name: str, x: Block, y: Block, about: str) -> str:
        """Return the program, its function called `name`_forward."""
        result = f"for (int i = 0; i < {y.size}; i++) y[i] = ({y})[i];"
        functions = [text for function, text in FUNCTIONS.items() if function in self.needs]
        memory = f"static float work[{self.memory}];\n" if self.memory else ""
        body = "\n    ".join([*self.steps, result])
        return "\n".join(
            [
                f"/* {about}\n   Constants: {4 * self.parameters} bytes. Memory: {4 * self.memory} bytes. */\n",
                "#include <math.h>\n",
                f"#define {name.upper()}_INPUTS {x.size}\n#define {name.upper()}_OUTPUTS {y.size}\n",
                MACROS,
                *self.arrays.values(),
                memory,
                *functions,
                f"/* One row: x of shape {x.shape}, y of shape {y.shape}, in C order; one call at a time */",
                f"void {name}_forward(const float x[{x.size}], float y[{y.size}]);\n",
                f"void {name}_forward(const float x[{x.size}], float y[{y.size}])\n{{\n    {body}\n}}\n",
            ]
        )


def number(value: float) -> str:
    """Return a float of C: nine digits give a float32 back."""
    text = f"{np.float32(value):.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


def activation(name: str, alpha: float = 0.0) -> str:
    """Return the expression of an activation of v."""
    return ACTIVATIONS[name].replace("a * ", f"{number(alpha)} * ")
