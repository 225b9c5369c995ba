"""Deconvolution (Caffe's Deconvolution): the transpose of a convolution. The same functions as in convolution.py.

Forward is the convolution's gradient of its input, and the other way round; the weights C x O / group x kernel
are those of the convolution that takes O channels to C, and so is `geometry`.
"""
from spp import backend
from spp.backend.types import Array, Epilogue, Geometry
from spp.errors import NetError
from spp.ops import convolution
from spp.ops.convolution import backward_bias

__all__ = ["backward_bias", "backward_data", "backward_weights", "forward", "output_size"]


def output_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """stride (size - 1) + dilation (kernel - 1) + 1 - 2 pad; raises NetError if that is not positive."""
    covered = stride * (size - 1) + dilation * (kernel - 1) + 1
    if covered - 2 * pad < 1:
        raise NetError(f"an input of {size} is enlarged to {covered}, of which pad {pad} takes {2 * pad}; use less "
                       f"pad, a larger kernel_size or stride, or a larger input")
    return covered - 2 * pad


def forward(x: Array, weight: Array, y: Array, geometry: Geometry, epilogue: Epilogue = Epilogue(), axis: int = 1,
            precision: str = "fp32") -> None:
    """Write to `y` the deconvolution of `x`, with the epilogue applied."""
    convolution.backward_data(x, weight, y, geometry, axis, precision)
    if not epilogue.is_identity:
        bias, scale, shift, relu = epilogue
        backend.of(y).channel_affine(y, 0 if bias is None else -bias, 1 if scale is None else scale,
                                     0 if shift is None else shift, y, axis, 1, relu=relu)


def backward_data(dy: Array, weight: Array, dx: Array, geometry: Geometry, axis: int = 1,
                  precision: str = "fp32") -> None:
    """Write the gradient of x to `dx`."""
    convolution.forward(dy, weight, dx, geometry, axis=axis, precision=precision)


def backward_weights(x: Array, dy: Array, dweight: Array, dbias: Array | None, geometry: Geometry, axis: int = 1,
                     precision: str = "fp32") -> None:
    """Add the parameters' gradients to `dweight`, and to `dbias` (O) unless it is None."""
    convolution.backward_weights(dy, x, dweight, None, geometry, axis, precision)
    if dbias is not None:
        backward_bias(dy, dbias, axis)
