"""Gradient strategies: `strategy(model, loss, x, t)` returns the loss and overwrites every `.grad`."""

from nnframe.gradients.backprop import Backprop
from nnframe.gradients.central import CentralDifference, Cost
from nnframe.gradients.coordinates import Blocks
from nnframe.gradients.numerical import numerical_gradient, numerical_hessian, numerical_jacobian

__all__ = [
    "Backprop",
    "Blocks",
    "CentralDifference",
    "Cost",
    "numerical_gradient",
    "numerical_hessian",
    "numerical_jacobian",
]
