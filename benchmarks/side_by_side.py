"""Timing several ways to do one thing, in turn, so that the machine's moods fall on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

ENOUGH = 0.02  # seconds that one measurement should last
GLANCE = 0.01  # seconds between two looks at whether the process is idle


def measure(ways: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """Median seconds of a call, for each way; the ways take turns, `rounds` times, after a warm-up."""
    repeats = {}
    for name, way in ways.items():
        way()
        start = time.perf_counter()
        way()
        once = time.perf_counter() - start
        repeats[name] = max(1, min(10000, int(ENOUGH / max(once, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            settle()
            way()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                way()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(each) for name, each in times.items()}


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
