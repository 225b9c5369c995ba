"""Inner product (Caffe's InnerProduct): the axes from `axis` on, flattened in Caffe's order, times a matrix."""
from typing import Any

from spp import backend


def forward(x: Any, weight: Any, bias: Any, y: Any, axis: int = 1, transpose: bool = False, relu: bool = False,
            precision: str = "fp32") -> None:
    """y = x weight^T + bias; with `relu` max(y, 0), in the same pass. `precision`: the backend's names.

    x: batch axes x inputs of any shape, K in all, from `axis` on; y: batch axes x O; weight: O x K, or K x O
    if `transpose`; bias: O, or None.
    """
    device = backend.of(x)
    out = device.empty_matrix(y, axis, "inner_product.y")
    device.inner_product_forward(device.load_matrix(x, axis, "inner_product.x"), weight, bias, out, transpose, relu,
                                 precision)
    device.store(out.reshape(y.shape), y)


def backward_data(dy: Any, weight: Any, dx: Any, axis: int = 1, transpose: bool = False,
                  precision: str = "fp32") -> None:
    """dx = dy weight."""
    device = backend.of(dy)
    out = device.empty_matrix(dx, axis, "inner_product.x")
    device.inner_product_backward_data(device.load_matrix(dy, axis, "inner_product.y"), weight, out, transpose,
                                       precision)
    device.store(out.reshape(dx.shape), dx)


def backward_weights(x: Any, dy: Any, dweight: Any, axis: int = 1, transpose: bool = False,
                     precision: str = "fp32") -> None:
    """dweight += dy^T x."""
    device = backend.of(x)
    device.inner_product_backward_weights(device.load_matrix(x, axis, "inner_product.x"),
                                          device.load_matrix(dy, axis, "inner_product.y"), dweight, transpose,
                                          precision)


def backward_bias(dy: Any, dbias: Any) -> None:
    """dbias += the sum of dy over all axes but the last."""
    dbias += dy.sum(tuple(range(dy.ndim - 1)))
