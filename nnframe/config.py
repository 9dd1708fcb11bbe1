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
ROOT = Path("/")  # of the files in which Linux reports what a process may use


def set_num_threads(n: int) -> None:
    """Let the kernels use up to `n` threads, n >= 1, at most 256. The same bits come from any number.

    More threads than this process may use processors now would stand in each other's way, and do not run at a time.
    """
    if not isinstance(n, int | np.integer) or isinstance(n, bool):
        raise TypeError(f"n: expected an integer, got {n!r}")
    if n < 1:
        raise ValueError(f"n: expected at least 1 thread, got {n}")
    _kernels.set_num_threads(min(int(n), MOST_THREADS), processors())


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


def default_num_threads(environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> int:
    """NNFRAME_NUM_THREADS, else OMP_NUM_THREADS, else the processors that this process may use; at most 256."""
    for name in ("NNFRAME_NUM_THREADS", "OMP_NUM_THREADS"):
        text = environ.get(name, "").partition(",")[0].strip()
        count = _count(text)
        if count:
            return count
        if text and name == "NNFRAME_NUM_THREADS":
            raise ValueError(f"{name}: expected a whole number above 0, got {environ[name]!r}")
    return min(processors(root), MOST_THREADS)


def processors(root: Path = ROOT) -> int:
    """Return how many processors this process may use at a time, by its affinity and CPU quota, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *_quotas(root)]))


def _count(text: str) -> int:
    """Return `text` as a whole number above 0, at most MOST_THREADS; 0 where it is none."""
    digits = text.lstrip("0")
    if not digits.isdecimal():
        return 0
    return MOST_THREADS if len(digits) > 9 else min(int(digits), MOST_THREADS)


def _quotas(root: Path) -> list[int]:
    """Return how many processors, at least 1, each of this process's control groups allows that has a quota.

    A group's quota holds for all groups in it. A container may see its own group as the uppermost one, whatever name
    the process's list of groups gives it; groups that are not found are passed over.
    """
    paths = {"": "", "cpu": ""}  # of the group in version 2, and in version 1's hierarchy for processors
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update({name: path.strip("/") for name in controllers.split(",") if name in paths})
    found = []
    for version, uppermost in (("", root / "sys/fs/cgroup"), ("cpu", root / "sys/fs/cgroup/cpu")):
        parts = Path(paths[version]).parts
        for depth in range(len(parts) + 1 if ".." not in parts else 1):
            quota = _quota(uppermost.joinpath(*parts[:depth]))
            found += [] if quota is None else [quota]
    return found


def _quota(group: Path) -> int | None:
    """Return how many processors one control group allows; None without a quota."""
    text = _read(group / "cpu.max") or f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    try:
        quota, period = map(int, text.split())  # "max 100000" or -1: no quota
    except ValueError:
        return None
    return max(1, round(quota / period)) if quota > 0 and period > 0 else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""
