"""Timing several ways to do one thing, in turn, so that the machine's moods fall on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

from peers import Peer, set_threads

import nnframe as nn

ENOUGH = 0.02  # seconds that one measurement should last
GLANCE = 0.01  # seconds between two looks at whether the process is idle

Way = Callable[[], object] | Peer


def measure(
    ways: dict[str, Way],
    rounds: int = 7,
    reduce: Callable[[Iterable[float]], float] = statistics.median,
    enough: float = ENOUGH,
) -> dict[str, float]:
    """Seconds of a call, for each way: `reduce` of the rounds; the ways take turns, after a warm-up.

    A peer counts at the better one of its numbers of threads. Where nnframe has one thread, the clock is that of the
    thread, which stands still while another process runs.
    """
    all_threads = nn.get_num_threads()
    clock = time.thread_time if all_threads == 1 else time.perf_counter
    turns = [(name, way, threads) for name, way in ways.items() for threads in _threads(way, all_threads)]
    repeats = [_repeats(way, threads, enough) for _, way, threads in turns]
    times: list[list[float]] = [[] for _ in turns]
    for _ in range(rounds):
        for (_, way, threads), count, found in zip(turns, repeats, times, strict=True):
            call = way.call if isinstance(way, Peer) else way
            set_threads(threads)
            if all_threads > 1:
                settle()
            call()
            start = clock()
            for _ in range(count):
                call()
            found.append((clock() - start) / count)
    best: dict[str, float] = {}
    for (name, _, _), found in zip(turns, times, strict=True):
        best[name] = min(best.get(name, float("inf")), reduce(found))
    return best


def _threads(way: Way, all_threads: int) -> list[int]:
    """The numbers of threads that NumPy and PyTorch are to have, in turn."""
    return sorted({1, all_threads}) if isinstance(way, Peer) else [all_threads]


def _repeats(way: Way, threads: int, enough: float) -> int:
    call = way.call if isinstance(way, Peer) else way
    set_threads(threads)
    call()
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    return max(1, min(10000, int(enough / max(once, 1e-9))))


def settle() -> None:
    """Wait until no thread of this process works: a pool may spin for a tenth of a second after its last call."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(GLANCE)
        if time.process_time() - before < GLANCE / 10:
            return


def seconds(value: float) -> str:
    """`value` with a unit that leaves two or three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
