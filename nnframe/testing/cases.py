"""What is checked: how it is made, what it is given, and how a failure is worded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from nnframe.core.layer import Layer
from nnframe.core.protocol import traits
from nnframe.core.run import Run
from nnframe.gradients.check import Report
from nnframe.losses.base import Loss

Numbers = npt.NDArray[Any]
Inputs = Callable[[int, np.random.Generator], Any]

LONGEST_NAME = 100
MODES = (False, True)  # evaluation and training
PURE = (
    "A layer is a pure function of x, its parameters and buffers: compute into new arrays, keep nothing of a call in "
    "self; what backward needs is returned by forward_saving"
)
ROWS = 5  # of the mini-batch: as many as no axis of a usual example has


class Case:
    """Something that is made anew for each check, with its input.

    Parameters
    ----------
    make : callable
        Returns a new layer or loss.
    shape : tuple of int, or tuple of such
        Of one row of the input.
    inputs : callable, optional
        `inputs(rows, rng)` returns an input of so many rows; standard normal numbers if not given.
    seed : int
    """

    def __init__(self, make: Callable[[], Any], shape: Any, inputs: Inputs | None, seed: int) -> None:
        self.make, self.shape, self.inputs, self.seed = make, shape, inputs, seed
        first = self.made()
        words = " ".join(repr(first).split())
        self.name = words if len(words) <= LONGEST_NAME else f"{words[:LONGEST_NAME]}..."

    def made(self) -> Any:
        """Return a new one."""
        raise NotImplementedError(f"{type(self).__name__} makes nothing")

    def rng(self, stream: int = 0) -> np.random.Generator:
        """Return random numbers, the same at each call."""
        return np.random.default_rng((self.seed, stream))

    def numbers(self, rows: int, shape: Any) -> Any:
        """Return an input of so many rows, the same at each call, in float64 or as `inputs` makes it."""
        rng = self.rng(rows)
        if self.inputs is not None:
            found = self.inputs(rows, rng)
            return tuple(map(np.asarray, found)) if isinstance(found, tuple) else np.asarray(found)
        if shape and all(isinstance(one, tuple) for one in shape):
            return tuple(rng.standard_normal((rows, *one)) for one in shape)
        return rng.standard_normal((rows, *shape))


class LayerCase(Case):
    """A layer and its input."""

    def made(self) -> Any:
        layer = self.make()
        if not isinstance(layer, Layer):
            raise TypeError(f"make_layer: expected a callable that returns a Layer, got {type(layer).__name__} from it")
        return layer

    def x(self, layer: Layer, rows: int = ROWS) -> Any:
        """Return an input of the layer, in its dtype."""
        if self.inputs is None and layer.takes_integers:
            found = self.rng(rows).integers(0, _count_of_ids(layer), (rows, *self.shape))
        else:
            found = self.numbers(rows, self.shape)
        return in_dtype(found, layer.dtype)

    def both(self) -> Iterator[tuple[Any, Any]]:
        """Return the layer in float32 and in float64, each with its input: the same numbers for both."""
        layer = self.made()
        x = in_dtype(self.x(layer), np.float32)
        for dtype in (np.float32, np.float64):
            yield layer.astype(dtype), in_dtype(x, dtype)


class LossCase(Case):
    """A loss, the output of a network, and labels."""

    def __init__(
        self, make: Callable[[], Any], shape: Any, inputs: Inputs | None, seed: int, labels: Any = None
    ) -> None:
        self.labels = labels
        self.rows = ROWS
        if labels is not None and not callable(labels):
            self.labels = np.asarray(labels)
            if not self.labels.ndim or len(self.labels) < 2:
                raise ValueError(f"labels: expected those of at least 2 rows, got {labels!r}")
            self.rows = min(ROWS, len(self.labels))
        super().__init__(make, shape, inputs, seed)

    def made(self) -> Any:
        loss = self.make()
        if not isinstance(loss, Loss):
            raise TypeError(f"make_loss: expected a callable that returns a Loss, got {type(loss).__name__} from it")
        return loss

    def y(self, rows: int | None = None, dtype: Any = np.float64) -> Any:
        """Return the output of a network."""
        return in_dtype(self.numbers(self.rows if rows is None else rows, self.shape), dtype)

    def t(self, rows: int | None = None, dtype: Any = np.float64) -> Any:
        """Return labels for it."""
        count = self.rows if rows is None else rows
        if self.labels is None:
            found: Any = self.rng(1000 + count).standard_normal((count, *self.shape))
        elif callable(self.labels):
            found = np.asarray(self.labels(count, self.rng(1000 + count)))
        else:
            found = self.labels[:count]
        return in_dtype(found, dtype)


def _count_of_ids(layer: Layer) -> int:
    sizes = [int(tree.num_embeddings) for _, tree in layer.named_trees() if hasattr(tree, "num_embeddings")]
    return min(sizes, default=2)


# ---- arrays, alone or several in a tuple ----


def each(function: Callable[[Numbers], Any], x: Any) -> Any:
    """Return function(x), or that of each array in a tuple."""
    return tuple(map(function, x)) if isinstance(x, tuple) else function(x)


def in_dtype(x: Any, dtype: Any) -> Any:
    """Return a copy in a dtype; integers stay what they are."""
    return each(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a.copy(), x)


def rows_of(x: Any, rows: Any) -> Any:
    """Return some rows, copied."""
    return each(lambda a: a[rows].copy(), x)


def layouts(a: Numbers) -> Iterator[tuple[str, Numbers]]:
    """Return the same numbers as NumPy may hold them."""
    yield "in Fortran order", np.asfortranarray(a)
    if a.ndim and a.shape[-1]:
        wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
        wide[..., ::2] = a
        yield "not contiguous (every second entry of a larger array)", wide[..., ::2]
        yield "of negative strides", a[..., ::-1].copy()[..., ::-1]
        yield "of negative strides over the rows", a[::-1].copy()[::-1]
    fixed = a.copy()
    fixed.flags.writeable = False
    yield "read-only", fixed
    buffer = np.zeros(a.nbytes + 1, np.uint8)
    misaligned = buffer[1:].view(a.dtype).reshape(a.shape)
    misaligned[...] = a
    yield "misaligned", misaligned


# ---- passes ----


def forward(layer: Any, x: Any, training: bool = True, rows: Numbers | None = None) -> Any:
    """Return layer.forward(x) as it comes; rows: which ones of the mini-batch x holds."""
    with Run(training, root=layer) as run:
        run.rows = rows
        return layer.forward(x)


def backward(layer: Any, x: Any, y: Any, dy: Any, training: bool = True) -> tuple[Any, dict[str, Numbers]]:
    """Return what the layer's backward returns, and the gradient of each parameter."""
    for parameter in layer.parameters():
        parameter.grad.fill(0)
    with Run(training, root=layer):
        if traits(layer).forward_saving:
            saved = layer.forward_saving(x)[1]
            dx = layer.backward(x, y, dy, saved)
        else:
            dx = layer.backward(x, y, dy)
    given, found = (one if isinstance(one, tuple) else (one,) for one in (x, dx))
    arrays = sum(isinstance(one, np.ndarray) for one in found)
    if len(found) != len(given) or arrays < sum(one.dtype.kind == "f" for one in given):
        came = ", ".join(type(one).__name__ for one in found)
        fail("backward", f"the gradient of x, {len(given)} in all", came, "Is `return` missing?")
    return dx, {name: parameter.grad.copy() for name, parameter in layer.named_parameters()}


