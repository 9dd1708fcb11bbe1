"""How layers are run: in which mode, for which rows, at which step of differences, and what is seen of it.

What differs from run to run (training or evaluation, the rows of the mini-batch that an array holds, the step of local
differences, what has been found about layers) is kept per thread for as long as the run lasts, so that `forward(x)`
needs no further argument and nothing is left switched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import unwrapped
from nnframe.core.parameter import Array
from nnframe.core.protocol import LayerError, named
from nnframe.core.tree import Survey, common_dtype, survey

if TYPE_CHECKING:
    from nnframe.core.chain import Frame
    from nnframe.core.layer import Layer
    from nnframe.core.structure import Memory


class Run:
    """One run of a model; a context manager.

    Parameters
    ----------
    training : bool
        The mode that layers see as `self.training`.
    memory : Memory, optional
        What has been found about layers; a strategy keeps one. None: layers are not looked at.
    step : float, optional
        Of local differences; None: chosen by the size of what is moved.
    root : Tree, optional
        What is run: messages name layers by their path in it.
    """

    rows: npt.NDArray[np.intp] | None = None  # of the mini-batch, that x holds now; None: all, in their order
    frame: Frame | None = None  # calls of layers inside the layer that runs now; None: not recorded
    dtype: np.dtype[np.floating] | None = None  # of what layers hand on to each other
    survey: Survey  # of the model, from this run
    kept: dict[Any, Any] | None = None  # what is computed once per run: private copies of layers, their outputs
    own = False  # whether a layer has been run that was written outside nnframe
    opaque = False  # and one whose inner layers are not seen as a chain
    previous: Run | None = None

    def __init__(
        self, training: bool, memory: Memory | None = None, step: float | None = None, root: Layer | None = None
    ) -> None:
        self.training = training
        self.memory = memory
        self.step = step
        self.root = root

    def __enter__(self) -> Run:
        self.previous = getattr(_here, "run", None)
        _here.run = self
        return self

    def __exit__(self, *_: object) -> None:
        _here.run = self.previous
        self.previous = None

    def copy_of(self, layer: Layer, dtype: npt.DTypeLike) -> tuple[Layer, dict[int, Any]]:
        """Return a private copy of a layer in a dtype, one per run, and its arrays by the `id` of the originals."""
        memo: dict[int, Any]
        copy, memo, _ = self.once((id(layer), np.dtype(dtype)), lambda: _copied(layer, dtype))
        return copy, memo

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` returns, made once per run for each key."""
        if self.kept is None:
            self.kept = {}
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def evaluate(self, layer: Layer, x: Any, rows: npt.NDArray[np.intp] | None = None) -> npt.NDArray[Any]:
        """Return layer.forward(x), not recorded and as it comes; x may not be written to. rows: which ones x holds."""
        before = self.rows, self.frame
        self.rows, self.frame = self.rows if rows is None else rows, None
        try:
            return layer.forward(read_only(x))
        finally:
            self.rows, self.frame = before


def _copied(layer: Layer, dtype: npt.DTypeLike) -> tuple[Layer, dict[int, Any], Layer]:
    memo: dict[int, Any] = {}
    return layer.astype(dtype, memo), memo, layer  # the original stays alive, and with it its id


_here = threading.local()  # .run: that of this thread


def current_run() -> Run | None:
    """Return the run of this thread; None outside of one."""
    return getattr(_here, "run", None)


# ---- what goes in and comes out ----


def read_only(x: Any) -> Any:
    """`x`, or the arrays of a tuple, as views that cannot be written to."""
    if isinstance(x, tuple):
        return tuple(read_only(one) for one in x)
    if not x.flags.writeable:
        return x
    view = x.view()
    view.setflags(write=False)
    return view


def as_input(x: npt.ArrayLike, dtype: np.dtype[np.floating], name: str = "x") -> Array:
    """`x` as an array of `dtype`, converted where that loses no meaning: from any real number type."""
    array = np.asarray(unwrapped(x))
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{name}: expected at least one axis, the rows of a mini-batch, got a single number")
    converted: Array = array.astype(dtype, copy=False)
    if array.dtype.kind in "iu" and array.dtype.itemsize >= dtype.itemsize and (converted != array).any():
        lost = array[converted != array].reshape(-1)[0]
        raise ValueError(
            f"{name}: expected integers that {dtype} holds exactly, got {lost}; a layer that takes ids says so: "
            "takes_integers = True"
        )
    return converted


