"""Optimizers: each changes parameters in place from their gradients."""

from nnframe.optimizers.adam import Adam, AdamW
from nnframe.optimizers.adaptive import AdaGrad, RMSprop
from nnframe.optimizers.base import Optimizer
from nnframe.optimizers.sgd import SGD

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Optimizer", "RMSprop"]
