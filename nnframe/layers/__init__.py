"""The built-in layers, one small file for each kind."""

from nnframe.layers.activations import (
    ELU,
    GELU,
    SELU,
    Activation,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Step,
    Tanh,
)
from nnframe.layers.containers import Branches, Residual, Sequential
from nnframe.layers.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from nnframe.layers.dropout import Dropout, Dropout2d
from nnframe.layers.embedding import Embedding
from nnframe.layers.linear import Linear
from nnframe.layers.normalization import BatchNorm1d, BatchNorm2d, LayerNorm
from nnframe.layers.pooling import AdaptiveAvgPool2d, AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d
from nnframe.layers.quantization import Quantize, Round, Sign
from nnframe.layers.row_normalization import GroupNorm, RMSNorm
from nnframe.layers.shape import Flatten, Permute, Reshape, Unflatten

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Activation",
    "BatchNorm1d",
    "BatchNorm2d",
    "Branches",
    "Dropout",
    "Dropout2d",
    "Embedding",
    "GroupNorm",
    "Hardswish",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "Quantize",
    "RMSNorm",
    "ReLU",
    "Residual",
    "Round",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Sign",
    "Softmax",
    "Softplus",
    "Step",
    "Tanh",
]

__all__ += [
    "AdaptiveAvgPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Flatten",
    "MaxPool1d",
    "MaxPool2d",
    "Permute",
    "Reshape",
    "Unflatten",
]