def at_the_door(layer: Layer, x: Any, dtype: np.dtype[np.floating] | None = None) -> Any:
    """`x` as a model takes it: in the model's dtype, ids as they are where a layer takes them; each array of a tuple.

    A model without parameters has no dtype of its own: floating-point numbers stay what they are.
    """
    if type(x) is np.ndarray and x.dtype is dtype and x.ndim:
        return x
    if isinstance(x, tuple):
        parts = tuple(at_the_door(layer, one, dtype) for one in x)
        if len({len(part) for part in parts}) != 1:
            raise ValueError(f"x: expected arrays of equally many rows, got shapes {[part.shape for part in parts]}")
        return parts
    array = np.asarray(unwrapped(x))
    if array.dtype.kind in "iu" and layer.takes_integers:
        return array if array.ndim else as_input(array, np.dtype(np.float32))
    if dtype is None:
        parameters = survey(layer).of(layer)
        own = array.dtype.kind == "f" and array.dtype.itemsize in (4, 8)
        dtype = common_dtype(layer, parameters) if parameters or not own else array.dtype.newbyteorder("=")
    return as_input(array, dtype)


def rows_of(x: Any) -> int:
    """How many rows a mini-batch has, an array or a tuple of them."""
    return len(x[0]) if isinstance(x, tuple) else len(x)


def dtype_of(x: Any, layer: Layer) -> np.dtype[np.floating]:
    """Return the dtype that a layer's output has for this input."""
    first = x[0] if isinstance(x, tuple) else x
    return first.dtype if first.dtype.kind == "f" else layer.dtype


def run_layer(layer: Layer, x: Any) -> Array:
    """Run layer.forward(x), its output checked and brought to the dtype of x; errors say in which layer they arose."""
    try:
        if layer._traits.own or "forward" in layer.__dict__:
            return checked_output(layer, x, layer.forward(read_only(x)))
        y = layer.forward(x)
        return y if type(x) is np.ndarray and y.dtype is x.dtype else checked_output(layer, x, y)
    except Exception as error:
        raise noted(error, layer)  # noqa: B904 - the same error, but for a layer that writes into x


def checked_output(layer: Layer, x: Any, y: Any) -> Array:
    """`y` brought to the dtype of x; TypeError or ValueError where it is no output of a layer."""
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "fiub":
        came = f"an array of {y.dtype}" if isinstance(y, np.ndarray) else type(y).__name__
        raise TypeError(f"forward: expected an array of real numbers, got {came}")
    if type(y) is not np.ndarray:
        y = np.asarray(y)  # of a derived class, such as np.matrix, whose operators mean other things
    if y.ndim == 0 or len(y) != rows_of(x):
        hint = ""
        if not isinstance(x, tuple) and x.ndim == 1:
            hint = f"; its input has one axis, shape {x.shape}: a single row is x[None]"
        raise ValueError(f"forward: expected an output of {rows_of(x)} rows like its input, got shape {y.shape}{hint}")
    found: Array = y.astype(dtype_of(x, layer), copy=False)
    return found


def noted(error: Exception, layer: Layer, what: str = "forward") -> Exception:
    """Return the error with a note that names the layer by its path, where no layer inside it has been named yet.

    A layer that writes into what it was given has its error replaced by one that says so.
    """
    if hasattr(error, "nnframe_layer"):
        return error
    run = current_run()
    root = run.root if run is not None else None
    if isinstance(error, ValueError) and "read-only" in str(error):
        written = LayerError(
            f"{named(layer, root)}: {what} writes into an array that it was "
            f"given ({error}). A layer changes nothing: compute into a new array, or into a copy"
        )
        written.__cause__ = error
        error = written
    error.nnframe_layer = layer, what  # type: ignore[attr-defined]
    if root is not None:
        name_layer(error, root)
    return error


def name_layer(error: Exception, root: Layer) -> None:
    """Set the note that names the layer in which an error arose, by its path in `root`: the outermost one counts."""
    layer, what = getattr(error, "nnframe_layer", (None, ""))
    if layer is None:
        return
    notes = getattr(error, "__notes__", [])
    others = [note for note in notes if not note.startswith("in the ")]
    if root.path_of(layer) or len(others) == len(notes):
        error.__notes__ = [*others, f"in the {what} pass of {named(layer, root)}"]
