"""The transformer: positions, and the encoder layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_count, as_flag, as_generator
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Buffer, Parameter
from nnframe.core.tree import Tree
from nnframe.layers.activations import GELU, ReLU
from nnframe.layers.attention import MultiheadAttention, options
from nnframe.layers.containers import Branches, Residual, Sequential
from nnframe.layers.dropout import Dropout, as_probability
from nnframe.layers.linear import Linear
from nnframe.layers.normalization import LayerNorm
from nnframe.layers.sequences import real_steps, refuse_time_first


class PositionalEncoding(Layer):
    """y[n, t] = x[n, t] + p[t], where p[t, 2i] = sin(t / 10000^(2i / E)), p[t, 2i + 1] = cos of the same.

    After Vaswani et al. (2017). x and y are (N, T, embed_dim); nothing is trained.

    Parameters
    ----------
    embed_dim : int
    max_len : int
        The longest T.
    mask_zero : bool
        Whether steps whose features are all 0 stay 0, so that layers above see that they are padding.

    Raises
    ------
    ValueError
        An x of another width, or longer than `max_len`.
    """

    couples = "rows"

    def __init__(self, embed_dim: int, max_len: int = 5000, *, mask_zero: bool = False) -> None:
        self.embed_dim = as_count("embed_dim", embed_dim)
        self.max_len = as_count("max_len", max_len)
        self.mask_zero = as_flag("mask_zero", mask_zero)
        angles = np.arange(self.max_len)[:, None] * 10000.0 ** (-np.arange(0, self.embed_dim, 2) / self.embed_dim)
        table = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(self.max_len, -1)
        self.table = table[:, : self.embed_dim]  # float64: no state, as it follows from the arguments

    def forward(self, x: Array) -> Array:
        if x.ndim != 3 or x.shape[2] != self.embed_dim or x.shape[1] > self.max_len:
            raise ValueError(f"x: expected shape (N, T, {self.embed_dim}) with T at most {self.max_len}, got {x.shape}")
        y: Array = x + self.table[: x.shape[1]].astype(x.dtype)
        real = real_steps(x, None, self.mask_zero)
        if real is not None:
            y[~real] = 0
        return y

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        real = real_steps(x, None, self.mask_zero)
        return dy if real is None else dy * real[..., None]

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        if not self.mask_zero:
            return dx
        moved = x + dx
        change: Array = dx + self.table[: x.shape[1]].astype(x.dtype) * (
            (moved != 0).any(axis=-1, keepdims=True).astype(x.dtype) - (x != 0).any(axis=-1, keepdims=True)
        )
        return change

    def __repr__(self) -> str:
        return f"PositionalEncoding({self.embed_dim}{options(self, {'max_len': 5000, 'mask_zero': False})})"


class Padding(Layer):
    """y = 1 at the steps of x (N, T, features) that are not 0 in all features, else 0; its gradient is 0."""

    couples = "rows"

    def forward(self, x: Array) -> Array:
        real = real_steps(x, None, True)
        assert real is not None
        return np.repeat(real[..., None], x.shape[2], axis=2).astype(x.dtype)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        return np.zeros_like(x)


class TransformerEncoderLayer(Sequential):
    """Self-attention and two linear layers, each with a shortcut and a layer norm (Vaswani et al. 2017).

    x and y are (N, T, d_model). With sa(x) = dropout1(self_attn(x)), ff(x) = dropout2(linear2(dropout(f(linear1(x))))):

        norm_first:  x = x + sa(norm1(x));  y = x + ff(norm2(x))
        otherwise:   x = norm1(x + sa(x));  y = norm2(x + ff(x))

    Arguments, their order and defaults, names and layouts of parameters are those of PyTorch, but for rows, which are
    the first axis here. It is a chain of layers that strategies see one by one.

    Parameters
    ----------
    d_model, nhead, dim_feedforward : int
    dropout : float
        0.1 unless given, as in PyTorch: of the probabilities, and of what the three dropouts are given.
    activation : {"relu", "gelu"}
    layer_norm_eps : float
    batch_first : bool
        True, not False as in PyTorch: rows are the first axis of every array.
    norm_first, bias : bool
    is_causal : bool
        Whether step i sees steps 0 to i only.
    mask_zero : bool
        Whether steps of x whose features are all 0 are padding: they are seen by no other step, and y is 0 there, so
        that layers above know them as well.
    dtype : float32 or float64
    rng : np.random.Generator or int, optional
        Draws the weights, and seeds the masks of dropout.

    Attributes
    ----------
    self_attn : MultiheadAttention
    linear1, linear2 : Linear
    norm1, norm2 : LayerNorm
    dropout, dropout1, dropout2 : Dropout
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = True,
        norm_first: bool = False,
        bias: bool = True,
        *,
        is_causal: bool = False,
        mask_zero: bool = False,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        refuse_time_first(batch_first)
        if activation not in ("relu", "gelu"):
            raise ValueError(f"activation: expected 'relu' or 'gelu', got {activation!r}")
        width, inner, p = as_count("d_model", d_model), as_count("dim_feedforward", dim_feedforward), dropout
        as_probability("dropout", p)
        generator = as_generator(rng)
        self.norm_first = as_flag("norm_first", norm_first)
        self.mask_zero = as_flag("mask_zero", mask_zero)
        self.self_attn = MultiheadAttention(
            width, nhead, p, bias, is_causal=is_causal, mask_zero=mask_zero, dtype=dtype, rng=generator
        )
        self.linear1 = Linear(width, inner, bias, dtype=dtype, rng=generator)
        self.linear2 = Linear(inner, width, bias, dtype=dtype, rng=generator)
        self.norm1 = LayerNorm(width, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(width, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout, self.dropout1, self.dropout2 = (Dropout(p, rng=generator) for _ in range(3))
        self.activation = ReLU() if activation == "relu" else GELU()
        super().__init__(*self._chain())

    def _chain(self) -> list[Layer]:
        """Return the layers in the order in which they run; dropouts of 0 are left out."""
        attention: list[Layer] = [self.self_attn, self.dropout1]
        forward = [self.linear1, self.activation, self.dropout, self.linear2, self.dropout2]
        if not self.dropout.p:
            attention, forward = attention[:1], [self.linear1, self.activation, self.linear2]
        if self.norm_first:
            first = Branches(Padding(), self.norm1, join="multiply") if self.mask_zero else self.norm1
            layers: list[Layer] = [Residual(first, *attention), Residual(self.norm2, *forward)]
        else:
            layers = [Residual(*attention), self.norm1, Residual(*forward), self.norm2]
        return [Branches(Padding(), Sequential(*layers), join="multiply")] if self.mask_zero else layers

    def children(self) -> Iterator[tuple[str, Parameter | Buffer | Tree]]:
        """Return the layers by the names that PyTorch gives them."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Tree))

    def __repr__(self) -> str:
        activation = "relu" if isinstance(self.activation, ReLU) else "gelu"
        given = {
            "dim_feedforward": (self.linear1.out_features, 2048),
            "dropout": (self.dropout.p, 0.1),
            "activation": (activation, "relu"),
            "layer_norm_eps": (self.norm1.eps, 1e-5),
            "norm_first": (self.norm_first, False),
            "bias": (self.linear1.bias is not None, True),
            "is_causal": (self.self_attn.is_causal, False),
            "mask_zero": (self.mask_zero, False),
        }
        shown = "".join(f", {name}={value!r}" for name, (value, default) in given.items() if value != default)
        return f"TransformerEncoderLayer({self.self_attn.embed_dim}, {self.self_attn.num_heads}{shown})"
