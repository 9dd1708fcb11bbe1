"""The package as a whole: what it imports, exports and says."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nnframe as nn


def test_import_loads_nothing_heavy():
    code = (
        "import numpy, sys; before = set(sys.modules); import nnframe; "
        "found = set(sys.modules) - before; "
        "print(*sorted({name.partition('.')[0] for name in found} | {name for name in found if 'check' in name}))"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "tqdm",
        "safetensors",
        "matplotlib",
        "scipy",
        "argparse",
        "gzip",
        "csv",
        "importlib.metadata",
        "asyncio",
        "dataclasses",
    }
    heavy |= {"nnframe.gradients.check", "nnframe.gradients.verify"}  # the checker, loaded where it is asked for
    assert not heavy & set(run.stdout.split())


def test_every_room_is_a_package():
    package = Path(nn.__file__).parent
    rooms = {path.parent for path in package.rglob("*.py")}
    assert package / "io" in rooms
    forgotten = [str(room.relative_to(package)) for room in rooms if not (room / "__init__.py").is_file()]
    assert not forgotten, "folders of modules without an __init__.py are left out of the wheel"


def test_public_names_exist_and_are_documented():
    for name in nn.__all__:
        thing = getattr(nn, name)
        assert name.startswith("__") or thing.__doc__, name
    for name in nn.kernels.__all__:
        assert getattr(nn.kernels, name).__doc__, name


def copy_without_kernels(folder, *, with_source):
    """Put the Python files of nnframe into a folder, as a clone (with csrc/) or as an installation has them."""
    package = Path(nn.__file__).parent
    shutil.copytree(package, folder / "nnframe", ignore=shutil.ignore_patterns("*.so", "*.pyd", "*.c", "__pycache__"))
    if with_source:
        (folder / "csrc").mkdir()
        (folder / "csrc" / "nnframe.h").touch()
    return folder


def run_in(folder, *arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, **options
    )


def test_in_the_source_the_advice_is_another_folder_or_a_build(tmp_path):
    folder = copy_without_kernels(tmp_path, with_source=True)
    script = folder / "script.py"
    script.write_text("import nnframe as nn; print(nn.__file__)")
    run = run_in(folder, "script.py")
    assert run.returncode == 1
    assert f"This is the source of nnframe, in {folder}." in run.stderr
    assert "python -P script.py" in run.stderr
    assert "-m pip install -e ." in run.stderr
    assert "circular" not in run.stderr
    assert "--force-reinstall" not in run.stderr, "which would not help here"
    followed = run_in(folder, "-P", "script.py")
    assert followed.stdout.strip() == nn.__file__, f"the advice does not help: {followed.stderr}"


def test_a_broken_installation_is_to_be_installed_again(tmp_path):
    folder = copy_without_kernels(tmp_path, with_source=False)
    run = run_in(folder, "-c", "import nnframe")
    assert "nnframe's compiled kernels (nnframe.kernels._kernels) cannot be loaded: No module named" in run.stderr
    assert "with a C compiler present" in run.stderr
    assert "-m pip install --force-reinstall --no-deps ." in run.stderr
    assert "-e ." not in run.stderr
    other = folder / "nnframe" / "kernels" / "_kernels.cpython-39-x86_64-linux-gnu.so"
    other.touch()
    run = run_in(folder, "-c", "import nnframe")
    assert f"there is {other.name}; this Python loads _kernels.{sys.implementation.name}" in run.stderr


def test_show_config(capsys):
    nn.show_config()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "available" not in line)
    assert lines["nnframe"] == nn.__version__
    assert lines["simd"] in nn.config_info()["simd available"]
    assert int(lines["threads"]) == nn.get_num_threads()


def test_a_name_of_before_still_works_and_says_what_it_is_called_now():
    with pytest.warns(DeprecationWarning, match=r"nnframe\.numerical\.central_difference"):
        gradient = nn.kernels.central_difference(lambda v: float(v @ v), np.array([1.0, -2.0]))
    np.testing.assert_allclose(gradient, [2, -4], atol=1e-8)
