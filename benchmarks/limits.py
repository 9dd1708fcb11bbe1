"""What this machine can do at most, measured by small C programs: the bounds that the tables compare with."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

PEAK = r"""
#include <stdio.h>
#include <time.h>
typedef TYPE V __attribute__((vector_size(BYTES)));
int main(void) {
    double best = 0;
    for (int rep = 0; rep < 8; rep++) {
        V s[COUNT], a = (V){0} + (TYPE)1.0000001, b = (V){0} + (TYPE)1e-9;
        struct timespec t0, t1;
        const long n = 3000000;
        for (int i = 0; i < COUNT; i++) s[i] = (V){0} + (TYPE)i;
        clock_gettime(CLOCK_MONOTONIC, &t0);
        for (long k = 0; k < n; k++) {
#pragma GCC unroll 16
            for (int i = 0; i < COUNT; i++) s[i] = s[i] * a + b;
            __asm__ volatile("" : "+m"(*(char *)&best));
        }
        clock_gettime(CLOCK_MONOTONIC, &t1);
        V sum = s[0];
        for (int i = 1; i < COUNT; i++) sum += s[i];
        const double seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
        const double rate = 2.0 * COUNT * (BYTES / sizeof(TYPE)) * (double)n / seconds;
        if (rate > best && sum[0] != 0) best = rate;
    }
    printf("%g\n", best);
    return 0;
}
"""


@functools.cache
def peak(dtype: str, width: int = 64) -> float | None:
    """Multiplications and additions a second of one core, in vectors of `width` bytes in registers; None without cc."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "peak.c"), Path(folder, "peak")
        source.write_text(PEAK)
        kind = "float" if dtype == "float32" else "double"
        options = [f"-DTYPE={kind}", f"-DBYTES={width}", "-DCOUNT=14", "-O3", "-march=native", "-ffp-contract=fast"]
        built = subprocess.run([compiler, *options, "-o", program, source], capture_output=True, check=False)
        if built.returncode:
            return None
        return float(subprocess.run([program], capture_output=True, check=True).stdout)
