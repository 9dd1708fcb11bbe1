"""Layers, losses and models of the user, as the command line names them: FILE.py:NAME or MODULE:NAME."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nnframe as nn
from nnframe.cli.parsing import Refused


def make(target: str, args: str) -> Any:
    """Return the layer or loss that a target names, made with the arguments in a text such as '4, 3, bias=False'."""
    module, name = _load(target)
    return _made(_named(module, name, target), target, args)


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
        raise Refused(f"{where}: cannot be imported: {told(error)}{_line(error, where)}") from error


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


def _made(thing: Any, target: str, args: str) -> Any:
    """Return the layer or loss itself: as it is, or what a class or function returns."""
    if isinstance(thing, nn.Layer | nn.Loss):
        if args:
            raise Refused(f"--args: expected none, as {target} is made already")
        return thing
    positional, named = _arguments(args)
    if not callable(thing):
        raise Refused(f"{target}: expected a layer, a loss or a function that returns one, got {short(thing)}")
    try:
        inspect.signature(thing).bind(*positional, **named)
    except TypeError as error:
        raise Refused(f"{target}: cannot be made: {error}; --args '4, 3' gives arguments") from error
    except ValueError:  # it has no signature
        pass
    try:
        made = thing(*positional, **named)
    except Exception as error:
        raise Refused(f"{target}: cannot be made: {told(error)}") from error
    if not isinstance(made, nn.Layer | nn.Loss):
        raise Refused(f"{target}: expected it to return a layer or a loss, got {short(made)} from it")
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


# ---- words ----


def short(thing: Any) -> str:
    """Return a thing in at most a line."""
    words = " ".join(repr(thing).split())
    return words if len(words) <= 100 else f"{words[:100]}..."


def told(error: BaseException) -> str:
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
