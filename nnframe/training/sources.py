"""Where mini-batches come from: rows of arrays, or whatever yields them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from nnframe._checks import as_count
from nnframe.data.loader import DataLoader, as_pair


class Rows:
    """Mini-batches of a `DataLoader`, whose order can be drawn again.

    Attributes
    ----------
    steps : int or None
        Of an epoch.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.steps: int | None = len(loader)
        self.began: Any = None  # random state before the order of this epoch was drawn; None between epochs

    def batches(self, step: int, taken: int) -> Iterator[Any]:
        """Yield the mini-batches of an epoch but for the first `step`, in the order that it had before a resume."""
        generator = self.loader.rng.bit_generator
        if self.began is None:
            self.began = generator.state
            return self.loader.batches(self.loader.order())
        now, generator.state = generator.state, self.began
        order = self.loader.order()
        generator.state = now
        return self.loader.batches(order, step)

    def end_epoch(self) -> None:
        """Let the next order be a new one."""
        self.began = None

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same when a run goes on."""
        loader = self.loader
        return {
            "rows": len(loader.t),
            "batch_size": loader.batch_size,
            "shuffle": loader.shuffle,
            "replacement": loader.replacement,
            "weighted": loader.t.dtype.names is not None,
            "generator": type(loader.rng.bit_generator).__name__,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the order of this epoch, and what the next one depends on."""
        return {"began": self.began, "rng": self.loader.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.began, self.loader.rng.bit_generator.state = state["began"], state["rng"]


class Stream:
    """Mini-batches from an iterable, a function that returns one, or an iterator such as a generator.

    A run that goes on leaves out what it has seen: of an iterator all mini-batches, else those of this epoch. It ends
    with the same bits if the same mini-batches come again.

    Parameters
    ----------
    source : iterable, iterator or callable
        Yields pairs (x, t).
    steps : int, optional
        Of an epoch. An iterator needs it, and goes on with the next epoch where this one ended; of an iterable, an
        epoch is the whole if it is not given.
    check : callable
        Refuses the numbers of a mini-batch, called with (x, t, name).
    """

    def __init__(self, source: Any, steps: int | None, check: Callable[[Any, Any, str], None]) -> None:
        self.source, self.check, self.began = source, check, False
        self.once = isinstance(source, Iterator)
        if not callable(source) and not hasattr(source, "__iter__"):
            raise TypeError(f"x: expected arrays with t, or what yields mini-batches (x, t), got {source!r}")
        if self.once and steps is None:
            raise ValueError("steps_per_epoch: expected a number with an iterator, whose end may never come, got None")
        self.limit = None if steps is None else as_count("steps_per_epoch", steps)
        self.steps = self.limit or (len(source) if hasattr(source, "__len__") else None)

    def batches(self, step: int, taken: int) -> Iterator[Any]:
        """Yield the mini-batches of an epoch but for the first `step`."""
        skip = step if not self.once else 0 if self.began else taken
        self.began = True
        source = self.source() if callable(self.source) else self.source
        return self._checked(itertools.islice(iter(source), skip, None), step)

    def _checked(self, batches: Iterator[Any], step: int) -> Iterator[Any]:
        limited = batches if self.limit is None else itertools.islice(batches, self.limit - step)
        count = step
        for count, batch in enumerate(limited, step + 1):
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise TypeError(f"mini-batch {count}: expected a pair (x, t), got {type(batch).__name__}")
            x, t = as_pair(batch[0], batch[1], f"mini-batch {count}")
            self.check(x, t, f"mini-batch {count}")
            yield x, t
        if count < (self.limit or 1):
            raise ValueError(f"x: expected {self.limit or 'at least one'} mini-batches in an epoch, got {count}")

    def end_epoch(self) -> None:
        """Do nothing: the next epoch is another pass."""

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same when a run goes on."""
        return {"steps_per_epoch": self.limit, "iterator": self.once}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the place says it all."""
        return {"began": True}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""
