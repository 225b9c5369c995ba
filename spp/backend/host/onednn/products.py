"""Products of matrices by oneDNN: of whole matrices, and small ones inside of Numba kernels, by each thread alone.

The products of the blocks of Winograd's algorithm and of im2row are small; oneDNN is several times as fast as BLAS
for these. The whole matrices are those of inner products. Their speed over BLAS, for 4 to 128 rows (one row): forward
0.5-2.9 (0.9-1.4), gradient of the input 1.2-4.1 (1.0), of the weights 1.1-2.7 (1.2-1.8); so only the gradients are
computed here.
"""
from typing import Any, Callable, Hashable, Sequence

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from spp.backend.host.cache import Cache
from spp.backend.host.onednn import weight_copies
from spp.backend.host.onednn.library import (FROM, TO, Library, Primitive, Refused, aligned_scratch, library,
                                             unless_refused)
from spp.backend.host.scratch import scratch
from spp.backend.types import Array

CACHED_BYTES = 10 << 20     # of weights in a kernel's order; larger ones are reordered each time
PRODUCTS = 256              # shapes, for which products are kept prepared
X, Y, WEIGHT, WEIGHT_LAYOUT = 1, 17, 33, 131
FUNCTION, PRIMITIVE, STREAM, COUNT, ARGUMENTS, STATUS = range(6)
NO_CALLS = np.zeros((0, 6), np.int64)

_prepared = Cache(PRODUCTS)


@intrinsic
def _execute(context: Any, function: int, primitive: int, stream: int, count: int, arguments: int) -> Any:
    """Call dnnl_primitive_execute, whose address is `function`, and return its status."""
    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(number, [pointer, pointer, number, pointer])
        callee, *addresses = (builder.inttoptr(values[i], type_) for i, type_ in (
            (0, kind.as_pointer()), (1, pointer), (2, pointer), (4, pointer)))
        status = builder.call(callee, [*addresses[:2], builder.trunc(values[3], number), addresses[2]])
        return builder.sext(status, ir.IntType(64))
    return numba.int64(*[numba.int64] * 5), generate


@numba.njit(cache=True, nogil=True)
def execute(call: Array) -> None:
    """For kernels: compute a thread's products, given its row of what `Products.calls` returned."""
    call[STATUS] |= _execute(           # type: ignore[call-arg]
        call[FUNCTION], call[PRIMITIVE], call[STREAM], call[COUNT], call[ARGUMENTS])


class Products:
    """For each of some threads `count` products, block x rows by rows x columns. Raises Refused."""

    def __init__(self, onednn: Library, threads: int, count: int, block: int, rows: int, columns: int,
                 transposed: bool) -> None:
        """`transposed`: the weights are columns x rows in memory."""
        images, results = onednn.layout((count, block, rows)), onednn.layout((count, block, columns))
        plain = onednn.layout((count, rows, columns), (0, 2, 1) if transposed else None)
        blocked = onednn.any_layout((count, rows, columns))
        description = _by_one_thread(onednn, images, blocked, results, onednn.attributes())
        self.onednn, self.description = onednn, description
        self.layout = onednn.queried_layout(description, WEIGHT_LAYOUT)
        self.bytes = onednn.functions.dnnl_memory_desc_get_size(self.layout)
        self.reorder = Primitive(onednn, onednn.create(
            "primitive_desc", "reorder_primitive_desc_create", plain, onednn.engine, self.layout, onednn.engine,
            onednn.attributes()), [(FROM, plain), (TO, self.layout)])
        self.each = [Primitive(onednn, description, [(X, images), (WEIGHT, self.layout), (Y, results)])
                     for _ in range(threads)]
        self.table = _table(self.each)

    def weights(self, part: np.ndarray, transform: Callable[[], np.ndarray],
                copy: tuple[np.ndarray, Hashable] | None) -> np.ndarray:
        """What `transform` computes from `part`, count x rows x columns, in oneDNN's order.

        `copy`: the weights that `part` belongs to, and a name for it, if a copy may be kept.
        """
        if copy and caches(self.bytes) and part.flags.c_contiguous:
            return weight_copies.in_order(self, *copy, part, lambda memory: self.reorder(transform(), memory))
        memory = aligned_scratch("products.weight", self.bytes)
        self.reorder(transform(), memory)
        return memory

    def calls(self, v: np.ndarray, weights: np.ndarray, m: np.ndarray) -> np.ndarray:
        """What the kernel passes to `execute`, a row per thread; the first axis of `v` and `m` counts the threads."""
        pads = _scratchpads(self.each, len(self.each))
        for thread, primitive in enumerate(self.each):
            primitive.set(v[thread], weights, m[thread], pads[thread])
        self.table[:, STATUS] = 0
        return self.table


