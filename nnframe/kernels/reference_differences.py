"""Central differences of a linear layer in readable NumPy: what difference.inc.h and curves.inc.h in csrc must compute.

One output o of the layer moves in each row; the change travels through the stages above, as a difference and never as a
value, to the loss of that row. S counts changes, N rows. All in float64, whatever the dtype of the arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nnframe.kernels.reference_activations import Floats, activation_difference
from nnframe.kernels.reference_losses import cross_entropy_rows

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

NODES = np.array([1, -1, 0.8, -0.8, 0.5, -0.5])  # parts of the largest change of a row
HAS_DOUBTFUL, HAS_BEND, UNKNOWN = 1, 2, 4


class Above(Protocol):
    """What stands above the layer; see `nnframe.kernels._kernels.Above`."""

    @property
    def outputs(self) -> int: ...
    @property
    def stages(self) -> list[tuple[Any, ...]]: ...
    @property
    def loss(self) -> str: ...
    @property
    def logits(self) -> Floats | None: ...
    @property
    def targets(self) -> Floats | None: ...
    @property
    def residual(self) -> Floats: ...


# ---- what lies between samples ----


class _Shape(NamedTuple):
    """How an activation bends: see csrc/shapes.h."""

    steepest: float
    second: float
    kink: bool = False
    kink_at: float = 0.0


def _shape(name: str, alpha: float, low: float) -> _Shape:
    """Return the shape of an activation whose argument is at least `low`."""
    steepest, left = max(1, abs(alpha)), min(40, max(1, -low))
    return {
        "sigmoid": _Shape(0.25, 0.5),
        "tanh": _Shape(1, 1),
        "relu": _Shape(1, 0, True),
        "step": _Shape(0, 0, True),
        "leaky_relu": _Shape(steepest, 0, True),
        "elu": _Shape(steepest, 0.5, True),
        "gelu": _Shape(1.2, (1 + left) / 2),
        "gelu_tanh": _Shape(1.2, (2 + 1.6 * (1 + 0.13 * left**2)) / 2),
        "silu": _Shape(1.2, 2),
        "softplus": _Shape(1, 0.5),
        "hardswish": _Shape(1.5, 0.7, True, 3),
        "mish": _Shape(1.2, 1),
        "selu": _Shape(1.76, 0.5, True),
        "identity": _Shape(1, 0),
    }[name]


class _Between:
    """Marks rows (N,) whose curve is doubtful whatever its samples say.

    Those in which an argument reaches a kink, or moves so far that a few terms do not say all. `beyond` bounds how far
    changes lie from lines; `growth` is by how much linear layers multiply it.
    """

    def __init__(self, rows: int) -> None:
        self.marks = np.zeros(rows, bool)
        self.beyond, self.growth = 0.0, 1.0

    def look(self, shape: _Shape, x: Doubles | None, d: Doubles) -> None:
        """Look at changes d (S, N, width) of the argument x (N, width) of an activation or the loss."""
        self.beyond, self.growth = self.beyond * self.growth, 1.0
        size = np.abs(d).max(axis=0)
        if shape.kink and x is not None:
            reached = 1.001 * (size + self.beyond)
            self.marks |= (~(reached < np.abs(np.abs(x) - shape.kink_at)) & (reached > 0)).any(axis=1)
        far = size.max(initial=0) + self.beyond
        if shape.second > 0:
            limit = 0.5 / max(1, 2 * shape.second)
            self.marks |= ~(size <= max(0, limit - self.beyond)).all(axis=1)
            self.beyond += 1.5 * shape.second * far**2
            if not far <= limit:
                self.beyond = np.inf
        self.beyond = 0.0 if shape.steepest == 0 else self.beyond * shape.steepest


# ---- from an output to the loss ----


def _loss_of_output(above: Above, o: int, change: Doubles, between: _Between | None = None) -> Doubles:
    """Return the change (S, N) of each row's loss, where output o changes by `change` (S, N).

    between : looks at what comes to the activations and to the loss
    """
    d: Doubles = change[:, :, None]
    where = slice(o, o + 1)  # d holds the changes of these outputs; the others do not change
    for stage in above.stages:
        if len(stage) == 1:
            weight = _wide(stage[0][:, where])
            if between is not None:
                between.growth *= np.abs(weight).sum(axis=1).max(initial=0)
            d, where = d @ weight.T, slice(None)
        else:
            name, alpha, x, y = stage
            if name == "measured":
                slope, reach = _wide(x[:, where]), _wide(y[:, where])
                if between is not None:
                    steepest = float(np.abs(x).max(initial=0))
                    between.look(_Shape(steepest, alpha / steepest if steepest else 0, True), reach, d)
                d = d * slope
                continue
            if between is not None:
                between.look(_shape(name, alpha, float(x.min(initial=0))), _wide(x[:, where]), d)
            d = _wide(activation_difference(name, _wide(x[:, where]), _wide(y[:, where]), d, alpha))
    if between is not None and above.loss == "cross_entropy":
        between.look(_shape("softplus", 0, 0), None, d)
    every = np.zeros((*d.shape[:2], above.residual.shape[1]))
    every[:, :, where] = d
    return change_of_loss(above, every)


def change_of_loss(above: Above, d: Doubles) -> Doubles:
    """Return the change (S, N) of each row's loss, where the output of the last stage changes by d (S, N, width)."""
    if above.loss == "squared_error":  # (y + d - t)^2 - (y - t)^2
        squares: Doubles = (d * (2 * _wide(above.residual) + d)).sum(axis=2)
        return squares
    if above.loss == "linear":
        linear: Doubles = (d * _wide(above.residual)).sum(axis=2)
        return linear
    assert above.logits is not None
    assert above.targets is not None
    return cross_entropy_differences(above.logits, _wide(above.targets), d)


