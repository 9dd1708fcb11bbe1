"""Mini-batches, splits, the shipped digits, and MNIST files good and bad."""

import gzip
import struct

import numpy as np
import pytest

import nnframe as nn
from nnframe.data.mnist import FILES


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


def idx(array, magic=None):
    head = magic if magic is not None else bytes((0, 0, 8, array.ndim))
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for (images, labels), n in zip(FILES.values(), (6, 4), strict=True):
        (tmp_path / f"{images}.gz").write_bytes(gzip.compress(idx(rng.integers(0, 256, (n, 28, 28)))))
        (tmp_path / f"{labels}.gz").write_bytes(gzip.compress(idx(np.arange(n))))
    return tmp_path


def test_mnist(folder, monkeypatch):
    (x, t), (x_test, t_test) = nn.data.mnist(folder)
    assert x.shape == (6, 784)
    assert x_test.shape == (4, 784)
    assert x.dtype == np.float32
    assert 0.9 < x.max() <= 1
    assert x.min() == 0
    np.testing.assert_array_equal(t, np.arange(6))
    np.testing.assert_array_equal(t_test, np.arange(4))
    monkeypatch.setenv("NNFRAME_DATA", str(folder))
    images = nn.data.mnist(flatten=False, dtype=np.float64)[0][0]
    assert images.shape == (6, 28, 28)
    np.testing.assert_allclose(images.reshape(6, 784), x, rtol=1e-6)
    plain = folder / FILES["test"][1]
    plain.write_bytes(gzip.decompress((folder / f"{plain.name}.gz").read_bytes()))
    (folder / f"{plain.name}.gz").unlink()
    np.testing.assert_array_equal(nn.data.mnist(folder)[1][1], np.arange(4))


IMAGES, LABELS = FILES["train"]
GOOD = idx(np.zeros((6, 28, 28)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, gzip.compress(GOOD)[:-20], "a whole gzip file, got a truncated or damaged one"),
        (IMAGES, gzip.compress(GOOD)[:30], "a whole gzip file"),
        (IMAGES, b"not gzip", "a whole gzip file"),
        (IMAGES, b"", "expected"),
        (IMAGES, gzip.compress(idx(np.zeros((6, 28, 28)), b"\0\0\x0d\3")), "magic number 00000803, got 00000d03"),
        (LABELS, gzip.compress(GOOD), "magic number 00000801, got 00000803"),
        (IMAGES, gzip.compress(GOOD[:10]), "a header of 16 bytes, got a file of 10"),
        (IMAGES, gzip.compress(GOOD[:-1]), r"expected 4704 bytes for shape \(6, 28, 28\), got 4703"),
        (IMAGES, gzip.compress(GOOD + b"\0"), "got 4705"),
        (LABELS, gzip.compress(idx(np.zeros(5))), f"a label for each of the 6 images of {IMAGES}.gz, got 5"),
        (LABELS, gzip.compress(idx(np.array([0, 1, 2, 30, 4, 5]))), "labels from 0 to 9, got 30 at position 3"),
    ],
)
def test_bad_files_are_refused_by_name(folder, name, content, message):
    (folder / f"{name}.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        nn.data.mnist(folder)
    assert str(folder / name) in str(caught.value)


def test_missing_files(folder, monkeypatch):
    monkeypatch.delenv("NNFRAME_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="as an argument or in NNFRAME_DATA"):
        nn.data.mnist()
    (folder / f"{LABELS}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"{LABELS}.gz: no such file"):
        nn.data.mnist(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        nn.data.mnist(folder / "nowhere")
