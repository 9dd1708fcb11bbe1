"""Interrupts: a signal ends the call that it came to, and no other; a child forked by its handler computes the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals and fork")

PREPARE = """
import os, signal, threading, time
import numpy as np
import nnframe as nn
nn.set_num_threads(2)
rng = np.random.default_rng(0)
parts = nn.Linear(300, 60, rng=0), nn.Sigmoid(), nn.Linear(60, 60, rng=1), nn.Sigmoid(), nn.Linear(60, 10, rng=2)
model = nn.Sequential(*parts)
x, t = rng.standard_normal((400, 300)).astype(np.float32), rng.integers(0, 10, 400)
small = nn.Sequential(nn.Linear(20, 10, rng=0), nn.Sigmoid(), nn.Linear(10, 10, rng=1))
loss, strategy = nn.CrossEntropyLoss(), nn.CentralDifference(interpolate=False)

def gradient(model, x, t):
    strategy(model, loss, x, t)
    return [p.grad.copy() for p in model.parameters()]

def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

def ring(*_):
    raise TimeoutError
"""


def run(code):
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", PREPARE + code], check=True, timeout=120)


def test_interrupts_of_several_callers(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    program = tmp_path / "interrupts"
    flags = ["-std=c11", "-O2", "-pthread", f"-I{CSRC}", "-Dclock_gettime=fast_clock", "-o", program]
    subprocess.run([compiler, *flags, HERE / "interrupts.c", CSRC / "pool.c"], check=True)
    found = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout


def test_an_interrupt_leaves_the_products_of_other_threads_whole():
    run("""
a = rng.standard_normal((1500, 1500))
expected = nn.kernels.batched_matmul(a, a)
signal.signal(signal.SIGALRM, ring)
found, stopped = [], 0
for round in range(5):
    other = threading.Thread(target=lambda: [found.append(nn.kernels.batched_matmul(a, a)) for _ in range(4)])
    other.start()
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        gradient(model, x, t)
    except TimeoutError:
        stopped += 1
    other.join()
assert stopped, "nothing was interrupted: the test shows nothing"
assert all(np.array_equal(one, expected) for one in found)
""")


def test_a_handler_may_take_a_gradient_in_the_middle_of_one():
    run("""
inner, alone = [], gradient(small, x[:50, :20], t[:50])
def handler(*_):
    inner.append(gradient(small, x[:50, :20], t[:50]))
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.02)    # the gradient around this one must still hear of it
signal.signal(signal.SIGALRM, handler)
whole = time.monotonic()
expected = gradient(model, x, t)
whole = time.monotonic() - whole
signal.setitimer(signal.ITIMER_REAL, 0.02)
start = time.monotonic()
try:
    gradient(model, x, t)
    raise SystemExit("the second signal was not heard")
except TimeoutError:
    pass
assert time.monotonic() - start < whole, "it was not heard in time"
assert same(inner[0], alone)
assert same(gradient(model, x, t), expected)
""")


def test_a_child_forked_by_a_handler_computes_the_same():
    run("""
expected, children = gradient(model, x, t), []
parent = os.getpid()
signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
signal.setitimer(signal.ITIMER_REAL, 0.02)
found = gradient(model, x, t)
if os.getpid() != parent:
    os._exit(0 if same(found, expected) and same(gradient(model, x, t), expected) else 1)
assert children, "no child was forked: the test shows nothing"
assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0, "the child's gradient is wrong"
assert same(found, expected)
""")
