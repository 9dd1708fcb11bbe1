"""The built-in layers under the harness, and the protocol that custom layers rely on."""

import numpy as np
import pytest
from harness import check_layer

import nnframe as nn

ACTIVATIONS = [
    nn.Sigmoid(),
    nn.Tanh(),
    nn.ReLU(),
    nn.LeakyReLU(0.2),
    nn.ELU(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Softplus(),
    nn.SELU(),
    nn.Mish(),
    nn.Hardswish(),
]


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
def test_activations(simd, dtype, rng, layer):
    layer_of_dtype = nn.Sequential(nn.Linear(7, 5, dtype=dtype, rng=1), layer)
    check_layer(layer_of_dtype, rng.standard_normal((6, 7)), rng)


def test_step_is_exact(simd, dtype):
    x = np.array([[-1.0, 0.0, 0.5, 2.0]], dtype)
    layer = nn.Step()
    y = layer.forward(x)
    np.testing.assert_array_equal(y, [[0, 0, 1, 1]])
    dx = np.array([[[1.5, 0.1, -0.4, -3.0]]], dtype)
    np.testing.assert_array_equal(layer.difference(x, y, dx), [[[1, 1, 0, -1]]])
    assert not layer.has_backward


@pytest.mark.parametrize("bias", [True, False])
def test_linear(simd, dtype, rng, bias):
    check_layer(nn.Linear(7, 4, bias, dtype=dtype, rng=1), rng.standard_normal((5, 7)), rng)
    check_layer(nn.Linear(7, 4, bias, dtype=dtype, rng=1), rng.standard_normal((2, 3, 7)), rng)


def test_sequential(simd, dtype, rng):
    inner = nn.Sequential(nn.Tanh(), nn.Linear(5, 4, dtype=dtype, rng=2))
    model = nn.Sequential(nn.Linear(7, 5, dtype=dtype, rng=1), inner, nn.Sigmoid(), nn.Linear(4, 3, dtype=dtype, rng=3))
    check_layer(model, rng.standard_normal((6, 7)), rng)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.1.weight", "1.1.bias", "3.weight", "3.bias"]
    assert model[1] is inner
    assert len(model) == 4
    assert repr(model).splitlines()[2:4] == ["  (1) Sequential(", "    (0) Tanh()"]


class Swish(nn.Layer):
    def forward(self, x):
        return x / (1 + np.exp(-x))


class Mixer(nn.Layer):
    """Neither elementwise nor row by row; parameters in a list and a dict, a layer inside."""

    def __init__(self, n, dtype=np.float32):
        self.gains = [nn.Parameter(np.linspace(0.5, 1.5, n), dtype), nn.Parameter(np.ones(n), dtype)]
        self.more = {"shift": nn.Parameter(np.zeros(n), dtype)}
        self.linear = nn.Linear(n, n, dtype=dtype, rng=5)

    def forward(self, x):
        centred = x - x.mean(axis=0, keepdims=True) ** 2
        return self.linear.forward(centred * self.gains[0].value + self.more["shift"].value) * self.gains[1].value


def test_custom_layers(dtype, rng):
    check_layer(nn.Sequential(nn.Linear(6, 5, dtype=dtype, rng=1), Swish()), rng.standard_normal((4, 6)), rng)
    layer = Mixer(5, dtype)
    check_layer(layer, rng.standard_normal((4, 5)), rng)
    assert list(layer.state_dict()) == ["gains.0", "gains.1", "more.shift", "linear.weight", "linear.bias"]


def test_perturb_shows_a_parameter_at_the_output(dtype, rng):
    for layer in (nn.Linear(6, 5, dtype=dtype, rng=1), Mixer(6, dtype)):
        x = rng.standard_normal((4, 6)).astype(dtype)
        y = layer.forward(x)
        exact = layer.astype(np.float64)
        for parameter, twin in zip(layer.parameters(), exact.parameters(), strict=True):
            indices = np.arange(parameter.value.size)
            changes = layer.perturb(parameter, indices, 0.01, x, y)
            flat = twin.value.reshape(-1)
            for index in indices:
                saved = flat[index]
                flat[index] += 0.01
                moved = exact.forward(x.astype(np.float64))
                flat[index] = saved
                expected = moved - exact.forward(x.astype(np.float64))
                np.testing.assert_allclose(changes[index], expected, atol=1e-7 if dtype == np.float32 else 1e-14)


def test_astype_copies(rng):
    model = nn.Sequential(nn.Linear(3, 2, rng=1), Swish())
    double = model.astype(np.float64)
    assert (model.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(model[0].weight.value, double[0].weight.value)
    double[0].weight.value += 1
    assert not np.array_equal(model[0].weight.value, double[0].weight.value)
    shared = nn.Linear(3, 3, rng=1)
    tied = nn.Sequential(shared, nn.Tanh(), shared).astype(np.float64)
    assert tied[0] is tied[2]
    assert len(tied.parameters()) == 2


def test_the_door_converts_once():
    model = nn.Sequential(nn.Linear(3, 2, rng=1), nn.Sigmoid())
    y = model(np.array([[0, 1, 255]], np.uint8))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, model([[0.0, 1.0, 255.0]]))
    with pytest.raises(TypeError, match="x: expected real numbers, got dtype complex128"):
        model(np.zeros((1, 3), complex))
    with pytest.raises(ValueError, match="at least one axis"):
        model(np.float32(3))


def test_errors_name_the_layer():
    model = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Sigmoid(), nn.Linear(5, 2)))
    with pytest.raises(ValueError, match=r"x: expected shape \(\.\.\., 5\).* got \(4, 2\)") as caught:
        model(np.zeros((4, 3)))
    assert "in the forward pass of layer 1.1: Linear(5, 2)" in caught.value.__notes__

    class Wrong(nn.Layer):
        def forward(self, x):
            return x[:1]

    with pytest.raises(ValueError, match=r"an output of 4 rows like its input, got shape \(1, 3\)"):
        Wrong()(np.zeros((4, 3)))

    class Text(nn.Layer):
        def forward(self, x):
            return "y"

    with pytest.raises(TypeError, match="expected an array of real numbers, got str"):
        Text()(np.zeros((4, 3)))
    with pytest.raises(NotImplementedError, match="Layer has no forward"):
        nn.Layer()(np.zeros((4, 3)))


