"""`CentralDifference`: the weight-by-weight central difference of a model, from forward passes alone.

Differences are propagated, not values (see docs/derivations/differences.md): the model runs once, and what a moved
weight changes travels upwards through each layer's `difference`. Three ways lead to the same numbers:

    in C        a linear layer with built-in layers above it: `fused.py`
    half in C   the same, with custom elementwise layers directly above it: they see all its columns at once
    in stacks   anything else: `perturb`, then `difference` of each layer above, for many entries at a time
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.gradients.chain import Link, as_loss, run_chain, run_loss
from nnframe.gradients.fused import fused_suffix, linear_gradient
from nnframe.layer import Array, Layer, Parameter, run_layer
from nnframe.layers import Linear
from nnframe.losses import Loss

STACK_BYTES = 1 << 25  # of the widest array in a stack of perturbations


class CentralDifference:
    """(L(w + h) - L(w - h)) / 2h for every entry w of every parameter, made fast by the structure of the network.

    Works with every layer and every loss: a custom one needs `forward` only.

    Parameters
    ----------
    step : float, optional
        h, the same for every entry; 1e-5 if not given. As differences are propagated without cancellation, a small step
        costs no digits, in float32 either. Layers without a `difference` are evaluated in float64. A layer that is
        constant almost everywhere, such as `Step`, needs a step large enough for its inputs to cross its edges.

    Notes
    -----
    The error against the true gradient is h^2/6 times the third derivative, plus rounding. The same bits come
    with any number of threads. The model is never changed while it runs, so that an interrupt leaves it as it was.
    """

    def __init__(self, step: float | None = None) -> None:
        if step is not None and not (isinstance(step, int | float | np.number) and 0 < step < math.inf):
            raise ValueError(f"step: expected a finite number above 0, got {step!r}")
        self.step = 1e-5 if step is None else float(step)

    def __call__(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> float:
        """Return the loss of a mini-batch, and overwrite the gradient of every parameter of the model.

        Parameters
        ----------
        model : Layer
        loss : Loss
        x : array (N, ...)
            Converted to the model's dtype.
        t : array
            Labels, as the loss takes them.
        """
        links = run_chain(model, x)
        value, labels = run_loss(loss, links[-1].y, t)
        places: dict[int, list[int]] = {}
        for i, link in enumerate(links):
            for parameter in link.parameters:
                places.setdefault(id(parameter), []).append(i)
        gradients: list[tuple[Parameter, Array]] = []
        for i, link in enumerate(links):
            own = [p for p in link.parameters if places[id(p)][0] == i]
            shared = [p for p in own if len(places[id(p)]) > 1]
            gradients += [(p, self._by_definition(p, links[i:], loss, labels)) for p in shared]
            alone = [p for p in own if len(places[id(p)]) == 1]
            gradients += self._of_layer(link, alone, links[i + 1 :], loss, labels)
        for parameter, gradient in gradients:
            parameter.grad[...] = gradient
        return value

    def _of_layer(
        self,
        link: Link,
        parameters: list[Parameter],
        above: list[Link],
        loss: Loss,
        labels: npt.NDArray[Any],
    ) -> list[tuple[Parameter, Array]]:
        """Gradients of parameters that belong to this layer alone."""
        layer = link.layer
        if type(layer) is Linear and layer.weight in parameters and link.x.ndim == 2:
            suffix = fused_suffix(link, above, loss, labels)
            if suffix is not None:
                gradients = linear_gradient(link, suffix, self.step)
                return [(p, gradients[id(p)]) for p in parameters]
        return [(p, self._in_stacks(p, link, above, loss, labels)) for p in parameters]

    def _in_stacks(
        self, parameter: Parameter, link: Link, above: list[Link], loss: Loss, labels: npt.NDArray[Any]
    ) -> Array:
        """Gradient of one parameter by perturbing many entries at a time and letting each layer above answer."""
        widest = max(one.y.size for one in (link, *above))
        many = max(1, STACK_BYTES // (8 * widest))
        gradient = np.empty(parameter.value.size)
        for first in range(0, len(gradient), many):
            indices = np.arange(first, min(first + many, len(gradient)))
            change = np.zeros(len(indices))
            for sign in (1, -1):
                dy = link.layer.perturb(parameter, indices, sign * self.step, link.x, link.y)
                for one in above:
                    dy = one.layer.difference(one.x, one.y, dy.astype(one.x.dtype, copy=False))
                change = change + sign * loss.difference((above or [link])[-1].y, labels, dy)
            gradient[indices] = change / (2 * self.step)
        return gradient.reshape(parameter.value.shape)

    def _by_definition(self, parameter: Parameter, links: list[Link], loss: Loss, labels: npt.NDArray[Any]) -> Array:
        """Gradient of a parameter that several layers share, by running all of them again, in float64."""
        memo: dict[int, object] = {}
        twins = [link.layer.astype(np.float64, memo) for link in links]
        moved = memo[id(parameter)]
        assert isinstance(moved, Parameter)
        value = moved.value.reshape(-1)
        start = links[0].x.astype(np.float64)

        def run() -> float:
            y: Array = start
            for link, twin in zip(links, twins, strict=True):
                y = run_layer(twin, y, link.name)
            return as_loss(loss.forward(y, labels), loss)

        gradient = np.empty(value.size)
        for i, saved in enumerate(value.copy()):
            value[i] = saved + self.step
            upper = run()
            value[i] = saved - self.step
            gradient[i] = (upper - run()) / ((saved + self.step) - (saved - self.step))
            value[i] = saved
        return gradient.reshape(parameter.value.shape)

    def __repr__(self) -> str:
        return f"CentralDifference(step={self.step:g})"
