"""Threads and instruction set: what nnframe runs on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nnframe._version import __version__
from nnframe.kernels import _kernels

MOST_THREADS = 256  # as many as the thread pool (csrc/pool.c) has
CGROUP = Path("/sys/fs/cgroup")  # where Linux reports what a container may use


def set_num_threads(n: int) -> None:
    """Let the kernels use up to `n` threads, n >= 1, at most 256. The same bits come from any number."""
    if not isinstance(n, int | np.integer) or isinstance(n, bool):
        raise TypeError(f"n: expected an integer, got {n!r}")
    if n < 1:
        raise ValueError(f"n: expected at least 1 thread, got {n}")
    _kernels.set_num_threads(min(int(n), MOST_THREADS))


def get_num_threads() -> int:
    """How many threads the kernels may use."""
    return _kernels.get_num_threads()


def config_info() -> dict[str, str]:
    """Versions, instruction set and threads, as text."""
    return {
        "nnframe": __version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "platform": sys.platform,
        "compiler": _kernels.compiler(),
        "simd": _kernels.get_simd(),
        "simd available": ", ".join(_kernels.simd_available()),
        "threads": str(get_num_threads()),
    }


def show_config() -> None:
    """Print versions, instruction set and threads: what a bug report needs."""
    info = config_info()
    width = max(map(len, info))
    for name, value in info.items():
        print(f"{name:<{width}}  {value}")


def default_num_threads(environ: Mapping[str, str] = os.environ, cgroup: Path = CGROUP) -> int:
    """NNFRAME_NUM_THREADS, else OMP_NUM_THREADS, else the processors that this process may use; at most 256."""
    for name in ("NNFRAME_NUM_THREADS", "OMP_NUM_THREADS"):
        text = environ.get(name, "").partition(",")[0].strip()
        count = _count(text)
        if count:
            return count
        if text and name == "NNFRAME_NUM_THREADS":
            raise ValueError(f"{name}: expected a whole number above 0, got {environ[name]!r}")
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _quota(cgroup) or affinity, MOST_THREADS))


def _count(text: str) -> int:
    """Return `text` as a whole number above 0, at most MOST_THREADS; 0 where it is none."""
    digits = text.lstrip("0")
    if not digits.isdecimal():
        return 0
    return MOST_THREADS if len(digits) > 9 else min(int(digits), MOST_THREADS)


def _quota(cgroup: Path) -> int | None:
    """Return how many processors a container's CPU quota allows, at least 1 (cgroup v2, then v1); None without one."""
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = map(int, (cgroup / "cpu.max").read_text().split())  # "max 100000": no quota
        else:
            quota = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
            period = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return max(1, round(quota / period)) if quota > 0 and period > 0 else None  # -1: no quota