def test_refused():
    with pytest.raises(ValueError, match="layers: expected at least one"):
        nn.Sequential()
    with pytest.raises(TypeError, match="got <class .*Sigmoid.*> at position 1"):
        nn.Sequential(nn.Linear(2, 2), nn.Sigmoid)
    with pytest.raises(TypeError, match=r"in_features: expected an integer, got 2\.5"):
        nn.Linear(2.5, 3)
    with pytest.raises(ValueError, match="out_features: expected at least 1, got 0"):
        nn.Linear(2, 0)
    with pytest.raises(ValueError, match="dtype: expected float32 or float64, got float16"):
        nn.Linear(2, 2, dtype=np.float16)
    with pytest.raises(TypeError, match="rng: expected .*Generator"):
        nn.Linear(2, 2, rng="seed")
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=np.float64))
    with pytest.raises(TypeError, match=r"one dtype, got float32 \(0\.bias\) and float64 \(1\.bias\)"):
        mixed(np.zeros((1, 2)))


def test_load_state_dict_changes_all_or_nothing():
    model = nn.Sequential(nn.Linear(3, 2, rng=1), nn.Linear(2, 2, rng=2))
    state = model.state_dict()
    before = model.state_dict()
    wrong = {**state, "0.weight": state["0.weight"] + 1, "1.bias": np.zeros(3)}
    with pytest.raises(ValueError, match=r"1\.bias: expected shape \(2,\), got \(3,\)"):
        model.load_state_dict(wrong)
    with pytest.raises(KeyError, match=r"missing: 1\.bias; unknown: 1\.b"):
        model.load_state_dict({("1.b" if k == "1.bias" else k): v for k, v in state.items()})
    with pytest.raises(TypeError, match=r"1\.bias: expected floating-point numbers, got int64"):
        model.load_state_dict({**state, "0.weight": state["0.weight"] + 1, "1.bias": np.zeros(2, int)})
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    model.load_state_dict({name: value + 1 for name, value in state.items()})
    np.testing.assert_array_equal(model[0].weight.value, before["0.weight"] + 1)


@pytest.mark.parametrize(
    ("init", "std"),
    [(nn.Normal(0.3), 0.3), (nn.Xavier(), (2 / 700) ** 0.5), (nn.He(), (2 / 300) ** 0.5), (nn.Zeros(), 0)],
)
def test_initializers(init, std):
    layer = nn.Linear(300, 400, init=init, rng=3)
    assert layer.weight.value.std() == pytest.approx(std, rel=0.01)
    assert not layer.bias.value.any()
    np.testing.assert_array_equal(
        layer.weight.value, nn.Linear(300, 400, init=init, rng=np.random.default_rng(3)).weight.value
    )


def test_numpys_global_random_state_is_not_touched():
    np.random.seed(5)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    (x, t), _ = nn.data.digits()
    model = nn.Sequential(nn.Linear(64, 5), nn.Sigmoid(), nn.Linear(5, 10))
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.1))
    trainer.fit(x[:50], t[:50], progress=False)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_summary():
    class Centre(nn.Layer):
        def __init__(self):
            self.shift = nn.Parameter(np.zeros(10))

        def forward(self, x):
            return x - x.mean(axis=0) + self.shift.value

    class Sorted(nn.Layer):
        def forward(self, x):
            return np.sort(x, axis=1)

    model = nn.Sequential(nn.Linear(64, 50), Swish(), nn.Linear(50, 10), Sorted(), Centre())
    lines = model.summary().splitlines()
    assert lines[1].split() == ["0", "Linear(64,", "50)", "50", "3,250", "written"]
    assert lines[2].split() == ["1", "Swish()", "50", "0", "numerical", "(entries),", "2", "forwards"]
    assert lines[4].split()[-4:] == ["numerical", "(rows),", "20", "forwards"]
    assert lines[5].split()[-8:] == ["numerical", "(batch),", "2", "forwards", "and", "2", "per", "row"]
    assert lines[-1] == "3,770 parameters, float32, 14.7 KiB"
    nn.check_gradients(model, np.random.default_rng(0).standard_normal((5, 64)))
    assert model.summary().splitlines()[1].endswith("verified")


@pytest.mark.parametrize("container", [nn.Residual, nn.Sequential])
def test_a_derived_container_may_call_the_backward_that_it_replaces(container, rng):
    class Derived(container):
        def backward(self, x, y, dy, saved=None):
            return super().backward(x, y, dy)

    x, t = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    found = []
    for kind in (Derived, container):
        inner = kind(nn.Linear(4, 4, rng=1, dtype=np.float64), nn.Tanh())
        model = nn.Sequential(nn.Linear(4, 4, rng=0, dtype=np.float64), inner)
        nn.Backprop()(model, nn.CrossEntropyLoss(), x, t)
        found.append([p.grad.copy() for p in model.parameters()])
        assert nn.check_gradients(model, x)
    for one, other in zip(*found, strict=True):  # C takes the plain Sequential in one call, in another order of sums
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-16)
