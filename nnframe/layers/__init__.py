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
from nnframe.layers.attention import MultiheadAttention
from nnframe.layers.containers import Branches, Residual, Sequential
from nnframe.layers.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from nnframe.layers.dropout import Dropout, Dropout2d
from nnframe.layers.embedding import Embedding
from nnframe.layers.linear import Linear
from nnframe.layers.normalization import BatchNorm1d, BatchNorm2d, LayerNorm
from nnframe.layers.padding import (
    CircularPad1d,
    CircularPad2d,
    ReflectionPad1d,
    ReflectionPad2d,
    ReplicationPad1d,
    ReplicationPad2d,
    ZeroPad1d,
    ZeroPad2d,
)
from nnframe.layers.pooling import AdaptiveAvgPool2d, AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d
from nnframe.layers.quantization import Quantize, Round, Sign
from nnframe.layers.recurrent import GRU, LSTM, RNN
from nnframe.layers.row_normalization import GroupNorm, RMSNorm
from nnframe.layers.shape import Flatten, Identity, Permute, Reshape, Unflatten
from nnframe.layers.transformer import PositionalEncoding, TransformerEncoderLayer

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "Activation",
    "AdaptiveAvgPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Branches",
    "CircularPad1d",
    "CircularPad2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Dropout",
    "Dropout2d",
    "Embedding",
    "Flatten",
    "GroupNorm",
    "Hardswish",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool1d",
    "MaxPool2d",
    "Mish",
    "MultiheadAttention",
    "PReLU",
    "Permute",
    "PositionalEncoding",
    "Quantize",
    "RMSNorm",
    "ReLU",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "Reshape",
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
    "TransformerEncoderLayer",
    "Unflatten",
    "ZeroPad1d",
    "ZeroPad2d",
]
