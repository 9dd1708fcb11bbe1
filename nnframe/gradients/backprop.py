"""`Backprop`: gradients from backward passes, those that were written and, where one is missing, local differences."""

from __future__ import annotations

import numpy.typing as npt

from nnframe.core.backward import backward_through
from nnframe.core.chain import ForwardPass, run_forward
from nnframe.core.layer import Layer
from nnframe.core.local import as_step
from nnframe.core.protocol import LayerError
from nnframe.core.run import Run
from nnframe.core.structure import Memory
from nnframe.core.summary import evaluations_of
from nnframe.gradients.whole import what_does_not_fit
from nnframe.gradients.work import Measured, warn_of_price
from nnframe.losses.base import Loss, as_labels, value_and_gradient


class Backprop:
    """Backpropagation: the chain rule from the loss down, through each layer's `backward`.

    A layer without one is differentiated by itself, by central differences of its `forward` (its `difference`, where it
    has one). Which inputs move which outputs is found out at its first gradient, and those that do not meet are moved
    together: two evaluations for a layer that keeps entries apart, 18 for each channel of a 3x3 convolution, at most
    two for each column of its input where it keeps rows apart, or for each entry where it does not; and the same for
    its parameters. `model.summary()` shows which layers these are. A loss without `backward` is differentiated by each
    entry of the output.

    Parameters
    ----------
    step : float, optional
        Of those differences; eps^(1/3) max(1, |x|), with the eps of float64, if not given. A layer that is constant
        almost everywhere, such as `Step`, needs a step large enough for its inputs to cross its edges.
    """

    def __init__(self, step: float | None = None) -> None:
        self.step = as_step(step)
        self.memory = Memory()

    def __call__(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> Measured:
        """Return the loss of a mini-batch, and overwrite the gradient of every parameter of the model.

        Parameters
        ----------
        model : Layer
        loss : Loss
        x : array (N, ...), or a tuple of arrays
            Converted to the model's dtype.
        t : array
            Labels, as the loss takes them.

        Returns
        -------
        Measured
            A float that also has the model's output and the forward pass.
        """
        passed, wrong = self._take(model, loss, x, t)
        if wrong:  # something has changed since it was found, or was never what it seemed: all is asked anew
            self.memory.forget()
            passed, wrong = self._take(model, loss, x, t, again=True)
        if wrong:
            raise LayerError(wrong)
        return Measured(passed)

    def _take(
        self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike, again: bool = False
    ) -> tuple[ForwardPass, str]:
        """Take a gradient; returns the forward pass, and what does not fit where the model is looked at as a whole."""
        with Run(True, self.memory, self.step, model) as run:
            passed = run_forward(model, x, run)
            passed.loss, passed.labels = loss, as_labels(loss, passed.output, t)
            if not len(passed.output) and loss.reduction != "sum":
                raise ValueError("x: expected at least one row, got none, of which there is no mean")
            passed.value, dy = value_and_gradient(loss, passed.output, passed.labels, self.step)
            for parameter in passed.parameters:
                parameter.grad.fill(0)
            backward_through(passed.links, dy, self.step, input_gradient=False)
            self._finish(passed)
            count = self.memory.look_due(model)
            if not (count or again):
                return passed, ""
            return passed, what_does_not_fit(passed, self.memory, self.step, count, written=True)

    def _finish(self, passed: ForwardPass) -> None:
        """Set what is not trainable to 0, and say what was dear."""
        for link in passed.links:
            t = link.traits
            if t.own and not t.backward and link.inner:
                found = evaluations_of(link, passed.run)
                inputs = found.inputs * (len(link.y) if found.couples == "batch" else 1)
                warn_of_price(link, inputs + found.parameters, self.memory)
        for parameter in passed.parameters:
            if not parameter.trainable:
                parameter.grad.fill(0)

    def __repr__(self) -> str:
        return "Backprop()" if self.step is None else f"Backprop(step={self.step:g})"
