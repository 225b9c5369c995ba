"""Products of matrices with a large matrix of weights, by cuBLAS."""
import cupy

from spp.backend.cuda.blas import product
from spp.backend.cuda.layout import store
from spp.backend.types import Epilogue


def inner_product_forward(x: cupy.ndarray, weight: cupy.ndarray, y: cupy.ndarray, transpose: bool,
                          epilogue: Epilogue = Epilogue(), precision: str = "fp32") -> None:
    """Write y (N x O) = x (N x K) weight^T, with the epilogue applied; weight is O x K, or K x O if `transpose`."""
    out = cupy.ascontiguousarray(y)
    product(x, weight if transpose else weight.T, out, precision)
    epilogue.apply(out)
    store(out, y)


def inner_product_backward_data(dy: cupy.ndarray, weight: cupy.ndarray, dx: cupy.ndarray, transpose: bool,
                                precision: str = "fp32") -> None:
    """Write to `dx` (N x K) the gradient of the input of `inner_product_forward`, from the output's, `dy`."""
    out = cupy.ascontiguousarray(dx)
    product(dy, weight.T if transpose else weight, out, precision)
    store(out, dx)


def inner_product_backward_weights(x: cupy.ndarray, dy: cupy.ndarray, dweight: cupy.ndarray, transpose: bool,
                                   precision: str = "fp32") -> None:
    """Add to `dweight` the gradient of the weights of `inner_product_forward`."""
    first, second = (x, dy) if transpose else (dy, x)
    out = cupy.ascontiguousarray(dweight)
    product(first.T, second, out, precision, add=True)
    store(out, dweight)
