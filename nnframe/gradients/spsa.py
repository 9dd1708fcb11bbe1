"""`SPSA`: all parameters moved at once, in random directions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_generator, unwrapped
from nnframe.core.chain import refuse_no_model, run_forward
from nnframe.core.layer import Layer
from nnframe.core.local import as_step
from nnframe.core.parameter import Array, Parameter
from nnframe.core.run import Run, run_layer
from nnframe.core.structure import Memory
from nnframe.gradients.work import Cost, Measured, measure
from nnframe.losses.base import Loss, value_of


class SPSA:
    """Simultaneous perturbation (Spall 1992): the loss along random directions, each times that direction.

        g = mean over samples of (L(w + h d) - L(w - h d)) / 2h * d

    with every entry of d drawn from {-1, 1} ("rademacher") or a standard normal ("gaussian"). Up to O(h^2) its mean is
    the gradient; its variance is large: with one sample the squared error has the mean (n - 1) |grad L|^2 for
    Rademacher and (n + 1) |grad L|^2 for Gaussian directions over n parameters, and `samples` divide it. A step thus
    goes about sqrt(samples / n) of its length along the gradient: use small learning rates.

    Cost: 2 evaluations of the loss per sample, whatever n is, and one for the loss that is returned. Directions are
    drawn again from a seed instead of being stored (as in MeZO, Malladi et al. 2023): memory is that of one copy of the
    model and one parameter's direction. Both evaluations of a sample see the same mini-batch. The model itself is never
    moved.

    Parameters
    ----------
    step : float, optional
        h; eps^(1/3) of the model's dtype if not given.
    samples : int
        Directions per gradient, at least 1.
    distribution : {"rademacher", "gaussian"}
    rng : np.random.Generator or int, optional
        Draws a seed for each direction; an int makes runs repeat.
    """

    def __init__(
        self,
        step: float | None = None,
        *,
        samples: int = 1,
        distribution: Literal["rademacher", "gaussian"] = "rademacher",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self.step = as_step(step)
        if not isinstance(samples, int | np.integer) or isinstance(samples, bool) or samples < 1:
            raise ValueError(f"samples: expected an integer of at least 1, got {samples!r}")
        if distribution not in ("rademacher", "gaussian"):
            raise ValueError(f"distribution: expected 'rademacher' or 'gaussian', got {distribution!r}")
        self.samples = int(samples)
        self.distribution = distribution
        self.rng = as_generator(rng)
        self.memory = Memory()

    def __call__(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> Measured:
        """Return the loss of a mini-batch, and overwrite the gradient of every parameter of the model.

        Arguments and result as `CentralDifference`.
        """
        refuse_no_model(model)
        t = unwrapped(t)
        dtype = model.dtype
        parameters = [p for p in model.parameters() if p.trainable]
        step = self.step or float(np.finfo(dtype).eps) ** (1 / 3)
        with Run(True, self.memory, step, model) as run:
            passed = measure(run_forward(model, x, run), loss, t)
            memo: dict[int, object] = {}
            private = model.astype(dtype, memo)
            moved = [p for p in (memo[id(parameter)] for parameter in parameters) if isinstance(p, Parameter)]
            totals = [np.zeros(p.value.shape) for p in parameters]
            for seed in self.rng.integers(0, 2**63, self.samples):
                sides = []
                for sign in (step, -step):
                    for original, copy, direction in zip(
                        parameters, moved, self.directions(seed, parameters), strict=True
                    ):
                        np.multiply(direction, dtype.type(sign), out=direction)
                        np.add(original.value, direction, out=copy.value)
                    sides.append(value_of(loss, run_layer(private, passed.x), passed.labels))
                slope = (sides[0] - sides[1]) / (2 * step) / self.samples
                for total, direction in zip(totals, self.directions(seed, parameters), strict=True):
                    total += slope * direction
        for parameter in passed.parameters:
            parameter.grad.fill(0)
        for parameter, total in zip(parameters, totals, strict=True):
            parameter.grad[...] = total
        return Measured(passed)

    def directions(self, seed: int, parameters: list[Parameter]) -> Iterator[Array]:
        """Draw the direction that belongs to a seed, one parameter after another, the same each time."""
        rng = np.random.Generator(np.random.PCG64(int(seed)))
        for parameter in parameters:
            shape, dtype = parameter.value.shape, parameter.value.dtype
            if self.distribution == "gaussian":
                yield np.asarray(rng.standard_normal(shape)).astype(dtype)
            else:
                bits = np.frombuffer(rng.bytes(-(-math.prod(shape) // 8)), np.uint8)
                signs = np.unpackbits(bits, count=math.prod(shape)).astype(dtype)
                yield (2 * signs - 1).reshape(shape)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next directions depend on."""
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.rng.bit_generator.state = state["rng"]

    def cost(self, model: Layer, loss: Loss, x: npt.ArrayLike, t: npt.ArrayLike) -> Cost:
        """Return what a call with these arguments costs, the time from one evaluation of the loss."""
        count = 2 * self.samples + 1
        model(x)
        start = time.perf_counter()
        loss(model(x), t)
        return Cost(count, (time.perf_counter() - start) * count)

    def __repr__(self) -> str:
        step = "" if self.step is None else f"step={self.step:g}, "
        return f"SPSA({step}samples={self.samples}, distribution={self.distribution!r})"
