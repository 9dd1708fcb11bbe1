"""Tables of what checkers of gradients find: mistakes, false alarms, and the time of a check. Printed by speed.py."""

from __future__ import annotations

import collections
import functools
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from checkers import Answer, as_arrays, ask_gradcheck, ask_nnframe, ask_scipy
from mistakes import MISTAKES, Mistake, Planted
from peers import Peer, ratio
from planting import FUNCTIONS, LAYERS, LOSSES, Subject
from right_layers import random_layer
from side_by_side import Way, measure, seconds, table

import nnframe as nn

RIGHT = 10_000  # random right layers for nnframe
SOME = 300  # of them, for the others

Ask = Callable[[Subject, Any], Answer]


def checkers() -> dict[str, Ask]:
    """Return the checkers that are installed."""
    found: dict[str, Ask] = {"nnframe": ask_nnframe}
    if importlib.util.find_spec("torch"):
        found["gradcheck, slow"] = ask_gradcheck
        found["gradcheck, fast"] = functools.partial(ask_gradcheck, fast=True)
    if importlib.util.find_spec("scipy"):
        found["check_grad"] = ask_scipy
    return found


def answer(ask: Ask, place: Planted) -> Answer:
    """Ask about one planted mistake; an error that a checker raises has found it."""
    try:
        return ask(place.subject, place.make())
    except Exception as error:
        return Answer(True, (), str(error), str(error))


def judge(kind: Mistake, place: Planted, found: Answer) -> dict[str, bool]:
    """Return whether the mistake was found, the entry named is wrong, and the cause is named."""
    return {
        "found": found.wrong,
        "entry": found.wrong and found.entry_right(place.wrong),
        "cause": found.wrong and any(words in found.cause for words in kind.words),
    }


def mistakes(full: bool) -> str:
    """For each kind of mistake: in how many places it is planted, found, its entry and its cause named."""
    asked = checkers()
    rows, totals = [], collections.Counter()
    for kind in MISTAKES:
        counts: dict[str, int] = collections.Counter()
        places = kind.planted()
        for place in places:
            for name, ask in asked.items():
                for what, yes in judge(kind, place, answer(ask, place)).items():
                    counts[f"{name} {what}"] += yes
        totals.update(counts)
        totals["places"] += len(places)
        rows.append([kind.name, str(len(places)), *_cells(counts, asked)])
    rows.append([f"{len(MISTAKES)} kinds", str(totals["places"]), *_cells(totals, asked)])
    header = ["mistake", "planted", "found", "entry right", "cause named", *list(asked)[1:]]
    title = (
        "Mistakes planted in layers, losses and functions: how often each is found; by nnframe also how often every "
        "entry it names is one of those that are wrong, and how often its cause contains the words for it. gradcheck "
        "as by default; check_grad of a random projection, above 1e-6. They do not look at `difference`, `perturb`, "
        "`backward_parameters`, `couples` and `.grad`"
    )
    return f"{title}\n\n" + table(header, rows)


def _cells(counts: dict[str, int], asked: dict[str, Ask]) -> list[str]:
    own = [str(counts[f"nnframe {what}"]) for what in ("found", "entry", "cause")]
    return own + [str(counts[f"{name} found"]) for name in list(asked)[1:]]


def subject_of(seed: int) -> Subject:
    """Return the random right layer of a seed."""
    layer, x = random_layer(seed)
    return Subject(repr(layer), lambda: layer.astype(np.float64), x, lambda *arrays: np.zeros(()))


def right(full: bool) -> str:
    """Random right layers: false alarms of each checker, and what nnframe says of their entries."""
    asked = checkers()
    alarms: dict[str, int] = collections.Counter()
    refused, verdicts = 0, collections.Counter()
    for seed in range(RIGHT):
        layer, x = random_layer(seed)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                report = nn.check_gradients(layer, x.copy())
            except nn.LayerError:
                refused += 1
                continue
        alarms["nnframe"] += not report
        for row in report:
            verdicts.update(row.counts)
    for name, ask in list(asked.items())[1:]:
        for seed in range(SOME):
            subject = subject_of(seed)
            with np.errstate(all="ignore"):
                alarms[name] += ask(subject, subject.make()).wrong
    subjects = [*LAYERS, *FUNCTIONS.values(), *LOSSES.values()]
    planted_in = {name: sum(ask(s, s.make()).wrong for s in subjects) for name, ask in asked.items()}
    rows = [
        [
            name,
            f"{RIGHT if name == 'nnframe' else SOME:,}",
            str(alarms[name]),
            str(refused) if name == "nnframe" else "-",
            str(len(subjects)),
            str(planted_in[name]),
        ]
        for name in asked
    ]
    words = ", ".join(f"{count:,} {verdict}" for verdict, count in verdicts.items() if count)
    header = ["checker", "random layers", "called wrong", "refused", "without the mistakes", "called wrong"]
    title = f"Random right layers (kinks, ties, scales, offsets, zero gradients, float32); entries by nnframe: {words}"
    return f"{title}\n\n" + table(header, rows)


SIZES, ROWS = (64, 16, 10), 16


def checking(full: bool) -> str:
    """Time of a check of every entry of a network, parameters and input."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Linear(SIZES[0], SIZES[1], rng=0), nn.Sigmoid(), nn.Linear(SIZES[1], SIZES[2], rng=1)
    ).astype(np.float64)
    x = rng.standard_normal((ROWS, SIZES[0]))
    subject = Subject("network", lambda: model, x, lambda *arrays: np.zeros(()))
    ways: dict[str, Way] = {"nnframe, each layer and the whole": lambda: nn.check_gradients(model, x)}
    if importlib.util.find_spec("torch"):
        ways["torch.autograd.gradcheck, slow"] = Peer(_gradcheck_of_torch(subject))
    times = measure(ways, 7 if full else 3)
    first = times["nnframe, each layer and the whole"]
    count = sum(p.value.size for p in model.parameters())
    title = f"{'-'.join(map(str, SIZES))} sigmoid, batch {ROWS}: {count:,} parameters and the input; float64"
    rows = [[name, seconds(time), "1" if time is first else ratio(time, first, 1)] for name, time in times.items()]
    return f"{title}; {nn.get_num_threads()} threads\n\n" + table(["checker", "time", "times nnframe"], rows)


def _gradcheck_of_torch(subject: Subject) -> Callable[[], object]:
    """Let gradcheck look at the same network as PyTorch itself computes it, which is faster than through NumPy."""
    import torch

    arrays = as_arrays(subject, subject.make())
    inputs = [torch.from_numpy(value.copy()).requires_grad_() for value in arrays.values]

    def network(x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        return torch.nn.functional.linear(torch.sigmoid(torch.nn.functional.linear(x, w1, b1)), w2, b2)

    return lambda: torch.autograd.gradcheck(network, inputs)
