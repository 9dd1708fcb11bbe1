"""`Backprop`: gradients from the backward passes that were written."""

from __future__ import annotations

import numpy.typing as npt

from nnframe.gradients.chain import as_loss, run_chain
from nnframe.layer import Layer
from nnframe.losses import Loss


class Backprop:
    """Backpropagation: the chain rule from the loss down, through each layer's `backward`.

    Every layer from the lowest one with parameters on, and the loss, must have one.
    """

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

        Raises
        ------
        NotImplementedError
            A layer or the loss has no backward.
        """
        links = run_chain(model, x)
        lowest = next((i for i, link in enumerate(links) if link.parameters), len(links))
        for link in links[lowest:]:
            if not link.layer.has_backward:
                raise NotImplementedError(f"{link} has no backward: write one, or train with CentralDifference()")
        if not loss.has_backward:
            raise NotImplementedError(f"{loss!r} has no backward: write one, or train with CentralDifference()")
        labels = loss.prepare(links[-1].y, t)
        value, dy = loss.forward_backward(links[-1].y, labels)
        for link in links:
            for parameter in link.parameters:
                parameter.grad.fill(0)
        for i in range(len(links) - 1, lowest - 1, -1):
            link = links[i]
            try:
                if i > lowest:
                    dy = link.layer.backward(link.x, link.y, dy)
                else:
                    link.layer.backward_parameters(link.x, link.y, dy)
            except Exception as error:
                error.add_note(f"in the backward pass of {link}")
                raise
        return as_loss(value, loss)

    def __repr__(self) -> str:
        return "Backprop()"
