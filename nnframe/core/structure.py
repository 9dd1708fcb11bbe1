"""What nnframe finds out about a layer that it does not know.

An author writes `forward`. The first time that a strategy meets the layer, it is evaluated some twenty times on private
copies, in ways that show whether it is a pure function, which rows and entries it couples, and whether it computes in
float64. What was found is looked at again now and then.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnframe.core.inquiry import Inquiry
from nnframe.core.protocol import LayerError, named, traits

if TYPE_CHECKING:
    from nnframe.core.chain import Link
    from nnframe.core.layer import Layer
    from nnframe.core.parameter import Parameter
    from nnframe.core.run import Run

COUPLES = ("entries", "rows", "batch")  # each allows more than the one before it
ROUNDED = 1e-12  # of the largest output: moves below it contradict nobody
LONGEST_PAUSE = 256  # runs between two looks at a layer, at most; the pauses double until then
LONGEST_PAUSE_OF_MODELS = 2048  # and at a model as a whole


class Findings:
    """What was found about one layer.

    Attributes
    ----------
    couples : {"entries", "rows", "batch"}
        Entry i of y depends on entry i of x alone; row n on row n alone; or anything on anything.
    coarse : str
        Why differences of its float64 values cannot be trusted; empty where they can.
    patterns : dict
        Which inputs move which outputs, by what was moved and the shape of the input.
    contradicted : int
        How often a pattern has not held.
    compared : int
        How often gradients by terms have been compared with the layer.
    rows : int
        How many rows were looked at.
    """

    __slots__ = ("coarse", "compared", "contradicted", "couples", "layer", "patterns", "pauses", "rows")

    def __init__(self, layer: Layer) -> None:
        self.layer = weakref.ref(layer)
        self.couples = "batch"
        self.coarse = ""
        self.patterns: dict[Any, Any] = {}
        self.contradicted = 0
        self.compared = 0
        self.rows = 0
        self.pauses = Pauses(LONGEST_PAUSE)
        self.pauses.due()


class Pauses:
    """Counts runs, and says when it is time to look: at the first, and then after pauses that double."""

    __slots__ = ("count", "longest", "next_look")

    def __init__(self, longest: int) -> None:
        self.count, self.next_look, self.longest = 0, 1, longest

    def due(self) -> bool:
        """Count a run; whether it is time to look."""
        self.count += 1
        if self.count < self.next_look:
            return False
        self.next_look += min(self.count, self.longest)
        return True


class Memory:
    """What has been found about the layers that a strategy has met; forgets those that are gone."""

    def __init__(self) -> None:
        self.known: dict[int, Findings] = {}
        self.models: dict[int, tuple[Any, Pauses]] = {}  # when each model is looked at as a whole
        self.said: dict[tuple[str, int], Any] = {}  # which messages have been given about which layer or parameter

    def forget(self) -> None:
        """Forget what was found, so that it is looked for anew."""
        self.known.clear()

    def look_due(self, model: Layer) -> int:
        """Count a run of a model; how many there have been where it is time to look at it as a whole, else 0."""
        known = self.models.get(id(model))
        if known is None or known[0]() is not model:
            known = self.models[id(model)] = weakref.ref(model), Pauses(LONGEST_PAUSE_OF_MODELS)
        pauses = known[1]
        return pauses.count if pauses.due() else 0

    def first_time(self, what: str, layer: Any) -> bool:
        """Whether something is said of a layer for the first time."""
        key = (what, id(layer))
        known = self.said.get(key)
        if known is not None and known() is layer:
            return False
        self.said[key] = weakref.ref(layer)
        return True

    def meet(self, link: Link, run: Run) -> Findings:
        """Ask a layer, at the first meeting and now and then; LayerError where it is no pure function."""
        found = self.of(link.layer)
        if found is None:
            found = ask(link, run)
            self.known[id(link.layer)] = found
        elif found.pauses.due() or len(link.y) > found.rows:
            look_again(link, found, run)
        return found

    def of(self, layer: Any) -> Findings | None:
        """Return what is known about a layer."""
        found = self.known.get(id(layer))
        return found if found is not None and found.layer() is layer else None

    def findings(self, layer: Layer) -> Findings:
        """Return what is known about a layer, or room for what will be."""
        found = self.of(layer)
        if found is None:
            found = self.known[id(layer)] = Findings(layer)
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Memory:
        return Memory()

    def __reduce__(self) -> Any:
        return Memory, ()


def couples_of(link: Link, run: Run) -> str:
    """Which rows and entries a layer couples: what nnframe's own say, what was found for any other."""
    t = traits(link.layer)
    if (t.branches or link.chain) and link.inner:
        inner = [COUPLES.index(couples_of(one, run)) for branch in link.inner for one in branch.links]
        least = 1 if t.branches and link.layer.join == "concatenate" else 0
        return COUPLES[max([least, *inner])]
    if not t.own and t.couples and link.layer.couples is not None:
        return str(link.layer.couples)
    found = run.memory.of(link.layer) if run.memory is not None else None
    if found is None:
        if isinstance(link.x, tuple):
            return "batch"
        found = ask(link, run)
        if run.memory is not None:
            run.memory.known[id(link.layer)] = found
    return found.couples


