"""NVIDIA GPUs: CuPy arrays, the kernels of kernels.cu, cuDNN and cuBLAS. The same functions as the host's.

Arrays lie in C order (N x C x H x W); every function is right for any strides. All work goes to the current
stream of the current device, where its arrays must lie: `on(index)` is this backend for one device, and its `use`
makes that device current.
"""
import functools
from types import ModuleType
from typing import Any, Callable, ContextManager

import cupy
import cupyx

from spp.backend.cuda import failures
from spp.backend.cuda.channels import channel_affine, channel_combine, channel_dots, channel_moments, channel_sums
from spp.backend.cuda.convolution import convolution_backward_data, convolution_backward_weights, convolution_forward
from spp.backend.cuda.dropout import draw_mask
from spp.backend.cuda.elementwise import relu, relu_backward, weighted_sum
from spp.backend.cuda.inner_product import (inner_product_backward_data, inner_product_backward_weights,
                                            inner_product_forward)
from spp.backend.cuda.layout import from_host, load_matrix, matrix, store, to_host
from spp.backend.cuda.lrn import lrn_across, lrn_across_backward, lrn_within, lrn_within_backward
from spp.backend.cuda.nms import nms
from spp.backend.cuda.pinned import Feed
from spp.backend.cuda.pooling import (average_pool, average_pool_backward, max_pool, max_pool_backward, sample_pool)
from spp.backend.cuda.resize import bilinear, bilinear_backward
from spp.backend.cuda.roi import (roi_group_average, roi_group_average_backward, roi_max_pool, roi_max_pool_backward,
                                  roi_max_pyramid)
from spp.backend.cuda.rows import add_rows, put_last
from spp.backend.cuda.scratch import scratch, scratch_like
from spp.backend.cuda.selection import largest, take_columns, take_rows
from spp.backend.cuda.softmax import softmax, softmax_backward, softmax_loss, softmax_loss_backward
from spp.backend.cuda.transform import transform
from spp.backend.cuda.update import (adadelta_update, adagrad_update, adam_update, nesterov_update, rmsprop_update,
                                     sgd_update)

__all__ = [
    "Feed", "adadelta_update", "adagrad_update", "adam_update", "add_rows", "asynchronous", "average_pool",
    "average_pool_backward", "bilinear", "bilinear_backward", "channel_affine", "channel_combine", "channel_dots",
    "channel_moments", "channel_sums", "convolution_backward_data", "convolution_backward_weights",
    "convolution_forward", "draw_mask", "fetch", "from_host", "inner_product_backward_data",
    "inner_product_backward_weights", "inner_product_forward", "largest", "load_matrix", "lrn_across",
    "lrn_across_backward", "lrn_within", "lrn_within_backward", "matrix", "max_pool", "max_pool_backward",
    "nesterov_update", "nms", "number", "precisions", "prefers_channels_last", "put_last", "relu", "relu_backward",
    "rmsprop_update", "roi_group_average", "roi_group_average_backward", "roi_max_pool", "roi_max_pool_backward",
    "roi_max_pyramid", "sample_pool", "scratch", "scratch_like", "sgd_update", "softmax", "softmax_backward",
    "softmax_loss", "softmax_loss_backward", "store", "synchronize", "take_columns", "take_rows", "to_host",
    "transform", "use", "weighted_sum", "xp", "zeros"]

xp = cupy
prefers_channels_last = False
precisions = ("fp32", "tf32", "bf16", "fp16")
asynchronous = True


def synchronize() -> None:
    """Wait until all that was begun on this backend's device is done."""
    with use():
        cupy.cuda.Device().synchronize()


def use() -> ContextManager:
    """While the block runs, new arrays lie on this backend's device: the current one, for `on` another.

    Raises SppError where the device fails or has too little memory.
    """
    return failures.used(cupy.cuda.Device())


def zeros(count: int, dtype: type) -> cupy.ndarray:
    """A flat array of `count` zeros: the memory behind a blob."""
    return cupy.zeros(count, dtype)


def number(array: cupy.ndarray) -> Any:
    """An array without axes as a number to compute with: the array itself, so that nobody waits for it."""
    return array


def fetch(value: Any) -> Callable[[], float]:
    """Begin to bring a `number` to the host; what is returned waits for it, and for nothing begun later."""
    if not isinstance(value, cupy.ndarray):
        return functools.partial(float, value)
    pinned = cupyx.empty_pinned((), value.dtype)
    value.get(stream=cupy.cuda.get_current_stream(), out=pinned, blocking=False)
    copied, device = cupy.cuda.Event(disable_timing=True), cupy.cuda.Device()
    copied.record()

    def arrived() -> float:
        with failures.used(device):
            copied.synchronize()
        return float(pinned)

    return arrived


@functools.cache
def on(index: int) -> ModuleType:
    """This backend with all that it makes from nothing on one device."""
    bound: Any = ModuleType(f"{__name__}:{index}")
    bound.__dict__.update({name: globals()[name] for name in __all__})
    bound.use = lambda: failures.used(cupy.cuda.Device(index))
    for function in (zeros, from_host, synchronize):
        setattr(bound, function.__name__, _bound(function, index))
    return bound


def _bound(function: Callable, index: int) -> Callable:
    @functools.wraps(function)
    def made(*args: Any) -> Any:
        with cupy.cuda.Device(index):
            return function(*args)
    return made
