"""Threads: the same bits from any number, several callers at once, life after fork."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import nnframe as nn
from nnframe import kernels
from nnframe.kernels import _kernels


def everything(rng, dtype):
    """One large call of each kernel that uses threads."""
    a, b = rng.standard_normal((300, 310)).astype(dtype), rng.standard_normal((310, 290)).astype(dtype)
    stack = rng.standard_normal((64, 40, 30)).astype(dtype), rng.standard_normal((64, 30, 50)).astype(dtype)
    logits, labels = rng.standard_normal((5000, 10)).astype(dtype), rng.integers(0, 10, 5000)
    wide = rng.standard_normal((60, 1000)).astype(dtype)
    x = rng.standard_normal(200_000).astype(dtype)
    y = kernels.activation("sigmoid", x)
    return [
        kernels.batched_matmul(a, b),
        kernels.batched_matmul(a, b.T.copy(), transpose_b=True),
        kernels.batched_matmul(a.T.copy(), b, transpose_a=True),
        kernels.batched_matmul(*stack),
        kernels.linear(a, b.T.copy(), b[0].copy(), activation="tanh"),
        *map(np.asarray, kernels.softmax_cross_entropy(logits, labels)),
        kernels.softmax(wide),
        y,
        kernels.activation_backward("tanh", x, kernels.activation("tanh", x), x),
        kernels.activation_difference("sigmoid", x[:50_000], y[:50_000], x.reshape(4, 50_000)),
    ]


def test_the_same_bits_with_any_number_of_threads(simd, dtype, threads):
    found = []
    for n in (1, 2, 3, 8):
        threads(n)
        assert nn.get_num_threads() == n
        found.append(everything(np.random.default_rng(1), dtype))
    for more in found[1:]:
        for one, other in zip(found[0], more, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_same_bits_with_more_threads_than_processors(dtype, threads):
    threads(1)
    expected = everything(np.random.default_rng(1), dtype)
    _kernels.set_num_threads(8, 8)
    for _ in range(5):
        for one, other in zip(expected, everything(np.random.default_rng(1), dtype), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_no_more_threads_run_than_there_are_processors():
    code = """
import os, numpy as np
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import nnframe as nn
nn.set_num_threads(8)
before = len(os.listdir("/proc/self/task"))
a = np.ones((500, 500))
for _ in range(5):
    nn.kernels.batched_matmul(a, a)
print(nn.get_num_threads(), len(os.listdir("/proc/self/task")) - before)
nn.kernels._kernels.set_num_threads(3, 3)
for _ in range(5):
    nn.kernels.batched_matmul(a, a)
print(len(os.listdir("/proc/self/task")) - before)
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split() == ["8", "0", "2"]


def test_several_python_threads_at_once(threads):
    threads(2)
    expected = everything(np.random.default_rng(1), np.float32)
    wrong = []

    def work():
        for _ in range(3):
            for one, other in zip(expected, everything(np.random.default_rng(1), np.float32), strict=True):
                if not np.array_equal(one, other):
                    wrong.append(one.shape)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_life_after_fork():
    # in a process of its own: pytest and its plugins may hold threads, of which fork warns
    code = """
import os, numpy as np, nnframe as nn
nn.set_num_threads(2)
a = np.ones((400, 400))
expected = nn.kernels.batched_matmul(a, a)
child = os.fork()
if child == 0:
    same = np.array_equal(nn.kernels.batched_matmul(a, a), expected)
    os._exit(0 if same else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert np.array_equal(nn.kernels.batched_matmul(a, a), expected)
"""
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NNFRAME_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3"),
        ({"OMP_NUM_THREADS": "5,2"}, "5"),
        ({"NNFRAME_NUM_THREADS": "none"}, "NNFRAME_NUM_THREADS: expected a whole number above 0, got 'none'"),
        ({"NNFRAME_SIMD": "mmx"}, "NNFRAME_SIMD: expected one of"),
        ({"NNFRAME_KERNELS": "fortran"}, "NNFRAME_KERNELS: expected c or reference, got 'fortran'"),
    ],
)
def test_environment(environment, expected):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("NNFRAME_") and k != "OMP_NUM_THREADS"}
    code = "import nnframe as nn; print(nn.get_num_threads())"
    run = subprocess.run([sys.executable, "-P", "-c", code], env=clean | environment, capture_output=True, text=True)
    assert expected in run.stdout + run.stderr
    assert (run.returncode == 0) == expected.isdigit()


@pytest.mark.parametrize("name", ["scalar", "reference"])
def test_the_environment_chooses_the_kernels(name):
    variable = {"NNFRAME_SIMD": name} if name == "scalar" else {"NNFRAME_KERNELS": name}
    code = "import nnframe as nn; print(nn.config_info()['simd'], nn.kernels.batched_matmul([[2.0]], [[3.0]])[0, 0])"
    run = subprocess.run([sys.executable, "-P", "-c", code], env=os.environ | variable, capture_output=True, text=True)
    assert run.stdout.split() == [name, "6.0"], run.stderr


def test_refused():
    for n, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="n: expected"):
            nn.set_num_threads(n)
