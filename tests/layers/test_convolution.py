"""Convolution, pooling and shape layers: PyTorch, every pass, and training by each strategy."""

import itertools

import numpy as np
import pytest
from harness import check_layer
from planes import LAYERS

import nnframe as nn


@pytest.mark.parametrize("name", LAYERS)
def test_passes(dtype, rng, name):
    make, shape = LAYERS[name]
    check_layer(make().astype(dtype), rng.standard_normal((5, *shape)), rng)


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_is_subtracted(name):
    """Helpers of a base class count, so that changes keep their digits and steps are small."""
    traits = type(LAYERS[name][0]())._traits
    assert traits.difference
    assert traits.backward
    assert not traits.own


# ---- PyTorch ----


def alike(torch, layer, other, x, rng):
    """Compare output, gradient of x and gradients of parameters, after the same numbers have been put in."""
    for one, theirs in zip(layer.parameters(), other.parameters(), strict=True):
        assert one.value.shape == tuple(theirs.shape)
        one.value[...] = rng.standard_normal(one.value.shape)
        theirs.data = torch.tensor(one.value)
    y = layer.forward(x)
    given = torch.tensor(x, requires_grad=True)
    expected = other(given)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=1e-10)
    dy = rng.standard_normal(y.shape)
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(layer.backward(x, y, dy), given.grad.numpy(), rtol=0, atol=1e-10)
    for one, theirs in zip(layer.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(one.grad, theirs.grad.numpy(), rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_are_those_of_pytorch(rng, groups, bias):
    torch = pytest.importorskip("torch")
    for k, s, p, d in itertools.product([1, 3, (2, 3)], [1, 2, (1, 3)], [0, 1, (2, 1), "same", "valid"], [1, (2, 1)]):
        if p == "same" and s != 1:
            continue
        options = {"groups": groups, "bias": bias}
        other = torch.nn.Conv2d(4, 8, k, s, p, d, **options, dtype=torch.float64)
        alike(
            torch,
            nn.Conv2d(4, 8, k, s, p, d, **options, dtype=np.float64),
            other,
            rng.standard_normal((3, 4, 9, 7)),
            rng,
        )
        if all(not isinstance(a, tuple) for a in (k, s, p, d)):
            other = torch.nn.Conv1d(4, 8, k, s, p, d, **options, dtype=torch.float64)
            alike(
                torch,
                nn.Conv1d(4, 8, k, s, p, d, **options, dtype=np.float64),
                other,
                rng.standard_normal((3, 4, 9)),
                rng,
            )


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_transposed_convolutions_are_those_of_pytorch(rng, groups):
    torch = pytest.importorskip("torch")
    for k, s, p, more, d in itertools.product([1, 3, (2, 3)], [1, 2, (4, 3)], [0, (1, 0)], [0, (0, 1)], [1, 2]):
        if more != 0 and s == 1 and d == 1:
            continue
        other = torch.nn.ConvTranspose2d(8, 4, k, s, p, more, groups, True, d, dtype=torch.float64)
        ours = nn.ConvTranspose2d(8, 4, k, s, p, more, groups, True, d, dtype=np.float64)
        alike(torch, ours, other, rng.standard_normal((3, 8, 5, 4)), rng)


def test_pooling_is_that_of_pytorch(rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((3, 2, 9, 8))
    for k, s, p, ceil in itertools.product([2, 3, (2, 4)], [None, 1, (3, 2)], [0, 1], [False, True]):
        alike(torch, nn.MaxPool2d(k, s, p, ceil_mode=ceil), torch.nn.MaxPool2d(k, s, p, ceil_mode=ceil), x, rng)
        if isinstance(k, int):
            alike(torch, nn.MaxPool2d(k, s, p, 2, False, ceil), torch.nn.MaxPool2d(k, s, p, 2, False, ceil), x, rng)
        for count, divisor in itertools.product([True, False], [None, 3]):
            given = k, s, p, ceil, count, divisor
            alike(torch, nn.AvgPool2d(*given), torch.nn.AvgPool2d(*given), x, rng)
        if isinstance(k, int) and not isinstance(s, tuple):
            alike(
                torch, nn.MaxPool1d(k, s, p, 1, False, ceil), torch.nn.MaxPool1d(k, s, p, 1, False, ceil), x[:, 0], rng
            )
            alike(torch, nn.AvgPool1d(k, s, p, ceil, False), torch.nn.AvgPool1d(k, s, p, ceil, False), x[:, 0], rng)
    for size in (1, (3, 2)):
        alike(torch, nn.AdaptiveAvgPool2d(size), torch.nn.AdaptiveAvgPool2d(size), x, rng)


def test_defaults_start_where_pytorch_starts():
    """U(-1/sqrt(n), 1/sqrt(n)) for weight and bias, n being axis 1 times the kernel."""
    for layer in (nn.Conv2d(8, 300, 3, groups=2, rng=0), nn.ConvTranspose2d(300, 8, 3, groups=2, rng=0)):
        bound = 1 / 6
        for parameter in (layer.weight, layer.bias):
            assert 0.5 * bound < np.abs(parameter.value).max() <= bound
        assert abs(layer.weight.value.std() / (bound / 3**0.5) - 1) < 0.05


# ---- central differences ----


def net(dtype, *middle, features=12):
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, rng=0, dtype=dtype), *middle, nn.Linear(features, 4, rng=2, dtype=dtype)
    )


def lenet(dtype):
    return net(
        dtype,
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 3, 2, padding=1, stride=2, rng=1, dtype=dtype),
        nn.Tanh(),
        nn.AvgPool2d(2, 1, 1),
        nn.Flatten(),
        features=27,
    )


