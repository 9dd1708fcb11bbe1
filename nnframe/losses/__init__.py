"""Losses: functions of a network's output and the labels."""

from nnframe.losses.base import Loss
from nnframe.losses.binary import BCELoss, BCEWithLogitsLoss, MultiLabelSoftMarginLoss
from nnframe.losses.cross_entropy import CrossEntropyLoss
from nnframe.losses.hinge import HingeEmbeddingLoss, MultiMarginLoss
from nnframe.losses.likelihood import KLDivLoss, NLLLoss
from nnframe.losses.regression import HuberLoss, L1Loss, SmoothL1Loss
from nnframe.losses.squared_error import MSELoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "Loss",
    "MSELoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "SmoothL1Loss",
]
