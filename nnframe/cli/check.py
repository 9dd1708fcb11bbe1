"""The command `nnframe check`: the gradient of a layer, loss or model that somebody wrote, in a file or a module."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import nnframe as nn
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
    module, name = _load(options.target)
    thing = _made(_named(module, name, options.target), options)
    is_loss = isinstance(thing, nn.Loss)
    if options.labels is not None and not is_loss:
        raise Refused(f"--labels: expected a loss, got {_short(thing)}, which has no labels")
    x = _input(thing, options.input)
    labels = _labels(thing, x, options.labels) if is_loss else None
    try:
        report = nn.check_gradients(thing, x, labels)
    except Exception as error:
        hint = "" if options.input else "; its shape was guessed: --input gives another"
        raise Refused(f"{options.target}: with {_shapes(x, is_loss)}: {_told(error)}{hint}") from error
    print(f"{_short(thing)}, {_shapes(x, is_loss)}\n\n{report}")
    return 0 if report else WRONG


# ---- finding ----


def _load(target: str) -> tuple[ModuleType, str]:
    """Import what a target names; returns the module and the name in it, "" for none."""
    where, colon, name = target.rpartition(":")
    if not colon or not all(part.isidentifier() for part in name.split(".")):
        where, name = target.removesuffix(":"), ""
    if not where:
        raise Refused(f"TARGET: expected FILE.py:NAME or MODULE:NAME, got {target!r}")
    is_file = where.endswith(".py") or os.sep in where
    try:
        return (_of_file(Path(where)) if is_file else _of_module(where)), name
    except Refused:
        raise
    except (Exception, SystemExit) as error:
        raise Refused(f"{where}: cannot be imported: {_told(error)}{_line(error, where)}") from error


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Refused(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise Refused(f"{path}: expected a Python file")
    sys.path.insert(0, str(path.resolve().parent))  # as `python FILE.py` does
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        _put_back(path.stem, before)
        raise
    finally:
        sys.path.pop(0)
    return module


def _put_back(name: str, module: ModuleType | None) -> None:
    if module is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = module


def _of_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))  # as `python -m MODULE` does
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def _named(module: ModuleType, name: str, target: str) -> Any:
    """Return what the name stands for; without a name, what can only be meant."""
    found = module
    for part in name.split(".") if name else ():
        if not hasattr(found, part):
            raise Refused(f"{target}: there is no {name!r} in it; {_choice(module, target)}")
        found = getattr(found, part)
    if name:
        return found
    things = [thing for _, thing in _candidates(module) if not inspect.isfunction(thing)]
    if len(things) != 1:
        raise Refused(f"{target}: expected a name; {_choice(module, target)}")
    return things[0]


def _candidates(module: ModuleType) -> list[tuple[str, Any]]:
    """Return layers, losses and functions without required arguments that are defined in a module, by name."""
    found = []
    for name, thing in vars(module).items():
        own = getattr(thing, "__module__", None) == module.__name__
        if name.startswith("_"):
            continue
        is_class = isinstance(thing, type) and issubclass(thing, nn.Layer | nn.Loss) and own
        if is_class or isinstance(thing, nn.Layer | nn.Loss) or (inspect.isfunction(thing) and own and _is_free(thing)):
            found.append((name, thing))
    return found


def _is_free(function: Any) -> bool:
    """Whether a function can be called without arguments."""
    parameters = inspect.signature(function).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _choice(module: ModuleType, target: str) -> str:
    names = [name for name, _ in _candidates(module)]
    if not names:
        return "it holds no layer, no loss, and no function that could return one"
    where = target.rpartition(":")[0] or target
    return f"there are: {', '.join(f'{where}:{name}' for name in names)}"


# ---- making ----


def _made(thing: Any, options: argparse.Namespace) -> Any:
    """Return the layer or loss itself: as it is, or what a class or function returns."""
    if isinstance(thing, nn.Layer | nn.Loss):
        if options.args:
            raise Refused(f"--args: expected none, as {options.target} is made already")
        return thing
    positional, named = _arguments(options.args)
    if not callable(thing):
        raise Refused(f"{options.target}: expected a layer, a loss or a function that returns one, got {_short(thing)}")
    try:
        inspect.signature(thing).bind(*positional, **named)
    except TypeError as error:
        raise Refused(f"{options.target}: cannot be made: {error}; --args '4, 3' gives arguments") from error
    except ValueError:  # it has no signature
        pass
    try:
        made = thing(*positional, **named)
    except Exception as error:
        raise Refused(f"{options.target}: cannot be made: {_told(error)}") from error
    if not isinstance(made, nn.Layer | nn.Loss):
        raise Refused(f"{options.target}: expected it to return a layer or a loss, got {_short(made)} from it")
    return made


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Read arguments as they are written in a call: numbers, texts, tuples; with or without names."""
    expected = "--args: expected arguments as in a call, such as '4, 3, bias=False'"
    try:
        call = ast.parse(f"f({text}\n)", mode="eval").body
        if not isinstance(call, ast.Call) or any(keyword.arg is None for keyword in call.keywords):
            raise Refused(f"{expected}, got {text!r}")
        return (
            [ast.literal_eval(one) for one in call.args],
            {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords},
        )
    except (SyntaxError, ValueError) as error:
        raise Refused(f"{expected}, got {text!r}") from error


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
        f"--input: expected the shape of the input of {_short(thing)}, as nothing in it has in_features; such as "
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


def _short(thing: Any) -> str:
    words = " ".join(repr(thing).split())
    return words if len(words) <= 100 else f"{words[:100]}..."


def _told(error: BaseException) -> str:
    """Return an error with its notes, in one line."""
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
    return " ".join(f"{type(error).__name__}: {error}{notes}".split())


def _line(error: BaseException, where: str) -> str:
    """Say in which line of the file an error arose."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    lines = [line for name, line in frames if Path(name).name == Path(where).name]
    return f" (line {lines[-1]})" if lines else ""
