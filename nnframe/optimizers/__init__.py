"""Optimizers: each changes parameters in place from their gradients."""

from nnframe.optimizers.adam import Adam, AdamW, Lion, NAdam, RAdam
from nnframe.optimizers.adaptive import AdaGrad, RMSprop, Rprop
from nnframe.optimizers.base import Optimizer
from nnframe.optimizers.groups import Groups
from nnframe.optimizers.schedules import CosineDecay, ExponentialDecay, OneCycle, PiecewiseConstant, StepDecay
from nnframe.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "CosineDecay",
    "ExponentialDecay",
    "Groups",
    "Lion",
    "NAdam",
    "OneCycle",
    "Optimizer",
    "PiecewiseConstant",
    "RAdam",
    "RMSprop",
    "Rprop",
    "StepDecay",
]
