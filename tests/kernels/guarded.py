"""Calls every kernel with arrays beside pages that cannot be read: test_guard_pages.py starts it and watches.

    python guarded.py SIMD DTYPE FILE

Every array of a call ends where its page ends, or begins where it begins, and lies between two pages without access: a
single byte read or written too far kills the process. FILE then names the call.
"""

import ctypes
import itertools
import mmap
import sys
from pathlib import Path

import numpy as np

import nnframe as nn
from nnframe import kernels
from nnframe.kernels import _kernels

NAMES = ("identity", "sigmoid", "tanh", "relu", "step", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "softplus",
         "hardswish", "mish", "selu")  # fmt: skip
RULES = {
    "sgd": "", "momentum": "m", "nesterov": "m", "adagrad": "s", "rmsprop": "s", "adam": "ms", "centered": "ms",
    "amsgrad": "msk", "nadam": "ms", "radam": "ms", "lion": "m", "rprop": "ms",
    "rmsprop_momentum": "ms", "centered_momentum": "msk",
}  # fmt: skip
ROOM = 1 << 16  # bytes of a region
LAYOUTS = ("plain", "wide rows", "transposed", "every second column")

libc = ctypes.CDLL(None, use_errno=True)


class Region:
    """Memory between two pages without access, from whose end or start arrays are taken."""

    def __init__(self, fill):
        page = mmap.PAGESIZE
        self.memory = mmap.mmap(-1, ROOM + 2 * page)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for guard in (address, address + page + ROOM):
            if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.numbers = np.frombuffer(self.memory, fill.dtype, ROOM // fill.itemsize, page)
        self.numbers[...] = np.resize(fill, self.numbers.shape)

    def take(self, side, *shape):
        size = int(np.prod(shape))
        return (self.numbers[self.numbers.size - size :] if side == "end" else self.numbers[:size]).reshape(shape)

    def matrix(self, side, layout, rows, columns):
        if layout == "transposed":
            return self.take(side, columns, rows).T
        if layout == "wide rows":
            wide = self.take(side, rows, columns + 37)
            return wide[:, -columns:] if side == "end" else wide[:, :columns]
        if layout == "every second column":
            wide = self.take(side, rows, 2 * columns)
            return wide[:, 1::2] if side == "end" else wide[:, ::2]
        return self.take(side, rows, columns)


class Calls:
    def __init__(self, dtype, report):
        rng = np.random.default_rng(0)
        self.dtype, self.report = dtype, report
        self.region = [Region(rng.uniform(0.1, 1, 1009).astype(dtype)) for _ in range(14)]
        self.flags = [Region(np.ones(1, bool)) for _ in range(3)]
        self.rng = rng

    def now(self, *case):
        text = " ".join(map(str, case)).encode()
        self.report.seek(0)
        self.report.write(text[:200].ljust(200))

    def products(self, side):
        a, b, c, bias = self.region[:4]
        sizes = (range(1, 16), (*range(1, 21), 31, 33, 65), (1, 2, 3, 8, 17))
        for layout, m, n, k in itertools.product(LAYOUTS, *sizes):
            out = c.take(side, m, n)
            left, right = a.matrix(side, layout, m, k), b.matrix(side, layout, k, n)
            self.now("batched_matmul", side, layout, (m, k), (k, n))
            kernels.batched_matmul(left, right, out=out)
            if m < 6 or m == 14:
                wide = b.matrix(side, layout, n, k)
                self.now("batched_matmul, transposed", side, layout, (m, k), (k, n))
                kernels.batched_matmul(a.matrix(side, layout, k, m), right, transpose_a=True, out=out)
                kernels.batched_matmul(left, wide, transpose_b=True, out=out)
                self.now("linear", side, layout, (m, k), (n, k))
                kernels.linear(left, wide, bias.take(side, n), activation="tanh", out=out)

    def larger_products(self, side):
        a, b, c = self.region[:3]
        for layout, (m, k, n) in itertools.product(LAYOUTS, [(40, 70, 17), (33, 9, 90), (70, 70, 70), (17, 130, 40)]):
            if self.dtype == np.float64 and 2 * k * n * 8 > ROOM:
                continue
            self.now("batched_matmul", side, layout, (m, k), (k, n))
            kernels.batched_matmul(a.matrix(side, layout, m, k), b.matrix(side, layout, k, n), out=c.take(side, m, n))
        for batch, m, k, n in itertools.product((1, 2, 3, 7), (1, 2, 5), (1, 2, 4), (1, 2, 3, 10)):
            self.now("batched_matmul of stacks", side, batch, (m, k), (k, n))
            stack = b.take(side, batch, k, n), b.take(side, batch, n, k).swapaxes(1, 2)
            for right in stack:
                kernels.batched_matmul(a.take(side, batch, m, k), right, out=c.take(side, batch, m, n))

    def linear_backward(self, side):
        x, w, dy, to_weight, to_bias = self.region[:5]
        for layout, rows, inputs, outputs in itertools.product(
            LAYOUTS, (1, 2, 5, 16), (1, 2, 3, 9, 17, 20), (1, 2, 4, 7, 19)
        ):
            self.now("linear_backward", side, layout, (rows, inputs), (outputs, inputs))
            kernels.linear_backward(
                x.matrix(side, layout, rows, inputs), w.matrix(side, layout, outputs, inputs),
                dy.matrix(side, layout, rows, outputs), weight_grad=to_weight.take(side, outputs, inputs),
                bias_grad=to_bias.take(side, outputs),
            )  # fmt: skip

    def losses(self, side):
        x, grad, weight, soft = self.region[:4]
        indices = Region(np.zeros(1, np.int64))
        for rows, classes in itertools.product((*range(1, 21), 33), (*range(1, 21), 31, 32, 33, 40)):
            logits, out = x.take(side, rows, classes), grad.take(side, rows, classes)
            labels = indices.take(side, rows)
            labels[...] = np.arange(rows) % classes
            self.now("softmax", side, rows, classes)
            kernels.softmax(logits, out=out)
            self.now("softmax_cross_entropy", side, rows, classes)
            kernels.softmax_cross_entropy(logits, labels, out=out)
            kernels.softmax_cross_entropy_loss(logits, labels)
            self.now("softmax_cross_entropy, weight and smoothing", side, rows, classes)
            kernels.softmax_cross_entropy(logits, labels, weight=weight.take(side, classes), label_smoothing=0.1)
            targets = soft.take(side, rows, classes)
            targets[...] = 1 / classes
            self.now("softmax_cross_entropy, soft labels", side, rows, classes)
            kernels.softmax_cross_entropy(logits, targets, out=out)

    def activations(self, side):
        x, y, dy, out = self.region[:4]
        for name, n in itertools.product(NAMES, (*range(1, 40), 65)):
            self.now("activation", side, name, n)
            one = x.take(side, n), y.take(side, n), dy.take(side, n)
            kernels.activation(name, one[0], out=out.take(side, n))
            self.now("activation_backward", side, name, n)
            kernels.activation_backward(name, *one, out=out.take(side, n))
            self.now("activation_difference", side, name, n)
            kernels.activation_difference(name, *one, out=out.take(side, n))
            kernels.activation_difference(name, *one[:2], dy.take(side, 3, n), out=out.take(side, 3, n))

    def updates(self, side):
        w, g, m, s = self.region[:4]
        for rule, n in itertools.product(RULES, (*range(1, 40), 65)):
            self.now("optimizer_update", side, rule, n)
            means = [m.take(side, n)] if "m" in RULES[rule] else []
            squares = [s.take(side, n)] if "s" in RULES[rule] else []
            largest = [self.region[4].take(side, n)] if "k" in RULES[rule] else []
            constants = {"rate": 1e-3, "beta1": 0.9, "beta2": 0.9, "eps": 0.1}
            kernels.optimizer_update(rule, [w.take(side, n)], [g.take(side, n)], means, squares, largest, **constants)
            self.now("all_finite", side, n)
            kernels.all_finite(w.take(side, n))

    def above(self, side, loss, name, rows, outputs, middle, classes):
        z, y, weight, z2, y2, top, logits, p, t, residual = self.region[:10]
        soft = []
        if loss == "cross_entropy":
            soft = [one.take(side, rows, classes) for one in (logits, p, t)]
            soft[1][...] = soft[2][...] = 1 / classes
        stages = [
            (name, 0.1, z.take(side, rows, outputs), y.take(side, rows, outputs)),
            (weight.take(side, middle, outputs),),
            (name, 0.1, z2.take(side, rows, middle), y2.take(side, rows, middle)),
            (top.take(side, classes, middle),),
        ]
        stages = stages if middle > 1 else [stages[0], (weight.take(side, classes, outputs),)]
        return _kernels.Above(outputs, stages, loss, residual.take(side, rows, classes), *soft)

    def differences(self, side):
        x, level, bend = self.region[10:13]
        wanted, counted, doubtful = self.flags
        state = Region(np.zeros(1, np.uint8))
        shapes = itertools.product(
            ("cross_entropy", "squared_error"), ("tanh", "gelu"), (1, 2, 5, 17), (1, 3, 4), (1, 2, 7), (1, 2, 10)
        )
        for loss, name, rows, outputs, middle, classes in shapes:
            above = self.above(side, loss, name, rows, outputs, middle, classes)
            for step in (1e-3, 1.0):
                for inputs in (1, 3, 16, 21):
                    self.now("difference_gradient", side, loss, name, rows, outputs, middle, classes, inputs, step)
                    weight, bias = level.take(side, outputs, inputs), bend.take(side, outputs)
                    own = {"step": step, "scale": 1.0, "grad_weight": weight, "grad_bias": bias}
                    read = x.take(side, rows, inputs)
                    _kernels.difference_gradient(above, read, **own)
                    some = wanted.take(side, outputs, inputs + 1), counted.take(side, outputs, rows)
                    _kernels.difference_gradient(above, read, **own, wanted=some[0], counted=some[1])
                    columns = x.take(side, 2, outputs, rows * (inputs + 1))
                    _kernels.difference_gradient(above, read.copy(), **own, columns=columns)
                self.now("difference_curves", side, loss, name, rows, outputs, middle, classes, step)
                found = {
                    "level": level.take(side, outputs, rows), "bend": bend.take(side, outputs, rows),
                    "doubtful": doubtful.take(side, outputs, rows), "state": state.take(side, outputs),
                }  # fmt: skip
                _kernels.difference_curves(above, x.take(side, rows), tolerance=1e-6, **found)
                columns = x.take(side, outputs, 6, rows)
                _kernels.difference_curves(above, columns[0, 0].copy(), tolerance=1e-6, columns=columns, **found)

    def sequences(self, side):
        gates, weight, bias, state, kept, y, last = self.region[:7]
        mask = self.flags[0]
        cells = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}
        for cell, steps, rows, units in itertools.product(cells, (1, 3), (1, 2, 15), (1, 3, 8, 16, 17)):
            self.now("recurrent", side, cell, steps, rows, units)
            width, shape = cells[cell] * units, (steps, rows, units)
            u, w, some = (
                gates.take(side, steps, rows, width),
                weight.take(side, width, units),
                mask.take(side, *shape[:2]),
            )
            sequence, options = y.take(side, rows, steps, units), {"mask": some, "reverse": rows > 1}
            kernels.recurrent(cell, u, w, bias.take(side, width), out=sequence, **options)
            own = kept.take(side, *shape) if cell in ("lstm", "gru") else None
            dlast = last.take(side, rows, units)
            self.now("recurrent_backward", side, cell, steps, rows, units)
            kernels.recurrent_backward(cell, u, w, state.take(side, *shape), own, dy=sequence, dlast=dlast, **options)
            self.changes(side, cell, shape, (u, w, state.take(side, *shape), own), options)

    def changes(self, side, cell, shape, of_layer, options):
        steps, rows, units = shape
        arguments, du, drive = self.region[7:10]
        self.now("recurrent_change", side, cell, *shape)
        x = arguments.take(side, *of_layer[0].shape)
        kernels.recurrent_change(cell, x, *of_layer, du=du.take(side, steps, 2 * rows, x.shape[2]), **options)
        for scale in (1, 1e-9):  # large changes, and small ones, whose slopes are taken
            moved = drive.take(side, steps, 2 * rows)
            moved *= moved.dtype.type(scale)
            at = {"at": np.array([0, x.shape[2] - 1]), "origin": np.array([units - 1, 0]), "step": 1e-9}
            kernels.recurrent_change(cell, x, *of_layer, drive=moved, in_state=True, **at, **options)

    def sparse(self, side):
        value, b = self.region[:2]
        for columns in (1, 7, 16, 63, 129, 150):
            self.now("sparse_product", side, columns)
            start, column = np.array([0, 2, 2, 5]), np.array([8, 0, 3, 8, 8])
            _kernels.sparse_product(start, column, value.take(side, 5), b.take(side, 9, columns))

    def attention(self, side):
        for rows, queries, keys, heads, width in itertools.product(
            (1, 2), (1, 5, 17), (1, 7, 16, 33), (1, 2), (1, 3, 8, 16)
        ):
            self.now("attention", side, rows, queries, keys, heads, width)
            lengths = (queries, keys, keys, queries, queries, queries, keys, keys)
            arrays = [
                region.take(side, rows, length, heads, width)
                for region, length in zip(self.region[:8], lengths, strict=True)
            ]
            mask, factors = self.flags[0].take(side, rows, keys), self.region[8].take(side, rows, heads, queries, keys)
            for options in ({}, {"mask": mask, "causal": True, "factors": factors}):
                kernels.attention(*arrays[:3], **options)
                self.now("attention_backward", side, rows, queries, keys, heads, width)
                lse = self.region[9].take(side, rows, heads, queries)
                kernels.attention_backward(
                    *arrays[:4], lse, arrays[4], dq=arrays[5], dk=arrays[6], dv=arrays[7], **options
                )  # fmt: skip

    def normalised(self, side, channels, size):
        """Stages of planes above so many channels of two rows."""
        d, a, total, weight, by_row, factors, residual = (self.region[k] for k in range(7, 14))
        width = channels * size[0] * size[1]
        norm = {"by_batch": True, "centred": True, "eps": 1e-5}
        stages = [
            ("fork", {}),
            ("norm", d.take(side, 2, width), a.take(side, 1, channels), total.take(side, 1, channels),
             weight.take(side, width), norm),
            ("join", {}),
            ("factors", factors.take(side, 2, channels), {}),
            ("norm", d.take(side, 2, width), by_row.take(side, 2, 2), None, None,
             {"by_batch": False, "centred": False, "eps": 1e-5}),
        ]  # fmt: skip
        return _kernels.Above(width, stages, "squared_error", residual.take(side, 2, width))

    def convolutions(self, side):
        x, w, b, dw, db, dy, change = self.region[:7]
        sizes = itertools.product((1, 5, 9), (3, 17, 35), ((1, 1), (3, 2)), (1, 2), (0, 1), (1, 2))
        for height, width, kernel, stride, padding, groups in sizes:
            out = tuple((n + 2 * padding - k) // stride + 1 for n, k in zip((height, width), kernel, strict=True))
            if min(out) < 1:
                continue
            options = {"stride": (stride,) * 2, "padding": (padding,) * 2, "groups": groups}
            self.now("convolution", side, height, width, kernel, stride, padding, groups)
            read, weight = x.take(side, 2, 4, height, width), w.take(side, 6, 4 // groups, *kernel)
            gradient = dy.take(side, 2, 6, *out)
            kernels.convolution(read, weight, b.take(side, 6), out_size=out, **options)
            kernels.convolution_input_gradient(gradient, weight, in_size=(height, width), **options)
            kernels.convolution_weight_gradient(
                read, gradient, weight_grad=dw.take(side, *weight.shape), bias_grad=db.take(side, 6), **options
            )
            of_channels = w.take(side, 4)
            _, moments = kernels.batch_norm(read, of_channels, b.take(side, 4), eps=0.1)
            kernels.batch_norm_backward(
                read, dy.take(side, *read.shape), moments, of_channels, eps=0.1,
                weight_grad=dw.take(side, 4), bias_grad=db.take(side, 4),
            )  # fmt: skip
            above = _kernels.Above(6 * out[0] * out[1], [], "squared_error", change.take(side, 2, 6 * out[0] * out[1]))
            found = {"grad_weight": dw.take(side, *weight.shape), "grad_bias": db.take(side, 6)}
            _kernels.convolution_difference(above, read, step=1e-3, scale=1.0, out_size=out, **found, **options)
            above = self.normalised(side, 6, out)
            _kernels.convolution_difference(above, read, step=1e-3, scale=1.0, out_size=out, **found, **options)
            if 2 * padding > min(kernel):
                continue
            self.now("pooling", side, height, width, kernel, stride, padding)
            windows = {"kernel_size": kernel, "stride": (stride,) * 2, "padding": (padding,) * 2}
            _, index = kernels.max_pooling(read, out_size=out, **windows)
            given = dy.take(side, *index.shape)
            kernels.max_pooling_backward(given, index, in_size=(height, width))
            kernels.max_pooling_difference(read, change.take(side, 3, *read.shape), index, **windows)
            kernels.mean_pooling(read, out_size=out, **windows)
            kernels.mean_pooling_backward(given, in_size=(height, width), **windows)


def main():
    simd, dtype, path = sys.argv[1:]
    _kernels.set_simd(simd)
    nn.set_num_threads(1)
    with Path(path).open("wb", buffering=0) as report:
        calls = Calls(np.dtype(dtype), report)
        with np.errstate(all="ignore"):
            for side in ("end", "start"):
                calls.products(side)
                calls.larger_products(side)
                calls.linear_backward(side)
                calls.losses(side)
                calls.activations(side)
                calls.updates(side)
                calls.differences(side)
                calls.sequences(side)
                calls.sparse(side)
                calls.attention(side)
                calls.convolutions(side)
        calls.now("done")


if __name__ == "__main__":
    main()
