"""The gradient of a convolution's weights in C: weight by weight, below convolutions, pooling and built-in layers."""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np

from nnframe.core.chain import Link
from nnframe.core.local import name_of
from nnframe.core.parameter import Array, Entries, Parameter
from nnframe.core.protocol import CostWarning
from nnframe.core.structure import Memory
from nnframe.gradients.in_c import Described
from nnframe.gradients.work import Place
from nnframe.kernels import _kernels
from nnframe.layers.convolution import Convolution
from nnframe.layers.windows import pair, planes

DEAR_NUMBERS = 1 << 28  # of changes, from which on it is said why C does not compute them


class FusedConvolution:
    """The gradients of one convolution's parameters, for some of its output channels at a time.

    Parameters
    ----------
    link : Link
        The layer, with its input and output.
    above : Above
        What stands above it.
    scale : float
        What the sum of losses over rows is multiplied with.
    step : float
    selected : two arrays of int, or None
        Which entries of the weight, and of the bias, are selected: flat indices, ascending.
    """

    def __init__(
        self, link: Link, above: _kernels.Above, scale: float, step: float, selected: tuple[Entries, Entries] | None
    ) -> None:
        layer: Any = link.layer
        self.link, self.above, self.scale, self.step = link, above, scale, step
        self.weight = np.zeros(layer.weight.value.shape, layer.weight.value.dtype)
        self.bias = None if layer.bias is None else np.zeros_like(layer.bias.value)
        self.units, self.selected = len(self.weight), selected
        count = self.weight.size + (0 if self.bias is None else self.bias.size)
        self.evaluations = 2 * (count if selected is None else sum(map(len, selected)))

    def run(self, units: range) -> None:
        """Fill the gradients of the weights and biases of some channels."""
        layer: Any = self.link.layer
        for some in self._with_selected(units):
            _kernels.convolution_difference(
                self.above,
                planes(self.link.x, layer.axes),
                step=self.step,
                scale=self.scale,
                grad_weight=planes(self.weight, layer.axes),
                grad_bias=self.bias,
                out_size=pair(self.link.y.shape[2:]),
                units=some,
                **layer._arguments,
            )

    def _with_selected(self, units: range) -> list[range]:
        """Return the channels of which entries are selected, in ranges."""
        if self.selected is None:
            return [units]
        found = set((self.selected[0] // self.weight[0].size).tolist()) | set(self.selected[1].tolist())
        return [range(o, o + 1) for o in units if o in found]

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return each parameter with its gradient, where `run` has been."""
        layer: Any = self.link.layer
        found = [(layer.weight, self.weight)] + ([] if self.bias is None else [(layer.bias, self.bias)])
        if self.selected is None:
            return found
        kept = []
        for (parameter, gradient), entries in zip(found, self.selected, strict=False):
            only = np.zeros_like(gradient)
            only.reshape(-1)[entries] = gradient.reshape(-1)[entries]
            kept.append((parameter, only))
        return kept


def is_convolution(link: Link) -> bool:
    """Whether a layer is a convolution, as C knows it."""
    return isinstance(link.layer, Convolution) and link.traits.stage_of_planes


def _in_c(link: Link) -> bool:
    """Whether C carries changes of planes through a layer."""
    return (link.traits.stage or link.traits.stage_of_planes) and not (
        is_convolution(link) and cast("Convolution", link.layer).groups > 1
    )


def _warn_of_price(place: Place, unknown: Link | None, memory: Memory) -> None:
    """Say once why the weights of a convolution are moved one by one in NumPy, where that takes long."""
    link = place.link
    evaluations = 2 * sum(p.value.size for p in link.parameters)
    if evaluations * place.widest < DEAR_NUMBERS or not memory.first_time("convolution", link.layer):
        return
    which = "the loss" if unknown is None else name_of(unknown)
    warnings.warn(
        f"{name_of(link)}: its {evaluations // 2:,} weights are moved one by one in NumPy, as C does not carry changes "
        f"through {which}; Backprop has no such price",
        CostWarning,
        stacklevel=5,
    )


def convolution_in_c(
    place: Place, described: Described | None, step: float, selected: tuple[Entries, Entries] | None, memory: Memory
) -> FusedConvolution | None:
    """Return the work for a convolution whose way to the loss C knows; None where it does not know all of it."""
    link, above = place
    unknown = next((one for one in above if not _in_c(one)), None)
    if unknown is not None or described is None or (above[-1] if above else link).y.ndim != 2:
        _warn_of_price(place, unknown, memory)
        return None
    loss, scale = described
    stages = []
    for one in above:
        layer: Any = one.layer
        stages.append((layer.stage if one.traits.stage else layer.stage_of_planes)(one.x, one.y))
    return FusedConvolution(
        link, _kernels.Above(link.y[0].size, [stage for stage in stages if stage], **loss), scale, step, selected
    )
