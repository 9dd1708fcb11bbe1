"""Layers that are found to be bilinear: sums of terms, each a factor times one input times one entry of a parameter.

Convolutions and dense layers are of this kind, whoever wrote them. Which input and which weight meet in which output
does not change, so that it is read off once, from a few evaluations; gradients are then sums over the terms. Each
gradient is compared with the layer itself, by a central difference along a random direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnframe.core.local import Doubles, Rows, chunks, evaluated, refuse_coarse, row_numbers, steps_of
from nnframe.core.parameter import Array
from nnframe.core.patterns import FEW_COLUMNS, NotThere, seen_through
from nnframe.core.run import Run
from nnframe.core.structure import couples_of
from nnframe.kernels import _kernels

if TYPE_CHECKING:
    from nnframe.core.chain import Link

MOST_TERMS = 1 << 22
SMALLEST = 1e-12  # of the largest: a factor below it is rounding
AGREED = {4: 1e-5, 8: 1e-8}  # of a slope, by the size of an element: how far it may lie from the layer's own


class Bilinear(NamedTuple):
    """y[o] = a constant, and the sum of terms factor x[i] w[k]: which there are, for I inputs of a row.

    x has a 1 behind its last entry, for terms without an input, such as a bias; w are the entries of all parameters of
    the layer, one after another, with a 1 behind them, for terms without a weight.

    pairs, entry, factor : o (I + 1) + i, ascending, k and the factor of each term that has a weight
    starts, output, weight, scale : o, k and the factor of each term with an input, those of input i from starts[i] on
    """

    pairs: Rows
    entry: Rows
    factor: Doubles
    starts: Rows
    output: Rows
    weight: Rows
    scale: Doubles


def bilinear_form(link: Link, run: Run) -> Bilinear | None:
    """Return a layer's terms, looked for once for each shape; None where it is no sum of such."""
    if run.memory is None or seen_through(link) or isinstance(link.x, tuple) or link.x.dtype.kind != "f":
        return None
    columns = max([math.prod(link.x.shape[1:]), *(p.value.size for p in link.parameters)])
    if columns <= FEW_COLUMNS or not link.y.size or couples_of(link, run) != "rows":
        return None
    found = run.memory.findings(link.layer)
    if found.contradicted > 1:
        return None
    key = ("terms", link.x.shape[1:], link.y.shape[1:])
    if key not in found.patterns:
        found.patterns[key] = _searched(link, run)
    return found.patterns[key]  # type: ignore[no-any-return]


def _searched(link: Link, run: Run) -> Bilinear | None:
    try:
        refuse_coarse(link, run)
        with np.errstate(all="ignore"):
            return _Search(link, run).terms()
    except Exception:  # a layer that does not take such values
        return None


