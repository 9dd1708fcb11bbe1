"""check_gradients: verdicts, causes, and what a report says."""

import re

import numpy as np
import pytest

import nnframe as nn
from nnframe.gradients.check import subjects
from nnframe.gradients.check.differences import STACK_NUMBERS, Differences


class Written(nn.Layer):
    """A dense layer with tanh, whose backward may have one mistake."""

    def __init__(self, mistake="", inputs=4, outputs=3):
        rng = np.random.default_rng(3)
        self.mistake = mistake
        self.w = nn.Parameter(rng.standard_normal((inputs, outputs)))
        self.b = nn.Parameter(rng.standard_normal(outputs))

    def forward(self, x):
        return np.tanh(x @ self.w.value + self.b.value)

    def backward(self, x, y, dy):
        d = dy * (1 - y * y)
        match self.mistake:
            case "sign":
                d = -d
            case "1/N":
                d = d / len(x)
            case "N":
                d = d * len(x)
            case "dy":
                d = 1 - y * y
            case "last row":
                self.w.grad += x.T @ d
                self.b.grad += d[-1]
                return d @ self.w.value.T
            case "bias not summed":
                self.w.grad += x.T @ d
                self.b.grad = self.b.grad + d
                return d @ self.w.value.T
            case "transposed":
                self.w.grad += (x.T @ d).T
                self.b.grad += d.sum(axis=0)
                return d @ self.w.value.T
            case "w":
                self.w.grad += x.T @ d
                self.b.grad += d.sum(axis=0)
                return d @ self.w.value
            case "=":
                self.w.grad[...] = x.T @ d
                self.b.grad += d.sum(axis=0)
                return d @ self.w.value.T
            case "overwrites":
                dy *= 1 - y * y
            case "zero":
                return d @ self.w.value.T
            case "one":
                dx = d @ self.w.value.T
                dx[2, 1] *= 1.001
                self.w.grad += x.T @ d
                self.b.grad += d.sum(axis=0)
                return dx
        self.w.grad += x.T @ d
        self.b.grad += d.sum(axis=0)
        return d @ self.w.value.T


@pytest.mark.parametrize(
    ("mistake", "what", "words"),
    [
        ("sign", "x", "every entry has the wrong sign"),
        ("1/N", "w", "6.0 = N times too small"),
        ("N", "w", r"6.0 = N times too large: 1/N missing"),
        ("dy", "x", "dy is not used"),
        ("last row", "b", "the last row alone: not summed over rows"),
        ("bias not summed", "", "broadcast not summed"),
        ("transposed", "w", "it is transposed"),
        ("w", "x", "w is to be transposed"),
        ("=", "accumulation of w", r"= instead of \+="),
        ("overwrites", "backward", "x was overwritten, or y or dy"),
        ("zero", "w", "it is zero"),
        ("one", "x", r"only in one entry, \[2, 1\], it is wrong, by the factor 1.001"),
    ],
)
def test_a_mistake_is_found_and_named(rng, mistake, what, words):
    square = mistake in ("transposed", "w")
    layer = Written(mistake, 4, 4) if square else Written(mistake)
    report = nn.check_gradients(layer, rng.standard_normal((6, 4)))
    assert not report
    assert not layer.verified
    rows = [check for check in report.wrong if check.what == what or not what]
    assert rows, str(report)
    assert any(re.search(words, check.cause) for check in rows), str(report)
    with pytest.raises(nn.GradientError, match="WRONG"):
        report.raise_if_wrong()


