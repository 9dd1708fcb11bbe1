"""A corpus of mistakes that people make in backward passes, each planted wherever it applies.

`MISTAKES` lists the kinds; `kind.planted()` gives every place it is planted in, each proven to be wrong by complex
steps through a formula (`planting.py`) before any checker sees it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import handwritten as hw
import numpy as np
from planting import BUILT_IN, BY_HAND, FUNCTIONS, LABELS, LAYERS, LOSSES, SOFT, Subject, Wrong, numbers, what_is_wrong
from planting import _by_hand as by_hand

import nnframe as nn

Array = np.ndarray
Change = Callable[[Array, "Place"], Array]


@dataclass(frozen=True)
class Planted:
    """A subject with a mistake in it: `make()` returns it, `wrong` says which entries of which arrays are wrong."""

    where: str
    subject: Subject
    make: Callable[[], Any]

    @functools.cached_property
    def wrong(self) -> Wrong:
        """Return the proof; empty where it is no mistake here."""
        return what_is_wrong(self.subject, self.make())


@dataclass(frozen=True)
class Mistake:
    """One kind.

    words : one of these must be in the cause that a checker names
    general : whether it is planted everywhere, and left out where it changes nothing
    reference : where somebody made it
    """

    name: str
    sentence: str
    words: tuple[str, ...]
    plant: Callable[[], Iterator[Planted]]
    general: bool
    reference: str = ""

    def planted(self) -> list[Planted]:
        """Return the places; a general kind is left out where it is no mistake (a sign of what is zero)."""
        found = list(self.plant())
        wrong = [place for place in found if place.wrong]
        if not self.general and len(wrong) < len(found):
            raise AssertionError(f"{self.name}: no mistake in {[p.where for p in found if not p.wrong]}")
        return wrong


MISTAKES: list[Mistake] = []


def kind(name: str, sentence: str, *words: str, general: bool = False, reference: str = "") -> Callable[[Any], Any]:
    """Add a kind to the corpus; the function decorated yields the places it is planted in."""

    def add(plant: Callable[[], Iterator[Planted]]) -> Callable[[], Iterator[Planted]]:
        MISTAKES.append(Mistake(name, sentence, words, plant, general, reference))
        return plant

    return add


# ---- how mistakes are planted ----


@dataclass(frozen=True)
class Place:
    """What a wrong gradient may be made of: the arguments of backward, and all right gradients by name."""

    name: str
    x: Any
    y: Array
    dy: Array
    gradients: dict[str, Array]
    layer: Any


def derived(layer: nn.Layer, **methods: Any) -> nn.Layer:
    """Return the layer itself, as one of a class derived from its own with other methods."""
    layer.__class__ = type(type(layer).__name__, (type(layer),), {**methods, "__module__": "user"})
    return layer


def rightly(layer: Any, *arguments: Any) -> Array:
    """Run the backward of the class that a layer's class was derived from."""
    base = type(layer).__mro__[1]
    if isinstance(layer, nn.Branches):  # its backward runs the container again, which must then be the right one
        layer = copy.copy(layer)
        layer.__class__ = base
    return base.backward(layer, *arguments)


def altered(subject: Subject, name: str, change: Change) -> Planted:
    """Change the gradient of one array of a layer or a loss after it was computed rightly."""

    def make_layer() -> nn.Layer:
        layer = subject.make()

        def backward(self: Any, x: Array, y: Array, dy: Array, *saved: Any) -> Array:
            parameters = dict(self.named_parameters())
            before = {key: p.grad.copy() for key, p in parameters.items()}
            for p in parameters.values():
                p.grad.fill(0)
            dx = rightly(self, x, y, dy, *saved)
            found = {key: p.grad.copy() for key, p in parameters.items()} | {"x": dx}
            wrong = change(found[name], Place(name, x, y, dy, found, self))
            for key, p in parameters.items():
                p.grad[...] = before[key] + (wrong if key == name else found[key])
            return wrong if name == "x" else dx

        return derived(layer, backward=backward)

    def make_loss() -> nn.Loss:
        loss = subject.make()
        base = type(loss)

        def backward(self: Any, y: Array, t: Array) -> Array:
            found = np.array(base.backward(self, y, t))
            return change(found, Place(name, t, y, np.ones(()), {"y": found}, self))

        return derived(loss, backward=backward)

    def make_functions() -> hw.Pair:
        forward, right = subject.make()
        position = int(name[2:-1])

        def backward(dy: Array, cache: Any) -> Any:
            found = right(dy, cache)
            named = {f"x[{i}]": gradient for i, gradient in enumerate(found)}
            place = Place(name, subject.x[position], forward(*subject.x)[0], dy, named, None)
            return tuple(change(g, place) if i == position else g for i, g in enumerate(found))

        return forward, backward

    made = make_functions if isinstance(subject.x, tuple) else make_layer if subject.t is None else make_loss
    return Planted(f"{subject.name}, {name}", subject, made)


