"""The command `nnframe train`: a classifier of real images, from the data to the files it leaves."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import nnframe as nn
from nnframe._files import as_path, replaceable, write_together
from nnframe.cli.models import ACTIVATIONS, MODELS, make_model
from nnframe.cli.parsing import INTERRUPTED, Parser, Refused, count, rate, seed, sizes
from nnframe.data.loader import Pair
from nnframe.io.weights import to_bytes
from nnframe.training.interrupts import DeferredInterrupt

RESULTS = ("model.safetensors", "history.csv", "history.png")

# What each data set is trained with unless the user says otherwise.
DEFAULTS = {
    "digits": {"epochs": 30, "batch_size": 32, "sgd": 1.0, "adam": 0.02},
    "mnist": {"epochs": 3, "batch_size": 100, "sgd": 1.0, "adam": 0.01},
}
LENET_RATES = {"sgd": 0.1, "adam": 0.002}
GRADIENTS: dict[str, Callable[[], nn.training.Strategy]] = {
    "central": nn.CentralDifference,
    "backprop": nn.Backprop,
    "node": nn.NodePerturbation,
}


def add_command(commands: Any) -> None:
    """Describe the command."""
    train: Parser = commands.add_parser(
        "train",
        help="train a classifier on real images",
        description="Train a network on handwritten digits, by central differences unless told otherwise. "
        "Writes model.safetensors, history.csv and, with matplotlib, history.png.",
    )
    train.set_defaults(run=run)
    add = train.add_argument
    add("data", nargs="?", choices=tuple(DEFAULTS), default="digits", help="the data set (default: digits)")
    add("--gradient", choices=tuple(GRADIENTS), default="central", help="default: central")
    add(
        "--model",
        default="mlp",
        metavar="MODEL",
        help=f"{', '.join(MODELS)}, or FILE.py:NAME of a model of yours or of a function that makes one (default: mlp)",
    )
    add("--args", default="", metavar="ARGS", help="what a model of yours is made with, such as '4, bias=False'")
    add("--shape", type=sizes, metavar="N,...", help="in which a model of yours takes an image (default: flat)")
    add("--hidden", type=sizes, metavar="N[,N...]", help="units of the hidden layers of mlp (default: 50)")
    add("--activation", choices=tuple(ACTIVATIONS), help="of mlp (default: sigmoid)")
    add("--epochs", type=count, metavar="N", help="default: 30 for digits, 3 for mnist")
    add("--batch-size", type=count, metavar="N", help="default: 32 for digits, 100 for mnist")
    add(
        "--lr",
        type=rate,
        metavar="X",
        help="learning rate (default: 1 for sgd; 0.02, with mnist 0.01, for adam; for lenet 0.1 and 0.002)",
    )
    add("--optimizer", choices=("sgd", "adam"), default="adam", help="default: adam")
    add("--seed", type=seed, default=0, metavar="N", help="of weights and mini-batches (default: 0)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    add("--data-folder", metavar="DIR", help="where MNIST's four IDX files are (default: $NNFRAME_DATA)")
    add("--out", metavar="DIR", help="where to write (default: nnframe-digits or nnframe-mnist)")


def run(options: argparse.Namespace) -> int:
    """Train, print, write."""
    (x, t), test = load_data(options)
    out = make_folder(as_path(options.out or f"nnframe-{options.data}"))
    rng = np.random.default_rng(options.seed)
    model, shape = make_model(math.isqrt(x.shape[1]), options, rng)
    x, test = x.reshape(-1, *shape), (test[0].reshape(-1, *shape), test[1])
    trainer = make_trainer(model, options)
    defaults = DEFAULTS[options.data]
    batch_size = int(options.batch_size or defaults["batch_size"])
    print(model.summary(shape))
    print(f"{options.data}: {len(x):,} images to train on, {len(test[0]):,} to test on; gradient {trainer.gradient!r}, "
          f"{type(trainer.optimizer).__name__} lr {trainer.optimizer.lr:g}, batch {batch_size}, seed {options.seed}, "
          f"{nn.config_info()['simd']}, {nn.get_num_threads()} threads")  # fmt: skip
    if isinstance(trainer.gradient, nn.CentralDifference | nn.NodePerturbation):
        some = slice(0, batch_size)
        cost = trainer.gradient.cost(model, trainer.loss, x[some], t[some])
        gradients = math.ceil(len(x) / batch_size)
        print(f"one gradient: {cost}; an epoch takes {gradients:,}, about {_duration(gradients * cost.seconds)}")
    print()
    try:
        history = trainer.fit(
            x,
            t,
            epochs=int(options.epochs or defaults["epochs"]),
            batch_size=batch_size,
            validation_data=test,
            rng=rng,
        )
    except FloatingPointError as error:
        raise Refused(error) from error
    with DeferredInterrupt() as interrupt:
        interrupt.hold()  # a second Ctrl-C waits until the results are written
        finish(model, history, out)
        interrupt.release()
    return INTERRUPTED if history.interrupted else 0


def finish(model: nn.Layer, history: nn.History, out: Path) -> None:
    """Report how good the model is, and write what there is."""
    if not len(history):
        print(f"no epoch is complete: nothing is written to {out}")
        return
    last = history.rows[-1]
    print(f"\ntest accuracy {last['val_accuracy']:.2%} after {sum(history['seconds']):.1f} s of training")
    write_results(model, history, out)


def load_data(options: argparse.Namespace) -> tuple[Pair, Pair]:
    """Load the selected data set."""
    try:
        if options.data == "digits":
            return nn.data.digits(dtype=options.dtype)
        if not (options.data_folder or os.environ.get("NNFRAME_DATA")):
            raise Refused(
                "mnist: expected the folder of its four IDX files, by --data-folder DIR or in the environment variable "
                "NNFRAME_DATA; digits come with nnframe"
            )
        return nn.data.mnist(options.data_folder, dtype=options.dtype)
    except (OSError, ValueError) as error:
        raise Refused(error) from error


def make_folder(folder: Path) -> Path:
    """Make the folder to write to, and see that all can be written there, before anything is computed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for name in RESULTS:
            replaceable(folder / name)
    except OSError as error:
        raise Refused(f"--out {folder}: cannot be written to: {_reason(error)}") from error
    return folder