def test_what_is_right_is_right(rng):
    layer = Written()
    report = nn.check_gradients(layer, rng.standard_normal((6, 4)))
    assert report
    assert layer.verified
    assert [(check.what, check.counts) for check in report] == [
        ("x", {"right": 24}), ("w", {"right": 12}), ("b", {"right": 3})
    ]  # fmt: skip
    report.raise_if_wrong()
    assert str(report).endswith("Nothing is wrong.")


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 2.0])
def test_at_a_kink_any_slope_between_the_sides_is_right(rng, slope):
    x = rng.standard_normal((5, 4))
    x[1, 2] = x[3, 0] = 0

    class Rectified(nn.Layer):
        def forward(self, x):
            return np.maximum(x, 0)

        def backward(self, x, y, dy):
            return np.where(x == 0, slope, x > 0) * dy

    (check,) = nn.check_gradients(Rectified(), x)
    kinks = [tuple(map(int, at)) for at in ((1, 2), (3, 0))]
    if slope <= 1:
        assert check.right
        assert check.counts["right"] + check.counts.get("kink", 0) == 20
    else:
        assert check.verdict == "WRONG"
        assert check.entry in kinks


def test_small_columns_beside_large_ones_are_checked_by_themselves(rng):
    scales = np.array([1e7, 1.0, 1e-3])

    class Scaled(nn.Layer):
        def forward(self, x):
            return x * scales

        def backward(self, x, y, dy):
            return dy * scales * np.array([1, 1, 1.01])

    (check,) = nn.check_gradients(Scaled(), rng.standard_normal((4, 3)))
    assert check.counts == {"right": 8, "WRONG": 4}
    assert check.entry[1] == 2
    assert "only in the last column" in check.cause


def test_losses(rng):
    y, t = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    assert nn.check_gradients(nn.CrossEntropyLoss(), y, t)
    assert nn.check_gradients(nn.CrossEntropyLoss("sum", label_smoothing=0.1, weight=[1, 2, 3, 4]), y, t)
    assert nn.check_gradients(nn.MSELoss(), y, rng.standard_normal((6, 4)))

    class Forgets(nn.MSELoss):
        def backward(self, y, t):
            return 2 * (y - t)

    report = nn.check_gradients(Forgets(), y, rng.standard_normal((6, 4)))
    assert not report
    assert "times too large" in report.cause
    with pytest.raises(TypeError, match="t: expected the labels of the loss, got None"):
        nn.check_gradients(nn.MSELoss(), y)


def test_plain_functions(rng):
    x, w = rng.standard_normal((5, 4)), rng.standard_normal((4, 3))

    def forward(x, w):
        return x @ w, (x, w)

    def backward(dy, cache):
        x, w = cache
        return dy @ w.T, x.T @ dy

    assert nn.check_gradients(forward, (x, w), backward=backward)
    assert nn.check_gradients(np.sin, x, backward=lambda dy, x: dy * np.cos(x))
    report = nn.check_gradients(np.sin, x, backward=lambda dy, x: -dy * np.cos(x))
    assert "wrong sign" in report.cause

    def overwrites(dy, x):
        x *= 2
        return dy * np.cos(x / 2)

    report = nn.check_gradients(np.sin, x, backward=overwrites)
    assert "x was overwritten" in report.cause
    with pytest.raises(TypeError, match="backward: expected a callable beside a forward function, got None"):
        nn.check_gradients(np.sin, x)


def test_functions_of_pytorch(rng):
    torch = pytest.importorskip("torch")

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return 3 * x**2 * dy

    class Wrong(Cube):
        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return 3 * x * dy

    x = rng.standard_normal((4, 3))
    assert nn.check_gradients(Cube, x)
    report = nn.check_gradients(Wrong, x)
    assert "the factor x is missing" in report.cause


def test_a_second_use_in_between(rng):
    class Keeps(nn.Layer):
        def forward(self, x):
            object.__setattr__(self, "kept", x)
            return np.tanh(x)

        def backward(self, x, y, dy):
            return dy * (1 - np.tanh(self.kept) ** 2)

    report = nn.check_gradients(Keeps(), rng.standard_normal((4, 3)))
    assert not report
    assert any("earlier call" in check.cause or "self.kept" in check.cause for check in report.wrong)


