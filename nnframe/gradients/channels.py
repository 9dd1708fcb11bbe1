"""Gradients of a convolution, or of a layer like one, in C: weight by weight, below most of nnframe's own layers."""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from nnframe.core.chain import Link, expanded
from nnframe.core.local import name_of
from nnframe.core.parameter import Array, Entries, Parameter
from nnframe.core.protocol import CostWarning
from nnframe.core.run import Run
from nnframe.core.structure import Memory
from nnframe.gradients.in_c import Described, is_linear
from nnframe.gradients.work import Place
from nnframe.kernels import _kernels
from nnframe.layers.convolution import Convolution
from nnframe.layers.windows import pair, planes

DEAR_NUMBERS = 1 << 28  # of changes, from which on it is said why C does not compute them
MOST_OPEN = 4  # branches inside each other, as csrc/nnframe.h has it
Stages = list[tuple[object, ...]]


class Channels(NamedTuple):
    """A layer as a convolution: each of its weights moves one channel of its outputs.

    x : what it reads, (N, channels, H, W)
    shape : of its weight, (O, C, height, width)
    out_size : of a channel of its outputs
    arguments : stride, padding, dilation and groups
    """

    x: Array
    shape: tuple[int, ...]
    out_size: tuple[int, int]
    arguments: dict[str, Any]


ALONE = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}


def channels_of(link: Link) -> Channels | None:
    """Return how C takes a layer for a convolution; None where it does not.

    A linear layer is one of a single position. A normalisation multiplies each channel of what it has normalised by its
    weight: a convolution with as many groups as channels and one tap.
    """
    layer: Any = link.layer
    if is_linear(link):
        return Channels(link.x[:, :, None, None], (*layer.weight.value.shape, 1, 1), (1, 1), {**ALONE, "groups": 1})
    if not link.traits.stage_of_planes:
        return None
    if isinstance(layer, Convolution):
        shape = planes(layer.weight.value, layer.axes).shape
        return Channels(planes(link.x, layer.axes), shape, pair(link.y.shape[2:]), layer._arguments)
    normal = layer.normal_planes(link.x) if hasattr(layer, "normal_planes") and layer.weight is not None else None
    if normal is None:
        return None
    channels, *size = normal.shape[1:]
    return Channels(normal, (channels, 1, 1, 1), pair(tuple(size)), {**ALONE, "groups": channels})


class FusedConvolution:
    """The gradients of one layer's parameters, for some of its output channels at a time.

    Parameters
    ----------
    link : Link
        The layer, with its input and output.
    channels : Channels
        The same as a convolution.
    above : Above
        What stands above it.
    scale : float
        What the sum of losses over rows is multiplied with.
    step : float
    selected : two arrays of int, or None
        Which entries of the weight, and of the bias, are selected: flat indices, ascending.
    """

    def __init__(
        self,
        link: Link,
        channels: Channels,
        above: _kernels.Above,
        scale: float,
        step: float,
        selected: tuple[Entries, Entries] | None,
    ) -> None:
        layer: Any = link.layer
        self.link, self.channels, self.above, self.scale, self.step = link, channels, above, scale, step
        self.weight = np.zeros(layer.weight.value.shape, layer.weight.value.dtype)
        bias = getattr(layer, "bias", None)
        self.bias = None if bias is None else np.zeros(channels.shape[:1], self.weight.dtype)
        self.units, self.selected = channels.shape[0], selected
        count = self.weight.size + (0 if self.bias is None else self.bias.size)
        self.evaluations = 2 * (count if selected is None else sum(map(len, selected)))

    def run(self, units: range) -> None:
        """Fill the gradients of the weights and biases of some channels."""
        for some in self._with_selected(units):
            _kernels.convolution_difference(
                self.above,
                self.channels.x,
                step=self.step,
                scale=self.scale,
                grad_weight=self.weight.reshape(self.channels.shape),
                grad_bias=self.bias,
                out_size=self.channels.out_size,
                units=some,
                **self.channels.arguments,
            )

    def _with_selected(self, units: range) -> list[range]:
        """Return the channels of which entries are selected, in ranges."""
        if self.selected is None:
            return [units]
        each = self.weight.size // self.units
        found = set((self.selected[0] // each).tolist()) | set(self.selected[1].tolist())
        return [range(o, o + 1) for o in units if o in found]

    def gradients(self) -> list[tuple[Parameter, Array]]:
        """Return each parameter with its gradient, where `run` has been."""
        layer: Any = self.link.layer
        found = [(layer.weight, self.weight)]
        if self.bias is not None:
            found.append((layer.bias, self.bias.reshape(layer.bias.value.shape)))
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


def _stages_of(links: list[Link], run: Run) -> Stages | Link:
    """Describe layers for C, which carries changes of planes through them; or return the first it does not know."""
    stages: Stages = []
    for one in expanded(links):
        if one.traits.branches:
            found = _branch_stages(one, run)
        elif one.traits.stage or one.traits.stage_of_planes:
            describe = functools.partial(_described_and_kept, one)
            found = [run.once((id(one.y), "stage"), describe)[0]]
        else:
            return one
        if isinstance(found, Link):
            return found
        stages += [stage for stage in found if stage]
    return stages


def _described_and_kept(link: Link) -> tuple[tuple[object, ...], Array]:
    layer: Any = link.layer
    found = (layer.stage if link.traits.stage else layer.stage_of_planes)(link.x, link.y)
    return found, link.y  # the output stays alive, and with it its id


def _branch_stages(link: Link, run: Run) -> Stages | Link:
    """Describe branches that are added, one after another: what they are given, and what they gave, is kept."""
    if link.traits.own or link.layer.join != "add":
        return link
    stages: Stages = []
    for k, branch in enumerate(link.inner):
        found = _stages_of(branch.links, run)
        if isinstance(found, Link):
            return found
        last = k + 1 == len(link.inner)
        stages += [*([] if last else [("fork", {})]), *found, *([] if last else [("other", {})])]
    return stages + [("join", {})] * (len(link.inner) - 1)


def _depth(stages: Stages) -> int:
    """How many branches are kept at once, at most."""
    return max(
        np.cumsum([(stage[0] == "fork") - (stage[0] == "join") for stage in stages if len(stage) > 1]), default=0
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
    place: Place,
    described: Described | None,
    run: Run,
    step: float,
    selected: tuple[Entries, Entries] | None,
    memory: Memory,
) -> FusedConvolution | None:
    """Return the work for a convolution, or a layer like one, whose way to the loss C knows; None where it does not."""
    link, above = place
    stages = _stages_of(above, run)
    channels = None if isinstance(stages, Link) else channels_of(link)
    fits = (above[-1] if above else link).y.ndim == 2 and described is not None and channels is not None
    if isinstance(stages, Link) or channels is None or described is None or not fits or _depth(stages) > MOST_OPEN:
        if is_convolution(link):
            _warn_of_price(place, stages if isinstance(stages, Link) else None, memory)
        return None
    loss, scale = described
    return FusedConvolution(
        link, channels, _kernels.Above(math.prod(link.y.shape[1:]), stages, **loss), scale, step, selected
    )
