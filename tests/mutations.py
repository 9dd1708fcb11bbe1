"""Mistakes planted one at a time: does a test see each of them?

    python tests/mutations.py            all
    python tests/mutations.py quota      those whose description or file has these words
    python tests/mutations.py --list

Each is planted in a copy of the checkout (the compiled kernels come along), and the tests that are about it are run
there. The exit status is 1 where one survives, where a text to replace is not found exactly once, or where these tests
fail without a mistake.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 300  # a mutation may make a test run for ever


class Mutation(NamedTuple):
    """A mistake: in `file`, `old` becomes `new`; `breaks` says what is wrong then, `tests` what is run."""

    file: str
    old: str
    new: str
    breaks: str
    tests: str


MUTATIONS: list[Mutation] = [
    # ---- those that once survived the whole suite ----
    Mutation(
        "nnframe/gradients/in_c.py",
        "        if self.wanted is not None:\n            self.weight[",
        "        if False:\n            self.weight[",
        "what only= leaves out is not zeroed",
        "tests/gradients/test_selected_entries.py",
    ),
    Mutation(
        "nnframe/training/trainer.py",
        'sums["loss"] += loss * len(x)',
        'sums["loss"] += loss * 32',
        "the training loss of an epoch is weighted by 32, not by rows",
        "tests/training/test_means_of_an_epoch.py",
    ),
    Mutation(
        "nnframe/training/trainer.py",
        "if right is None else right * len(x)",
        "if right is None else right * 32",
        "the training accuracy of an epoch is weighted by 32, not by rows",
        "tests/training/test_means_of_an_epoch.py",
    ),
    Mutation(
        "nnframe/core/layer.py",
        "        self.backward(x, y, dy)\n\n    def difference",
        "        return\n\n    def difference",
        "the default backward_parameters does nothing",
        "tests/gradients/test_written_backward.py",
    ),
    Mutation(
        "nnframe/layers/linear.py",
        "if type(self).backward is Linear.backward:",
        "if True:",
        "Linear.backward_parameters passes over a derived class's backward",
        "tests/gradients/test_written_backward.py",
    ),
    Mutation(
        "nnframe/config.py",
        "min(affinity, _quota(affinity))",
        "affinity",
        "a container's CPU quota is ignored",
        "tests/package/test_cpu_quota.py",
    ),
    Mutation(
        "nnframe/training/trainer.py",
        "                self.gradient.output = None  # an old one would be taken for this mini-batch's",
        "                pass",
        "a strategy's output of an earlier batch is taken for this one's",
        "tests/training/test_means_of_an_epoch.py",
    ),
]


def checkout(folder: Path) -> None:
    """Copy what git knows of, as it is in the working tree, and the compiled kernels."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    compiled = [
        str(path.relative_to(ROOT)) for path in (ROOT / "nnframe").rglob("_kernels.*") if path.suffix in _BINARY
    ]
    if not compiled:
        raise FileNotFoundError("nnframe/kernels: expected compiled kernels; build them in place by pip install -e .")
    for name in [*listed.stdout.splitlines(), *compiled]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


_BINARY = (".so", ".pyd")


def run(folder: Path, tests: str) -> tuple[bool, str]:
    """Run tests in a copy: whether they pass, and their last lines."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    where = "import nnframe, sys; print(nnframe.__file__, file=sys.stderr)"
    seen = subprocess.run(
        [sys.executable, "-c", where], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if seen.returncode == 0 and not seen.stderr.strip().startswith(str(folder)):
        raise RuntimeError(f"expected nnframe of the copy, got {seen.stderr}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests.split()]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"ran for more than {SECONDS} s"
    if done.returncode in (2, 3, 4, 5):  # interrupted, internal error, usage, nothing collected
        if "error" in done.stdout.lower() and done.returncode == 2:  # nnframe cannot even be imported
            return False, done.stdout.strip().splitlines()[-1]
        raise RuntimeError(f"pytest {tests}: {done.stdout}{done.stderr}")
    return done.returncode == 0, (done.stdout.strip().splitlines() or ["no output"])[-1]


def plant(folder: Path, mutation: Mutation) -> str | None:
    """Put a mistake into the copy and return the file's text of before; None where it does not fit."""
    path = folder / mutation.file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.count(mutation.old) != 1:
        return None
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    return text


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of a description or a file's name")
    parser.add_argument("--list", action="store_true", help="print the mistakes and plant none")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if not options.words or any(w in m.breaks + m.file for w in options.words)]
    if options.list:
        print(*(f"{m.file}: {m.breaks}" for m in chosen), sep="\n")
        return 0
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkout(folder)
        for tests in dict.fromkeys(m.tests for m in chosen):
            passed, last = run(folder, tests)
            if not passed:
                wrong.append(f"fails without a mistake: {tests}: {last}")
        for mutation in chosen:
            start = time.perf_counter()
            text = plant(folder, mutation)
            if text is None:
                result = "NOT FOUND exactly once"
            else:
                passed, _ = run(folder, mutation.tests)
                (folder / mutation.file).write_text(text, encoding="utf-8")
                result = "SURVIVES" if passed else "killed"
            print(f"{result:8} {time.perf_counter() - start:5.1f} s  {mutation.file}: {mutation.breaks}", flush=True)
            if result != "killed":
                wrong.append(f"{result}: {mutation.file}: {mutation.breaks}")
    print(f"{len(chosen)} mistakes, {sum(not w.startswith('fails') for w in wrong)} not seen", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
