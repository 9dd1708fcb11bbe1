"""What the benchmarks share. Run them with `pytest benchmarks`; nnframe, NumPy and PyTorch are in one group each."""

import numpy as np
import pytest
from speed import import_torch


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
    module = import_torch()
    return module if module is not None else pytest.skip("PyTorch is not installed")
