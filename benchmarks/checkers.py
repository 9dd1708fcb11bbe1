"""Checkers of gradients, each asked in the way its users ask it: nnframe's, PyTorch's two, SciPy's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from planting import Subject

import nnframe as nn
from nnframe.core.run import Run

Array = np.ndarray
THRESHOLD = 1e-6  # of scipy.optimize.check_grad: what its users compare the answer with


@dataclass(frozen=True)
class Answer:
    """What a checker says: whether something is wrong, which entries it names (by array), the cause, all its words."""

    wrong: bool
    named: tuple[tuple[str, tuple[int, ...]], ...] = ()
    cause: str = ""
    text: str = ""

    def entry_right(self, wrong: dict[str, Any]) -> bool:
        """Whether every entry named is one of those that are wrong."""
        return bool(self.named) and all(_is_among(what, entry, wrong) for what, entry in self.named)


def _is_among(what: str, entry: tuple[int, ...], wrong: dict[str, Any]) -> bool:
    if what == "backward":  # it writes into what it was given
        return any(name.endswith("is unchanged") for name in wrong)
    name = "accumulation" if what.startswith("accumulation") else what.split(" by ")[0]
    if name not in wrong:
        return False
    mask = wrong[name]
    return mask is None or len(entry) != mask.ndim or bool(mask[entry])


def ask_nnframe(subject: Subject, planted: Any) -> Answer:
    """Every entry, by `nn.check_gradients`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(planted, tuple):
            report = nn.check_gradients(planted[0], tuple(x.copy() for x in subject.x), backward=planted[1])
        elif isinstance(planted, nn.Loss):
            report = nn.check_gradients(planted, subject.x.copy(), subject.t)
        else:
            report = nn.check_gradients(planted, subject.x.copy())
    rows = [row for row in report.wrong if row.layer != "the model"]
    named = tuple((row.what, row.entry) for row in rows)
    return Answer(not report, named, report.cause, str(report))


# ---- one function of arrays and its gradient, for the others ----


@dataclass(frozen=True)
class Arrays:
    """A subject as one function of arrays; `backward(dy, *arrays)` returns a gradient for each."""

    names: tuple[str, ...]
    values: tuple[Array, ...]
    forward: Callable[..., Array]
    backward: Callable[..., list[Array]]


def as_arrays(subject: Subject, planted: Any) -> Arrays:
    """Return a planted layer, loss or pair of functions in that form."""
    arrays = subject.arrays()
    names, values = tuple(arrays), tuple(np.array(array, np.float64) for array in arrays.values())
    if isinstance(planted, tuple):
        return Arrays(
            names, values, lambda *xs: planted[0](*xs)[0], lambda dy, *xs: list(_tuple(_call(planted, dy, xs)))
        )
    if isinstance(planted, nn.Loss):
        return Arrays(
            names,
            values,
            lambda y: np.asarray(planted(y, subject.t)),
            lambda dy, y: [dy * planted.backward(y, subject.t)],
        )
    return _of_layer(subject, planted, names, values)


def _tuple(found: Any) -> tuple[Array, ...]:
    return found if isinstance(found, tuple) else (found,)


def _call(pair: Any, dy: Array, inputs: tuple[Array, ...]) -> Any:
    return pair[1](dy, pair[0](*inputs)[1])


def _of_layer(subject: Subject, layer: nn.Layer, names: tuple[str, ...], values: tuple[Array, ...]) -> Arrays:
    def given(arrays: tuple[Array, ...]) -> Array:
        rest = dict(zip(names, arrays, strict=True))
        x = rest.pop("x", subject.x)
        for name, parameter in layer.named_parameters():
            parameter.value[...] = rest[name]
        return x

    def forward(*arrays: Array) -> Array:
        x = given(arrays)
        with Run(True, root=layer):
            return layer.forward(x)

    def backward(dy: Array, *arrays: Array) -> list[Array]:
        x = given(arrays)
        with Run(True, root=layer):
            y, saved = layer.forward_saving(x)
            for parameter in layer.parameters():
                parameter.grad.fill(0)
            dx = layer.backward(x, y, dy, *([saved] if layer._traits.forward_saving else []))
        found = {name: p.grad.copy() for name, p in layer.named_parameters()} | {"x": dx}
        return [found[name] for name in names]

    return Arrays(names, values, forward, backward)


def ask_gradcheck(subject: Subject, planted: Any, fast: bool = False) -> Answer:
    """Ask `torch.autograd.gradcheck` with its defaults, in float64."""
    import torch

    arrays = as_arrays(subject, planted)

    class Wrapped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: Any) -> Any:
            ctx.save_for_backward(*xs)
            return torch.from_numpy(np.array(arrays.forward(*(x.detach().numpy() for x in xs))))

        @staticmethod
        def backward(ctx: Any, dy: Any) -> Any:
            found = arrays.backward(dy.numpy().copy(), *(x.detach().numpy() for x in ctx.saved_tensors))
            return tuple(torch.from_numpy(np.array(g)) for g in found)

    inputs = [torch.from_numpy(value.copy()).requires_grad_() for value in arrays.values]
    try:
        torch.autograd.gradcheck(Wrapped.apply, inputs, fast_mode=fast)
    except Exception as error:  # a wrong gradient, and what else goes wrong on the way
        words = str(error)
        found = [i for i in range(len(arrays.names)) if f"respect to input {i}" in words]
        return Answer(True, tuple((arrays.names[i], ()) for i in found), "", words)
    return Answer(False)


def ask_scipy(subject: Subject, planted: Any) -> Answer:
    """Ask `scipy.optimize.check_grad` for a random projection of the output, as a function of one vector."""
    from scipy.optimize import check_grad

    arrays = as_arrays(subject, planted)
    y = arrays.forward(*arrays.values)
    dy = np.random.default_rng(1234).standard_normal(y.shape)
    ends = np.cumsum([value.size for value in arrays.values])

    def parts(v: Array) -> list[Array]:
        return [p.reshape(a.shape) for p, a in zip(np.split(v, ends[:-1]), arrays.values, strict=True)]

    def f(v: Array) -> float:
        return float((arrays.forward(*parts(v)) * dy).sum())

    def gradient(v: Array) -> Array:
        return np.concatenate([np.ravel(g) for g in arrays.backward(dy.copy(), *parts(v))])

    try:
        off = check_grad(f, gradient, np.concatenate([value.reshape(-1) for value in arrays.values]))
    except Exception as error:  # a gradient of another shape
        return Answer(True, (), "", str(error))
    return Answer(not off <= THRESHOLD, (), "", f"{off:.3g}")
