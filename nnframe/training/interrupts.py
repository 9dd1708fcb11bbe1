"""Ctrl-C, and other signals that end a process, at a moment where nothing is half done."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class _Handlers:
    """A context manager that puts its own handlers in the place of some, in the main thread; others get no signals."""

    def __init__(self) -> None:
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers():
                self.previous[number] = signal.getsignal(number)
                signal.signal(number, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def numbers(self) -> list[int]:
        """Return the signals to handle."""
        raise NotImplementedError

    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise NotImplementedError


class Termination(_Handlers):
    """Lets signals that would end the process on the spot raise KeyboardInterrupt, as Ctrl-C does.

    These are SIGTERM (`kill`, a scheduler, a container that is stopped) and SIGHUP (a terminal that is closed), unless
    they are ignored or handled already.

    Attributes
    ----------
    number : int
        Which signal came; 0 if none did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def numbers(self) -> list[int]:
        names = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
        known = [getattr(signal, name) for name in names if hasattr(signal, name)]
        return [number for number in known if signal.getsignal(number) is signal.SIG_DFL]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt


class DeferredInterrupt(_Handlers):
    """Lets Ctrl-C raise KeyboardInterrupt as ever, except between `hold()` and `release()`: there it waits.

    The same for the signals of a `Termination` that is in force. A context manager; outside the main thread, where
    Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.waiting = 0

    def numbers(self) -> list[int]:
        handlers = [(number, signal.getsignal(number)) for number in signal.valid_signals()]
        return [
            number
            for number, handler in handlers
            if handler is signal.default_int_handler or isinstance(handler, Termination)
        ]

    def hold(self) -> None:
        """From here on, signals wait."""
        self.held = True

    def release(self) -> None:
        """Raise the KeyboardInterrupt that waited, if there is one."""
        self.held = False
        if self.waiting:
            number, self.waiting = self.waiting, 0
            self.previous[number](number, None)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.held:
            self.waiting = number
        else:
            self.previous[number](number, frame)
