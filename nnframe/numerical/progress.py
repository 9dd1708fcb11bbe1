"""Reports of progress: a bar, or calls of a function."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any


class Progress:
    """Counts evaluations for whoever wants to know: True for a bar (tqdm), or `progress(done, total)`.

    total is an estimate where the number of evaluations depends on what they give.
    """

    def __init__(self, progress: bool | Callable[[int, int], object], total: int) -> None:
        if not isinstance(progress, bool) and not callable(progress):
            raise TypeError(f"progress: expected True, False or a callable, got {progress!r}")
        self.progress, self.done, self.total = progress, 0, total
        self.bar: Any = None

    def __enter__(self) -> Callable[[int], object] | None:
        if self.progress is True:
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, unit=" evaluations", dynamic_ncols=True)
        return None if self.progress is False else self._advance

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self.bar is not None:
            if kind is None:
                self.bar.total = self.done
            self.bar.close()

    def _advance(self, count: int) -> None:
        self.done += count
        self.total = max(self.total, self.done)
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.update(count)
        elif callable(self.progress):
            self.progress(self.done, self.total)
