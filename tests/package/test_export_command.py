"""`nnframe export`: from a saved model to a C file and an ONNX file, and what is refused in one line."""

import subprocess

import numpy as np
import pytest

import nnframe as nn
from nnframe.cli import main


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    nn.save(nn.Sequential(nn.Linear(3, 4, rng=1), nn.Tanh(), nn.Linear(4, 2, rng=2)), path)
    return path


@pytest.fixture
def refused(capsys):
    def run(*arguments):
        assert main(["export", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert not out
        assert err.startswith("nnframe: error: ")
        assert err.count("\n") == 1
        return err

    return run


def test_c(saved, tmp_path, capsys):
    target = tmp_path / "my-net.c"
    assert main(["export", str(saved), "--c", str(target)]) == 0
    model = "Sequential( (0) Linear(3, 4) (1) Tanh() (2) Linear(4, 2) )"
    assert capsys.readouterr().out == f"{target}: {model}, function my_net_forward\n"
    assert "void my_net_forward(const float x[3], float y[2])" in target.read_text()


def test_a_main_of_ones_own_prints_what_nnframe_predicts(saved, tmp_path):
    import shutil

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    assert main(["export", str(saved), "--c", str(tmp_path / "m.c"), "--name", "net"]) == 0
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "m.c"\nint main(void) { float x[NET_INPUTS] = {0.5f, -1.0f, 2.0f}, '
        'y[NET_OUTPUTS]; net_forward(x, y); printf("%.9g %.9g", y[0], y[1]); return 0; }\n'
    )
    subprocess.run([compiler, "main.c", "-o", "main", "-lm"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    y = nn.io.load_model(saved)(np.array([[0.5, -1, 2]], np.float32))[0]
    np.testing.assert_allclose([float(word) for word in printed.split()], y, rtol=1e-6, atol=1e-6)


def test_onnx(saved, tmp_path):
    pytest.importorskip("onnx")
    assert main(["export", str(saved), "--onnx", str(tmp_path / "m.onnx"), "--input", "3"]) == 0
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(nn.io.import_onnx(tmp_path / "m.onnx")(x), nn.io.load_model(saved)(x))


def test_what_is_refused(saved, tmp_path, refused):
    assert "expected --c FILE.c, --onnx FILE.onnx, or both" in refused(saved)
    assert "no-such" in refused(tmp_path / "no-such", "--c", tmp_path / "m.c")
    assert "with a row of shape (4,)" in refused(saved, "--c", tmp_path / "m.c", "--input", "4")
    assert "name: expected letters" in refused(saved, "--c", tmp_path / "m.c", "--name", "a b")
    nn.save(nn.Sequential(nn.Conv2d(1, 2, 3)), saved)
    message = refused(saved, "--c", tmp_path / "m.c")
    assert "first layer is Conv2d(1, 2, kernel_size=3)" in message
    assert "--input says it" in message
    nn.save(nn.Sequential(nn.Linear(3, 4), Own()), saved)
    assert "layer 1: Own(): expected one of nnframe's own layers" in refused(saved, "--c", tmp_path / "m.c")
    assert sorted(tmp_path.iterdir()) == [saved]


class Own(nn.Layer):
    def forward(self, x):
        return x
