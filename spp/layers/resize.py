"""Layers of forks that resize maps: Interp, Upsample."""
from typing import Sequence

import numpy as np

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.registry import register
from spp.ops import resize


@register("Interp")
class Interp(Layer):
    """Bilinear resizing, corners on corners (DeepLab, PSPNet: Interp).

    To height x width, or by zoom_factor and shrink_factor, of the map without the pixels that a negative
    pad_beg and pad_end cut off.
    """

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
        self.made = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.interp_param, bottom[0].shape
        if len(shape) != 4:
            raise NetError(f"needs a bottom of N x C x H x W, found shape {format_shape(shape)}")
        inner = [size + p.pad_beg + p.pad_end for size in shape[2:]]
        if min(inner) < 1:
            raise NetError(f"pad_beg {p.pad_beg} and pad_end {p.pad_end} leave nothing of a map of "
                           f"{format_shape(shape[2:])}")
        if shape[2:] != self.made:
            counts = [self._count(size, given) for size, given in zip(inner, (p.height, p.width))]
            self.counts, move = counts, self.context.backend.from_host
            self.rows, self.columns = (
                tuple(move(part) for part in resize.bilinear_axis(-p.pad_beg, size, count, self.context.dtype))
                for size, count in zip(inner, counts))
            self.made = shape[2:]
        top[0].reshape(*shape[:2], *self.counts)

    def _count(self, size, given):
        p = self.param.interp_param
        if p.HasField("zoom_factor") or p.HasField("shrink_factor"):
            size = (size - 1) // p.shrink_factor + 1
            return size + (size - 1) * (p.zoom_factor - 1)
        return given

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        resize.bilinear_forward(bottom[0].data, self.rows, self.columns, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            resize.bilinear_backward(top[0].diff, self.rows, self.columns, bottom[0].diff)


@register("Upsample")
class Upsample(Layer):
    """With one bottom each pixel repeated scale x scale times (YOLO v3: Upsample). With two, SegNet's Upsample.

    SegNet's bottoms are the values and their places h * W + w, as a MAX Pooling's second top gives them; the
    top is upsample_h x upsample_w, or scale (default 2) times as large, less one row or column by pad_out_h
    and pad_out_w. Where windows overlapped, one of equal places is written.
    """

    bottoms = (1, 2)

    def differentiable(self, bottom: int) -> bool:
        return bottom == 0

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.upsample_param
        if p.HasField("scale_h") != p.HasField("scale_w") or p.HasField("scale") and p.HasField("scale_h"):
            raise NetError("upsample_param takes either scale, or scale_h and scale_w")
        if p.HasField("upsample_h") != p.HasField("upsample_w"):
            raise NetError("upsample_param takes upsample_h and upsample_w together")
        self.scale = (p.scale_h, p.scale_w) if p.HasField("scale_h") else (p.scale, p.scale)
        if min(self.scale) < 1:
            raise NetError(f"upsample_param's scale must be at least 1, found {min(self.scale)}")
        self.place = Blob((), np.int64, self.context.backend)
        if len(bottom) == 1:
            if p.HasField("upsample_h") or p.pad_out_h or p.pad_out_w:
                raise NetError("upsample_h, upsample_w, pad_out_h and pad_out_w need a second bottom, the places of "
                               "the values")
            if not p.HasField("scale") and not p.HasField("scale_h"):
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
        place, device = self.place.data, self.context.backend
        place[...] = bottom[1].data
        outside, above = (device.scratch_like(f"upsample.{name}", place, bool) for name in ("outside", "above"))
        device.xp.less(place, 0, out=outside)
        device.xp.greater_equal(place, y.shape[2] * y.shape[3], out=above)
        outside |= above
        self.check_values(outside, place, lambda found: (
            f"place {found} lies outside the top of {format_shape(y.shape[2:])}; give upsample_h and upsample_w "
            f"the size of "
            "the map that was pooled"))
        resize.unpool_forward(x, place, y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        if len(bottom) == 1:
            resize.repeat_backward(top[0].diff, bottom[0].diff)
        else:
            resize.unpool_backward(top[0].diff, self.place.data, bottom[0].diff)
