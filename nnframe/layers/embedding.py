"""The embedding: a table of vectors that ids look up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_count, as_dtype, as_generator
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Parameter
from nnframe.initializers import Normal, initial

if TYPE_CHECKING:
    from nnframe.initializers import Initializer


class Embedding(Layer):
    """y = weight[x]: for each id of x (N, ...) a row of the table, y (N, ..., embedding_dim).

    As ids cannot be moved, it stands at the bottom of a model. A layer of your own that hands ids on to it says
    `takes_integers = True`, so that they reach it as they are.

    Parameters
    ----------
    num_embeddings : int
        How many ids there are: x is in [0, num_embeddings), of any integer dtype.
    embedding_dim : int
        Length of a vector.
    padding_idx : int, optional
        An id whose vector is 0, whatever its row of the table holds: the row starts at 0, and its gradient is 0. A
        negative one counts from the end.
    init : callable
        What the table starts at: `init(shape, rng)`; `nn.Normal(1)` if not given.
    dtype : float32 or float64
    rng : np.random.Generator or int, optional
        Draws the table; an int seeds a new generator, None takes a fresh one.

    Attributes
    ----------
    weight : Parameter (num_embeddings, embedding_dim)

    Raises
    ------
    TypeError, ValueError
        An x that holds no integers, or an id that is out of range.
    """

    couples = "rows"
    takes_integers = True

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        init: Initializer | None = None,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        shape = as_count("num_embeddings", num_embeddings), as_count("embedding_dim", embedding_dim)
        self.padding_idx = None if padding_idx is None else _as_id("padding_idx", padding_idx, shape[0])
        dtype = as_dtype(dtype)
        self.weight = Parameter(initial(init, Normal(1.0), shape, as_generator(rng)), dtype)
        if self.padding_idx is not None:
            self.weight.value[self.padding_idx] = 0

    @property
    def num_embeddings(self) -> int:
        """How many ids there are."""
        return int(self.weight.value.shape[0])

    @property
    def embedding_dim(self) -> int:
        """Length of a vector."""
        return int(self.weight.value.shape[1])

    def forward(self, x: npt.NDArray[Any]) -> Array:
        self._refuse_strange(x)
        y: Array = self.weight.value[x]
        if self.padding_idx is not None:
            y[x == self.padding_idx] = 0
        return y

    def backward(self, x: npt.NDArray[Any], y: Array, dy: Array, saved: object = None) -> Array:
        """Return zeros: ids have no gradient."""
        self.backward_parameters(x, y, dy)
        return np.zeros(x.shape, dy.dtype)

    def backward_parameters(self, x: npt.NDArray[Any], y: Array, dy: Array, *saved: object) -> None:
        """Add each vector's gradient to that of its id; sums are taken in the order of x, in float64."""
        ids, rows = x.reshape(-1), dy.reshape(-1, self.embedding_dim)
        small = self.num_embeddings <= 1 << 16  # 16 bits are sorted by radix
        order = np.argsort(ids.astype(np.uint16) if small else ids, kind="stable")
        if self.padding_idx is not None:
            order = order[ids[order] != self.padding_idx]
        if not len(order):
            return
        ids = ids[order]
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        self.weight.grad[ids[starts]] += np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64)

    def perturb(
        self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: npt.NDArray[Any], y: Array
    ) -> Array:
        """Return `step` in one column, where x has the id of the entry; 0 for the vector of `padding_idx`."""
        ids, columns = np.divmod(indices, self.embedding_dim)
        same = x == ids.reshape(-1, *[1] * x.ndim)  # (S, N, ...)
        if self.padding_idx is not None:
            same[ids == self.padding_idx] = False
        dy = np.zeros((len(indices), *y.shape), y.dtype)
        dy[np.arange(len(indices)), ..., columns] = same * y.dtype.type(step)
        return dy

    def _refuse_strange(self, x: npt.NDArray[Any]) -> None:
        if x.dtype.kind not in "iu":
            raise TypeError(
                f"x: expected ids, an array of integers, got {x.dtype}; a layer that is given ids and hands them to an "
                "Embedding says takes_integers = True"
            )
        if not x.size:
            return
        least, most = int(x.min()), int(x.max())
        if least < 0 or most >= self.num_embeddings:
            found = least if least < 0 else most
            raise ValueError(f"x: expected ids in [0, {self.num_embeddings}), got {found}")

    def __repr__(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}{padding})"


def _as_id(name: str, value: int, count: int) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer or None, got {value!r}")
    if not -count <= value < count:
        raise ValueError(f"{name}: expected an id in [-{count}, {count}), got {value}")
    return int(value) % count