def _wide(x: Floats) -> Doubles:
    return x.astype(np.float64, copy=False)


def cross_entropy_differences(y: Floats, q: Doubles, dy: Floats) -> Doubles:
    """By how much each row of each dy (..., N, C) changes sum_c q_c (log(sum_k exp(y_k)) - y_c), (..., N).

    Seen from the class m with the largest logit, e_k = dy_k - dy_m: sum(q) log1p(sum_k p_k expm1(e_k)) - sum_k q_k e_k.
    As p_m, nearly 1, does not occur, nothing cancels. Changes above 1: one loss minus the other.
    """
    y, dy = _wide(y), _wide(dy)
    lead = y.argmax(axis=1)[:, None]
    with np.errstate(all="ignore"):
        p = np.exp(y - y.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        e = dy - np.take_along_axis(dy, np.broadcast_to(lead, (*dy.shape[:-1], 1)), axis=-1)
        change: Doubles = q.sum(axis=1) * np.log1p(np.einsum("nk,...nk->...n", p, np.expm1(e)))
        change = change - np.einsum("nk,...nk->...n", q, e)
        far = ~(np.abs(dy).max(axis=-1, initial=0) <= 1)
        if far.any():
            row = np.nonzero(far)[-1]
            change[far] = cross_entropy_rows(y[row] + dy[far], q[row]) - cross_entropy_rows(y[row], q[row])
    return change


# ---- the gradient, weight by weight ----


def difference_gradient(
    above: Above,
    x: Floats,
    step: float,
    scale: float,
    grad_weight: Floats,
    grad_bias: Floats | None,
    columns: Floats | None,
    wanted: Flags | None,
    counted: Flags | None,
    units: range,
) -> None:
    """Fill in scale * (L(W[o, i] + step) - L(W[o, i] - step)) / (2 step) for the outputs in `units`; see the border."""
    inputs = x.shape[1]
    read = x if grad_bias is None else np.concatenate([x, np.ones_like(x[:, :1])], axis=1)  # the bias is one more input
    row, entry = np.nonzero(read)
    for o in units:
        moved = np.zeros((2, *read.T.shape))  # by +step and by -step, of each entry in each row
        by_step = np.outer([step, -step], read[row, entry])
        moved[:, entry, row] = by_step if columns is None else columns[:, o]
        up, down = _loss_of_output(above, o, moved[0]), _loss_of_output(above, o, moved[1])
        counts = np.ones(len(x), bool) if counted is None else counted[o]
        gradient = (up - down)[:, counts].sum(axis=1) * (scale / (2 * step))
        if wanted is not None:
            gradient[~wanted[o, : len(gradient)]] = 0
        grad_weight[o] = gradient[:inputs]
        if grad_bias is not None:
            grad_bias[o] = gradient[inputs]


# ---- the curves of the rows ----


def difference_curves(
    above: Above,
    distance: Floats,
    tolerance: float,
    level: Floats,
    bend: Floats,
    doubtful: Flags,
    state: npt.NDArray[np.uint8],
    columns: Floats | None,
    units: Iterable[int],
) -> None:
    """Fill in (phi(t) - phi(-t)) / 2t as level + bend (t / distance)^2 for the outputs in `units`; see the border."""
    far = _wide(distance)
    inverse = np.divide(0.5, far, out=np.zeros_like(far), where=far > 0)
    for o in units:
        moved = np.outer(NODES, far) if columns is None else _wide(columns[o])
        between = _Between(len(far))
        change = _loss_of_output(above, o, moved, between)
        at_all, at_most, at_half = (change[0::2] - change[1::2]) * inverse / NODES[0::2, None]
        bent = (at_all - at_half) / 0.75
        flat = at_all - bent
        off = np.abs(at_most - (flat + 0.64 * bent)) * far
        if tolerance < 0:  # the quotient at the full distance, as it is
            level[o], bend[o], doubtful[o], state[o] = at_all, 0, False, 0
            continue
        most = tolerance * np.abs(flat * far).mean() if len(far) else 0.0
        doubtful[o] = ~(off <= most) | (between.marks & (far > 0))
        flat[doubtful[o]] = bent[doubtful[o]] = 0
        has_bend = bool((np.abs(bent * far) > most).any())
        level[o], bend[o] = (flat, bent) if has_bend else (flat + bent / 2, 0)
        state[o] = HAS_DOUBTFUL * bool(doubtful[o].any()) + HAS_BEND * has_bend
        if state[o] and any(stage[0] == "measured" for stage in above.stages if len(stage) == 4):
            state[o] = UNKNOWN


def selected_products(a: Floats, b: Floats, entries: npt.NDArray[np.intp], out: Floats) -> None:
    """out[e] = (a @ b)[o, i] for entries[e] = o I + i."""
    out[...] = (_wide(a) @ _wide(b)).reshape(-1)[entries]


def sparse_product(
    start: npt.NDArray[np.intp], column: npt.NDArray[np.intp], value: Floats, b: Floats
) -> npt.NDArray[np.float64]:
    """S @ b, where row i of S has value[e] in column[e] for e in [start[i], start[i + 1])."""
    dense = np.zeros((len(start) - 1, len(b)))
    np.add.at(dense, (np.repeat(np.arange(len(dense)), np.diff(start)), column), value)
    return dense @ _wide(b)
