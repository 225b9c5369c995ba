"""Caffe's statistics of batch normalisation, sums and their weight, as the means that other libraries store."""
import base64
import math
from typing import Any, Sequence

import numpy as np


def means(mean: np.ndarray, variance: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    """Mean and variance from their sums, as the BatchNorm layer computes them."""
    factor = 1 / float(weight[0]) if weight[0] else 0.0
    return [(array.astype(np.float64) * factor).astype(array.dtype) for array in (mean, variance)]


def sums(running: Sequence[np.ndarray], stored: Sequence[np.ndarray], fraction: float) -> list[np.ndarray]:
    """The sums of mean and variance, and their weight, for given means and variances `running`.

    stored: sums from metadata, or nothing; they are returned if they still give these means. New sums have the power
    of two nearest to the weight that a long training with this moving_average_fraction ends with: division by it is
    exact, and training continues with the momentum that torch had. Both use the unbiased variance, m / (m - 1)
    times that of the batch, so that needs no change.
    """
    if stored and all(old.astype(new.dtype).tobytes() == new.tobytes() for old, new in zip(means(*stored), running)):
        return list(stored)
    rest = 1 - fraction
    weight = 2.0 ** round(-math.log2(rest)) if 0 < rest < 1 else 1.0
    return [*(array * array.dtype.type(weight) for array in running), np.array([weight])]


def encode(array: np.ndarray) -> list[str]:
    """An array of one axis as JSON values: its dtype, and its bytes in base64."""
    return [str(array.dtype), base64.b64encode(array.tobytes()).decode()]


def decode(values: Any) -> np.ndarray:
    """The array of `encode`; raises KeyError, TypeError or ValueError for other values."""
    dtype, text = values
    return np.frombuffer(base64.b64decode(text), np.dtype(dtype))
