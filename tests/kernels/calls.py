"""Every kernel that writes arrays, as a call of named arrays, for the tests of what it must refuse."""

import numpy as np

from nnframe import kernels
from nnframe.kernels import _kernels

RNG = np.random.default_rng(5)
ROWS, INPUTS, OUTPUTS, CLASSES = 6, 5, 4, 3


def floats(*shape):
    return RNG.uniform(0.1, 1, shape)


def above(a):
    stages = [("tanh", 0.0, a["z"], a["y"]), (a["w"],)]
    return _kernels.Above(OUTPUTS, stages, "cross_entropy", a["residual"], a["logits"], a["p"], a["t"])


ABOVE = {
    "z": (ROWS, OUTPUTS),
    "y": (ROWS, OUTPUTS),
    "w": (CLASSES, OUTPUTS),
    "logits": (ROWS, CLASSES),
    "p": (ROWS, CLASSES),
    "t": (ROWS, CLASSES),
    "residual": (ROWS, CLASSES),
}
ENTRIES = ROWS * (INPUTS + 1)  # of x that are not zero, and the bias


def network(a, **options):
    made = _kernels.Network(INPUTS, [(OUTPUTS, True), ("tanh", 0.0), (CLASSES, False)], np.float64)
    lists = [[a[f"{name}[{i}]"] for i in range(3)] for name in ("values", "gradients")]
    made.gradient(a["x"], a["labels"], *lists, "cross_entropy", **options)


NETWORK = {"[0]": (OUTPUTS, INPUTS), "[1]": (OUTPUTS,), "[2]": (CLASSES, OUTPUTS)}


def optimize(rule, arrays):
    names = ["values", "gradients", "means", "squares", "largest"]
    lists = [[arrays[f"{name}[{i}]"] for i in range(2) if f"{name}[{i}]" in arrays] for name in names]
    kernels.optimizer_update(rule, *lists, rate=0.1, beta1=0.9, beta2=0.9, eps=1e-3)


STEPS, HEADS = 3, 2


def attention_backward(a):
    names = ["q", "k", "v", "out", "lse", "dout"]
    kernels.attention_backward(*(a[name] for name in names), dq=a["dq"], dk=a["dk"], dv=a["dv"], factors=a["factors"])


def of_heads(names, length):
    return dict.fromkeys(names, (ROWS, length, HEADS, INPUTS))


