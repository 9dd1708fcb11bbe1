"""Losses: functions of a network's output and the labels."""

from nnframe.losses.base import Loss
from nnframe.losses.cross_entropy import CrossEntropyLoss
from nnframe.losses.squared_error import MSELoss

__all__ = ["CrossEntropyLoss", "Loss", "MSELoss"]
