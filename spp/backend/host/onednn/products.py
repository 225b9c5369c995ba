"""Products by oneDNN inside of Numba kernels, each thread's by itself.

Those of Winograd's and of im2row's blocks are small, where oneDNN is several times as fast as BLAS.
"""
import threading
from typing import Any, Callable, Hashable, Sequence

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from spp.backend.host.onednn import weight_copies
from spp.backend.host.onednn.library import FROM, TO, Library, Primitive, Refused, aligned_scratch, library
from spp.backend.host.scratch import scratch

KEPT_BYTES = 10 << 20       # of weights as a kernel wants them; more are brought into order each time
PRODUCTS = 256              # for as many shapes products are kept prepared
X, Y, WEIGHT, WEIGHT_LAYOUT = 1, 17, 33, 131
FUNCTION, PRIMITIVE, STREAM, COUNT, ARGUMENTS, STATUS = range(6)
NO_CALLS = np.zeros((0, 6), np.int64)

_local = threading.local()


@intrinsic
def _execute(context, function, primitive, stream, count, arguments):
    """Call dnnl_primitive_execute, which lies at the address `function`; its status."""
    def generate(target, builder, signature, given):
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(number, [pointer, pointer, number, pointer])
        callee, *addresses = (builder.inttoptr(given[i], type_) for i, type_ in (
            (0, kind.as_pointer()), (1, pointer), (2, pointer), (4, pointer)))
        status = builder.call(callee, [*addresses[:2], builder.trunc(given[3], number), addresses[2]])
        return builder.sext(status, ir.IntType(64))
    return numba.int64(*[numba.int64] * 5), generate


@numba.njit(cache=True, nogil=True)
def execute(call):
    """For kernels: do a thread's products, by its row of what `Products.calls` returned."""
    call[STATUS] |= _execute(           # type: ignore[call-arg]
        call[FUNCTION], call[PRIMITIVE], call[STREAM], call[COUNT], call[ARGUMENTS])


class Products:
    """So many products (`count`), block x rows by rows x columns, for each of some threads. Raises Refused."""

    def __init__(self, onednn: Library, threads: int, count: int, block: int, rows: int, columns: int,
                 turned: bool) -> None:
        """`turned`: the weights lie columns x rows."""
        images, results = onednn.layout((count, block, rows)), onednn.layout((count, block, columns))
        plain = onednn.layout((count, rows, columns), (0, 2, 1) if turned else None)
        blocked = onednn.any_layout((count, rows, columns))
        description = _by_one_thread(onednn, images, blocked, results, onednn.attributes())
        self.onednn, self.description = onednn, description
        self.layout = onednn.asked(description, WEIGHT_LAYOUT)
        self.bytes = onednn.functions.dnnl_memory_desc_get_size(self.layout)
        self.reorder = Primitive(onednn, onednn.create(
            "primitive_desc", "reorder_primitive_desc_create", plain, onednn.engine, self.layout, onednn.engine,
            onednn.attributes()), [(FROM, plain), (TO, self.layout)])
        self.each = [Primitive(onednn, description, [(X, images), (WEIGHT, self.layout), (Y, results)])
                     for _ in range(threads)]
        self.table = _table(self.each)

    def weights(self, part: np.ndarray, transform: Callable[[], np.ndarray],
                kept: tuple[np.ndarray, Hashable] | None) -> np.ndarray:
        """What `transform` makes of `part`, count x rows x columns, in oneDNN's order.

        `kept`: the weights that `part` belongs to, and a name for it, where a copy may be kept.
        """
        if kept and keeps(self.bytes) and part.flags.c_contiguous:
            return weight_copies.in_order(self, *kept, part, lambda memory: self.reorder(transform(), memory))
        memory = aligned_scratch("products.weight", self.bytes)
        self.reorder(transform(), memory)
        return memory

    def calls(self, v: np.ndarray, weights: np.ndarray, m: np.ndarray) -> np.ndarray:
        """What the kernel gives to `execute`, a row a thread; `v` and `m` begin with the threads."""
        pads = _scratchpads(self.each, len(self.each))
        for thread, primitive in enumerate(self.each):
            primitive.set(v[thread], weights, m[thread], pads[thread])
        self.table[:, STATUS] = 0
        return self.table


class Sums:
    """For each of some calls so many products (`count`), rows by block by columns, added to sums. Raises Refused.

    v: calls x count x block x rows, m: calls x count x block x columns, sums: calls x count x rows x columns.
    """

    def __init__(self, onednn: Library, calls: int, count: int, block: int, rows: int, columns: int) -> None:
        turned = onednn.layout((count, rows, block), (0, 2, 1))
        others, sums = onednn.layout((count, block, columns)), onednn.layout((count, rows, columns))
        description = _by_one_thread(onednn, turned, others, sums, onednn.attributes(add=True))
        self.each = [Primitive(onednn, description, [(X, turned), (WEIGHT, others), (Y, sums)]) for _ in range(calls)]
        self.table = _table(self.each)
        self.memory: list[int] = []

    def calls(self, v: np.ndarray, m: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """What the kernel gives to `execute`, a row a call; each thread does a part of them, one after the other."""
        threads = numba.get_num_threads()
        pads = _scratchpads(self.each, threads)
        memory = [threads, *(array.ctypes.data for array in (v, m, sums, pads))]
        if memory != self.memory:       # else they are told already: buffers seldom move
            for thread in range(threads):
                for call in range(thread * len(self.each) // threads, (thread + 1) * len(self.each) // threads):
                    self.each[call].set(v[call], m[call], sums[call], pads[thread])
            self.memory = memory
        self.table[:, STATUS] = 0
        return self.table


def _by_one_thread(onednn: Library, a: Any, b: Any, result: Any, attributes: Any) -> Any:
    """The description of a product of matrices that the thread which asks for it does alone."""
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
    """The last array that primitives take, one a thread; those that need none do not look at it."""
    return scratch("products.scratchpad", (threads, -(-max(1, primitives[0].scratchpad) // 64) * 64), np.uint8)


def keeps(size: int) -> bool:
    """Whether so many bytes of weights may be kept."""
    return size <= KEPT_BYTES


def of(threads: int, count: int, block: int, rows: int, columns: int, turned: bool = False) -> Products | None:
    """The Products of this shape; None without oneDNN, or where that is slow."""
    return _made(Products, threads, count, block, rows, columns, turned)


def sums_of(calls: int, count: int, block: int, rows: int, columns: int) -> Sums | None:
    """The Sums of this shape; None without oneDNN, or where that is slow."""
    return _made(Sums, calls, count, block, rows, columns)


def _made(what: Any, *shape: int) -> Any:
    onednn = library()
    if onednn is None:
        return None
    made: dict[Any, Any] = _local.__dict__.setdefault("made", {})
    key = what, *shape
    if key not in made:
        if len(made) == PRODUCTS:
            del made[next(iter(made))]
        try:
            made[key] = what(onednn, *shape)
        except Refused:
            made[key] = None
    return made[key]


def check(calls: np.ndarray) -> None:
    """Raise Refused where a thread's products failed."""
    if calls[:, STATUS].any():
        raise Refused(f"oneDNN's products failed with status {calls[:, STATUS].max()}")
