"""Full gradients of a network, and of plain functions."""

import numpy as np
import pytest
from networks import classifier, images, naive

import nnframe as nn


@pytest.fixture(params=[[50], [100, 100]], ids=str)
def problem(request, benchmark, dtype):
    """A model, its loss, and a mini-batch."""
    name, x, t = images(100)
    sizes = [x.shape[1], *request.param, 10]
    benchmark.group = f"gradient {'-'.join(map(str, sizes))} batch 100 of {name} {np.dtype(dtype).name}"
    return classifier(sizes, dtype=dtype), nn.CrossEntropyLoss(), x.astype(dtype), t


def bench_central_difference(benchmark, problem):
    benchmark(lambda: nn.CentralDifference()(*problem))


def bench_central_difference_one_by_one(benchmark, problem):
    benchmark(lambda: nn.CentralDifference(interpolate=False)(*problem))


def bench_backprop(benchmark, problem):
    benchmark(lambda: nn.Backprop()(*problem))


def bench_numpy_loop(benchmark, problem):
    model, _, x, t = problem
    if len(model) != 3 or model.dtype != np.float64:
        pytest.skip("the loop is written for one hidden layer, in float64")
    loop = naive(model)
    entries = loop.entries()[::100]
    benchmark.extra_info["entries"] = f"{len(entries)} of {len(loop.entries())}"
    benchmark.group += " (loop: 1/100 of the parameters)"
    benchmark.pedantic(lambda: [loop.difference(e, x, t, 1e-4) for e in entries], rounds=2)


@pytest.fixture
def quadratic(benchmark, rng):
    """A cheap function of 1,000 variables."""
    benchmark.group = "gradient of a cheap Python function, 1,000 variables"
    return lambda x: float(x @ x), rng.standard_normal(1000)


def bench_numerical_gradient(benchmark, quadratic):
    benchmark(lambda: nn.numerical_gradient(*quadratic))


def bench_scipy_approx_derivative(benchmark, quadratic):
    differentiate = pytest.importorskip("scipy.optimize._numdiff").approx_derivative
    benchmark(lambda: differentiate(*quadratic, method="3-point"))
