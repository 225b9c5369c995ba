"""oneDNN's C library from the wheel onednn-cpu-gomp, if it is installed: objects and primitives.

The wheel has no Python code: cffi calls the library, whose C interface holds for all versions 3.
"""
import functools
import importlib.metadata
import logging
import os
import threading
from typing import Any, Callable, Sequence

import numba
import numpy as np

from spp.backend.host.scratch import scratch
from spp.errors import SppError

WHEEL, LIBRARY = "onednn-cpu-gomp", "libdnnl.so.3"
ALIGNMENT = 64              # bytes, a cache line

# Values of the library's enumerations.
CPU, IN_ORDER, FLOAT32, ANY_LAYOUT, USER_SCRATCHPAD, STRICT = 1, 1, 3, 1, 1, 0
LINEAR, HARDSWISH = 0x26, 0x34
ADD, MULTIPLY = 0x1fff0, 0x1fff1
IMPLEMENTATION, SCRATCHPAD_LAYOUT = 8, 136                  # queries of a primitive's description
FROM, TO, SCRATCHPAD = 1, 17, 80                            # arguments of a primitive

# Each kind of object has a type and a function that destroys it.
_KINDS = "engine", "stream", "memory", "memory_desc", "primitive", "primitive_desc", "primitive_attr", "post_ops"
_OBJECTS = "".join(f"typedef struct dnnl_{kind} *dnnl_{kind}_t; int dnnl_{kind}_destroy(dnnl_{kind}_t);"
                   for kind in _KINDS)
_DECLARATIONS = _OBJECTS + """
typedef struct { int arg; dnnl_memory_t memory; } dnnl_exec_arg_t;
typedef const int64_t *numbers;

int dnnl_engine_create(dnnl_engine_t *, int kind, size_t index);
int dnnl_stream_create(dnnl_stream_t *, dnnl_engine_t, unsigned flags);
int dnnl_stream_wait(dnnl_stream_t);

int dnnl_memory_desc_create_with_tag(dnnl_memory_desc_t *, int axes, numbers, int type, int tag);
int dnnl_memory_desc_create_with_strides(dnnl_memory_desc_t *, int axes, numbers, int type, numbers strides);
int dnnl_memory_desc_equal(dnnl_memory_desc_t, dnnl_memory_desc_t);
size_t dnnl_memory_desc_get_size(dnnl_memory_desc_t);
int dnnl_memory_create(dnnl_memory_t *, dnnl_memory_desc_t, dnnl_engine_t, void *);
int dnnl_memory_set_data_handle(dnnl_memory_t, void *);

int dnnl_primitive_attr_create(dnnl_primitive_attr_t *);
int dnnl_primitive_attr_set_fpmath_mode(dnnl_primitive_attr_t, int mode);
int dnnl_primitive_attr_set_scratchpad_mode(dnnl_primitive_attr_t, int mode);
int dnnl_primitive_attr_set_post_ops(dnnl_primitive_attr_t, dnnl_post_ops_t);
int dnnl_post_ops_create(dnnl_post_ops_t *);
int dnnl_post_ops_append_eltwise(dnnl_post_ops_t, int algorithm, float alpha, float beta);
int dnnl_post_ops_append_binary(dnnl_post_ops_t, int algorithm, dnnl_memory_desc_t other);
int dnnl_post_ops_append_sum(dnnl_post_ops_t, float scale, int32_t zero_point, int type);

int dnnl_primitive_desc_query(dnnl_primitive_desc_t, int what, int index, void *);
dnnl_memory_desc_t dnnl_primitive_desc_query_md(dnnl_primitive_desc_t, int what, int index);
int dnnl_primitive_create(dnnl_primitive_t *, dnnl_primitive_desc_t);
int dnnl_primitive_execute(dnnl_primitive_t, dnnl_stream_t, int count, const dnnl_exec_arg_t *);

int dnnl_reorder_primitive_desc_create(dnnl_primitive_desc_t *, dnnl_memory_desc_t, dnnl_engine_t,
                                       dnnl_memory_desc_t, dnnl_engine_t, dnnl_primitive_attr_t);
int dnnl_convolution_forward_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int kind, int algorithm, dnnl_memory_desc_t x, dnnl_memory_desc_t weight,
    dnnl_memory_desc_t bias, dnnl_memory_desc_t y, numbers strides, numbers dilations, numbers before, numbers after,
    dnnl_primitive_attr_t);
int dnnl_convolution_backward_data_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int algorithm, dnnl_memory_desc_t dx, dnnl_memory_desc_t weight,
    dnnl_memory_desc_t dy, numbers strides, numbers dilations, numbers before, numbers after,
    dnnl_primitive_desc_t forward, dnnl_primitive_attr_t);
int dnnl_convolution_backward_weights_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int algorithm, dnnl_memory_desc_t x, dnnl_memory_desc_t dweight,
    dnnl_memory_desc_t dbias, dnnl_memory_desc_t dy, numbers strides, numbers dilations, numbers before, numbers after,
    dnnl_primitive_desc_t forward, dnnl_primitive_attr_t);
int dnnl_matmul_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, dnnl_memory_desc_t a, dnnl_memory_desc_t b, dnnl_memory_desc_t bias,
    dnnl_memory_desc_t result, dnnl_primitive_attr_t);
int dnnl_sgemm(char a_is, char b_is, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
               const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

void omp_set_num_threads(int);
"""

