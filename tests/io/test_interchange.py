"""Weights travel to PyTorch and back, and a file says what its layers are."""

import json

import numpy as np
import pytest
from every_layer import CASES, made
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import nnframe as nn
from nnframe import layers
from nnframe.io import architecture

WITH_TORCH = [name for name, (_, _, words) in CASES.items() if words]


def same_state(one, other):
    found, expected = one.state_dict(), other.state_dict()
    assert list(found) == list(expected)
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name, strict=True)


def test_every_layer_has_a_case():
    assert {architecture.name_of(made(name)[0]) for name in CASES} == set(architecture.OWN)
    assert set(architecture.OWN) | {"Activation"} == set(layers.__all__)


# ---- PyTorch ----


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def torch_output(torch, layer, words, x):
    given = torch.from_numpy(x)
    with torch.no_grad():
        if words.startswith("MultiheadAttention"):
            return layer(given, given, given, need_weights=False)[0].numpy()
        y = layer(given)
    return (y[0] if isinstance(y, tuple) else y).numpy()


@pytest.mark.parametrize("name", WITH_TORCH)
def test_weights_go_to_pytorch_and_back(torch, name, tmp_path):
    layer, x = made(name)
    words = CASES[name][2]
    theirs = eval("t." + words, {"t": torch.nn}).eval()
    if layer.state_dict():
        nn.save(layer, tmp_path / "ours")
        from safetensors.torch import load_file as load_torch
        from safetensors.torch import save_file as save_torch

        theirs.load_state_dict(load_torch(tmp_path / "ours"), strict=True)
        save_torch(theirs.state_dict(), tmp_path / "theirs")
        ours, theirs_file = load_file(tmp_path / "ours"), load_file(tmp_path / "theirs")
        assert ours.keys() == theirs_file.keys()
        other = CASES[name][0]()
        assert nn.load(other, tmp_path / "theirs") == ([], [])
        same_state(other, layer)
    np.testing.assert_allclose(layer(x), torch_output(torch, theirs, words, x), rtol=2e-5, atol=2e-6)


def test_tied_weights_go_to_pytorch_and_back(torch, tmp_path):
    from safetensors.torch import load_model, save_model

    model = nn.Sequential(nn.Linear(4, 4, rng=1), nn.Tanh(), nn.Linear(4, 4, rng=2))
    model[2].weight = model[0].weight
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4))
    theirs[2].weight = theirs[0].weight
    nn.save(model, tmp_path / "ours")
    assert load_model(theirs, tmp_path / "ours") == (set(), [])
    x = np.random.default_rng(3).standard_normal((2, 4)).astype(np.float32)
    np.testing.assert_allclose(theirs(torch.from_numpy(x)).detach().numpy(), model(x), rtol=1e-5, atol=1e-6)
    save_model(theirs, str(tmp_path / "theirs"))
    other = nn.Sequential(nn.Linear(4, 4, rng=3), nn.Tanh(), nn.Linear(4, 4, rng=4))
    other[2].weight = other[0].weight
    nn.load(other, tmp_path / "theirs")
    same_state(other, model)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read(torch, dtype, tmp_path):
    from safetensors.torch import save_file as save_torch

    theirs = torch.nn.Linear(3, 2).to(getattr(torch, dtype))
    save_torch(theirs.state_dict(), tmp_path / "half")
    model = nn.Linear(3, 2)
    nn.load(model, tmp_path / "half")
    np.testing.assert_array_equal(model.weight.value, theirs.weight.detach().float().numpy(), strict=True)
    np.testing.assert_array_equal(model.bias.value, theirs.bias.detach().float().numpy(), strict=True)


# ---- files ----


def test_tied_weights_may_come_under_any_of_their_names(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    weight = np.arange(4, dtype=np.float32).reshape(2, 2)
    for names in (["0.weight"], ["1.weight"], ["0.weight", "1.weight"]):
        save_file(dict.fromkeys(names, weight), tmp_path / "file")
        nn.load(model, tmp_path / "file")
        np.testing.assert_array_equal(model[0].weight.value, weight)
        model[0].weight.value[:] = 0
    save_file({"0.weight": weight, "1.weight": weight + 1}, tmp_path / "file")
    with pytest.raises(ValueError, match="expected the values of 0.weight, which is the same array here"):
        nn.load(model, tmp_path / "file")
    assert not model[0].weight.value.any()


def test_names_that_do_not_fit_may_be_left_out(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, rng=1))
    before = model[1].state_dict()
    save_file({"0.weight": np.ones((2, 2), np.float32), "9.bias": np.ones(2, np.float32)}, tmp_path / "file")
    with pytest.raises(ValueError, match=r"missing: 0.bias, 1.bias, 1.weight; unknown: 9.bias"):
        nn.load(model, tmp_path / "file")
    found = nn.load(model, tmp_path / "file", strict=False)
    assert found.missing_keys == ["0.bias", "1.bias", "1.weight"]
    assert found.unexpected_keys == ["9.bias"]
    np.testing.assert_array_equal(model[0].weight.value, 1)
    np.testing.assert_array_equal(model[1].weight.value, before["weight"])
    save_file({"0.weight": np.ones((3, 2), np.float32)}, tmp_path / "file")
    with pytest.raises(ValueError, match=r"0.weight: expected shape \(2, 2\), got \(3, 2\)"):
        nn.load(model, tmp_path / "file", strict=False)