# kernel: (call with a dict of arrays, their shapes, which are written, pairs that may be one array)
CALLS = {
    "batched_matmul": (
        lambda a: kernels.batched_matmul(a["a"], a["b"], out=a["out"]),
        {"out": (ROWS, OUTPUTS), "a": (ROWS, INPUTS), "b": (INPUTS, OUTPUTS)},
        ["out"],
        [],
    ),
    "linear": (
        lambda a: kernels.linear(a["x"], a["weight"], a["bias"], out=a["out"]),
        {"out": (ROWS, OUTPUTS), "x": (ROWS, INPUTS), "weight": (OUTPUTS, INPUTS), "bias": (OUTPUTS,)},
        ["out"],
        [],
    ),
    "linear of three axes": (
        lambda a: kernels.linear(a["x"], a["weight"], a["bias"], out=a["out"]),
        {"out": (2, ROWS, OUTPUTS), "x": (2, ROWS, INPUTS), "weight": (OUTPUTS, INPUTS), "bias": (OUTPUTS,)},
        ["out"],
        [],
    ),
    "linear_backward": (
        lambda a: kernels.linear_backward(
            a["x"], a["weight"], a["dy"], weight_grad=a["weight_grad"], bias_grad=a["bias_grad"]
        ),
        {
            "weight_grad": (OUTPUTS, INPUTS),
            "bias_grad": (OUTPUTS,),
            "x": (ROWS, INPUTS),
            "weight": (OUTPUTS, INPUTS),
            "dy": (ROWS, OUTPUTS),
        },
        ["weight_grad", "bias_grad"],
        [],
    ),
    "activation": (
        lambda a: kernels.activation("tanh", a["x"], out=a["out"]),
        {"out": (ROWS, INPUTS), "x": (ROWS, INPUTS)},
        ["out"],
        [("out", "x")],
    ),
    "activation_backward": (
        lambda a: kernels.activation_backward("tanh", a["x"], a["y"], a["dy"], out=a["out"]),
        {"out": (ROWS, INPUTS), "x": (ROWS, INPUTS), "y": (ROWS, INPUTS), "dy": (ROWS, INPUTS)},
        ["out"],
        [("out", "dy")],
    ),
    "activation_difference": (
        lambda a: kernels.activation_difference("tanh", a["x"], a["y"], a["dx"], out=a["out"]),
        {"out": (3, ROWS, INPUTS), "x": (ROWS, INPUTS), "y": (ROWS, INPUTS), "dx": (3, ROWS, INPUTS)},
        ["out"],
        [("out", "dx")],
    ),
    "softmax": (
        lambda a: kernels.softmax(a["logits"], out=a["out"]),
        {"out": (ROWS, CLASSES), "logits": (ROWS, CLASSES)},
        ["out"],
        [("out", "logits")],
    ),
    "softmax_cross_entropy": (
        lambda a: kernels.softmax_cross_entropy(a["logits"], a["labels"], weight=a["weight"], out=a["out"]),
        {"out": (ROWS, CLASSES), "logits": (ROWS, CLASSES), "labels": (ROWS, CLASSES), "weight": (CLASSES,)},
        ["out"],
        [("out", "logits")],
    ),
    "optimizer_update, sgd": (
        lambda a: optimize("sgd", a),
        {f"{name}[{i}]": (3, 5) for name in ("values", "gradients") for i in range(2)},
        ["values[0]", "values[1]"],
        [],
    ),
    "optimizer_update, adam": (
        lambda a: optimize("adam", a),
        {f"{name}[{i}]": (3, 5) for name in ("values", "gradients", "means", "squares") for i in range(2)},
        [f"{name}[{i}]" for name in ("values", "means", "squares") for i in range(2)],
        [],
    ),
    "optimizer_update, amsgrad": (
        lambda a: optimize("amsgrad", a),
        {f"{name}[{i}]": (3, 5) for name in ("values", "gradients", "means", "squares", "largest") for i in range(2)},
        [f"{name}[{i}]" for name in ("values", "means", "squares", "largest") for i in range(2)],
        [],
    ),
    "a network": (
        lambda a: network(a, outputs=[a[f"outputs[{i}]"] for i in range(3)]),
        {
            **{name + i: shape for name in ("gradients", "values") for i, shape in NETWORK.items()},
            "x": (ROWS, INPUTS),
            "labels": (ROWS, CLASSES),
            "outputs[0]": (ROWS, OUTPUTS),
            "outputs[1]": (ROWS, OUTPUTS),
            "outputs[2]": (ROWS, CLASSES),
        },
        ["gradients[0]", "gradients[1]", "gradients[2]"],
        [],
    ),
    "convolution_weight_gradient": (
        lambda a: kernels.convolution_weight_gradient(
            a["x"], a["dy"], weight_grad=a["weight_grad"], bias_grad=a["bias_grad"]
        ),
        {"weight_grad": (OUTPUTS, 3, 2, 2), "bias_grad": (OUTPUTS,), "x": (2, 3, 4, 5), "dy": (2, OUTPUTS, 3, 4)},
        ["weight_grad", "bias_grad"],
        [],
    ),
    "batch_norm_backward": (
        lambda a: kernels.batch_norm_backward(
            a["x"], a["dy"], a["moments"], a["w"], eps=0.1, weight_grad=a["weight_grad"], bias_grad=a["bias_grad"]
        ),
        {
            "weight_grad": (3,),
            "bias_grad": (3,),
            "x": (2, 3, 4, 5),
            "dy": (2, 3, 4, 5),
            "w": (3,),
            "moments": (2, 3),
        },
        ["weight_grad", "bias_grad"],
        [],
    ),
    "convolution_difference": (
        lambda a: _kernels.convolution_difference(
            _kernels.Above(OUTPUTS * 2, [("tanh", 0.0, a["z"], a["y"]), (a["w"],)], "squared_error", a["residual"]),
            a["x"],
            step=1e-3,
            scale=1.0,
            grad_weight=a["grad_weight"],
            grad_bias=a["grad_bias"],
            out_size=(1, 2),
        ),
        {
            "grad_weight": (OUTPUTS, 3, 2, 2),
            "grad_bias": (OUTPUTS,),
            "x": (ROWS, 3, 2, 3),
            "z": (ROWS, OUTPUTS * 2),
            "y": (ROWS, OUTPUTS * 2),
            "w": (CLASSES, OUTPUTS * 2),
            "residual": (ROWS, CLASSES),
        },
        ["grad_weight", "grad_bias"],
        [],
    ),
    "difference_gradient": (
        lambda a: _kernels.difference_gradient(
            above(a),
            a["x"],
            step=0.1,
            scale=1.0,
            grad_weight=a["grad_weight"],
            grad_bias=a["grad_bias"],
            columns=a["columns"],
        ),
        {
            "grad_weight": (OUTPUTS, INPUTS),
            "grad_bias": (OUTPUTS,),
            "x": (ROWS, INPUTS),
            "columns": (2, OUTPUTS, ENTRIES),
            **ABOVE,
        },
        ["grad_weight", "grad_bias"],
        [],
    ),
    "difference_curves": (
        lambda a: _kernels.difference_curves(
            above(a),
            a["distance"],
            tolerance=0.1,
            level=a["level"],
            bend=a["bend"],
            columns=a["columns"],
            doubtful=np.zeros((OUTPUTS, ROWS), bool),
            state=np.zeros(OUTPUTS, np.uint8),
        ),
        {
            "level": (OUTPUTS, ROWS),
            "bend": (OUTPUTS, ROWS),
            "distance": (ROWS,),
            "columns": (OUTPUTS, 6, ROWS),
            **ABOVE,
        },
        ["level", "bend"],
        [],
    ),
    "selected_products": (
        lambda a: _kernels.selected_products(a["a"], a["b"], np.arange(0, OUTPUTS * INPUTS, 3), a["out"]),
        {"out": (len(range(0, OUTPUTS * INPUTS, 3)),), "a": (OUTPUTS, ROWS), "b": (ROWS, INPUTS)},
        ["out"],
        [],
    ),
    "moved_copies": (
        lambda a: _kernels.moved_copies(a["x"], np.zeros((1, 3), np.intp), a["value"], a["out"]),
        {"out": (ROWS, 7), "x": (7,), "value": (ROWS, 3)},
        ["out"],
        [],
    ),
    "measured_slopes": (
        lambda a: _kernels.measured_slopes(
            a["value"], a["base"], a["x"], None, a["size"], 1e-16, 1e-9, 1e-8, a["slope"], a["reach"], np.ones(7, bool)
        ),
        {"slope": (7,), "reach": (7,), "value": (4, 7), "base": (7,), "x": (7,), "size": (7,)},
        ["slope", "reach"],
        [],
    ),
    "moved_along": (
        lambda a: _kernels.moved_along(a["start"], a["way"], 0.5, a["out"]),
        {"out": (ROWS, 7), "start": (ROWS, 7), "way": (ROWS, 7)},
        ["out"],
        [],
    ),
    "change_quotients": (
        lambda a: _kernels.change_quotients(a["y"], a["weight"], a["noise"], a["end"], a["step"], 0, 1e-3, a["out"]),
        {
            "out": (3, 8),
            "y": (4, 2, ROWS, 4, 1),
            "weight": (ROWS, 4),
            "noise": (ROWS, 4),
            "end": (4, 8),
            "step": (8,),
        },
        ["out"],
        [],
    ),
    "evaluate_moved": (
        lambda a: _kernels.evaluate_moved(1, 0, a["x"], np.zeros(ROWS, np.intp), a["value"], a["out"]),
        {"out": (ROWS, 2), "x": (7,), "value": (ROWS, 2)},
        ["out"],
        [],
    ),
    "recurrent": (
        lambda a: kernels.recurrent("gru", a["gates"], a["weight"], a["bias"], out=a["out"]),
        {
            "gates": (STEPS, ROWS, 3 * OUTPUTS),
            "out": (ROWS, STEPS, OUTPUTS),
            "weight": (3 * OUTPUTS, OUTPUTS),
            "bias": (3 * OUTPUTS,),
        },
        ["gates", "out"],
        [],
    ),
    "attention_backward": (
        attention_backward,
        {
            **of_heads(["dq", "q", "out", "dout"], STEPS),
            **of_heads(["dk", "dv", "k", "v"], CLASSES),
            "lse": (ROWS, HEADS, STEPS),
            "factors": (ROWS, HEADS, STEPS, CLASSES),
        },
        ["dq", "dk", "dv"],
        [],
    ),
}
