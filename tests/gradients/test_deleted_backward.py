"""Any backward deleted from a layer of nnframe: the hybrid gradient is what the written one was."""

import numpy as np
import pytest

import nnframe as nn

IMAGE, STEPS = (4, 6, 6), (5, 8)
LAYERS = {
    "Linear": (lambda **o: nn.Linear(6, 5, **o), (6,)),
    "Linear, steps": (lambda **o: nn.Linear(8, 5, **o), STEPS),
    "Conv1d": (lambda **o: nn.Conv1d(5, 4, 3, **o), STEPS),
    "Conv2d": (lambda **o: nn.Conv2d(4, 3, 3, padding=1, **o), IMAGE),
    "Conv2d, strided": (lambda **o: nn.Conv2d(4, 6, 3, stride=2, groups=2, **o), IMAGE),
    "ConvTranspose2d": (lambda **o: nn.ConvTranspose2d(4, 3, 3, stride=2, **o), IMAGE),
    "MaxPool2d": (lambda **o: nn.MaxPool2d(2), IMAGE),
    "AvgPool2d": (lambda **o: nn.AvgPool2d(2), IMAGE),
    "BatchNorm2d": (lambda dtype, rng: nn.BatchNorm2d(4, dtype=dtype), (4, 3, 2)),
    "BatchNorm1d": (lambda dtype, rng: nn.BatchNorm1d(6, dtype=dtype), (6,)),
    "GroupNorm": (lambda dtype, rng: nn.GroupNorm(2, 4, dtype=dtype), IMAGE),
    "LayerNorm": (lambda dtype, rng: nn.LayerNorm(8, dtype=dtype), STEPS),
    "RMSNorm": (lambda dtype, rng: nn.RMSNorm(8, dtype=dtype), STEPS),
    "Flatten": (lambda **o: nn.Flatten(), IMAGE),
    "ReLU": (lambda **o: nn.ReLU(), (6,)),
    "GELU": (lambda **o: nn.GELU(), IMAGE),
    "PReLU": (lambda dtype, rng: nn.PReLU(4, dtype=dtype), IMAGE),
    "Softmax": (lambda **o: nn.Softmax(-1), STEPS),
    "RNN": (lambda **o: nn.RNN(8, 4, **o), STEPS),
    "GRU": (lambda **o: nn.GRU(8, 4, 2, bidirectional=True, **o), STEPS),
    "LSTM": (lambda **o: nn.LSTM(8, 4, return_sequences=False, **o), STEPS),
    "MultiheadAttention": (lambda **o: nn.MultiheadAttention(8, 2, is_causal=True, **o), STEPS),
}


class Below(nn.Layer):
    """A factor for each entry, with a backward: what the gradient of the input goes to."""

    def __init__(self, shape, dtype):
        self.factor = nn.Parameter(np.linspace(0.5, 1.5, int(np.prod(shape))).reshape(shape), dtype)

    def forward(self, x):
        return x * self.factor.value

    def backward(self, x, y, dy):
        self.factor.grad += (dy * x).sum(axis=0)
        return dy * self.factor.value


def hidden(layer):
    """Nothing is known of the layer but its forward."""
    kind = type(layer)
    layer.__class__ = type(kind.__name__, (kind,), {"forward": lambda self, x: kind.forward(self, x)})


def deleted(layer):
    """Its backward is gone; its difference and what else it has are there."""
    kind, gone = type(layer), {"backward": nn.Layer.backward, "backward_parameters": nn.Layer.backward_parameters}
    layer.__class__ = type(kind.__name__, (kind,), gone)


def gradients(layer, below, x, t):
    model = nn.Sequential(*below, layer)
    strategy = nn.Backprop()
    for _ in range(2):  # what is found at the first is used at the second
        strategy(model, nn.MSELoss(), x, t)
    return {name: parameter.grad.copy() for name, parameter in model.named_parameters()}


@pytest.mark.filterwarnings("ignore::nnframe.CostWarning")  # the layers inside of one that is hidden are not seen
@pytest.mark.parametrize("change", [hidden, deleted])
@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_is_what_the_written_backward_gives(name, change, dtype):
    make, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, *shape)).astype(dtype)
    layers = [make(dtype=dtype, rng=1) for _ in range(2)]
    t = rng.standard_normal(layers[0](x).shape)
    change(layers[1])
    assert not layers[1].has_backward
    written, found = (gradients(layer, [Below(shape, dtype)], x, t) for layer in layers)
    compare(written, found, dtype)


@pytest.mark.parametrize("change", [hidden, deleted])
def test_of_ids(change, dtype):
    rng = np.random.default_rng(0)
    x, t = rng.integers(0, 9, (6, 4)), rng.standard_normal((6, 4, 3))
    layers = [nn.Embedding(9, 3, padding_idx=2, dtype=dtype, rng=1) for _ in range(2)]
    change(layers[1])
    written, found = (gradients(layer, [], x, t) for layer in layers)
    compare(written, found, dtype)


def compare(written, found, dtype):
    largest = max(np.abs(gradient).max() for gradient in written.values())
    for name, gradient in written.items():
        bound = (2e-8 if dtype is np.float64 else 5e-6) * largest  # of a bias at 0, moved by little
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=bound, err_msg=name)
