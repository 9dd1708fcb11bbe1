"""Recurrent layers: a state that each step of a sequence moves on."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe import kernels
from nnframe._checks import as_count, as_dtype, as_flag, as_generator
from nnframe.core.layer import Layer
from nnframe.core.parameter import Array, Parameter
from nnframe.core.run import current_run
from nnframe.layers.dropout import Dropout, as_probability
from nnframe.layers.sequences import Mask, real_steps, split_lengths

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}


class Direction(NamedTuple):
    """What one direction of one layer leaves for the backward pass.

    x : (T, N, inputs); gates, state, kept : as `kernels.recurrent` leaves them
    """

    x: Array
    gates: Array
    state: Array
    kept: Array | None


class Recurrent(Layer):
    """What recurrent layers share: several layers, both directions, padding.

    x has the shape (N, T, input_size): rows first, as everywhere in nnframe, which takes mini-batches apart along axis
    0. So `batch_first=True` is the default, not False as in PyTorch, and False is refused. y has the shape (N, T,
    D hidden_size), where D is 2 with `bidirectional`, else 1; with `return_sequences=False` it is the last state of
    each direction, (N, D hidden_size). States start at 0.

    Steps that are no part of a sequence are passed over: the state stays what it was, and y is 0 there. They are told
    by a tuple (x, lengths), lengths (N,), as the input of the model; or by `mask_zero`.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
        At least 1.
    bias : bool
    batch_first : bool
        True.
    dropout : float
        In [0, 1]: how likely an entry of what one layer hands to the next is to be left out in training.
    bidirectional : bool
        Whether a second set of weights reads the sequence from its end; what the two return stands side by side.
    mask_zero : bool
        Whether steps whose features are all 0 are passed over, as those that `Embedding(padding_idx=...)` makes.
    return_sequences : bool
        Whether y has all steps, or the last state only.
    dtype : float32 or float64
    rng : np.random.Generator or int, optional
        Draws the weights, uniform in +-1 / sqrt(hidden_size) as in PyTorch, and seeds the masks of dropout.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0 : Parameter (G hidden_size, input_size), (G hidden_size, hidden_size)
        Of layer 0: from the input, from the state. `_l1` is the next layer, which reads D hidden_size inputs;
        `_reverse` follows for the second direction. Names, layouts and the order of the gates are those of PyTorch.
    bias_ih_l0, bias_hh_l0 : Parameter (G hidden_size,)
    """

    couples = "rows"
    cell: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        mask_zero: bool = False,
        return_sequences: bool = True,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self.input_size = as_count("input_size", input_size)
        self.hidden_size = as_count("hidden_size", hidden_size)
        self.num_layers = as_count("num_layers", num_layers)
        self.bias = as_flag("bias", bias)
        if not as_flag("batch_first", batch_first):
            raise ValueError(
                "batch_first: expected True, as rows are the first axis of every array in nnframe, got False; "
                "x.transpose(1, 0, 2) brings (T, N, input_size) into that order"
            )
        self.batch_first = True
        self.dropout = as_probability("dropout", dropout)
        self.bidirectional = as_flag("bidirectional", bidirectional)
        self.mask_zero = as_flag("mask_zero", mask_zero)
        self.return_sequences = as_flag("return_sequences", return_sequences)
        generator = as_generator(rng)
        bound, rows = 1 / math.sqrt(self.hidden_size), GATES[self.cell] * self.hidden_size
        inputs = self.input_size
        for layer in range(self.num_layers):
            for suffix in self._directions(layer):
                for name, shape in (("weight_ih", (rows, inputs)), ("weight_hh", (rows, self.hidden_size))):
                    setattr(self, name + suffix, Parameter(generator.uniform(-bound, bound, shape), as_dtype(dtype)))
                for name in ("bias_ih", "bias_hh") if self.bias else ():
                    setattr(self, name + suffix, Parameter(generator.uniform(-bound, bound, rows), as_dtype(dtype)))
            inputs = self.hidden_size * len(self._directions(layer))
        between = self.num_layers - 1 if self.dropout else 0
        self.dropouts = [Dropout(self.dropout, rng=generator) for _ in range(between)]

    def _directions(self, layer: int) -> list[str]:
        """Return what follows the names of the parameters of each direction."""
        return [f"_l{layer}", f"_l{layer}_reverse"] if self.bidirectional else [f"_l{layer}"]

    def _parameters(self, suffix: str) -> tuple[Parameter, Parameter, Parameter | None, Parameter | None]:
        own = vars(self)
        return (
            own["weight_ih" + suffix],
            own["weight_hh" + suffix],
            own.get("bias_ih" + suffix),
            own.get("bias_hh" + suffix),
        )

    # ---- forward ----

    def forward(self, x: Any) -> Array:
        return self.forward_saving(x)[0]

    def forward_saving(self, x: Any) -> tuple[Array, list[list[Direction]]]:
        series, mask = self._series(x)
        inputs = np.ascontiguousarray(series.transpose(1, 0, 2))  # (T, N, inputs)
        width = self.hidden_size * len(self._directions(0))
        saved: list[list[Direction]] = []
        for layer in range(self.num_layers):
            y = np.empty((*series.shape[:2], width), series.dtype)
            saved.append([self._run(suffix, inputs, mask, self._half(y, suffix)) for suffix in self._directions(layer)])
            if layer < self.num_layers - 1:
                inputs = self._handed_on(layer, y)
        if not self.return_sequences:
            y = np.concatenate([one.state[0 if k else -1] for k, one in enumerate(saved[-1])], axis=1)
        return y, saved

    def _run(self, suffix: str, x: Array, mask: Mask, y: Array) -> Direction:
        """Run one direction of one layer, which writes its states to y (N, T, H)."""
        weight_ih, weight_hh, bias_ih, bias_hh = self._parameters(suffix)
        gates = kernels.linear(x, weight_ih.value, None if bias_ih is None else bias_ih.value)
        state, kept = kernels.recurrent(
            self.cell,
            gates,
            weight_hh.value,
            None if bias_hh is None else bias_hh.value,
            mask=mask,
            reverse=suffix.endswith("reverse"),
            out=y,
        )
        return Direction(x, gates, state, kept)

    def _series(self, x: Any) -> tuple[Array, Mask]:
        """Return x, and which of its steps are part of a sequence, (T, N); None where all are."""
        series, lengths = split_lengths(x)
        if series.ndim != 3 or series.shape[2] != self.input_size or not series.shape[1]:
            raise ValueError(f"x: expected shape (N, T, {self.input_size}), T at least 1, got {series.shape}")
        real = real_steps(series, lengths, self.mask_zero)
        return series, None if real is None else np.ascontiguousarray(real.T)

    def _half(self, y: Array, suffix: str) -> Array:
        """Return where one direction stands in y (N, T, D H)."""
        return y[..., self.hidden_size :] if suffix.endswith("reverse") else y[..., : self.hidden_size]

    def _handed_on(self, layer: int, y: Array) -> Array:
        """Return what a layer hands to the next, (T, N, D H)."""
        factors = self.dropouts[layer].factors(y) if self.dropouts else None
        return np.ascontiguousarray((y if factors is None else y * factors).transpose(1, 0, 2))

    # ---- backward ----

    def backward(self, x: Any, y: Array, dy: Array, saved: list[list[Direction]] | None = None) -> Any:
        dx = self._gradients(x, dy, saved, True)
        assert dx is not None
        return (dx, np.zeros(x[1].shape, dx.dtype)) if isinstance(x, tuple) else dx

    def backward_parameters(self, x: Any, y: Array, dy: Array, saved: list[list[Direction]] | None = None) -> None:
        self._gradients(x, dy, saved, False)

    def _gradients(self, x: Any, dy: Array, saved: list[list[Direction]] | None, input_gradient: bool) -> Array | None:
        mask = self._series(x)[1]
        saved = self.forward_saving(x)[1] if saved is None else saved
        below: Array | None = dy
        for layer in range(self.num_layers - 1, -1, -1):
            assert below is not None
            given, below = below, None
            sequences = self.return_sequences or layer < self.num_layers - 1
            for suffix, one in zip(self._directions(layer), saved[layer], strict=True):
                part = self._half(given, suffix)
                dx = self._gradients_of(suffix, one, mask, part, sequences, input_gradient or layer > 0)
                below = dx if below is None or dx is None else below + dx
            if layer and below is not None:
                below = self._through_dropout(layer - 1, below)
        return None if below is None else np.ascontiguousarray(below.transpose(1, 0, 2))

    def _through_dropout(self, layer: int, dy: Array) -> Array:
        """Return the gradient of a layer's y, (N, T, D H), from that of what it has handed on, (T, N, D H)."""
        dy = dy.transpose(1, 0, 2)
        factors = self.dropouts[layer].factors(dy) if self.dropouts else None
        return dy if factors is None else dy * factors

    def _gradients_of(
        self, suffix: str, one: Direction, mask: Mask, dy: Array, sequences: bool, input_gradient: bool
    ) -> Array | None:
        """Add to the gradients of one direction of one layer; return that of its input, (T, N, inputs)."""
        weight_ih, weight_hh, bias_ih, bias_hh = self._parameters(suffix)
        reverse = suffix.endswith("reverse")
        dgates, dq = kernels.recurrent_backward(
            self.cell,
            one.gates,
            weight_hh.value,
            one.state,
            one.kept,
            mask=mask,
            reverse=reverse,
            dy=dy if sequences else None,
            dlast=None if sequences else dy,
        )
        before, after = (one.state[1:], dq[:-1]) if reverse else (one.state[:-1], dq[1:])
        first = dq[-1] if reverse else dq[0]  # its state before is 0
        kernels.linear_backward(
            _flat(before),
            weight_hh.value,
            _flat(after),
            weight_grad=weight_hh.grad,
            bias_grad=None if bias_hh is None else bias_hh.grad,
            input_gradient=False,
        )
        if bias_hh is not None:
            bias_hh.grad += first.sum(axis=0)
        dx = kernels.linear_backward(
            _flat(one.x),
            weight_ih.value,
            _flat(dgates),
            weight_grad=weight_ih.grad,
            bias_grad=None if bias_ih is None else bias_ih.grad,
            input_gradient=input_gradient,
        )
        return None if dx is None else dx.reshape(one.x.shape)

    # ---- central differences ----

    def difference(self, x: Array, y: Array, dx: Array) -> Array:
        """Return how y changes: differences travel through the steps, so that nothing is subtracted."""
        mask = self._series(x)[1]
        if self.mask_zero and ((x != 0).any(axis=2) != (x + dx != 0).any(axis=-1)).any():
            return super().difference(x, y, dx)  # what is padding is no longer, or the other way round
        moved = np.ascontiguousarray(dx.reshape(-1, *x.shape[1:]).transpose(1, 0, 2))  # (T, S N, inputs)
        found = self._through_layers(self._bases(x, y), mask, 0, moved, len(x))
        return found.reshape(*dx.shape[: dx.ndim - x.ndim], *y.shape)

    def perturb(self, parameter: Parameter, indices: npt.NDArray[np.intp], step: float, x: Any, y: Array) -> Array:
        """Return what one moved weight of one gate does, from step to step and from layer to layer."""
        mask, bases = self._series(x)[1], self._bases(x, y)
        layer, half, name = self._holder(parameter)
        suffix, (one, arguments) = self._directions(layer)[half], bases[layer][half]
        at, of = np.divmod(indices, parameter.value.shape[1]) if parameter.value.ndim > 1 else (indices, None)
        inputs = one.x if name.endswith("ih") else _before(one.state, suffix)
        shape = (len(inputs), len(indices), inputs.shape[1])  # (T, S, N)
        drive = (
            np.full(shape, step, y.dtype) if of is None else inputs[:, :, of].transpose(0, 2, 1) * y.dtype.type(step)
        )
        way = {"at": at, "drive": drive.reshape(len(drive), -1), "step": step, "in_state": name.endswith("hh")}
        found, last = self._changes(suffix, one, arguments, mask, way | {"origin": of if name == "weight_hh" else None})
        if layer == self.num_layers - 1:
            changed = found if self.return_sequences else last
            whole = np.zeros((*changed.shape[:-1], y.shape[-1]), y.dtype)
            self._half(whole, suffix)[...] = changed
            return whole.reshape(len(indices), *y.shape)
        whole = np.zeros((*found.shape[:2], self.hidden_size * len(self._directions(layer))), y.dtype)
        self._half(whole, suffix)[...] = found
        handed = self._changes_handed_on(layer, whole, len(y))
        return self._through_layers(bases, mask, layer + 1, handed, len(y)).reshape(len(indices), *y.shape)

    def _holder(self, parameter: Parameter) -> tuple[int, int, str]:
        """Return the layer and the direction that a parameter belongs to, and what it is: "weight_ih" for instance."""
        for layer in range(self.num_layers):
            for half, suffix in enumerate(self._directions(layer)):
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    if vars(self).get(name + suffix) is parameter:
                        return layer, half, name
        raise ValueError(f"parameter: expected one of this layer's, got {parameter!r}")

    def _bases(self, x: Any, y: Array) -> list[list[tuple[Direction, Array]]]:
        """Return what each direction of each layer has left, and what its activations were given, (T, N, G H)."""

        def made() -> tuple[list[list[tuple[Direction, Array]]], Array]:
            saved = self.forward_saving(x)[1]
            names = map(self._directions, range(self.num_layers))
            pairs = (zip(suffixes, layer, strict=True) for suffixes, layer in zip(names, saved, strict=True))
            return [[(one, self._arguments(suffix, one)) for suffix, one in pair] for pair in pairs], y

        run = current_run()
        if run is None or run.rows is not None:
            return made()[0]
        found: list[list[tuple[Direction, Array]]] = run.once((id(y), "bases"), made)[0]
        return found

    def _arguments(self, suffix: str, one: Direction) -> Array:
        weight_ih, weight_hh, bias_ih, bias_hh = self._parameters(suffix)
        u = kernels.linear(one.x, weight_ih.value, None if bias_ih is None else bias_ih.value)
        before = _before(one.state, suffix)
        q = kernels.linear(before, weight_hh.value, None if bias_hh is None else bias_hh.value)
        if self.cell == "gru":
            q[..., 2 * self.hidden_size :] *= one.gates[..., : self.hidden_size]
        return u + q

    def _changes(
        self, suffix: str, one: Direction, arguments: Array, mask: Mask, way: dict[str, Any]
    ) -> tuple[Array, Array]:
        """Return how the states of one direction change, (S N, T, H), and the last of them, (S N, H)."""
        weight, reverse = self._parameters(suffix)[1].value, suffix.endswith("reverse")
        return kernels.recurrent_change(
            self.cell, arguments, one.gates, weight, one.state, one.kept, mask=mask, reverse=reverse, **way
        )

    def _through_layers(self, bases: Any, mask: Mask, layer: int, dx: Array, rows: int) -> Array:
        """Return how y changes, (S N, ...), where the input (T, S N, inputs) of a layer changes."""
        while True:
            both = []
            for suffix, (one, arguments) in zip(self._directions(layer), bases[layer], strict=True):
                du = kernels.linear(dx, self._parameters(suffix)[0].value)
                both.append(self._changes(suffix, one, arguments, mask, {"du": du}))
            top = layer == self.num_layers - 1
            parts = [pair[0 if self.return_sequences or not top else 1] for pair in both]
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
            if top:
                return whole
            dx, layer = self._changes_handed_on(layer, whole, rows), layer + 1

    def _changes_handed_on(self, layer: int, change: Array, rows: int) -> Array:
        """Return what the next layer's input changes by, (T, S N, D H), from the change of a layer's output."""
        stack = change.reshape(-1, rows, *change.shape[1:])
        factors = self.dropouts[layer].factors(stack[0]) if self.dropouts and len(stack) else None
        handed = change if factors is None else (stack * factors).reshape(change.shape)
        return np.ascontiguousarray(handed.transpose(1, 0, 2))

    def __repr__(self) -> str:
        shown = [str(self.input_size), str(self.hidden_size)]
        shown += [str(self.num_layers)] if self.num_layers > 1 else []
        defaults = {"nonlinearity": "tanh", "bias": True, "dropout": 0.0, "bidirectional": False}
        for name, default in (defaults | {"mask_zero": False, "return_sequences": True}).items():
            value = getattr(self, name, default)
            shown += [f"{name}={value!r}"] if value != default else []
        return f"{type(self).__name__}({', '.join(shown)})"


