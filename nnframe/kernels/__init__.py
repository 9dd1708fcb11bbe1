"""The kernels: C called through Cython, for arrays of float32 or float64 of any layout.

They are the same functions that the layers use. Each is there once more in readable NumPy, in
`nnframe.kernels.reference`.
"""

from nnframe.kernels._kernels import (
    activation,
    activation_backward,
    activation_difference,
    all_finite,
    attention,
    attention_backward,
    batched_matmul,
    check_labels,
    linear,
    linear_backward,
    optimizer_update,
    recurrent,
    recurrent_backward,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_loss,
    uniform,
)

__all__ = [
    "activation",
    "activation_backward",
    "activation_difference",
    "all_finite",
    "attention",
    "attention_backward",
    "batched_matmul",
    "check_labels",
    "linear",
    "linear_backward",
    "optimizer_update",
    "recurrent",
    "recurrent_backward",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_loss",
    "uniform",
]
