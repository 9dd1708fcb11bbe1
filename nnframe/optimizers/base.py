"""What optimizers share: the parameters, and the checks before a training step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from nnframe import kernels
from nnframe._checks import as_flag, in_range
from nnframe.core.parameter import Array, Parameter
from nnframe.kernels._kernels import are_trainable, gradients_of, values_of

SETTINGS = frozenset(
    {"lr", "weight_decay", "momentum", "alpha", "eps", "betas", "dampening", "momentum_decay", "etas", "step_sizes"}
    | {"lr_decay", "maximize"}
)


class Optimizer:
    """What optimizers share: the parameters, and the checks before a step.

    Parameters
    ----------
    parameters : iterable of Parameter
        At least one, each once: `model.parameters()`.
    lr : float
        Learning rate, finite and not negative.
    weight_decay : float
        Adds weight_decay * value to each gradient (L2 regularisation).
    maximize : bool
        Whether the gradients are those of something that should grow: they are taken with their sign changed.
    """

    def __init__(
        self, parameters: Iterable[Parameter], lr: float, weight_decay: float, *, maximize: bool = False
    ) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("parameters: expected at least one Parameter, got none")
        for parameter in self.parameters:
            if not isinstance(parameter, Parameter):
                raise TypeError(f"parameters: expected Parameter objects, got {type(parameter).__name__}")
        if len({id(parameter) for parameter in self.parameters}) < len(self.parameters):
            raise ValueError("parameters: expected each Parameter once, got one of them twice")
        self.lr = in_range("lr", lr)
        self.weight_decay = in_range("weight_decay", weight_decay)
        self.maximize = as_flag("maximize", maximize)

    def zero_grad(self) -> None:
        """Set every gradient to zero. The gradient strategies overwrite gradients by themselves."""
        for parameter in self.parameters:
            parameter.grad[...] = 0

    def step(self) -> None:
        """Change every trainable parameter by its gradient; nothing is changed when something does not fit."""
        if self._assigned:
            self.check_settings()
            self._assigned = False
        self.update()

    _assigned = True  # whether a setting has been assigned since they were checked

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        if name in SETTINGS:
            object.__setattr__(self, "_assigned", True)

    def check_settings(self) -> None:
        """Refuse settings that do not fit: they may be assigned between steps."""
        in_range("lr", self.lr)
        in_range("weight_decay", self.weight_decay)
        as_flag("maximize", self.maximize)
        for name, below in (
            ("momentum", 1.0),
            ("alpha", 1.0),
            ("eps", math.inf),
            ("dampening", math.inf),
            ("lr_decay", math.inf),
        ):
            if name in vars(self):
                in_range(name, vars(self)[name], below)

    def update(self) -> None:
        """Change every parameter; the part of `step` that an optimizer writes."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def state(self) -> list[Array]:
        """Return an array of zeros for each parameter: what a rule remembers."""
        return [np.zeros_like(p.value) for p in self.parameters]

    def apply(
        self,
        rule: str,
        rate: float,
        means: list[Array],
        squares: list[Array],
        largest: Sequence[Array] = (),
        **constants: float,
    ) -> None:
        """Run the kernel of a rule over all parameters."""
        parameters = self.parameters
        if not are_trainable(parameters):
            kept = [i for i, p in enumerate(parameters) if p.trainable]
            parameters = [parameters[i] for i in kept]
            means, squares, largest = (
                [arrays[i] for i in kept] if arrays else [] for arrays in (means, squares, largest)
            )
        gradients = gradients_of(parameters)
        kernels.optimizer_update(
            rule,
            values_of(parameters),
            [-g for g in gradients] if self.maximize else gradients,
            means,
            squares,
            list(largest),
            rate=rate,
            **constants,
        )
