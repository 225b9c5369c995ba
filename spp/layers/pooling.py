"""Pooling."""
from typing import Any, Callable, Sequence

import numpy as np

from spp.backend import host
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import TRAIN, Context, Layer, format_shape
from spp.layers.registry import register
from spp.ops import pooling

KEPT_SIZES = 4


class Tables:
    """The tables of regions of a layer that pools, on its device, by the size of the map: of the sizes met last.

    A GPU keeps with a table what the backward pass derives from it: at a size that comes again nothing waits for the
    host.
    """

    def __init__(self, context: Context) -> None:
        self._move = context.backend.from_host
        self._kept: dict[tuple[int, ...], tuple[Any, Any, Any]] = {}

    def of(self, size: tuple[int, ...], make: Callable[..., tuple[Any, Any, Any]]) -> tuple[Any, Any, Any]:
        """What make(*size) gives: counts of regions along the axes, and on the device regions and areas."""
        if size not in self._kept:
            if len(self._kept) == KEPT_SIZES:
                del self._kept[next(iter(self._kept))]
            counts, regions, areas = make(*size)
            self._kept[size] = counts, self._move(regions), self._move(areas)
        return self._kept[size]


@register("Pooling")
class Pooling(Layer):
    """MAX, AVE or STOCHASTIC pooling over the spatial axes, 1 to 3 of them (Caffe: Pooling).

    The output size rounds up unless round_mode is FLOOR. MAX: a second top gets the position of each maximum,
    h * W + w, as a float; the first of equal values wins, and a NaN wins over all. STOCHASTIC takes values
    that are not negative: a draw with probability x / sum x in TRAIN, sum x^2 / sum x in TEST.
    """

    tops = (1, 2)

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
        self.tables = Tables(self.context)
        self.drawn = self.method == "STOCHASTIC" and self.phase == TRAIN
        if self.drawn:
            self.random_stream()
        self.argmax = Blob((), np.int32, self.context.backend)

    def _read_geometry(self, p):
        self.kernel = None      # global pooling: the whole map
        self.stride, self.pad = _sizes(p, "stride", self.axes), _sizes(p, "pad", self.axes)
        if not p.global_pooling:
            self.kernel = _sizes(p, "kernel", self.axes)
        elif p.HasField("kernel_size") or p.HasField("kernel_h") or p.HasField("kernel_w"):
            raise NetError("global_pooling: true takes the whole map; remove kernel_size, kernel_h, kernel_w")
        elif any(self.pad) or any(s != 1 for s in self.stride):
            raise NetError(f"global_pooling: true needs pad 0 and stride 1, found pad {format_shape(self.pad)} and "
                           f"stride {format_shape(self.stride)}")
        if any(self.pad) and self.method == "STOCHASTIC":
            raise NetError("pad goes with pool: MAX and AVE only, found STOCHASTIC; set pad: 0")
        self.ceil = p.RoundMode.Name(p.round_mode) == "CEIL"

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if len(shape) - 2 != self.axes:
            raise NetError(f"was set up for {self.axes} spatial axes, found a bottom of {format_shape(shape)}")
        self.counts, self.regions, self.areas = self.tables.of(shape[2:], self._lay_windows)
        for blob in [*top, self.argmax]:
            blob.reshape(*shape[:2], *self.counts)

    def _lay_windows(self, *size):
        kernel = size if self.kernel is None else self.kernel
        return pooling.sliding_regions(size, kernel, self.pad, self.stride, self.ceil)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].data, top[0].data
        if self.method == "MAX":
            argmax = self.argmax.data if self.runs_backward or len(top) > 1 else None
            pooling.max_forward(x, self.regions, y, argmax)
            if len(top) > 1:
                top[1].data[...] = argmax
        elif self.method == "AVE":
            pooling.average_forward(x, self.regions, self.areas, y)
        elif self.drawn:
            drawn, uniform = (host.scratch("pooling.drawn", y.shape, dtype) for dtype in (np.float32, y.dtype))
            self.random_stream().random(dtype=np.float32, out=drawn)
            uniform[...] = drawn
            pooling.stochastic_forward(x, self.regions, self.context.backend.from_host(uniform), y, self.argmax.data)
        else:
            pooling.expected_forward(x, self.regions, self.areas, y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy, dx = top[0].diff, bottom[0].diff
        if self.method == "MAX" or self.drawn:
            pooling.max_backward(dy, self.argmax.data, self.regions, dx)
        elif self.method == "AVE":
            pooling.average_backward(dy, self.regions, self.areas, dx)
        else:
            pooling.expected_backward(dy, bottom[0].data, top[0].data, self.regions, self.areas, dx)


def _sizes(p, name, axes):
    """The kernel, stride or pad of each axis: one number for all, or `_h` and `_w` on two axes."""
    one = "kernel_size" if name == "kernel" else name
    high, wide = f"{name}_h", f"{name}_w"
    if p.HasField(high) != p.HasField(wide):
        found, missing = (high, wide) if p.HasField(high) else (wide, high)
        raise NetError(f"pooling_param has {found} without {missing}; give both, or {one} alone")
    if p.HasField(high):
        if p.HasField(one):
            raise NetError(f"pooling_param takes either {one}, or {high} and {wide}, not both")
        if axes != 2:
            raise NetError(f"{high} and {wide} need 2 spatial axes, found {axes}; use {one}")
        return getattr(p, high), getattr(p, wide)
    if one == "kernel_size" and not p.HasField(one):
        raise NetError("pooling_param needs kernel_size, or kernel_h and kernel_w, or global_pooling: true")
    return (getattr(p, one),) * axes
