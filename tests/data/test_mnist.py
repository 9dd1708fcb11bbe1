"""MNIST from its files: spelt in several ways, compressed or not, good and bad."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

import nnframe as nn
from nnframe.data.mnist import FILES, MOST_BYTES


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
    pixels = np.frombuffer(gzip.decompress((folder / f"{IMAGES}.gz").read_bytes()), np.uint8, offset=16)
    np.testing.assert_array_equal(x.ravel(), pixels.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(t, np.arange(6))
    np.testing.assert_array_equal(t_test, np.arange(4))
    monkeypatch.setenv("NNFRAME_DATA", str(folder))
    images = nn.data.mnist(flatten=False, dtype=np.float64)[0][0]
    assert images.shape == (6, 28, 28)
    np.testing.assert_array_equal(images.ravel(), pixels / 255)
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
        (IMAGES, b"not gzip", "an IDX file, compressed by gzip or not, with magic number 00000803, got 6e6f7420"),
        (IMAGES, b"", "magic number 00000803, got nothing"),
        (IMAGES, gzip.compress(idx(np.zeros((6, 28, 28)), b"\0\0\x0d\3")), "magic number 00000803, got 00000d03"),
        (LABELS, gzip.compress(GOOD), "magic number 00000801, got 00000803"),
        (IMAGES, gzip.compress(GOOD[:10]), "a header of 16 bytes, got a file of 10"),
        (IMAGES, gzip.compress(GOOD[:-1]), r"expected 4704 bytes for shape \(6, 28, 28\), got 4703"),
        (IMAGES, gzip.compress(GOOD + b"\0"), r"expected 4704 bytes for shape \(6, 28, 28\), got more"),
        (IMAGES, GOOD + b"\0", "got more"),
        (IMAGES, gzip.compress(GOOD) + b"rubbish", "a whole gzip file"),
        (IMAGES, idx(np.zeros((6, 0, 28))), r"at least one image of at least one pixel, got shape \(6, 0, 28\)"),
        (IMAGES, idx(np.zeros((0, 28, 28))), r"at least one image of at least one pixel, got shape \(0, 28, 28\)"),
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


def unpack(folder, name, spelling):
    """Leave one of the files in the folder under another name, without compression."""
    packed = folder / f"{name}.gz"
    (folder / spelling).write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()


def assert_read(folder):
    (x, t), (x_test, t_test) = nn.data.mnist(folder)
    assert (x.shape, x_test.shape) == ((6, 784), (4, 784))
    np.testing.assert_array_equal(t, np.arange(6))
    np.testing.assert_array_equal(t_test, np.arange(4))


@pytest.mark.parametrize("ending", ["", ".gz"], ids=["plain", "called .gz"])
def test_the_other_spelling_and_what_is_inside_counts(folder, ending):
    for names in FILES.values():
        for name in names:
            unpack(folder, name, name.replace("-idx", ".idx") + ending)
    assert (folder / f"train-images.idx3-ubyte{ending}").is_file()
    assert_read(folder)


def test_gzip_without_its_ending(folder):
    for names in FILES.values():
        for name in names:
            (folder / f"{name}.gz").rename(folder / name)
    assert_read(folder)


def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert_read(f"~/{folder.name}")
    monkeypatch.setenv("NNFRAME_DATA", f"~/{folder.name}")
    assert_read(None)
    with pytest.raises(TypeError, match="folder: expected a path, got 3"):
        nn.data.mnist(3)


def test_images_of_two_sizes(folder):
    (folder / f"{FILES['test'][0]}.gz").write_bytes(idx(np.zeros((4, 14, 28))))
    with pytest.raises(ValueError, match=f"expected images of 28x28 pixels like those of {IMAGES}.gz, got 14x28") as e:
        nn.data.mnist(folder)
    assert FILES["test"][0] in str(e.value)


def bomb(shape):
    """64 MiB of zeros behind a header, in 65 kB."""
    return gzip.compress(idx(np.zeros((0,)), bytes((0, 0, 8, 3)))[:4] + struct.pack(">3I", *shape) + bytes(2**26))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((6, 28, 28), r"expected 4704 bytes for shape \(6, 28, 28\), got more"),
        ((2**31, 2**31, 28), f"expected at most {MOST_BYTES:,} bytes, got 129,127,208,515,966,861,312"),
        ((2**31, 0, 28), r"expected 0 bytes for shape .*, got more"),
    ],
)
def test_no_more_is_decompressed_than_the_header_says(folder, shape, message):
    (folder / f"{IMAGES}.gz").write_bytes(bomb(shape))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            nn.data.mnist(folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22, f"{peak} bytes"