EVERYWHERE = [*LAYERS, *FUNCTIONS.values(), *LOSSES.values()]


def everywhere(change: Change, takes: Callable[[Subject, str, Array], bool] = lambda *_: True) -> Iterator[Planted]:
    """Plant a change in every array of every subject that fits."""
    for subject in EVERYWHERE:
        for name, array in subject.arrays().items():
            if takes(subject, name, array):
                yield altered(subject, name, change)


def rewritten(subject: Subject, backward: Callable[..., Any], where: str = "") -> Planted:
    """Give a NumPy layer or a pair of functions another backward."""

    def make() -> Any:
        made = subject.make()
        if isinstance(made, tuple):
            return made[0], backward
        made.derivative = backward
        return made

    return Planted(subject.name + where, subject, make)


def overriding(subject: Subject, where: str = "", **methods: Any) -> Planted:
    """Derive a layer with other methods."""
    return Planted(subject.name + where, subject, lambda: derived(subject.make(), **methods))


def is_parameter(subject: Subject, name: str, array: Array) -> bool:
    return subject.t is None and name != "x" and not isinstance(subject.x, tuple)


def is_bias(subject: Subject, name: str, array: Array) -> bool:
    return is_parameter(subject, name, array) and name.split(".")[-1] in ("bias", "b")


def is_weight(subject: Subject, name: str, array: Array) -> bool:
    return is_parameter(subject, name, array) and array.ndim == 2


def is_input(subject: Subject, name: str, array: Array) -> bool:
    return name == "x" or name.startswith("x[")


def is_elementwise(subject: Subject, name: str, array: Array) -> bool:
    return name == "x" and subject.name.removeprefix("NumPy ") in (
        "Sigmoid", "Tanh", "ReLU", "LeakyReLU", "ELU", "GELU", "GELU tanh", "SiLU", "Softplus", "SELU", "Mish",
        "Hardswish", "Dropout", "sigmoid", "cube", "sine", "absolute", "clip",
    )  # fmt: skip


def is_loss(subject: Subject, name: str, array: Array) -> bool:
    return name == "y"


def rows(place: Place) -> int:
    return len(place.y)


BY_NAME = {subject.name: subject for subject in LAYERS} | LOSSES

# ---- the same numbers, multiplied ----


@kind("sign", "The minus of a derivative is forgotten, or there is one too many.", "sign", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: -g)


@kind("twice", "A factor 2 is left in, or the gradient is added twice.", "times too large", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: 2 * g)


@kind("half", "The 2 of a square is forgotten, or a half of the loss counted twice.", "times too small", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g / 2)


@kind(
    "average in place of a sum",
    "A layer divides the gradient of its parameters by the rows.",
    "N times",
    "N once",
    general=True,
)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g / rows(p), is_parameter)


@kind("1/N missing", "The mean over rows in the loss is forgotten in its gradient.", "1/N missing", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g * len(g), lambda s, n, a: is_loss(s, n, a) and "sum" not in s.name)


@kind("1/N twice", "The loss divides by the rows, and so does the caller.", "N times", "rows once", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g / len(g), is_loss)


@kind("1/T", "An average over the time steps is taken in a layer that adds them up.", "T times", general=True)
def _() -> Iterator[Planted]:
    for name in ("recurrent", "attention"):
        subject = BY_HAND[name]
        for array in subject.arrays():
            if array != "x":
                yield altered(subject, array, lambda g, p: g / p.x.shape[1])


@kind("1/L missing", "A mean over an axis is treated as a sum.", "times too large", general=True)
def _() -> Iterator[Planted]:
    yield altered(BY_HAND["mean_pool"], "x", lambda g, p: g * g.shape[1])


@kind("inner derivative", "The chain rule stops at the outer function: cos(2 pi x) without 2 pi.", "times too small")
def _() -> Iterator[Planted]:
    yield rewritten(BY_HAND["sine"], lambda dy, x: dy * np.cos(2 * np.pi * x))


@kind("temperature", "1 / sqrt(d) of attention's scores is forgotten in the backward.", "times too large", "factor")
def _() -> Iterator[Planted]:
    yield rewritten(BY_HAND["attention"], functools.partial(hw.attention_backward, temperature=False))


