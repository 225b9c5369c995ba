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
  against Winograd by oneDNN's products  0.5-0.9, 0.5-0.7         0.9-1.1, 0.5-0.7    0.9-1.1 (2 groups)
  inner product, 4 to 128 rows (one row) 0.5-2.9 (0.9-1.4)        1.2-4.1 (1.0)       1.1-2.7 (1.2-1.8)

and so: whatever Winograd's algorithm with products by oneDNN (onednn_products.py) does not do, but of the gradients of
weights those of groups alone; of inner products the gradients. Its convolutions write whole images: outputs beside
other channels are those of Winograd, or of im2row with its products. Where code of oneDNN is not compiled for the
shape, it is slow.
"""
import functools
import threading
from typing import Any

import numpy as np

from spp.backend.host.onednn import weight_copies
from spp.backend.host.convolution import winograd
from spp.backend.host.onednn.library import FROM, TO, Library, Primitive, Refused, aligned_scratch, library
from spp.backend.host.scratch import scratch

PLANS = 256            # as many shapes, of each direction, as ResNet-152 and several others have

# oneDNN's numbers: kinds of propagation, the direct algorithm, arguments, layouts of a primitive's description.
INFERENCE, TRAINING, DIRECT = 96, 64, 1
X, Y, WEIGHT, BIAS, DX, DY, DWEIGHT, DBIAS = 1, 17, 33, 41, 129, 145, 161, 169
SCALE, SHIFT = (32768 * (step + 1) + 2 for step in range(2))       # of the first two of what is done to y
WEIGHT_LAYOUT, DWEIGHT_LAYOUT = 131, 132

CHANNELS_LAST = 0, 2, 3, 1

_local = threading.local()


class Plan:
    """A convolution or one of its gradients, for one set of shapes. Raises Refused."""

    def __init__(self, onednn: Library, kind: str, x: tuple[int, ...], y: tuple[int, ...], weight: tuple[int, ...],
                 geometry: tuple[int, ...], group: int, relu: bool, scaled: bool) -> None:
        """`x`, `y`: N x C x H x W, `weight`: O x C / group x kh x kw."""
        stride, pad, dilation = geometry[2:4], geometry[4:6], geometry[6:]
        whole = (group, weight[0] // group, *weight[1:]) if group > 1 else weight
        images, gradients = onednn.layout(x, CHANNELS_LAST), onednn.layout(y, CHANNELS_LAST)
        bias, plain, blocked = onednn.layout(weight[:1]), onednn.layout(whole), onednn.any_layout(whole)
        by_channel = onednn.layout((1, weight[0], 1, 1))
        scales = [(SCALE, by_channel), (SHIFT, by_channel)] if scaled else []
        after = [(y[i + 2] - 1) * stride[i] + (weight[i + 2] - 1) * dilation[i] + 1 - x[i + 2] - pad[i]
                 for i in range(2)]
        window = list(stride), [d - 1 for d in dilation], list(pad), after
        description = onednn.create(
            "primitive_desc", "convolution_forward_primitive_desc_create", onednn.engine,
            INFERENCE if kind == "forward" else TRAINING, DIRECT, images, blocked, bias, gradients, *window,
            onednn.attributes(relu, scale=by_channel if scaled else None))
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
        self.onednn, self.scaled = onednn, scaled
        self.description = description      # the layouts asked of it are its own
        self.layout = onednn.asked(description, DWEIGHT_LAYOUT if kind == "backward_weights" else WEIGHT_LAYOUT)
        self.bytes = onednn.functions.dnnl_memory_desc_get_size(self.layout)
        ends = (self.layout, plain) if kind == "backward_weights" else (plain, self.layout)
        reorder = onednn.create("primitive_desc", "reorder_primitive_desc_create", ends[0], onednn.engine, ends[1],
                                onednn.engine, onednn.attributes(add=kind == "backward_weights"))
        self.reorder = Primitive(onednn, reorder, [(FROM, ends[0]), (TO, ends[1])])
        self.compute = Primitive(onednn, description, {
            "forward": [(X, images), (WEIGHT, self.layout), (Y, gradients), (BIAS, bias), *scales],
            "backward_data": [(DY, gradients), (WEIGHT, self.layout), (DX, images)],
            "backward_weights": [(X, images), (DY, gradients), (DWEIGHT, self.layout), (DBIAS, bias)]}[kind])

    def forward(self, x: np.ndarray, weight: np.ndarray, last_pass: np.ndarray, y: np.ndarray) -> None:
        """Write to `y`, negative values as 0 where the plan has a ReLU.

        `last_pass`: bias, scale and shift by outputs; of a plan without scales the bias alone counts.
        """
        ordered = weight_copies.in_order(self, weight, "onednn", weight, functools.partial(self.reorder, weight))
        self.compute(x, ordered, y, *last_pass[:3 if self.scaled else 1])

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
         relu: bool = False, scaled: bool = False) -> Plan | None:
    """How to do this convolution here; None where that cannot be done, or is not faster.

    `kind`: "forward", "backward_data", "backward_weights"; `x` and `y`, or their gradients, N x H x W x C, `y` as
    `pixels` gives it. `scaled`: the outputs are scaled and shifted before the ReLU.
    """
    onednn = library() if x.dtype == np.float32 else None
    if onednn is None or not weight.flags.c_contiguous or 0 in x.shape + y.shape:
        return None
    if kind == "backward_weights" and group == 1 or not y.flags.c_contiguous:      # it writes dense images
        return None
    if kind != "backward_weights" and winograd.pays(x, y, weight, geometry, group, kind):
        return None
    plans: dict[Any, Plan | None] = _local.__dict__.setdefault("plans", {})
    key = kind, x.shape, y.shape, weight.shape, geometry, group, relu, scaled, onednn.follow_numba()
    if key not in plans:
        if len(plans) == PLANS:
            del plans[next(iter(plans))]
        shape_x, shape_y = (array.transpose(0, 3, 1, 2).shape for array in (x, y))
        try:
            plans[key] = Plan(onednn, kind, shape_x, shape_y, weight.shape, geometry, group, relu, scaled)
        except Refused:
            plans[key] = None
    return plans[key]


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
