"""Gradient strategies: `strategy(model, loss, x, t)` returns the loss and overwrites every `.grad`."""

from nnframe.gradients.backprop import Backprop
from nnframe.gradients.central import CentralDifference
from nnframe.gradients.check import Check, check_gradients
from nnframe.gradients.coordinates import Blocks
from nnframe.gradients.node import NodePerturbation
from nnframe.gradients.numerical import numerical_gradient, numerical_hessian, numerical_jacobian
from nnframe.gradients.pieces import Cost
from nnframe.gradients.spsa import SPSA

__all__ = [
    "SPSA",
    "Backprop",
    "Blocks",
    "CentralDifference",
    "Check",
    "Cost",
    "NodePerturbation",
    "check_gradients",
    "numerical_gradient",
    "numerical_hessian",
    "numerical_jacobian",
]
