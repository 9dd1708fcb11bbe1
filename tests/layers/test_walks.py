"""What a walk through a model finds is kept until something may have changed: then it is found anew."""

import copy

import numpy as np
import pytest

import nnframe as nn


class Held(nn.Layer):
    """Layers in an attribute, a list and a dict."""

    def __init__(self):
        self.first = nn.Linear(3, 3, rng=0)
        self.listed = [nn.Linear(3, 3, rng=1), nn.Tanh()]
        self.named = {"a": nn.Linear(3, 2, rng=2)}

    def forward(self, x):
        x = self.first(x)
        for layer in self.listed:
            x = layer(x)
        return self.named["a"](x)


CHANGES = {
    "an attribute": lambda m: setattr(m, "first", nn.Linear(3, 3, rng=5)),
    "an item of a list": lambda m: m.listed.__setitem__(0, nn.Linear(3, 3, rng=5)),
    "a longer list": lambda m: m.listed.append(nn.Linear(3, 3, rng=5)),
    "an item of a dict": lambda m: m.named.__setitem__("a", nn.Linear(3, 2, rng=5)),
    "a parameter of a layer": lambda m: setattr(m.first, "weight", nn.Parameter(np.ones((3, 3)))),
    "a bias that goes": lambda m: setattr(m.first, "bias", None),
}


def test_a_change_of_what_a_model_holds_is_seen_at_once(rng):
    x, t, loss = rng.standard_normal((5, 3)), rng.integers(0, 2, 5), nn.CrossEntropyLoss()
    for what, change in CHANGES.items():
        for strategy in (nn.Backprop(), nn.CentralDifference()):
            model = Held()
            for _ in range(3):
                strategy(model, loss, x, t)
                model(x)
            change(model)
            fresh = [p for _, p in model.named_parameters()]
            assert [id(p) for p in model.parameters()] == [id(p) for p in fresh], what
            for parameter in fresh:
                parameter.grad[...] = np.nan
            strategy(model, loss, x, t)
            for name, parameter in model.named_parameters():
                assert np.isfinite(parameter.grad).all(), (what, name)
                assert parameter.grad.any(), (what, name)


def test_a_parameter_that_is_frozen_stands_still_at_once(rng):
    x, t = rng.standard_normal((5, 3)), rng.integers(0, 2, 5)
    model, strategy = Held(), nn.Backprop()
    strategy(model, nn.CrossEntropyLoss(), x, t)
    model.first.weight.trainable = False
    strategy(model, nn.CrossEntropyLoss(), x, t)
    assert not model.first.weight.grad.any()
    model.first.weight.trainable = True
    strategy(model, nn.CrossEntropyLoss(), x, t)
    assert model.first.weight.grad.any()


class Bag(nn.Layer):
    """Ids go in; the vectors of a row are laid end to end."""

    takes_integers = True

    def __init__(self):
        self.table, self.out = nn.Embedding(10, 4, rng=0), nn.Linear(12, 2, rng=1)

    def forward(self, x):
        return self.out(self.table(x).reshape(len(x), -1))


def test_ids_and_a_reshape_are_seen_inside_a_layer(rng):
    x, t, model = rng.integers(0, 10, (5, 3)), rng.integers(0, 2, 5), Bag()
    literal = nn.Sequential(model.table, Flat(), model.out)
    found = []
    for one in (model, literal):
        nn.Backprop()(one, nn.CrossEntropyLoss(), x, t)
        found.append([p.grad.copy() for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    lines = model.summary((3,)).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["table", "reshape(len(x),", "out"]


class Flat(nn.Layer):
    def forward(self, x):
        return x.reshape(len(x), -1)


def test_ids_reach_a_layer_that_takes_numbers_as_numbers(rng):
    class Mixed(nn.Layer):
        takes_integers = True

        def __init__(self):
            self.linear = nn.Linear(3, 2, rng=0)

        def forward(self, x):
            return self.linear(x)

    x, t = rng.integers(0, 10, (5, 3)), rng.integers(0, 2, 5)
    model = Mixed()
    assert float(nn.Backprop()(model, nn.CrossEntropyLoss(), x, t)) == nn.CrossEntropyLoss()(model(x), t)


class Doubled(nn.Layer):
    def forward(self, x):
        return 2 * x

    def backward(self, x, y, dy):
        return 2 * dy


class Inside(nn.Layer):
    def __init__(self):
        self.body = nn.Tanh()

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("strategy", [nn.Backprop, nn.CentralDifference])
@pytest.mark.parametrize("kinds", [(nn.ReLU, Doubled), (Doubled, Inside), (nn.Tanh, Inside)])
def test_a_layer_that_is_made_in_each_run_is_none_that_had_its_id(strategy, kinds, rng):
    class Making(nn.Layer):
        def __init__(self):
            self.first = nn.Linear(4, 5, dtype=np.float64, rng=0)
            self.last = nn.Linear(5, 3, dtype=np.float64, rng=1)

        def forward(self, x):
            return self.last(made[-1]()(self.first(x)))

    model, loss = Making(), nn.MSELoss()
    x, t = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
    take, found, made = strategy(), [], []
    for kind in kinds * 4:
        made.append(kind)
        take(model, loss, x, t)
        found.append([p.grad.copy() for p in model.parameters()])
    for kind, gradients in zip(kinds * 4, found, strict=True):
        made.append(kind)
        again = copy.deepcopy(model)
        strategy()(again, loss, x, t)
        for one, parameter in zip(gradients, again.parameters(), strict=True):
            np.testing.assert_allclose(one, parameter.grad, rtol=1e-6, atol=1e-9, err_msg=kind.__name__)