log = logging.getLogger(__name__)


class Refused(SppError):
    """A function of oneDNN's C interface returned another status than success, or only slow code is available."""


class Library:
    """The loaded library. Raises ImportError, OSError, AttributeError or Refused if loading fails."""

    def __init__(self, path: str) -> None:
        import cffi
        self.ffi = cffi.FFI()
        self.ffi.cdef(_DECLARATIONS)
        # Never unloaded: at exit its objects may outlive this one.
        self.functions: Any = self.ffi.dlopen(path, self.ffi.RTLD_NOW | self.ffi.RTLD_NODELETE)
        self.engine = self.create("engine", "engine_create", CPU, 0)
        self.stream = self.create("stream", "stream_create", self.engine, IN_ORDER)

    def call(self, function: str, *arguments: Any) -> None:
        """Call dnnl_<function>. Raises Refused if its status is not success."""
        status = getattr(self.functions, f"dnnl_{function}")(*arguments)
        if status:
            raise Refused(f"oneDNN's dnnl_{function} returned status {status}")

    def create(self, kind: str, function: str, *arguments: Any) -> Any:
        """The object, a dnnl_<kind>_t, that dnnl_<function> creates; destroyed with the last reference to it."""
        handle = self.ffi.new(f"dnnl_{kind}_t *")
        self.call(function, handle, *arguments)
        return self.ffi.gc(handle[0], getattr(self.functions, f"dnnl_{kind}_destroy"))

    def layout(self, shape: Sequence[int], order: Sequence[int] | None = None) -> Any:
        """A description of dense memory: float32, with the axes in this order, the slowest first, or in C order."""
        strides, step = [0] * len(shape), 1
        for axis in reversed(order or range(len(shape))):
            strides[axis], step = step, step * shape[axis]
        return self.create("memory_desc", "memory_desc_create_with_strides", len(shape), list(shape), FLOAT32, strides)

    def any_layout(self, shape: Sequence[int]) -> Any:
        """A description that leaves the order, and blocks, of the float32 elements to oneDNN."""
        return self.create("memory_desc", "memory_desc_create_with_tag", len(shape), list(shape), FLOAT32, ANY_LAYOUT)

    def attributes(self, relu: bool = False, add: bool = False, scale: Any = None) -> Any:
        """A primitive's attributes: plain float32 arithmetic; `relu` of the result; `add` it to the output's values.

        `scale`: the layout of two arrays, by which the result is multiplied and which is added, before the ReLU.

        oneDNN's own relu makes NaN 0. Here y becomes y * min(max(3e38 * y, 0), 1) + 0: NaN stays, an output of
        minus infinity becomes NaN, and what is negative 0, without sign.
        """
        attributes = self.create("primitive_attr", "primitive_attr_create")
        self.call("primitive_attr_set_fpmath_mode", attributes, STRICT)
        self.call("primitive_attr_set_scratchpad_mode", attributes, USER_SCRATCHPAD)
        then = self.create("post_ops", "post_ops_create")
        if scale is not None:
            self.call("post_ops_append_binary", then, MULTIPLY, scale)
            self.call("post_ops_append_binary", then, ADD, scale)
        if relu:
            self.call("post_ops_append_eltwise", then, HARDSWISH, 3e38, 0)
            self.call("post_ops_append_eltwise", then, LINEAR, 1, 0)
        if add:
            self.call("post_ops_append_sum", then, 1, 0, 0)
        self.call("primitive_attr_set_post_ops", attributes, then)
        return attributes

    def queried_layout(self, description: Any, what: int) -> Any:
        """A memory layout that belongs to a primitive's description."""
        return self.functions.dnnl_primitive_desc_query_md(description, what, 0)

    def implementation(self, description: Any) -> str:
        """oneDNN's name of the code that a primitive runs, such as "jit:avx512_core" or "ref:any"."""
        name = self.ffi.new("char **")
        self.call("primitive_desc_query", description, IMPLEMENTATION, 0, name)
        return self.ffi.string(name[0]).decode()

    def follow_numba(self) -> int:
        """Make oneDNN use as many threads as Numba does in this thread; return their number.

        If both use the same OpenMP library, as on Linux, they are the same threads.
        """
        threads = numba.get_num_threads()
        self.functions.omp_set_num_threads(threads)
        return threads


