"""What the smallest call of each kernel costs, in every form of its arguments: `python benchmarks/speed.py calls`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
from networks import classifier
from side_by_side import Way, measure, seconds, table

import nnframe as nn

Call = Callable[[], object]


def calls(full: bool) -> str:
    """The smallest call in every form, and a prediction for one row."""
    forms = {**product_forms(), **linear_forms(), **loss_forms(), **activation_forms(), **other_forms()}
    ways: dict[str, Way] = dict(forms)
    rows = [[name, seconds(time)] for name, time in measure(ways, 9, enough=0.005).items()]
    return "the smallest call of each kernel, in float32\n\n" + table(["call", "time"], rows)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def product_forms() -> dict[str, Call]:
    """Stacks of no, one, two and three axes, broadcast or not, of 1, 2, 4 and 16 matrices."""
    found: dict[str, Call] = {}
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    shapes += [((batch,), second) for batch in (1, 2, 4, 16) for second in ((batch,), ())]
    shapes += [
        ((1, 1), (1, 1)),
        ((2, 2), (2, 2)),
        ((2, 2), (2,)),
        ((2, 1), (2,)),
        ((2, 2), (2, 1)),
        ((1, 1, 1, 1),) * 2,
    ]
    for (lead_a, lead_b), options in itertools.product(shapes, ({}, {"transpose_b": True}, {"out": None})):
        a, b, lead = ones(*lead_a, 1, 1), ones(*lead_b, 1, 1), np.broadcast_shapes(lead_a, lead_b)
        given = {
            name: np.empty((*lead, 1, 1), np.float32) if name == "out" else value for name, value in options.items()
        }
        name = f"batched_matmul {a.shape}, {b.shape}" + "".join(f", {option}" for option in options)
        found[name] = functools.partial(nn.kernels.batched_matmul, a, b, **given)
    strided, b = np.ones((2, 2, 2), np.float32).swapaxes(0, 1)[:, ::2], ones(2, 2)
    found["batched_matmul (2, 1, 2), (2, 2), strides"] = functools.partial(nn.kernels.batched_matmul, strided, b)
    return found


def linear_forms() -> dict[str, Call]:
    """Rows of one, two and three axes; with a bias, an activation, `out`; and backward."""
    k, weight, bias, found = nn.kernels, ones(1, 1), ones(1), {}
    for x in (ones(1), ones(1, 1), ones(1, 1, 1)):
        found[f"linear {x.shape}"] = functools.partial(k.linear, x, weight)
        found[f"linear {x.shape}, bias, relu"] = functools.partial(k.linear, x, weight, bias, activation="relu")
        found[f"linear {x.shape}, bias, out"] = functools.partial(k.linear, x, weight, bias, out=np.empty_like(x))
    x, sums = ones(1, 1), {"weight_grad": ones(1, 1)}
    found["linear_backward"] = functools.partial(k.linear_backward, x, weight, x, **sums)
    found["linear_backward, bias"] = functools.partial(k.linear_backward, x, weight, x, **sums, bias_grad=ones(1))
    sums["input_gradient"] = False
    found["linear_backward, bias, no input"] = functools.partial(
        k.linear_backward, x, weight, x, **sums, bias_grad=ones(1)
    )
    return found


def loss_forms() -> dict[str, Call]:
    """Labels of each kind, and each option."""
    k, x, labels, found = nn.kernels, ones(1, 2), np.zeros(1, np.int64), {}
    soft = np.full((1, 2), 0.5, np.float32)
    forms = {
        "": {},
        "out": {"out": np.empty_like(x)},
        "sum": {"reduction": "sum"},
        "weight": {"weight": ones(2)},
        "label_smoothing": {"label_smoothing": 0.1},
        "ignore_index": {"ignore_index": 1},
    }
    for name, options in forms.items():
        suffix = f", {name}" if name else ""
        found["softmax_cross_entropy" + suffix] = functools.partial(k.softmax_cross_entropy, x, labels, **options)
        found["softmax_cross_entropy, soft labels" + suffix] = functools.partial(
            k.softmax_cross_entropy, x, soft, **{key: value for key, value in options.items() if name != "ignore_index"}
        )
    found["softmax_cross_entropy, int32 labels"] = functools.partial(
        k.softmax_cross_entropy, x, labels.astype(np.int32)
    )
    found["softmax_cross_entropy_loss"] = functools.partial(k.softmax_cross_entropy_loss, x, labels)
    found["check_labels"] = functools.partial(k.check_labels, x, labels)
    found["softmax"] = functools.partial(k.softmax, x)
    found["softmax, out"] = functools.partial(k.softmax, x, out=np.empty_like(x))
    return found


def activation_forms() -> dict[str, Call]:
    """Forward, backward and difference, of one and three axes."""
    k, found = nn.kernels, {}
    for x in (ones(1), ones(1, 1, 1)):
        for name, options in (("", {}), (", out", {"out": np.empty_like(x)})):
            found[f"activation {x.shape}{name}"] = functools.partial(k.activation, "relu", x, **options)
            found[f"activation_backward {x.shape}{name}"] = functools.partial(
                k.activation_backward, "relu", x, x, x, **options
            )
            found[f"activation_difference {x.shape}{name}"] = functools.partial(
                k.activation_difference, "relu", x, x, x, **options
            )
    x = ones(1)
    found["activation (1,), alpha"] = functools.partial(k.activation, "elu", x, alpha=0.5)
    found["activation_difference (1,), stack"] = functools.partial(k.activation_difference, "relu", x, x, ones(1, 1))
    return found


def other_forms() -> dict[str, Call]:
    """Optimizers, and a model's output for one row."""
    k, found = nn.kernels, {}
    for rule, options in (("sgd", {}), ("momentum", {"beta1": 0.9}), ("adam", {"beta1": 0.9, "beta2": 0.999})):
        arrays = [[ones(1)] for _ in range(4)]
        found[f"optimizer_update {rule}"] = functools.partial(k.optimizer_update, rule, *arrays, rate=0.1, **options)
    found["all_finite"] = functools.partial(k.all_finite, ones(1))
    model = classifier([64, 32, 10], nn.ReLU, np.float32)
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.1))
    found["64-32-10, model(x) of one row"] = functools.partial(model, ones(1, 64))
    found["64-32-10, trainer.predict(x) of one row"] = functools.partial(trainer.predict, ones(1, 64))
    return found
