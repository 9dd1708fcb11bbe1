"""How commands read their arguments and refuse them: in one line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 130  # exit status after Ctrl-C


class Refused(Exception):
    """Something that the user can put right: shown as one line, exit status 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Report a bad argument."""
        raise Refused(f"{message} (see {self.prog} --help)")


def number(convert: Callable[[str], float], accept: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """Return a function that reads a number, and refuses others than expected."""

    def parse(text: str) -> float:
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not accept(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return parse


count = number(int, lambda n: n >= 1, "a whole number of at least 1")
seed = number(int, lambda n: n >= 0, "a whole number of at least 0")
rate = number(float, lambda x: 0 < x < math.inf, "a finite number above 0")


def sizes(text: str) -> list[int]:
    """Read whole numbers with commas between."""
    return [int(count(part)) for part in text.split(",")]
