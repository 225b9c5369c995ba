"""The host: NumPy arrays, Numba kernels, BLAS.

4-D arrays always have the shape N x C x H x W; the host prefers them channels-last in memory (see
`empty`), and every function is right for any strides.
"""
import numpy as np

xp = np
prefers_channels_last = True


def zeros(count: int, dtype: type) -> np.ndarray:
    """A flat array of `count` zeros: the memory behind a blob."""
    return np.zeros(count, dtype)


def from_host(array: np.ndarray) -> np.ndarray:
    """A NumPy array as an array of this device."""
    return array


def to_host(array: np.ndarray) -> np.ndarray:
    """An array of this device as a NumPy array."""
    return array


# pooling, LRN, SPP
from spp.backend.host.lrn import (  # noqa: E402, F401
    lrn_across, lrn_across_backward, lrn_within, lrn_within_backward)
from spp.backend.host.pooling import (  # noqa: E402, F401
    average_pool, average_pool_backward, max_pool, max_pool_backward, sample_pool)
# end of pooling, LRN, SPP
