"""Models as C: a compiler makes of the file what gives nnframe's numbers, and complains of nothing."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from every_layer import CASES, made

import nnframe as nn

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
FLAGS = ["-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fPIC", "-shared"]
NOT_WRITTEN = {
    "conv transpose 1d": "there is no C code for ConvTranspose1d layers",
    "conv transpose 2d": "there is no C code for ConvTranspose2d layers",
    "embedding": "there is no C code for Embedding layers",
    "embedding padded": "there is no C code for Embedding layers",
    "softmax of rows": "dim=0 joins the rows of a mini-batch",
    "batch norm untracked": "track_running_stats=False joins the rows of a mini-batch",
    "positions": "there is no C code for PositionalEncoding layers",
    "positions padded": "there is no C code for PositionalEncoding layers",
    **dict.fromkeys(
        [n for n in CASES if n.startswith("attention")], "there is no C code for MultiheadAttention layers"
    ),
    **dict.fromkeys(
        [n for n in CASES if n.startswith("encoder")], "there is no C code for (MultiheadAttention|Padding) layers"
    ),
}
SEVERAL = [name for name in CASES if isinstance(made(name)[1], tuple)]
WRITTEN = [name for name in CASES if name not in NOT_WRITTEN and name not in SEVERAL]


def compiled(path, *flags):
    if COMPILER is None:
        pytest.skip("there is no C compiler")
    library = path.with_suffix(".so")
    done = subprocess.run(
        [COMPILER, *FLAGS, *flags, str(path), "-o", str(library), "-lm"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def run(library, x, size, name="model"):
    pointer = np.ctypeslib.ndpointer(np.float32, flags="C")
    function = getattr(library, f"{name}_forward")
    function.argtypes, function.restype = [pointer, pointer], None
    y = np.full((len(x), size), np.nan, np.float32)
    for row, out in zip(x, y, strict=True):
        function(np.ascontiguousarray(row, np.float32), out)
    return y


def assert_agrees(model, x, tmp_path, *flags):
    path = tmp_path / "model.c"
    nn.io.export_c(model, path, x.shape[1:])
    expected = model(x)
    found = run(compiled(path, *flags), x, expected[0].size).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", WRITTEN)
def test_c_gives_the_same(name, tmp_path):
    layer, x = made(name)
    assert_agrees(layer, x, tmp_path)


ELEMENTWISE = [name for name in WRITTEN if made(name)[0].couples == "entries" and not made(name)[0].state_dict()]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_far_values_stay_what_they_are(name, tmp_path):
    x = np.array([[-3e38, -300, -100, -20, -3, -1e-8, -0.0, 0, 1e-8, 3, 20, 100, 300, 3e38, np.nan]], np.float32)
    assert_agrees(made(name)[0], x, tmp_path)


@pytest.mark.parametrize("name", NOT_WRITTEN)
def test_what_is_not_written_is_named(name, tmp_path):
    layer, x = made(name)
    if isinstance(x, tuple):
        x = x[0]
    with pytest.raises(ValueError, match=NOT_WRITTEN[name]):
        nn.io.export_c(nn.Sequential(layer), tmp_path / "model.c", x.shape[1:])
    assert not list(tmp_path.iterdir())


def moved(model, seed=5):
    """Every array off its initial value, so that a normalisation does something."""
    rng = np.random.default_rng(seed)
    for name, held in (*model.named_parameters(), *model.named_buffers()):
        if "running" in name or name.endswith("bias"):
            held.value += np.abs(rng.standard_normal(held.value.shape)).astype(held.value.dtype) / 3
    return model


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2, rng=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, bias=False, rng=2),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(400, 40, rng=3),
        nn.BatchNorm1d(40),
        nn.Tanh(),
        nn.Linear(40, 10, rng=4),
        nn.Softmax(1),
    )


def test_a_convolutional_network_with_batch_norms_folded(tmp_path):
    model = moved(convolutional())
    x = np.random.default_rng(1).random((4, 1, 28, 28), np.float32)
    assert_agrees(model, x, tmp_path)
    text = (tmp_path / "model.c").read_text()
    assert "static void scale" not in text  # all three are folded
    assert "malloc" not in text


def shortcuts():
    shared = nn.Linear(6, 6, rng=1)
    return nn.Sequential(
        nn.Residual(nn.Tanh()),
        nn.Branches(nn.Residual(nn.ReLU(), shared), nn.Sequential(shared, nn.Sigmoid()), join="multiply"),
        nn.Residual(nn.Residual(nn.Residual(shared), nn.GELU())),
        nn.Branches(nn.Flatten(), nn.ReLU(), shared, nn.Residual(nn.LayerNorm(6)), join="concatenate"),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.BatchNorm1d(24),
    )


def test_shortcuts_and_branches_do_not_overwrite_what_is_still_to_be_read(tmp_path):
    x = np.random.default_rng(2).standard_normal((5, 6)).astype(np.float32)
    assert_agrees(moved(shortcuts()), x, tmp_path)
    assert (tmp_path / "model.c").read_text().count("static const float a_1_0_inner_1_weight") == 1


def test_names_that_differ_in_a_dot_are_two_arrays(tmp_path):
    class Two(nn.Sequential):
        def __init__(self):
            self.a_b = nn.Linear(3, 3, rng=1)
            self.a = nn.Sequential(nn.Linear(3, 3, rng=2))
            super().__init__(self.a_b, self.a)

        def children(self):
            yield "a_b", self.a_b
            yield "a.b", self.a[0]

    assert_agrees(Two(), np.random.default_rng(2).standard_normal((2, 3)).astype(np.float32), tmp_path)


def test_a_row_may_be_read_in_two_shapes(tmp_path):
    model = nn.Sequential(
        nn.Branches(nn.Flatten(), nn.Sequential(nn.Permute(0, 2, 1), nn.Flatten()), join="concatenate"),
        nn.ReLU(),
        nn.Unflatten(1, (3, 4)),
        nn.Branches(nn.Flatten(), nn.Sequential(nn.Permute(0, 2, 1), nn.Flatten()), nn.Flatten(), join="concatenate"),
    )
    assert_agrees(model, np.random.default_rng(2).standard_normal((2, 2, 3)).astype(np.float32), tmp_path)


def test_sequences(tmp_path):
    model = nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1, rng=1),
        nn.Permute(0, 2, 1),
        nn.LSTM(8, 6, 2, bidirectional=True, rng=2),
        nn.LayerNorm(12),
        nn.GRU(12, 5, return_sequences=False, rng=3),
        nn.Linear(5, 2, rng=4),
    )
    x = np.random.default_rng(3).standard_normal((3, 3, 20)).astype(np.float32)
    assert_agrees(model, x, tmp_path)


def test_sums_may_be_taken_in_double(tmp_path):
    model = nn.Sequential(nn.Linear(4000, 3, rng=1, init=nn.Normal(1.0)))
    x = np.random.default_rng(6).standard_normal((3, 4000)).astype(np.float32)
    nn.io.export_c(model, tmp_path / "model.c")
    exact = x.astype(np.float64) @ model[0].weight.value.astype(np.float64).T
    plain = run(compiled(tmp_path / "model.c"), x, 3)
    (tmp_path / "double").mkdir()
    nn.io.export_c(model, tmp_path / "double" / "model.c")
    double = run(compiled(tmp_path / "double" / "model.c", "-DNNFRAME_SUM=double"), x, 3)
    assert np.abs(double - exact).max() < np.abs(plain - exact).max() < 1e-3


def test_values_that_are_not_numbers_stay_so(tmp_path):
    model = nn.Sequential(nn.ReLU(), nn.MaxPool1d(2))
    x = np.array([[[np.nan, 1, 2, np.nan, 3, 4]]], np.float32)
    nn.io.export_c(model, tmp_path / "model.c", (1, 6))
    np.testing.assert_array_equal(run(compiled(tmp_path / "model.c"), x, 3), model(x).reshape(1, 3))


def test_a_double_model_and_another_name(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2, rng=1, dtype=np.float64), nn.Tanh())
    path = tmp_path / "net.c"
    nn.io.export_c(model, path, name="net")
    x = np.random.default_rng(3).standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_allclose(run(compiled(path), x, 2, "net"), model(x), rtol=1e-6, atol=1e-6)
    assert "#define NET_INPUTS 3" in path.read_text()
    with pytest.raises(ValueError, match="name: expected letters, digits and _"):
        nn.io.export_c(model, path, name="my net")


class Own(nn.Layer):
    def forward(self, x):
        return x * x


def test_what_cannot_be_written_is_refused(tmp_path):
    path = tmp_path / "model.c"
    with pytest.raises(ValueError, match=r"layer 1: Own\(\): expected one of nnframe's own layers"):
        nn.io.export_c(nn.Sequential(nn.ReLU(), Own()), path, (3,))
    with pytest.raises(ValueError, match=r"layer 0: Linear\(3, 2\): with a row of shape \(4,\)"):
        nn.io.export_c(nn.Sequential(nn.Linear(3, 2)), path, (4,))
    with pytest.raises(ValueError, match="expected that of one array"):
        nn.io.export_c(nn.Branches(nn.ReLU(), nn.ReLU()), path, [(3,), (3,)])
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].weight.value[0, 0] = np.inf
    with pytest.raises(ValueError, match="expected finite numbers"):
        nn.io.export_c(model, path)
    assert not path.exists()
