"""Convolutions and matrix products by oneDNN, where its wheel is installed: pip install "spp[onednn]".

Direct sums in float32, no Winograd: not a shortcut that SPP_EXACT=1 would turn off. For one number of threads
results repeat to the bit. What is prepared for a shape, and reordered weights, are kept a thread: primitives for
the last PLANS shapes, and a copy of the weights of each forward convolution in oneDNN's order, used again
only while a hash of all the weights says that they have not changed; reordering takes 2 to 3 times as long.

Images are C-contiguous N x H x W x C; `geometry` is that of convolution.py.

What is done here was measured over the layers of ZF-5, AlexNet, VGG-16, SqueezeNet and ResNet-18 on two AVX-512
cores. Times as fast as our own kernels with a BLAS that uses AVX-512, for one image and for 8 to 32:

                                         forward                  gradient of input   of weights
  first layers, 3 channels               1.4-1.9, 1.7-3.9         not computed        0.5-1.2
  3 x 3 with stride 2                    1.2-1.7, 1.2             1.2-1.5             0.9
  1 x 1                                  0.8-1.1, 1.1-2.2         0.8-1.5             0.3-1.3
  2 groups of 48 channels; 32 groups     1.5, 1.0; 3.5, 5.0      1.6; 9.2            0.9; 3.0
  depthwise                              0.8-1.1, 1.9            1.5-1.8             1.2-1.6
  too few tiles for Winograd             1.5-1.9                  -                   -
  Winograd, 96 channels or more          0.7-1.0, 0.5-0.8         0.5-0.8             0.4-0.7
  Winograd, fewer                        0.7-1.6, 0.9-1.2         1.1-1.4             0.7-1.3
  inner product, 4 to 128 rows (one row) 0.5-2.9 (0.9-1.4)        1.2-4.1 (1.0)       1.1-2.7 (1.2-1.8)

and so: whatever Winograd's algorithm does not do on many channels and pixels, but of the gradients of weights those of
groups alone; of inner products the gradients. Where code of oneDNN is not compiled for the shape, it is slow.
"""
import functools
import threading
import weakref
from typing import Any, Callable

import numba
import numpy as np

from spp.backend.host import winograd
from spp.backend.host.onednn_library import (ALIGNMENT, FROM, TO, Library, Primitive, Refused, aligned,
                                             aligned_scratch, library)
from spp.backend.host.scratch import scratch

PLANS = 256            # as many shapes, of each direction, as ResNet-152 and several others have
CHANNELS = 3                # times as many as winograd.CHANNELS, of input and output, before Winograd is faster
SMALL = 2500                # pixels of all outputs; for fewer, Winograd's transform of the weights does not pay
HASH_PARTS = 8
HASHED_BY_ONE = 1 << 20     # bytes of weights: waking another thread takes longer than to hash so many

# oneDNN's numbers: kinds of propagation, the direct algorithm, arguments, layouts of a primitive's description.
INFERENCE, TRAINING, DIRECT = 96, 64, 1
X, Y, WEIGHT, BIAS, DX, DY, DWEIGHT, DBIAS = 1, 17, 33, 41, 129, 145, 161, 169
WEIGHT_LAYOUT, DWEIGHT_LAYOUT = 131, 132

CHANNELS_LAST = 0, 2, 3, 1
_MULTIPLIER, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)

_local = threading.local()


