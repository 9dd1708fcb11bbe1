"""What a check of gradients found: a row for each array, and a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, overload

RIGHT, WRONG, KINK, FLAT, UNCHECKED = range(5)
VERDICTS = ("right", "WRONG", "kink", "too flat to tell", "not checked")


class GradientError(ValueError):
    """A written gradient is wrong; the message is the table of the check."""


class Check(NamedTuple):
    """How one array that was written by hand compares with central differences.

    Attributes
    ----------
    layer, what : str
        Names, such as "layer 0: Linear(4, 3)" and "weight"; "x" stands for the input.
    verdict : {"right", "WRONG", "kink", "too flat to tell", "not checked"}
        Of the whole array: "WRONG" where one entry is; otherwise what most entries are.
    error : float
        Of the worst entry, |written - numerical| over the sum of the absolute values of what it is added up from.
    entry : tuple of int
        Where that is.
    written, numerical, bound : float
        Both numbers there, and how far off the numerical one may be.
    counts : mapping
        How many entries have which verdict.
    checked, size : int
        How many entries were looked at, and how many there are.
    cause : str
        A sentence on what is wrong; "" where nothing is, or it is not known.
    """

    layer: str
    what: str
    verdict: str
    error: float = 0.0
    entry: tuple[int, ...] = ()
    written: float = 0.0
    numerical: float = 0.0
    bound: float = 0.0
    counts: Mapping[str, int] = MappingProxyType({})
    checked: int = 0
    size: int = 0
    cause: str = ""

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict != VERDICTS[WRONG]

    @property
    def missed(self) -> float:
        """Return the chance that a single wrong entry, anywhere in the array, was not looked at."""
        return 1 - self.checked / self.size if self.size else 0.0

    def __str__(self) -> str:
        return "  ".join(part for part in (self.layer, *self.cells()) if part)

    def cells(self) -> tuple[str, ...]:
        """Return the columns of the table."""
        looked = f"{self.checked:,} of {self.size:,}" if self.checked < self.size else f"{self.size:,}"
        numbers = ("", "", "")
        if self.verdict == VERDICTS[WRONG] and self.size:
            where = f"[{', '.join(map(str, self.entry))}]"
            numbers = (where, f"{self.written:.9g}", f"{self.numerical:.9g} +- {self.bound:.1g}")
        return (self.what, looked if self.size else "", self._words(), *numbers)

    def _words(self) -> str:
        counts = {name: count for name, count in self.counts.items() if count}
        if len(counts) < 2:
            return self.verdict
        return ", ".join(f"{count:,} {name}" for name, count in counts.items())


class Report(Sequence[Check]):
    """The rows of a check; false where something is wrong. `print(report)` shows the table and the cause.

    A sequence of `Check`: `len(report)`, `report[0]`, `for check in report`.
    """

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = tuple(checks)

    @overload
    def __getitem__(self, index: int) -> Check: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Check, ...]: ...
    def __getitem__(self, index: int | slice) -> Check | tuple[Check, ...]:
        return self.checks[index]

    def __len__(self) -> int:
        return len(self.checks)

    def __bool__(self) -> bool:
        return not self.wrong

    @property
    def wrong(self) -> list[Check]:
        """The rows in which something is wrong."""
        return [check for check in self.checks if not check.right]

    @property
    def cause(self) -> str:
        """A sentence on what is wrong first of all; "" where nothing is."""
        wrong = self.wrong
        if not wrong:
            return ""
        first = next((check for check in wrong if check.cause), wrong[0])
        return f"{' '.join(first.layer.split())}, {first.what}: {first.cause or plainly(first)}"

    def raise_if_wrong(self) -> None:
        """Raise GradientError, with the table, where something is wrong."""
        if self.wrong:
            raise GradientError(str(self))

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = [("layer", "array", "entries", "verdict", "worst entry", "written", "numerical")]
        before = ""
        for check in self.checks:
            lines.append((" ".join(check.layer.split()) if check.layer != before else "", *check.cells()))
            before = check.layer
        used = [i for i in range(7) if any(line[i] for line in lines[1:])]
        widths = {i: max(len(line[i]) for line in lines) for i in used}
        table = ["  ".join(f"{line[i]:<{widths[i]}}" for i in used).rstrip() for line in lines]
        return "\n".join([*table, "", self._conclusion()])

    def _conclusion(self) -> str:
        if self.wrong:
            return self.cause
        looked = [check for check in self.checks if check.checked]
        if not looked:
            return "Nothing was checked: there is no written gradient."
        missed = max(check.missed for check in looked)
        words = "Nothing is wrong."
        if missed:
            words += (
                f" Not every entry was looked at: a single wrong one would be missed with a chance of {missed:.0%}."
            )
        unknown = sum(check.counts.get(VERDICTS[FLAT], 0) for check in looked)
        if unknown:
            words += f" Of {unknown:,} entries it cannot be told: the function is too flat, or too noisy, there."
        return words

    def __repr__(self) -> str:
        return f"<Report: {len(self.checks)} arrays, {len(self.wrong)} wrong>"


def plainly(check: Check) -> str:
    """Say what is there, and what should be."""
    if not check.size:
        return "it is wrong."
    return f"at {check.entry} it is {check.written:.6g}, and should be {check.numerical:.6g}."
