"""The built-in layers, one small file for each kind."""

from nnframe.layers.activations import ELU, GELU, Activation, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Step, Tanh
from nnframe.layers.attention import MultiheadAttention
from nnframe.layers.containers import Branches, Residual, Sequential
from nnframe.layers.dropout import Dropout
from nnframe.layers.embedding import Embedding
from nnframe.layers.linear import Linear
from nnframe.layers.normalization import BatchNorm1d, LayerNorm
from nnframe.layers.recurrent import GRU, LSTM, RNN
from nnframe.layers.transformer import PositionalEncoding, TransformerEncoderLayer

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "BatchNorm1d",
    "Branches",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MultiheadAttention",
    "PositionalEncoding",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Step",
    "Tanh",
    "TransformerEncoderLayer",
]
