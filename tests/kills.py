"""Kills training runs with SIGKILL at random moments, resumes them, and compares the end with a run never stopped.

    python tests/kills.py --runs 200 --seed 0

Each run is one of SCENARIOS in a process of its own. It is killed up to six times: after a random time, or at a chosen
place (half of a checkpoint written; all of it, but not renamed; just renamed; a gradient taken; an epoch over), and
goes on with a random number of threads. At the end the bytes of everything that `Trainer.save` writes, but for seconds,
are those of the run that nobody stopped. Exit status 1 where they are not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

import nnframe as nn
from nnframe import _files, optimizers, training
from nnframe.training import checkpoint

EPOCHS = 6
ROWS = 230  # no multiple of the batch size
PLACES = ("time", "time", "half written", "not renamed", "renamed", "gradient", "epoch")


class Pausing(training.Callback):
    """A callback with a state of its own."""

    state = ("seen",)

    def __init__(self):
        self.seen = np.zeros(3, np.int64)

    def on_step_end(self, fit):
        self.seen[fit.taken % 3] += 1


def data():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((ROWS, 12)).astype(np.float32)
    return x, (x @ rng.standard_normal((12, 4))).argmax(axis=1)


def network(*extra, seed=0):
    return nn.Sequential(nn.Linear(12, 10, rng=seed), *extra, nn.Tanh(), nn.Linear(10, 4, rng=seed + 1))


def momentum():
    """Dropout, batch normalisation, momentum, a schedule with warm-up, early stopping; written every 7 steps."""
    model = network(nn.BatchNorm1d(10), nn.Dropout(0.2, rng=3))
    rule = nn.SGD(model.parameters(), optimizers.CosineDecay(0.2, 60, warmup_steps=5), momentum=0.9, nesterov=True)
    callbacks = [training.EarlyStopping(patience=2), training.ClipGradients(norm=1.0), Pausing()]
    return model, rule, nn.Backprop(), callbacks, {"rng": 7}, 7


def differences():
    """Central differences, Adam whose beta1 is a schedule as well, a plateau; written after each epoch."""
    model = network(nn.Dropout(0.1, rng=4))
    betas = optimizers.OneCycle(0.95, 48, div_factor=1.1)
    rule = nn.Adam(model.parameters(), 0.02, betas=lambda step: (betas(step), 0.99), amsgrad=True)
    callbacks = [training.ReduceLROnPlateau(patience=1, min_delta=0.05), training.WeightAverage(0.9)]
    return model, rule, nn.CentralDifference(), callbacks, {"rng": 8}, "epoch"


def spsa():
    """SPSA that shares its generator with the order of rows, drawn with replacement; written at every step."""
    model, rng = network(nn.Dropout(0.3, rng=5)), np.random.default_rng(9)
    rule = nn.RMSprop(model.parameters(), optimizers.ExponentialDecay(0.01, 10, 0.9), centered=True)
    return model, rule, nn.SPSA(rng=rng, samples=2), [training.StopOnDivergence()], {"rng": rng, "replacement": True}, 1


def blocks():
    """Blocks of coordinates, groups of parameters, one of them frozen, and another kind of generator."""
    model = network(nn.LayerNorm(10))
    model[1].weight.trainable = False
    first = nn.Lion(model[0].parameters() + model[1].parameters(), 0.01)
    rule = nn.Groups(first, nn.SGD(model[3].parameters(), 0.3, momentum=0.5))
    rng = np.random.Generator(np.random.MT19937(3))
    return model, rule, nn.CentralDifference(only=nn.Blocks(40, rng=2)), [training.WeightAverage(None)], {"rng": rng}, 5


SCENARIOS = {one.__name__: one for one in (momentum, differences, spsa, blocks)}


def run(name, folder, place="", skip=0):
    """Train, from the checkpoint if there is one; die at `place` after `skip` visits. Return the bytes of the end."""
    model, rule, strategy, callbacks, options, every = SCENARIOS[name]()
    x, t = data()
    trainer = nn.Trainer(model, nn.CrossEntropyLoss(), rule, strategy)
    callbacks = [*callbacks, training.ModelCheckpoint(folder / "run.safetensors", save_freq=every)]
    dying = Dying(place, skip)
    if place in ("gradient", "epoch"):
        callbacks[0].__dict__.update({f"on_{name}": told(callbacks[0], name, place, dying)
                                      for name in ("gradient", "epoch_end")})  # fmt: skip
    with dying.planted():
        trainer.fit(x[:200], t[:200], epochs=EPOCHS, batch_size=25, validation_data=(x[200:], t[200:]),
                    callbacks=callbacks, resume=True, progress=False, **options)  # fmt: skip
    state = trainer.state_dict()
    for row in state["fit"]["history"]["rows"]:
        row["seconds"] = 0.0
    state["fit"]["seconds"] = 0.0
    arrays = {}
    tree = checkpoint.pack(state, "state", arrays)
    return json.dumps([tree, [(name, str(a.dtype), a.tobytes().hex()) for name, a in arrays.items()]]).encode()


def told(callback, name, place, dying):
    before = getattr(callback, f"on_{name}")

    def on(fit):
        before(fit)
        if name.startswith(place):
            dying.visit()

    return on


class Dying:
    """Ends this process at a place, after some visits to it."""

    def __init__(self, place, skip):
        self.place, self.left = place, skip

    def visit(self):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def planted(self):
        before = _files._write, Path.replace

        def write(temporary, target, content):
            if self.place == "half written" and self.left <= 0:
                temporary.write_bytes(content[: len(content) // 2])
            if self.place == "half written":
                self.visit()
            before[0](temporary, target, content)
            if self.place == "not renamed":
                self.visit()

        def replace(path, target):
            found = before[1](path, target)
            if self.place == "renamed":
                self.visit()
            return found

        _files._write, Path.replace = write, replace
        try:
            yield
        finally:
            _files._write, Path.replace = before


def in_process(name, folder, place, skip, threads, delay):
    """Run in a child, which is killed after `delay` seconds if there is one; return whether it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            nn.set_num_threads(threads)
            (folder / "end").write_bytes(run(name, folder, place, skip))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if delay is not None:
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"{name}: a run that was not killed failed, see above ({place}, {folder})")
    return os.WIFEXITED(status)


