"""Attention in NumPy: what csrc/attention.inc.h must compute. Imported by reference.py."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_] | None


def attention(
    q: Floats,
    k: Floats,
    v: Floats,
    mask: Mask,
    factors: Floats | None,
    scale: float,
    causal: bool,
    out: Floats,
    lse: Floats,
) -> None:
    """Write softmax(scale q k^T) v, (N, L, heads, d), and the sums' logarithms; see `kernels.attention`."""
    scores = _scores(q, k, mask, scale, causal)
    shift = scores.max(axis=-1, keepdims=True)
    e = np.exp(scores - np.where(shift == -np.inf, 0, shift))
    total = e.sum(axis=-1, keepdims=True)
    seen = total != 0
    with np.errstate(divide="ignore"):
        lse[...] = np.where(seen, shift + np.log(total), np.inf)[..., 0]
    p = e / np.where(seen, total, 1)
    out[...] = np.einsum("nhls,nshd->nlhd", p if factors is None else p * factors, v)


def attention_backward(
    q: Floats,
    k: Floats,
    v: Floats,
    mask: Mask,
    factors: Floats | None,
    scale: float,
    causal: bool,
    out: Floats,
    lse: Floats,
    dout: Floats,
    dq: Floats,
    dk: Floats,
    dv: Floats,
) -> None:
    """Write the gradients of q, k and v; see `kernels.attention_backward`."""
    p = np.exp(_scores(q, k, mask, scale, causal) - lse[..., None])
    f = 1 if factors is None else factors
    dp = np.einsum("nlhd,nshd->nhls", dout, v) * f
    own = np.einsum("nlhd,nlhd->nhl", dout, out)[..., None]
    ds = p * (dp - own) * q.dtype.type(scale)
    dv[...] = np.einsum("nhls,nlhd->nshd", p * f, dout)
    dq[...] = np.einsum("nhls,nshd->nlhd", ds, k)
    dk[...] = np.einsum("nhls,nlhd->nshd", ds, q)


def _scores(q: Floats, k: Floats, mask: Mask, scale: float, causal: bool) -> Floats:
    """Return the scores (N, heads, L, S), -infinity where a key is hidden."""
    scores: Floats = np.einsum("nlhd,nshd->nhls", q, k) * q.dtype.type(scale)
    if causal:
        scores = np.where(np.tri(*scores.shape[2:], dtype=np.bool_), scores, -np.inf)
    if mask is not None:
        scores = np.where(mask[:, None, None], scores, -np.inf)
    found: Floats = scores.astype(q.dtype, copy=False)
    return found
