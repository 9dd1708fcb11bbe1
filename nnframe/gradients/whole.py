"""A look at the model as a whole: whether the gradient fits the loss.

What is asked of layers one by one cannot show what passes between them unseen, from one attribute to another. So now
and then the loss itself is taken a little way along a random direction, in float64, and compared with what the gradient
says.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nnframe.core.chain import ForwardPass, Link, expanded
from nnframe.core.inquiry import RESOLVED
from nnframe.core.local import STEP
from nnframe.core.protocol import LayerError, traits
from nnframe.core.run import run_layer
from nnframe.core.structure import Memory
from nnframe.losses.base import value_of

STEPS = (1e-6, 1e-5, 1e-7, 1e-8)  # one of them may cross a kink, or drown in rounding; not all
APART = 2e-3  # of the gradient's length
FINER = 1e-3  # of a strategy's step: at one so small no kink is likely to lie within


def look_at_the_whole(
    strategy: Any, passed: ForwardPass, count: int, take: Callable[[Any], ForwardPass], written: bool
) -> ForwardPass:
    """See whether a gradient fits the loss; returns the forward pass of one that does, or raises LayerError.

    Where it does not, something has changed since it was found, or was never what it seemed: all layers are asked anew
    and the gradient is taken again. Where that does not fit either, but fits at a far smaller step, a kink lay within
    the step, and the gradient is what it is said to be. take(strategy) takes the gradient again; count, written : as
    `what_does_not_fit`.
    """

    def wrong(one: Any, passed: ForwardPass, finer: float = 1.0) -> str:
        with passed.run:
            return what_does_not_fit(passed, one.memory, one.step, count, written, finer)

    if not wrong(strategy, passed):
        return passed
    strategy.memory.forget()
    passed = take(strategy)
    message = wrong(strategy, passed)
    if not message:
        return passed
    gradients = [parameter.grad.copy() for parameter in passed.parameters]
    finer = copy.copy(strategy)
    finer.step = FINER * (STEP if strategy.step is None else strategy.step)
    if wrong(finer, take(finer), FINER):
        raise LayerError(message)
    for parameter, gradient in zip(passed.parameters, gradients, strict=True):
        parameter.grad[...] = gradient
    return passed


def what_does_not_fit(
    passed: ForwardPass, memory: Memory, step: float | None, count: int, written: bool, finer: float = 1.0
) -> str:
    """Say where the gradient does not fit the loss; "" where it does, or where that cannot be known.

    Only models with layers or a loss of others are looked at, at a step at which a difference is a derivative. count:
    how many gradients there have been. written: whether backward passes that were written count, which may mean to
    differ from the derivative. finer: how much smaller the steps along the direction are.
    """
    if not (passed.run.own or passed.loss._traits.own):
        return ""
    if (
        (step is not None and step > RESOLVED)
        or not math.isfinite(passed.value)
        or _is_trusted(passed, memory, written)
    ):
        return ""
    found = []
    for size in STEPS:  # the same direction each time
        along, expected, length = _along(passed, size * finer, np.random.Generator(np.random.PCG64((20260103, count))))
        if not abs(along - expected) > APART * length:
            return ""
        found.append((along, APART * length))
    if not any(abs(one - other) <= bound for (one, bound), (other, _) in itertools.pairwise(found)):
        return ""  # not even two sizes agree with each other
    own = [repr(tree) for _, tree in passed.model.named_trees() if hasattr(tree, "_traits") and traits(tree).own]
    own += [repr(passed.loss)] if passed.loss._traits.own else []
    return (
        f"{type(passed.model).__name__}: the gradient found layer by layer does not fit the loss: along a random "
        f"direction the loss rises by {along:.6g} per step and the gradient says {expected:.6g}. One of "
        f"{', '.join(own)} is not what it seems, or passes something on unseen; everything must go in by x and out by "
        "what forward returns"
    )


def _is_trusted(passed: ForwardPass, memory: Memory, written: bool) -> bool:
    """Whether an author's word is taken, or float64 values cannot be had."""
    if written and passed.loss._traits.own and passed.loss._traits.backward:
        return True
    return any(_trusts(link, memory, written) for link in expanded(passed.links) + passed.links)


def _trusts(link: Link, memory: Memory, written: bool) -> bool:
    found = memory.of(link.layer)
    if (written and link.traits.own and link.traits.backward) or (found is not None and bool(found.coarse)):
        return True
    return any(_trusts(one, memory, written) for branch in link.inner for one in branch.links)


def _along(passed: ForwardPass, size: float, rng: np.random.Generator) -> tuple[float, float, float]:
    """How fast the loss rises along a random direction, what the gradient says of that, and its length."""
    memo: dict[int, Any] = {}
    private = passed.model.astype(np.float64, memo)
    x = passed.x
    wide = tuple(map(_wide, x)) if isinstance(x, tuple) else _wide(x)
    values = [0.0, 0.0]
    expected, square = 0.0, 0.0
    directions = []
    for parameter in passed.parameters:
        if parameter.trainable:
            start = parameter.value.astype(np.float64)
            signs = rng.choice([-size, size], start.shape)
            ends = start + signs, start - signs
            way = (ends[0] - ends[1]) / (2 * size)  # what rounding leaves of it
            directions.append((memo[id(parameter)], ends))
            expected += float(np.vdot(parameter.grad, way))
            square += float(np.vdot(parameter.grad * way, parameter.grad * way))
    with np.errstate(all="ignore"):
        for side in (0, 1):
            for copy, ends in directions:
                copy.value[...] = ends[side]
            y = run_layer(private, wide)
            values[side] = value_of(passed.loss, y, passed.labels)
    noise = 1e-14 * (abs(values[0]) + 1) / size / APART
    return (values[0] - values[1]) / (2 * size), expected, math.sqrt(square) + noise


def _wide(x: Any) -> Any:
    return x.astype(np.float64) if x.dtype.kind == "f" else x
