"""All checks of a layer or a loss, run together or one by one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from nnframe.core.layer import Layer
from nnframe.losses.base import Loss
from nnframe.testing import of_layers, of_losses, of_state
from nnframe.testing.cases import Case, Inputs, LayerCase, LossCase

Check = Callable[[], None]

READ_ONLY = "A pass writes into an array that it was given: compute into a new array, or into a copy"


def check_layer(
    make_layer: Callable[[], Any],
    shape: Any,
    *,
    inputs: Inputs | None = None,
    rng: int = 0,
    skip: Iterable[str] = (),
) -> None:
    """Check everything about a layer that those of nnframe pass; what fails is told together.

    Shapes, batches of 0 and 1 rows, memory layouts, both dtypes, the gradient (`nn.check_gradients`), `difference`
    and `perturb`, purity, rows against parts of the batch, state_dict, save and load, pickle, copies, astype, repr,
    threads, and one step of training by each strategy.

    Parameters
    ----------
    make_layer : callable
        Without arguments; returns a new layer: the class itself, or a function.
    shape : tuple of int
        Of one row of the input; a tuple of such tuples for a layer of several inputs.
    inputs : callable, optional
        `inputs(rows, rng)` returns an input of so many rows, where standard normal numbers (for a layer that takes
        ids: random ones) are not what the layer takes.
    rng : int
        Seed of all random numbers.
    skip : iterable of str
        Names of checks to leave out; a mapping from names to reasons will do.

    Raises
    ------
    AssertionError
        Names the layer, each check that failed, what was expected, what came, and what helps.
    TypeError, ValueError
        Arguments that do not fit.
    """
    _run(_case(make_layer, shape, None, inputs, rng, LayerCase), skip)


def check_loss(
    make_loss: Callable[[], Any],
    shape: Any,
    *,
    labels: Any = None,
    inputs: Inputs | None = None,
    rng: int = 0,
    skip: Iterable[str] = (),
) -> None:
    """Check everything about a loss that those of nnframe pass; what fails is told together.

    Parameters
    ----------
    make_loss : callable
        Without arguments; returns a new loss.
    shape : tuple of int
        Of one row of the network's output.
    labels : array (N, ...), or callable, optional
        Labels of some rows, at least 2, or `labels(rows, rng)` that makes them; standard normal numbers of the shape of
        the output if not given.
    inputs : callable, optional
        `inputs(rows, rng)` returns outputs of a network, where standard normal numbers are not what the loss takes.
    rng, skip :
        As for `check_layer`, which also says what is raised.
    """
    _run(_case(make_loss, shape, labels, inputs, rng, LossCase), skip)


def checks(
    make: Callable[[], Any],
    shape: Any,
    *,
    labels: Any = None,
    inputs: Inputs | None = None,
    rng: int = 0,
    skip: Iterable[str] = (),
) -> Iterator[tuple[str, Check]]:
    """Return the name of each check with a callable that runs it, for `pytest.mark.parametrize`.

    Takes the arguments of `check_layer` or, where `make` returns a loss, of `check_loss`:

        @pytest.mark.parametrize(("name", "check"), checks(lambda: Scale(4), (4,)))
        def test_scale(name, check):
            check()
    """
    _refuse_no_callable(make)
    kind: Any = LossCase if isinstance(make(), Loss) else LayerCase
    return iter(_chosen(_case(make, shape, labels, inputs, rng, kind), skip))


def _case(make: Any, shape: Any, labels: Any, inputs: Any, seed: int, kind: Any) -> Case:
    _refuse_no_callable(make)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"rng: expected an int, a seed, got {seed!r}")
    sizes = shape if isinstance(shape, tuple) else (shape,)
    nested = bool(sizes) and all(isinstance(one, tuple) for one in sizes)
    for one in sizes if nested else (sizes,):
        if not isinstance(shape, tuple) or not all(isinstance(n, int | np.integer) and n > 0 for n in one):
            raise TypeError(f"shape: expected a tuple such as (4,), the shape of one row of the input, got {shape!r}")
    if kind is LossCase:
        return LossCase(make, shape, inputs, int(seed), labels)
    if labels is not None:
        raise TypeError("labels: expected none with a layer, which has no labels")
    return LayerCase(make, shape, inputs, int(seed))


def _refuse_no_callable(make: Any) -> None:
    if isinstance(make, Layer | Loss):
        raise TypeError(
            f"make: expected a callable without arguments that returns a new one, got the object {make!r}; "
            f"pass the class, or lambda: {type(make).__name__}(...)"
        )
    if not callable(make):
        raise TypeError(f"make: expected a callable without arguments, got {make!r}")


def _chosen(case: Case, skip: Iterable[str]) -> list[tuple[str, Check]]:
    of_layer: dict[str, Callable[[Any], None]] = {**of_layers.CHECKS, **of_state.CHECKS}
    known: dict[str, Callable[[Any], None]] = of_losses.CHECKS if isinstance(case, LossCase) else of_layer
    skipped = [skip] if isinstance(skip, str) else list(skip)
    unknown = [name for name in skipped if name not in known]
    if unknown:
        raise ValueError(f"skip: expected names among {', '.join(known)}, got {', '.join(map(repr, unknown))}")
    return [(name, _one(name, check, case)) for name, check in known.items() if name not in skipped]


def _one(name: str, check: Callable[[Any], None], case: Case) -> Check:
    """Return a check as a callable without arguments; whatever it raises becomes an AssertionError."""

    @functools.wraps(check)
    def run() -> None:
        try:
            check(case)
        except AssertionError as error:
            raise AssertionError(f"{case.name}: {name}: {error}") from error.__cause__
        except Exception as error:
            notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
            cure = READ_ONLY if "read-only" in str(error) else f"skip=[{name!r}] leaves the check out"
            raise AssertionError(
                f"{case.name}: {name}: expected no error, got {type(error).__name__}: {error}{notes}. {cure}"
            ) from error

    del run.__wrapped__  # pytest would take its argument for a fixture
    return run


def _run(case: Case, skip: Iterable[str]) -> None:
    chosen = _chosen(case, skip)
    failures: list[AssertionError] = []
    for _, check in chosen:
        try:
            check()
        except AssertionError as error:
            failures.append(error)
    if not failures:
        return
    told = "\n\n".join(str(error).removeprefix(f"{case.name}: ") for error in failures)
    count = f"{len(failures)} of {len(chosen)} checks failed"
    raise AssertionError(f"{case.name}: {count}\n\n{told}") from failures[0].__cause__
