"""Layers and losses with one mistake each: the check that is meant to find it does, and says what helps."""

import pickle
import re
import time

import numpy as np
import pytest

import nnframe as nn
from nnframe.testing import check_layer, check_loss, checks


class Scale(nn.Layer):
    """y = x w: right in everything."""

    def __init__(self):
        self.w = nn.Parameter(np.linspace(0.5, 1.5, 4))

    def forward(self, x):
        return x * self.w.value.astype(x.dtype)

    def backward(self, x, y, dy):
        self.w.grad += np.sum(dy * x, axis=0)
        return dy * self.w.value.astype(x.dtype)


class Absolute(nn.Loss):
    """|y - t|: right in everything."""

    def rows(self, y, t):
        return np.abs(y - t).sum(axis=1)

    def backward(self, y, t):
        return np.sign(y - t) * y.dtype.type(self.row_scale(y, t))


def names_of(error):
    """The checks that failed, from the message."""
    first, *paragraphs = str(error.value).split("\n\n")
    names = [found[1] for found in (re.match(r"(\w+): ", paragraph) for paragraph in paragraphs) if found]
    assert first.endswith("checks failed")
    return names


class Writes(Scale):
    def forward(self, x):
        x *= self.w.value.astype(x.dtype)
        return x


class Remembers(Scale):
    def forward(self, x):
        self.first = getattr(self, "first", None) or float(x[0, 0]) or 1.0
        return super().forward(x) + self.first


class ReusesItsOutput(Scale):
    def __init__(self):
        super().__init__()
        self.buffer = np.zeros((64, 4), np.float32)

    def forward(self, x):
        out = self.buffer.astype(x.dtype, copy=False)[: len(x)]
        out[...] = super().forward(x)
        return out


class BackwardWritesDy(Scale):
    def backward(self, x, y, dy):
        self.w.grad += np.sum(dy * x, axis=0)
        dy *= self.w.value.astype(x.dtype)
        return dy


class WrongGradient(Scale):
    def backward(self, x, y, dy):
        self.w.grad += np.mean(dy * x, axis=0)
        return dy * self.w.value.astype(x.dtype)


class WrongDifference(Scale):
    def difference(self, x, y, dx):
        return dx * self.w.value.astype(x.dtype) + x


class DifferenceOfOneOnly(Scale):
    def difference(self, x, y, dx):
        return (dx * self.w.value.astype(x.dtype)).reshape(x.shape)


class WrongPerturb(Scale):
    def perturb(self, parameter, indices, step, x, y):
        change = np.zeros((len(indices), *y.shape), y.dtype)
        change[np.arange(len(indices)), :, indices] = step * x[:, indices].T * 0.5
        return change


class Doubles(Scale):
    def forward(self, x):
        return x * self.w.value.astype(np.float64)

    def backward(self, x, y, dy):
        return super().backward(x, y, dy)


class Rounds(Scale):
    def forward(self, x):
        factor = 1.0 if x.dtype == np.float32 else 1.01
        return super().forward(x) * x.dtype.type(factor)


class Squeezes(Scale):
    def forward(self, x):
        return np.squeeze(super().forward(x))


class FirstRow(Scale):
    def forward(self, x):
        return super().forward(x) - x[0] * 0


class AssumesOrder(Scale):
    def forward(self, x):
        flat = np.ravel(x, order="K").reshape(x.shape)  # as code that takes a pointer does
        return super().forward(flat)

    def backward(self, x, y, dy):
        return super().backward(x, y, dy)


class MixesRows(Scale):
    couples = "rows"

    def forward(self, x):
        return super().forward(x - x.mean(axis=0))


class NoReturn(Scale):
    def backward(self, x, y, dy):
        super().backward(x, y, dy)


class Masked(nn.Linear):
    """Right: what it inherits from Linear beside forward does not count."""

    def __init__(self):
        super().__init__(4, 3, rng=0)
        self.mask = np.arange(12).reshape(3, 4) % 3 > 0

    def forward(self, x):
        return x @ (self.weight.value * self.mask).T.astype(x.dtype) + self.bias.value.astype(x.dtype)


