"""Builds the one extension, nnframe.kernels._kernels, from csrc/; all metadata is in pyproject.toml."""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

NO_COMPILER = """
nnframe is compiled when it is installed, and that did not work: {reason}
It needs a C compiler and the headers of Python:
    Debian, Ubuntu    apt install gcc python3-dev
    Fedora            dnf install gcc python3-devel
    Alpine            apk add gcc musl-dev python3-dev
    macOS             xcode-select --install
    Windows           "Build Tools for Visual Studio" with the workload "Desktop development with C++"
"""

CSRC = Path("csrc")
SOURCES = sorted(str(path) for path in CSRC.glob("*.c"))
DEPENDS = sorted(
    str(path) for path in [*CSRC.glob("*.h"), *CSRC.glob("*.def"), *Path("nnframe/kernels").glob("*.px[di]")]
)

if sys.platform == "win32":
    COMPILE = ["/O2", "/std:c11", "/experimental:c11atomics"]
    LINK: list[str] = []
else:
    # Never -march=native (the wheel must run elsewhere), never -ffast-math (it changes the whole process).
    COMPILE = ["-std=c11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
    COMPILE += ["-fvisibility=hidden", "-pthread"]
    if "-g" not in os.environ.get("CFLAGS", "").split():
        COMPILE.append("-g0")  # Python's own flags ask for debug information: 7 times the size
    LINK = ["-pthread"]


class BuildKernels(build_ext):  # type: ignore[misc]
    """build_ext that compiles several files at once, and says what to install where it cannot."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension."""
        self.refuse_missing_compiler()
        self.compile_in_parallel()
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError) as error:
            raise SystemExit(NO_COMPILER.format(reason=error)) from error

    def refuse_missing_compiler(self) -> None:
        """Stop before anything is compiled when there is no compiler."""
        command = getattr(self.compiler, "compiler_so", None)  # MSVC has none, and finds its own errors
        if command and shutil.which(command[0]) is None:
            raise SystemExit(NO_COMPILER.format(reason=f"there is no command {command[0]!r}"))

    def compile_in_parallel(self) -> None:
        """Let the compiler object work on one file a processor; setuptools itself takes one after another."""
        compile_all = self.compiler.compile

        def compile_each(sources: list[str], *args: object, **kwargs: object) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_all([source], *args, **kwargs), sources)
                return [name for names in objects for name in names]

        self.compiler.compile = compile_each


setup(
    ext_modules=cythonize(  # type: ignore[no-untyped-call]
        Extension(
            "nnframe.kernels._kernels",
            ["nnframe/kernels/_kernels.pyx", *SOURCES],
            include_dirs=["csrc", np.get_include()],
            depends=DEPENDS,
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
        ),
        compiler_directives={"language_level": 3, "freethreading_compatible": True},
    ),
    cmdclass={"build_ext": BuildKernels},
)
