"""A network in NumPy, stage by stage: what `network` in csrc/network.inc.h must compute. Imported by reference.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.kernels.reference_activations import activation, activation_backward

Floats = npt.NDArray[np.floating]
Stages = tuple[tuple[Any, Any], ...]  # (width, has_bias) of a linear stage, (name, alpha) of an activation


def network_forward(x: Floats, stages: Stages, values: list[Floats]) -> list[Floats]:
    """Return the output of each stage, (N, width); values: weights and biases in the order of the stages."""
    outputs = []
    arrays = iter(values)
    for first, second in stages:
        if isinstance(first, str):
            x = activation(first, x, second)
        else:
            x = x @ next(arrays).T
            if second:
                x = x + next(arrays)
        outputs.append(x)
    return outputs


def network_gradient(
    x: Floats, stages: Stages, values: list[Floats], outputs: list[Floats], dy: Floats
) -> list[Floats]:
    """Return the gradients of all values, in their order, from that of the last output."""
    found: list[Floats] = []
    arrays = list(values)
    for i in range(len(stages) - 1, -1, -1):
        first, second = stages[i]
        below = outputs[i - 1] if i else x
        if isinstance(first, str):
            dy = activation_backward(first, below, outputs[i], dy, second)
            continue
        if second:
            arrays.pop()
            found.append(dy.sum(axis=0))
        found.append(dy.T @ below)
        dy = dy @ arrays.pop()
    return found[::-1]


def chosen_entries(gradient: Floats, entries: npt.NDArray[np.intp]) -> Floats:
    """Return a gradient that is 0 but for these entries, flat."""
    found = np.zeros_like(gradient)
    found.reshape(-1)[entries] = gradient.reshape(-1)[entries]
    return found
