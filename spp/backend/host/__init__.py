"""The host: NumPy arrays, Numba kernels, BLAS.

4-D arrays always have the shape N x C x H x W; the host prefers them channels-last in memory, but every function
accepts any strides.
"""
import functools
from contextlib import nullcontext
from typing import Any, Callable, ContextManager

import numpy as np

from spp.backend.host.channels import (channel_affine, channel_combine, channel_dots, channel_moments, channel_sums)
from spp.backend.host.convolution import (convolution_backward_data, convolution_backward_weights,
                                          convolution_forward)
from spp.backend.host.elementwise import draw_mask, relu, relu_backward, weighted_sum
from spp.backend.host.feed import Feed, transform
from spp.backend.host.inner_product import (inner_product_backward_data, inner_product_backward_weights,
                                            inner_product_forward)
from spp.backend.host.layout import empty_matrix, load_matrix, store
from spp.backend.host.lrn import lrn_across, lrn_across_backward, lrn_within, lrn_within_backward
from spp.backend.host.nms import nms
from spp.backend.host.pooling import (average_pool, average_pool_backward, max_pool, max_pool_backward, sample_pool)
from spp.backend.host.scratch import scratch, scratch_like
from spp.backend.host.selection import add_rows, largest, put_last, take_columns, take_rows
from spp.backend.host.resize import bilinear, bilinear_backward
from spp.backend.host.roi import (roi_group_average, roi_group_average_backward, roi_max_pool, roi_max_pool_backward,
                                  roi_max_pyramid)
from spp.backend.host.softmax import softmax, softmax_backward, softmax_loss, softmax_loss_backward
from spp.backend.host.update import update

xp = np
prefers_channels_last = True
precisions = ("fp32",)      # of convolution and inner product
asynchronous = False        # do functions return before their work is done?


def zeros(count: int, dtype: Any) -> np.ndarray:
    """A flat array of `count` zeros: the memory of a blob."""
    return np.zeros(count, dtype)


def from_host(array: np.ndarray) -> np.ndarray:
    """A NumPy array as an array of this device."""
    return array


def to_host(array: np.ndarray) -> np.ndarray:
    """An array of this device as a NumPy array."""
    return array


def number(array: Any) -> Any:
    """An array without axes as a number to compute with; on a GPU it stays there, so that nothing waits for it."""
    return float(array)


def fetch(value: Any) -> Callable[[], float]:
    """Begin to copy a `number` to the host; the function returned waits for this copy, and for nothing begun later."""
    return functools.partial(float, value)


def synchronize() -> None:
    """Wait for all work on the device; on the host nothing is left to wait for."""


def use() -> ContextManager:
    """A context manager in which the device is current, so that new arrays are stored on it; here it does nothing."""
    return nullcontext()
