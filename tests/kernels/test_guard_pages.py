"""No kernel reads or writes a byte beyond its arrays: each call of guarded.py, on every instruction set, lives."""

import subprocess
import sys
from pathlib import Path

import pytest

from nnframe.kernels import _kernels

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("simd", _kernels.simd_available())
def test_nothing_beyond_an_array_is_touched(simd, dtype, tmp_path):
    report = tmp_path / "call"
    command = [sys.executable, "-P", Path(__file__).with_name("guarded.py"), simd, dtype, report]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    call = report.read_text().strip() if report.exists() else "no call yet"
    assert (run.returncode, call) == (0, "done"), run.stderr
