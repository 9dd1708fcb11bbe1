"""Ctrl-C at a moment where nothing is half done."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class DeferredInterrupt:
    """Lets Ctrl-C raise KeyboardInterrupt as ever, except between `hold()` and `release()`: there it waits.

    A context manager; outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.held = False
        self.waiting = False
        self.previous: Any = None

    def __enter__(self) -> DeferredInterrupt:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self.previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)

    def hold(self) -> None:
        """From here on, Ctrl-C waits."""
        self.held = True

    def release(self) -> None:
        """Raise the KeyboardInterrupt that waited, if there is one."""
        self.held = False
        if self.waiting:
            self.waiting = False
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.held:
            raise KeyboardInterrupt
        self.waiting = True
