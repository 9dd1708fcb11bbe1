"""Saved weights: what comes back is what was there, and what does not fit changes nothing."""

import os
import re
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nnframe as nn
from nnframe._state import fill


def make(rng=0, dtype=np.float32):
    return nn.Sequential(nn.Linear(7, 4, rng=rng, dtype=dtype), nn.Sigmoid(), nn.Linear(4, 3, rng=rng, dtype=dtype))


def state(model):
    return {name: value.copy() for name, value in model.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name, strict=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_save_and_load(path):
    model, other = make(1), make(2)
    nn.save(model, path)
    nn.load(other, path)
    assert_same(state(other), state(model))
    assert os.listdir(path.parent) == ["model.safetensors"]  # noqa: PTH208
    assert sorted(load_file(path)) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    double = make(3, np.float64)
    nn.load(double, path)
    assert double.dtype == np.float64
    assert_same(state(double), {name: value.astype(np.float64) for name, value in state(model).items()})


def test_memory_order_does_not_matter(path):
    model = make()
    weight = np.arange(28, dtype=np.float32).reshape(4, 7)
    model[0].weight.value = np.asfortranarray(weight)
    nn.save(model, path)
    np.testing.assert_array_equal(load_file(path)["0.weight"], weight)
    other = make()
    other[0].weight.value = np.asfortranarray(other[0].weight.value)
    nn.load(other, path)
    np.testing.assert_array_equal(other[0].weight.value, weight)


class Keeping(nn.Layer):
    """A layer with a parameter, and buffers of any dtype and memory order."""

    def __init__(self, **arrays):
        self.weight = nn.Parameter(np.ones(2))
        for name, array in arrays.items():
            buffer = nn.Buffer(0)
            buffer.value = array
            setattr(self, name, buffer)

    @property
    def arrays(self):
        return {name: buffer.value for name, buffer in self.named_buffers()}


DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float64"]


def test_buffers_of_any_dtype(path, rng):
    arrays = {dtype: rng.integers(0, 2, (3, 2)).astype(dtype) for dtype in DTYPES}
    arrays["uint64"][0, 0] = 2**64 - 1  # a seed: no float and no int64 holds it
    arrays |= {"scalar": np.array(7), "empty": np.zeros((0, 3), np.float32), "big": np.arange(3, dtype=">i4")}
    nn.save(Keeping(**arrays), path)
    other = Keeping(**{name: np.zeros_like(array) for name, array in arrays.items()})
    nn.load(other, path)
    assert_same(other.arrays, arrays)
    for dtype in ("complex128", "datetime64[s]", object):
        with pytest.raises(
            ValueError, match="odd: expected a dtype that safetensors has, got " + np.dtype(dtype).name[:8]
        ):
            nn.save(Keeping(odd=np.zeros(2, dtype)), path)


@pytest.mark.parametrize(
    ("own", "given", "message"),
    [
        ("int8", np.array([1, 200]), "kept: expected integers that int8 can hold, got 200"),
        ("uint64", np.array([1, -1]), "kept: expected integers that uint64 can hold, got -1"),
        ("int64", np.array([1, 2**64 - 1], np.uint64), f"can hold, got {2**64 - 1}"),
        ("int64", np.array([1.0, 2.0]), "kept: expected integers, got float64"),
        ("bool", np.array([1, 0]), "kept: expected bools, got int64"),
        ("float32", np.array([1, 0]), "kept: expected floating-point numbers, got int64"),
        ("float32", np.array([[1.0, 2.0]]), "kept: expected shape (2,), got (1, 2)"),
    ],
)
def test_kinds_and_ranges_are_kept(path, own, given, message):
    model = Keeping(kept=np.ones(2, own))
    save_file({"weight": np.zeros(2, np.float32), "kept": given}, path)
    with pytest.raises(ValueError, match=re.escape(message)):
        nn.load(model, path)
    assert model.arrays["kept"].tolist() == [1, 1]
    assert model.weight.value.tolist() == [1, 1], "nothing is changed where one does not fit"


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (-np.inf, "-inf"), (1e300, "1e[+]300")])
def test_numbers_that_are_not_finite_are_refused_by_name(path, value, shown):
    weights = state(make(1, np.float64))
    weights["2.weight"][1, 2] = value
    save_file(weights, path)
    model = make(2)
    before = state(model)
    with pytest.raises(ValueError, match=rf"2\.weight: expected finite numbers, got {shown} at \(1, 2\)") as caught:
        nn.load(model, path)
    assert str(path) in str(caught.value)
    assert ("float32 cannot hold" in str(caught.value)) == (value == 1e300)
    assert_same(state(model), before)
    nn.load(model, path, allow_nonfinite=True)
    with np.errstate(over="ignore"):
        assert_same(state(model), {name: array.astype(np.float32) for name, array in weights.items()})


