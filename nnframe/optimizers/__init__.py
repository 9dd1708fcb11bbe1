"""Optimizers: each changes parameters in place from their gradients."""

from nnframe.optimizers.adam import Adam, AdamW, Lion, NAdam, RAdam
from nnframe.optimizers.adaptive import AdaGrad, RMSprop, Rprop
from nnframe.optimizers.base import Optimizer
from nnframe.optimizers.sgd import SGD

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Lion", "NAdam", "Optimizer", "RAdam", "RMSprop", "Rprop"]
