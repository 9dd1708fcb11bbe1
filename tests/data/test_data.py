"""Mini-batches, splits and the shipped digits."""

import tracemalloc

import numpy as np
import pytest

import nnframe as nn


def test_digits():
    (x, t), (x_test, t_test) = nn.data.digits()
    assert x.shape == (1438, 64)
    assert x_test.shape == (359, 64)
    assert (x.dtype, t.dtype) == (np.float32, np.int64)
    assert (x.min(), x.max()) == (0, 1)
    assert set(t) == set(t_test) == set(range(10))
    assert len({image.tobytes() for image in x} & {image.tobytes() for image in x_test}) == 0
    again = nn.data.digits(flatten=False, dtype=np.float64)
    assert again[0][0].shape == (1438, 8, 8)
    np.testing.assert_array_equal(again[0][0].reshape(-1, 64), x)


def test_every_row_once_an_epoch_in_a_new_order():
    x, t = np.arange(20).reshape(10, 2), np.arange(10)
    loader = nn.DataLoader(x, t, 4, rng=3)
    assert len(loader) == 3
    epochs = []
    for _ in range(2):
        batches = list(loader)
        assert [len(b) for b, _ in batches] == [4, 4, 2]
        for b, labels in batches:
            np.testing.assert_array_equal(b[:, 0], 2 * labels)
        epochs.append(np.concatenate([labels for _, labels in batches]))
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert not np.array_equal(*epochs)
    np.testing.assert_array_equal(np.concatenate([b for _, b in nn.DataLoader(x, t, 4, rng=3)]), epochs[0])
    np.testing.assert_array_equal(np.concatenate([b for _, b in nn.DataLoader(x, t, 4, shuffle=False)]), t)


def test_sampling_with_replacement():
    drawn = [labels for _, labels in nn.DataLoader(np.zeros((10, 1)), np.arange(10), 4, replacement=True, rng=0)]
    assert [len(labels) for labels in drawn] == [4, 4, 4]
    assert len(set(np.concatenate(drawn))) < 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (np.zeros((3, 2)), np.zeros(2)),
            ValueError,
            r"same number of rows, at least one, got shapes \(3, 2\) and \(2,\)",
        ),
        ((np.zeros((0, 2)), np.zeros(0)), ValueError, "at least one"),
        ((np.float32(1), np.zeros(1)), ValueError, "same number of rows"),
        ((np.zeros((3, 2)), np.zeros(3), 0), ValueError, "batch_size: expected at least 1, got 0"),
        ((np.zeros((3, 2)), np.zeros(3), 1.5), TypeError, r"batch_size: expected a whole number, got 1\.5"),
    ],
)
def test_loader_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        nn.DataLoader(*arguments)


def test_train_test_split():
    x, t = np.arange(10)[:, None], np.arange(10)
    (a, ta), (b, tb) = nn.train_test_split(x, t, test_size=0.3, rng=1)
    assert (len(a), len(b)) == (7, 3)
    assert sorted([*ta, *tb]) == list(range(10))
    np.testing.assert_array_equal(a[:, 0], ta)
    np.testing.assert_array_equal(nn.train_test_split(x, t, test_size=3, rng=1)[1][1], tb)
    for size in (0, 10, 0.01, 1.0, -1):
        with pytest.raises(ValueError, match="test_size: expected to leave rows on both sides of 10"):
            nn.train_test_split(x, t, test_size=size)


def test_several_inputs():
    pictures, ages, t = np.arange(20).reshape(10, 2), np.arange(10.0), np.arange(10)
    loader = nn.DataLoader((pictures, ages), t, 4, rng=3)
    assert len(loader) == 3
    assert repr(loader) == "DataLoader(10 rows in 3 batches of 4)"
    batches = list(loader)
    assert all(isinstance(x, tuple) for x, _ in batches), "two inputs in, two inputs out"
    for (picture, age), labels in batches:
        np.testing.assert_array_equal(picture[:, 0], 2 * labels)
        np.testing.assert_array_equal(age, labels)
    assert sorted(np.concatenate([labels for _, labels in batches])) == list(range(10))
    ((train, train_ages), t_train), (test, t_test) = nn.train_test_split((pictures, ages), t, test_size=3, rng=0)
    np.testing.assert_array_equal(train_ages, t_train)
    np.testing.assert_array_equal(train[:, 0], 2 * t_train)
    np.testing.assert_array_equal(test[1], t_test)
    assert (len(t_train), len(t_test)) == (7, 3)
    nested = nn.DataLoader(((1, 2), (3, 4)), (0, 1), 2, shuffle=False)
    np.testing.assert_array_equal(next(iter(nested))[0], [[1, 2], [3, 4]], "a tuple of numbers is one array, as ever")