class Sums:
    """For each of some calls `count` products, rows x block by block x columns, added to sums. Raises Refused.

    v: calls x count x block x rows, m: calls x count x block x columns, sums: calls x count x rows x columns.
    """

    def __init__(self, onednn: Library, calls: int, count: int, block: int, rows: int, columns: int) -> None:
        transposed = onednn.layout((count, rows, block), (0, 2, 1))
        others, sums = onednn.layout((count, block, columns)), onednn.layout((count, rows, columns))
        description = _by_one_thread(onednn, transposed, others, sums, onednn.attributes(add=True))
        self.each = [Primitive(onednn, description, [(X, transposed), (WEIGHT, others), (Y, sums)])
                     for _ in range(calls)]
        self.table = _table(self.each)
        self.memory: list[int] = []

    def calls(self, v: np.ndarray, m: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """What the kernel passes to `execute`, a row per call; each thread makes a share of the calls."""
        threads = numba.get_num_threads()
        pads = _scratchpads(self.each, threads)
        memory = [threads, *(array.ctypes.data for array in (v, m, sums, pads))]
        if memory != self.memory:       # else the primitives have the addresses already: buffers seldom move
            for thread in range(threads):
                for call in range(thread * len(self.each) // threads, (thread + 1) * len(self.each) // threads):
                    self.each[call].set(v[call], m[call], sums[call], pads[thread])
            self.memory = memory
        self.table[:, STATUS] = 0
        return self.table


def _by_one_thread(onednn: Library, a: Any, b: Any, result: Any, attributes: Any) -> Any:
    """The description of a product of matrices that is computed by the calling thread alone."""
    onednn.functions.omp_set_num_threads(1)
    try:
        description = onednn.create("primitive_desc", "matmul_primitive_desc_create", onednn.engine, a, b,
                                    onednn.ffi.NULL, result, attributes)
    finally:
        onednn.follow_numba()
    if onednn.implementation(description).startswith("ref"):
        raise Refused("oneDNN has only slow code for this product")
    return description


def _table(primitives: Sequence[Primitive]) -> np.ndarray:
    return np.array([[*primitive.addresses(), 0] for primitive in primitives], np.int64)


def _scratchpads(primitives: Sequence[Primitive], threads: int) -> np.ndarray:
    """The last array that primitives take, one per thread; those that need none do not read it."""
    return scratch("products.scratchpad", (threads, -(-max(1, primitives[0].scratchpad) // 64) * 64), np.uint8)


def caches(size: int) -> bool:
    """Whether reordered weights of this size, in bytes, are cached."""
    return size <= CACHED_BYTES


def prepare_products(threads: int, count: int, block: int, rows: int, columns: int,
                     transposed: bool = False) -> Products | None:
    """The Products of this shape; None without oneDNN, or if it has only slow code."""
    return _prepare(Products, threads, count, block, rows, columns, transposed)


def prepare_sums(calls: int, count: int, block: int, rows: int, columns: int) -> Sums | None:
    """The Sums of this shape; None without oneDNN, or if it has only slow code."""
    return _prepare(Sums, calls, count, block, rows, columns)


def _prepare(kind: Any, *shape: int) -> Any:
    onednn = library()
    return None if onednn is None else _prepared.get((kind, *shape), unless_refused, kind, onednn, *shape)


def check(calls: np.ndarray) -> None:
    """Raise Refused if the products of a thread failed."""
    if calls[:, STATUS].any():
        raise Refused(f"oneDNN's products failed with status {calls[:, STATUS].max()}")


def takes_product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> bool:
    """Whether oneDNN should compute `product` of these arrays; not worthwhile for a single row."""
    if a.dtype != np.float32 or len(a) < 2 or 0 in a.shape + b.shape:
        return False
    ordered = all(matrix.flags.c_contiguous or matrix.flags.f_contiguous for matrix in (a, b))
    return ordered and out.flags.c_contiguous and library() is not None


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray, add: bool = False) -> None:
    """out (M x N) = a (M x K) b (K x N), or += if `add`; `a` and `b` may be transposed views. All float32."""
    onednn = library()
    assert onednn
    onednn.follow_numba()
    pointers = [onednn.ffi.cast("float *", matrix.ctypes.data) for matrix in (a, b, out)]
    (rows, depth), columns = a.shape, b.shape[1]
    a_is, b_is = (b"N" if matrix.flags.c_contiguous else b"T" for matrix in (a, b))
    onednn.call("sgemm", a_is, b_is, rows, columns, depth, 1, pointers[0], depth if a_is == b"N" else rows,
                pointers[1], columns if b_is == b"N" else depth, float(add), pointers[2], columns)
