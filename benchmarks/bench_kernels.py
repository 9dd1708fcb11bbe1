"""Kernels: one group for each operation, shape and dtype, with NumPy and PyTorch in it."""

import numpy as np
import pytest
from speed import LOGITS, PRODUCTS
from sweep import numpy_cross_entropy

import nnframe as nn
from nnframe import kernels
from nnframe.kernels import reference


@pytest.fixture(params=PRODUCTS, ids=str)
def product(request, benchmark, dtype, rng):
    """Two stacks of matrices and room for their products."""
    batch, m, k, n = request.param
    benchmark.group = f"batched_matmul {request.param} {np.dtype(dtype).name}"
    return tuple(np.asarray(rng.standard_normal(s), dtype) for s in ((batch, m, k), (batch, k, n), (batch, m, n)))


def bench_matmul_nnframe(benchmark, product):
    a, b, out = product
    benchmark(lambda: kernels.batched_matmul(a, b, out=out))


def bench_matmul_numpy(benchmark, product):
    a, b, out = product
    benchmark(lambda: np.matmul(a, b, out=out))


def bench_matmul_torch(benchmark, product, torch):
    a, b, out = map(torch.from_numpy, product)
    benchmark(lambda: torch.bmm(a, b, out=out))


@pytest.fixture(params=LOGITS, ids=str)
def logits(request, benchmark, dtype, rng):
    """Logits and labels."""
    benchmark.group = f"softmax_cross_entropy {request.param} {np.dtype(dtype).name}"
    return rng.standard_normal(request.param).astype(dtype), rng.integers(0, request.param[1], request.param[0])


def bench_softmax_nnframe(benchmark, logits):
    out = np.empty_like(logits[0])
    benchmark(lambda: kernels.softmax_cross_entropy(*logits, out=out))


def bench_softmax_numpy(benchmark, logits):
    benchmark(lambda: numpy_cross_entropy(*logits))


def bench_softmax_torch(benchmark, logits, torch):
    x, t = torch.from_numpy(logits[0]).requires_grad_(), torch.from_numpy(logits[1])

    def run():
        x.grad = None
        torch.nn.functional.cross_entropy(x, t).backward()

    benchmark(run)


@pytest.fixture(params=[("sigmoid", 5000), ("sigmoid", 10**6), ("tanh", 10**6), ("relu", 10**6)], ids=str)
def elements(request, benchmark, dtype, rng):
    """The name of an activation, and numbers."""
    name, n = request.param
    benchmark.group = f"{name} {n} {np.dtype(dtype).name}"
    return name, rng.standard_normal(n).astype(dtype)


def bench_activation_nnframe(benchmark, elements):
    name, x = elements
    out = np.empty_like(x)
    benchmark(lambda: kernels.activation(name, x, out=out))


def bench_activation_numpy(benchmark, elements):
    benchmark(lambda: reference.activation(*elements))


def bench_activation_torch(benchmark, elements, torch):
    name, x = elements
    f, tensor, out = getattr(torch, name), torch.from_numpy(x), torch.empty(len(x), dtype=torch.from_numpy(x).dtype)
    benchmark((lambda: torch.relu(tensor)) if name == "relu" else (lambda: f(tensor, out=out)))


@pytest.fixture(params=["sigmoid", "tanh", "relu"])
def differences(request, benchmark, dtype, rng):
    """An activation's inputs, outputs and a stack of changes."""
    benchmark.group = f"{request.param} difference, 100 x 5000, {np.dtype(dtype).name}"
    x = rng.standard_normal(5000).astype(dtype)
    return (
        request.param,
        x,
        nn.kernels.activation(request.param, x),
        (rng.standard_normal((100, 5000)) * 1e-5).astype(dtype),
    )


def bench_difference_nnframe(benchmark, differences):
    benchmark(lambda: kernels.activation_difference(*differences))


def bench_difference_numpy(benchmark, differences):
    benchmark(lambda: reference.activation_difference(*differences))