def check_central_difference(model, x, t, loss=None):
    """Compare with the definition for every entry, and one number of threads with another."""
    loss = nn.CrossEntropyLoss() if loss is None else loss
    value = nn.CentralDifference()(model, loss, x, t)
    found = [p.grad.copy() for p in model.parameters()]
    exact = model.astype(np.float64)
    x = x.astype(np.float64)
    nn.Backprop()(exact, loss, x, t)
    assert abs(value - loss(exact(x), t)) < 1e-5
    for (name, p), one in zip(exact.named_parameters(), found, strict=True):
        bound = 1e-8 if one.dtype == np.float64 else 2e-5
        np.testing.assert_allclose(one, p.grad, rtol=0, atol=bound * np.abs(p.grad).max(), err_msg=name)

    def of(array, p):
        p.value[...] = array
        return loss(exact(x), t)

    if found[0].dtype == np.float64:
        for p, one in zip(exact.parameters(), found, strict=True):
            before = p.value.copy()
            numeric = nn.numerical_gradient(lambda a, p=p: of(a, p), before.copy(), step=1e-6)
            p.value[...] = before
            np.testing.assert_allclose(one, numeric, rtol=0, atol=1e-8 * max(np.abs(numeric).max(), 1))
    return found


MODELS = {
    "all kinds": lenet,
    "one channel to linear": lambda d: net(
        d, nn.Sigmoid(), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d((3, 1)), nn.Flatten(), features=9
    ),
    "depthwise above": lambda d: net(
        d,
        nn.Conv2d(3, 3, 3, 2, groups=3, rng=1, dtype=d),
        nn.AvgPool2d(2, 1, 1, ceil_mode=True),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
    ),
    "transposed above": lambda d: net(
        d, nn.ConvTranspose2d(3, 3, 2, 2, rng=1, dtype=d), nn.AvgPool2d(5), nn.ReLU(), nn.Flatten()
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.1), nn.MSELoss()], ids=repr
)
def test_central_differences(dtype, rng, name, loss):
    model = MODELS[name](dtype)
    x = rng.standard_normal((5, 1, 6, 5)).astype(dtype)
    t = rng.integers(0, 4, 5) if isinstance(loss, nn.CrossEntropyLoss) else rng.standard_normal((5, 4))
    check_central_difference(model, x, t, loss)


