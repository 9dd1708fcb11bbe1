"""The UCI handwritten digits, shipped with nnframe: 1,797 images of 8x8 pixels.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49, licensed CC BY 4.0. These are the images of its test part, as scikit-learn ships them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnframe._checks import as_dtype
from nnframe.data.loader import Pair, train_test_split


def digits(*, flatten: bool = True, dtype: npt.DTypeLike = np.float32) -> tuple[Pair, Pair]:
    """Return the UCI handwritten digits as (x_train, t_train), (x_test, t_test).

    The split is fixed: 1,438 images to train on and 359 to test on, drawn at random once.

    Parameters
    ----------
    flatten : bool
        Images as rows of 64 numbers; otherwise (8, 8).
    dtype : float32 or float64

    Returns
    -------
    x_train : array (1438, 64), in [0, 1]
    t_train : array (1438,) of int64, in [0, 10)
    x_test, t_test : arrays of 359 rows
    """
    kind = as_dtype(dtype)
    with np.load(Path(__file__).with_name("digits.npz")) as stored:
        x = stored["images"].astype(kind) / kind.type(16)
        t = stored["labels"].astype(np.int64)
    return train_test_split(x.reshape(len(x), -1) if flatten else x, t, test_size=0.2, rng=0)