# ---- sums over rows ----


@kind(
    "bias of the last row", "The bias gets the gradient of one row: not summed.", "not summed over rows", general=True
)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: last_row(g, p), is_bias)


def last_row(g: Array, p: Place) -> Array:
    if p.dy.ndim == 3 and p.dy.shape[1] == len(g) != p.dy.shape[-1]:  # channels
        return p.dy[-1].sum(axis=-1)
    return p.dy[-1, ..., : len(g)].reshape(-1, len(g)).sum(axis=0)


@kind("bias averaged", "The bias gets the mean over the rows.", "N times", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g / rows(p), is_bias)


@kind("broadcast not summed", "What was broadcast gets a gradient of the shape of the output.", "broadcast not summed")
def _() -> Iterator[Planted]:
    yield rewritten(FUNCTIONS["add_row"], lambda dy, x: (dy * (1 - np.tanh(x) ** 2), dy))
    yield rewritten(FUNCTIONS["times_column"], lambda dy, c: (dy * c[1], dy * c[0]))


@kind(
    "broadcast, one taken",
    "Of what was broadcast only the first use counts.",
    "broadcast not summed",
    "not summed",
    "only",
)
def _() -> Iterator[Planted]:
    yield rewritten(FUNCTIONS["add_row"], lambda dy, x: (dy * (1 - np.tanh(x) ** 2), dy[0]))
    yield rewritten(FUNCTIONS["times_column"], lambda dy, c: (dy * c[1], (dy * c[0])[:, :1]))


# ---- in another order ----


@kind("transposed", "x^T dy in place of dy^T x; seen only where it is square.", "transposed", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g.T.copy(), lambda s, n, a: is_weight(s, n, a) and a.shape[0] == a.shape[1])


@kind("W for W^T", "dx = dy W^T where the layer computes x W^T; seen only where W is square.", "transpose")
def _() -> Iterator[Planted]:
    yield altered(BY_NAME["Linear, square"], "x", lambda g, p: p.dy @ p.layer.weight.value.T)


@kind("axes swapped", "Two axes of the gradient are exchanged.", "transposed", "another order")
def _() -> Iterator[Planted]:
    x = numbers(4, 4)
    for pair in ((hw.sigmoid, hw.sigmoid_backward), (hw.cube, hw.cube_backward)):
        yield altered(by_hand(pair, x), "x", lambda g, p: g.T.copy())


@kind(
    "reversed",
    "The entries come in reversed order: a kernel flipped, a loop run backwards.",
    "another order",
    general=True,
)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g[..., ::-1].copy())


@kind("off by one", "Every entry stands one place further.", "another order", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: np.roll(g, 1, axis=-1))


@kind("ids off by one", "Ids count from 1 in the backward.", "another order", general=True)
def _() -> Iterator[Planted]:
    yield altered(BY_NAME["Embedding"], "weight", lambda g, p: np.roll(g, 1, axis=0))


@kind("the Jacobian", "J dy in place of J^T dy.", "the Jacobian is not transposed")
def _() -> Iterator[Planted]:
    yield rewritten(BY_HAND["cumsum"], lambda dy, c: np.cumsum(dy, axis=1))
    yield rewritten(BY_HAND["delay"], lambda dy, c: hw.delay(dy)[0])


@kind("operands exchanged", "For z = x y: dx = dz x.", "input", "factor", "in place of")
def _() -> Iterator[Planted]:
    yield rewritten(FUNCTIONS["product"], lambda dz, c: (dz * c[0], dz * c[1]))
    yield rewritten(FUNCTIONS["quotient"], lambda dz, c: (dz / c[0], -dz * c[0] / c[1] ** 2))


# ---- accumulation, parameters ----


def _set_in_place_of_added(self: Any, x: Array, y: Array, dy: Array, *saved: Any) -> Array:
    for parameter in self.parameters():
        parameter.grad.fill(0)
    return rightly(self, x, y, dy, *saved)


@kind("= in place of +=", "Gradients are put into .grad, not added.", "= instead of +=", reference="caffe#3036")
def _() -> Iterator[Planted]:
    for subject in LAYERS:
        if any(is_parameter(subject, name, array) for name, array in subject.arrays().items()):
            yield overriding(subject, backward=_set_in_place_of_added)


@kind("parameter forgotten", "The gradient of a parameter is never added.", "is zero", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: 0 * g, is_parameter)


