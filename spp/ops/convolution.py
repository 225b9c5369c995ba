"""Convolution (Caffe's Convolution): cross-correlation over any number of spatial axes.

Arrays are batch axes x channels x spatial axes, the channels at `axis`; stride, pad and dilation have one number
a spatial axis. Weights are O x C / group x kernel.
"""
import math
from typing import Any

from spp import backend
from spp.errors import NetError

Numbers = tuple[int, ...]


def output_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """The number of windows along an axis: floor((size + 2 pad - extent) / stride) + 1.

    As in Caffe, whose division rounds to zero, a window larger than the padded input by less than a stride is
    one window; what lies beyond the padding is zero too. Raises NetError where there is no window.
    """
    extent = dilation * (kernel - 1) + 1
    room = size + 2 * pad - extent
    count = (room // stride if room >= 0 else -(-room // stride)) + 1
    if count < 1:
        raise NetError(f"the kernel covers {extent} pixels, more than the input of {size} with pad {pad}; use a "
                       f"smaller kernel_size or dilation, more pad, or a larger input")
    return count


def forward(x: Any, weight: Any, bias: Any, y: Any, stride: Numbers, pad: Numbers, dilation: Numbers,
            group: int = 1, axis: int = 1, relu: bool = False, precision: str = "fp32", scale: Any = None,
            shift: Any = None) -> None:
    """Write to `y`; bias: O, or None. In the same pass, where given: y = y * scale + shift, O values each, and with
    `relu` max(y, 0). `precision`: the backend's names.
    """
    device = backend.of(x)
    out = _one_batch_axis(y, axis)
    device.convolution_forward(_one_batch_axis(x, axis), weight, bias, out, stride, pad, dilation, group, relu,
                               precision, scale, shift)
    device.store(out.reshape(y.shape), y)


def backward_data(dy: Any, weight: Any, dx: Any, stride: Numbers, pad: Numbers, dilation: Numbers,
                  group: int = 1, axis: int = 1, precision: str = "fp32") -> None:
    """Write the gradient of x to `dx`."""
    device = backend.of(dy)
    out = _one_batch_axis(dx, axis)
    device.convolution_backward_data(_one_batch_axis(dy, axis), weight, out, stride, pad, dilation, group,
                                     precision)
    device.store(out.reshape(dx.shape), dx)


def backward_weights(x: Any, dy: Any, dweight: Any, dbias: Any, stride: Numbers, pad: Numbers, dilation: Numbers,
                     group: int = 1, axis: int = 1, precision: str = "fp32") -> None:
    """Add to `dweight`, and to `dbias` unless it is None."""
    backend.of(x).convolution_backward_weights(_one_batch_axis(x, axis), _one_batch_axis(dy, axis), dweight, dbias,
                                               stride, pad, dilation, group, precision)


def backward_bias(dy: Any, dbias: Any, axis: int = 1) -> None:
    """Add to `dbias` alone, where the weights do not learn."""
    dbias += dy.sum(tuple(i for i in range(dy.ndim) if i != axis))


def _one_batch_axis(array: Any, axis: int) -> Any:
    """The array with the axes before `axis` as one; a copy where its memory does not allow a view."""
    if axis == 1:
        return array
    return array.reshape(math.prod(array.shape[:axis]), *array.shape[axis:])