class HidesAnArray(nn.Layer):
    def __init__(self):
        self.w = np.random.default_rng().standard_normal(4)  # not a Parameter: another one in each object

    def forward(self, x):
        return x * self.w.astype(x.dtype)


class SharesItsWeight(Scale):
    def __deepcopy__(self, memo):
        other = Scale.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other


class HoldsALambda(Scale):
    def __init__(self):
        super().__init__()
        self.f = lambda x: x


class Nameless(Scale):
    def __repr__(self):
        return object.__repr__(self)


class Lists(Scale):
    def forward(self, x):
        return super().forward(x).tolist()


@pytest.mark.parametrize(
    ("make", "check", "words"),
    [
        (Writes, "purity", "x after forward .*: expected the numbers that were given"),
        (Remembers, "purity", "forward"),
        (ReusesItsOutput, "purity", "y after another call"),
        (BackwardWritesDy, "purity", "dy after backward"),
        (BackwardWritesDy, "strides", r"read-only\. A pass writes into an array that it was given: compute into a new"),
        (WrongGradient, "gradient", r"5\.0 = N times too small"),
        (WrongDifference, "difference", "difference of one dx in float32"),
        (DifferenceOfOneOnly, "difference", "ValueError: cannot reshape"),
        (WrongPerturb, "perturb", "perturb of w in float32"),
        (Doubles, "dtypes", "expected float32, got float64"),
        (Rounds, "dtypes", "forward in float32 against float64"),
        (Squeezes, "shapes", r"forward of 1 rows .*: expected shape \(1, 4\), got \(4,\)"),
        (Squeezes, "single_row", r"expected shape \(1, 4\), got \(4,\)"),
        (FirstRow, "empty_batch", "IndexError"),
        (AssumesOrder, "strides", "forward of an x in Fortran order"),
        (MixesRows, "rows", "couples"),
        (HidesAnArray, "state_dict", "after load_state_dict"),
        (SharesItsWeight, "copy", "w after copy.deepcopy: expected an array of its own"),
        (HoldsALambda, "pickle", "keep no lambda"),
        (Nameless, "repr", "no address"),
        (Lists, "shapes", "got list"),
        (NoReturn, "dtypes", r"backward: expected the gradient of x, 1 in all, got NoneType\. Is `return` missing"),
        (WrongGradient, "training", "gradient of .* by CentralDifference"),
    ],
)
def test_each_mistake_in_a_layer_is_found(make, check, words):
    with pytest.raises(AssertionError) as error:
        check_layer(make, (4,))
    assert check in names_of(error)
    assert str(error.value).startswith(" ".join(repr(make()).split())[:40]) or make is Nameless
    part = next(part for part in str(error.value).split("\n\n") if part.startswith(f"{check}: "))
    rest = str(error.value)[str(error.value).index(part) :]
    assert re.search(words, rest, re.DOTALL), rest


def test_hidden_state_shared_by_threads_is_found():
    class Keeps(Scale):
        def forward(self, x):
            self.x = x
            time.sleep(1e-3)  # gives the other thread its turn
            return super().forward(self.x)

    with pytest.raises(AssertionError) as error:
        check_layer(Keeps, (4,), skip=["pickle"])
    assert {"threads", "purity"} & set(names_of(error))


def test_layers_that_are_right_pass():
    check_layer(Scale, (4,))
    check_layer(Masked, (4,))
    check_layer(lambda: nn.Sequential(nn.Linear(3, 4, rng=0), Scale()), (3,), rng=7)
    check_layer(lambda: nn.Embedding(3, 2, rng=0), (2,), inputs=lambda rows, rng: rng.integers(0, 3, (rows, 2)))


class Half(Absolute):
    def backward(self, y, t):
        return super().backward(y, t) / 2


class Shifts(Absolute):
    def rows(self, y, t):
        y -= t
        return np.abs(y).sum(axis=1)


class MixedRows(Absolute):
    def rows(self, y, t):
        return np.abs(y - t).sum(axis=1) - y.mean()


class WrongRowDifferences(Absolute):
    def row_differences(self, y, t, dy):
        return np.abs(dy).sum(axis=2)


class DoubleGradient(Absolute):
    def backward(self, y, t):
        return super().backward(y, t).astype(np.float64)