class Primitive:
    """A computation that oneDNN has compiled for one set of shapes; a call passes the arrays.

    `arguments`: the number and the layout of each array, in the order of a call. The arrays must be contiguous;
    they are not checked. Raises Refused.
    """

    def __init__(self, library: Library, description: Any, arguments: Sequence[tuple[int, Any]]) -> None:
        self.library = library
        scratchpad = library.queried_layout(description, SCRATCHPAD_LAYOUT)
        self.scratchpad = library.functions.dnnl_memory_desc_get_size(scratchpad)
        if self.scratchpad:
            arguments = [*arguments, (SCRATCHPAD, scratchpad)]
        self.primitive = library.create("primitive", "primitive_create", description)
        self.memories = [library.create("memory", "memory_create", layout, library.engine, library.ffi.NULL)
                         for _, layout in arguments]
        self.arguments = library.ffi.new("dnnl_exec_arg_t[]", [
            (number, memory) for (number, _), memory in zip(arguments, self.memories)])

    def set(self, *arrays: np.ndarray) -> None:
        """Set the arrays to compute with; the scratchpad, if there is one, is the last."""
        status, pointer = 0, self.library.ffi.from_buffer
        for memory, array in zip(self.memories, arrays):
            status |= self.library.functions.dnnl_memory_set_data_handle(memory, pointer(array))
        if status:
            raise Refused(f"oneDNN's dnnl_memory_set_data_handle returned status {status}")

    def addresses(self) -> list[int]:
        """The addresses of dnnl_primitive_execute and of its arguments, with their count."""
        ffi, functions = self.library.ffi, self.library.functions
        execute, *rest = (int(ffi.cast("intptr_t", pointer)) for pointer in (
            functions.dnnl_primitive_execute, self.primitive, self.library.stream, self.arguments))
        return [execute, *rest[:2], len(self.arguments), rest[2]]

    def __call__(self, *arrays: np.ndarray) -> None:
        if self.scratchpad:
            arrays = *arrays, aligned_scratch("onednn.scratchpad", self.scratchpad)
        self.set(*arrays)
        stream = self.library.stream
        self.library.call("primitive_execute", self.primitive, stream, len(arrays), self.arguments)
        self.library.call("stream_wait", stream)


def aligned(memory: np.ndarray, size: int) -> np.ndarray:
    """`size` bytes of a byte array, at least ALIGNMENT longer, from the start of a cache line."""
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start:start + size]


def aligned_scratch(name: str, size: int) -> np.ndarray:
    """A scratch buffer of `size` bytes, from the start of a cache line."""
    return aligned(scratch(name, (size + ALIGNMENT,), np.uint8), size)


def _path() -> str | None:
    """The library's file; None if the wheel is not installed. Raises OSError if the wheel lacks the file."""
    try:
        wheel = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in wheel.files or []:
        if file.name == LIBRARY:
            return os.path.realpath(str(wheel.locate_file(file)))
    raise OSError(f"{LIBRARY} is not among the files of the package")


def unless_refused(make: Callable[..., Any], *arguments: Any) -> Any:
    """make(*arguments); None if this raises Refused."""
    try:
        return make(*arguments)
    except Refused:
        return None


_loading = threading.Lock()


def library() -> Library | None:
    """The library; None if it is not installed, does not work (which is logged once), or with SPP_ONEDNN=0."""
    with _loading:
        return _load()


@functools.cache
def _load() -> Library | None:
    if os.environ.get("SPP_ONEDNN") == "0":
        return None
    try:
        path = _path()
        return Library(path) if path else None
    except (ImportError, OSError, AttributeError, Refused) as error:
        log.warning("oneDNN (%s) is installed but cannot be used, computing without it: %s; reinstall it with "
                    "pip install --force-reinstall %s cffi", WHEEL, error, WHEEL)
        return None
