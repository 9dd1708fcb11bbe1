"""Arrays of other libraries at the doors: models, losses, strategies and training take them as those of NumPy."""

import numpy as np
import pytest

import nnframe as nn

X = np.random.default_rng(20261125).standard_normal((6, 3)).astype(np.float32)
CLASSES = np.array([0, 1, 1, 0, 1, 0])
TARGETS = np.random.default_rng(20261126).standard_normal((6, 2)).astype(np.float32)


class OnlyArray:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


class OnlyDLPack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **arguments):
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def tensor(array):
    return pytest.importorskip("torch").from_numpy(array.copy())


def tracked(array):
    found = tensor(array)
    return found.requires_grad_() if array.dtype.kind == "f" else found


def frame(array):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(array) if array.ndim == 2 else pandas.Series(array)


def nullable(array):
    return frame(array).convert_dtypes() if array.dtype.kind == "i" else frame(array).astype("Float32")


def polars_frame(array):
    polars = pytest.importorskip("polars")
    return polars.DataFrame(array) if array.ndim == 2 else polars.Series(array)


FORMS = {
    "list": lambda array: array.tolist(),
    "array protocol": OnlyArray,
    "DLPack": OnlyDLPack,
    "PyTorch": tensor,
    "PyTorch with gradient": tracked,
    "pandas": frame,
    "pandas nullable": nullable,
    "Polars": polars_frame,
}
form = pytest.mark.parametrize("form", FORMS)


def model(rng=1):
    return nn.Sequential(nn.Linear(3, 4, rng=rng), nn.Tanh(), nn.Linear(4, 2, rng=rng + 1))


@form
def test_a_model(form):
    given = FORMS[form](X)
    np.testing.assert_array_equal(model()(given), model()(X), strict=True)
    ids = nn.Embedding(5, 2, rng=1)
    np.testing.assert_array_equal(ids(FORMS[form](CLASSES)), ids(CLASSES), strict=True)


@form
@pytest.mark.parametrize(
    ("loss", "t"),
    [
        (nn.CrossEntropyLoss(), CLASSES),
        (nn.CrossEntropyLoss(), np.eye(2, dtype=np.float32)[CLASSES]),
        (nn.MSELoss(), TARGETS),
        (nn.L1Loss(), TARGETS),
        (nn.NLLLoss(), CLASSES),
        (nn.BCEWithLogitsLoss(), np.eye(2, dtype=np.float32)[CLASSES]),
        (nn.MultiMarginLoss(), CLASSES),
    ],
)
def test_losses_and_strategies(form, loss, t):
    y = TARGETS if form in ("list", "pandas nullable") else FORMS[form](TARGETS)  # those come as float64
    assert loss(y, FORMS[form](t)) == loss(TARGETS, t)
    for strategy in (nn.Backprop, nn.CentralDifference, nn.NodePerturbation, lambda: nn.SPSA(rng=1)):
        one, other = model(), model()
        assert strategy()(one, loss, FORMS[form](X), FORMS[form](t)) == strategy()(other, loss, X, t)
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            np.testing.assert_array_equal(p.grad, q.grad)


@form
def test_training(form):
    found = []
    for make in (np.asarray, FORMS[form]):
        net = model()
        trainer = nn.Trainer(net, nn.CrossEntropyLoss(), nn.SGD(net.parameters(), lr=0.1))
        x, t = make(X), make(CLASSES)
        history = trainer.fit(x, t, epochs=2, batch_size=4, rng=1, progress=False, validation_data=(x, t))
        measured = trainer.evaluate(x, t)
        found.append((history["loss"], measured, trainer.predict(x), nn.accuracy(make(TARGETS), t)))
    np.testing.assert_array_equal(found[0][2], found[1][2], strict=True)
    assert found[0][:2] == found[1][:2]
    assert found[0][3] == found[1][3]


def test_several_inputs():
    two = nn.Branches(nn.Linear(3, 2, rng=1), nn.Linear(3, 2, rng=2))
    for name in FORMS:
        make = FORMS[name]
        np.testing.assert_array_equal(two((make(X), make(X))), two((X, X)))
        if name != "list":
            trainer = nn.Trainer(two, nn.CrossEntropyLoss(), nn.SGD(two.parameters(), lr=0.1))
            np.testing.assert_array_equal(trainer.predict((make(X), make(X))), two((X, X)))


def test_half_precision_of_pytorch():
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16):
        half = torch.from_numpy(X).to(dtype)
        np.testing.assert_array_equal(model()(half), model()(half.float().numpy()), strict=True)


def test_missing_numbers_are_nan():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1.0, 2.0], "b": pandas.array([1, None], "Int64"), "c": [True, False]})
    y = nn.ReLU()(table)
    np.testing.assert_array_equal(y, [[1, 1, 1], [2, np.nan, 0]])
    polars = pytest.importorskip("polars")
    y = nn.ReLU()(polars.DataFrame({"a": [1.0, 2.0], "b": [1, None], "c": [True, False]}))
    np.testing.assert_array_equal(y, [[1, 1, 1], [2, np.nan, 0]])


def test_whole_numbers_of_several_widths_stay_exact():
    pandas = pytest.importorskip("pandas")
    wide = 2**24 + 1
    table = pandas.DataFrame({"a": pandas.array([wide], "Int64"), "b": np.array([1], np.int8)})
    with pytest.raises(ValueError, match=f"expected integers that float32 holds exactly, got {wide}"):
        nn.Linear(2, 1)(table)


def test_words_are_refused():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["1", "2", "3"], "c": [0.0, 0.0, 0.0]})
    with pytest.raises(TypeError, match="x: expected real numbers, got dtype object"):
        model()(table)
