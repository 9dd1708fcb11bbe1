import numpy as np
import pytest
from hypothesis import settings

import nnframe as nn
from nnframe.kernels import _kernels

settings.register_profile("same", derandomize=True)  # every run of a test draws the same
settings.load_profile("same")


@pytest.fixture(params=_kernels.simd_available())
def simd(request):
    """Run the test on each instruction set that this machine has."""
    before = _kernels.get_simd()
    _kernels.set_simd(request.param)
    yield request.param
    _kernels.set_simd(before)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20250101)


@pytest.fixture
def threads():
    """Restore the number of threads, whatever the test sets."""
    before = nn.get_num_threads()
    yield nn.set_num_threads
    nn.set_num_threads(before)