class Counts(Absolute):
    calls = 0

    def backward(self, y, t):
        self.calls += 1
        return super().backward(y, t) * (1 + self.calls)


class OtherPass(Absolute):
    def forward_backward(self, y, t):
        return self.forward(y, t), np.zeros_like(y)


class Text(Absolute):
    def forward(self, y, t):
        return "small"


@pytest.mark.parametrize(
    ("make", "check", "words"),
    [
        (Half, "gradient", "2 times too small"),
        (Half, "training", "by CentralDifference"),
        (Shifts, "value", "read-only"),
        (MixedRows, "rows", "rows of parts of the mini-batch"),
        (WrongRowDifferences, "difference", "difference"),
        (DoubleGradient, "dtypes", "expected float32, got float64"),
        (Counts, "purity", "gradient of the same y after another call"),
        (OtherPass, "forward_backward", "gradient of forward_backward"),
        (Text, "value", "expected a single number"),
    ],
)
def test_each_mistake_in_a_loss_is_found(make, check, words):
    with pytest.raises(AssertionError) as error:
        check_loss(make, (3,))
    assert check in names_of(error)
    part = next(part for part in str(error.value).split("\n\n") if part.startswith(f"{check}: "))
    assert re.search(words, str(error.value)[str(error.value).index(part) :], re.DOTALL)


def test_losses_that_are_right_pass():
    check_loss(Absolute, (3,))
    check_loss(nn.CrossEntropyLoss, (3,), labels=lambda rows, rng: rng.integers(0, 3, rows))


def test_checks_can_be_left_out_and_run_one_by_one():
    check_layer(WrongGradient, (4,), skip={"gradient": "an average on purpose", "training": "", "empty_batch": ""})
    found = dict(checks(WrongGradient, (4,), skip=["strides"]))
    assert "strides" not in found
    found["shapes"]()
    with pytest.raises(AssertionError, match=r"WrongGradient\(\): gradient: nn\.check_gradients"):
        found["gradient"]()
    assert "labels" not in dict(checks(Absolute, (3,)))
    assert "rows" in dict(checks(Absolute, (3,)))


def test_all_failures_are_told_at_once():
    with pytest.raises(AssertionError) as error:
        check_layer(Writes, (4,))
    assert len(names_of(error)) > 1
    assert re.match(rf"Writes\(\): {len(names_of(error))} of \d+ checks failed\n\n", str(error.value))


def test_a_run_repeats_itself():
    messages = []
    for _ in range(2):
        with pytest.raises(AssertionError) as error:
            check_layer(WrongDifference, (4,), rng=5)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: check_layer(Scale(), (4,)), TypeError, r"make: expected a callable .*, got the object Scale\(\)"),
        (lambda: check_layer(nn.MSELoss, (4,)), TypeError, "expected a callable that returns a Layer, got MSELoss"),
        (lambda: check_loss(Scale, (4,)), TypeError, "expected a callable that returns a Loss, got Scale"),
        (lambda: check_layer(3, (4,)), TypeError, "make: expected a callable without arguments, got 3"),
        (lambda: check_layer(Scale, 4), TypeError, r"shape: expected a tuple such as \(4,\)"),
        (lambda: check_layer(Scale, (4.0,)), TypeError, "shape: expected a tuple"),
        (lambda: check_layer(Scale, (4,), skip="stride"), ValueError, "skip: expected names among shapes, .*'stride'"),
        (lambda: check_layer(Scale, (4,), rng=0.5), TypeError, r"rng: expected an int, a seed, got 0\.5"),
        (lambda: check_loss(Absolute, (3,), labels=[1]), ValueError, "labels: expected those of at least 2 rows"),
        (lambda: checks(Scale, (4,), labels=[1, 2]), TypeError, "labels: expected none with a layer"),
    ],
)
def test_arguments_that_do_not_fit(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_the_case_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = Scale()
    before = pickle.dumps(layer.state_dict())
    check_layer(lambda: layer, (4,), skip=["state_dict", "save_load"])  # the same object again and again
    assert not list(tmp_path.iterdir())
    assert pickle.dumps(layer.state_dict()) == before
