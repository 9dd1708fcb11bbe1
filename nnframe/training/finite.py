"""Where numbers stop being finite: which layer, which parameter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnframe import kernels
from nnframe.core.chain import ForwardPass
from nnframe.core.tree import path_of

if TYPE_CHECKING:
    from nnframe.training.fitting import Fit


def describe_non_finite(fit: Fit) -> str | None:
    """Say what is not finite in the loss and the gradients of a mini-batch; None where all is in order."""
    finite = math.isfinite(fit.value)
    if finite and all(kernels.all_finite(p.grad) for p in fit.optimizer.parameters):
        return None
    values = describe_non_finite_values(fit)
    if values is not None:
        return values
    names = {id(p): name for name, p in fit.model.named_parameters()}
    if not finite:
        return f"the loss is {fit.value}{_first_layer(fit.forward_pass)}"
    bad = [names[id(p)] for p in fit.optimizer.parameters if not kernels.all_finite(p.grad)]
    return f"the gradient of {', '.join(bad)} is not finite"


def describe_non_finite_values(fit: Fit) -> str | None:
    """Say which parameters are not finite; None where all are."""
    bad = [name for name, p in fit.model.named_parameters() if not kernels.all_finite(p.value)]
    return f"the value of {', '.join(bad)} is not finite" if bad else None


def _first_layer(passed: ForwardPass) -> str:
    """Name the first layer whose output is not finite."""
    for link in passed.links:
        if link.y.dtype.kind == "f" and not kernels.all_finite(link.y):
            path = path_of(passed.model, link.layer)
            return f", from the output of {type(link.layer).__name__}" + (f" ({path})" if path else "") + " on"
    return f", from the loss {passed.loss!r} itself on" if passed.loss is not None else ""