def test_central_differences_of_groups_and_of_one_axis(dtype, rng):
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3, 2, 1, 2, 2, rng=0, dtype=dtype),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(8, 3, rng=1, dtype=dtype),
    )
    check_central_difference(model, rng.standard_normal((4, 2, 10)).astype(dtype), rng.integers(0, 3, 4))


def test_central_differences_have_the_same_bits_for_any_number_of_threads(dtype, rng, threads):
    x, t = rng.standard_normal((9, 1, 6, 5)).astype(dtype), rng.integers(0, 4, 9)
    found = []
    for count in (1, 2, 3):
        threads(count)
        model = lenet(dtype)
        nn.CentralDifference()(model, nn.CrossEntropyLoss(), x, t)
        found.append([p.grad for p in model.parameters()])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


def test_selected_entries_are_those_of_the_whole_gradient(rng):
    x, t = rng.standard_normal((5, 1, 6, 5)), rng.integers(0, 4, 5)
    model = lenet(np.float64)
    nn.CentralDifference()(model, nn.CrossEntropyLoss(), x, t)
    whole = [p.grad.copy() for p in model.parameters()]
    masks = {p: rng.random(p.value.shape) < 0.3 for p in model.parameters()}
    nn.CentralDifference(only={name: masks[p] for name, p in model.named_parameters()})(
        model, nn.CrossEntropyLoss(), x, t
    )
    for p, gradient in zip(model.parameters(), whole, strict=True):
        np.testing.assert_allclose(p.grad, gradient * masks[p], rtol=1e-9, atol=1e-14)


