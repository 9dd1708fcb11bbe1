"""Attention of several heads."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe._checks import as_count, as_dtype, as_flag, as_generator
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Parameter
from nnframe.layers.dropout import Dropout, as_probability
from nnframe.layers.linear import Linear
from nnframe.layers.sequences import Mask, real_steps, refuse_time_first


class Heads(NamedTuple):
    """What attention leaves for its backward pass.

    q, k, v : (N, L or S, heads, d); out : (N, L, heads, d); lse : as `kernels.attention` returns it
    factors : what dropout has multiplied the probabilities by, or None
    """

    q: Array
    k: Array
    v: Array
    out: Array
    lse: Array
    factors: Array | None


class MultiheadAttention(Layer):
    """y = concat_h(softmax(Q_h K_h^T / sqrt(d)) V_h) W_o^T + b_o, d = embed_dim / num_heads (Vaswani et al. 2017).

    Q, K and V are what `in_proj_weight` makes of queries, keys and values. x is (N, L, embed_dim), from which all three
    are made; or, as the input of the model, a tuple: (query, key), where keys are the values too, or (query, key,
    value), of shapes (N, L, embed_dim) and twice (N, S, embed_dim): cross-attention. y is (N, L, embed_dim).

    Keys that are padding are seen by nobody; a query that sees no key gives b_o. They are told by one more array at the
    end of a tuple, the lengths (N,) of the keys, as in (x, lengths); or by `mask_zero`.

    Parameters
    ----------
    embed_dim, num_heads : int
        `num_heads` divides `embed_dim`.
    dropout : float
        In [0, 1]: how likely a probability is to be left out in training.
    bias : bool
    is_causal : bool
        Whether step i sees steps 0 to i only.
    mask_zero : bool
        Whether keys whose features are all 0 are padding.
    batch_first : bool
        True, not False as in PyTorch: rows are the first axis of every array.
    dtype : float32 or float64
    rng : np.random.Generator or int, optional
        Draws the weights, and seeds the masks of dropout.

    Attributes
    ----------
    in_proj_weight : Parameter (3 embed_dim, embed_dim)
        That of the queries, the keys and the values, as in PyTorch; uniform as Xavier's.
    in_proj_bias : Parameter (3 embed_dim,), or None
        Starts at 0.
    out_proj : Linear
        W_o and b_o.
    """

    couples = "rows"

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        is_causal: bool = False,
        mask_zero: bool = False,
        batch_first: bool = True,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        refuse_time_first(batch_first)
        self.embed_dim = as_count("embed_dim", embed_dim)
        self.num_heads = as_count("num_heads", num_heads)
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads: expected a divisor of embed_dim, {embed_dim}, got {num_heads}")
        self.is_causal = as_flag("is_causal", is_causal)
        self.mask_zero = as_flag("mask_zero", mask_zero)
        generator, shape = as_generator(rng), (3 * self.embed_dim, self.embed_dim)
        bound = math.sqrt(6 / sum(shape))
        dtype = as_dtype(dtype)
        self.in_proj_weight = Parameter(generator.uniform(-bound, bound, shape), dtype)
        self.in_proj_bias = Parameter(np.zeros(shape[0]), dtype) if as_flag("bias", bias) else None
        self.out_proj = Linear(self.embed_dim, self.embed_dim, bias, dtype=dtype, rng=generator)
        self.dropout = as_probability("dropout", dropout)
        self.drop = Dropout(self.dropout, rng=generator) if self.dropout else None

    # ---- forward ----

    def forward(self, x: Any) -> Array:
        return self.forward_saving(x)[0]

    def forward_saving(self, x: Any) -> tuple[Array, Heads]:
        inputs, mask = self._inputs(x)
        q, k, v = self._projected(inputs)
        factors = self._factors(q, k)
        out, lse = kernels.attention(q, k, v, causal=self.is_causal, mask=mask, factors=factors)
        return self.out_proj.forward(out.reshape(inputs[0].shape)), Heads(q, k, v, out, lse, factors)

    def _inputs(self, x: Any) -> tuple[tuple[Array, ...], Mask]:
        """Return query, key and value, or as many of them as there are, and which keys are no padding, (N, S)."""
        given = x if isinstance(x, tuple) else (x,)
        lengths = given[-1] if len(given) > 1 and given[-1].ndim == 1 else None
        inputs: tuple[Array, ...] = given if lengths is None else given[:-1]
        fits = 1 <= len(inputs) <= 3 and all(one.ndim == 3 and one.shape[2] == self.embed_dim for one in inputs)
        if not fits or len({one.shape for one in inputs[1:]}) > 1 or not inputs[-1].shape[1]:
            e, came = self.embed_dim, ", ".join(str(one.shape) for one in given)
            raise ValueError(
                f"x: expected shape (N, L, {e}), or a tuple of a query (N, L, {e}), a key (N, S, {e}) and a value like "
                f"the key, if it is another, with S at least 1, and of lengths (N,), if there are any; got {came}"
            )
        return inputs, real_steps(inputs[0 if len(inputs) == 1 else 1], lengths, self.mask_zero)

    def _parts(self, count: int) -> list[slice]:
        """Return the rows of in_proj_weight that each input is multiplied by."""
        e = self.embed_dim
        ends = {1: (0, 3 * e), 2: (0, e, 3 * e), 3: (0, e, 2 * e, 3 * e)}[count]
        return [slice(*pair) for pair in pairwise(ends)]

    def _projected(self, inputs: tuple[Array, ...]) -> list[Array]:
        weight, bias = self.in_proj_weight.value, None if self.in_proj_bias is None else self.in_proj_bias.value
        found: list[Array] = []
        for one, rows in zip(inputs, self._parts(len(inputs)), strict=True):
            made = kernels.linear(one, weight[rows], None if bias is None else bias[rows])
            found += self._heads(made)
        return found

    def _heads(self, made: Array) -> list[Array]:
        """Return the views (N, L, heads, d) of one projection, (N, L, how many embed_dim)."""
        many = made.shape[2] // self.embed_dim
        parts = made.reshape(*made.shape[:2], many, self.num_heads, self.embed_dim // self.num_heads)
        return [parts[:, :, i] for i in range(many)]

    def _factors(self, q: Array, k: Array) -> Array | None:
        """Return what the probabilities are multiplied by, (N, heads, L, S); None where that is 1."""
        if self.drop is None or not self.training:
            return None
        return self.drop.factors(np.empty((len(q), self.num_heads, q.shape[1], k.shape[1]), q.dtype))

    # ---- backward ----

    def backward(self, x: Any, y: Array, dy: Array, saved: Heads | None = None) -> Any:
        found = self._gradients(x, dy, saved, True)
        if not isinstance(x, tuple):
            return found[0]
        return (*found, np.zeros(x[-1].shape, dy.dtype)) if len(found) < len(x) else tuple(found)

    def backward_parameters(self, x: Any, y: Array, dy: Array, saved: Heads | None = None) -> None:
        self._gradients(x, dy, saved, False)

    def _gradients(self, x: Any, dy: Array, saved: Heads | None, input_gradient: bool) -> list[Array]:
        inputs, mask = self._inputs(x)
        q, k, v, out, lse, factors = self.forward_saving(x)[1] if saved is None else saved
        joined = out.reshape(inputs[0].shape)
        dout = self.out_proj.backward(joined, dy, dy).reshape(out.shape)
        parts = self._parts(len(inputs))
        changes = [
            np.empty((*one.shape[:2], rows.stop - rows.start), dy.dtype)
            for one, rows in zip(inputs, parts, strict=True)
        ]
        dq, dk, dv = (head for change in changes for head in self._heads(change))
        kernels.attention_backward(
            q, k, v, out, lse, dout, dq=dq, dk=dk, dv=dv, causal=self.is_causal, mask=mask, factors=factors
        )
        weight, bias = self.in_proj_weight, self.in_proj_bias
        found = []
        for one, change, rows in zip(inputs, changes, parts, strict=True):
            dx = kernels.linear_backward(
                one.reshape(-1, self.embed_dim),
                weight.value[rows],
                change.reshape(-1, change.shape[2]),
                weight_grad=weight.grad[rows],
                bias_grad=None if bias is None else bias.grad[rows],
                input_gradient=input_gradient,
            )
            found += [] if dx is None else [dx.reshape(one.shape)]
        return found

    # ---- central differences ----

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        """Return how y changes, from how the scores do: nothing is subtracted from something nearly equal.

        With g = expm1(change of a score) and m the sum of p g over the keys, probabilities change by
        p (g - m) / (1 + m).
        """
        mask = self._inputs(x)[1]
        made = kernels.linear(dx, self.in_proj_weight.value)
        heads = self.forward_saving(x)[1]
        parts = made.reshape(*made.shape[:-1], 3, self.num_heads, -1)
        dq, dk, dv = (parts[..., i, :, :].swapaxes(-2, -3) for i in range(3))  # (..., N, heads, T, d)
        q, k, v = (part.swapaxes(1, 2) for part in heads[:3])
        moved = kernels.batched_matmul(dq, k, transpose_b=True) + kernels.batched_matmul(q + dq, dk, transpose_b=True)
        moved *= moved.dtype.type(1 / math.sqrt(q.shape[-1]))
        if moved.max(initial=0) > FAR or (mask is not None and (mask != (x + dx != 0).any(axis=-1)).any()):
            return super().difference(x, y, dx)  # so far apart that two values may be subtracted
        p, factors = self._probabilities(heads, mask), heads.factors
        dp = _change_of_softmax(p, moved)
        if factors is not None:
            p, dp = p * factors, dp * factors
        out = kernels.batched_matmul(dp, v + dv) + kernels.batched_matmul(p, dv)
        return kernels.linear(out.swapaxes(-2, -3).reshape(dx.shape), self.out_proj.weight.value)

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Any, y: Array) -> Array:
        """Return what one moved feature of one head does: for a query's or key's through the softmax of that head."""
        heads = self.forward_saving(x)[1]
        if parameter is self.out_proj.weight or parameter is self.out_proj.bias:
            return self.out_proj.perturb(parameter, indices, step, heads.out.reshape(y.shape), y)
        inputs, mask = self._inputs(x)
        p, factors = self._probabilities(heads, mask), heads.factors
        columns = self.embed_dim if parameter is self.in_proj_weight else 1
        dy = np.empty((len(indices), *y.shape), y.dtype)
        for change, index in zip(dy, indices, strict=True):
            part, feature = divmod(int(index) // columns, self.embed_dim)
            given = inputs[min(part, len(inputs) - 1)]
            moved = given[..., index % columns] * step if columns > 1 else np.full(given.shape[:2], step, y.dtype)
            change[...] = self._moved_feature(heads, p, factors, part, feature, moved)
        return dy

    def _moved_feature(
        self, heads: Heads, p: Array, factors: Array | None, part: int, feature: int, moved: Array
    ) -> Array:
        """How y changes when one feature of all queries (part 0), keys (1) or values (2) changes by `moved`, (N, L)."""
        own, at = divmod(feature, heads.q.shape[-1])
        weight = self.out_proj.weight.value
        p, f = p[:, own], 1 if factors is None else factors[:, own]
        if part == 2:
            return np.einsum("nls,ns->nl", p * f, moved)[..., None] * weight[:, feature]  # type: ignore[no-any-return]
        scale = p.dtype.type(1 / math.sqrt(heads.q.shape[-1]))
        if part == 0:
            scores = scale * moved[:, :, None] * heads.k[:, None, :, own, at]
        else:
            scores = scale * heads.q[:, :, None, own, at] * moved[:, None, :]
        out = kernels.batched_matmul(_change_of_softmax(p, scores) * f, heads.v[:, :, own])
        return kernels.linear(out, weight[:, feature - at : feature - at + out.shape[-1]])

    def probabilities(self, x: Any) -> Array:
        """Return softmax(Q_h K_h^T / sqrt(d)), what each query takes of each value: (N, heads, L, S), without dropout.

        x is what `forward` takes, in arrays of the layer's dtype.
        """
        heads, mask = self.forward_saving(x)[1], self._inputs(x)[1]
        return self._probabilities(heads, mask)

    def _probabilities(self, heads: Heads, mask: Mask) -> Array:
        q, k = heads.q.swapaxes(1, 2), heads.k.swapaxes(1, 2)
        scores = kernels.batched_matmul(q, k, transpose_b=True) * q.dtype.type(1 / math.sqrt(q.shape[-1]))
        if self.is_causal:
            scores = np.where(np.tri(*scores.shape[2:], dtype=np.bool_), scores, -np.inf)
        if mask is not None:
            scores = np.where(mask[:, None, None], scores, -np.inf)
        return np.exp(scores - heads.lse[..., None]).astype(q.dtype, copy=False)

    def __repr__(self) -> str:
        return f"MultiheadAttention({self.embed_dim}, {self.num_heads}{options(self, ATTENTION)})"


ATTENTION = {"dropout": 0.0, "is_causal": False, "mask_zero": False}
FAR = 40.0  # a change of a score: beyond, probabilities are others


def _change_of_softmax(p: Array, moved: Array) -> Array:
    """How probabilities p change when scores change by `moved`; sums run over the last axis."""
    g = np.expm1(moved)
    m = (p * g).sum(axis=-1, keepdims=True)
    change: Array = p * (g - m) / (1 + m)
    return change


def options(layer: Layer, defaults: dict[str, Any]) -> str:
    """Words for the arguments of a layer that have not their default values."""
    shown = [f", {name}={getattr(layer, name)!r}" for name, value in defaults.items() if getattr(layer, name) != value]
    return "".join(shown)