def test_a_part_of_the_entries_within_a_time(rng):
    def forward(x):
        return np.tanh(x @ x.T)

    def backward(dy, x):
        d = dy * (1 - np.tanh(x @ x.T) ** 2)
        return (d + d.T) @ x

    x = rng.standard_normal((60, 50))
    (check,) = nn.check_gradients(forward, x, backward=backward, seconds=0.05)
    assert check.right
    assert 0 < check.checked < check.size == 3000
    assert check.missed == pytest.approx(1 - check.checked / 3000)
    with pytest.raises(ValueError, match="seconds: expected a finite number above 0 or None, got 0"):
        nn.check_gradients(forward, x, backward=backward, seconds=0)


@pytest.mark.parametrize("what", ["difference", "perturb", "backward_parameters"])
def test_helpers_are_compared_with_forward(rng, what):
    class Helped(nn.Linear):
        def difference(self, x, y, dx):
            found = super().difference(x, y, dx)
            return found * 1.01 if what == "difference" else found

        def perturb(self, parameter, indices, step, x, y):
            found = super().perturb(parameter, indices, step, x, y)
            return found * 1.01 if what == "perturb" else found

        def backward_parameters(self, x, y, dy, *saved):
            super().backward_parameters(x, y, dy)
            if what == "backward_parameters":
                self.weight.grad *= 2

    report = nn.check_gradients(Helped(4, 3, rng=0), rng.standard_normal((5, 4)))
    assert {check.what.partition("(")[0] for check in report.wrong} == {what}


def test_the_model_as_a_whole_is_checked_too(rng):
    model = nn.Sequential(nn.Linear(4, 5, rng=0), nn.Tanh(), nn.Residual(nn.Linear(5, 5, rng=1)))
    before = [p.value.copy() for p in model.parameters()]
    report = nn.check_gradients(model, rng.standard_normal((6, 4)))
    assert report
    assert report[-1].layer == "the whole model"
    assert all(np.array_equal(p.value, old) for p, old in zip(model.parameters(), before, strict=True))


def test_what_is_computed_in_float32_is_no_false_alarm(rng):
    class Single(nn.Layer):
        def forward(self, x):
            return np.square(x.astype(np.float32)).astype(x.dtype)

        def backward(self, x, y, dy):
            return (2 * x.astype(np.float32) * dy.astype(np.float32)).astype(x.dtype)

    report = nn.check_gradients(Single(), rng.standard_normal((6, 4)))
    assert report, str(report)


@pytest.mark.parametrize("equal", [3, 20])
def test_a_sort_of_equal_values_is_right_in_any_order(equal):
    class Sort(nn.Layer):
        def forward(self, x):
            return np.sort(x, axis=1)

        def backward(self, x, y, dy):
            ranks = np.argsort(np.argsort(x, axis=1, kind="stable"), axis=1, kind="stable")
            return self.factor * np.take_along_axis(dy, ranks, axis=1)

    layer, x = Sort(), np.zeros((2, equal))
    layer.factor = 1.0
    for seed in range(4):
        report = nn.check_gradients(layer, x, rng=seed)
        assert report, f"seed {seed}: {report}"
    layer.factor = 5.0
    assert not nn.check_gradients(layer, x, rng=0)


def test_a_gradient_in_float32_of_a_forward_in_float64_is_wrong(rng):
    class Cached(nn.Layer):
        """Exact to seven digits."""

        def __init__(self):
            self.scale = nn.Parameter(rng.standard_normal(4), np.float64)

        def forward(self, x):
            return np.tanh(x * self.scale.value)

        def backward(self, x, y, dy):
            inner = (dy * (1 - y * y)).astype(np.float32).astype(x.dtype)
            self.scale.grad += (inner * x).sum(axis=0)
            return inner * self.scale.value

    for layer in (Cached(), nn.Sequential(Cached(), nn.Linear(4, 2, rng=0))):
        report = nn.check_gradients(layer, rng.standard_normal((6, 4)))
        assert not report
        assert {check.what for check in report.wrong} == {"x", "scale"}
        assert "float32" in report.cause


