"""`workers` as SciPy takes it: processes, or any map-like callable, that evaluate a function at several points."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Map = Callable[[Callable[[Any], Any], Sequence[Any]], Any]


class Workers:
    """A number of processes (-1: one for each processor), or a map-like callable; entered, it gives a map or None."""

    def __init__(self, workers: int | Callable[..., Any]) -> None:
        if not callable(workers) and (not isinstance(workers, int | np.integer) or isinstance(workers, bool)):
            raise TypeError(f"workers: expected an integer or a map-like callable, got {workers!r}")
        if not callable(workers) and (workers == 0 or workers < -1):
            raise ValueError(f"workers: expected a number of processes, or -1 for all processors, got {workers}")
        self.workers = workers
        self.pool: Any = None

    def __enter__(self) -> Map | None:
        if callable(self.workers):
            return self.workers
        self.count = (os.cpu_count() or 1) if self.workers == -1 else int(self.workers)
        return None if self.count == 1 else self._in_processes

    def __exit__(self, kind: object, *_: object) -> None:
        if self.pool is None:
            return
        processes = list((getattr(self.pool, "_processes", None) or {}).values())
        self.pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:  # what they work on is of no use any more
            for process in processes:
                process.terminate()

    def _in_processes(self, task: Callable[[Any], Any], items: Sequence[Any]) -> Any:
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        try:
            pickle.dumps(task)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                "f: expected a function that can be pickled, defined at the top of a module, as processes are sent it "
                f"(workers); got one that cannot: {error}"
            ) from error
        if self.pool is None:
            self.pool = ProcessPoolExecutor(self.count)
        try:
            size = max(1, len(items) // (4 * self.count))
            yield from self.pool.map(_Portable(task), items, chunksize=size)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "workers: a process ended before it had evaluated f (killed, out of memory, or f ended it); a script "
                'that starts processes needs `if __name__ == "__main__":`'
            ) from error


class _Portable:
    """A task whose errors can be sent to another process."""

    def __init__(self, task: Callable[[Any], Any]) -> None:
        self.task = task

    def __call__(self, item: Any) -> Any:
        try:
            return self.task(item)
        except Exception as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                raise RuntimeError(f"f: raised {type(error).__name__}: {error}") from None
            raise
