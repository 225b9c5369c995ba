"""Pooling."""
import functools
from typing import Any, Callable, Sequence

import numpy as np

from spp.backend.types import Array, Geometry, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import TRAIN, Context, Layer, format_shape
from spp.layers.geometry import axis_numbers
from spp.layers.registry import register
from spp.ops import pooling

CACHED_SIZES = 4        # of the maps that were pooled last
Tables = tuple[Sequence[int], Array, Array]     # numbers of regions along the axes, or per level; regions; areas


def cached_tables(context: Context, make: Callable[..., Tables]) -> Callable[..., Tables]:
    """`make`, a function of the map's size, with its regions and areas on the layer's device, cached by size.

    A GPU stores with a table what its backward pass derives from it, so that a size that returns needs no transfer.
    `make` must not refer to the layer: a cycle of references would keep the layer's memory.
    """
    move = context.backend.from_host

    @functools.lru_cache(CACHED_SIZES)
    def tables(*size: int) -> Tables:
        counts, regions, areas = make(*size)
        return counts, move(regions), move(areas)

    return tables


@register("Pooling")
class Pooling(Layer):
    """MAX, AVE or STOCHASTIC pooling over 1 to 3 spatial axes (Caffe: Pooling).

    Bottom: N x C x spatial axes; top: N x C x the numbers of windows, rounded up unless round_mode is FLOOR. MAX: a
    second top gets the position of each maximum, h * W + w, as a float; the first of equal values wins, and a NaN
    wins over all. STOCHASTIC, of values that are not negative: a draw with probability x / sum x in TRAIN,
    sum x^2 / sum x in TEST. Raises NetError for a window without kernel or stride, or outside of the map, and if the
    number of axes changes.
    """

    tops = (1, 2)
    method: str
    axes: int                   # spatial ones
    kernel: Numbers | None      # None for global pooling: the whole map
    stride: Numbers
    pad: Numbers
    ceil: bool
    samples: bool               # STOCHASTIC in TRAIN
    tables: Callable[..., Tables]
    counts: Sequence[int]       # of windows by axis, at the present size; their regions, and areas for averages:
    regions: Array
    areas: Array
    argmax: Blob                # positions for backward

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.pooling_param
        self.method = p.PoolMethod.Name(p.pool)
        if len(top) > 1 and self.method != "MAX":
            raise NetError(f"a second top (the positions of the maxima) needs pool: MAX, found "
                           f"{self.method}; remove the top")
        self.axes = len(bottom[0].shape) - 2
        if not 1 <= self.axes <= 3:
            raise NetError(f"needs a bottom of N x C x 1 to 3 spatial axes, found {format_shape(bottom[0].shape)}")
        self._read_geometry(p)
        make = functools.partial(_windows, self.kernel, self.stride, self.pad, self.ceil)
        self.tables = cached_tables(self.context, make)
        self.samples = self.method == "STOCHASTIC" and self.phase == TRAIN
        if self.samples:
            self.random_stream()
        self.argmax = self.buffer(np.int32)

    def _read_geometry(self, p: Any) -> None:
        kernel = axis_numbers(p, "kernel_size", self.axes)
        self.stride = axis_numbers(p, "stride", self.axes) or (1,) * self.axes
        self.pad = axis_numbers(p, "pad", self.axes) or (0,) * self.axes
        self.kernel = kernel or None
        if not p.global_pooling and not kernel:
            raise NetError("pooling_param needs kernel_size, or kernel_h and kernel_w, or global_pooling: true")
        if p.global_pooling and kernel:
            raise NetError("global_pooling: true takes the whole map; remove kernel_size, kernel_h, kernel_w")
        if p.global_pooling and (any(self.pad) or any(s != 1 for s in self.stride)):
            raise NetError(f"global_pooling: true needs pad 0 and stride 1, found pad {format_shape(self.pad)} and "
                           f"stride {format_shape(self.stride)}")
        if any(self.pad) and self.method == "STOCHASTIC":
            raise NetError("pad goes with pool: MAX and AVE only, found STOCHASTIC; set pad: 0")
        self.ceil = p.RoundMode.Name(p.round_mode) == "CEIL"

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if len(shape) - 2 != self.axes:
            raise NetError(f"was set up for {self.axes} spatial axes, found a bottom of {format_shape(shape)}")
        self.counts, self.regions, self.areas = self.tables(*shape[2:])
        for blob in [*top, self.argmax]:
            blob.reshape(*shape[:2], *self.counts)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].data, top[0].data
        if self.method == "MAX":
            argmax = self.argmax.data if self.runs_backward or len(top) > 1 else None
            pooling.max_forward(x, self.regions, y, argmax)
            if len(top) > 1:
                top[1].data[...] = argmax
        elif self.method == "AVE":
            pooling.average_forward(x, self.regions, self.areas, y)
        elif self.samples:
            uniform = pooling.draw_uniform(self.random_stream(), y)
            pooling.stochastic_forward(x, self.regions, uniform, y, self.argmax.data)
        else:
            pooling.expected_forward(x, self.regions, self.areas, y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy, dx = top[0].diff, bottom[0].diff
        if self.method == "MAX" or self.samples:
            pooling.max_backward(dy, self.argmax.data, self.regions, dx)
        elif self.method == "AVE":
            pooling.average_backward(dy, self.regions, self.areas, dx)
        else:
            pooling.expected_backward(dy, bottom[0].data, top[0].data, self.regions, self.areas, dx)


def _windows(kernel: Numbers | None, stride: Numbers, pad: Numbers, ceil: bool, *size: int) -> Tables:
    return pooling.sliding_regions(size, Geometry(kernel or size, stride, pad), ceil)
