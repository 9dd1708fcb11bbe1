"""The command `nnframe`: train a classifier on real images, check gradients, report what nnframe runs on."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import nnframe as nn
from nnframe._files import as_path, replaceable, write_together
from nnframe.cli import check
from nnframe.cli.parsing import Parser, Refused, count, rate, seed, sizes
from nnframe.data.loader import Pair
from nnframe.io.weights import to_bytes
from nnframe.training.interrupts import DeferredInterrupt, Termination

RESULTS = ("model.safetensors", "history.csv", "history.png")
INTERRUPTED = 130  # exit status after Ctrl-C

# What each data set is trained with unless the user says otherwise.
DEFAULTS = {
    "digits": {"epochs": 30, "batch_size": 32, "sgd": 1.0, "adam": 0.02},
    "mnist": {"epochs": 3, "batch_size": 100, "sgd": 1.0, "adam": 0.01},
}
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Layer], Callable[[], nn.initializers.Initializer]]] = {
    "sigmoid": (nn.Sigmoid, nn.Xavier),
    "tanh": (nn.Tanh, nn.Xavier),
    "relu": (nn.ReLU, nn.He),
    "leaky_relu": (nn.LeakyReLU, nn.He),
    "elu": (nn.ELU, nn.He),
    "gelu": (nn.GELU, nn.He),
    "silu": (nn.SiLU, nn.He),
    "softplus": (nn.Softplus, nn.He),
}
GRADIENTS: dict[str, Callable[[], nn.training.Strategy]] = {
    "central": nn.CentralDifference,
    "backprop": nn.Backprop,
    "node": nn.NodePerturbation,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0, 1 for a wrong gradient, 2 for bad input, 128 + n after signal n (130: Ctrl-C).
    """
    lasting = contextlib.redirect_stdout(Lasting(sys.stdout)), contextlib.redirect_stderr(Lasting(sys.stderr))
    with lasting[0], lasting[1], Termination() as termination:
        try:
            options = make_parser().parse_args(arguments)
            status: int = options.run(options)
        except Refused as error:
            print(f"nnframe: error: {error}", file=sys.stderr)
            status = 2
        except KeyboardInterrupt:
            print("nnframe: interrupted", file=sys.stderr)
            status = INTERRUPTED
        finally:
            sys.stdout.flush()  # as long as an error there is no reason to complain
        return 128 + termination.number if termination.number else status


class Lasting:
    """A text stream that goes on where nobody reads it any more, or there is none: no work is lost for a line."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, if somebody reads; what the encoding does not have as escapes."""
        if self.stream is not None:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                self.write(text.encode("ascii", "backslashreplace").decode())
            except OSError:
                self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush, if somebody reads."""
        if self.stream is not None:
            try:
                self.stream.flush()
            except OSError:
                self._give_up()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream is not None and self.stream.isatty()

    def _give_up(self) -> None:
        """Lead the stream nowhere: Python itself writes at the end what is left in its buffer."""
        stream, self.stream = self.stream, None
        with contextlib.suppress(OSError, AttributeError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())  # type: ignore[union-attr]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_parser() -> Parser:
    """Describe the command line."""
    description = "Train neural networks without automatic differentiation, and check backward passes."
    parser = Parser(prog="nnframe", description=description)
    parser.add_argument("--version", action="version", version=f"nnframe {nn.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|check|info", parser_class=Parser)
    info = commands.add_parser("info", help="print versions, instruction set and threads")
    info.set_defaults(run=run_info)
    check.add_command(commands)
    train = commands.add_parser(
        "train",
        help="train a classifier on real images",
        description="Train a network on handwritten digits, by central differences unless told otherwise. "
        "Writes model.safetensors, history.csv and, with matplotlib, history.png.",
    )
    train.set_defaults(run=run_train)
    add = train.add_argument
    add("data", nargs="?", choices=tuple(DEFAULTS), default="digits", help="the data set (default: digits)")
    add("--gradient", choices=tuple(GRADIENTS), default="central", help="default: central")
    add(
        "--hidden",
        type=sizes,
        default=[50],
        metavar="N[,N...]",
        help="units of the hidden layers (default: 50)",
    )
    add("--activation", choices=tuple(ACTIVATIONS), default="sigmoid", help="default: sigmoid")
    add("--epochs", type=count, metavar="N", help="default: 30 for digits, 3 for mnist")
    add("--batch-size", type=count, metavar="N", help="default: 32 for digits, 100 for mnist")
    add(
        "--lr",
        type=rate,
        metavar="X",
        help="learning rate (default: 1 for sgd; 0.02, with mnist 0.01, for adam)",
    )
    add("--optimizer", choices=("sgd", "adam"), default="adam", help="default: adam")
    add("--seed", type=seed, default=0, metavar="N", help="of weights and mini-batches (default: 0)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    add("--data-folder", metavar="DIR", help="where MNIST's four IDX files are (default: $NNFRAME_DATA)")
    add("--out", metavar="DIR", help="where to write (default: nnframe-digits or nnframe-mnist)")
    return parser


def run_info(options: argparse.Namespace) -> int:
    """Print versions, instruction set and threads."""
    nn.show_config()
    return 0


def run_train(options: argparse.Namespace) -> int:
    """Train, print, write."""
    (x, t), test = load_data(options)
    out = make_folder(as_path(options.out or f"nnframe-{options.data}"))
    rng = np.random.default_rng(options.seed)
    trainer = make_trainer(x.shape[1], options, rng)
    defaults = DEFAULTS[options.data]
    batch_size = int(options.batch_size or defaults["batch_size"])
    print(trainer.model.summary())
    print(f"{options.data}: {len(x):,} images to train on, {len(test[0]):,} to test on; gradient {trainer.gradient!r}, "
          f"{type(trainer.optimizer).__name__} lr {trainer.optimizer.lr:g}, batch {batch_size}, seed {options.seed}, "
          f"{nn.config_info()['simd']}, {nn.get_num_threads()} threads\n")  # fmt: skip
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
        finish(trainer.model, history, out)
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


def make_model(inputs: int, options: argparse.Namespace, rng: np.random.Generator) -> nn.Sequential:
    """Make a classifier: inputs, hidden layers with the activation, 10 classes."""
    activation, init = ACTIVATIONS[options.activation]
    sizes = [inputs, *map(int, options.hidden)]
    layers: list[nn.Layer] = []
    for below, above in itertools.pairwise(sizes):
        layers += [nn.Linear(below, above, init=init(), dtype=options.dtype, rng=rng), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10, init=nn.Xavier(), dtype=options.dtype, rng=rng))


def make_trainer(inputs: int, options: argparse.Namespace, rng: np.random.Generator) -> nn.Trainer:
    """Make a classifier and what trains it."""
    model = make_model(inputs, options, rng)
    rule = nn.SGD if options.optimizer == "sgd" else nn.Adam
    optimizer = rule(model.parameters(), options.lr or DEFAULTS[options.data][options.optimizer])
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


def _reason(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror}"
