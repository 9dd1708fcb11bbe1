"""Convolutions over one or two axes, and transposed ones.

One formula serves all of them: y[o, i] = b[o] + sum over c and a of w[o, c, a] x[c, i s - p + a d], with stride s,
padding p and dilation d along each axis, and x = 0 outside of itself. A transposed convolution is what takes the
gradient of y to that of x (Dumoulin and Visin 2016). docs/derivations/convolution.md derives the passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe._checks import as_count, as_dtype, as_flag, as_generator
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Parameter
from nnframe.initializers import initial
from nnframe.layers.windows import Sizes, as_sizes, pair, planes, shown, stacked

if TYPE_CHECKING:
    from nnframe.initializers import Initializer


class Convolution(Layer):
    """What all convolutions share: their arguments, and how arrays reach the kernels, which know two axes.

    axes : how many there are besides rows and channels
    transposed : whether the weight is (in_channels, out_channels / groups, ...), not the other way round
    """

    axes: ClassVar[int]
    transposed: ClassVar[bool] = False
    couples = "rows"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        dilation: int | Sequence[int],
        groups: int,
        bias: bool,
        init: Initializer | None,
        dtype: npt.DTypeLike,
        rng: np.random.Generator | int | None,
    ) -> None:
        self.in_channels = as_count("in_channels", in_channels)
        self.out_channels = as_count("out_channels", out_channels)
        self.kernel_size = as_sizes("kernel_size", kernel_size, self.axes, 1)
        self.stride = as_sizes("stride", stride, self.axes, 1)
        self.dilation = as_sizes("dilation", dilation, self.axes, 1)
        self.groups = as_count("groups", groups)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % self.groups:
                raise ValueError(f"groups: expected a divisor of {name}={channels}, got {groups}")
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (int(first), int(second) // self.groups, *self.kernel_size)
        dtype, bias, rng = as_dtype(dtype), as_flag("bias", bias), as_generator(rng)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = Parameter(initial(init, _Uniform(bound), shape, rng), dtype)
        self.bias = Parameter(_Uniform(bound)((self.out_channels,), rng), dtype) if bias else None

    def _weight(self) -> Array:
        return planes(self.weight.value, self.axes)

    def _of(self, x: Array, channels: int) -> Array:
        """Return x as the kernels take it; ValueError where it has another shape."""
        if x.ndim != 2 + self.axes or x.shape[1] != channels:
            names = ", ".join("LHW"[-self.axes :] if self.axes > 1 else "L")
            raise ValueError(f"x: expected shape (N, {channels}, {names}), got {x.shape}")
        return planes(x, self.axes)

    @property
    def _arguments(self) -> dict[str, Any]:
        one = (1,) * (2 - self.axes)
        return {
            "stride": one + self.stride,
            "padding": (0,) * (2 - self.axes) + self._before,
            "dilation": one + self.dilation,
            "groups": self.groups,
        }

    @property
    def _before(self) -> Sizes:
        """The padding before the first entry, along each axis."""
        raise NotImplementedError

    def _repr(self, **others: Any) -> str:
        given = {"stride": (1,) * self.axes, "dilation": (1,) * self.axes, "groups": 1}
        named = {name: getattr(self, name) for name, default in given.items() if getattr(self, name) != default}
        named |= others | ({"bias": False} if self.bias is None else {})
        first = f"{self.in_channels}, {self.out_channels}, kernel_size={shown(self.kernel_size)}"
        rest = "".join(f", {name}={shown(value)}" for name, value in named.items())
        return f"{type(self).__name__}({first}{rest})"


class _Forward(Convolution):
    """A convolution: y is (N, out_channels, ...), with floor((L + 2 p - d (k - 1) - 1) / s) + 1 along each axis."""

    padding: Sizes | Literal["same", "valid"]

    def _set_padding(self, padding: int | Sequence[int] | str) -> None:
        if padding == "same":
            if set(self.stride) != {1}:
                raise ValueError(
                    f"padding: expected no 'same' with stride {shown(self.stride)}, as y is shorter than x"
                )
            self.padding = "same"
        elif padding == "valid":
            self.padding = "valid"
        elif isinstance(padding, str):
            raise ValueError(f"padding: expected 'same', 'valid' or whole numbers, got {padding!r}")
        else:
            self.padding = as_sizes("padding", padding, self.axes, 0)

    @property
    def _before(self) -> Sizes:
        if self.padding == "same":
            return tuple(d * (k - 1) // 2 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        return (0,) * self.axes if isinstance(self.padding, str) else self.padding

    def _size(self, x: Array) -> Sizes:
        """Lengths of y's axes."""
        lengths = x.shape[2:]
        if self.padding == "same":
            return lengths
        found = []
        for n, k, s, d, p in zip(lengths, self.kernel_size, self.stride, self.dilation, self._before, strict=True):
            if n + 2 * p < d * (k - 1) + 1:
                raise ValueError(
                    f"x: expected axes that the kernel fits into, {d * (k - 1) + 1} entries with padding, "
                    f"got shape {x.shape}"
                )
            found.append((n + 2 * p - d * (k - 1) - 1) // s + 1)
        return tuple(found)

    def forward(self, x: Array) -> Array:
        return self._convolved(x, self.bias)

    def _convolved(self, x: Array, bias: Parameter | None) -> Array:
        inputs, size = self._of(x, self.in_channels), self._size(x)
        y = kernels.convolution(
            inputs,
            self._weight(),
            None if bias is None else bias.value,
            out_size=pair(size),
            **self._arguments,
        )
        return y.reshape(len(x), self.out_channels, *size)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        self.backward_parameters(x, y, dy)
        size = pair(x.shape[2:])
        dx = kernels.convolution_input_gradient(planes(dy, self.axes), self._weight(), in_size=size, **self._arguments)
        return dx.reshape(x.shape)

    def backward_parameters(self, x: Array, y: Array, dy: Array, *saved: object) -> None:
        kernels.convolution_weight_gradient(
            planes(x, self.axes),
            planes(dy, self.axes),
            weight_grad=planes(self.weight.grad, self.axes),
            bias_grad=None if self.bias is None else self.bias.grad,
            **self._arguments,
        )

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return stacked(lambda one: self._convolved(one, None), dx, x, y)

    def stage_of_planes(self, x: Array, y: Array) -> tuple[object, ...]:
        """Return the description of this layer for C: see `kernels._kernels.Above`."""
        sizes = planes(x, self.axes).shape[1:], planes(y, self.axes).shape[1:]
        return ("convolution", self._weight(), *sizes, self._arguments)

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Array, y: Array) -> Array:
        """Return one changed channel for each entry: `step` times what w[o, c, a] meets of channel c, in channel o."""
        dy = np.zeros((len(indices), *y.shape), y.dtype)
        if parameter is self.bias:
            dy[np.arange(len(indices)), :, indices] = step
            return dy
        outputs, inputs, *taps = np.unravel_index(indices, self.weight.value.shape)
        after = [
            (n - 1) * s + d * (k - 1)
            for n, s, d, k in zip(y.shape[2:], self.stride, self.dilation, self.kernel_size, strict=True)
        ]
        wide = np.pad(
            x,
            [
                (0, 0),
                (0, 0),
                *((p, max(0, a + 1 - p - n)) for p, a, n in zip(self._before, after, x.shape[2:], strict=True)),
            ],
        )
        first = outputs // (self.out_channels // self.groups) * (self.in_channels // self.groups)
        for s, (o, c, *tap) in enumerate(zip(outputs, inputs + first, *taps, strict=True)):
            views = (
                slice(a * d, a * d + (n - 1) * t + 1, t)
                for a, d, n, t in zip(tap, self.dilation, y.shape[2:], self.stride, strict=True)
            )
            np.multiply(wide[(slice(None), c, *views)], step, out=dy[s, :, o])
        return dy

    def __repr__(self) -> str:
        zero = self.padding == (0,) * self.axes
        return self._repr(**({} if zero else {"padding": self.padding}))


