"""Convolution and pooling in readable NumPy: what csrc/convolution.inc.h and pooling.inc.h must compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe.kernels.reference_activations import activation_difference
from nnframe.kernels.reference_differences import Above, change_of_loss

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int32]
Pair = tuple[int, int]


def _padded(x: Floats, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, fill: float) -> Floats:
    """Return x with its padding before, and after it as much as the last of `size` windows needs."""
    widths = [(0, 0), (0, 0)]
    for length, n, k, s, p, d in zip(x.shape[2:], size, kernel, stride, padding, dilation, strict=True):
        widths.append((p, max(0, (n - 1) * s + (k - 1) * d + 1 - p - length)))
    return np.pad(x, widths, constant_values=fill)


def _views(x: Floats, size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Iterator[tuple[int, int, Floats]]:
    """For each tap what it meets, (N, C, *size): a strided view of x, whose padding it has already."""
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            rows = slice(a * dilation[0], a * dilation[0] + (size[0] - 1) * stride[0] + 1, stride[0])
            columns = slice(b * dilation[1], b * dilation[1] + (size[1] - 1) * stride[1] + 1, stride[1])
            yield a, b, x[:, :, rows, columns]


def _grouped(x: Floats, groups: int) -> Floats:
    return x.reshape(len(x), groups, x.shape[1] // groups, *x.shape[2:])


def convolution(
    x: Floats,
    weight: Floats,
    bias: Floats | None,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Floats:
    """y = bias + the sum over taps of weight times what the tap meets; see `kernels.convolution`."""
    kernel = weight.shape[2], weight.shape[3]
    y = np.zeros((len(x), len(weight), *size), x.dtype)
    if y.size == 0:
        return y
    w = weight.reshape(groups, -1, *weight.shape[1:])
    for a, b, seen in _views(_padded(x, size, kernel, stride, padding, dilation, 0), size, kernel, stride, dilation):
        y += np.einsum("goc,ngcij->ngoij", w[:, :, :, a, b], _grouped(seen, groups)).reshape(y.shape)
    return y if bias is None else y + bias[:, None, None]


def convolution_input_gradient(
    dy: Floats,
    weight: Floats,
    bias: Floats | None,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Floats:
    """Send each dy back to what its taps met; see `kernels.convolution_input_gradient`."""
    kernel, outputs = (weight.shape[2], weight.shape[3]), (dy.shape[2], dy.shape[3])
    x = np.zeros((len(dy), weight.shape[1] * groups, *size), dy.dtype)
    if dy.size and x.size:
        wide = _padded(x, outputs, kernel, stride, padding, dilation, 0)
        w = weight.reshape(groups, -1, *weight.shape[1:])
        for a, b, seen in _views(wide, outputs, kernel, stride, dilation):
            seen += np.einsum("goc,ngoij->ngcij", w[:, :, :, a, b], _grouped(dy, groups)).reshape(seen.shape)
        x = wide[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    return x if bias is None else x + bias[:, None, None]


def convolution_weight_gradient(
    x: Floats,
    dy: Floats,
    weight: Floats,
    bias: Floats | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """Add to the gradients of weight and bias; see `kernels.convolution_weight_gradient`."""
    kernel, size = (weight.shape[2], weight.shape[3]), (dy.shape[2], dy.shape[3])
    if dy.size == 0:
        return
    if bias is not None:
        bias += dy.sum(axis=(0, 2, 3), dtype=np.float64).astype(dy.dtype)
    w = weight.reshape(groups, -1, *weight.shape[1:])
    for a, b, seen in _views(_padded(x, size, kernel, stride, padding, dilation, 0), size, kernel, stride, dilation):
        w[:, :, :, a, b] += np.einsum("ngoij,ngcij->goc", _grouped(dy, groups), _grouped(seen, groups))


# ---- pooling ----


def _windows(x: Floats, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, fill: float) -> Floats:
    """Return the entries of each window, (taps, N, C, *size)."""
    wide = _padded(x, size, kernel, stride, padding, dilation, fill)
    return np.stack([seen for _, _, seen in _views(wide, size, kernel, stride, dilation)])


def max_pooling(
    x: Floats, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Floats, Indices]:
    """Return the largest entry of each window and its place; see `kernels.max_pooling`."""
    entries = _windows(x, size, kernel, stride, padding, dilation, -np.inf)
    places = np.arange(x.shape[2] * x.shape[3], dtype=np.float64).reshape(1, 1, *x.shape[2:])
    at = _windows(places, size, kernel, stride, padding, dilation, -1)
    entries = np.where(at < 0, -np.inf, entries)
    nan = np.isnan(entries)
    last = len(entries) - 1 - nan[::-1].argmax(axis=0)
    lowest = (~nan & (at >= 0) & (entries == np.where(nan | (at < 0), -np.inf, entries).max(axis=0))).argmax(axis=0)
    which = np.where(nan.any(axis=0), last, lowest)
    y = np.take_along_axis(entries, which[None], axis=0)[0]
    found = np.take_along_axis(np.broadcast_to(at, entries.shape), which[None], axis=0)[0]
    return y, found.astype(np.int32)


def max_pooling_backward(dy: Floats, index: Indices, size: Pair) -> Floats:
    """Return dx, to which each dy is added where its y came from."""
    dx = np.zeros((*dy.shape[:2], size[0] * size[1]), dy.dtype)
    n, c = np.ogrid[: dy.shape[0], : dy.shape[1]]
    np.add.at(dx, (n[:, :, None], c[:, :, None], index.reshape(*dy.shape[:2], -1)), dy.reshape(*dy.shape[:2], -1))
    return dx.reshape(*dy.shape[:2], *size)


def max_pooling_difference(
    x: Floats, dx: Floats, index: Indices, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Floats:
    """Return the largest of (x - y) + dx over each window, y being that of x."""
    size = index.shape[2], index.shape[3]
    flat = x.reshape(*x.shape[:2], -1)
    y = np.take_along_axis(flat, index.reshape(*x.shape[:2], -1).astype(np.intp), axis=2).reshape(index.shape)
    below = _windows(x, size, kernel, stride, padding, dilation, -np.inf) - y
    stack = dx.reshape(-1, *x.shape)
    dy = [(below + _windows(one, size, kernel, stride, padding, dilation, 0)).max(axis=0) for one in stack]
    return np.array(dy, x.dtype).reshape(*dx.shape[:-2], *size)


def _divisors(size: Pair, length: Pair, kernel: Pair, stride: Pair, padding: Pair, count: bool) -> Floats:
    """How many entries each window has, (*size)."""
    counts = []
    for n, most, k, s, p in zip(size, length, kernel, stride, padding, strict=True):
        start = np.arange(n) * s - p
        end = start + k
        counts.append(np.minimum(end, most + p) - start if count else np.minimum(end, most) - np.maximum(start, 0))
    found: Any = np.multiply.outer(counts[0], counts[1]).astype(np.float64)
    return found  # type: ignore[no-any-return]


def mean_pooling(
    x: Floats, size: Pair, kernel: Pair, stride: Pair, padding: Pair, count: bool, divisor: float
) -> Floats:
    """Return the mean of each window; see `kernels.mean_pooling`."""
    by: Any = divisor or _divisors(size, (x.shape[2], x.shape[3]), kernel, stride, padding, count).astype(x.dtype)
    mean: Any = _windows(x, size, kernel, stride, padding, (1, 1), 0).sum(axis=0) / by
    return mean.astype(x.dtype)  # type: ignore[no-any-return]


def mean_pooling_backward(
    dy: Floats, size: Pair, kernel: Pair, stride: Pair, padding: Pair, count: bool, divisor: float
) -> Floats:
    """Return dx, to which each window adds its share."""
    outputs = dy.shape[2], dy.shape[3]
    by: Any = divisor or _divisors(outputs, size, kernel, stride, padding, count).astype(dy.dtype)
    wide = _padded(np.zeros((*dy.shape[:2], *size), dy.dtype), outputs, kernel, stride, padding, (1, 1), 0)
    for _, _, seen in _views(wide, outputs, kernel, stride, (1, 1)):
        seen += dy / by
    dx: Floats = wide[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    return dx


# ---- central differences ----


def convolution_difference(
    above: Above,
    x: Floats,
    step: float,
    scale: float,
    grad_weight: Floats,
    grad_bias: Floats | None,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    units: range,
) -> None:
    """Each weight and bias of some channels moved by +step and -step; see `kernels._kernels.convolution_difference`."""
    outputs, channels, *kernel = grad_weight.shape
    wide = _padded(x, size, (kernel[0], kernel[1]), stride, padding, dilation, 0)
    seen = np.stack([view for _, _, view in _views(wide, size, (kernel[0], kernel[1]), stride, dilation)], axis=2)
    for o in units:
        group = o // (outputs // groups)
        met = seen[:, group * channels : (group + 1) * channels].reshape(len(x), -1, *size)  # (N, weights, *size)
        for e in range(met.shape[1] + (grad_bias is not None)):
            change = np.zeros((2, len(x), outputs, *size))
            change[:, :, o] = np.multiply.outer(
                [step, -step], met[:, e] if e < met.shape[1] else np.ones(met[:, 0].shape)
            )
            up, down = change_of_loss(above, _through(above.stages, change)).sum(axis=1)
            if e < met.shape[1]:
                grad_weight[o].reshape(-1)[e] = (up - down) * scale / (2 * step)
            elif grad_bias is not None:
                grad_bias[o] = (up - down) * scale / (2 * step)


def _through(stages: list[tuple[Any, ...]], d: Any) -> Any:
    """Return what changes d (S, N, ...) become above some stages, (S, N, width)."""
    stack = d.shape[:2]
    kept: list[Any] = []
    for stage in stages:
        options = stage[-1] if isinstance(stage[-1], dict) else {}
        if stage[0] == "fork":
            kept.append(d)
        elif stage[0] == "other":
            d, kept[-1] = kept[-1], d
        elif stage[0] == "join":
            d = d.reshape(*stack, -1) + kept.pop().reshape(*stack, -1)
        elif stage[0] == "factors":
            d = d.reshape(*stack, stage[1].shape[1], -1) * stage[1].astype(np.float64)[..., None]
        elif stage[0] == "norm":
            d = _norm_change(stage, d.reshape(*stack, -1))
        elif len(stage) == 1:
            d = d.reshape(*stack, -1) @ stage[0].T.astype(np.float64)
        elif stage[0] == "convolution":
            flat = d.reshape(-1, *stage[2])
            d = convolution(flat, stage[1].astype(np.float64), None, stage[3][1:], **options)
        elif stage[0] == "max":
            d = max_pooling_difference(
                stage[1].astype(np.float64),
                d.reshape(stack[0], *stage[1].shape),
                stage[2],
                options["kernel_size"],
                options["stride"],
                options["padding"],
                options["dilation"],
            )
        elif stage[0] == "mean":
            flat, count = d.reshape(-1, *stage[1]), options["count_padding"]
            windows = options["kernel_size"], options["stride"], options["padding"]
            d = mean_pooling(flat, stage[2][1:], *windows, count, options["divisor"])
        else:
            name, alpha, x, y = stage
            at, to = (one.reshape(stack[1], -1).astype(np.float64) for one in (x, y))
            d = activation_difference(name, at, to, d.reshape(*stack, -1), alpha)
    return d.reshape(*stack, -1)


def _norm_change(stage: tuple[Any, ...], d: Floats) -> Floats:
    """How y = w x / a changes with x (N, width) and a = sqrt(mean(x^2) + eps), when x moves by d (S, N, width)."""
    _, x, a, _, weight, options = stage
    groups = (a.shape[1], -1)
    x, d = x.astype(np.float64).reshape(len(x), *groups), d.reshape(*d.shape[:2], *groups)
    over = (-1, -3) if options["by_batch"] else (-1,)
    if options["centred"]:
        d = d - d.mean(axis=over, keepdims=True)
    grown = (d * (2 * x + d)).mean(axis=over, keepdims=True)
    moved = np.sqrt(((x + d) ** 2).mean(axis=over, keepdims=True) + options["eps"])
    a = a.astype(np.float64)[..., None]
    change: Any = (d - x * grown / (a * (a + moved))) / moved
    change = change.reshape(*change.shape[:2], -1)
    return change if weight is None else change * weight.astype(np.float64)  # type: ignore[no-any-return]
