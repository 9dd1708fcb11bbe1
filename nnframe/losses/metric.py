"""`MetricLoss`: any measure as the objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_flag
from nnframe.core.parameter import Array
from nnframe.losses.base import Loss, as_float


class MetricLoss(Loss):
    """A measure of outputs and labels as the objective: F1, the area under the ROC curve, what a decision costs.

    Such measures are steps and have no derivative; a central difference over a wide step does not mind:

        strategy = nn.CentralDifference(step=0.1)     # or nn.SPSA(step=0.1, samples=50), for many parameters
        nn.Trainer(model, nn.MetricLoss(nn.training.f1), optimizer, strategy).fit(x, t, batch_size=len(x))

    The step, not the measure, sets what counts as near: it must be wide enough that some rows change sides, and a
    difference of steps is the slope of the measure averaged over that width. Start from a network that was trained on
    a surrogate, with all rows in a mini-batch: the measure of a few is not the mean of their measures.

    Parameters
    ----------
    metric : callable
        `metric(y, t) -> float`, such as those of `nnframe.training`.
    maximize : bool
        Whether more is better: the loss is then -metric.
    """

    def __init__(self, metric: Callable[[Any, Any], float], maximize: bool = True) -> None:
        super().__init__()
        if not callable(metric):
            raise TypeError(f"metric: expected a function of outputs and labels, got {metric!r}")
        self.metric, self.maximize = metric, as_flag("maximize", maximize)

    def forward(self, y: Array, t: npt.NDArray[np.generic]) -> float:
        if len(y) == 0:
            return float("nan")  # as the mean of no rows is
        value = as_float(self.metric(y, t), self)
        return -value if self.maximize else value

    def __repr__(self) -> str:
        name = getattr(self.metric, "__name__", repr(self.metric))
        return f"MetricLoss({name}{'' if self.maximize else ', maximize=False'})"
