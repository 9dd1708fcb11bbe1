"""`numerical_gradient`: the definition, for any function; nothing is known about it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nnframe.finite_differences import central_difference, forward_difference

SCHEMES = ("forward", "central")


def numerical_gradient(
    f: Callable[[npt.NDArray[np.floating]], float],
    x: npt.NDArray[np.floating],
    *,
    step: npt.ArrayLike | None = None,
    scheme: str = "central",
) -> npt.NDArray[np.floating]:
    """Gradient of a function of an array by finite differences, entry by entry.

    central: (f(x + h e_i) - f(x - h e_i)) / 2h, error O(h^2), two evaluations an entry;
    forward: (f(x + h e_i) - f(x)) / h, error O(h), one evaluation an entry and one more.

    Parameters
    ----------
    f : callable
        `f(x)` returns a number. While it runs x itself holds the moved entry, so that f may as well ignore its
        argument and read the array where it lives: `numerical_gradient(lambda _: loss(model(x), t), weight.value)`.
    x : array of float32 or float64, any shape
        Restored to the bit, whatever happens. A read-only array is copied first.
    step : float or array like x, optional
        h, above 0. If not given: eps^(1/3) max(1, |x_i|) for central and eps^(1/2) max(1, |x_i|) for forward
        differences, eps that of x's dtype, which balance truncation against rounding (Numerical Recipes, 3rd ed.,
        section 5.7).
    scheme : {"central", "forward"}

    Returns
    -------
    array of x's shape and dtype
        Quotients by the step that was really added, which rounding makes differ from h.

    Raises
    ------
    TypeError
        x holds integers (where x + h would be cut off) or another dtype; f returns no single number.
    ValueError
        An unknown scheme, a step that is not positive and finite or too small to move an entry.
    """
    if scheme == "central":
        return central_difference(f, x, step=step)
    if scheme == "forward":
        return forward_difference(f, x, step=step)
    raise ValueError(f"scheme: expected one of {', '.join(SCHEMES)}, got {scheme!r}")
