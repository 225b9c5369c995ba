"""The host: NumPy arrays, Numba kernels, BLAS.

4-D arrays always have the shape N x C x H x W; the host prefers them channels-last in memory, and every
function is right for any strides.
"""
import numpy as np

from spp.backend.host.channels import (channel_affine, channel_combine, channel_dots, channel_moments, channel_sums)
from spp.backend.host.convolution import convolution_backward_data, convolution_backward_weights, convolution_forward
from spp.backend.host.elementwise import relu, relu_backward
from spp.backend.host.inner_product import (inner_product_backward_data, inner_product_backward_weights,
                                            inner_product_forward)
from spp.backend.host.layout import load_matrix, matrix, store
from spp.backend.host.lrn import lrn_across, lrn_across_backward, lrn_within, lrn_within_backward
from spp.backend.host.nms import nms
from spp.backend.host.pooling import (average_pool, average_pool_backward, max_pool, max_pool_backward, sample_pool)
from spp.backend.host.scratch import scratch_like
from spp.backend.host.resize import bilinear, bilinear_backward
from spp.backend.host.roi import (roi_group_average, roi_group_average_backward, roi_max_pool, roi_max_pool_backward)
from spp.backend.host.update import (adadelta_update, adagrad_update, adam_update, nesterov_update, rmsprop_update,
                                     sgd_update)

__all__ = [
    "adadelta_update", "adagrad_update", "adam_update", "average_pool", "average_pool_backward", "bilinear",
    "bilinear_backward", "channel_affine", "channel_combine", "channel_dots", "channel_moments", "channel_sums",
    "convolution_backward_data", "convolution_backward_weights", "convolution_forward", "from_host",
    "inner_product_backward_data", "inner_product_backward_weights", "inner_product_forward", "load_matrix",
    "lrn_across", "lrn_across_backward", "lrn_within", "lrn_within_backward", "matrix", "max_pool",
    "max_pool_backward", "nesterov_update", "nms", "prefers_channels_last", "relu", "relu_backward",
    "rmsprop_update", "roi_group_average", "roi_group_average_backward", "roi_max_pool", "roi_max_pool_backward",
    "sample_pool", "scratch_like", "sgd_update", "store", "to_host", "xp", "zeros"]

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
