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
from nnframe.layers.dropout import Dropout
from nnframe.layers.embedding import Embedding
from nnframe.layers.linear import Linear
from nnframe.layers.normalization import BatchNorm1d, LayerNorm
from nnframe.layers.quantization import Quantize, Round, Sign

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Activation",
    "BatchNorm1d",
    "Branches",
    "Dropout",
    "Embedding",
    "Hardswish",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "Quantize",
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
