"""Which entries of a model's parameters a gradient is taken of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from nnframe._checks import as_generator
from nnframe.core.layer import Layer
from nnframe.core.parameter import Chosen, Entries, Parameter

MANY = 20  # times as many entries as are drawn: fewer are sooner marked among all than sorted


class Blocks:
    """Blocks of coordinates, another at each step: block coordinate descent.

    The gradient of all other entries is 0, so that plain `SGD` leaves them where they are (an optimizer with momentum
    does not). Little is saved where the full gradient is cheap: of 784-50-10, whose full gradient costs as much as
    `Backprop`, ten entries take 0.6 to 0.7 of it and 10,000 of 39,760 some 2 times as much; weight by weight it is a
    twentieth.

    Parameters
    ----------
    size : int
        Entries of a block, at least 1; all parameters' entries are counted together.
    order : {"random", "cyclic"}
        "random": each block is drawn anew, without replacement within it. "cyclic": block after block, in the order of
        the parameters and again from the start, so that every entry has its turn.
    rng : np.random.Generator or int, optional
        For "random".
    """

    def __init__(
        self,
        size: int,
        order: Literal["random", "cyclic"] = "random",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
            raise ValueError(f"size: expected an integer of at least 1, got {size!r}")
        if order not in ("random", "cyclic"):
            raise ValueError(f"order: expected 'random' or 'cyclic', got {order!r}")
        self.size = int(size)
        self.order = order
        self.rng = as_generator(rng)
        self.at = self.before = 0

    def entries(self, parameters: list[Parameter]) -> Chosen:
        """Return which entries the next block has."""
        ends = np.cumsum([p.value.size for p in parameters])
        total = int(ends[-1]) if len(ends) else 0
        self.before = self.at
        if self.order == "random":
            block = _drawn(total, min(self.size, total), self.rng)
        else:
            last = self.at + min(self.size, total)
            block = np.arange(self.at, min(last, total))
            if last > total:  # and on from the start
                block = np.concatenate([np.arange(last - total), block])
            self.at = (self.at + self.size) % total
        cuts = np.searchsorted(block, ends).tolist()
        return {
            id(p): block[first:last] - (end - p.value.size)
            for p, end, first, last in zip(parameters, ends.tolist(), [0, *cuts], cuts, strict=False)
            if last > first
        }

    def put_back(self) -> None:
        """Let the last block be the next one again, where it did not have its turn."""
        self.at = self.before

    def state_dict(self) -> dict[str, Any]:
        """Return what the next blocks depend on."""
        return {"rng": self.rng.bit_generator.state, "at": self.at, "before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.rng.bit_generator.state = state["rng"]
        self.at, self.before = state["at"], state["before"]

    def __repr__(self) -> str:
        return f"Blocks({self.size}, {self.order!r})"


def _drawn(total: int, count: int, rng: np.random.Generator) -> Entries:
    """Draw so many different numbers below total, ascending."""
    found = rng.choice(total, count, replace=False, shuffle=False)
    if MANY * count < total:
        return np.sort(found)
    mask = np.zeros(total, bool)  # sooner than sorting
    mask[found] = True
    return np.flatnonzero(mask)


Only = Blocks | Parameter | str | Iterable[Parameter | str] | Mapping[Any, Any]


def choose(only: Only | None, model: Layer) -> Chosen | None:
    """Return which entries `only` asks for; None: every entry of every parameter.

    Parameters
    ----------
    only : Blocks; a Parameter or its name, or several; a mapping from these to masks of the parameter's shape
        A parameter that is not mentioned, or of which nothing is asked for, is not in the answer.
    """
    if only is None:
        return None
    if isinstance(only, Blocks):
        return only.entries([p for p in model.parameters() if p.trainable])
    by_name = dict(model.named_parameters())
    own = {id(p): name for name, p in by_name.items()}
    if isinstance(only, Mapping):
        items = list(only.items())
    else:
        items = [(key, True) for key in ([only] if isinstance(only, Parameter | str) else only)]
    chosen: Chosen = {}
    for key, wanted in items:
        parameter = by_name.get(key) if isinstance(key, str) else key
        if not isinstance(parameter, Parameter) or id(parameter) not in own:
            raise KeyError(f"only: expected parameters of the model or their names ({', '.join(by_name)}), got {key!r}")
        mask = np.full(parameter.value.shape, wanted) if isinstance(wanted, bool) else np.asarray(wanted)
        if mask.dtype != bool or mask.shape != parameter.value.shape:
            raise ValueError(
                f"only: expected a mask of bool of shape {parameter.value.shape} for {own[id(parameter)]}, got "
                f"{mask.dtype} of shape {mask.shape}"
            )
        chosen[id(parameter)] = np.flatnonzero(mask)
    return {key: entries for key, entries in chosen.items() if len(entries)}