@kind("dx is zero", "An array of zeros is returned that nobody filled.", "is zero", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: 0 * g, is_input)


@kind(
    "weight decay",
    "The gradient of a penalty is left in.",
    "dy is not",
    "weight decay",
    "a multiple of",
    "constant",
    general=True,
)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g + 0.01 * dict(p.layer.named_parameters())[p.name].value, is_weight)


# ---- dy ----


@kind(
    "dy itself",
    "The derivative of the function is forgotten.",
    "dy itself",
    "factor",
    general=True,
    reference="darknet#96",
)
def _() -> Iterator[Planted]:
    yield from everywhere(
        lambda g, p: p.dy + 0 * g, lambda s, n, a: is_elementwise(s, n, a) or s.name == "NumPy softmax"
    )


@kind("dy ignored", "The derivative is returned without what comes from above.", "dy is not used", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g / p.dy, is_elementwise)


@kind("dy squared", "dy is multiplied in twice.", "dy is used twice", "fourfold", "factor dy", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g * p.dy, is_elementwise)


@kind("dy of another row", "Every row gets dy of the first one.", "not summed", "row", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g / p.dy * p.dy[:1], is_elementwise)


# ---- what belongs to an activation ----


@kind(
    "input for output",
    "y (1 - y) and 1 - y^2 computed of x.",
    "input is taken in place of its output",
    "input in place of its output",
    "x in place of y",
)
def _() -> Iterator[Planted]:
    yield altered(BY_NAME["Sigmoid"], "x", lambda g, p: p.dy * p.x * (1 - p.x))
    yield altered(BY_NAME["Tanh"], "x", lambda g, p: p.dy * (1 - p.x**2))
    yield overriding(BY_NAME["Sigmoid"], ", called so", backward=_with(lambda x, y: (x, x)))


@kind(
    "output for input",
    "The slope is computed at y in place of x.",
    "output is taken in place of its input",
    "output in place of its input",
)
def _() -> Iterator[Planted]:
    for name in ("GELU", "GELU tanh", "SiLU", "Softplus", "Mish", "Hardswish"):
        yield overriding(BY_NAME[name], backward=_with(lambda x, y: (y, y)))


def _with(chosen: Callable[[Array, Array], tuple[Array, Array]]) -> Callable[..., Array]:
    def backward(self: Any, x: Array, y: Array, dy: Array, saved: Any = None) -> Array:
        return rightly(self, *chosen(x, y), dy)

    return backward


@kind("factor (1 - y) missing", "dy y for the sigmoid.", "factor")
def _() -> Iterator[Planted]:
    yield altered(BY_NAME["Sigmoid"], "x", lambda g, p: p.dy * p.y)
    yield altered(BY_NAME["Tanh"], "x", lambda g, p: p.dy * (1 - p.y))
    yield rewritten(BY_HAND["sigmoid"], lambda dy, y: dy * y)


@kind("factor y too many", "A factor of the output is multiplied in once more.", "factor", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g * p.y, is_elementwise)


@kind("slope of the negative half", "The slope for x < 0 is another one than in the forward.", "only where")
def _() -> Iterator[Planted]:
    for name in ("ReLU", "LeakyReLU", "ELU"):
        yield altered(BY_NAME[name], "x", lambda g, p: np.where(p.x < 0, p.dy * 0.3, g))


@kind("the wrong side", "x < 0 where x > 0 is meant.", "only where", "wrong side", "in place of")
def _() -> Iterator[Planted]:
    yield altered(BY_NAME["ReLU"], "x", lambda g, p: p.dy * (p.x < 0))
    yield altered(BY_NAME["LeakyReLU"], "x", lambda g, p: p.dy * np.where(p.x > 0, 0.1, 1))


@kind("a clip ignored", "The gradient passes where the forward has cut off.", "only where", "dy itself")
def _() -> Iterator[Planted]:
    yield rewritten(BY_HAND["clip"], lambda dy, x: dy)


@kind("threshold elsewhere", "x > 1/2 where x > 0 is meant.", "only where", "only in")
def _() -> Iterator[Planted]:
    yield altered(BY_NAME["ReLU"], "x", lambda g, p: p.dy * (p.x > 0.5))


@kind("absolute value", "The derivative of |x| is taken as 1.", "only where", "dy itself")
def _() -> Iterator[Planted]:
    yield rewritten(BY_HAND["absolute"], lambda dy, x: dy)


