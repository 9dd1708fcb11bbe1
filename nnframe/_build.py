"""What to do where the compiled kernels cannot be loaded; imports nothing that needs them."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

IN_THE_SOURCE = """\
This is the source of nnframe, in {folder}. Python was started there, and finds it before one that is
installed.
To use the one that is installed, start Python in another folder, or with -P:
    python -P script.py
    python -P -m pytest
To use this one, build it in place, now and after each change in csrc/ or of a .pyx file, with a C compiler present:
    {python} -m pip install -e ."""

INSTALLED = """\
It is compiled when nnframe is installed, for one Python and one machine. Install nnframe again with this Python, in the
folder of its source and with a C compiler present:
    {python} -m pip install --force-reinstall --no-deps ."""


def advice(error: ImportError, package: Path = Path(__file__).parent) -> str:
    """Say that the kernels of the nnframe in the folder `package` are missing, and what helps."""
    in_the_source = (package.parent / "csrc" / "nnframe.h").is_file()
    built = sorted(path.name for path in (package / "kernels").glob("_kernels*") if path.suffix in (".so", ".pyd"))
    found = f" (there is {', '.join(built)}; this Python loads _kernels{EXTENSION_SUFFIXES[0]})" if built else ""
    cure = IN_THE_SOURCE if in_the_source else INSTALLED
    return (
        f"nnframe's compiled kernels (nnframe.kernels._kernels) cannot be loaded: {error}{found}\n"
        f"{cure.format(folder=package.parent, python=sys.executable or 'python')}"
    )