class Plan:
    """A convolution or one of its gradients, for one set of shapes. Raises Refused."""

    def __init__(self, onednn: Library, kind: str, x: tuple[int, ...], y: tuple[int, ...], weight: tuple[int, ...],
                 geometry: tuple[int, ...], group: int, relu: bool) -> None:
        """`x`, `y`: N x C x H x W, `weight`: O x C / group x kh x kw."""
        stride, pad, dilation = geometry[2:4], geometry[4:6], geometry[6:]
        whole = (group, weight[0] // group, *weight[1:]) if group > 1 else weight
        images, gradients = onednn.layout(x, CHANNELS_LAST), onednn.layout(y, CHANNELS_LAST)
        bias, plain, blocked = onednn.layout(weight[:1]), onednn.layout(whole), onednn.any_layout(whole)
        after = [(y[i + 2] - 1) * stride[i] + (weight[i + 2] - 1) * dilation[i] + 1 - x[i + 2] - pad[i]
                 for i in range(2)]
        window = list(stride), [d - 1 for d in dilation], list(pad), after
        description = onednn.create(
            "primitive_desc", "convolution_forward_primitive_desc_create", onednn.engine,
            INFERENCE if kind == "forward" else TRAINING, DIRECT, images, blocked, bias, gradients, *window,
            onednn.attributes(relu))
        if kind == "backward_data":
            description = onednn.create(
                "primitive_desc", "convolution_backward_data_primitive_desc_create", onednn.engine, DIRECT, images,
                blocked, gradients, *window, description, onednn.attributes())
        elif kind == "backward_weights":
            description = onednn.create(
                "primitive_desc", "convolution_backward_weights_primitive_desc_create", onednn.engine, DIRECT, images,
                blocked, bias, gradients, *window, description, onednn.attributes())
        implementation = onednn.implementation(description)
        if not implementation.startswith(("jit", "brg", "brdgmm")):
            raise Refused(f"oneDNN has only slow code for this shape: {implementation}")

        self.onednn = onednn
        self.description = description      # the layouts asked of it are its own
        self.layout = onednn.asked(description, DWEIGHT_LAYOUT if kind == "backward_weights" else WEIGHT_LAYOUT)
        self.bytes = onednn.functions.dnnl_memory_desc_get_size(self.layout)
        ends = (self.layout, plain) if kind == "backward_weights" else (plain, self.layout)
        reorder = onednn.create("primitive_desc", "reorder_primitive_desc_create", ends[0], onednn.engine, ends[1],
                                onednn.engine, onednn.attributes(add=kind == "backward_weights"))
        self.reorder = Primitive(onednn, reorder, [(FROM, ends[0]), (TO, ends[1])])
        self.compute = Primitive(onednn, description, {
            "forward": [(X, images), (WEIGHT, self.layout), (BIAS, bias), (Y, gradients)],
            "backward_data": [(DY, gradients), (WEIGHT, self.layout), (DX, images)],
            "backward_weights": [(X, images), (DY, gradients), (DWEIGHT, self.layout), (DBIAS, bias)]}[kind])

    def forward(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, y: np.ndarray) -> None:
        """Write to `y`, negative values as 0 where the plan has a ReLU."""
        self.compute(x, _in_order(self, weight), bias, y)

    def backward_data(self, dy: np.ndarray, weight: np.ndarray, dx: np.ndarray) -> None:
        """Write the input's gradient to `dx`."""
        reordered = aligned_scratch("onednn.weight", self.bytes)
        self.reorder(weight, reordered)
        self.compute(dy, reordered, dx)

    def backward_weights(self, x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, dbias: np.ndarray | None) -> None:
        """Add to `dweight`, and to `dbias` unless it is None."""
        sums = aligned_scratch("onednn.weight", self.bytes)
        bias_sums = scratch("onednn.bias", dweight.shape[:1], np.float32)
        self.compute(x, dy, sums, bias_sums)
        self.reorder(sums, dweight)
        if dbias is not None:
            dbias += bias_sums


def plan(kind: str, x: np.ndarray, y: np.ndarray, weight: np.ndarray, geometry: tuple[int, ...], group: int,
         relu: bool = False) -> Plan | None:
    """How to do this convolution here; None where that cannot be done, or is not faster.

    `kind`: "forward", "backward_data", "backward_weights"; `x` and `y`, or their gradients, N x H x W x C.
    """
    onednn = library() if x.dtype == np.float32 else None
    if onednn is None or not weight.flags.c_contiguous or 0 in x.shape + y.shape:
        return None
    if kind == "backward_weights" and group == 1:
        return None
    narrow = min(weight.shape[1], len(weight) // group) < CHANNELS * winograd.CHANNELS
    small = kind == "forward" and y.size < SMALL * y.shape[3]
    if not narrow and not small and winograd.pays(x, y, weight, geometry, group):
        return None
    plans: dict[Any, Plan | None] = _local.__dict__.setdefault("plans", {})
    key = kind, x.shape, y.shape, weight.shape, geometry, group, relu, onednn.follow_numba()
    if key not in plans:
        if len(plans) == PLANS:
            del plans[next(iter(plans))]
        shape_x, shape_y = (array.transpose(0, 3, 1, 2).shape for array in (x, y))
        try:
            plans[key] = Plan(onednn, kind, shape_x, shape_y, weight.shape, geometry, group, relu)
        except Refused:
            plans[key] = None
    return plans[key]


class _Copy:
    """Weights in a plan's order, with the hash of what was copied."""

    def __init__(self, plan: Plan, weight: np.ndarray, dropped: Callable[[Any], None]) -> None:
        self.memory = aligned(np.empty(plan.bytes + ALIGNMENT, np.uint8), plan.bytes)
        self.plan, self.hash = plan, -1
        self.source = weakref.ref(weight, dropped)

    def update(self, plan: Plan, weight: np.ndarray) -> None:
        """Copy the weights, unless they and their order are what they were."""
        hashed = content_hash(weight)
        equal = plan.onednn.functions.dnnl_memory_desc_equal
        if hashed != self.hash or not equal(plan.layout, self.plan.layout):
            plan.reorder(weight, self.memory)
            self.plan, self.hash = plan, hashed


def _drop(copies: dict[int, _Copy], key: int, _: Any) -> None:
    copies.pop(key, None)


def _in_order(plan: Plan, weight: np.ndarray) -> np.ndarray:
    """The weights in the plan's order: this thread's copy, which lives as long as the array itself."""
    copies: dict[int, _Copy] = _local.__dict__.setdefault("copies", {})
    key = id(weight)
    copy = copies.get(key)
    if copy is None or copy.memory.size != plan.bytes:
        copy = copies[key] = _Copy(plan, weight, functools.partial(_drop, copies, key))
    copy.update(plan, weight)
    return copy.memory


@numba.njit(cache=True, nogil=True)
def _hash(words, seed):
    """64 bits of the words, in order: each step maps its word and the hash before it one to one."""
    lanes = np.empty(32, np.uint64)
    for lane in range(32):
        lanes[lane] = seed + np.uint64(lane)
    for block in range(words.size // 32):
        for lane in range(32):
            value = (lanes[lane] ^ words[32 * block + lane]) * _MULTIPLIER
            lanes[lane] = value ^ (value >> _HALF)
    total = np.uint64(words.size)
    for i in range(words.size // 32 * 32, words.size):
        total = (total ^ words[i]) * _MULTIPLIER
        total ^= total >> _HALF
    for lane in range(32):
        total = (total ^ lanes[lane]) * _MULTIPLIER
        total ^= total >> _HALF
    return total


@numba.njit(cache=True, nogil=True, parallel=True)
def _hash_parts(words, hashes):
    parts = hashes.size
    for part in numba.prange(parts):
        hashes[part] = _hash(words[part * words.size // parts:(part + 1) * words.size // parts], np.uint64(part))


def content_hash(array: np.ndarray) -> int:
    """64 bits that differ, but for one chance in 2^64, when any element of a C-contiguous float32 array does."""
    flat = array.reshape(-1)
    words, rest = flat[:flat.size // 2 * 2].view(np.uint64), flat[flat.size // 2 * 2:].view(np.uint32)
    seed = np.uint64(rest[0] if rest.size else 0)
    if array.nbytes <= HASHED_BY_ONE:
        return int(_hash(words, seed))
    hashes = scratch("onednn.hashes", (HASH_PARTS,), np.uint64)
    _hash_parts(words, hashes)
    return int(_hash(hashes, seed))


def takes_product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> bool:
    """Whether `product` of these arrays is done here; a single row is as fast without."""
    if a.dtype != np.float32 or len(a) < 2 or 0 in a.shape + b.shape:
        return False
    ordered = all(matrix.flags.c_contiguous or matrix.flags.f_contiguous for matrix in (a, b))
    return ordered and out.flags.c_contiguous and library() is not None


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray, add: bool = False) -> None:
    """out (M x N) = a (M x K) b (K x N), or += if `add`; `a` and `b` may be transposed views."""
    onednn = library()
    assert onednn
    onednn.follow_numba()
    pointers = [onednn.ffi.cast("float *", matrix.ctypes.data) for matrix in (a, b, out)]
    (rows, depth), columns = a.shape, b.shape[1]
    a_is, b_is = (b"N" if matrix.flags.c_contiguous else b"T" for matrix in (a, b))
    onednn.call("sgemm", a_is, b_is, rows, columns, depth, 1, pointers[0], depth if a_is == b"N" else rows,
                pointers[1], columns if b_is == b"N" else depth, float(add), pointers[2], columns)
