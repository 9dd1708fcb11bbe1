"""Types of the compiled kernels; their documentation is in _kernels.pyx."""

from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.floating]

def simd_available() -> list[str]: ...
def get_simd() -> str: ...
def set_simd(name: str) -> None: ...
def compiler() -> str: ...
def set_num_threads(n: int, at_once: int) -> None: ...
def get_num_threads() -> int: ...
def activation_names() -> list[str]: ...
def batched_matmul(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out: _Floats | None = None,
) -> _Floats: ...
def linear(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: str = "identity",
    alpha: float | None = None,
    out: _Floats | None = None,
) -> _Floats: ...
def linear_backward(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    dy: npt.ArrayLike,
    *,
    weight_grad: _Floats,
    bias_grad: _Floats | None = None,
    input_gradient: bool = True,
) -> _Floats | None: ...
def check_labels(
    logits: npt.ArrayLike, labels: npt.ArrayLike, *, ignore_index: int | None = None
) -> npt.NDArray[Any]: ...
def softmax(logits: npt.ArrayLike, *, out: _Floats | None = None) -> _Floats: ...
def softmax_cross_entropy(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    reduction: str = "mean",
    weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    out: _Floats | None = None,
) -> tuple[float, _Floats]: ...
def softmax_cross_entropy_loss(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    reduction: str = "mean",
    weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> float: ...
def activation(name: str, x: npt.ArrayLike, *, alpha: float | None = None, out: _Floats | None = None) -> _Floats: ...
def activation_backward(
    name: str,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    dy: npt.ArrayLike,
    *,
    alpha: float | None = None,
    out: _Floats | None = None,
) -> _Floats: ...
def activation_difference(
    name: str,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    dx: npt.ArrayLike,
    *,
    alpha: float | None = None,
    out: _Floats | None = None,
) -> _Floats: ...
def recurrent(
    cell: str,
    gates: _Floats,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    mask: npt.NDArray[np.bool_] | None = None,
    reverse: bool = False,
    out: _Floats | None = None,
) -> tuple[_Floats, _Floats | None]: ...
def recurrent_backward(
    cell: str,
    gates: npt.ArrayLike,
    weight: npt.ArrayLike,
    state: npt.ArrayLike,
    kept: npt.ArrayLike | None = None,
    *,
    mask: npt.NDArray[np.bool_] | None = None,
    reverse: bool = False,
    dy: npt.ArrayLike | None = None,
    dlast: npt.ArrayLike | None = None,
) -> tuple[_Floats, _Floats]: ...
def recurrent_change(
    cell: str,
    arguments: _Floats,
    gates: _Floats,
    weight: _Floats,
    state: _Floats,
    kept: _Floats | None = None,
    *,
    mask: npt.NDArray[np.bool_] | None = None,
    reverse: bool = False,
    du: _Floats | None = None,
    at: npt.NDArray[np.intp] | None = None,
    origin: npt.NDArray[np.intp] | None = None,
    drive: _Floats | None = None,
    step: float = 0.0,
    in_state: bool = False,
) -> tuple[_Floats, _Floats]: ...
def attention(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    *,
    scale: float | None = None,
    causal: bool = False,
    mask: npt.NDArray[np.bool_] | None = None,
    factors: npt.ArrayLike | None = None,
) -> tuple[_Floats, _Floats]: ...
def attention_backward(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    out: npt.ArrayLike,
    lse: npt.ArrayLike,
    dout: npt.ArrayLike,
    *,
    dq: _Floats,
    dk: _Floats,
    dv: _Floats,
    scale: float | None = None,
    causal: bool = False,
    mask: npt.NDArray[np.bool_] | None = None,
    factors: npt.ArrayLike | None = None,
) -> None: ...
def uniform(keys: npt.NDArray[np.uint64], columns: int, dtype: npt.DTypeLike) -> _Floats: ...
def optimizer_update(
    rule: str,
    values: list[_Floats],
    gradients: list[_Floats],
    means: list[_Floats] = ...,
    squares: list[_Floats] = ...,
    largest: list[_Floats] = ...,
    *,
    rate: float,
    decay: float = 0.0,
    shrink: float = 0.0,
    beta1: float = 0.0,
    beta2: float = 0.0,
    eps: float = 0.0,
    gain: float = 1.0,
) -> None: ...
def all_finite(x: npt.ArrayLike) -> bool: ...

# ---- convolution and pooling ----

_Pair = tuple[int, int]

def convolution(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    out_size: _Pair,
    stride: _Pair = ...,
    padding: _Pair = ...,
    dilation: _Pair = ...,
    groups: int = 1,
) -> _Floats: ...
def convolution_input_gradient(
    dy: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    in_size: _Pair,
    stride: _Pair = ...,
    padding: _Pair = ...,
    dilation: _Pair = ...,
    groups: int = 1,
) -> _Floats: ...
def convolution_weight_gradient(
    x: npt.ArrayLike,
    dy: npt.ArrayLike,
    *,
    weight_grad: _Floats,
    bias_grad: _Floats | None = None,
    stride: _Pair = ...,
    padding: _Pair = ...,
    dilation: _Pair = ...,
    groups: int = 1,
) -> None: ...
def max_pooling(
    x: npt.ArrayLike,
    *,
    out_size: _Pair,
    kernel_size: _Pair,
    stride: _Pair,
    padding: _Pair = ...,
    dilation: _Pair = ...,
) -> tuple[_Floats, npt.NDArray[np.int32]]: ...
def max_pooling_backward(dy: npt.ArrayLike, index: npt.NDArray[np.int32], *, in_size: _Pair) -> _Floats: ...
def max_pooling_difference(
    x: npt.ArrayLike,
    dx: npt.ArrayLike,
    index: npt.NDArray[np.int32],
    *,
    kernel_size: _Pair,
    stride: _Pair,
    padding: _Pair = ...,
    dilation: _Pair = ...,
) -> _Floats: ...
def mean_pooling(
    x: npt.ArrayLike,
    *,
    out_size: _Pair,
    kernel_size: _Pair,
    stride: _Pair,
    padding: _Pair = ...,
    count_padding: bool = True,
    divisor: float = 0.0,
) -> _Floats: ...
def mean_pooling_backward(
    dy: npt.ArrayLike,
    *,
    in_size: _Pair,
    kernel_size: _Pair,
    stride: _Pair,
    padding: _Pair = ...,
    count_padding: bool = True,
    divisor: float = 0.0,
) -> _Floats: ...

# ---- batch normalisation of images ----

@overload
def batch_norm(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    *,
    eps: float,
    with_output: Literal[True] = True,
) -> tuple[_Floats, npt.NDArray[np.float64]]: ...
@overload
def batch_norm(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    *,
    eps: float,
    with_output: Literal[False],
) -> tuple[None, npt.NDArray[np.float64]]: ...
def batch_norm_backward(
    x: npt.ArrayLike,
    dy: npt.ArrayLike,
    moments: npt.NDArray[np.float64],
    weight: npt.ArrayLike | None = None,
    *,
    eps: float,
    weight_grad: _Floats | None = None,
    bias_grad: _Floats | None = None,
) -> _Floats: ...

class Above:
    rows: int
    outputs: int
    stages: list[tuple[Any, ...]]
    loss: str
    logits: _Floats | None
    probabilities: _Floats | None
    targets: _Floats | None
    residual: _Floats
    def __init__(
        self,
        outputs: int,
        stages: list[tuple[Any, ...]],
        loss: str,
        residual: _Floats,
        logits: _Floats | None = None,
        probabilities: _Floats | None = None,
        targets: _Floats | None = None,
    ) -> None: ...

def values_of(parameters: list[Any]) -> list[_Floats]: ...
def gradients_of(parameters: list[Any]) -> list[Any]: ...
def are_trainable(parameters: list[Any]) -> bool: ...

class Network:
    inputs: int
    outputs: int
    stages: tuple[tuple[Any, Any], ...]
    differences: bool
    def __init__(self, inputs: int, stages: list[tuple[Any, Any]], dtype: npt.DTypeLike) -> None: ...
    def forward(self, x: npt.ArrayLike, values: list[_Floats]) -> _Floats: ...
    def takes(self, x: object) -> bool: ...
    def gradient(
        self,
        x: npt.ArrayLike,
        labels: npt.ArrayLike,
        values: list[_Floats],
        gradients: list[_Floats | None],
        loss: str,
        reduction: str = "mean",
        weight: npt.ArrayLike | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        *,
        outputs: list[_Floats] | None = None,
        step: float = 0.0,
        doubtful: npt.NDArray[np.bool_] | None = None,
        entries: list[npt.NDArray[np.intp]] | None = None,
    ) -> tuple[float, Any, npt.NDArray[Any]] | None: ...

def difference_gradient(
    above: Above,
    x: _Floats,
    *,
    step: float,
    scale: float,
    grad_weight: _Floats,
    grad_bias: _Floats | None = None,
    columns: _Floats | None = None,
    wanted: npt.NDArray[np.bool_] | None = None,
    counted: npt.NDArray[np.bool_] | None = None,
    units: range | None = None,
) -> None: ...
def difference_curves(
    above: Above,
    distance: _Floats,
    *,
    tolerance: float,
    level: _Floats,
    bend: _Floats,
    doubtful: npt.NDArray[np.bool_],
    state: npt.NDArray[np.uint8],
    columns: _Floats | None = None,
    chosen: npt.NDArray[np.bool_] | None = None,
    units: range | None = None,
) -> None: ...
def convolution_difference(
    above: Above,
    x: _Floats,
    *,
    step: float,
    scale: float,
    grad_weight: _Floats,
    grad_bias: _Floats | None = None,
    stride: _Pair = ...,
    padding: _Pair = ...,
    dilation: _Pair = ...,
    groups: int = 1,
    out_size: _Pair,
    units: range | None = None,
) -> None: ...
def selected_products(a: _Floats, b: _Floats, entries: npt.NDArray[np.intp], out: _Floats) -> None: ...
def sparse_product(
    start: npt.NDArray[np.intp], column: npt.NDArray[np.intp], value: _Floats, b: _Floats
) -> _Floats: ...
def moved_copies(x: _Floats, index: npt.NDArray[np.intp], value: _Floats, out: _Floats) -> None: ...
def change_quotients(
    y: _Floats, weight: _Floats, noise: _Floats, end: _Floats, step: _Floats, first: int, resolved: float, out: _Floats
) -> None: ...
def measured_slopes(
    value: _Floats,
    base: _Floats | None,
    x: _Floats | None,
    way: _Floats | None,
    size: _Floats,
    eps: float,
    close: float,
    noisy: float,
    slope: _Floats,
    reach: _Floats,
    left: npt.NDArray[np.bool_],
) -> float: ...
def moved_along(start: _Floats, way: _Floats, distance: float, out: _Floats) -> None: ...
def central_quotients(
    value: _Floats, y: _Floats, base: float, noise: float, relative: float, curved: float, rounded: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]: ...
def low_level_callable(f: Any) -> tuple[str, int, int]: ...
def evaluate_moved(
    f: int, data: int, x: _Floats, index: npt.NDArray[np.intp], value: _Floats, out: _Floats
) -> None: ...