class Doubled(nn.Conv2d):
    """A convolution with another forward: C must not take it for one."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_derived_class_with_another_forward_is_taken_as_it_is(rng):
    model = nn.Sequential(
        Doubled(1, 2, 3, rng=0, dtype=np.float64), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3, rng=1, dtype=np.float64)
    )
    x, t = rng.standard_normal((4, 1, 6, 5)), rng.integers(0, 3, 4)
    check = nn.CentralDifference()
    check(model, nn.CrossEntropyLoss(), x, t)
    found = model.layers[0].weight.grad.copy()

    def of(w):
        model.layers[0].weight.value[...] = w
        return nn.CrossEntropyLoss()(model(x), t)

    numeric = nn.numerical_gradient(of, model.layers[0].weight.value.copy(), step=1e-6)
    np.testing.assert_allclose(found, numeric, rtol=0, atol=1e-8)


def test_a_layer_that_c_does_not_know_is_named_where_that_is_dear(rng):
    def model(layer):
        return nn.Sequential(
            nn.Conv2d(4, 16, 5, rng=0), layer, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 64, 3, rng=1)
        )

    x, t = rng.standard_normal((40, 4, 20, 20)), rng.integers(0, 3, 40)
    strategy = nn.CentralDifference(only="0.weight")
    with pytest.warns(nn.CostWarning, match=r"layer 0: .* 1,616 weights .* one by one .* layer 1: PReLU"):
        strategy.cost(model(nn.PReLU()), nn.CrossEntropyLoss(), x, t)
    strategy(model(nn.ReLU()), nn.CrossEntropyLoss(), x, t)


@pytest.mark.parametrize("strategy", [nn.Backprop(), nn.CentralDifference()], ids=repr)
def test_a_network_learns_the_digits(strategy):
    (x, t), _ = nn.data.digits()
    x = x.reshape(-1, 1, 8, 8)[:600]
    model = nn.Sequential(nn.Conv2d(1, 6, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10, rng=1))
    optimizer = nn.Adam(model.parameters(), lr=1e-2)
    for _ in range(10):
        for i in range(0, len(x), 50):
            strategy(model, nn.CrossEntropyLoss(), x[i : i + 50], t[i : i + 50])
            optimizer.step()
    assert (model(x).argmax(axis=1) == t[:600]).mean() > 0.95


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups: expected a divisor of in_channels=3, got 2"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), "groups: expected a divisor of out_channels=3, got 2"),
        (lambda: nn.Conv2d(0, 3, 3), "in_channels: expected at least 1, got 0"),
        (lambda: nn.Conv2d(3, 4, 0), "kernel_size: expected at least 1, got 0"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), "kernel_size: expected a whole number, or 2 of them"),
        (lambda: nn.Conv1d(3, 4, 3.0), "kernel_size: expected a whole number, got 3.0"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), "padding: expected 'same', 'valid' or whole numbers, got 'full'"),
        (lambda: nn.Conv2d(3, 4, 3, 2, "same"), "padding: expected no 'same' with stride 2"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, output_padding=1), "output_padding: expected less than stride 1"),
        (lambda: nn.MaxPool2d(2, padding=2), "padding: expected at most half of kernel_size 2, got 2"),
        (lambda: nn.MaxPool2d(2, return_indices=True), "return_indices: expected False"),
        (lambda: nn.Flatten(0), "start_dim: expected another axis than 0"),
        (lambda: nn.Reshape(-1, -1), "shape: expected lengths of at least 1, or -1 once"),
        (lambda: nn.Permute(1, 0), "dims: expected 0 and then each of the other axes once"),
        (lambda: nn.Unflatten(0, (2, 3)), "dim: expected another axis than 0"),
    ],
)
def test_arguments_that_do_not_fit(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv2d(3, 4, 3), (2, 4, 5, 5), r"x: expected shape \(N, 3, H, W\), got \(2, 4, 5, 5\)"),
        (nn.Conv1d(3, 4, 3), (2, 3, 5, 5), r"x: expected shape \(N, 3, L\), got \(2, 3, 5, 5\)"),
        (nn.Conv2d(3, 4, 3), (2, 3, 2, 5), "x: expected axes that the kernel fits into, 3 entries"),
        (nn.ConvTranspose2d(3, 4, 1, padding=1), (2, 3, 2, 5), "x: expected axes that leave at least one output"),
        (nn.MaxPool2d(3), (2, 3, 2, 5), "x: expected axes that a window fits into, 3 entries"),
        (nn.MaxPool2d(3), (2, 3, 5), r"x: expected shape \(N, C, H, W\), got \(2, 3, 5\)"),
        (nn.AdaptiveAvgPool2d(2), (2, 3, 4, 5), "x: expected shape .* divided by 2 and 2"),
        (nn.Flatten(2, 4), (2, 3, 4), "x: expected axes 2 to 4"),
        (nn.Reshape(5), (2, 3, 4), r"x: expected rows that have the shape \(5,\)"),
        (nn.Unflatten(1, (2, 2)), (2, 3), "x: expected an axis 1"),
        (nn.Permute(0, 2, 1), (2, 3), "x: expected 3 axes"),
    ],
    ids=repr,
)
def test_inputs_that_do_not_fit(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(np.ones(shape))


def test_what_layers_are_called():
    for text in (
        "Conv2d(1, 2, kernel_size=3)",
        "Conv2d(2, 4, kernel_size=(3, 1), stride=2, groups=2, padding='same', bias=False)".replace("stride=2, ", ""),
        "ConvTranspose1d(1, 2, kernel_size=3, stride=2, output_padding=1)",
        "MaxPool2d(3, stride=2)",
        "AvgPool2d(2, count_include_pad=False)",
        "AdaptiveAvgPool2d(1)",
        "Flatten()",
        "Reshape(2, -1)",
        "Permute(0, 2, 1)",
    ):
        assert repr(eval(f"nn.{text}")) == text
