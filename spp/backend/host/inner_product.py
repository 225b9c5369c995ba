"""Products of matrices with a large matrix of weights, cut into parts of whole rows: one for each of Numba's threads.

Three kernels serve both orders of the weights: a weight matrix of M rows of length K is
multiplied either with vectors of length K (M sums each), or has its rows summed with M factors. Few vectors are
multiplied one by one with a part of the rows that stays in the cache: the time is that of reading the weights once.
All arrays have one floating dtype.
"""
import numba
import numpy as np

from spp.backend.host import onednn
from spp.backend.host.blas import one_thread, product
from spp.backend.host.scratch import scratch
from spp.backend.types import Array, Epilogue

FEW = 4                     # vectors; up to this number, matrix-vector products are faster
CACHED_BYTES = 1 << 19      # of weights, that stay in the cache from one vector to the next
PRODUCT_BYTES = 8 << 20     # of a product that is added to the weights' gradients


@numba.njit(cache=True, nogil=True, parallel=True)
def _by_vectors(x: Array, weight: Array, y: Array, block: int, buffer: Array) -> None:
    """y (N x M) = x (N x K) by the rows of weight (M x K); `buffer`: parts x N * rows of a part."""
    count, rows = y.shape
    parts = len(buffer)
    for part in numba.prange(parts):
        first, last = part * rows // parts, (part + 1) * rows // parts
        if count <= FEW:
            for a in range(first, last, block):
                b = min(last, a + block)
                for n in range(count):
                    product(weight[a:b], x[n], buffer[part, :b - a])
                    y[n, a:b] = buffer[part, :b - a]
        else:
            out = buffer[part, :count * (last - first)].reshape(count, last - first)
            product(x, weight[first:last].T, out)
            for n in range(count):
                for m in range(last - first):
                    y[n, first + m] = out[n, m]


@numba.njit(cache=True, nogil=True, parallel=True)
def _sum_rows(factors: Array, weight: Array, sums: Array, buffer: Array) -> None:
    """sums (parts x N x K) = factors (N x M) by weight (M x K), each part over its share of the M rows."""
    parts, count, _ = sums.shape
    rows = len(weight)
    for part in numba.prange(parts):
        first, last = part * rows // parts, (part + 1) * rows // parts
        share = buffer[part, :count * (last - first)].reshape(count, last - first)
        for n in range(count):
            for m in range(last - first):
                share[n, m] = factors[n, first + m]
        if count == 1:
            product(share[0], weight[first:last], sums[part, 0])
        else:
            product(share, weight[first:last], sums[part])


@numba.njit(cache=True, nogil=True, parallel=True)
def _add_products(factors: Array, x: Array, dweight: Array, buffer: Array, products: Array) -> None:
    """dweight (M x K) += factors (N x M), transposed, by x (N x K); `products`: parts x block x K."""
    count, rows = factors.shape
    parts, block, k = products.shape
    for part in numba.prange(parts):
        for a in range(part * rows // parts, (part + 1) * rows // parts, block):
            b = min((part + 1) * rows // parts, a + block)
            share = buffer[part, :count * (b - a)].reshape(b - a, count)
            for m in range(b - a):
                for n in range(count):
                    share[m, n] = factors[n, a + m]
            out = products[part, :b - a]
            product(share, x, out)
            for m in range(b - a):
                for c in range(k):
                    dweight[a + m, c] += out[m, c]


def _parts(rows: int) -> int:
    return max(1, min(numba.get_num_threads(), rows))


def _block(weight: np.ndarray, size: int) -> int:
    """How many rows of a weight, which may be empty, take about `size` bytes."""
    return max(1, size // max(1, weight.shape[1] * weight.itemsize))


def _by_rows(x: np.ndarray, weight: np.ndarray, y: np.ndarray) -> None:
    """y = x weight^T."""
    parts, rows = _parts(len(weight)), len(weight)
    block = _block(weight, CACHED_BYTES)
    out = np.ascontiguousarray(y)
    buffer = scratch("inner_product.buffer", (parts, -(-rows // parts) * len(x)), x.dtype)
    _by_vectors(np.ascontiguousarray(x), np.ascontiguousarray(weight), out, block, buffer)
    if out is not y:
        y[...] = out


def _of_rows(factors: np.ndarray, weight: np.ndarray, y: np.ndarray) -> None:
    """y = factors weight."""
    if onednn.takes_product(factors, weight, y):
        return onednn.product(factors, weight, y)
    parts, rows = _parts(len(weight)), len(weight)
    buffer = scratch("inner_product.buffer", (parts, -(-rows // parts) * len(y)), y.dtype)
    sums = scratch("inner_product.sums", (parts, *y.shape), y.dtype)
    _sum_rows(np.ascontiguousarray(factors), np.ascontiguousarray(weight), sums, buffer)
    sums.sum(0, out=y)


def inner_product_forward(x: np.ndarray, weight: np.ndarray, y: np.ndarray, transpose: bool,
                          epilogue: Epilogue = Epilogue(), precision: str = "fp32") -> None:
    """Write y (N x O) = x (N x K) weight^T, with the epilogue applied; weight is O x K, or K x O if `transpose`.

    The host computes in the dtype of the arrays, whatever the `precision`.
    """
    one_thread()
    (_of_rows if transpose else _by_rows)(x, weight, y)
    epilogue.apply(y)


def inner_product_backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, transpose: bool,
                                precision: str = "fp32") -> None:
    """Write to `dx` (N x K) the gradient of the input of `inner_product_forward`, from the output's, `dy`."""
    one_thread()
    (_by_rows if transpose else _of_rows)(dy, weight, dx)


def inner_product_backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, transpose: bool,
                                   precision: str = "fp32") -> None:
    """Add to `dweight` the gradient of the weights of `inner_product_forward`."""
    one_thread()
    factors, rows = (x, dy) if transpose else (dy, x)
    if onednn.takes_product(factors.T, rows, dweight):
        return onednn.product(factors.T, rows, dweight, add=True)
    parts = _parts(len(dweight))
    block = max(1, min(-(-len(dweight) // parts), _block(dweight, PRODUCT_BYTES)))
    buffer = scratch("inner_product.buffer", (parts, block * len(x)), x.dtype)
    products = scratch("inner_product.product", (parts, block, dweight.shape[1]), x.dtype)
    out = np.ascontiguousarray(dweight)
    _add_products(np.ascontiguousarray(factors), np.ascontiguousarray(rows), out, buffer, products)
    if out is not dweight:
        dweight[...] = out
