"""Recurrent layers in NumPy, step by step: what csrc/recurrent.inc.h must compute. Imported by reference.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nnframe.kernels.reference_activations import activation

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_] | None


def recurrent(
    cell: str,
    gates: Floats,
    weight: Floats,
    bias: Floats | None,
    mask: Mask,
    reverse: bool,
    state: Floats,
    kept: Floats | None,
    y: Floats | None,
) -> None:
    """States of a recurrent layer; see `kernels.recurrent`. Writes gates, state (T, N, H), kept and y (N, T, H)."""
    zero: Floats = np.zeros(state.shape[1:], state.dtype)
    new: Floats
    own: Floats
    for t, before in _in_time(len(state), reverse):
        h = zero if before is None else state[before]
        c = zero if before is None or kept is None else kept[before]
        q = h @ weight.T if bias is None else h @ weight.T + bias
        u = gates[t]
        if cell == "lstm":
            i, f, g, o = (activation(name, part) for name, part in zip(_LSTM, _parts(u + q, 4), strict=True))
            own = f * c + i * g
            new, values = o * np.tanh(own), [i, f, g, o]
        elif cell == "gru":
            (ur, uz, un), (qr, qz, own) = _parts(u, 3), _parts(q, 3)
            r, z = activation("sigmoid", ur + qr), activation("sigmoid", uz + qz)
            n = np.tanh(un + r * own)
            new, values = n + z * (h - n), [r, z, n]
        else:
            new, own, values = activation(cell.removeprefix("rnn_"), u + q), c, [u]
        real = np.ones(len(u), bool) if mask is None else mask[t]
        state[t] = np.where(real[:, None], new, h)
        if kept is not None:
            kept[t] = np.where(real[:, None], own, c)
        gates[t][real] = np.concatenate(values, axis=1)[real]
        if y is not None:
            y[:, t] = np.where(real[:, None], new, 0)


def recurrent_backward(
    cell: str,
    gates: Floats,
    weight: Floats,
    state: Floats,
    kept: Floats | None,
    mask: Mask,
    reverse: bool,
    dy: Floats | None,
    dlast: Floats | None,
    dgates: Floats,
    dq: Floats,
) -> None:
    """Gradients of u and q; see `kernels.recurrent_backward`. Writes dgates and dq, (T, N, G H)."""
    zero: Floats = np.zeros(state.shape[1:], state.dtype)
    carried: Floats = zero if dlast is None else dlast
    dc = zero
    for t, before in reversed(list(_in_time(len(state), reverse))):
        h = zero if before is None else state[before]
        dh = carried if dy is None else carried + dy[:, t]
        real = np.ones((len(dh), 1), bool) if mask is None else mask[t][:, None]
        if cell == "lstm":
            assert kept is not None
            i, f, g, o = _parts(gates[t], 4)
            tanh, c = np.tanh(kept[t]), zero if before is None else kept[before]
            total = dc + dh * o * (1 - tanh**2)
            parts = [
                total * g * i * (1 - i),
                total * c * f * (1 - f),
                total * i * (1 - g**2),
                dh * tanh * o * (1 - o),
            ]
            to_q, below, dc = parts, zero, np.where(real, total * f, dc)
        elif cell == "gru":
            assert kept is not None
            r, z, n = _parts(gates[t], 3)
            dn = dh * (1 - z) * (1 - n**2)
            parts = [dn * kept[t] * r * (1 - r), dh * (h - n) * z * (1 - z), dn]
            to_q, below = [*parts[:2], dn * r], dh * z
        else:
            slope = 1 - state[t] ** 2 if cell == "rnn_tanh" else state[t] > 0
            parts = to_q = [dh * slope]
            below = zero
        dgates[t] = np.where(real, np.concatenate(parts, axis=1), 0)
        dq[t] = np.where(real, np.concatenate(to_q, axis=1), 0)
        carried = np.where(real, below + dq[t] @ weight, carried)


def recurrent_change(
    cell: str,
    arguments: Floats,
    weight: Floats,
    state: Floats,
    kept: Floats | None,
    mask: Mask,
    reverse: bool,
    all_columns: bool,
    given: Floats,
    at: npt.NDArray[np.intp] | None,
    origin: npt.NDArray[np.intp] | None,
    step: float,
    in_state: bool,
    y: Floats,
    last: Floats,
) -> None:
    """See `kernels.recurrent_change`: subtract values in float64; write y and last.

    given : du (T, S N, G H) with `all_columns`, else drive (T, S N)
    """
    rows, units = len(y), state.shape[2]
    stack = rows // max(state.shape[1], 1)
    x, h, c = (
        np.tile(np.zeros((len(state), 0, 0)) if a is None else a.astype(np.float64), (1, stack, 1))
        for a in (arguments, state, kept)
    )
    dh, dc = np.zeros((rows, units)), np.zeros((rows, units))
    real = np.ones(h.shape[:2], bool) if mask is None else np.tile(mask, (1, stack))
    every = np.arange(rows)
    columns = np.repeat(np.zeros(stack, np.intp) if at is None else at, state.shape[1])
    for t, before in _in_time(len(state), reverse):
        dq, du = dh @ weight.T.astype(np.float64), np.zeros((rows, len(weight)))
        if all_columns:
            du += given[t]
        else:
            moved = given[t].astype(np.float64)
            if origin is not None:
                moved = moved + step * dh[every, np.repeat(origin, state.shape[1])]
            (dq if in_state else du)[every, columns] += moved
        earlier = h[before] if before is not None else np.zeros_like(dh)
        own, new = dc, dh
        if cell == "lstm":
            i, f, g, o = (activation(name, part) for name, part in zip(_LSTM, _parts(x[t], 4), strict=True))
            ends = zip(_LSTM, _parts(x[t] + dq + du, 4), strict=True)
            i2, f2, g2, o2 = (activation(name, part) for name, part in ends)
            memory = c[before] if before is not None else np.zeros_like(dh)
            own = f2 * (memory + dc) + i2 * g2 - (f * memory + i * g)
            new = o2 * np.tanh(c[t] + own) - o * np.tanh(c[t])
        elif cell == "gru":
            (ur, uz, un), (qr, qz, qn), (xr, xz, xn) = _parts(du, 3), _parts(dq, 3), _parts(x[t], 3)
            r, z, n = activation("sigmoid", xr), activation("sigmoid", xz), np.tanh(xn)
            r2, z2 = activation("sigmoid", xr + ur + qr), activation("sigmoid", xz + uz + qz)
            n2 = np.tanh(xn + un + r2 * (c[t] + qn) - r * c[t])
            new = n2 + z2 * (earlier + dh - n2) - (n + z * (earlier - n))
        else:
            name = cell.removeprefix("rnn_")
            new = activation(name, x[t] + dq + du) - activation(name, x[t])
        now = real[t][:, None]
        dh, dc = np.where(now, new, dh), np.where(now, own, dc)
        y[:, t] = np.where(now, dh, 0)
    last[...] = dh


_LSTM = "sigmoid", "sigmoid", "tanh", "sigmoid"


def _parts(gates: Floats, count: int) -> list[Floats]:
    return np.split(gates, count, axis=1)


def _in_time(steps: int, reverse: bool) -> Iterator[tuple[int, int | None]]:
    """Each step and the one before it; None before the first."""
    before = None
    for t in range(steps - 1, -1, -1) if reverse else range(steps):
        yield t, before
        before = t
