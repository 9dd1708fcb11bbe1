"""The built-in layers, one small file for each kind."""

from nnframe.layers.activations import Activation, ReLU, Sigmoid, Step, Tanh
from nnframe.layers.linear import Linear

__all__ = ["Activation", "Linear", "ReLU", "Sigmoid", "Step", "Tanh"]
