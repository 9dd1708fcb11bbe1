"""`check_gradients`: a backward pass against central differences, entry by entry."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_generator
from nnframe.core.backward import backward_by_differences, backward_of
from nnframe.core.chain import Link, run_forward
from nnframe.core.layer import Layer
from nnframe.core.local import as_step
from nnframe.core.run import Run
from nnframe.core.structure import Memory


class Check(NamedTuple):
    """How one array that a backward pass gave compares with central differences.

    layer, what : names, such as "0: Linear(4, 3)" and "weight"; "x" stands for the layer's input
    error : the largest difference of an entry, over the largest entry
    entry, written, numerical : where that is, and both numbers there
    right : whether the error is within the tolerance
    """

    layer: str
    what: str
    error: float
    entry: tuple[int, ...]
    written: float
    numerical: float
    right: bool

    def __str__(self) -> str:
        words = "right" if self.right else "WRONG"
        return (
            f"{self.layer}, {self.what}: {words}, off by {self.error:.1e} of the largest entry; at {self.entry}: "
            f"written {self.written:.9g}, numerical {self.numerical:.9g}"
        )


def check_gradients(
    model: Layer,
    x: npt.ArrayLike,
    *,
    tolerance: float = 1e-6,
    step: float | None = None,
    rng: np.random.Generator | int | None = 0,
) -> list[Check]:
    """Compare each layer's backward with central differences of its forward, every entry of every array.

    The layers of a `Sequential` are checked one by one, each with what those below it make of x, in float64. A layer
    that passes is marked (`layer.verified`), which `model.summary()` shows. Layers without a backward are passed over.

    Parameters
    ----------
    model : Layer
    x : array (N, ...)
        Rows to check with; at a kink (ReLU at 0) both sides may be right and yet differ.
    tolerance : float
        Largest difference of an entry, over the largest entry of its array.
    step : float, optional
        Of the differences; eps^(1/3) max(1, |x|) if not given.
    rng : np.random.Generator or int, optional
        Draws the gradient that comes from above.

    Returns
    -------
    list of Check
        For each layer its input and its parameters.
    """
    checks: list[Check] = []
    generator = as_generator(rng)
    step = as_step(step)
    memo: dict[int, object] = {}
    double = model.astype(np.float64, memo)
    originals = {id(memo[id(layer)]): layer for _, layer in model.named_trees() if isinstance(layer, Layer)}
    with Run(True, Memory(), step, double) as run:
        for link in run_forward(double, x, run).links:
            if not link.traits.backward:
                continue
            path = double.path_of(link.layer)
            title = f"{path}: {link.layer!r}" if path else repr(link.layer)
            found = _check_layer(title, link, generator.standard_normal(link.y.shape), tolerance, step)
            original = originals.get(id(link.layer))
            if original is not None:
                original.verified = all(check.right for check in found)
            checks += found
    return checks


def _check_layer(
    title: str, link: Link, dy: npt.NDArray[np.floating], tolerance: float, step: float | None
) -> list[Check]:
    parameters = [(name, parameter) for name, parameter in link.layer.named_parameters() if parameter.trainable]
    for _, parameter in parameters:
        parameter.grad.fill(0)
    moves = not isinstance(link.x, tuple) and link.x.dtype.kind == "f"  # ids have no gradient
    dx = backward_of(link, dy, step, moves)
    arrays = {"x": np.asarray(dx)} if moves else {}
    arrays |= {name: parameter.grad.copy() for name, parameter in parameters}
    for _, parameter in parameters:
        parameter.grad.fill(0)
    dx = backward_by_differences(link, dy, step, moves)
    numerical = ({} if dx is None else {"x": dx}) | {name: parameter.grad for name, parameter in parameters}
    return [_compare(title, what, arrays[what], numerical[what], tolerance) for what in arrays]


def _compare(
    title: str, what: str, written: npt.NDArray[np.floating], numerical: npt.NDArray[np.floating], tolerance: float
) -> Check:
    if written.shape != numerical.shape:
        raise ValueError(f"{title}: expected a gradient of shape {numerical.shape} for {what}, got {written.shape}")
    if not written.size:
        return Check(title, what, 0.0, (), 0.0, 0.0, True)
    off = np.abs(written - numerical)
    worst = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
    scale = max(float(np.abs(numerical).max()), float(np.finfo(np.float32).tiny))
    error = float(off.reshape(-1)[worst]) / scale
    entry = tuple(int(i) for i in np.unravel_index(worst, written.shape))
    return Check(title, what, error, entry, float(written[entry]), float(numerical[entry]), error <= tolerance)
