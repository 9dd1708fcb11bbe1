"""Files: weights."""

from nnframe.io.weights import load, save

__all__ = ["load", "save"]