def test_data_are_not_converted_as_a_whole():
    x, t = np.zeros((1000, 1000), np.uint8), np.zeros(1000, np.int64)
    tracemalloc.start()
    try:
        loader = nn.DataLoader(x, t, 10)
        batch, _ = next(iter(loader))
        pair, _ = next(iter(nn.DataLoader((x, x), t, 10)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert loader.x is x
    assert loader.t is t
    assert batch.dtype == pair[1].dtype == np.uint8
    assert peak < x.nbytes / 5, f"{peak} bytes for batches of {batch.nbytes}"


class Frame:
    """Whatever has columns, such as a pandas.DataFrame."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array.astype(dtype) if dtype else self.array


class csr_array:
    shape = (3, 2)

    def toarray(self):
        return np.zeros((3, 2))


def test_frames_are_arrays():
    hot = np.eye(2, dtype=bool)[[0, 1, 1]]
    loader = nn.DataLoader(Frame(np.arange(6.0).reshape(3, 2)), Frame(hot), shuffle=False)
    (x, t), *_ = loader
    np.testing.assert_array_equal(x, [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(t, hot, strict=True)
    assert nn.CrossEntropyLoss()(x, t) == pytest.approx(nn.CrossEntropyLoss()(x, np.array([0, 1, 1])))


X, T = np.zeros((3, 2)), np.zeros(3, int)


@pytest.mark.parametrize(
    ("x", "t", "error", "message"),
    [
        (csr_array(), T, TypeError, r"x: expected an array, got csr_array, a sparse one; pass its \.toarray\(\)"),
        (X, csr_array(), TypeError, r"t: expected an array, got csr_array, a sparse one; pass its \.toarray\(\)"),
        ((X, csr_array()), T, TypeError, r"x\[1\]: expected an array, got csr_array"),
        (X, ["cat", "dog", "cat"], TypeError, r"t: .* got dtype <U3 \(list\); .* np\.unique\(names, return_inverse"),
        (X, np.array(["cat", "dog", "cat"], object), TypeError, r"t: .* got dtype object \(ndarray\); .* np\.unique"),
        (Frame(X.astype(object)), T, TypeError, r"x: .* got dtype object \(Frame\); .* \.astype\(float\)"),
        (X, None, TypeError, r"t: expected real numbers, got dtype object \(NoneType\)$"),
        (X.astype(complex), T, TypeError, "x: expected real numbers, got dtype complex128"),
        ((X, X.astype("datetime64[s]")), T, TypeError, r"x\[1\]: expected real numbers, got dtype datetime64"),
        ([[1, 2], [3]], [0, 1], ValueError, "x: expected an array, got list: .*inhomogeneous"),
        ((X, X[:2]), T, ValueError, r"got shapes \(3, 2\) and \(2, 2\) and \(3,\)$"),
        (tuple(np.zeros((3, 4))), T, ValueError, r"a tuple holds several inputs: stack samples .* np\.stack\(x\)"),
        ([X, X], T, ValueError, r"several inputs are a tuple: tuple\(x\)"),
        (X[0], 1, ValueError, r"shapes \(2,\) and \(\); one sample is a mini-batch of one row: x\[None\]"),
        (X[0], [1], ValueError, r"shapes \(2,\) and \(1,\); one sample is a mini-batch of one row"),
        ((), [], ValueError, "at least one"),
        ((X, np.float64(1)), T, ValueError, "inhomogeneous"),
    ],
)
def test_what_is_no_data_is_refused_by_name(x, t, error, message):
    for use in (nn.DataLoader, nn.train_test_split):
        with pytest.raises(error, match=message):
            use(x, t)


def test_flags_and_shares():
    for name in ("shuffle", "replacement"):
        with pytest.raises(TypeError, match=f"{name}: expected True or False, got 'no'"):
            nn.DataLoader(X, T, **{name: "no"})
    x, t = np.zeros((10, 1)), np.arange(10)
    for share in (0.3, np.float32(0.3), 3, np.int64(3)):
        assert len(nn.train_test_split(x, t, test_size=share)[1][1]) == 3, share
    for wrong in ("3", None, True, [3]):
        with pytest.raises(TypeError, match="test_size: expected a share in"):
            nn.train_test_split(x, t, test_size=wrong)
    for wrong in (float("nan"), float("inf"), 2.5):
        with pytest.raises(ValueError, match="test_size: expected to leave rows on both sides of 10"):
            nn.train_test_split(x, t, test_size=wrong)
