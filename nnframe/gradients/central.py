"""`CentralDifference`: the weight-by-weight central difference of a model, from forward passes alone.

Differences are propagated, not values (see docs/derivations/differences.md): the model runs once, and what a moved
weight changes travels upwards through each layer's `difference`. The work is cut into pieces, each with gradients that
can be had for some units at a time:

    FusedLinear    a linear layer with built-in layers above it, in C; between the two may be custom elementwise layers
    StackedCurves  a linear layer with other rowwise layers above it
    StackedEntries any other parameter: `perturb`, then `difference` of each layer above, for many entries at a time
    SharedEntries  a parameter that several layers hold: by running all of them again
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.core.chain import Link
from nnframe.core.layer import Layer, Parameter
from nnframe.gradients.in_c import FusedLinear, above_in_c, describe_loss
from nnframe.gradients.local import as_step
from nnframe.gradients.selection import Blocks, Mask, Only, choose
from nnframe.gradients.work import (
    Cost,
    Piece,
    PiecewiseStrategy,
    SharedEntries,
    StackedCurves,
    StackedEntries,
    curves_pay,
)
from nnframe.layers import Linear
from nnframe.losses import Loss


class CentralDifference(PiecewiseStrategy):
    """(L(w + h) - L(w - h)) / 2h for every entry w of every parameter, made fast by the structure of the network.

    Works with every layer and every loss: a custom one needs `forward` only.

    Parameters
    ----------
    step : float, optional
        h, the same for every entry; 1e-5 if not given. As differences are propagated without cancellation, a small step
        costs no digits, in float32 either. Layers without a `difference` are evaluated in float64. A layer that is
        constant almost everywhere, such as `Step`, needs a step large enough for its inputs to cross its edges.
    interpolate : bool
        Whether the weights of a linear layer may be answered together: all weights into a unit move the loss of a row
        through one number, and that curve is sampled at six places instead of twice for each weight. Where the samples
        do not agree with each other to 3e-11 (float32: 4e-6; 1e-8 below layers without a `difference`) of the unit's
        mean level, as near a kink or with a large step, the weights are taken one by one. False: always one by one.
    only : optional
        Which entries to take, the gradient of all others being 0: a Parameter or its name, several of them, a mapping
        from them to masks (arrays of bool like the parameter), or `Blocks`, another block at each step.

    Notes
    -----
    The error against the true gradient is h^2/6 times the third derivative, plus rounding. The same bits come
    with any number of threads. The model is never changed while it runs, so that an interrupt leaves it as it was.
    Memory: some copies of what the layers read and gave for the mini-batch, and some 50 MB; stacks of perturbations are
    cut into parts of 8 MB.
    """

    def __init__(self, step: float | None = None, *, interpolate: bool = True, only: Only | None = None) -> None:
        self.step = as_step(step) or 1e-5
        self.interpolate = bool(interpolate)
        self.only = list(only) if isinstance(only, Iterator) else only

    def cost(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> Cost:
        """Return what a call with these arguments costs, before it is paid.

        The time is estimated from running a sample of each layer's units, some hundredths of a second of each.
        """
        if not isinstance(self.only, Blocks):
            return super().cost(model, loss, x, t)
        twin = copy.copy(self)
        twin.only = copy.deepcopy(self.only)  # the next block stays the next one
        return super(CentralDifference, twin).cost(model, loss, x, t)

    def pieces(self, model: Layer, links: list[Link], loss: Loss, labels: npt.NDArray[Any]) -> list[Piece]:
        """Return what there is to do for a mini-batch that has run through the model."""
        masks = choose(self.only, model)
        in_c = describe_loss(links[-1].y, loss, labels)
        places: dict[int, list[int]] = {}
        for i, link in enumerate(links):
            for parameter in link.parameters:
                places.setdefault(id(parameter), []).append(i)
        pieces: list[Piece] = []
        for i, link in enumerate(links):
            asked = [p for p in link.parameters if masks is None or masks[id(p)].any()]
            shared = [p for p in asked if len(places[id(p)]) > 1]
            pieces += [
                SharedEntries(p, links[i:], loss, labels, self.step, _wanted(p, masks))
                for p in shared
                if places[id(p)][0] == i
            ]
            above = links[i + 1 :]
            whole = None if shared or not asked else self._of_linear(link, above, loss, labels, masks, in_c)
            if whole is not None:
                pieces.append(whole)
            else:
                pieces += [
                    StackedEntries(p, link, above, loss, labels, self.step, _wanted(p, masks))
                    for p in asked
                    if p not in shared
                ]
        return pieces

    def _of_linear(
        self,
        link: Link,
        above: list[Link],
        loss: Loss,
        labels: npt.NDArray[Any],
        masks: dict[int, Mask] | None,
        described: dict[str, Any] | None,
    ) -> Piece | None:
        """Return the piece for all parameters of a linear layer together; None where there is no such way."""
        layer = link.layer
        if type(layer) is not Linear or link.x.ndim != 2:
            return None
        in_c = above_in_c(link, above, described)
        if in_c is not None:
            wanted = None
            if masks is not None:
                bias = np.zeros(layer.out_features, bool) if layer.bias is None else masks[id(layer.bias)]
                wanted = np.concatenate([masks[id(layer.weight)], bias[:, None]], axis=1)
            return FusedLinear(link, in_c, self.step, wanted, self.interpolate)
        rowwise = all(one.layer.rowwise or one.layer.elementwise for one in above)
        if self.interpolate and masks is None and loss.is_sum_over_rows and rowwise and curves_pay(link.x):
            return StackedCurves(link, above, loss, labels, self.step)
        return None

    def __repr__(self) -> str:
        parts = [f"step={self.step:g}"]
        if not self.interpolate:
            parts.append("interpolate=False")
        if self.only is not None:
            parts.append(f"only={self.only!r}")
        return f"CentralDifference({', '.join(parts)})"


def _wanted(parameter: Parameter, masks: dict[int, Mask] | None) -> npt.NDArray[np.intp]:
    """Flat indices of the entries that are asked for."""
    return np.arange(parameter.value.size) if masks is None else np.flatnonzero(masks[id(parameter)])
