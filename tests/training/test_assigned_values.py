"""Values that a user assigns to a parameter, in whatever order and dtype they come: a step of training is the same."""

import numpy as np
import pytest

import nnframe as nn

OPTIMIZERS = [nn.SGD, nn.Adam, nn.AdamW, nn.RMSprop, nn.AdaGrad]


def step(assign, optimizer, strategy):
    model = nn.Sequential(nn.Linear(10, 6, rng=1), nn.Tanh(), nn.Linear(6, 3, rng=2))
    for layer in (model[0], model[2]):
        layer.weight.value = assign(layer.weight.value)
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((9, 10)), rng.integers(0, 3, 9)
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), optimizer(model.parameters(), 0.1), strategy())
    trainer.fit(x, t, epochs=2, batch_size=9, shuffle=False, progress=False)
    return model.state_dict()


@pytest.mark.parametrize("strategy", [nn.CentralDifference, nn.Backprop, nn.NodePerturbation])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_weight_in_another_order_trains_alike(optimizer, strategy):
    wide = np.empty((20, 20), np.float32)

    def strided(value):
        wide[: len(value), : 2 * value.shape[1] : 2] = value
        return wide[: len(value), : 2 * value.shape[1] : 2]

    expected = step(np.copy, optimizer, strategy)
    for assign in (np.asfortranarray, strided, lambda value: value.astype(np.float64).T.copy().T):
        for name, value in step(assign, optimizer, strategy).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_assigned_value_is_contiguous_and_of_the_parameters_dtype(dtype):
    parameter = nn.Parameter(np.zeros((3, 4)), dtype)
    for given in (
        np.ones((4, 3)).T,
        np.asfortranarray(np.ones((3, 4), np.float32)),
        [[1] * 4] * 3,
        np.ones((3, 8))[:, ::2],
    ):
        parameter.value = given
        assert parameter.value.flags.c_contiguous
        assert parameter.value.dtype == dtype
        assert (parameter.value == 1).all()
    with pytest.raises(ValueError, match=r"value: expected shape \(3, 4\) .* got \(4, 3\)"):
        parameter.value = np.ones((4, 3))
    with pytest.raises(TypeError, match="value: expected real numbers, got complex128"):
        parameter.value = np.ones((3, 4), complex)