def make_trainer(model: nn.Layer, options: argparse.Namespace) -> nn.Trainer:
    """Make what trains the model."""
    rule = nn.SGD if options.optimizer == "sgd" else nn.Adam
    usual = LENET_RATES if options.model == "lenet" else DEFAULTS[options.data]
    optimizer = rule(model.parameters(), options.lr or usual[options.optimizer])
    return nn.Trainer(model, nn.CrossEntropyLoss(), optimizer, GRADIENTS[options.gradient]())


def write_results(model: nn.Layer, history: nn.History, out: Path) -> None:
    """Write the weights, the history and its picture; files of an earlier run do not stay among them."""
    picture, why_not = draw(history)
    contents = dict(zip(RESULTS, (to_bytes(model), history.to_bytes(), picture), strict=True))
    earlier = [name for name in RESULTS if (out / name).exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_together({out / name: content for name, content in contents.items()})
    except OSError as error:
        refuge = Path(tempfile.mkdtemp(prefix="nnframe-"))
        write_together({refuge / name: content for name, content in contents.items()})
        raise Refused(f"--out {out}: cannot be written to: {_reason(error)}; the results are in {refuge}") from error
    written = [name for name, content in contents.items() if content is not None]
    instead = f", in place of an earlier run's {', '.join(earlier)}" if earlier else ""
    print(f"wrote {', '.join(written)} to {out}{instead}")
    if picture is None:
        print(f"there is no history.png: {why_not}")


def draw(history: nn.History) -> tuple[bytes | None, str]:
    """Return the picture of a history or, as it is no reason to lose the rest, why there is none."""
    from nnframe import plotting

    try:
        return plotting.to_bytes(plotting.plot_history(history), "png"), ""
    except Exception as error:  # matplotlib that is not installed, or does not work
        return None, str(error)


def _duration(seconds: float) -> str:
    """Return a time in words."""
    return f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.2g} s"


def _reason(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror}"