class Conv1d(_Forward):
    """y[n, o, i] = b[o] + sum over c and a of w[o, c, a] x[n, c, i s - p + a d], for x (N, in_channels, L).

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int
        How many entries of each channel one output sees.
    stride : int
        s: how far apart the entries are that two neighbouring outputs begin at.
    padding : int, "same" or "valid"
        p: how many zeros x has before and after it. "same": so many that y is as long as x (of an odd number one more
        after than before), with stride 1 only; "valid": none.
    dilation : int
        d: how far apart the entries are that one output sees.
    groups : int
        Divides both numbers of channels: each group of outputs sees its own group of inputs only. As many groups as
        inputs: a depthwise convolution.
    bias : bool
        Whether there is a b.
    padding_mode : "zeros"
        What x is padded with. For other modes of PyTorch there are layers: `ReflectionPad1d`, `ReplicationPad1d`,
        `CircularPad1d`.
    init : callable
        What the weight starts at: `init(shape, rng)`. If not given, weight and bias are drawn from
        U(-1/sqrt(n), 1/sqrt(n)), n being how many weights one output has, as PyTorch draws them.
    dtype : float32 or float64
    rng : np.random.Generator or int, optional
        Draws weight and bias; an int seeds a new generator, None takes a fresh one.

    Attributes
    ----------
    weight : Parameter (out_channels, in_channels / groups, kernel_size)
    bias : Parameter (out_channels,), or None

    Raises
    ------
    ValueError
        x has another number of channels, or is shorter than what one output sees.
    """

    axes = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Literal["same", "valid"] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros"] = "zeros",
        *,
        init: Initializer | None = None,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        if padding_mode != "zeros":
            layer = {"reflect": "ReflectionPad", "replicate": "ReplicationPad", "circular": "CircularPad"}
            hint = f"; nn.{layer[padding_mode]}{self.axes}d below it does that" if padding_mode in layer else ""
            raise ValueError(f"padding_mode: expected 'zeros', got {padding_mode!r}{hint}")
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups, bias, init, dtype, rng)
        self._set_padding(padding)