@kind("power", "The exponent is not lowered, or the factor is not the exponent.", "factor", "times too")
def _() -> Iterator[Planted]:
    yield rewritten(BY_HAND["cube"], lambda dy, x: dy * 3 * x**3, ", 3 x^3")
    yield rewritten(BY_HAND["cube"], lambda dy, x: dy * x**2, ", x^2")


@kind(
    "product rule",
    "One of the two factors is taken as constant.",
    "only in",
    "factor",
    "is zero",
    "product",
    "x^T",
    "term",
)
def _() -> Iterator[Planted]:
    yield rewritten(
        BY_HAND["quadratic"], lambda dy, c: (dy * (c[0] @ c[1].T), np.einsum("no,ni,nj->ij", dy, c[0], c[0]))
    )
    yield rewritten(BY_HAND["gate"], lambda dy, c: np.concatenate([dy * c[1], 0 * dy], axis=1))
    yield altered(BY_NAME["SiLU"], "x", lambda g, p: p.dy / (1 + np.exp(-p.x)))


# ---- rows that belong together ----


@kind("diagonal alone", "y (1 - y) for a softmax.", "only the diagonal", reference="libnd4j#440")
def _() -> Iterator[Planted]:
    yield rewritten(BY_HAND["softmax"], lambda dy, c: dy * c[0] * (1 - c[0]))
    yield rewritten(BY_HAND["unit_rows"], lambda dy, c: dy * (1 - c[0] ** 2) / c[1])


@kind(
    "length as a constant",
    "x / |x| is differentiated as if |x| did not move.",
    "only the diagonal",
    "factor",
    "length",
    "Jacobian",
)
def _() -> Iterator[Planted]:
    yield rewritten(BY_HAND["unit_rows"], lambda dy, c: dy / c[1])


def _norms(change: Callable[..., Any]) -> Iterator[Planted]:
    """Plant in the normalizations, NumPy's and nnframe's; change(x, d, a, w, dy, axis, right) returns dx, dw, db."""
    for axis, name in ((0, "batch_norm"), (1, "layer_norm")):

        def backward(dy: Array, cache: Any, axis: int = axis) -> Any:
            return change(*cache, dy, axis, hw.normalize(axis)[1](dy, cache))

        yield rewritten(BY_HAND[name], backward)
        subject = BY_NAME[("BatchNorm1d", "LayerNorm")[axis]]

        def built_in(
            self: Any, x: Array, y: Array, dy: Array, saved: Any, wrong: Any = backward, axis: int = axis
        ) -> Array:
            _, cache = hw.normalize(axis)[0](x, self.weight.value, self.bias.value)
            dx, dw, db = wrong(dy, cache)
            self.weight.grad += dw
            self.bias.grad += db
            return dx

        yield overriding(subject, backward=built_in)


@kind(
    "mean's share missing", "What passes through the mean is forgotten.", "through the mean", reference="darknet#4605"
)
def _() -> Iterator[Planted]:
    yield from _norms(
        lambda x, d, a, w, dy, axis, right: (hw.normalized_input(dy * w, d, a, axis, mean=False), *right[1:])
    )


@kind("variance's share missing", "What passes through the variance is forgotten.", "through the variance")
def _() -> Iterator[Planted]:
    yield from _norms(
        lambda x, d, a, w, dy, axis, right: (hw.normalized_input(dy * w, d, a, axis, variance=False), *right[1:])
    )


@kind("statistics as constants", "Mean and variance are taken as constants.", "through the", "only the diagonal")
def _() -> Iterator[Planted]:
    yield from _norms(lambda x, d, a, w, dy, axis, right: (dy * w / a, *right[1:]))


@kind(
    "eps outside the root",
    "sqrt(v) + eps in the backward, sqrt(v + eps) in the forward.",
    "eps",
    "factor",
    "through the variance",
)
def _() -> Iterator[Planted]:
    yield from _norms(
        lambda x, d, a, w, dy, axis, right: (
            hw.normalized_input(dy * w, d, np.sqrt(a**2 - hw.EPS) + hw.EPS, axis), *right[1:],
        )
    )  # fmt: skip


@kind(
    "n - 1",
    "The unbiased variance in the backward, the biased one in the forward.",
    "n - 1",
    "N - 1",
    "factor",
    "through the variance",
)
def _() -> Iterator[Planted]:
    yield from _norms(
        lambda x, d, a, w, dy, axis, right: (
            hw.normalized_input(
                dy * w, d, np.sqrt((a**2 - hw.EPS) * d.shape[axis] / (d.shape[axis] - 1) + hw.EPS), axis
            ),
            *right[1:],
        )
    )


