"""Schedules: constants of an optimizer that change from one training step to the next.

Any function of the step, counted from 0, is one: `SGD(parameters, lr=lambda step: 0.1 / (1 + step))`. It may stand for
every constant that a rule has: `momentum`, `weight_decay`, `betas` (then it returns both). Those here are such
functions; they keep no state, so that a run that is resumed has the same constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnframe._checks import as_count, in_range


class _Shown:
    """Shows its arguments."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class StepDecay(_Shown):
    """initial gamma^floor(step / step_size): PyTorch's StepLR, in training steps."""

    def __init__(self, initial: float, step_size: int, gamma: float = 0.1) -> None:
        self.initial, self.step_size = initial, as_count("step_size", step_size)
        self.gamma = in_range("gamma", gamma)

    def __call__(self, step: int) -> float:
        return self.initial * self.gamma ** (step // self.step_size)


class ExponentialDecay(_Shown):
    """initial decay_rate^(step / decay_steps), with Keras's arguments."""

    def __init__(self, initial: float, decay_steps: int, decay_rate: float) -> None:
        self.initial, self.decay_steps = initial, as_count("decay_steps", decay_steps)
        self.decay_rate = in_range("decay_rate", decay_rate)

    def __call__(self, step: int) -> float:
        return float(self.initial * self.decay_rate ** (step / self.decay_steps))


class CosineDecay(_Shown):
    """Half a cosine (Loshchilov and Hutter 2017), after a warm-up: as in Keras, but for `initial` as the largest value.

    The value rises in a straight line over the first `warmup_steps`, reaching `initial` at the end of them, then falls
    over `decay_steps` to alpha initial, where it stays. Its first value is initial / (warmup_steps + 1), not 0.
    """

    def __init__(self, initial: float, decay_steps: int, alpha: float = 0.0, warmup_steps: int = 0) -> None:
        self.initial, self.decay_steps = initial, as_count("decay_steps", decay_steps)
        self.alpha = in_range("alpha", alpha)
        self.warmup_steps = int(in_range("warmup_steps", warmup_steps))

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.initial * (step + 1) / (self.warmup_steps + 1)
        share = min(1.0, (step - self.warmup_steps) / self.decay_steps)
        return self.initial * (self.alpha + (1 - self.alpha) * (1 + math.cos(math.pi * share)) / 2)


class OneCycle(_Shown):
    """Up to `largest` and down again over `total_steps`, on cosines (Smith and Topin 2017), as PyTorch's OneCycleLR.

    From largest / div_factor up in the first `pct_start` of the steps, then down to largest / (div_factor
    final_div_factor), where it stays. For a momentum that falls while the rate rises, div_factor below 1.
    """

    def __init__(
        self,
        largest: float,
        total_steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        self.largest, self.total_steps = largest, as_count("total_steps", total_steps)
        self.pct_start = in_range("pct_start", pct_start, below=1.0)
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        for name in ("div_factor", "final_div_factor"):
            if not in_range(name, getattr(self, name)):
                raise ValueError(f"{name}: expected a number above 0, got 0")

    def __call__(self, step: int) -> float:
        first = self.largest / self.div_factor
        top = self.pct_start * self.total_steps - 1  # PyTorch counts the steps of either part from both of its ends
        if step <= top:
            return _cosine(first, self.largest, step / top if top else 1.0)
        share = min(1.0, (step - max(top, 0.0)) / max(1.0, self.total_steps - 1 - max(top, 0.0)))
        return _cosine(self.largest, first / self.final_div_factor, share)


class PiecewiseConstant(_Shown):
    """values[i] up to and with step boundaries[i], then the next one; the last one ever after (as Keras has it)."""

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        self.boundaries, self.values = list(boundaries), list(values)
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values: expected one more than boundaries, got {len(self.values)} and {len(self.boundaries)}"
            )
        if list(self.boundaries) != sorted(self.boundaries):
            raise ValueError(f"boundaries: expected them in ascending order, got {self.boundaries!r}")

    def __call__(self, step: int) -> float:
        return self.values[sum(step > boundary for boundary in self.boundaries)]


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
