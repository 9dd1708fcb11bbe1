"""`Backprop`: gradients from backward passes, those that were written and, where one is missing, local differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy.typing as npt

from nnframe._checks import unwrapped
from nnframe.core.backward import backward_through
from nnframe.core.chain import ForwardPass, run_forward
from nnframe.core.layer import Layer
from nnframe.core.local import as_step
from nnframe.core.network import NetworkPass, gradient_in_one_call, gradient_of_chain
from nnframe.core.run import Run
from nnframe.core.structure import Memory
from nnframe.core.summary import evaluations_of
from nnframe.gradients.whole import look_at_the_whole
from nnframe.gradients.work import Measured, warn_of_price
from nnframe.losses.base import Loss, as_labels, value_and_gradient

if TYPE_CHECKING:
    from nnframe.gradients.verify import Verifier


class Backprop:
    """Backpropagation: the chain rule from the loss down, through each layer's `backward`.

    A layer without one is differentiated by itself, by central differences of its `forward` (its `difference`, where it
    has one). Which inputs move which outputs is found out at its first gradient, and those that do not meet are moved
    together: two evaluations for a layer that couples entries alone, 18 for each channel of a 3x3 convolution, at most
    two for each column of its input where it does not mix rows, or for each entry where it does; and the same for
    its parameters. `model.summary()` shows which layers these are. A loss without `backward` is differentiated by each
    entry of the output.

    Parameters
    ----------
    step : float, optional
        Of those differences; eps^(1/3) max(1, |x|), with the eps of float64, if not given. A layer that is constant
        almost everywhere, such as `Step`, needs a step large enough for its inputs to cross its edges.
    verify : bool or int, optional
        Whether to compare each backward that was written, of layers and of the loss, with differences of its forward,
        in float64, on some rows of the mini-batches that come: by `check_gradients` on the first one, at more than a
        hundred entries of each array on the next two, and at a few random ones every 100 gradients, or every so many as
        `verify` says. A layer whose backward is right is marked `verified`; one that is wrong, or becomes so, raises
        GradientError with the table. Gradients are the same bits with and without.
    """

    def __init__(self, step: float | None = None, *, verify: bool | int | None = None) -> None:
        self.step = as_step(step)
        self.memory = Memory()
        self.verifier: Verifier | None = None
        if verify is not None and verify is not False:
            from nnframe.gradients.verify import Verifier  # with the checker, which nobody else needs to train

            self.verifier = Verifier(verify)

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
        t = unwrapped(t)
        passed = self._take(model, loss, x, t)
        if type(passed) is not NetworkPass and (count := self.memory.look_due(model)):
            passed = look_at_the_whole(self, passed, count, lambda one: one._take(model, loss, x, t), written=True)
        if self.verifier is not None:
            self.verifier.look(passed, t, self.step)
        return Measured(passed)

    def _take(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> ForwardPass:
        """Take a gradient, in one call where C knows all layers and the loss; returns the forward pass."""
        found = gradient_in_one_call(model, loss, x, t, self.memory)
        if found is not None:
            return found
        with Run(True, self.memory, self.step, model) as run:
            passed = run_forward(model, x, run)
            if gradient_of_chain(passed, loss, t):
                return passed
            output = passed.output
            passed.loss, passed.labels = loss, as_labels(loss, output, t)
            if not len(output) and loss.reduction != "sum":
                raise ValueError("x: expected at least one row, got none, of which there is no mean")
            passed.value, dy = value_and_gradient(loss, output, passed.labels, self.step)
            for parameter in passed.parameters:
                parameter.grad.fill(0)
            backward_through(passed.links, dy, self.step, input_gradient=False)
            for parameter in passed.parameters:
                if not parameter.trainable:
                    parameter.grad.fill(0)
            if run.opaque:
                self._tell_price(passed)
        return passed

    def _tell_price(self, passed: ForwardPass) -> None:
        """Say what is dear."""
        for link in passed.links:
            if link.traits.own and not link.traits.backward and link.inner:
                found = evaluations_of(link, passed.run)
                inputs = found.inputs * (len(link.y) if found.couples == "batch" else 1)
                warn_of_price(link, inputs + found.parameters, self.memory)

    def __repr__(self) -> str:
        given = [] if self.step is None else [f"step={self.step:g}"]
        if self.verifier is not None:
            given.append(f"verify={self.verifier.verify!r}")
        return f"Backprop({', '.join(given)})"
