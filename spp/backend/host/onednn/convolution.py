"""Convolutions by oneDNN.

Direct sums in float32, no Winograd: not a shortcut that SPP_EXACT=1 would turn off. For one number of threads
results repeat to the bit. Each thread keeps what is prepared for a shape, and reordered weights: primitives for
the last PLANS shapes, and a copy of the weights of each forward convolution in oneDNN's order, used again
only while a hash of all the weights shows that they have not changed; reordering takes 2 to 3 times as long.

Images are C-contiguous N x H x W x C.
"""
import functools
from typing import Sequence

import numpy as np

from spp.backend.host.cache import Cache
from spp.backend.host.onednn import weight_copies
from spp.backend.host.onednn.library import (FROM, TO, Library, Primitive, Refused, aligned_scratch, library,
                                             unless_refused)
from spp.backend.host.scratch import scratch
from spp.backend.types import Epilogue, Geometry, Numbers

PLANS = 256            # as many shapes, of each direction, as ResNet-152 and several others have

# oneDNN's numbers: kinds of propagation, the direct algorithm, arguments, layouts of a primitive's description.
INFERENCE, TRAINING, DIRECT = 96, 64, 1
X, Y, WEIGHT, BIAS, DX, DY, DWEIGHT, DBIAS = 1, 17, 33, 41, 129, 145, 161, 169
SCALE, SHIFT = (32768 * (step + 1) + 2 for step in range(2))       # of the first two post-operations
WEIGHT_LAYOUT, DWEIGHT_LAYOUT = 131, 132

CHANNELS_LAST = 0, 2, 3, 1

_plans = Cache(PLANS)


class Plan:
    """A convolution or one of its gradients, for one set of shapes. Raises Refused."""

    def __init__(self, onednn: Library, kind: str, shapes: Sequence[Numbers], geometry: Geometry, relu: bool,
                 scaled: bool) -> None:
        """`shapes`: x and y as N x H x W x C, and the weights as O x C / group x kh x kw."""
        x, y = ((n, c, h, w) for n, h, w, c in shapes[:2])
        weight, (_, stride, pad, dilation, group) = shapes[2], geometry
        whole = (group, weight[0] // group, *weight[1:]) if group > 1 else weight
        images, gradients = onednn.layout(x, CHANNELS_LAST), onednn.layout(y, CHANNELS_LAST)
        bias, plain, blocked = onednn.layout(weight[:1]), onednn.layout(whole), onednn.any_layout(whole)
        per_channel = onednn.layout((1, weight[0], 1, 1))
        scales = [(SCALE, per_channel), (SHIFT, per_channel)] if scaled else []
        after = [(y[i + 2] - 1) * stride[i] + (weight[i + 2] - 1) * dilation[i] + 1 - x[i + 2] - pad[i]
                 for i in range(2)]
        window = list(stride), [d - 1 for d in dilation], list(pad), after
        description = onednn.create(
            "primitive_desc", "convolution_forward_primitive_desc_create", onednn.engine,
            INFERENCE if kind == "forward" else TRAINING, DIRECT, images, blocked, bias, gradients, *window,
            onednn.attributes(relu, scale=per_channel if scaled else None))
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
        self.description = description      # owns the layouts that are queried from it
        self.layout = onednn.queried_layout(
            description, DWEIGHT_LAYOUT if kind == "backward_weights" else WEIGHT_LAYOUT)
        self.bytes = onednn.functions.dnnl_memory_desc_get_size(self.layout)
        ends = (self.layout, plain) if kind == "backward_weights" else (plain, self.layout)
        reorder = onednn.create("primitive_desc", "reorder_primitive_desc_create", ends[0], onednn.engine, ends[1],
                                onednn.engine, onednn.attributes(add=kind == "backward_weights"))
        self.reorder = Primitive(onednn, reorder, [(FROM, ends[0]), (TO, ends[1])])
        self.compute = Primitive(onednn, description, {
            "forward": [(X, images), (WEIGHT, self.layout), (Y, gradients), (BIAS, bias), *scales],
            "backward_data": [(DY, gradients), (WEIGHT, self.layout), (DX, images)],
            "backward_weights": [(X, images), (DY, gradients), (DWEIGHT, self.layout), (DBIAS, bias)]}[kind])

    def forward(self, x: np.ndarray, weight: np.ndarray, epilogue: np.ndarray, y: np.ndarray) -> None:
        """Write to `y`, negative values as 0 if the plan has a ReLU.

        `epilogue`: rows of bias, scale and shift; a plan without scales reads the bias alone.
        """
        ordered = weight_copies.in_order(self, weight, "onednn", weight, functools.partial(self.reorder, weight))
        self.compute(x, ordered, y, *epilogue[:3 if self.scaled else 1])

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


def plan(kind: str, x: np.ndarray, y: np.ndarray, weight: np.ndarray, geometry: Geometry,
         epilogue: Epilogue = Epilogue()) -> Plan | None:
    """A plan for this convolution, kept for its shapes; None if oneDNN is absent, or has only slow code for them.

    `kind`: "forward", "backward_data", "backward_weights"; `x` and `y`, or their gradients, N x H x W x C; all arrays
    C-contiguous, float32 and not empty.
    """
    onednn = library()
    if onednn is None:
        return None
    shapes = x.shape, y.shape, weight.shape
    relu, scaled = epilogue.relu, epilogue.scale is not None
    key = kind, shapes, geometry, relu, scaled, onednn.follow_numba()
    return _plans.get(key, unless_refused, Plan, onednn, kind, shapes, geometry, relu, scaled)
