"""Convolution (Caffe's Convolution): cross-correlation over any number of spatial axes.

Arrays of one floating dtype and of one device, in any memory order: batch axes x channels x spatial axes, the channels
at `axis`. Weights: O x C / group x kernel. `geometry` is of the spatial axes, `precision` one of the backend's.
"""
import math

from spp import backend
from spp.backend.types import Array, Epilogue, Geometry
from spp.errors import NetError


def output_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """The number of windows along an axis: floor((size + 2 pad - extent) / stride) + 1.

    As in Caffe, whose division rounds to zero, a window larger than the padded input by less than a stride is
    one window; what is beyond the padding is zero too. Raises NetError if there is no window.
    """
    extent = dilation * (kernel - 1) + 1
    rest = size + 2 * pad - extent
    count = (rest // stride if rest >= 0 else -(-rest // stride)) + 1
    if count < 1:
        raise NetError(f"the kernel covers {extent} pixels, more than the input of {size} with pad {pad}; use a "
                       f"smaller kernel_size or dilation, more pad, or a larger input")
    return count


def forward(x: Array, weight: Array, y: Array, geometry: Geometry, epilogue: Epilogue = Epilogue(), axis: int = 1,
            precision: str = "fp32") -> None:
    """Write to `y` the convolution of `x`, with the epilogue applied."""
    device = backend.of(x)
    out = _one_batch_axis(y, axis)
    device.convolution_forward(_one_batch_axis(x, axis), weight, out, geometry, epilogue, precision)
    device.store(out.reshape(y.shape), y)


def backward_data(dy: Array, weight: Array, dx: Array, geometry: Geometry, axis: int = 1,
                  precision: str = "fp32") -> None:
    """Write the gradient of x to `dx`."""
    device = backend.of(dy)
    out = _one_batch_axis(dx, axis)
    device.convolution_backward_data(_one_batch_axis(dy, axis), weight, out, geometry, precision)
    device.store(out.reshape(dx.shape), dx)


def backward_weights(x: Array, dy: Array, dweight: Array, dbias: Array | None, geometry: Geometry, axis: int = 1,
                     precision: str = "fp32") -> None:
    """Add the parameters' gradients to `dweight`, and to `dbias` (O) unless it is None."""
    backend.of(x).convolution_backward_weights(_one_batch_axis(x, axis), _one_batch_axis(dy, axis), dweight, dbias,
                                               geometry, precision)


def backward_bias(dy: Array, dbias: Array, axis: int = 1) -> None:
    """Add to `dbias` alone, if the weights do not learn."""
    dbias += dy.sum(tuple(i for i in range(dy.ndim) if i != axis))


def _one_batch_axis(array: Array, axis: int) -> Array:
    """The array with the axes before `axis` as one; a copy if its memory does not allow a view."""
    if axis == 1:
        return array
    return array.reshape(math.prod(array.shape[:axis]), *array.shape[axis:])
