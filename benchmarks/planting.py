"""What mistakes are planted in, each with a formula of its own; and the proof that a planted one is a mistake.

The proof does not use the checker: the right gradient comes from complex steps through the formula, exact to rounding,
and the written one is called as training would call it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import handwritten as hw
import numpy as np
from scipy import special

import nnframe as nn
from nnframe.core.run import Run

Array = np.ndarray
Wrong = dict[str, Any]  # by array, which of its entries are wrong; None: which one cannot be said
TINY = 1e-30  # the complex step
DRAWS = 8  # of dy: what is wrong may depend on it
ENOUGH = 2  # where it is wrong, more draws show it in no other entries
OFF = 1e-10  # of the largest entry of an array: what is further off is wrong


def numbers(*shape: int, seed: int = 0) -> Array:
    """Return numbers of both signs, none of them near a kink at 0 or 1, all different."""
    rng = np.random.default_rng((seed, *shape))
    x = rng.uniform(0.15, 0.85, shape) + rng.integers(0, 2, shape)
    return x * rng.choice([-1.0, 1.0], shape)


@dataclass(frozen=True)
class Subject:
    """A layer, a loss or a pair of functions that is right: `make()` returns it, `formula(*arrays)` what it computes.

    The arrays are x (unless it holds ids) and then the parameters; of a loss y; of functions their inputs.
    """

    name: str
    make: Callable[[], Any]
    x: Any
    formula: Callable[..., Array]
    t: Any = None

    def arrays(self) -> dict[str, Array]:
        """Return the arrays that have a gradient, by the names that a report gives them."""
        if isinstance(self.x, tuple):
            return {f"x[{i}]": x for i, x in enumerate(self.x)}
        if self.t is not None:
            return {"y": self.x}
        found = {"x": self.x} if self.x.dtype.kind == "f" else {}
        return found | {name: p.value.astype(np.float64) for name, p in self.make().named_parameters()}

    def gradients(self, dy: Array) -> dict[str, Array]:
        """Return the gradient of sum(dy y) with respect to each array, by complex steps."""
        arrays = self.arrays()
        found = {}
        for name, array in arrays.items():
            gradient = np.zeros(array.shape)
            for entry in np.ndindex(array.shape):
                moved = array.astype(complex)
                moved[entry] += 1j * TINY
                y = self.formula(*(moved if other == name else arrays[other] for other in arrays))
                gradient[entry] = (np.imag(y) * dy).sum() / TINY
            found[name] = gradient
        return found

    def output(self) -> Array:
        """Return what the formula gives."""
        return np.real(self.formula(*self.arrays().values()))


def _layer(name: str, make: Callable[[], nn.Layer], x: Array, formula: Callable[..., Array]) -> Subject:
    return Subject(name, make, x, formula)


def _by_hand(pair: hw.Pair, x: Array, **parameters: Array) -> Subject:
    return Subject(
        f"NumPy {pair[0].__name__}",
        lambda: hw.Handwritten(pair, **parameters),
        x,
        lambda *arrays: pair[0](*arrays)[0],
    )


def _linear(*sizes: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(*sizes, bias=bias, dtype=np.float64)
    layer.weight.value[...] = numbers(*layer.weight.value.shape, seed=1)
    if bias:
        layer.bias.value[...] = numbers(sizes[1], seed=2)
    return layer


def _normalization(layer: Any) -> Any:
    layer.weight.value[...] = numbers(*layer.weight.value.shape, seed=1)
    layer.bias.value[...] = numbers(*layer.bias.value.shape, seed=2)
    return layer


def _rms() -> nn.RMSNorm:
    layer = nn.RMSNorm(5, hw.EPS, dtype=np.float64)
    assert layer.weight is not None
    layer.weight.value[...] = numbers(5, seed=1)
    return layer


def normalized(x: Array, axes: Any) -> Array:
    """Return x with mean 0 and variance 1 over some axes."""
    d = x - x.mean(axis=axes, keepdims=True)
    return d / np.sqrt((d * d).mean(axis=axes, keepdims=True) + hw.EPS)


def _embedding() -> nn.Embedding:
    return nn.Embedding(7, 3, dtype=np.float64, rng=0)


def _mask() -> Array:
    return nn.Dropout(0.4, rng=3)(np.ones((7, 5)), training=True)


def _concatenated(x: Array, w: Array, b: Array) -> Array:
    return np.concatenate([x @ w.T + b, np.tanh(x)], axis=-1)


def _gelu_tanh(x: Array) -> Array:
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


SCALE, ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
X = numbers(7, 5)
IDS = np.array([[0, 3, 3], [5, 0, 2], [3, 1, 5], [6, 6, 0]])
ELEMENTWISE: dict[str, tuple[Callable[[], nn.Layer], Callable[[Array], Array]]] = {
    "Sigmoid": (nn.Sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "Tanh": (nn.Tanh, np.tanh),
    "ReLU": (nn.ReLU, lambda x: np.where(x.real > 0, x, 0)),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.1), lambda x: np.where(x.real > 0, x, 0.1 * x)),
    "ELU": (lambda: nn.ELU(0.7), lambda x: np.where(x.real > 0, x, 0.7 * (np.exp(x) - 1))),
    "GELU": (nn.GELU, lambda x: x * (1 + special.erf(x / np.sqrt(2))) / 2),
    "GELU tanh": (lambda: nn.GELU("tanh"), _gelu_tanh),
    "SiLU": (nn.SiLU, lambda x: x / (1 + np.exp(-x))),
    "Softplus": (nn.Softplus, lambda x: np.log(1 + np.exp(x))),
    "SELU": (nn.SELU, lambda x: SCALE * np.where(x.real > 0, x, ALPHA * (np.exp(x) - 1))),
    "Mish": (nn.Mish, lambda x: x * np.tanh(np.log(1 + np.exp(x)))),
    "Hardswish": (nn.Hardswish, lambda x: x * (x + 3) / 6),  # all of X is between the kinks
}
W, B, SQUARE = numbers(3, 5, seed=1), numbers(3, seed=2), numbers(4, 4, seed=3)
BUILT_IN = [
    _layer("Linear", lambda: _linear(5, 3), X, lambda x, w, b: x @ w.T + b),
    _layer("Linear, square", lambda: _linear(4, 4), numbers(6, 4), lambda x, w, b: x @ w.T + b),
    _layer("Linear without bias", lambda: _linear(5, 3, bias=False), X, lambda x, w: x @ w.T),
    _layer("Linear, 3 axes", lambda: _linear(5, 3), numbers(4, 2, 5), lambda x, w, b: x @ w.T + b),
    *(_layer(name, make, X, formula) for name, (make, formula) in ELEMENTWISE.items()),
    _layer(
        "BatchNorm1d",
        lambda: _normalization(nn.BatchNorm1d(5, eps=hw.EPS, dtype=np.float64)),
        X,
        lambda *arrays: hw.normalize(0)[0](*arrays)[0],
    ),
    _layer(
        "LayerNorm",
        lambda: _normalization(nn.LayerNorm(5, eps=hw.EPS, dtype=np.float64)),
        X,
        lambda *arrays: hw.normalize(1)[0](*arrays)[0],
    ),
    _layer(
        "BatchNorm2d",
        lambda: _normalization(nn.BatchNorm2d(3, eps=hw.EPS, dtype=np.float64)),
        numbers(4, 3, 2, 2),
        lambda x, w, b: normalized(x, (0, 2, 3)) * w[:, None, None] + b[:, None, None],
    ),
    _layer(
        "GroupNorm",
        lambda: _normalization(nn.GroupNorm(2, 4, eps=hw.EPS, dtype=np.float64)),
        numbers(5, 4, 3),
        lambda x, w, b: normalized(x.reshape(5, 2, 6), 2).reshape(5, 4, 3) * w[:, None] + b[:, None],
    ),
    _layer("RMSNorm", _rms, X, lambda x, w: x / np.sqrt((x * x).mean(axis=1, keepdims=True) + hw.EPS) * w),
    _layer("PReLU", lambda: nn.PReLU(5, dtype=np.float64), X, lambda x, a: np.where(x.real > 0, x, a * x)),
    _layer("Softmax", lambda: nn.Softmax(1), X, lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)),
    _layer("LogSoftmax", lambda: nn.LogSoftmax(1), X, lambda x: x - np.log(np.exp(x).sum(axis=1, keepdims=True))),
    _layer("Embedding", _embedding, IDS, lambda w: w[IDS]),
    _layer(
        "Dropout2d",
        lambda: nn.Dropout2d(0.4, rng=3),
        numbers(4, 3, 2, 2),
        lambda x: x * nn.Dropout2d(0.4, rng=3)(np.ones((4, 3, 2, 2)), training=True),
    ),
    _layer("Dropout", lambda: nn.Dropout(0.4, rng=3), X, lambda x: x * _mask()),
    _layer(
        "Residual",
        lambda: nn.Residual(_linear(5, 5), nn.Tanh()),
        X,
        lambda x, w, b: x + np.tanh(x @ w.T + b),
    ),
    _layer(
        "Branches", lambda: nn.Branches(_linear(5, 3), nn.Tanh(), join="concatenate"), X, _concatenated,
    ),
]  # fmt: skip
BY_HAND = {
    subject.name.removeprefix("NumPy "): subject
    for subject in (
        _by_hand((hw.affine, hw.affine_backward), X, w=W, b=B),
        _by_hand((hw.scale, hw.scale_backward), X, w=numbers(5, seed=1), b=numbers(5, seed=2)),
        _by_hand((hw.sigmoid, hw.sigmoid_backward), X),
        _by_hand((hw.softmax, hw.softmax_backward), X),
        _by_hand((hw.cumsum, hw.cumsum_backward), X),
        _by_hand((hw.delay, hw.delay_backward), X),
        _by_hand((hw.mean_pool, hw.mean_pool_backward), numbers(3, 4, 5)),
        _by_hand((hw.max_pool, hw.max_pool_backward), numbers(3, 2, 8)),
        _by_hand((hw.convolution, hw.convolution_backward), numbers(4, 2, 7), w=numbers(3, 2, 3, seed=1), b=B),
        _by_hand(
            (hw.recurrent, hw.recurrent_backward),
            numbers(5, 6, 2) / 2,
            u=numbers(3, 2, seed=1) / 2, w=numbers(3, 3, seed=2) / 2, b=B / 2,
        ),
        _by_hand(
            (hw.attention, hw.attention_backward),
            numbers(3, 5, 4),
            q=SQUARE / 2, k=numbers(4, 4, seed=4) / 2, v=numbers(4, 4, seed=5), kb=numbers(4, seed=6),
        ),
        _by_hand((hw.gate, hw.gate_backward), numbers(5, 6)),
        _by_hand((hw.unit_rows, hw.unit_rows_backward), X),
        _by_hand((hw.quadratic, hw.quadratic_backward), X, a=numbers(5, 5, seed=1)),
        _by_hand((hw.cube, hw.cube_backward), X),
        _by_hand((hw.sine, hw.sine_backward), X),
        _by_hand((hw.absolute, hw.absolute_backward), X),
        _by_hand((hw.clip, hw.clip_backward), X),
        _by_hand(hw.normalize(0), X, w=numbers(5, seed=1), b=numbers(5, seed=2)),
        _by_hand(hw.normalize(1), X, w=numbers(5, seed=1), b=numbers(5, seed=2)),
    )
}  # fmt: skip
LAYERS = [*BUILT_IN, *BY_HAND.values()]


def _functions(pair: hw.Pair, *inputs: Array) -> Subject:
    return Subject(f"function {pair[0].__name__}", lambda: pair, inputs, lambda *arrays: pair[0](*arrays)[0])


FUNCTIONS = {
    subject.name.removeprefix("function "): subject
    for subject in (
        _functions((hw.product, hw.product_backward), X, numbers(7, 5, seed=1)),
        _functions((hw.matmul, hw.matmul_backward), numbers(4, 3), numbers(3, 5)),
        _functions((hw.add_row, hw.add_row_backward), X, numbers(5, seed=1)),
        _functions((hw.times_column, hw.times_column_backward), X, numbers(7, 1, seed=1)),
        _functions((hw.quotient, hw.quotient_backward), X, numbers(7, 5, seed=1)),
    )
}

LABELS = np.array([0, 2, 3, 1, 1, 2, 0])
WEIGHT = np.array([0.5, 2.0, 1.0, 3.0])
LOGITS = numbers(7, 4)


def cross_entropy(q: Array, divisor: float) -> Callable[[Array], Array]:
    """Return sum of q_c (log sum exp y - y_c) over rows and classes, over a number."""

    def formula(y: Array) -> Array:
        rest = np.log(np.exp(y).sum(axis=1, keepdims=True)) - y
        return np.asarray((q * rest).sum() / divisor)

    return formula


def _loss(name: str, make: Callable[[], nn.Loss], formula: Callable[[Array], Array], t: Array = LABELS) -> Subject:
    return Subject(name, make, LOGITS, formula, t)


def margins(y: Array) -> Array:
    """Return max(0, 1 - y_t + y_c) of the classes c other than t."""
    z = 1 - y[np.arange(7), LABELS][:, None] + y
    return np.where((z.real > 0) & (ONE_HOT == 0), z, 0)


ONE_HOT = np.eye(4)[LABELS]
SIGNS = 2 * ONE_HOT - 1
COUNTED = (LABELS != 1)[:, None]
SOFT = np.abs(numbers(7, 4, seed=5)) / np.abs(numbers(7, 4, seed=5)).sum(axis=1, keepdims=True)
TARGETS = numbers(7, 4, seed=6)


def absolute(r: Array) -> Array:
    """Return |r|, for complex numbers by the sign of their real part."""
    return np.where(r.real > 0, r, -r)


def huber(r: Array) -> Array:
    """Return r^2 / 2 where |r| < 1/2, else (|r| - 1/4) / 2."""
    return np.where(np.abs(r.real) < 0.5, r * r / 2, (absolute(r) - 0.25) / 2)


def binary_cross_entropy(y: Array, positive: float) -> Array:
    """Return -(p t log(s(y)) + (1 - t) log(s(-y))) of the soft labels."""
    return positive * SOFT * np.log(1 + np.exp(-y)) + (1 - SOFT) * np.log(1 + np.exp(y))


LOSSES = {
    subject.name: subject
    for subject in (
        _loss("CrossEntropyLoss", nn.CrossEntropyLoss, cross_entropy(ONE_HOT, 7)),
        _loss("CrossEntropyLoss, sum", lambda: nn.CrossEntropyLoss("sum"), cross_entropy(ONE_HOT, 1)),
        _loss("CrossEntropyLoss, soft labels", nn.CrossEntropyLoss, cross_entropy(SOFT, 7), SOFT),
        _loss(
            "CrossEntropyLoss, weight",
            lambda: nn.CrossEntropyLoss(weight=WEIGHT),
            cross_entropy(ONE_HOT * WEIGHT, float(WEIGHT[LABELS].sum())),
        ),
        _loss(
            "CrossEntropyLoss, label_smoothing",
            lambda: nn.CrossEntropyLoss(label_smoothing=0.2),
            cross_entropy(0.8 * ONE_HOT + 0.05, 7),
        ),
        _loss(
            "CrossEntropyLoss, ignore_index",
            lambda: nn.CrossEntropyLoss(ignore_index=1),
            cross_entropy(ONE_HOT * COUNTED, float(COUNTED.sum())),
        ),
        _loss("MSELoss", nn.MSELoss, lambda y: np.asarray(((y - TARGETS) ** 2).mean()), TARGETS),
        _loss("L1Loss", nn.L1Loss, lambda y: np.asarray(absolute(y - TARGETS).mean()), TARGETS),
        _loss(
            "HuberLoss, sum", lambda: nn.HuberLoss("sum", 0.5), lambda y: np.asarray(huber(y - TARGETS).sum()), TARGETS
        ),
        _loss(
            "SmoothL1Loss",
            lambda: nn.SmoothL1Loss(beta=0.5),
            lambda y: np.asarray(2 * huber(y - TARGETS).mean()),
            TARGETS,
        ),
        _loss(
            "BCEWithLogitsLoss",
            lambda: nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=[3.0]),
            lambda y: np.asarray((WEIGHT * binary_cross_entropy(y, 3.0)).mean()),
            SOFT,
        ),
        _loss(
            "MultiLabelSoftMarginLoss",
            nn.MultiLabelSoftMarginLoss,
            lambda y: np.asarray(binary_cross_entropy(y, 1.0).mean()),
            SOFT,
        ),
        _loss(
            "NLLLoss",
            lambda: nn.NLLLoss(weight=WEIGHT),
            lambda y: np.asarray(-(y * ONE_HOT * WEIGHT).sum() / WEIGHT[LABELS].sum()),
        ),
        _loss(
            "KLDivLoss",
            lambda: nn.KLDivLoss("batchmean"),
            lambda y: np.asarray((SOFT * (np.log(SOFT) - y)).sum() / 7),
            SOFT,
        ),
        _loss(
            "HingeEmbeddingLoss",
            nn.HingeEmbeddingLoss,
            lambda y: np.asarray(np.where(SIGNS > 0, y, np.where(y.real < 1, 1 - y, 0)).mean()),
            SIGNS,
        ),
        _loss("MultiMarginLoss", lambda: nn.MultiMarginLoss(p=2), lambda y: np.asarray((margins(y) ** 2).sum() / 28)),
        _loss("MSELoss, sum", lambda: nn.MSELoss("sum"), lambda y: np.asarray(((y - TARGETS) ** 2).sum()), TARGETS),
    )
}


# ---- the proof ----


def what_is_wrong(subject: Subject, planted: Any) -> Wrong:
    """Return by array which entries of what a planted layer, loss or pair of functions gives are wrong."""
    if isinstance(planted, nn.Loss):
        y = subject.x
        found = {"y": planted.backward(y.copy(), subject.t)}
        return _differing(found, subject.gradients(np.ones(())))
    if isinstance(planted, tuple):
        return _wrong_in_functions(subject, planted)
    with Run(True, root=planted):
        return _wrong_in_layer(subject, planted)


def _differing(found: dict[str, Any], right: dict[str, Array]) -> Wrong:
    wrong: Wrong = {}
    least = 1e-3 * max(np.abs(gradient).max(initial=0) for gradient in right.values())
    for name, gradient in right.items():
        given = np.asarray(found[name])
        if given.shape != gradient.shape:
            wrong[name] = None
            continue
        with np.errstate(invalid="ignore"):
            mask = ~(np.abs(given - gradient) <= OFF * max(np.abs(gradient).max(initial=0), least))
        if mask.any():
            wrong[name] = mask
    return wrong


def _merge(wrong: Wrong, more: Wrong) -> None:
    for name, mask in more.items():
        before = wrong.get(name)
        wrong[name] = mask if name not in wrong else None if before is None or mask is None else before | mask


def _wrong_in_functions(subject: Subject, pair: hw.Pair) -> Wrong:
    forward, backward = pair
    wrong: Wrong = {}
    for seed in range(DRAWS):
        inputs = tuple(x.copy() for x in subject.x)
        y, cache = forward(*inputs)
        dy = np.random.default_rng((seed, 77)).standard_normal(y.shape)
        given = dy.copy()
        found = backward(given, cache)
        found = found if isinstance(found, tuple) else (found,)
        named = {f"x[{i}]": gradient for i, gradient in enumerate(found)}
        _merge(wrong, _differing(named, subject.gradients(dy)))
        if any(not np.array_equal(x, before) for x, before in zip(inputs, subject.x, strict=True)):
            wrong["x is unchanged"] = None
        if not np.array_equal(dy, given):
            wrong["dy is unchanged"] = None
        kept = [np.array(gradient) for gradient in found]
        other = tuple(x[::-1] * 0.9 for x in subject.x)
        again = backward(dy[::-1].copy(), forward(*other)[1])
        again = again if isinstance(again, tuple) else (again,)
        if any(not np.array_equal(a, b) for a, b in zip(found, kept, strict=True)):
            wrong["second use"] = None
        elsewhere = Subject(subject.name, subject.make, other, subject.formula)
        if _differing({f"x[{i}]": g for i, g in enumerate(again)}, elsewhere.gradients(dy[::-1])) and not wrong:
            wrong["second use"] = None
    return wrong


def _passed(layer: nn.Layer, x: Array) -> tuple[Array, ...]:
    y, saved = layer.forward_saving(x)
    return (x, y, saved) if layer._traits.forward_saving else (x, y)


def _backward(layer: nn.Layer, passed: tuple[Array, ...], dy: Array, method: str = "backward") -> dict[str, Array]:
    x, y, *saved = passed
    dx = getattr(layer, method)(x, y, dy, *saved)
    found = {name: p.grad.copy() for name, p in layer.named_parameters()}
    return found | ({"x": dx} if method == "backward" and x.dtype.kind == "f" else {})


def _start(layer: nn.Layer, value: float) -> None:
    for parameter in layer.parameters():
        parameter.grad.fill(value)


def _wrong_in_layer(subject: Subject, layer: nn.Layer) -> Wrong:
    wrong: Wrong = {}
    for seed in range(DRAWS):
        rng = np.random.default_rng((seed, 77))
        x = subject.x.copy()
        passed = _passed(layer, x)
        dy = rng.standard_normal(passed[1].shape)
        right = subject.gradients(dy)
        given = dy.copy()
        _start(layer, 0)
        found = _backward(layer, passed, given)
        kept = {name: np.array(gradient) for name, gradient in found.items()}
        _merge(wrong, _differing(found, right))
        if not np.array_equal(x, subject.x):
            wrong["x is unchanged"] = None
        if not np.array_equal(dy, given):
            wrong["dy is unchanged"] = None
        if wrong and seed == 0:
            _merge_second(wrong, layer, subject, found, kept)
        if wrong and seed >= ENOUGH:
            return wrong
        if wrong:
            continue
        _start(layer, 1)
        started = _backward(layer, passed, given)
        if any(not np.allclose(started[name] - 1, found[name], atol=1e-9) for name in found if name != "x"):
            wrong["accumulation"] = None
        _start(layer, 0)
        alone = _backward(layer, passed, given, "backward_parameters")
        names = [name for name in alone if not np.allclose(alone[name], found[name], atol=1e-12)]
        if names:
            wrong["backward_parameters"] = None
        _merge_second(wrong, layer, subject, found, kept)
        _helpers(wrong, layer, passed, rng)
    return wrong


def _merge_second(wrong: Wrong, layer: nn.Layer, subject: Subject, found: Any, kept: Any) -> None:
    """See what a second use, with another x, makes of the first one and of itself."""
    other = subject.x[::-1].copy() if subject.x.dtype.kind != "f" else subject.x[::-1] * 0.9
    if layer.parameters() and subject.x.dtype.kind != "f":
        return
    fresh = copy.deepcopy(layer)
    with Run(True, root=layer):
        passed = _passed(layer, other)
        dy = np.random.default_rng(99).standard_normal(passed[1].shape)
        _start(layer, 0)
        again = _backward(layer, passed, dy)
    if any(not np.array_equal(np.asarray(found[n]), kept[n]) for n in found):
        wrong["second use"] = None
    del fresh
    elsewhere = Subject(subject.name, subject.make, other, subject.formula)
    if not wrong and _differing(again, elsewhere.gradients(dy)):
        wrong["second use"] = None


def _helpers(wrong: Wrong, layer: nn.Layer, passed: Any, rng: np.random.Generator) -> None:
    x, y = passed[:2]
    if layer._traits.difference and x.dtype.kind == "f":
        dx = 0.1 * rng.standard_normal(x.shape)
        if not np.allclose(layer.difference(x, y, dx), layer.forward(x + dx) - y, rtol=1e-7, atol=1e-10):
            wrong["difference"] = None
    if layer._traits.perturb:
        for name, parameter in layer.named_parameters():
            change = layer.perturb(parameter, np.arange(parameter.value.size), 0.1, x, y)
            for i, moved in enumerate(change):
                before = parameter.value.copy()
                parameter.value.reshape(-1)[i] += 0.1
                if not np.allclose(layer.forward(x) - y, moved, rtol=1e-7, atol=1e-10):
                    wrong[f"perturb({name})"] = None
                parameter.value[...] = before
    couples = type(layer).__dict__.get("couples")
    if couples == "entries" and x.shape == y.shape:
        moved = x.copy()
        moved[0, 0] += 0.1
        if ((layer.forward(moved) != y) & (np.arange(x.size).reshape(x.shape) != 0)).any():
            wrong["couples"] = None