def mode(training: bool) -> str:
    """Words for a mode."""
    return "in training mode" if training else "in evaluation mode"


# ---- failures ----


def fail(what: str, expected: str, came: str, cure: str) -> NoReturn:
    """Raise AssertionError: what was looked at, what was expected, what came, and what helps."""
    raise AssertionError(f"{what}: expected {expected}, got {came}. {cure}")


def refuse_wrong(what: str, report: Report) -> None:
    """Fail where something is wrong in a report of `check_gradients`, which ends in the cause."""
    if not report:
        raise AssertionError(f"{what}: expected what central differences give, got\n{report}")


def same(what: str, actual: Any, expected: Numbers, bound: float, cure: str) -> None:
    """Fail unless `actual` is an array within `bound` of `expected`, NaN and infinity included."""
    if not isinstance(actual, np.ndarray):
        fail(what, f"an array of shape {expected.shape}", type(actual).__name__, cure)
    if actual.shape != expected.shape:
        fail(what, f"shape {expected.shape}", f"{actual.shape}", cure)
    with np.errstate(invalid="ignore"):
        near = (np.abs(actual - expected) <= bound) if actual.dtype.kind == "f" else np.zeros(actual.shape, bool)
        near |= (actual == expected) | ((actual != actual) & (expected != expected))
    if not near.all():
        at = np.unravel_index(int(np.argmin(near)), near.shape)
        where = f" at [{', '.join(map(str, at))}]" if at else ""
        fail(f"{what}{where}", f"{expected[at]:.9g} (within {bound:.1g})", f"{actual[at]:.9g}", cure)


def rounding(*arrays: Any) -> float:
    """How much the order of sums may change numbers of these sizes and dtypes."""
    floats = [a for a in arrays if a.dtype.kind == "f"]
    eps = max((float(np.finfo(a.dtype).eps) for a in floats), default=0.0)
    return 64 * eps * size(*arrays)


def size(*arrays: Any) -> float:
    """Return the largest absolute value."""
    return max((float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in arrays), default=0.0)


def state_unchanged(layer: Layer, state: dict[str, Numbers], what: str) -> None:
    """Fail where a parameter or buffer is no longer what it was."""
    now = layer.state_dict()
    changed = [
        name
        for name in state.keys() | now.keys()
        if name not in now
        or name not in state
        or not np.array_equal(now[name], state[name], equal_nan=state[name].dtype.kind == "f")
    ]
    if changed:
        fail(f"{', '.join(sorted(changed))} after {what}", "no change", "another value", PURE)