class Conv2d(Conv1d):
    """y[n, o, i, j] = b[o] + sum of w[o, c, a, b] x[n, c, i s - p + a d, j s - p + b d], for x (N, in_channels, H, W).

    As `Conv1d` along two axes: `kernel_size`, `stride`, `padding` and `dilation` are one number for both, or a pair.
    The weight is (out_channels, in_channels / groups, *kernel_size).
    """

    axes = 2


class _Transposed(Convolution):
    """The transpose of a convolution from y to x: what takes the gradient of its outputs to that of its inputs."""

    transposed = True
    padding: Sizes
    output_padding: Sizes

    @property
    def _before(self) -> Sizes:
        return self.padding

    def _size(self, x: Array) -> Sizes:
        """Lengths of y's axes: (L - 1) s - 2 p + d (k - 1) + output_padding + 1."""
        sizes = zip(
            x.shape[2:], self.kernel_size, self.stride, self.dilation, self.padding, self.output_padding, strict=True
        )
        found = tuple((n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, k, s, d, p, more in sizes)
        if min(found) < 1:
            raise ValueError(
                f"x: expected axes that leave at least one output, got shape {x.shape} for {found} outputs"
            )
        return found

    def forward(self, x: Array) -> Array:
        return self._spread(x, self.bias)

    def _spread(self, x: Array, bias: Parameter | None) -> Array:
        inputs, size = self._of(x, self.in_channels), self._size(x)
        y = kernels.convolution_input_gradient(
            inputs,
            self._weight(),
            None if bias is None else bias.value,
            in_size=pair(size),
            **self._arguments,
        )
        return y.reshape(len(x), self.out_channels, *size)

    def backward(self, x: Array, y: Array, dy: Array, saved: object = None) -> Array:
        self.backward_parameters(x, y, dy)
        size = pair(x.shape[2:])
        dx = kernels.convolution(planes(dy, self.axes), self._weight(), out_size=size, **self._arguments)
        return dx.reshape(x.shape)

    def backward_parameters(self, x: Array, y: Array, dy: Array, *saved: object) -> None:
        # the convolution that this transposes reads dy, and x is the gradient of its outputs
        kernels.convolution_weight_gradient(
            planes(dy, self.axes),
            planes(x, self.axes),
            weight_grad=planes(self.weight.grad, self.axes),
            **self._arguments,
        )
        if self.bias is not None:
            self.bias.grad += dy.sum(axis=(0, *range(2, dy.ndim)), dtype=np.float64).astype(dy.dtype)

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        return stacked(lambda one: self._spread(one, None), dx, x, y)

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Array, y: Array) -> Array:
        """Return one changed channel for each entry: `step` times channel c of x, where w[c, o, a] sends it."""
        dy = np.zeros((len(indices), *y.shape), y.dtype)
        if parameter is self.bias:
            dy[np.arange(len(indices)), :, indices] = step
            return dy
        inputs, outputs, *taps = np.unravel_index(indices, self.weight.value.shape)
        first = inputs // (self.in_channels // self.groups) * (self.out_channels // self.groups)
        for s, (c, o, *tap) in enumerate(zip(inputs, outputs + first, *taps, strict=True)):
            to, seen = [], []
            for a, d, p, t, n, m in zip(
                tap, self.dilation, self.padding, self.stride, x.shape[2:], y.shape[2:], strict=True
            ):
                at = a * d - p  # where entry 0 goes
                low, end = max(0, -(at // t)), min(n, (m - 1 - at) // t + 1)
                seen.append(slice(low, max(low, end)))
                to.append(slice(at + low * t, at + max(low, end) * t, t))
            if all(one.stop > one.start for one in seen):
                dy[(s, slice(None), o, *to)] = step * x[(slice(None), c, *seen)]
        return dy

    def __repr__(self) -> str:
        zero = (0,) * self.axes
        named = {"padding": self.padding, "output_padding": self.output_padding}
        return self._repr(**{name: value for name, value in named.items() if value != zero})


class ConvTranspose1d(_Transposed):
    """y[n, o, i s - p + a d] = b[o] + the sum over c of w[c, o, a] x[n, c, i], for x (N, in_channels, L).

    y has the length (L - 1) s - 2 p + d (kernel_size - 1) + output_padding + 1.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, groups, bias, dilation, init, dtype, rng
        As for `Conv1d`; weight and bias start within 1/sqrt(out_channels / groups * kernel_size), as in PyTorch.
    padding : int
        p: how many outputs are left out before and after.
    output_padding : int
        How many more outputs there are at the end; less than the stride or the dilation.

    Attributes
    ----------
    weight : Parameter (in_channels, out_channels / groups, kernel_size)
    bias : Parameter (out_channels,), or None
    """

    axes = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        *,
        init: Initializer | None = None,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups, bias, init, dtype, rng)
        self.padding = as_sizes("padding", padding, self.axes, 0)
        self.output_padding = as_sizes("output_padding", output_padding, self.axes, 0)
        for more, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if more >= max(s, d):
                raise ValueError(f"output_padding: expected less than stride {s} or dilation {d}, got {more}")


class ConvTranspose2d(ConvTranspose1d):
    """y[n, o, i s - p + a d, j s - p + b d] = b[o] + the sum over c of w[c, o, a, b] x[n, c, i, j].

    As `ConvTranspose1d` along two axes, for x (N, in_channels, H, W): arguments are one number for both, or a pair. The
    weight is (in_channels, out_channels / groups, *kernel_size).
    """

    axes = 2


class _Uniform:
    """Numbers between -bound and bound."""

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.floating]:
        return rng.uniform(-self.bound, self.bound, shape)
