"""Rows of a report: an array whose entries were judged, one that is no gradient, a pass that raises."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnframe.gradients.check.differences import Worst
from nnframe.gradients.check.noise import Doubles
from nnframe.gradients.check.report import RIGHT, UNCHECKED, VERDICTS, WRONG, Check
from nnframe.gradients.check.subjects import Overwritten
from nnframe.gradients.check.verdicts import Judged


def summarized(title: str, name: str, written: Doubles, judged: Judged) -> Check:
    """Return the row of an array whose entries have been judged."""
    verdicts = judged.verdicts.reshape(-1)
    every = np.bincount(verdicts, minlength=len(VERDICTS)).tolist()
    counts = {VERDICTS[k]: every[k] for k in range(UNCHECKED) if every[k]}
    if not written.size:
        return Check(title, name, VERDICTS[RIGHT], counts=counts)
    if not counts:
        return Check(title, name, VERDICTS[UNCHECKED], size=written.size)
    with np.errstate(all="ignore"):
        off = np.abs(written - judged.numerical).reshape(-1)
        error = off / np.maximum(judged.size.reshape(-1), 1e-300)
    error[np.isnan(error)] = np.inf
    if every[WRONG] or every[UNCHECKED]:
        error[verdicts != WRONG if every[WRONG] else verdicts == UNCHECKED] = -1.0
    worst = int(error.argmax())
    overall = VERDICTS[WRONG] if every[WRONG] else max(counts, key=lambda words: counts[words])
    entry = tuple(int(i) for i in np.unravel_index(worst, written.shape))
    return Check(
        title, name, overall, float(error[worst]), entry, float(written[entry]), float(judged.numerical[entry]),
        float(judged.bound[entry]), counts, judged.sampled, written.size,
    )  # fmt: skip


def right(title: str, name: str, written: Any, worst: Worst) -> Check:
    """Return the row of an array of which every entry is right."""
    entry = tuple(map(int, np.unravel_index(worst.entry, written.shape)))
    return Check(
        title, name, VERDICTS[RIGHT], worst.error, entry, float(written[entry]), worst.numerical, worst.bound,
        {VERDICTS[RIGHT]: written.size}, written.size, written.size,
    )  # fmt: skip


def wrong(title: str, what: str, cause: str) -> Check:
    """Return the row of something that is wrong as a whole."""
    return Check(title, what, VERDICTS[WRONG], np.inf, cause=cause)


def unlike(title: str, what: str, found: Doubles, right: Doubles, allowed: Any, cause: str) -> Check | None:
    """Return the row of an array that is not what it should be, within what is allowed; None where it is."""
    with np.errstate(invalid="ignore"):
        off = np.abs(found - right)
        if (off <= allowed).all():
            return None
        bad = ~((off <= allowed) | (found == right) | (np.isnan(found) & np.isnan(right)))
    if not bad.any():
        return None
    worst = np.unravel_index(int(np.where(bad, np.nan_to_num(off, nan=np.inf), -1.0).argmax()), off.shape)
    size = float(np.abs(right[np.isfinite(right)]).max(initial=0))
    counts = {VERDICTS[WRONG]: int(bad.sum()), VERDICTS[RIGHT]: int((~bad).sum())}
    return Check(
        title, what, VERDICTS[WRONG], float(off[worst]) / max(size, 1e-300), tuple(map(int, worst)),
        float(found[worst]), float(right[worst]), float(np.broadcast_to(allowed, off.shape)[worst]),
        {words: count for words, count in counts.items() if count}, off.size, off.size, cause,
    )  # fmt: skip


def fits(written: Any, array: Doubles) -> bool:
    """Whether something can be the gradient of an array."""
    return isinstance(written, np.ndarray) and written.dtype.kind in "fiub" and written.shape == array.shape


def misshapen(written: Any, array: Doubles) -> str:
    """Why something cannot be the gradient of an array; "" where it can."""
    if written is None:
        return "it is None; is `return` missing, or its place in the tuple?"
    found = np.asarray(written)
    if found.dtype.kind not in "fiub":
        return f"expected numbers, got {type(written).__name__} of dtype {found.dtype}."
    if found.shape == array.shape:
        return ""
    words = f"expected the shape {array.shape}, got {found.shape}"
    if found.ndim > array.ndim and found.shape[found.ndim - array.ndim :] == array.shape:
        return f"{words}: broadcast not summed over the axes in front, as over the rows for a bias."
    if found.size == array.size:
        return f"{words}: transposed, or given another shape."
    try:
        np.broadcast_shapes(found.shape, array.shape)
    except ValueError:
        return f"{words}."
    return f"{words}: broadcast not summed."


def raised(error: Exception, what: str = "backward") -> str:
    """Say what a pass that raises does wrong."""
    text = str(error)
    if isinstance(error, Overwritten):
        return text
    if "read-only" in text:
        return f"x was overwritten, or y or dy: {what} writes into an array that it was given ({text})."
    if isinstance(error, ValueError) and ("broadcast" in text or "grad: expected shape" in text):
        return f"{what} raises {type(error).__name__}: {text}; broadcast not summed over the rows?"
    return f"{what} raises {type(error).__name__}: {text}"