def test_stairs_are_the_function_unless_they_are_as_fine_as_rounding(rng):
    class StraightThrough(nn.Layer):
        def forward(self, x):
            return np.round(x * self.levels) / self.levels

        def backward(self, x, y, dy):
            return self.factor * dy

    layer, x = StraightThrough(), rng.standard_normal((4, 3))
    for levels, factor, right in ((2, 1, False), (8, 1, False), (64, 1, False), (2.0**26, 1, True), (8, 0, True)):
        layer.levels, layer.factor = levels, factor
        assert bool(nn.check_gradients(layer, x)) is right, levels
    layer.levels, layer.factor = 2.0**26, 2  # stairs that are climbed twice as fast
    assert not nn.check_gradients(layer, x)


@pytest.mark.parametrize(
    "layer", [Written(), nn.Linear(4, 3, rng=0), nn.Sigmoid(), nn.ReLU(), nn.BatchNorm1d(4)], ids=repr
)
def test_arrays_judged_together_are_right_where_they_are_so_one_by_one(rng, monkeypatch, layer):
    x = rng.standard_normal((5, 4))
    together = nn.check_gradients(layer, x)
    monkeypatch.setattr(Differences, "clearly_right", lambda *_: {})
    for a, b in zip(together, nn.check_gradients(layer, x), strict=True):
        assert (a.layer, a.what, a.verdict, a.counts, a.checked) == (b.layer, b.what, b.verdict, b.counts, b.checked)
        assert a.error == pytest.approx(b.error, abs=1e-9)


def test_what_is_right_takes_four_evaluations_per_entry_and_few_more(rng):
    calls = []

    def forward(x):
        calls.append(1)
        return np.sin(x)

    assert nn.check_gradients(forward, rng.standard_normal((10, 10)), backward=lambda dy, x: dy * np.cos(x))
    assert 400 < len(calls) < 430


def test_what_is_below_the_noise_is_not_called_right(rng):
    x = rng.standard_normal((4, 3))
    (check,) = nn.check_gradients(lambda x: 1e9 + 1e-9 * x, x, backward=lambda dy, x: 1e-9 * dy)
    assert check.verdict == "too flat to tell"


@pytest.mark.parametrize("weights", [1.0, np.arange(1, 6)[:, None]], ids=["one for all rows", "one for each row"])
@pytest.mark.parametrize("stale", [False, True])
def test_a_second_use_that_takes_what_the_first_call_has_left(rng, stale, weights):
    kept = []

    def forward(x):
        return weights * x**3, x.copy()

    def backward(dy, x):
        kept.append(x)
        return dy * 3 * weights * (kept[0] if stale else x) ** 2

    report = nn.check_gradients(forward, rng.standard_normal((5, 4)), backward=backward)
    assert bool(report) is not stale
    assert not stale or "earlier call" in report.cause


def test_a_check_inside_a_layer_that_is_checked(rng):
    inside = nn.Linear(6, 5, rng=0)

    class Asks(nn.Layer):
        def forward(self, x):
            assert nn.check_gradients(inside, np.ones((3, 6)))
            return np.tanh(x)

        def backward(self, x, y, dy):
            return dy * (1 - y * y)

    assert nn.check_gradients(nn.Sequential(nn.Linear(4, 4, rng=0), Asks()), rng.standard_normal((3, 4)))
    assert inside.weight.grad.any() == 0


def test_memory_is_kept_for_the_next_check_but_only_a_little(rng):
    nn.check_gradients(nn.Linear(300, 300, rng=0), rng.standard_normal((8, 300)), seconds=0.01)
    nn.check_gradients(nn.Linear(40, 30, rng=0), rng.standard_normal((8, 40)))
    assert subjects._rooms
    assert all(room.numbers.size <= STACK_NUMBERS for room in subjects._rooms)


def test_parameters_are_where_they_were_after_a_check(rng):
    model = nn.Sequential(nn.Linear(4, 3, rng=0), nn.Tanh(), nn.Linear(3, 2, rng=1)).astype(np.float64)
    before = model.state_dict()
    assert nn.check_gradients(model, rng.standard_normal((5, 4)))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
