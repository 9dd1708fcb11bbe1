"""Training: mini-batches, gradient, step, epoch after epoch; what happened, and how good it is."""

from nnframe.training.history import History
from nnframe.training.metrics import Scores, accuracy, binary_accuracy, confusion_matrix, precision_recall_f1
from nnframe.training.trainer import Strategy, Trainer

__all__ = [
    "History",
    "Scores",
    "Strategy",
    "Trainer",
    "accuracy",
    "binary_accuracy",
    "confusion_matrix",
    "precision_recall_f1",
]
