"""The command `nnframe`: train a classifier on real images, check gradients, export, report what nnframe runs on."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

import nnframe as nn
from nnframe.cli import check, export, train
from nnframe.cli.parsing import INTERRUPTED, Parser, Refused
from nnframe.training.interrupts import Termination


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0, 1 for a wrong gradient, 2 for bad input, 128 + n after signal n (130: Ctrl-C).
    """
    lasting = contextlib.redirect_stdout(Lasting(sys.stdout)), contextlib.redirect_stderr(Lasting(sys.stderr))
    with lasting[0], lasting[1], warnings.catch_warnings(), Termination() as termination:
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            options = make_parser().parse_args(arguments)
            status: int = options.run(options)
        except Refused as error:
            print(f"nnframe: error: {error}", file=sys.stderr)
            status = 2
        except KeyboardInterrupt:
            print("nnframe: interrupted", file=sys.stderr)
            status = INTERRUPTED
        finally:
            sys.stdout.flush()  # as long as an error there is no reason to complain
        return 128 + termination.number if termination.number else status


def _show_warning(message: Warning | str, *where: object) -> None:
    """Print a warning as a line of the command: where in nnframe it comes from is of no use to its user."""
    print(f"nnframe: warning: {message}", file=sys.stderr)


class Lasting:
    """A text stream that goes on where nobody reads it any more, or there is none: no work is lost for a line."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, if somebody reads; what the encoding does not have as escapes."""
        if self.stream is not None:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                self.write(text.encode("ascii", "backslashreplace").decode())
            except OSError:
                self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush, if somebody reads."""
        if self.stream is not None:
            try:
                self.stream.flush()
            except OSError:
                self._give_up()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream is not None and self.stream.isatty()

    def _give_up(self) -> None:
        """Lead the stream nowhere: Python itself writes at the end what is left in its buffer."""
        stream, self.stream = self.stream, None
        with contextlib.suppress(OSError, AttributeError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())  # type: ignore[union-attr]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_parser() -> Parser:
    """Describe the command line."""
    description = "Train neural networks without automatic differentiation, and check backward passes."
    parser = Parser(prog="nnframe", description=description)
    parser.add_argument("--version", action="version", version=f"nnframe {nn.__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="train|check|export|info", parser_class=Parser
    )
    info = commands.add_parser("info", help="print versions, instruction set and threads")
    info.set_defaults(run=run_info)
    check.add_command(commands)
    export.add_command(commands)
    train.add_command(commands)
    return parser


def run_info(options: argparse.Namespace) -> int:
    """Print versions, instruction set and threads."""
    nn.show_config()
    return 0
