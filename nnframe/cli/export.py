"""The command `nnframe export`: a saved model as a C file or an ONNX file."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import nnframe as nn
from nnframe.cli.finding import short, told
from nnframe.cli.parsing import Parser, Refused, sizes

DESCRIPTION = """\
Write a model that nnframe.save has written for other programs.

--c: one C file of weights and forward pass, which needs math.h alone and allocates nothing.
--onnx: an ONNX file (needs pip install nnframe[onnx]).
The model is made of nnframe's own layers; the file says which. Exit status: 0, or 2 for what cannot be written."""


def add_command(commands: Any) -> None:
    """Describe the command."""
    parser: Parser = commands.add_parser(
        "export",
        help="write a saved model as C or ONNX",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL.safetensors", help="what nnframe.save or nnframe train --save wrote")
    parser.add_argument("--c", metavar="FILE.c", help="write C")
    parser.add_argument("--onnx", metavar="FILE.onnx", help="write ONNX")
    parser.add_argument(
        "--input",
        action="append",
        type=sizes,
        metavar="N,...",
        help="shape of one row of the input, such as 1,28,28; given again for a second input (default: as wide as a "
        "first Linear)",
    )
    parser.add_argument("--name", help="what names in the C file begin with (default: the file's name)")


def run(options: argparse.Namespace) -> int:
    """Read, write, say what was written."""
    if options.c is None and options.onnx is None:
        raise Refused("expected --c FILE.c, --onnx FILE.onnx, or both")
    try:
        model = nn.io.load_model(options.model)
    except (OSError, ValueError) as error:
        raise Refused(told(error)) from error
    shape = options.input[0] if options.input and len(options.input) == 1 else options.input
    if options.c is not None:
        name = re.sub(r"\W", "_", Path(options.c).stem, flags=re.ASCII) if options.name is None else options.name
        _write(options.c, lambda: nn.io.export_c(model, options.c, shape, name=name))
        print(f"{options.c}: {short(model)}, function {name}_forward")
    if options.onnx is not None:
        _write(options.onnx, lambda: nn.io.export_onnx(model, options.onnx, shape))
        print(f"{options.onnx}: {short(model)}")
    return 0


def _write(path: str, write: Any) -> None:
    try:
        write()
    except (ImportError, OSError, ValueError) as error:
        hint = "; --input says it, such as --input 1,28,28" if "input_shape" in str(error) else ""
        raise Refused(f"{path}: {told(error)}{hint}") from error
