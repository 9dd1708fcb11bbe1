"""`Backprop`: gradients from backward passes, those that were written and, where one is missing, local differences."""

from __future__ import annotations

import numpy.typing as npt

from nnframe.core.chain import Link, as_loss, run_chain
from nnframe.core.layer import Array, Layer
from nnframe.gradients import local
from nnframe.losses import Loss


class Backprop:
    """Backpropagation: the chain rule from the loss down, through each layer's `backward`.

    A layer without one is differentiated by itself, by central differences of its `forward` (its `difference`, where it
    has one): two evaluations for an elementwise layer, two for each column of its input for a rowwise one, two for each
    entry of its input for any other, and two for each entry of its parameters. `model.summary()` shows which layers
    these are. A loss without `backward` is differentiated by each entry of the output.

    Parameters
    ----------
    step : float, optional
        Of those differences; eps^(1/3) max(1, |x|), with the eps of float64, if not given. A layer that is constant
        almost everywhere, such as `Step`, needs a step large enough for its inputs to cross its edges.

    Attributes
    ----------
    output : array
        What the model gave in the last call.
    """

    output: Array | None = None

    def __init__(self, step: float | None = None) -> None:
        self.step = local.as_step(step)

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
        lowest = next((i for i, link in enumerate(links) if link.parameters), len(links))
        self.output = y = links[-1].y
        labels = loss.prepare(y, t)
        if loss.has_backward:
            value, dy = loss.forward_backward(y, labels)
        else:
            value, dy = loss.forward(y, labels), local.loss_gradient(loss, y, labels, self.step)
        for link in links:
            for parameter in link.parameters:
                parameter.grad.fill(0)
        for i in range(len(links) - 1, lowest - 1, -1):
            try:
                dy = self._through(links[i], dy, i == lowest)
            except Exception as error:
                error.add_note(f"in the backward pass of {links[i]}")
                raise
        return as_loss(value, loss)

    def _through(self, link: Link, dy: Array, lowest: bool) -> Array:
        """Gradient below a layer; the lowest one need not have it."""
        layer = link.layer
        if not layer.has_backward:
            below = local.backward(layer, link.x, link.y, dy, self.step, input_gradient=not lowest)
            return dy if below is None else below
        if lowest:
            layer.backward_parameters(link.x, link.y, dy)
            return dy
        return layer.backward(link.x, link.y, dy)

    def __repr__(self) -> str:
        return "Backprop()" if self.step is None else f"Backprop(step={self.step:g})"
