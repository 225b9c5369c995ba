"""Deconvolution (Caffe's Deconvolution): the transpose of a convolution. The same functions as in convolution.py.

Forward is the convolution's gradient of its input, and the other way round; the weights C x O / group x kernel
are those of the convolution that takes O channels to C.
"""
from typing import Any

from spp import backend
from spp.errors import NetError
from spp.ops import convolution
from spp.ops.convolution import Numbers, backward_bias

__all__ = ["backward_bias", "backward_data", "backward_weights", "forward", "output_size"]


def output_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """stride (size - 1) + dilation (kernel - 1) + 1 - 2 pad; raises NetError where that is not positive."""
    covered = stride * (size - 1) + dilation * (kernel - 1) + 1
    if covered - 2 * pad < 1:
        raise NetError(f"an input of {size} is enlarged to {covered}, of which pad {pad} takes {2 * pad}; use less "
                       f"pad, a larger kernel_size or stride, or a larger input")
    return covered - 2 * pad


def forward(x: Any, weight: Any, bias: Any, y: Any, stride: Numbers, pad: Numbers, dilation: Numbers,
            group: int = 1, axis: int = 1, relu: bool = False, precision: str = "fp32", scale: Any = None,
            shift: Any = None) -> None:
    """Write to `y`; bias, scale, shift: O, or None: y = (sum + bias) * scale + shift, max(y, 0) with `relu`."""
    convolution.backward_data(x, weight, y, stride, pad, dilation, group, axis, precision)
    if bias is not None or scale is not None or relu:
        backend.of(y).channel_affine(y, 0 if bias is None else -bias, 1 if scale is None else scale,
                                     0 if shift is None else shift, y, axis, 1, relu=relu)


def backward_data(dy: Any, weight: Any, dx: Any, stride: Numbers, pad: Numbers, dilation: Numbers,
                  group: int = 1, axis: int = 1, precision: str = "fp32") -> None:
    """Write the gradient of x to `dx`."""
    convolution.forward(dy, weight, None, dx, stride, pad, dilation, group, axis, precision=precision)


def backward_weights(x: Any, dy: Any, dweight: Any, dbias: Any, stride: Numbers, pad: Numbers, dilation: Numbers,
                     group: int = 1, axis: int = 1, precision: str = "fp32") -> None:
    """Add to `dweight`, and to `dbias` unless it is None."""
    convolution.backward_weights(dy, x, dweight, None, stride, pad, dilation, group, axis, precision)
    if dbias is not None:
        backward_bias(dy, dbias, axis)
