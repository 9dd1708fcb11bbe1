"""The kernels: C called through Cython, for arrays of float32 or float64 of any layout.

They are the same functions that the layers use. Each is there once more in readable NumPy, in
`nnframe.kernels.reference`.
"""

from nnframe.kernels._kernels import (
    activation,
    activation_backward,
    activation_difference,
    all_finite,
    batched_matmul,
    check_labels,
    convolution,
    convolution_input_gradient,
    convolution_weight_gradient,
    linear,
    linear_backward,
    max_pooling,
    max_pooling_backward,
    max_pooling_difference,
    mean_pooling,
    mean_pooling_backward,
    optimizer_update,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_loss,
)

__all__ = [
    "activation",
    "activation_backward",
    "activation_difference",
    "all_finite",
    "batched_matmul",
    "check_labels",
    "convolution",
    "convolution_input_gradient",
    "convolution_weight_gradient",
    "linear",
    "linear_backward",
    "max_pooling",
    "max_pooling_backward",
    "max_pooling_difference",
    "mean_pooling",
    "mean_pooling_backward",
    "optimizer_update",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_loss",
]