class _Search:
    """Reads terms off a layer's answers to unit vectors, at three settings of all of its parameters.

    Where an output meets an input in one term, f w[k] x[i], then all weights at 1 give f, and weights numbered 1/n,
    2/n, ..., 1 give f (k + 1) / n: which one it is. Random weights and inputs, of either sign, show whether that was
    all.
    """

    def __init__(self, link: Link, run: Run) -> None:
        self.link, self.run = link, run
        self.copy, memo = run.copy_of(link.layer, np.float64)
        self.values = [memo[id(p)].value.reshape(-1) for p in link.layer.parameters()]
        self.count = sum(map(len, self.values))
        self.inputs, self.outputs = math.prod(link.x.shape[1:]), math.prod(link.y.shape[1:])
        self.rng = np.random.Generator(np.random.PCG64(20260103))
        self.settings = [
            np.zeros(self.count),
            np.ones(self.count),
            np.arange(1, self.count + 1) / max(self.count, 1),
        ]

    def terms(self) -> Bilinear:
        """Return all terms; NotThere where they do not give what the layer gives."""
        saved = [value.copy() for value in self.values]
        try:
            return self._confirmed(np.concatenate(list(self._parts())))
        finally:
            for value, before in zip(self.values, saved, strict=True):
                value[...] = before

    def _parts(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the terms without an input, then those of some inputs after others."""
        self._see_whether_it_adds()
        alone = [self._answers(np.zeros((1, self.inputs)), setting) for setting in self.settings]
        part = self._read([0 * alone[0], *(one - alone[0] for one in alone[1:])], np.array([self.inputs]))
        total = len(part)
        yield part
        for some in chunks(self.inputs, max(self.inputs, self.outputs)):
            unit = np.zeros((len(some), self.inputs))
            unit[np.arange(len(some)), some] = 1
            answers = [self._answers(unit, s) - base for s, base in zip(self.settings, alone, strict=True)]
            part = self._read(answers, some)
            total += len(part)
            if total > MOST_TERMS:
                raise NotThere
            yield part

    def _see_whether_it_adds(self) -> None:
        """Raise NotThere, after four rows, where a sum of two inputs does not give the sum of what they give."""
        x = self.rng.standard_normal((2, self.inputs))
        y = self._answers(np.concatenate([x, [x[0] + x[1], 0 * x[0]]]), self.rng.standard_normal(self.count))
        if not np.abs(y[0] + y[1] - y[2] - y[3]).max(initial=0) <= 1e-9 * np.abs(y).max(initial=0):
            raise NotThere

    def _answers(self, x: Doubles, setting: Doubles) -> Doubles:
        """Return the outputs (rows, O) for some inputs (rows, I), all parameters set."""
        first = 0
        for value in self.values:
            value[...] = setting[first : first + len(value)]
            first += len(value)
        rows = np.full(len(x), row_numbers(len(self.link.y), self.run)[0])
        shaped = x.reshape(-1, *self.link.x.shape[1:])
        y = evaluated(self.link, shaped, self.run, rows, (len(x), *self.link.y.shape[1:]), self.copy)
        return y.reshape(len(x), -1)

    def _read(self, answers: list[Doubles], sources: Rows) -> npt.NDArray[Any]:
        """Return the terms of some sources, from the answers at the settings; NotThere where there is more to it."""
        constant, ones, numbered = answers[0], *(one - answers[0] for one in answers[1:])
        least = SMALLEST * max(float(np.abs(one).max(initial=0)) for one in answers)
        source, output = np.nonzero(np.abs(ones) > least)
        factor = ones[source, output]
        entry = np.rint(numbered[source, output] / factor * self.count).astype(np.intp) - 1
        if not ((entry >= 0) & (entry < self.count)).all():
            raise NotThere
        fixed_source, fixed_output = np.nonzero(np.abs(constant) > least)
        fixed = constant[fixed_source, fixed_output]
        parts = (
            _terms(output, sources[source], entry, factor),
            _terms(fixed_output, sources[fixed_source], np.full(len(fixed), self.count), fixed),
        )
        return np.concatenate(parts)

    def _confirmed(self, terms: npt.NDArray[Any]) -> Bilinear:
        """Return the form; NotThere where its terms do not give what the layer gives for random inputs and weights."""
        some = self.rng.standard_normal(self.count)
        x = self.rng.standard_normal((4, self.inputs)) * np.array([[1.0], [1.0], [10.0], [100.0]])
        y = self._answers(x, some) - self._answers(np.zeros((1, self.inputs)), self.settings[0])
        w = np.append(some, 1)[terms["entry"]] * terms["factor"]
        wide = np.concatenate([x, np.ones((4, 1))], axis=1)[:, terms["source"]]
        sums = [np.bincount(terms["output"], row * w, self.outputs) for row in wide]
        if not (np.abs(y - sums).max(axis=1) <= 1e-9 * np.abs(y).max(axis=1)).all():
            raise NotThere
        return _ordered(terms, self.inputs, self.count)


_TERM = np.dtype([("output", np.intp), ("source", np.intp), ("entry", np.intp), ("factor", np.float64)])


def _terms(output: Rows, source: Rows, entry: Rows, factor: Doubles) -> npt.NDArray[Any]:
    made = np.empty(len(output), _TERM)
    made["output"], made["source"], made["entry"], made["factor"] = output, source, entry, factor
    return made


def _ordered(terms: npt.NDArray[Any], inputs: int, count: int) -> Bilinear:
    weighted = terms[terms["entry"] < count]
    pairs = weighted["output"] * (inputs + 1) + weighted["source"]
    order = np.argsort(pairs)
    fed = terms[terms["source"] < inputs]
    fed = fed[np.argsort(fed["source"], kind="stable")]
    starts = np.searchsorted(fed["source"], np.arange(inputs + 1)).astype(np.intp)
    names = ("output", "entry", "factor")
    return Bilinear(
        pairs[order],
        weighted["entry"][order],
        weighted["factor"][order],
        starts,
        *(np.ascontiguousarray(fed[name]) for name in names),
    )


# ---- gradients ----


def gradients_by_terms(
    link: Link, form: Bilinear, dy: Array, step: float | None, input_gradient: bool, run: Run
) -> tuple[list[Doubles], Array | None]:
    """Gradients of a layer's trainable parameters, and that of x or None, from its terms.

    Raises NotThere where they are not those of the layer for this mini-batch.
    """
    rows, parameters = len(link.x), link.layer.parameters()
    x, moves = link.x.reshape(rows, -1), np.ascontiguousarray(dy.reshape(rows, -1).T)
    products = np.empty(len(form.pairs), x.dtype)
    _kernels.selected_products(moves, np.concatenate([x, np.ones((rows, 1), x.dtype)], axis=1), form.pairs, products)
    sizes = [p.value.size for p in parameters]
    flat: Doubles = np.asarray(np.bincount(form.entry, products * form.factor, sum(sizes)), np.float64)
    first = dict(zip(map(id, parameters), accumulate(sizes, initial=0), strict=False))
    found: list[Doubles] = [flat[first[id(p)] :][: p.value.size].reshape(p.value.shape) for p in link.parameters]
    dx = None
    if input_gradient:
        w = np.concatenate([*(p.value.reshape(-1) for p in parameters), np.ones(1, x.dtype)])
        value = (w[form.weight] * form.scale).astype(x.dtype)
        dx = np.ascontiguousarray(_kernels.sparse_product(form.starts, form.output, value, moves).T)
    _compare(link, dy, found, dx, step, run)
    return found, None if dx is None else dx.reshape(link.x.shape)


def _compare(link: Link, dy: Array, found: list[Doubles], dx: Array | None, step: float | None, run: Run) -> None:
    """Compare gradients with the slope of sum(dy * forward(x)) along a random direction of x and of all parameters."""
    memory = run.memory.of(link.layer) if run.memory is not None else None
    rng = np.random.Generator(np.random.PCG64((20260104, 0 if memory is None else memory.compared)))
    if memory is not None:
        memory.compared += 1
    copy, memo = run.copy_of(link.layer, np.float64)
    x, way, expected = link.x.astype(np.float64), np.zeros(1), 0.0
    if dx is not None:
        way = rng.choice([-1.0, 1.0], x.shape[1:]) * steps_of(link.x, step)
        expected += float((way * dx.reshape(x.shape)).sum())
    values, ways = [memo[id(p)].value for p in link.parameters], []
    for value, gradient in zip(values, found, strict=True):
        ways.append(rng.choice([-1.0, 1.0], value.shape) * steps_of(value, step))
        expected += float((ways[-1] * gradient).sum())
    saved, ends = [value.copy() for value in values], []
    try:
        for sign in (1, -1):
            for value, before, one in zip(values, saved, ways, strict=True):
                value[...] = before + sign * one
            ends.append(evaluated(link, x + sign * way, run, copy=copy))
    finally:
        for value, before in zip(values, saved, strict=True):
            value[...] = before
    products = (ends[0] - ends[1]) * dy / 2
    rounded = 1e-15 * float(np.abs(ends[0]).max(initial=0)) * float(np.abs(dy).max(initial=0))
    bound = AGREED[dy.dtype.itemsize] * math.sqrt(float(np.square(products).sum())) + rounded * math.sqrt(dy.size)
    if not abs(float(products.sum()) - expected) <= bound:
        raise NotThere
