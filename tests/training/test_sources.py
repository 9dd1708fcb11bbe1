"""Mini-batches from a loader, an iterable, a generator and a memory-mapped array."""

import subprocess
import sys

import numpy as np
import pytest

import nnframe as nn
from nnframe import training


def data(rows=40):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 5)).astype(np.float32), rng.integers(0, 3, rows)


def make(gradient=None):
    model = nn.Sequential(nn.Linear(5, 4, rng=0), nn.Tanh(), nn.Linear(4, 3, rng=1))
    return nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.3, 0.9), gradient or nn.Backprop())


def bits(trainer):
    return {name: value.tobytes() for name, value in trainer.model.state_dict().items()}


def batches(first=0):
    x, t = data()
    return [(x[i : i + 8], t[i : i + 8]) for i in range(first, 40, 8)]


def endless():
    while True:
        yield from batches()


class Iterable:
    def __iter__(self):
        return iter([list(batch) for batch in batches()])


SOURCES = {
    "list": (batches, {}),
    "iterable": (Iterable, {}),
    "function": (lambda: lambda: iter(batches()), {}),
    "generator": (endless, {"steps_per_epoch": 5}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_batches_that_come_train_as_rows_of_arrays_do(name):
    make_source, options = SOURCES[name]
    expected, trainer = make(), make()
    rows = expected.fit(*data(), epochs=3, batch_size=8, shuffle=False, progress=False)
    history = trainer.fit(make_source(), epochs=3, progress=False, **options)
    assert bits(trainer) == bits(expected)
    assert history["loss"] == rows["loss"]
    assert history["accuracy"] == rows["accuracy"]


def test_a_loader_says_how_batches_are_drawn():
    expected, trainer = make(), make()
    expected.fit(*data(), epochs=3, batch_size=7, rng=4, progress=False)
    trainer.fit(nn.DataLoader(*data(), 7, rng=4), epochs=3, progress=False)
    assert bits(trainer) == bits(expected)


@pytest.mark.parametrize("name", [*SOURCES, "loader"])
@pytest.mark.parametrize("at", [3, 5, 7])
def test_a_run_that_goes_on_leaves_out_what_it_has_seen(tmp_path, name, at):
    class Ended(Exception):
        pass

    class Ending(training.Callback):
        def on_step_end(self, fit):
            if fit.taken == at + 1:
                raise Ended

    make_source, options = SOURCES.get(name, (lambda: nn.DataLoader(*data(), 8, rng=4), {}))
    expected, stopped, trainer = make(), make(), make()
    rows = expected.fit(make_source(), epochs=3, progress=False, **options)
    keeper = training.ModelCheckpoint(tmp_path / "run", save_freq=at)
    with pytest.raises(Ended):
        stopped.fit(make_source(), epochs=3, progress=False, callbacks=[keeper, Ending()], **options)
    Ending.on_step_end = training.Callback.on_step_end
    history = trainer.fit(make_source(), epochs=3, progress=False, callbacks=[keeper, Ending()], resume=True, **options)
    assert bits(trainer) == bits(expected)
    assert history["loss"] == rows["loss"]


def spoiled():
    x, t = batches()[1]
    return [batches()[0], (np.where(np.arange(8)[:, None] == 3, np.nan, x), t)]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (lambda: data()[0], {}, "t: expected labels, or in place of x what yields mini-batches"),
        (lambda: 3, {}, "x: expected arrays with t, or what yields mini-batches"),
        (endless, {}, "steps_per_epoch: expected a number with an iterator"),
        (lambda: [(1, 2, 3)], {}, r"mini-batch 1: expected a pair \(x, t\), got tuple"),
        (spoiled, {}, "mini-batch 2: expected finite numbers in x, got NaN or infinity in row 3"),
        (lambda: [(data()[0], data()[1][:5])], {}, "mini-batch 1: expected arrays with the same number of rows"),
        (list, {}, "x: expected at least one mini-batches in an epoch, got 0"),
        (lambda: iter(batches()), {"steps_per_epoch": 7}, "x: expected 7 mini-batches in an epoch, got 5"),
        (batches, {"validation_split": 0.5}, "validation_split, sample_weight, class_weight: expected none without t"),
        (lambda: nn.DataLoader(*data()), {"steps_per_epoch": 2}, "steps_per_epoch: expected None with a DataLoader"),
    ],
)
def test_what_does_not_fit_is_refused(source, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make().fit(source(), progress=False, **options)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
def test_a_memory_mapped_array_is_never_copied_as_a_whole(tmp_path):
    code = f"""
import re, numpy as np, nnframe as nn
rows, width = 60_000, 1_000
x = np.lib.format.open_memmap({str(tmp_path / "x.npy")!r}, "w+", np.float64, (rows, width))
x[::1000, :3] = 1.0
x.flush()
x = np.load({str(tmp_path / "x.npy")!r}, mmap_mode="r")
model = nn.Sequential(nn.Linear(width, 2, rng=0))
trainer = nn.Trainer(model, nn.CrossEntropyLoss(), nn.SGD(model.parameters(), 0.1), nn.Backprop())
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
peak = []
class Seeing(nn.Callback):
    def on_step_end(self, fit):
        peak.append(anonymous())
before = anonymous()
trainer.fit(x, np.arange(rows) % 2, batch_size=500, rng=0, progress=False, validation_split=0.5, callbacks=Seeing())
print(max(peak) - before, x.nbytes / 2**20)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    grown, whole = map(float, done.stdout.split())
    assert grown < whole / 4
