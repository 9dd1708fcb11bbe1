"""A network is the same, however its layers are held: the same bits as a literal Sequential, at the same cost."""

import copy

import numpy as np
import pytest

import nnframe as nn

STRATEGIES = [nn.CentralDifference(), nn.CentralDifference(interpolate=False), nn.Backprop(), nn.NodePerturbation()]


def parts(dtype):
    return [nn.Linear(7, 6, dtype=dtype, rng=0), nn.Tanh(), nn.Linear(6, 3, dtype=dtype, rng=1)]


class Attributes(nn.Layer):
    def __init__(self, hidden, act, out):
        self.hidden, self.act, self.out = hidden, act, out

    def forward(self, x):
        return self.out(self.act(self.hidden(x)))


class InAList(nn.Layer):
    def __init__(self, *layers):
        self.layers = list(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class InADict(nn.Layer):
    def __init__(self, *layers):
        self.layers = {f"layer {i}": layer for i, layer in enumerate(layers)}

    def forward(self, x):
        for layer in self.layers.values():
            x = layer(x)
        return x


class Subclass(nn.Sequential):
    pass


class Renamed(nn.Sequential):
    """Calls what it inherits."""

    def forward(self, x):
        return super().forward(x)


class Pair(nn.Layer):
    def __init__(self, first, second):
        self.first, self.second = first, second

    def forward(self, x):
        return self.second(self.first(x))


class Flattens(nn.Layer):
    def __init__(self, *layers):
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return self.body(x.reshape(len(x), -1))


WAYS = {
    "attributes": lambda *p: Attributes(*p),
    "a list": lambda *p: InAList(*p),
    "a dict": lambda *p: InADict(*p),
    "an empty subclass": lambda *p: Subclass(*p),
    "a subclass that calls super": lambda *p: Renamed(*p),
    "Sequential in Sequential": lambda a, b, c: nn.Sequential(nn.Sequential(a, b), nn.Sequential(c)),
    "attributes in Sequential in attributes": lambda a, b, c: Pair(nn.Sequential(Pair(a, b)), c),
    "a list in attributes": lambda a, b, c: Pair(InAList(a), InAList(b, c)),
    "a reshape inside": lambda *p: Flattens(*p),
}


def gradients(strategy, model, x, t):
    value = strategy(model, nn.CrossEntropyLoss() if t.ndim == 1 else nn.MSELoss(), x, t)
    return float(value), [parameter.grad.copy() for parameter in model.parameters()]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("way", WAYS)
def test_the_same_bits_as_a_literal_sequential(way, strategy, dtype, rng):
    x, t = rng.standard_normal((9, 7)), rng.integers(0, 3, 9)
    value, expected = gradients(strategy, nn.Sequential(*parts(dtype)), x, t)
    for _ in range(2):
        found_value, found = gradients(strategy, WAYS[way](*parts(dtype)), x, t)
        assert found_value == value
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


class Counting(nn.Layer):
    """Rowwise; counts the rows that it is given, in whatever copy."""

    rows = 0

    def forward(self, x):
        Counting.rows += len(x)
        return np.tanh(x + x[:, ::-1])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("way", WAYS)
def test_a_forward_only_layer_inside_costs_what_it_costs_in_a_sequential(way, strategy, rng):
    x, t = rng.standard_normal((9, 7)), rng.integers(0, 3, 9)
    counts = []
    for make in (nn.Sequential, WAYS[way]):
        first, _, last = parts(np.float64)
        model, strategy = make(first, Counting(), last), copy.deepcopy(strategy)
        for _ in range(2):
            Counting.rows = 0
            gradients(strategy, model, x, t)
        counts.append(Counting.rows)
    assert counts[1] <= 1.2 * counts[0], f"{counts[1]} rows evaluated, {counts[0]} in a literal Sequential"


def test_what_order_the_layers_have_is_found_anew_at_each_run(rng):
    class Turned(nn.Layer):
        def __init__(self):
            self.a, self.b = (nn.Linear(4, 4, dtype=np.float64, rng=i) for i in range(2))
            self.act = nn.Tanh()

        def forward(self, x):
            first, second = (self.a, self.b) if x.mean() > 0 else (self.b, self.a)
            return second(self.act(first(x)))

    model = Turned()
    x, t = np.abs(rng.standard_normal((5, 4))), rng.standard_normal((5, 4))
    for strategy in STRATEGIES:
        for sign in (1, 1, -1, -1, 1):
            a, b = (model.a, model.b) if sign > 0 else (model.b, model.a)
            _, expected = gradients(nn.Backprop(), nn.Sequential(a, nn.Tanh(), b), sign * x, t)
            _, found = gradients(strategy, model, sign * x, t)
            for one, other in zip(found, expected if sign > 0 else expected[2:] + expected[:2], strict=True):
                np.testing.assert_allclose(one, other, atol=1e-8)


class WritesLater(nn.Layer):
    """Writes into what its layer returned, but not for every input."""

    def __init__(self):
        self.act, self.out = nn.Tanh(), nn.Linear(3, 2, rng=0)

    def forward(self, x):
        y = self.act(x)
        if x[0, 0] > 0:
            y += 1
        return self.out(y)


@pytest.mark.parametrize("strategy", [nn.Backprop, nn.CentralDifference])
def test_what_a_layer_returned_cannot_be_written_to_at_a_later_run_either(strategy):
    model, gradient = WritesLater(), strategy()
    x, t = np.full((4, 3), -0.5, np.float32), np.array([0, 1, 1, 0])
    for _ in range(3):  # at the first ones more is looked at
        gradient(model, nn.CrossEntropyLoss(), x, t)
    with pytest.raises(nn.LayerError, match="writes into an array"):
        gradient(model, nn.CrossEntropyLoss(), -x, t)
