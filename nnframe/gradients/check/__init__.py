"""The checker: written gradients against central differences, with a verdict for every entry and the cause."""

from nnframe.gradients.check.gradients import check_gradients
from nnframe.gradients.check.report import Check, GradientError, Report

__all__ = ["Check", "GradientError", "Report", "check_gradients"]
