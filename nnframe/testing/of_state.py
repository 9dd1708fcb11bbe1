"""The checks of a layer as an object: its state, its copies, threads, training. Each is given a `LayerCase`."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nnframe.core.layer import Layer
from nnframe.io import load, save
from nnframe.losses import MSELoss
from nnframe.testing.cases import (
    MODES,
    PURE,
    ROWS,
    LayerCase,
    fail,
    forward,
    in_dtype,
    mode,
    rounding,
    same,
    state_unchanged,
)
from nnframe.testing.together import at_once, check_repr, in_step, train

NAMES = "Parameters and buffers are found in attributes, lists, tuples and dicts; `children` is to list them all"


def check_state_dict(case: LayerCase) -> None:
    """Check that `state_dict` copies everything; loaded into another layer it makes that the same function."""
    layer = case.made()
    x = case.x(layer)
    before = [forward(layer, x, training) for training in MODES]
    state = layer.state_dict()
    if not set(dict(layer.named_parameters())) <= set(state):
        fail("names in state_dict", f"{sorted(dict(layer.named_parameters()))}", f"{sorted(state)}", NAMES)
    other = _moved(case)
    other.load_state_dict(state)
    for training, expected in zip(MODES, before, strict=True):
        y = forward(other, x, training)
        same(f"forward {mode(training)} of another one after load_state_dict", y, expected, rounding(expected), NAMES)
    for value in state.values():
        value[...] = 7
    y = forward(layer, x)
    same("forward after what state_dict returned was written to", y, before[1], rounding(before[1]), NAMES)


def check_save_load(case: LayerCase) -> None:
    """Check that a file written by `nn.save` and read by `nn.load` gives the same function."""
    layer = case.made()
    if not layer.state_dict():
        return
    other = _moved(case)
    with tempfile.TemporaryDirectory() as folder:
        save(layer, Path(folder) / "layer.safetensors")
        load(other, Path(folder) / "layer.safetensors")
    _same_function(layer, other, case, "nn.load", NAMES)


def check_pickle(case: LayerCase) -> None:
    """Check that a layer can be pickled: worker processes get it so."""
    layer = case.made()
    cure = "Define its class at the top level of a module, and keep no lambda, lock or open file in self"
    try:
        other = pickle.loads(pickle.dumps(layer))
    except Exception as error:
        fail("pickle.dumps and loads", "a copy", f"{type(error).__name__}: {error}", cure)
    _same_function(layer, other, case, "pickle", cure)


def check_copy(case: LayerCase) -> None:
    """Check that a deep copy is the same function, and shares no array with the original."""
    layer = case.made()
    cure = "Leave __copy__, __deepcopy__ and __getstate__ as they are, or copy every attribute in them"
    _same_function(layer, copy.copy(layer), case, "copy.copy", cure)
    other = copy.deepcopy(layer)
    _same_function(layer, other, case, "copy.deepcopy", cure)
    _independent(layer, other, "copy.deepcopy", cure)


def check_astype(case: LayerCase) -> None:
    """Check that `astype` returns a copy with every array converted, and leaves the layer as it is."""
    layer = case.made()
    state = layer.state_dict()
    cure = "Keep arrays that are learnt in nn.Parameter, statistics in nn.Buffer; `children` is to list them all"
    for dtype in (np.float64, np.float32):
        other = layer.astype(dtype)
        if type(other) is not type(layer):
            fail(f"astype({np.dtype(dtype)})", type(layer).__name__, type(other).__name__, cure)
        _independent(layer, other, "astype", cure)
        before = dict(layer.named_parameters())
        for name, parameter in other.named_parameters():
            if parameter.value.dtype != dtype:
                fail(f"{name} after astype", f"{np.dtype(dtype)}", f"{parameter.value.dtype}", cure)
            if parameter.trainable != before[name].trainable:
                fail(f"trainable of {name} after astype", f"{before[name].trainable}", f"{parameter.trainable}", cure)
        for name, value in other.state_dict().items():
            wanted = state[name].astype(dtype) if state[name].dtype.kind == "f" else state[name]
            same(f"{name} after astype", value, wanted, 0.0, cure)
    state_unchanged(layer, state, "astype")


def check_repr_of(case: LayerCase) -> None:
    """Check that `repr` names the class, on demand and without an address in memory."""
    check_repr(case.made(), case.made())


def check_threads(case: LayerCase) -> None:
    """Check that two threads that run the layer at once get what one gets."""
    layer = case.made()
    inputs = [case.x(layer), case.x(layer, ROWS + 1)]
    expected = [forward(layer, x) for x in inputs]

    def work(which: int) -> None:
        y = forward(layer, inputs[which])
        same(f"forward in thread {which}", y, expected[which], rounding(expected[which]), PURE)

    at_once(work)


def check_training(case: LayerCase) -> None:
    """Check that each strategy takes a step, and that those which find the gradient find the same one."""
    layer = case.made().astype(np.float64)
    x = in_dtype(case.x(layer), np.float64)
    model = in_step(layer, x)
    y = model(x, training=True)
    train(model, MSELoss(), x, case.rng().standard_normal(y.shape), "A written backward that is not the derivative")


CHECKS: dict[str, Callable[[LayerCase], None]] = {
    "state_dict": check_state_dict,
    "save_load": check_save_load,
    "pickle": check_pickle,
    "copy": check_copy,
    "astype": check_astype,
    "repr": check_repr_of,
    "threads": check_threads,
    "training": check_training,
}


# ---- parts ----


def _moved(case: LayerCase) -> Any:
    """Return another layer, with other numbers in it."""
    other = case.made()
    for parameter in other.parameters():
        parameter.value += 1
    return other


def _same_function(layer: Any, other: Any, case: LayerCase, what: str, cure: str) -> None:
    x = case.x(layer)
    for training in MODES:
        y = forward(layer, x, training)
        same(f"forward {mode(training)} after {what}", forward(other, x, training), y, rounding(y), cure)


def _independent(layer: Layer, other: Layer, what: str, cure: str) -> None:
    mine = dict(layer.named_parameters()) | dict(layer.named_buffers())
    for name, held in (dict(other.named_parameters()) | dict(other.named_buffers())).items():
        if name in mine and np.shares_memory(mine[name].value, held.value):
            fail(f"{name} after {what}", "an array of its own", "the array of the original", cure)
