"""What layers and losses are checked for alike: training by every strategy, threads, repr."""

from __future__ import annotations

import re
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Parameter
from nnframe.gradients import SPSA, Backprop, CentralDifference, NodePerturbation
from nnframe.layers import Sequential
from nnframe.losses.base import Loss
from nnframe.optimizers import SGD
from nnframe.testing.cases import fail
from nnframe.training import Trainer

CALLS = 50  # of each thread
CLOSE = 1e-5  # of the largest entry: how near central differences at step 1e-5 come to the gradient
STRATEGIES: dict[str, Callable[[], Any]] = {
    "Backprop": Backprop,
    "CentralDifference": CentralDifference,
    "NodePerturbation": NodePerturbation,
    "SPSA": lambda: SPSA(rng=0),
}


class Gains(Layer):
    """y = x w, elementwise in each row: gives whatever stands above it parameters to train below."""

    couples = "rows"

    def __init__(self, shape: tuple[int, ...], rng: np.random.Generator) -> None:
        self.w = Parameter(rng.uniform(0.5, 1.5, shape), np.float64)

    def forward(self, x: Array) -> Array:
        return x * self.w.value.astype(x.dtype, copy=False)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        self.w.grad += np.sum(dy * x, axis=0)
        return dy * self.w.value.astype(x.dtype, copy=False)


def in_step(layer: Layer, x: Any) -> Sequential:
    """Return a model of a layer with factors below it, where its input can be moved, and above it."""
    rng = np.random.default_rng(0)
    parts: list[Layer] = [layer]
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        parts.insert(0, Gains(x.shape[1:], rng))
    y = Sequential(*parts)(x)
    return Sequential(*parts, Gains(y.shape[1:], rng))


def train(model: Layer, loss: Loss, x: Any, t: Any, cure: str) -> None:
    """Take a gradient and a step by each strategy; those that find the gradient must agree."""
    gradients: dict[str, dict[str, Any]] = {}
    for name, make in STRATEGIES.items():
        trained = model.astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make()(trained, loss, x, t)
            gradients[name] = {which: p.grad.copy() for which, p in trained.named_parameters()}
            trainer = Trainer(trained, loss, SGD(trained.parameters(), 1e-3), make())
            trainer.fit(x, t, epochs=1, batch_size=len(t), shuffle=False, progress=False)
    expected = gradients["Backprop"]
    largest = max((float(np.abs(g).max(initial=0)) for g in expected.values()), default=0.0)
    for name in ("CentralDifference", "NodePerturbation"):
        for which, right in expected.items():
            off = np.abs(gradients[name][which] - right)
            if not (off <= CLOSE * largest).all():
                at = np.unravel_index(int(np.argmax(np.where(np.isnan(off), np.inf, off))), off.shape)
                where = f"{which}[{', '.join(map(str, at))}]" if at else which
                came = f"{gradients[name][which][at]:.9g}"
                fail(f"gradient of {where} by {name}", f"{right[at]:.9g} as by Backprop", came, f"{cure} is one cause")


def at_once(work: Callable[[int], None]) -> None:
    """Run `work(0)` and `work(1)` in two threads at once, many times; an error in one of them is raised here."""
    errors: list[BaseException] = []
    start = threading.Barrier(2)

    def repeated(which: int) -> None:
        try:
            start.wait()
            for _ in range(CALLS):
                work(which)
        except BaseException as error:
            errors.append(error)

    before = sys.getswitchinterval()
    workers = [threading.Thread(target=repeated, args=(which,)) for which in range(2)]
    try:
        sys.setswitchinterval(1e-6)  # so that threads meet in the middle of a pass
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
    if errors:
        raise errors[0]


def check_repr(one: Any, other: Any) -> None:
    """Fail unless repr names the class and repeats itself."""
    name = type(one).__name__
    cure = f"__repr__ returns how the object is made, such as {name}(4), without what changes from one to the next"
    found = [repr(one), repr(one), repr(other)]
    if name not in found[0] or re.search(r"\bat 0x[0-9a-f]+", found[0]):
        fail("repr", f"words with {name!r} in them and no address", found[0], cure)
    for again in found[1:]:
        if again != found[0]:
            fail("repr of another one, made alike", found[0], again, cure)