def killed(name, rng, longest):
    """Return the end of a run that is killed now and then, and how often it was killed where."""
    kills = Counter()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for attempt in range(7):
            place = rng.choice(PLACES) if attempt < 6 else ""
            skip = rng.randrange(4 if place == "epoch" else 8) if place != "gradient" else rng.randrange(40)
            delay = rng.uniform(0, longest) if place == "time" else None
            if in_process(name, folder, place, skip, rng.choice((1, 2)), delay):
                break
            kills[place] += 1
        leftovers = [path.name for path in folder.iterdir() if path.name not in ("end", "run.safetensors")]
        if leftovers:
            raise SystemExit(f"{name}: files are left behind: {leftovers}")
        return (folder / "end").read_bytes(), kills


def expected(name):
    """Return the end of a run that nobody stops, and how long it takes."""
    with tempfile.TemporaryDirectory() as made:
        start = time.perf_counter()
        in_process(name, Path(made), "", 0, 1, None)
        return (Path(made) / "end").read_bytes(), time.perf_counter() - start


def compare(runs, seed):
    """Return how many of `runs` ended with other bytes, and how often which scenario was killed where."""
    rng, total, wrong = random.Random(seed), Counter(), 0
    ends = {name: expected(name) for name in SCENARIOS}
    for i in range(runs):
        name = list(SCENARIOS)[i % len(SCENARIOS)]
        end, kills = killed(name, rng, ends[name][1])
        total.update({(name, place): count for place, count in kills.items()})
        if end != ends[name][0]:
            wrong += 1
            print(f"run {i}, {name}: other bytes after {dict(kills)}")
    return wrong, total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong, total = compare(options.runs, options.seed)
    print(f"{options.runs} runs, {sum(total.values())} kills, {wrong} that ended with other bytes")
    for (name, place), count in sorted(total.items()):
        print(f"  {name:<12} {place:<13} {count}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
