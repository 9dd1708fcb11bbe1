"""Training: mini-batches, gradient, step, epoch after epoch; what happened, and how good it is."""

from nnframe.training.callbacks import (
    Callback,
    ClipGradients,
    CSVLogger,
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
    StopOnDivergence,
    TensorBoard,
    WeightAverage,
)
from nnframe.training.fitting import Fit
from nnframe.training.history import History
from nnframe.training.metrics import Scores, accuracy, binary_accuracy, confusion_matrix, precision_recall_f1
from nnframe.training.scores import balanced_accuracy, f1, mae, mse, precision, r2, recall, roc_auc, top_k_accuracy
from nnframe.training.trainer import Strategy, Trainer

__all__ = [
    "CSVLogger",
    "Callback",
    "ClipGradients",
    "EarlyStopping",
    "Fit",
    "History",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "Scores",
    "StopOnDivergence",
    "Strategy",
    "TensorBoard",
    "Trainer",
    "WeightAverage",
    "accuracy",
    "balanced_accuracy",
    "binary_accuracy",
    "confusion_matrix",
    "f1",
    "mae",
    "mse",
    "precision",
    "precision_recall_f1",
    "r2",
    "recall",
    "roc_auc",
    "top_k_accuracy",
]
