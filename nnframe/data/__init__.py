"""Data: mini-batches, and two sets of handwritten digits."""

from nnframe.data.digits import digits
from nnframe.data.loader import DataLoader, train_test_split
from nnframe.data.mnist import mnist

__all__ = ["DataLoader", "digits", "mnist", "train_test_split"]
