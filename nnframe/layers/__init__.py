"""The built-in layers, one small file for each kind."""

from nnframe.layers.activations import ELU, GELU, Activation, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Step, Tanh
from nnframe.layers.containers import Branches, Residual, Sequential
from nnframe.layers.linear import Linear

__all__ = [
    "ELU",
    "GELU",
    "Activation",
    "Branches",
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