@kind(
    "scale gets x",
    "The gradient of the scale is taken with x in place of the normalized x.",
    "normalized",
    "in place of",
)
def _() -> Iterator[Planted]:
    yield from _norms(lambda x, d, a, w, dy, axis, right: (right[0], (dy * x).sum(axis=0), right[2]))


@kind("scale forgotten in dx", "dx is computed as if the scale were 1.", "factor", reference="Knet.jl#288")
def _() -> Iterator[Planted]:
    yield from _norms(lambda x, d, a, w, dy, axis, right: (hw.normalized_input(dy, d, a, axis), *right[1:]))


@kind("time truncated", "Backpropagation through time stops at the last step.", "only in", "is zero", "time")
def _() -> Iterator[Planted]:
    yield rewritten(BY_HAND["recurrent"], functools.partial(hw.recurrent_backward, through_time=False))


@kind(
    "shared weights counted once",
    "A convolution's kernel gets the gradient of one position.",
    "only",
    "not summed",
    "position",
)
def _() -> Iterator[Planted]:
    def backward(dy: Array, cache: Any) -> Any:
        dx, _, db = hw.convolution_backward(dy, cache)
        one = np.zeros_like(dy)
        one[..., 0] = dy[..., 0]
        return dx, hw.convolution_backward(one, cache)[1], db

    yield rewritten(BY_HAND["convolution"], backward)


@kind(
    "kernel not flipped",
    "dx is a convolution with the kernel as it stands.",
    "another order",
    "flipped",
    "reversed",
    "Jacobian",
    reference="neon#111",
)
def _() -> Iterator[Planted]:
    yield rewritten(
        BY_HAND["convolution"],
        lambda dy, c: (hw.convolution_backward(dy, (c[0], c[1][..., ::-1]))[0], *hw.convolution_backward(dy, c)[1:]),
    )


@kind(
    "maximum to all",
    "Every entry of a pooled window gets the gradient, not the largest alone.",
    "only where",
    "only in",
    "largest",
)
def _() -> Iterator[Planted]:
    yield rewritten(BY_HAND["max_pool"], lambda dy, c: np.repeat(dy, 2, axis=-1))


# ---- parts that are left out ----


def _forget(index: Any) -> Change:
    def change(g: Array, place: Place) -> Array:
        g = np.array(g)
        g[index] = 0
        return g

    return change


