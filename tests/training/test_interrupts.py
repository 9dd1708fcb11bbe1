"""Signals that end a process wait where something is half done."""

import os
import signal
import threading

import pytest

from nnframe.training.interrupts import DeferredInterrupt, Termination

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before, "handlers are not those from before"


def press(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_is_as_ctrl_c(number):
    with Termination() as termination:
        assert termination.number == 0
        with pytest.raises(KeyboardInterrupt):
            press(number)
        assert termination.number == number


def test_what_is_ignored_or_handled_stays_so():
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Termination() as termination, DeferredInterrupt() as interrupt:
            press(signal.SIGHUP)
            interrupt.hold()
            press(signal.SIGTERM)
            assert came == [signal.SIGTERM], "somebody else's handler is called at once"
            interrupt.release()
        assert termination.number == 0
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, ignored)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_wait_while_they_are_held(number):
    with Termination() as termination, DeferredInterrupt() as interrupt:
        for _ in range(2):
            interrupt.hold()
            press(number)
            press(number)
            assert termination.number == 0, "it waits"
            with pytest.raises(KeyboardInterrupt):
                interrupt.release()
            assert termination.number == (0 if number == signal.SIGINT else number)
            termination.number = 0
            interrupt.release()  # once is enough
        with pytest.raises(KeyboardInterrupt):
            press(number)


def test_other_threads_get_no_signals():
    found = []

    def work():
        with Termination(), DeferredInterrupt() as interrupt:
            interrupt.hold()
            interrupt.release()
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
