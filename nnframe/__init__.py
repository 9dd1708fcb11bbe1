"""nnframe: train neural networks without automatic differentiation.

Write a layer's forward pass; the gradient comes from central differences computed in C, or from a backward pass
that you wrote. Tensors are NumPy arrays.

    import nnframe as nn
    model = nn.Sequential(nn.Linear(64, 50), nn.Sigmoid(), nn.Linear(50, 10))
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), lr=0.5))
    history = trainer.fit(x, t, epochs=20, batch_size=100)
"""

import functools as _functools
import typing as _typing
import warnings as _warnings

from nnframe._version import __version__

try:
    from nnframe.kernels import _kernels as _kernels
except ImportError as error:
    from nnframe._build import advice

    raise ImportError(advice(error)) from error

from nnframe import data, kernels
from nnframe.config import config_info, default_num_threads, get_num_threads, set_num_threads, show_config
from nnframe.core.layer import Layer
from nnframe.core.parameter import Buffer, Parameter
from nnframe.core.protocol import CostWarning, LayerError
from nnframe.core.random import Random
from nnframe.data import DataLoader, train_test_split
from nnframe.gradients import (
    SPSA,
    Backprop,
    Blocks,
    CentralDifference,
    Cost,
    Measured,
    NodePerturbation,
)
from nnframe.initializers import (
    He,
    KaimingNormal,
    KaimingUniform,
    Normal,
    Orthogonal,
    TruncNormal,
    Uniform,
    Xavier,
    XavierNormal,
    XavierUniform,
    Zeros,
)
from nnframe.io import load, save
from nnframe.layers import (
    ELU,
    GELU,
    GRU,
    LSTM,
    RNN,
    SELU,
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Branches,
    CircularPad1d,
    CircularPad2d,
    Conv1d,
    Conv2d,
    ConvTranspose1d,
    ConvTranspose2d,
    Dropout,
    Dropout2d,
    Embedding,
    Flatten,
    GroupNorm,
    Hardswish,
    Identity,
    LayerNorm,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MaxPool1d,
    MaxPool2d,
    Mish,
    MultiheadAttention,
    Permute,
    PositionalEncoding,
    PReLU,
    Quantize,
    ReflectionPad1d,
    ReflectionPad2d,
    ReLU,
    ReplicationPad1d,
    ReplicationPad2d,
    Reshape,
    Residual,
    RMSNorm,
    Round,
    Sequential,
    Sigmoid,
    Sign,
    SiLU,
    Softmax,
    Softplus,
    Step,
    Tanh,
    TransformerEncoderLayer,
    Unflatten,
    ZeroPad1d,
    ZeroPad2d,
)
from nnframe.losses import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HingeEmbeddingLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    Loss,
    MSELoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    NLLLoss,
    SmoothL1Loss,
)
from nnframe.numerical import central_difference as _central_difference
from nnframe.numerical import numerical_gradient, numerical_hessian, numerical_jacobian
from nnframe.optimizers import SGD, AdaGrad, Adam, AdamW, Lion, NAdam, Optimizer, RAdam, RMSprop, Rprop
from nnframe.training import History, Trainer, accuracy, binary_accuracy, confusion_matrix, precision_recall_f1

if _typing.TYPE_CHECKING:
    from nnframe.gradients.check import Check, GradientError, Report, check_gradients

set_num_threads(default_num_threads())
del default_num_threads


def __getattr__(name: str) -> object:
    """Load the checker where one of its names is used first: training needs none of it."""
    if name not in ("Check", "GradientError", "Report", "check_gradients"):
        raise AttributeError(f"module 'nnframe' has no attribute {name!r}")
    from nnframe.gradients import check

    return getattr(check, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@_functools.wraps(_central_difference)
def _renamed_central_difference(*args, **kwargs):  # type: ignore[no-untyped-def]
    _warnings.warn(
        "nnframe.kernels.central_difference is called nnframe.numerical.central_difference now",
        DeprecationWarning,
        stacklevel=2,
    )
    return _central_difference(*args, **kwargs)


kernels.central_difference = _renamed_central_difference  # type: ignore[attr-defined]

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "SGD",
    "SPSA",
    "AdaGrad",
    "Adam",
    "AdamW",
    "BCELoss",
    "BCEWithLogitsLoss",
    "Backprop",
    "BatchNorm1d",
    "BatchNorm2d",
    "Blocks",
    "Branches",
    "Buffer",
    "CentralDifference",
    "Check",
    "CircularPad1d",
    "CircularPad2d",
    "Cost",
    "CostWarning",
    "CrossEntropyLoss",
    "DataLoader",
    "Dropout",
    "Dropout2d",
    "Embedding",
    "GradientError",
    "GroupNorm",
    "Hardswish",
    "He",
    "HingeEmbeddingLoss",
    "History",
    "HuberLoss",
    "Identity",
    "KLDivLoss",
    "KaimingNormal",
    "KaimingUniform",
    "L1Loss",
    "Layer",
    "LayerError",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Lion",
    "LogSoftmax",
    "Loss",
    "MSELoss",
    "Measured",
    "Mish",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "MultiheadAttention",
    "NAdam",
    "NLLLoss",
    "NodePerturbation",
    "Normal",
    "Optimizer",
    "Orthogonal",
    "PReLU",
    "Parameter",
    "PositionalEncoding",
    "Quantize",
    "RAdam",
    "RMSNorm",
    "RMSprop",
    "Random",
    "ReLU",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "Report",
    "Residual",
    "Round",
    "Rprop",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Sign",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "Step",
    "Tanh",
    "Trainer",
    "TransformerEncoderLayer",
    "TruncNormal",
    "Uniform",
    "Xavier",
    "XavierNormal",
    "XavierUniform",
    "ZeroPad1d",
    "ZeroPad2d",
    "Zeros",
    "__version__",
    "accuracy",
    "binary_accuracy",
    "check_gradients",
    "config_info",
    "confusion_matrix",
    "data",
    "get_num_threads",
    "kernels",
    "load",
    "numerical_gradient",
    "numerical_hessian",
    "numerical_jacobian",
    "precision_recall_f1",
    "save",
    "set_num_threads",
    "show_config",
    "train_test_split",
]

__all__ += [
    "AdaptiveAvgPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Flatten",
    "MaxPool1d",
    "MaxPool2d",
    "Permute",
    "Reshape",
    "Unflatten",
]
