"""The built-in layers, one small file for each kind."""

from nnframe.layers.activations import ELU, GELU, Activation, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Step, Tanh
from nnframe.layers.containers import Branches, Residual, Sequential
from nnframe.layers.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from nnframe.layers.dropout import Dropout
from nnframe.layers.embedding import Embedding
from nnframe.layers.linear import Linear
from nnframe.layers.normalization import BatchNorm1d, LayerNorm
from nnframe.layers.pooling import AdaptiveAvgPool2d, AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d
from nnframe.layers.shape import Flatten, Permute, Reshape, Unflatten

__all__ = [
    "ELU",
    "GELU",
    "Activation",
    "BatchNorm1d",
    "Branches",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
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
