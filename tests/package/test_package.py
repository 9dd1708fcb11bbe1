"""The package as a whole: what it imports, exports and says."""

import subprocess
import sys

import nnframe as nn


def test_import_loads_nothing_heavy():
    code = (
        "import numpy, sys; before = set(sys.modules); import nnframe; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    heavy = {"tqdm", "safetensors", "matplotlib", "scipy", "argparse", "gzip", "csv", "importlib.metadata", "asyncio"}
    assert not heavy & set(run.stdout.split())


def test_public_names_exist_and_are_documented():
    for name in nn.__all__:
        thing = getattr(nn, name)
        assert name.startswith("__") or thing.__doc__, name
    for name in nn.kernels.__all__:
        assert getattr(nn.kernels, name).__doc__, name


def test_a_missing_extension_says_how_to_build_it(tmp_path):
    code = (
        "import sys; sys.modules['nnframe.kernels._kernels'] = None\n"
        "try:\n    import nnframe\n"
        "except ImportError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "nnframe's compiled kernels (nnframe.kernels._kernels) cannot be loaded" in run.stdout
    assert "pip install -e ." in run.stdout
    assert "C compiler" in run.stdout


def test_show_config(capsys):
    nn.show_config()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "available" not in line)
    assert lines["nnframe"] == nn.__version__
    assert lines["simd"] in nn.config_info()["simd available"]
    assert int(lines["threads"]) == nn.get_num_threads()
