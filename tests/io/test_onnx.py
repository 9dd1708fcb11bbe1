"""Models as ONNX: onnxruntime gives what nnframe gives, for any number of rows, and the file comes back."""

import numpy as np
import pytest
from every_layer import CASES, made

import nnframe as nn

onnx = pytest.importorskip("onnx")

NOT_MASKED = "ONNX passes over steps at the end of a sequence only, mask_zero over any; give lengths"


def rows_of(x, rows):
    return tuple(one[rows] for one in x) if isinstance(x, tuple) else x[rows]


def shape_of(x):
    return [one.shape[1:] for one in x] if isinstance(x, tuple) else x.shape[1:]


def feed(x):
    parts = x if isinstance(x, tuple) else (x,)
    names = ["x"] if len(parts) == 1 else [f"x{i}" for i in range(len(parts))]
    return {
        name: part.astype(np.int64 if part.dtype.kind == "i" and part.ndim > 1 else np.float32)
        for name, part in zip(names, parts, strict=True)
    }


def session(path):
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_gives_the_same(name, dtype, tmp_path):
    layer, x = made(name)
    layer = layer.astype(dtype)
    path = tmp_path / "model.onnx"
    nn.io.export_onnx(layer, path, shape_of(x))
    run = session(path)
    for rows in (slice(None), [2, 0, 1, 1, 2], [1, 2]):  # three rows, five, two
        given = rows_of(x, rows)
        y = run.run(["y"], feed(given))[0]
        expected = layer(given)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


ELEMENTWISE = [name for name in CASES if made(name)[0].couples == "entries" and not made(name)[0].state_dict()]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_far_values_stay_what_they_are(name, tmp_path):
    x = np.array([[-3e38, -300, -100, -20, -3, -1e-8, -0.0, 0, 1e-8, 3, 20, 100, 300, 3e38, np.nan]], np.float32)
    nn.io.export_onnx(made(name)[0], tmp_path / "model.onnx", x.shape[1:])
    y = session(tmp_path / "model.onnx").run(["y"], {"x": x})[0]
    np.testing.assert_allclose(y, made(name)[0](x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_file_comes_back(name, tmp_path):
    layer, x = made(name)
    path = tmp_path / "model.onnx"
    nn.io.export_onnx(layer, path, shape_of(x))
    again = nn.io.import_onnx(path)
    assert nn.io.describe(again) == nn.io.describe(layer)
    for key, value in again.state_dict().items():
        if value.dtype.kind == "f":
            np.testing.assert_array_equal(value, layer.state_dict()[key], strict=True)
    np.testing.assert_array_equal(again(x), layer(x), strict=True)


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, rng=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Residual(nn.Conv2d(4, 4, 3, padding="same", rng=2), nn.GELU()),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64, 10, rng=3),
        nn.Softmax(1),
    )


def test_a_network(tmp_path):
    model, path = network(), tmp_path / "model.onnx"
    nn.io.export_onnx(model, path, (1, 8, 8))
    x = np.random.default_rng(4).standard_normal((7, 1, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(session(path).run(["y"], {"x": x})[0], model(x), rtol=1e-5, atol=1e-6)
    names = {one.name for one in onnx.load(path).graph.initializer}
    assert {n for n, _ in model.named_parameters()} <= names
    np.testing.assert_array_equal(nn.io.import_onnx(path)(x), model(x))


def test_the_shape_of_a_first_linear_is_known(tmp_path):
    nn.io.export_onnx(nn.Sequential(nn.Linear(3, 2)), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"input_shape: expected the shape of one row, as the first layer is Conv2d"):
        nn.io.export_onnx(network(), tmp_path / "b.onnx")
    with pytest.raises(ValueError, match=r"layer 0: Conv2d.*with rows of shape \(2, 8, 8\): x: expected shape"):
        nn.io.export_onnx(network(), tmp_path / "b.onnx", (2, 8, 8))
    with pytest.raises(ValueError, match="input_shape: expected lengths"):
        nn.io.export_onnx(network(), tmp_path / "b.onnx", (1, 0, 8))
    assert not (tmp_path / "b.onnx").exists()


class Chain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 3, rng=1), nn.Tanh())


class Own(nn.Layer):
    def forward(self, x):
        return x * x


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_class_derived_from_a_container_is_written(tmp_path):
    model, path, x = Chain(), tmp_path / "model.onnx", np.ones((2, 3), np.float32)
    nn.io.export_onnx(model, path)
    np.testing.assert_allclose(session(path).run(["y"], {"x": x})[0], model(x), rtol=1e-6)
    with pytest.raises(ValueError, match="expected a file that nnframe.io.export_onnx wrote"):
        nn.io.import_onnx(path)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Own(), r"layer 0.inner: Own\(\): expected one of nnframe's own layers.*forward ONNX cannot see"),
        (Doubled(3, 3), r"layer 0.inner: Doubled\(3, 3\): expected one of nnframe's own layers"),
    ],
)
def test_a_layer_that_cannot_be_written_is_named(layer, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        nn.io.export_onnx(nn.Sequential(nn.Residual(layer)), tmp_path / "model.onnx", (3,))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_steps_passed_over_by_value_are_refused(kind, tmp_path):
    with pytest.raises(ValueError, match=rf"layer 0: {kind.__name__}\(.*{NOT_MASKED}"):
        nn.io.export_onnx(nn.Sequential(kind(2, 3, mask_zero=True)), tmp_path / "model.onnx", (4, 2))


def test_a_changed_graph_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    nn.io.export_onnx(nn.Sequential(nn.Linear(3, 2, rng=1), nn.ReLU()), path)
    changed = onnx.load(path)
    changed.graph.node[1].op_type = "Sigmoid"
    onnx.save(changed, path)
    with pytest.raises(ValueError, match="got one that was changed since"):
        nn.io.import_onnx(path)
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="expected an ONNX file"):
        nn.io.import_onnx(path)


def test_without_the_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    import importlib

    def absent(name, *_):
        raise ImportError(name)

    export_onnx = nn.io.export_onnx
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"pip install nnframe\[onnx\]"):
        export_onnx(nn.Linear(2, 2), tmp_path / "model.onnx")