def test_a_mask_of_infinities_comes_back(path):
    mask = np.array([[0, -np.inf], [0, 0]])
    nn.save(Keeping(mask=mask), path)
    nn.load(Keeping(mask=mask.copy()), path)
    with pytest.raises(ValueError, match=r"mask: expected finite numbers, got -inf at \(0, 1\)"):
        nn.load(Keeping(mask=np.zeros((2, 2))), path)
    nn.save(Keeping(mask=np.array(np.nan)), path)
    with pytest.raises(ValueError, match="mask: expected finite numbers, got nan "):
        nn.load(Keeping(mask=np.array(0.0)), path)


def test_a_read_only_parameter_is_found_before_anything_is_changed(path):
    nn.save(make(1), path)
    model = make(2)
    before = state(model)
    model[2].bias.value.flags.writeable = False
    with pytest.raises(ValueError, match=r"2\.bias: expected an array of the model that can be written to"):
        nn.load(model, path)
    assert_same(state(model), before)


def test_two_arrays_of_one_name_are_refused(path):
    class Twice(nn.Layer):
        def __init__(self):
            self.part = {1: nn.Parameter(np.ones(2)), "1": nn.Parameter(np.zeros(2))}

    for use in (nn.save, nn.load):
        with pytest.raises(ValueError, match=r"model: expected a name for each array, got two of the name 'part\.1'"):
            use(Twice(), path)
    assert not path.exists()
    with pytest.raises(ValueError, match="names that safetensors does not use itself, got '__metadata__'"):
        nn.save(Keeping(__metadata__=np.ones(1)), path)


def test_what_does_not_fit_changes_nothing(path):
    model = make()
    before = state(model)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        nn.load(model, path)
    nn.save(model, path)
    whole = path.read_bytes()
    for content in (b"", b"rubbish", whole[:-8], whole[:50], whole.replace(b'"F32"', b'"BF1"', 1)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors: expected a safetensors file"):
            nn.load(model, path)
    for saved, message in (
        (
            nn.Sequential(nn.Linear(7, 4), nn.Sigmoid(), nn.Linear(4, 2)),
            r"2\.weight: expected shape \(3, 4\), got \(2, 4\)",
        ),
        (nn.Sequential(nn.Linear(7, 4)), r"missing: 2\.bias, 2\.weight; unknown: none"),
        (
            nn.Sequential(*(nn.Linear(7, 7) for _ in range(8))),
            r"missing: none; unknown: 1\.bias, 1\.weight, .* and 4 more",
        ),
    ):
        nn.save(saved, path)
        with pytest.raises(ValueError, match=rf"model\.safetensors: .*{message}"):
            nn.load(model, path)
    assert_same(state(model), before)
    with pytest.raises(ValueError, match="model: expected at least one parameter"):
        nn.save(nn.Sigmoid(), path)


def test_arguments_in_the_wrong_order(path):
    for name, use in (("save", nn.save), ("load", nn.load)):
        with pytest.raises(TypeError, match=rf"model: expected a Layer, got .*; .* nn\.{name}\(model, path\)"):
            use(path, make())
        with pytest.raises(TypeError, match="model: expected a Layer, got 3$"):
            use(3, path)
        with pytest.raises(TypeError, match="path: expected a path, got None"):
            use(make(), None)
    with pytest.raises(TypeError, match="allow_nonfinite: expected True or False, got 'no'"):
        nn.load(make(), path, allow_nonfinite="no")


def test_a_fifo_and_a_folder_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for use in (nn.save, nn.load):
        with pytest.raises(OSError, match="expected a regular file, got a FIFO"):
            use(make(), tmp_path / "fifo")
        with pytest.raises(IsADirectoryError, match="expected a regular file, got a directory"):
            use(make(), tmp_path)


def test_a_signal_at_any_moment_leaves_all_or_nothing():
    own = {str(i): np.zeros(500) for i in range(300)}

    def ring(*_):
        raise TimeoutError

    before, outcomes = signal.signal(signal.SIGALRM, ring), []
    try:
        for round_ in range(1, 301):
            new = {name: np.full(500, float(round_)) for name in own}
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + 5e-3 * (round_ % 60) / 60)
                fill(own, new)
                signal.setitimer(signal.ITIMER_REAL, 0)
                outcomes.append("whole")
            except TimeoutError:
                outcomes.append("cut")
            found = {value for array in own.values() for value in (array[0], array[-1])}
            assert len(found) == 1, f"round {round_}: {len(found)} different states in one model"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert outcomes.count("cut") > 10, "the test interrupts too rarely to tell anything"