def refuse_changed(layer: Layer, values: list[tuple[Parameter, npt.NDArray[Any]]], run: Run) -> None:
    """Raise LayerError where parameters no longer have the values that they had before forward ran."""
    if all(np.array_equal(parameter.value, value, equal_nan=True) for parameter, value in values):
        return
    raise LayerError(
        f"{named(layer, run.root)}: forward changes a parameter's value. A layer is a pure function of x, its "
        "parameters and buffers: compute into a new array"
    )


# ---- asking ----


def ask(link: Link, run: Run) -> Findings:
    """Find out what a layer is, from its input and output in this run."""
    found = Findings(link.layer)
    found.rows = len(link.y)
    if isinstance(link.x, tuple) or not link.y.size:
        return found
    inquiry = Inquiry(link, run)
    inquiry.pure()
    found.coarse = inquiry.coarse()
    if not traits(link.layer).branches:
        found.couples = inquiry.couples()
        _compare_with_claim(link, found, inquiry)
    return found


def look_again(link: Link, found: Findings, run: Run) -> None:
    """See at a small cost whether what was found still holds; where it does not, it is found out anew."""
    if isinstance(link.x, tuple) or not link.y.size:
        return
    inquiry = Inquiry(link, run, found.pauses.count)
    inquiry.repeats()
    more, found.rows = len(link.y) > found.rows, max(len(link.y), found.rows)
    if found.couples == "batch":
        return
    if (
        more
        or not inquiry.keeps(inquiry.half_of_rows())
        or (found.couples == "entries" and not inquiry.keeps(inquiry.half_of_entries()))
    ):
        before, found.couples = found.couples, inquiry.couples()
        if found.couples != before:
            found.patterns.clear()
        _compare_with_claim(link, found, inquiry)


def _compare_with_claim(link: Link, found: Findings, inquiry: Inquiry) -> None:
    layer = link.layer
    claim = layer.couples if traits(layer).couples else None
    if claim is None:
        return
    if claim not in COUPLES:
        raise LayerError(f"{inquiry.name}: couples: expected one of {', '.join(COUPLES)}, got {claim!r}")
    allowed = COUPLES.index(claim)
    if COUPLES.index(found.couples) > allowed and COUPLES.index(inquiry.couples(ROUNDED)) > allowed:
        meaning = {
            "entries": "entry i of the output depends on entry i of the input alone",
            "rows": "row n of the output depends on row n of the input alone",
        }[claim]
        raise LayerError(
            f"{inquiry.name}: couples = {claim!r} says that {meaning}, but moving others changed it; say "
            f"couples = {found.couples!r}, or nothing: then it is found out"
        )
    found.couples = claim