@kind("last row forgotten", "A loop ends at n - 1.", "only in", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(_forget(np.s_[-1]), lambda s, n, a: a.ndim > 1)


@kind("last column forgotten", "A loop ends at n - 1.", "only in", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(_forget(np.s_[..., -1]), lambda s, n, a: a.shape[-1] > 1)


@kind("first column forgotten", "A loop starts at 1.", "only in", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(_forget(np.s_[..., 0]), lambda s, n, a: a.shape[-1] > 1)


@kind("one entry", "One single entry is off by a percent.", "only in", general=True)
def _() -> Iterator[Planted]:
    def change(g: Array, place: Place) -> Array:
        g = np.array(g)
        g.reshape(-1)[g.size // 2] *= 1.01
        return g

    yield from everywhere(change)


@kind(
    "a small column beside a large one",
    "One column is 1e7 times the others, and hides what is wrong in them.",
    "only in",
)
def _() -> Iterator[Planted]:
    x = numbers(7, 5)
    x[:, 1] *= 1e7

    def change(g: Array, place: Place) -> Array:
        g = np.array(g)
        g[:, 3] *= 1.1
        return g

    subject = by_hand((hw.affine, hw.affine_backward), x, w=numbers(3, 5, seed=1), b=numbers(3, seed=2))
    yield altered(subject, "w", change)


@kind(
    "duplicates overwritten",
    "dW[ids] = dy: of ids that come twice the last one counts.",
    "only in",
    "twice",
    "+=",
    reference="pytorch#1528",
)
def _() -> Iterator[Planted]:
    def change(g: Array, place: Place) -> Array:
        found = np.zeros_like(g)
        found[place.x] = place.dy
        return found

    yield altered(BY_NAME["Embedding"], "weight", change)


@kind(
    "a term forgotten",
    "One of several uses of a parameter does not count.",
    "only",
    "is zero",
    "factor",
    "through",
    "term",
)
def _() -> Iterator[Planted]:
    def backward(dy: Array, cache: Any) -> Any:
        x, q, k, v, queries, keys, values, p = cache
        right = hw.attention_backward(dy, cache)
        without = hw.attention_backward(dy, (x, q, k, 0 * v, queries, keys, values, p))[0]
        return without, *right[1:]

    yield rewritten(BY_HAND["attention"], backward)


@kind(
    "skip forgotten",
    "The shortcut of a residual layer passes no gradient.",
    "dy is missing",
    "shortcut",
    "skip",
    "lacks dy",
    "constant",
)
def _() -> Iterator[Planted]:
    yield altered(BY_NAME["Residual"], "x", lambda g, p: g - p.dy)


# ---- dropout ----


@kind("mask forgotten", "Dropped entries get a gradient.", "only where", "mask", "dy itself", "factor")
def _() -> Iterator[Planted]:
    yield altered(BY_NAME["Dropout"], "x", lambda g, p: p.dy / 0.6)


@kind("scale of the mask forgotten", "1 / (1 - p) is missing.", "times too small")
def _() -> Iterator[Planted]:
    yield altered(BY_NAME["Dropout"], "x", lambda g, p: p.dy * (g != 0))


@kind("another mask", "The backward draws its mask anew.", "only where", "mask", "only in", "another order")
def _() -> Iterator[Planted]:
    mask = np.random.default_rng(5).random((7, 5)) >= 0.4
    yield altered(BY_NAME["Dropout"], "x", lambda g, p: p.dy * mask[: len(g)] / 0.6)


# ---- memory ----


@kind("stale cache", "The backward uses what an earlier call has left.", "earlier call")
def _() -> Iterator[Planted]:
    for name in ("sigmoid", "softmax", "cube"):
        subject = BY_HAND[name]
        right = subject.make().derivative

        def make(subject: Subject = subject, right: Any = right) -> nn.Layer:
            kept: list[Any] = []

            def backward(dy: Array, cache: Any) -> Any:
                kept.append(cache)
                return right(dy, kept[0])

            layer = subject.make()
            layer.derivative = backward
            return layer

        yield Planted(subject.name, subject, make)


@kind(
    "buffer handed out",
    "dx is returned in an array that the next call overwrites.",
    "earlier call",
    "overwrit",
    "second use",
    "next call",
)
def _() -> Iterator[Planted]:
    for name in ("sigmoid", "softmax", "affine"):
        subject = BY_HAND[name]
        right = subject.make().derivative

        def make(subject: Subject = subject, right: Any = right) -> nn.Layer:
            buffer: dict[Any, Array] = {}

            def backward(dy: Array, cache: Any) -> Any:
                found = right(dy, cache)
                dx, *rest = found if isinstance(found, tuple) else (found,)
                kept = buffer.setdefault(dx.shape, np.empty_like(dx))
                kept[...] = dx
                return (kept, *rest) if rest else kept

            layer = subject.make()
            layer.derivative = backward
            return layer

        yield Planted(subject.name, subject, make)


@kind(
    "x overwritten",
    "The backward computes in place, in its input.",
    "x was overwritten",
    "writes into x",
    "x[0] was overwritten",
)
def _() -> Iterator[Planted]:
    def backward(dz: Array, cache: Any) -> Any:
        x, y = cache
        dy = dz * x
        np.multiply(dz, y, out=x)
        return x.copy(), dy

    yield rewritten(FUNCTIONS["product"], backward)


@kind(
    "dy overwritten",
    "The backward computes in place, in dy, which a sibling still needs.",
    "dy was overwritten",
    "writes into",
    "dy",
)
def _() -> Iterator[Planted]:
    def backward(dz: Array, cache: Any) -> Any:
        x, y = cache
        dx = dz * y
        dz *= x
        return dx, dz

    yield rewritten(FUNCTIONS["product"], backward)


# ---- numbers ----


@kind("float32 inside", "The backward rounds to float32.", "float32", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g.astype(np.float32).astype(np.float64))


@kind(
    "integers",
    "The gradient is written into an array of integers.",
    "integer",
    "rounded",
    "truncated",
    "whole number",
    "is zero",
    general=True,
)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g.astype(np.int64).astype(np.float64), lambda s, n, a: s.t is None)


@kind(
    "gradient clipped",
    "The clipping that helped in training is left in.",
    "clip",
    "only where",
    "only in",
    general=True,
)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: np.clip(g, -0.02, 0.02))


@kind("norm clipped", "The gradient is scaled to length 1.", "times too", general=True)
def _() -> Iterator[Planted]:
    yield from everywhere(lambda g, p: g / max(1.0, float(np.linalg.norm(g))), is_parameter)


# ---- losses ----


def _probabilities(y: Array) -> Array:
    return hw.softmax(y)[0]


@kind("one-hot not subtracted", "The gradient is softmax / N.", "only in", "only where", "one-hot", "label")
def _() -> Iterator[Planted]:
    for name in ("CrossEntropyLoss", "CrossEntropyLoss, sum"):
        divisor = 1 if "sum" in name else 7
        yield altered(LOSSES[name], "y", lambda g, p, divisor=divisor: _probabilities(p.y) / divisor)


@kind(
    "of probabilities",
    "The gradient with respect to probabilities is given for that of the logits.",
    "probabilit",
    "logits",
    "factor",
    "softmax",
)
def _() -> Iterator[Planted]:
    yield altered(LOSSES["CrossEntropyLoss"], "y", lambda g, p: -np.eye(4)[LABELS] / _probabilities(p.y) / 7)


@kind("smoothing forgotten", "The gradient is that of hard labels.", "smoothing", "label")
def _() -> Iterator[Planted]:
    yield altered(
        LOSSES["CrossEntropyLoss, label_smoothing"], "y", lambda g, p: (_probabilities(p.y) - np.eye(4)[LABELS]) / 7
    )


@kind("class weights forgotten", "All classes weigh 1 in the gradient.", "weight", "row", "factor")
def _() -> Iterator[Planted]:
    yield altered(LOSSES["CrossEntropyLoss, weight"], "y", lambda g, p: (_probabilities(p.y) - np.eye(4)[LABELS]) / 7)


@kind("ignored rows counted", "Rows that the loss leaves out have a gradient.", "only in", "ignore", "row")
def _() -> Iterator[Planted]:
    def change(g: Array, place: Place) -> Array:
        return (_probabilities(place.y) - np.eye(4)[LABELS]) / (LABELS != 1).sum()

    yield altered(LOSSES["CrossEntropyLoss, ignore_index"], "y", change)


@kind("reduction ignored", "The gradient is always that of the mean.", "N times", "rows once", "times too small")
def _() -> Iterator[Planted]:
    for name in ("CrossEntropyLoss, sum", "MSELoss, sum"):
        yield altered(LOSSES[name], "y", lambda g, p: g / (g.size if p.x.shape == g.shape else len(g)))


@kind(
    "soft labels as hard ones",
    "The largest of a row's soft labels is taken as its class.",
    "label",
    "only",
    "soft",
    "argmax",
)
def _() -> Iterator[Planted]:
    yield altered(
        LOSSES["CrossEntropyLoss, soft labels"], "y", lambda g, p: (_probabilities(p.y) - np.eye(4)[SOFT.argmax(1)]) / 7
    )


# ---- the other methods of a layer ----


def _scaled(name: str, factor: float) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        return factor * getattr(type(self).__mro__[1], name)(self, *args)

    return method


@kind("difference", "A written `difference` is that of the linearized layer, or off by a factor.", "difference")
def _() -> Iterator[Planted]:
    for subject in BUILT_IN:
        if subject.make()._traits.difference and subject.x.dtype.kind == "f":
            yield overriding(subject, difference=_scaled("difference", 0.99))
    yield overriding(BY_NAME["Sigmoid"], ", linearized", difference=lambda self, x, y, dx: y * (1 - y) * dx)


@kind("perturb", "A written `perturb` is off by a factor.", "perturb")
def _() -> Iterator[Planted]:
    for subject in BUILT_IN:
        if subject.make()._traits.perturb:
            yield overriding(subject, perturb=_scaled("perturb", 1.01))


@kind("backward_parameters", "The short way for the lowest layer gives other gradients.", "backward_parameters")
def _() -> Iterator[Planted]:
    def method(self: Any, x: Array, y: Array, dy: Array, *saved: Any) -> None:
        type(self).__mro__[1].backward_parameters(self, x, y, 2 * dy, *saved)

    for subject in BUILT_IN:
        if subject.make().parameters() and subject.name not in ("Residual", "Branches"):
            yield overriding(subject, backward=_as_it_was, backward_parameters=method)


def _as_it_was(self: Any, x: Array, y: Array, dy: Array, *saved: Any) -> Array:
    if isinstance(self, nn.Embedding):
        nn.Embedding.backward_parameters(self, x, y, dy)
        return np.zeros(x.shape)
    return rightly(self, x, y, dy, *saved)


@kind("couples", "A layer says that entries or rows stand alone which do not.", "couples")
def _() -> Iterator[Planted]:
    for name in ("softmax", "cumsum", "unit_rows"):
        yield overriding(BY_HAND[name], couples="entries")
