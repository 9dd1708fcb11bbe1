"""Gradient strategies: `strategy(model, loss, x, t)` returns the loss and overwrites every `.grad`."""

from nnframe.gradients.backprop import Backprop
from nnframe.gradients.central import CentralDifference
from nnframe.gradients.node import NodePerturbation
from nnframe.gradients.selection import Blocks
from nnframe.gradients.spsa import SPSA
from nnframe.gradients.work import Cost, Measured

__all__ = [
    "SPSA",
    "Backprop",
    "Blocks",
    "CentralDifference",
    "Cost",
    "Measured",
    "NodePerturbation",
]
