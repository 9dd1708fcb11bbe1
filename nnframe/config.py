"""Threads and instruction set: what nnframe runs on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from nnframe._version import __version__
from nnframe.kernels import _kernels


def set_num_threads(n: int) -> None:
    """Let the kernels use up to `n` threads, n >= 1. The same bits come from any number."""
    if not isinstance(n, int | np.integer) or isinstance(n, bool):
        raise TypeError(f"n: expected an integer, got {n!r}")
    if n < 1:
        raise ValueError(f"n: expected at least 1 thread, got {n}")
    _kernels.set_num_threads(int(n))


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


def default_num_threads() -> int:
    """NNFRAME_NUM_THREADS, else OMP_NUM_THREADS, else the processors that this process may use."""
    for name in ("NNFRAME_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").partition(",")[0].strip()
        if text.isdecimal() and int(text) > 0:
            return int(text)
        if text and name == "NNFRAME_NUM_THREADS":
            raise ValueError(f"{name}: expected a whole number above 0, got {os.environ[name]!r}")
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _quota(affinity)))


def _quota(otherwise: int) -> int:
    """Whole processors that a container's CPU quota allows (cgroup v2, then v1)."""
    try:
        text = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        quota, period = text[0], text[1]
    except (OSError, IndexError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return otherwise
    if quota in ("max", "-1"):
        return otherwise
    return max(1, round(int(quota) / int(period)))
