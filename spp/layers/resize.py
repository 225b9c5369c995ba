"""Layers of forks that resize maps: Interp, Upsample."""
from typing import Sequence

import numpy as np

from spp.backend.types import Interpolation, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.geometry import axis_numbers
from spp.layers.registry import register
from spp.ops import indexing, resize


@register("Interp")
class Interp(Layer):
    """Bilinear resizing of N x C x H x W, corners to corners (DeepLab, PSPNet: Interp).

    The output size is height x width, or follows from zoom_factor and shrink_factor. A negative pad_beg and pad_end
    cut pixels off the map first. Raises NetError without a size, for positive pads, and if no pixel is left.
    """

    counts: Numbers             # height and width of the top
    rows: Interpolation         # on the device
    columns: Interpolation
    size: Numbers | None        # the map's, that the three above are for

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.interp_param
        if p.pad_beg > 0 or p.pad_end > 0:
            raise NetError(f"interp_param's pad_beg and pad_end must be 0 or negative (pixels cut off), found "
                           f"{p.pad_beg} and {p.pad_end}")
        if p.HasField("height") != p.HasField("width") or p.height < 0 or p.width < 0:
            raise NetError(f"interp_param needs height and width, both above 0, or neither; found {p.height} and "
                           f"{p.width}")
        if p.zoom_factor < 1 or p.shrink_factor < 1:
            raise NetError(f"interp_param's zoom_factor and shrink_factor must be at least 1, found {p.zoom_factor} "
                           f"and {p.shrink_factor}")
        factors = p.HasField("zoom_factor") or p.HasField("shrink_factor")
        if not (p.height and p.width) and not factors:
            raise NetError("interp_param needs height and width, or zoom_factor, or shrink_factor")
        self.size = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.interp_param, bottom[0].shape
        if len(shape) != 4:
            raise NetError(f"needs a bottom of N x C x H x W, found shape {format_shape(shape)}")
        inner = [size + p.pad_beg + p.pad_end for size in shape[2:]]
        if min(inner) < 1:
            raise NetError(f"pad_beg {p.pad_beg} and pad_end {p.pad_end} leave nothing of a map of "
                           f"{format_shape(shape[2:])}")
        if shape[2:] != self.size:
            self.counts = tuple(self._count(size, count) for size, count in zip(inner, (p.height, p.width)))
            move = self.context.backend.from_host
            axes = (resize.bilinear_axis(-p.pad_beg, *sizes, self.context.dtype) for sizes in zip(inner, self.counts))
            self.rows, self.columns = (Interpolation(*map(move, axis)) for axis in axes)
            self.size = shape[2:]
        top[0].reshape(*shape[:2], *self.counts)

    def _count(self, size: int, count: int) -> int:
        """The output size of an axis: `count`, or by the factors from the input size."""
        p = self.param.interp_param
        if p.HasField("zoom_factor") or p.HasField("shrink_factor"):
            size = (size - 1) // p.shrink_factor + 1
            return size + (size - 1) * (p.zoom_factor - 1)
        return count

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        resize.bilinear_forward(bottom[0].data, self.rows, self.columns, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            resize.bilinear_backward(top[0].diff, self.rows, self.columns, bottom[0].diff)


@register("Upsample")
class Upsample(Layer):
    """With one bottom, each pixel repeated scale x scale times (YOLO v3: Upsample); with two, SegNet's Upsample.

    SegNet's bottoms are the values, N x C x H x W, and their places h * W + w, as the second top of a MAX Pooling
    has them. The top is upsample_h x upsample_w, or scale (default 2) times as large, less one row or column by
    pad_out_h and pad_out_w. Of several values for one place the last is written. Raises NetError for other
    parameters and shapes, and for a place outside of the top.
    """

    bottoms = (1, 2)
    differentiable_bottoms = 1
    scale: Numbers      # for height and width
    place: Blob         # integers, of the last forward

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.upsample_param
        if p.HasField("upsample_h") != p.HasField("upsample_w"):
            raise NetError("upsample_param takes upsample_h and upsample_w together")
        scale = axis_numbers(p, "scale")
        self.scale = scale or (p.scale, p.scale)
        if min(self.scale) < 1:
            raise NetError(f"upsample_param's scale must be at least 1, found {min(self.scale)}")
        self.place = self.buffer(np.int64)
        if len(bottom) == 1:
            if p.HasField("upsample_h") or p.pad_out_h or p.pad_out_w:
                raise NetError("upsample_h, upsample_w, pad_out_h and pad_out_w need a second bottom, the places of "
                               "the values")
            if not scale:
                raise NetError("upsample_param needs scale")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.upsample_param, bottom[0].shape
        if len(shape) != 4:
            raise NetError(f"needs a bottom of N x C x H x W, found shape {format_shape(shape)}")
        if len(bottom) > 1 and bottom[1].shape != shape:
            raise NetError(f"the values and their places must have one shape, found {format_shape(shape)} and "
                           f"{format_shape(bottom[1].shape)}")
        size = (shape[2] * self.scale[0] - p.pad_out_h, shape[3] * self.scale[1] - p.pad_out_w)
        top[0].reshape(*shape[:2], *((p.upsample_h, p.upsample_w) if p.HasField("upsample_h") else size))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].data, top[0].data
        if len(bottom) == 1:
            resize.repeat_forward(x, y)
            return
        self.place.reshape(x.shape)
        place = self.place.data
        place[...] = bottom[1].data
        self.check_values(indexing.outside(place, y.shape[2] * y.shape[3]), place, lambda wrong: (
            f"place {wrong} is outside of the top of {format_shape(y.shape[2:])}; give upsample_h and upsample_w "
            "the size of the map that was pooled"))
        resize.unpool_forward(x, place, y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        if len(bottom) == 1:
            resize.repeat_backward(top[0].diff, bottom[0].diff)
        else:
            resize.unpool_backward(top[0].diff, self.place.data, bottom[0].diff)
