"""Inner product (Caffe's InnerProduct): the axes from `axis` on, flattened in Caffe's order, times a matrix.

x: batch axes x inputs of any shape, K in all, from `axis` on; y: batch axes x O; weight: O x K, or K x O if
`transpose`. Arrays of one floating dtype and of one device; `precision` is one of the backend's `precisions`.
"""
from spp import backend
from spp.backend.types import Array, Epilogue


def forward(x: Array, weight: Array, y: Array, epilogue: Epilogue = Epilogue(), axis: int = 1, transpose: bool = False,
            precision: str = "fp32") -> None:
    """Write y = x weight^T, with the epilogue applied to the O outputs."""
    device = backend.of(x)
    out = device.empty_matrix(y, axis, "inner_product.y")
    device.inner_product_forward(device.load_matrix(x, axis, "inner_product.x"), weight, out, transpose, epilogue,
                                 precision)
    device.store(out.reshape(y.shape), y)


def backward_data(dy: Array, weight: Array, dx: Array, axis: int = 1, transpose: bool = False,
                  precision: str = "fp32") -> None:
    """Write dx = dy weight."""
    device = backend.of(dy)
    out = device.empty_matrix(dx, axis, "inner_product.x")
    device.inner_product_backward_data(device.load_matrix(dy, axis, "inner_product.y"), weight, out, transpose,
                                       precision)
    device.store(out.reshape(dx.shape), dx)


def backward_weights(x: Array, dy: Array, dweight: Array, axis: int = 1, transpose: bool = False,
                     precision: str = "fp32") -> None:
    """dweight += dy^T x."""
    device = backend.of(x)
    inputs, gradients = device.load_matrix(x, axis, "inner_product.x"), device.load_matrix(dy, axis, "inner_product.y")
    device.inner_product_backward_weights(inputs, gradients, dweight, transpose, precision)


def backward_bias(dy: Array, dbias: Array) -> None:
    """dbias += the sum of dy over all axes but the last."""
    dbias += dy.sum(tuple(range(dy.ndim - 1)))