def test_random_layers_keep_their_state(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2, rng=1), nn.Dropout(0.5, rng=2))
    model[1].random.state.value[:] = 2**64 - 1, 12
    nn.save(model, tmp_path / "file")
    assert sorted(load_file(tmp_path / "file")) == ["0.bias", "0.weight"]
    other = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    nn.load(other, tmp_path / "file")
    same_state(other, model)
    save_file(load_file(tmp_path / "file"), tmp_path / "plain")
    nn.load(other, tmp_path / "plain")
    same_state(other, model)


def test_equal_models_make_equal_files(tmp_path):
    def content():
        model = nn.Sequential(nn.Linear(3, 2, rng=1), nn.Dropout(0.5, rng=2), nn.Linear(2, 2, rng=3))
        nn.save(model, tmp_path / "file", metadata={"é": "ü", "b": "1", "a": "2"})
        return (tmp_path / "file").read_bytes()

    first = content()
    assert all(content() == first for _ in range(10))
    with safe_open(tmp_path / "file", "np") as file:
        assert {name: file.metadata()[name] for name in "éab"} == {"é": "ü", "b": "1", "a": "2"}
        assert (len(first) - sum(file.get_tensor(name).nbytes for name in file.keys())) % 8 == 0  # noqa: SIM118


# ---- the description ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_made_again_from_its_file(name, dtype, tmp_path):
    layer, x = made(name)
    layer = layer.astype(dtype)
    again = nn.io.build(json.loads(json.dumps(nn.io.describe(layer))))
    assert repr(again) == repr(layer) or name == "rms norm"  # whose default eps follows the dtype that it is made with
    assert nn.io.describe(again) == nn.io.describe(layer)
    if layer.state_dict():
        nn.save(layer, tmp_path / "file")
        again = nn.io.load_model(tmp_path / "file")
        same_state(again, layer)
    np.testing.assert_array_equal(again(x), layer(x), strict=True)


def test_shared_layers_and_parameters_are_shared_again(tmp_path):
    shared = nn.Linear(3, 3, rng=1)
    model = nn.Sequential(shared, nn.Residual(shared), nn.Linear(3, 3, rng=2))
    model[2].weight = shared.weight
    shared.bias.trainable = False
    nn.save(model, tmp_path / "file")
    again = nn.io.load_model(tmp_path / "file")
    assert again[1].inner is again[0]
    assert again[2].weight is again[0].weight
    assert [p.trainable for p in again.parameters()] == [True, False, True]
    same_state(again, model)


class Own(nn.Layer):
    def __init__(self):
        self.w = nn.Parameter([1.0])

    def forward(self, x):
        return x * self.w.value


def test_a_layer_of_somebody_else_is_named(tmp_path):
    model = nn.Sequential(nn.ReLU(), Own())
    with pytest.raises(ValueError, match=r"layer 1: Own\(\): expected one of nnframe's own layers"):
        nn.io.describe(model)
    nn.save(model, tmp_path / "file")
    with pytest.raises(ValueError, match=r"layer 1: Own\(\): expected one of nnframe's own layers.*make the model"):
        nn.io.load_model(tmp_path / "file")
    save_file({"a": np.ones(2)}, tmp_path / "file")
    with pytest.raises(ValueError, match="it was not written by nnframe.save"):
        nn.io.load_model(tmp_path / "file")
    replaced = nn.Sequential(nn.ReLU())
    replaced[0].forward = lambda x: x
    with pytest.raises(ValueError, match=r"layer 0: ReLU"):
        nn.io.describe(replaced)


RELU = {"layer": "ReLU"}
nested = RELU
for _ in range(200):
    nested = {"layer": "Residual", "inner": nested}

BAD = [
    (None, "expected a description of format 1, got None"),
    ({"format": 2, "model": RELU}, "expected a description of format 1"),
    ({"format": True, "model": RELU}, "expected a description of format 1"),
    ({"format": 1}, "architecture: model: expected one of nnframe's own layers, got None"),
    ({"format": 1, "model": {"layer": "eval"}}, "expected one of nnframe's own layers"),
    ({"format": 1, "model": {"layer": ["ReLU"]}}, "expected one of nnframe's own layers"),
    ({"format": 1, "model": {"layer": "Activation"}}, "expected one of nnframe's own layers"),
    ({"format": 1, "model": {"layer": "ReLU", "slope": 1}}, "architecture: model: ReLU: .*takes no arguments"),
    ({"format": 1, "model": {"layer": "Linear", "in_features": -1, "out_features": 2}}, "in_features: expected at"),
    ({"format": 1, "model": {"layer": "Sequential", "layers": []}}, "expected at least one layer"),
    ({"format": 1, "model": {"layer": "Sequential", "layers": 3}}, "Sequential: "),
    ({"format": 1, "model": {"layer": "Sequential", "layers": [RELU, {"same": "7"}]}}, "layer 1: expected a layer"),
    ({"format": 1, "model": {"layer": "Sequential", "layers": [{"same": ""}]}}, "layer 0: expected a layer that came"),
    ({"format": 1, "model": nested}, "at most 100 layers within layers"),
    ({"format": 1, "model": RELU, "tied": {"a": "b"}}, "tied: expected two parameters of one shape"),
    ({"format": 1, "model": RELU, "tied": 3}, "tied: expected two parameters of one shape"),
    ({"format": 1, "model": RELU, "frozen": ["a"]}, "frozen: expected names of parameters"),
]


@pytest.mark.parametrize(("description", "message"), BAD)
def test_what_describes_no_model_is_refused(description, message):
    with pytest.raises(ValueError, match=message):
        nn.io.build(description)
