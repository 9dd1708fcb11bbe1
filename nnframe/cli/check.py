"""The command `nnframe check`: the gradient of a layer, loss or model that somebody wrote, in a file or a module."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

import numpy as np

import nnframe as nn
from nnframe.cli.finding import make, short, told
from nnframe.cli.parsing import Parser, Refused, sizes

WRONG = 1  # exit status where a gradient is wrong
ROWS, COLUMNS = 8, 3  # of an input that is not given

DESCRIPTION = """\
Compare every written gradient of a layer, a loss or a model with central differences, and print a table.

TARGET is a file or a module, a colon, and a name: layers.py:Scale, my.package.models:make_model. The name is that of a
class, of an object, or of a function that returns one. Without a name the only class or object in it is taken.
Exit status: 0 where nothing is wrong, 1 for a wrong gradient, 2 for what cannot be checked."""


def add_command(commands: Any) -> None:
    """Describe the command."""
    parser: Parser = commands.add_parser(
        "check",
        help="check the gradient of a layer, loss or model of yours",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("target", metavar="TARGET", help="FILE.py:NAME or MODULE:NAME")
    parser.add_argument(
        "--input",
        action="append",
        type=sizes,
        metavar="N,...",
        help="shape of the input, rows first, such as 8,5 (of a loss: of the output); given again for a second input "
        "(default: 8 rows, as wide as in_features or the first Linear says)",
    )
    parser.add_argument(
        "--labels", type=_numbers, metavar="T,...", help="of a loss: one for each row, or for each entry"
    )
    parser.add_argument("--args", default="", metavar="ARGS", help="what it is made with, such as '4, 3, bias=False'")


def run(options: argparse.Namespace) -> int:
    """Find, make, check, print."""
    thing = make(options.target, options.args)
    is_loss = isinstance(thing, nn.Loss)
    if options.labels is not None and not is_loss:
        raise Refused(f"--labels: expected a loss, got {short(thing)}, which has no labels")
    x = _input(thing, options.input)
    labels = _labels(thing, x, options.labels) if is_loss else None
    try:
        report = nn.check_gradients(thing, x, labels)
    except Exception as error:
        hint = "" if options.input else "; its shape was guessed: --input gives another"
        raise Refused(f"{options.target}: with {_shapes(x, is_loss)}: {told(error)}{hint}") from error
    print(f"{short(thing)}, {_shapes(x, is_loss)}\n\n{report}")
    return 0 if report else WRONG


# ---- inputs ----


def _input(thing: Any, shapes: list[list[int]] | None) -> Any:
    """Return random numbers of the shapes that were given, or of one that can be guessed; ids where it takes them."""
    found = shapes or [_guessed(thing)]
    rng = np.random.default_rng(20261125)
    if isinstance(thing, nn.Layer) and thing.takes_integers:
        held = [tree.num_embeddings for _, tree in thing.named_trees() if hasattr(tree, "num_embeddings")]
        arrays: list[Any] = [rng.integers(0, min(held, default=2), shape) for shape in found]
    else:
        arrays = [rng.standard_normal(shape) for shape in found]
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def _guessed(thing: Any) -> list[int]:
    if isinstance(thing, nn.Loss):
        return [ROWS, COLUMNS]
    if thing.takes_integers:
        return [ROWS]
    for _, tree in thing.named_trees():
        width = getattr(tree, "in_features", None)
        if isinstance(width, int):
            return [ROWS, width]
    raise Refused(
        f"--input: expected the shape of the input of {short(thing)}, as nothing in it has in_features; such as "
        "--input 8,5 for 8 rows of 5"
    )


def _labels(loss: nn.Loss, y: Any, given: list[float] | None) -> Any:
    """Return labels as they were given, or such as the loss takes: numbers like y, else classes."""
    if given is not None:
        labels = np.array(given)
        labels = labels.astype(np.int64) if (labels == np.floor(labels)).all() and len(given) == len(y) else labels
        if len(given) not in (len(y), y.size):
            raise Refused(f"--labels: expected {len(y)}, one for each row, or {y.size}, got {len(given)}")
        return labels if len(given) == len(y) else labels.reshape(y.shape)
    rng = np.random.default_rng(20261126)
    classes = y.shape[1] if y.ndim > 1 else 2
    for labels in (rng.standard_normal(y.shape), rng.integers(0, classes, len(y)), rng.integers(0, 2, len(y)) * 1.0):
        with contextlib.suppress(Exception):
            if np.isfinite(loss(y, labels)):
                return labels
    raise Refused(f"--labels: expected labels for {loss!r}, which takes neither numbers of y's shape nor classes")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers with commas between, got {text!r}") from None


# ---- words ----


def _shapes(x: Any, is_loss: bool) -> str:
    shapes = [str(one.shape) for one in (x if isinstance(x, tuple) else (x,))]
    return f"{'y' if is_loss else 'x'} of shape {' and '.join(shapes)}"
