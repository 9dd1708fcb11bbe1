"""The libraries that nnframe is compared with, at their best, or no ratio at all.

Import this before NumPy. OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE hold NumPy to other kernels than its best ones, so they
are taken out of the environment. Each peer is timed on one thread and on as many as nnframe uses, and the faster
counts: waiting threads make OpenBLAS and PyTorch collapse on a busy machine. Where either cannot be had, `ratio` gives
a word instead of a number.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOLDING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_taken_out = [name for name in HOLDING if os.environ.pop(name, None) is not None]
_too_late = bool(_taken_out) and "numpy" in sys.modules

import numpy as np  # noqa: E402

import nnframe as nn  # noqa: E402

try:
    from threadpoolctl import ThreadpoolController
except ImportError:
    ThreadpoolController = None


@dataclass(frozen=True)
class Peer:
    """A call of another library; `measure` times it on one thread and on all."""

    call: Callable[[], object]


def import_torch() -> Any:
    """Return PyTorch, or None."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def set_threads(threads: int) -> None:
    """Set how many threads NumPy and PyTorch use."""
    for library in _blas():
        library.set_num_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _blas() -> list[Any]:
    if ThreadpoolController is None:
        return []
    return [each for each in ThreadpoolController().lib_controllers if each.user_api == "blas"]


def doubt() -> str | None:
    """Say in two words why no ratio counts; None if it does."""
    if _too_late:
        return "held back"  # NumPy was loaded while one of HOLDING was set
    if ThreadpoolController is None:
        return "kernels unknown"  # nor can its threads be set
    return None


def ratio(theirs: float, ours: float, digits: int = 2) -> str:
    """How many times as fast as a peer nnframe is, or a word where that would not be honest."""
    return doubt() or f"{theirs / ours:,.{digits}f}"


def description() -> str:
    """Processor, caches, threads, and the kernels that each library runs."""
    lines = [f"processor: {_processor()}; caches: {_caches()}"]
    count = "1 thread" if nn.get_num_threads() == 1 else f"{nn.get_num_threads()} threads"
    lines.append(f"nnframe: {nn.config_info()['simd']}, {count}")
    threads = count if count == "1 thread" else f"the better of 1 and {count}"
    libraries = [each.info() for each in _blas()]
    for info in libraries:
        name = f"{info['internal_api']} {info['version']}, {info.get('architecture', 'unknown')} kernels"
        owner = f"NumPy {np.__version__}" if "numpy" in info["filepath"] else "another library"
        lines.append(f"{owner}: {name}, {threads}")
    if not libraries:
        lines.append(f"NumPy {np.__version__}: {doubt() or 'no BLAS that threadpoolctl knows'}")
    torch = import_torch()
    if torch:
        kernels = torch.backends.cpu.get_cpu_capability() + (" and MKL" if torch.backends.mkl.is_available() else "")
        lines.append(f"PyTorch {torch.__version__}: {kernels} kernels, {threads}")
    if _taken_out:
        lines.append(f"taken out of the environment: {', '.join(_taken_out)}{', too late' if _too_late else ''}")
    return "\n".join(lines)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = [line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line]
    fields = {key.strip(): value.strip() for key, value in pairs}
    numbers = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{fields.get('model name', platform.machine())} ({', '.join(numbers)}), {os.cpu_count()} logical cores"


def _caches() -> str:
    found = []
    for each in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (Path(each, name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return ", ".join(found) or "unknown"
