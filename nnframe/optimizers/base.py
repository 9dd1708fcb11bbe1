"""What optimizers share: the parameters, and the checks before a training step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from nnframe import kernels
from nnframe._checks import as_flag, in_range
from nnframe.core.parameter import Array, Parameter
from nnframe.kernels._kernels import are_trainable, gradients_of, values_of

_NO_STATE = frozenset({"parameters", "schedules", "_assigned", "_groups"})
SETTINGS = frozenset(
    {"lr", "weight_decay", "momentum", "alpha", "eps", "betas", "dampening", "momentum_decay", "etas", "step_sizes"}
    | {"lr_decay", "maximize"}
)


Schedule = Callable[[int], Any]  # what a constant is at a training step, counted from 0


class Optimizer:
    """What optimizers share: the parameters, and the checks before a step.

    Every constant may be a schedule, a function of the training step: see `nnframe.optimizers.schedules`. Before each
    step it takes the value of that step, which the attribute then shows. Assigning a number ends the schedule.

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

    Attributes
    ----------
    taken : int
        Training steps that have been taken.
    schedules : mapping
        The schedules, by the names of the constants.
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
        self.taken = 0
        self.lr = self.constant("lr", lr)
        self.weight_decay = self.constant("weight_decay", weight_decay)
        self.maximize = as_flag("maximize", maximize)

    def zero_grad(self) -> None:
        """Set every gradient to zero. The gradient strategies overwrite gradients by themselves."""
        for parameter in self.parameters:
            parameter.grad[...] = 0

    def step(self) -> None:
        """Change every trainable parameter by its gradient; nothing is changed when something does not fit."""
        if self._assigned or self.schedules:
            self.prepare()
        self.update()
        vars(self)["taken"] += 1  # no setting: it is not looked for among them

    def prepare(self) -> None:
        """Bring scheduled constants to the value of this step, and refuse constants that do not fit."""
        for name, schedule in self.schedules.items():
            object.__setattr__(self, name, schedule(self.taken))
        self.check_settings()
        self._assigned = False

    _assigned = True  # whether a setting has been assigned since they were checked
    taken = 0
    schedules: Mapping[str, Schedule] = MappingProxyType({})

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTINGS:
            others = {key: one for key, one in self.schedules.items() if key != name}
            object.__setattr__(self, "schedules", others | ({name: value} if callable(value) else {}))
            object.__setattr__(self, "_assigned", True)
            value = value(self.taken) if callable(value) else value
        object.__setattr__(self, name, value)

    @staticmethod
    def constant(name: str, value: Any, below: float = math.inf) -> Any:
        """Return a constant in [0, below) as a float, and a schedule as it is."""
        return value if callable(value) else in_range(name, value, below)

    @property
    def groups(self) -> list[Optimizer]:
        """The optimizers that this one is made of: itself."""
        return [self]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on besides parameters and gradients: numbers and arrays.

        Of a schedule, the value that it has now; the function itself is no part of the state.
        """
        return {name: copy.deepcopy(value) for name, value in vars(self).items() if name not in _NO_STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; nothing is changed unless it fits.

        Raises
        ------
        KeyError, TypeError, ValueError
            Another optimizer's state, or arrays of other shapes or dtypes.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            raise KeyError(f"optimizer: expected the state {', '.join(own)}, got {', '.join(state)}")
        for name, value in own.items():
            _check_like(name, state[name], value, self.parameters)
        for name, value in state.items():
            object.__setattr__(self, name, copy.deepcopy(value))
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


def _check_like(name: str, given: Any, own: Any, parameters: list[Parameter]) -> None:
    """Refuse what cannot stand in the place of `own`: a number, or what a rule remembers of each parameter."""
    arrays = isinstance(own, list)
    if arrays != isinstance(given, list):
        raise TypeError(f"optimizer.{name}: expected {type(own).__name__}, got {type(given).__name__}")
    if not arrays or not given:
        return
    found = [(np.shape(one), getattr(one, "dtype", None)) for one in given]
    expected = [(p.value.shape, p.value.dtype) for p in parameters]
    if found != expected:
        raise ValueError(f"optimizer.{name}: expected arrays of shapes and dtypes {expected}, got {found}")
