"""`Groups`: several optimizers as one, each over parameters of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnframe.optimizers.base import SETTINGS, Optimizer


class Groups(Optimizer):
    """Groups of parameters with constants, schedules and even rules of their own: one optimizer for each.

        optimizer = nn.Groups(nn.Adam(body.parameters(), 1e-4), nn.SGD(head.parameters(), 0.1))

    Parameters
    ----------
    *groups : Optimizer
        At least one. No parameter may be in two of them.
    """

    def __init__(self, *groups: Optimizer) -> None:
        for one in groups:
            if not isinstance(one, Optimizer):
                raise TypeError(f"groups: expected optimizers, got {one!r}")
        super().__init__([p for one in groups for p in one.parameters], 0.0, 0.0)
        self._groups = list(groups)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTINGS and "_groups" in vars(self):
            raise AttributeError(f"{name}: expected it to be set of one group: optimizer.groups[0].{name} = ...")
        super().__setattr__(name, value)

    @property
    def groups(self) -> list[Optimizer]:
        return self._groups

    def step(self) -> None:
        for one in self._groups:
            one.prepare()
        for parameter in self.parameters:
            if not parameter.value.flags.writeable:
                raise ValueError("parameters: expected arrays that can be written to, got a read-only one")
        for one in self._groups:
            one.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(i): one.state_dict() for i, one in enumerate(self._groups)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.keys() != self.state_dict().keys():
            raise ValueError(f"state: expected that of {len(self._groups)} groups, got {', '.join(state)}")
        before = self.state_dict()
        try:
            for i, one in enumerate(self._groups):
                one.load_state_dict(state[str(i)])
        except (KeyError, TypeError, ValueError):
            for i, one in enumerate(self._groups):
                one.load_state_dict(before[str(i)])
            raise

    def __repr__(self) -> str:
        return f"Groups({', '.join(type(one).__name__ for one in self._groups)})"
