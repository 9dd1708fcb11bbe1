"""benchmarks/peers.py: no ratio over a library that was held back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(code, **environment):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_what_holds_openblas_back_is_taken_out_before_numpy_is_loaded():
    pytest.importorskip("threadpoolctl")
    code = "import os, peers; print(peers.ratio(3.0, 2.0), sorted(set(peers.HOLDING) & set(os.environ)))"
    held = {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "262144"}
    assert run(code, **held) == ["1.50 []"]
    kernels = "import peers; print([i.info()['architecture'] for i in peers._blas() if 'architecture' in i.info()])"
    assert run(kernels, OPENBLAS_CORETYPE="Prescott") == run(kernels)


def test_too_late_gives_a_word_in_place_of_a_ratio():
    code = "import numpy, peers; print(peers.ratio(3.0, 2.0)); print(peers.description())"
    lines = run(code, OPENBLAS_CORETYPE="Haswell")
    assert lines[0] == "held back"
    assert lines[-1] == "taken out of the environment: OPENBLAS_CORETYPE, too late"


def test_a_peer_counts_at_its_better_number_of_threads():
    code = """
import peers, side_by_side, time, nnframe as nn
nn.set_num_threads(2)
threads = []
peers.set_threads = side_by_side.set_threads = threads.append
slow = lambda: time.sleep(0.02 if threads[-1] == 2 else 0.001)
times = side_by_side.measure({"peer": peers.Peer(slow)}, 2, enough=0.001)
print(times["peer"] < 0.015, sorted(set(threads)))
"""
    assert run(code) == ["True [1, 2]"]
