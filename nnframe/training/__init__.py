"""Training: mini-batches, gradient, step, epoch after epoch; what happened, and how good it is."""

from nnframe.training.history import History
from nnframe.training.metrics import accuracy
from nnframe.training.trainer import Strategy, Trainer

__all__ = ["History", "Strategy", "Trainer", "accuracy"]