def _before(state: Array, suffix: str) -> Array:
    """Return the state before each step, (T, N, H)."""
    zero = np.zeros_like(state[:1])
    return np.concatenate([state[1:], zero] if suffix.endswith("reverse") else [zero, state[:-1]])


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


class RNN(Recurrent):
    """h[t] = f(W_ih x[t] + b_ih + W_hh h[t - 1] + b_hh), f = tanh or max(., 0) (Elman 1990); y holds all h.

    Parameters
    ----------
    nonlinearity : {"tanh", "relu"}
        The fourth argument, as in PyTorch. All others, shapes and padding: see `Recurrent`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        mask_zero: bool = False,
        return_sequences: bool = True,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        self.cell = f"rnn_{nonlinearity}"
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            mask_zero=mask_zero,
            return_sequences=return_sequences,
            dtype=dtype,
            rng=rng,
        )


class GRU(Recurrent):
    """h[t] = n + z (h[t - 1] - n), with the gates r, z, n (Cho et al. 2014, in the form of PyTorch); y holds all h.

    With u = W_ih x[t] + b_ih and q = W_hh h[t - 1] + b_hh, each of three parts: r = sigmoid(u_r + q_r),
    z = sigmoid(u_z + q_z), n = tanh(u_n + r q_n). Parameters, shapes and padding: see `Recurrent`.
    """

    cell = "gru"


class LSTM(Recurrent):
    """h[t] = o tanh(c[t]), c[t] = f c[t - 1] + i g, with the gates i, f, g, o (Hochreiter and Schmidhuber 1997).

    Of the four parts of W_ih x[t] + b_ih + W_hh h[t - 1] + b_hh, i, f and o are the sigmoid, g the tanh. y holds all h.
    Parameters, shapes and padding: see `Recurrent`.
    """

    cell = "lstm"
