"""What the benchmarks share. Run them with `pytest benchmarks`; nnframe, NumPy and PyTorch are in one group each."""

import peers

# isort: split
import numpy as np
import pytest

import nnframe as nn


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    """Both element types."""
    return request.param


@pytest.fixture
def rng():
    """Seeded random numbers."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def torch():
    """PyTorch on as many threads as nnframe; skips where it is not installed."""
    module = peers.import_torch()
    if module is None:
        pytest.skip("PyTorch is not installed")
    peers.set_threads(nn.get_num_threads())
    return module


def pytest_report_header():
    return peers.description()
