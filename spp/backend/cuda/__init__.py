"""NVIDIA GPUs: CuPy arrays, the kernels of kernels.cu, cuDNN and cuBLAS.

The functions are those of spp.backend.host, whose docstrings give the shapes and dtypes of their arguments.

New arrays are in C order (N x C x H x W); every function accepts any strides. All work goes to the current stream of
the current device, where the arguments must be stored: `DeviceBackend(index)` is this backend for one GPU, and its
`use` makes that GPU current.
"""
import functools
from typing import Any, Callable, ContextManager

import cupy
import cupyx
import numpy as np

from spp.backend.cuda import failures
from spp.backend.cuda.channels import channel_affine, channel_combine, channel_dots, channel_moments, channel_sums
from spp.backend.cuda.convolution import convolution_backward_data, convolution_backward_weights, convolution_forward
from spp.backend.cuda.elementwise import draw_mask, relu, relu_backward, weighted_sum
from spp.backend.cuda.inner_product import (inner_product_backward_data, inner_product_backward_weights,
                                            inner_product_forward)
from spp.backend.cuda.layout import empty_matrix, from_host, load_matrix, scratch, scratch_like, store, to_host
from spp.backend.cuda.lrn import lrn_across, lrn_across_backward, lrn_within, lrn_within_backward
from spp.backend.cuda.nms import nms
from spp.backend.cuda.pinned import Feed, transform
from spp.backend.cuda.pooling import (average_pool, average_pool_backward, max_pool, max_pool_backward, sample_pool)
from spp.backend.cuda.resize import bilinear, bilinear_backward
from spp.backend.cuda.roi import (roi_group_average, roi_group_average_backward, roi_max_pool, roi_max_pool_backward,
                                  roi_max_pyramid)
from spp.backend.cuda.selection import add_rows, largest, put_last, take_columns, take_rows
from spp.backend.cuda.softmax import softmax, softmax_backward, softmax_loss, softmax_loss_backward
from spp.backend.cuda.update import update
from spp.backend.protocol import Backend

xp = cupy
prefers_channels_last = False
precisions = ("fp32", "tf32", "bf16", "fp16")
asynchronous = True


def synchronize() -> None:
    """Wait for all work on the current device. Raises SppError if the device has failed."""
    with use():
        cupy.cuda.Device().synchronize()


def use() -> ContextManager:
    """A context manager in which the device is current, so that new arrays are stored on it.

    Raises SppError if the device fails or has too little memory.
    """
    return failures.used(cupy.cuda.Device())


def zeros(count: int, dtype: Any) -> cupy.ndarray:
    """A flat array of `count` zeros: the memory of a blob."""
    return cupy.zeros(count, dtype)


def number(array: cupy.ndarray) -> Any:
    """An array without axes as a number to compute with: the array itself, so that nothing waits for it."""
    return array


def fetch(value: Any) -> Callable[[], float]:
    """Begin to copy a `number` to the host; the function returned waits for this copy, and for nothing begun later."""
    if not isinstance(value, cupy.ndarray):
        return functools.partial(float, value)
    pinned = cupyx.empty_pinned((), value.dtype)
    value.get(stream=cupy.cuda.get_current_stream(), out=pinned, blocking=False)
    copied, device = cupy.cuda.Event(disable_timing=True), cupy.cuda.Device()
    copied.record()

    def wait() -> float:
        with failures.used(device):
            copied.synchronize()
        return float(pinned)

    return wait


class DeviceBackend:
    """The backend of one GPU: the functions of this package, with new arrays stored on GPU `index`.

    Only functions that create arrays or wait need the index; all others work on the device of their arguments.
    """

    def __init__(self, index: int) -> None:
        self.index = index

    def __getattr__(self, name: str) -> Any:
        if name in vars(Backend):
            return globals()[name]
        raise AttributeError(f"backends have no {name!r}")

    def use(self) -> ContextManager:
        """A context manager in which the GPU is current. Raises SppError if it fails or has too little memory."""
        return failures.used(cupy.cuda.Device(self.index))

    def zeros(self, count: int, dtype: Any) -> cupy.ndarray:
        """A flat array of `count` zeros on the GPU."""
        with cupy.cuda.Device(self.index):
            return zeros(count, dtype)

    def from_host(self, array: np.ndarray) -> cupy.ndarray:
        """A NumPy array as an array of the GPU, with the same order of axes in memory."""
        with cupy.cuda.Device(self.index):
            return from_host(array)

    def synchronize(self) -> None:
        """Wait for all work on the GPU. Raises SppError if it has failed."""
        with cupy.cuda.Device(self.index):
            synchronize()


device_backend = functools.cache(DeviceBackend)     # one per GPU, so that backends can be compared by `is`
