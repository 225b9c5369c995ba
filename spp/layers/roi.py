"""Pooling of regions of interest: ROIPooling, PSROIPooling."""
from typing import Any, Callable, Sequence

import numpy as np

from spp.backend.types import Bins
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.registry import register
from spp.ops import roi


class Regions(Layer):
    """Base: bottoms are the map, N x C x H x W, and the regions, R x 5: image, x1, y1, x2, y2 (inclusive corners).

    Raises NetError for other shapes, an image that the map does not have, and corners that are not finite.
    """

    bottoms = (2, 2)
    differentiable_bottoms = 1
    scale: float    # from the regions' coordinates to those of the map
    bins: Bins      # of the last forward

    def check_shapes(self, bottom: Sequence[Blob]) -> None:
        """Raise NetError unless the bottoms have the shapes of a map and its regions."""
        shape, regions = bottom[0].shape, bottom[1].shape
        if len(shape) != 4:
            raise NetError(f"bottom 0 must be a map of N x C x H x W, found shape {format_shape(shape)}")
        if len(regions) < 2 or bottom[1].count != 5 * regions[0]:
            raise NetError(f"bottom 1 must be regions of R x 5 (image, x1, y1, x2, y2), found shape "
                           f"{format_shape(regions)}")

    def _read(self, bottom: Sequence[Blob]) -> np.ndarray:
        """The checked regions as a host array (R, 5)."""
        rois = self.context.backend.to_host(bottom[1].data).reshape(-1, 5)
        images = bottom[0].shape[0]
        outside = ~((rois[:, 0] >= 0) & (rois[:, 0] < images) & np.isfinite(rois).all(1))
        if outside.any():
            index = int(outside.argmax())
            raise NetError(f"region {index} is ({', '.join(f'{v:g}' for v in rois[index])}), but its image must be 0 "
                           f"to {images - 1} and its corners finite")
        return rois

    def read_bins(self, bottom: Sequence[Blob], rule: Callable[..., Any], counts: Any) -> Bins:
        """The bins of the checked regions on the device: `counts` of them, by a function of spp.ops.roi."""
        rois = self._read(bottom)
        sides = rule(rois, counts, self.scale, bottom[0].shape[2:])
        return Bins(*map(self.context.backend.from_host, (rois[:, 0].astype(np.int32), *sides)))


@register("ROIPooling")
class ROIPooling(Regions):
    """The maximum of each of the bins of every region (Fast R-CNN: ROIPooling). Top: R x C x pooled_h x pooled_w."""

    pooled: tuple[int, int]
    argmax: Blob        # positions for backward

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.roi_pooling_param
        if not p.pooled_h or not p.pooled_w:
            raise NetError(f"roi_pooling_param needs pooled_h and pooled_w, found {p.pooled_h} and {p.pooled_w}")
        self.pooled, self.scale = (p.pooled_h, p.pooled_w), p.spatial_scale
        self.argmax = self.buffer(np.int32)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.check_shapes(bottom)
        for blob in (top[0], self.argmax):
            blob.reshape(bottom[1].shape[0], bottom[0].shape[1], *self.pooled)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.bins = self.read_bins(bottom, roi.max_bins, self.pooled)
        argmax = self.argmax.data if self.runs_backward else None
        roi.max_forward(bottom[0].data, self.bins, top[0].data, argmax)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            roi.max_backward(top[0].diff, self.argmax.data, self.bins, bottom[0].diff)


@register("PSROIPooling")
class PSROIPooling(Regions):
    """The mean of each of group_size^2 bins of every region, each from channels of its own (R-FCN: PSROIPooling).

    Top: R x output_dim x group_size x group_size. spatial_scale takes coordinates of regions to those of the map.
    """

    outputs: int
    group: int

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.psroi_pooling_param
        if p.output_dim < 1 or p.group_size < 1 or not p.spatial_scale > 0:
            raise NetError(f"psroi_pooling_param needs output_dim, group_size and spatial_scale above 0, found "
                           f"{p.output_dim}, {p.group_size} and {p.spatial_scale:g}")
        self.outputs, self.group, self.scale = p.output_dim, p.group_size, p.spatial_scale

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.check_shapes(bottom)
        channels = self.outputs * self.group ** 2
        if bottom[0].shape[1] != channels:
            raise NetError(f"the map must have output_dim * group_size^2 = {channels} channels, found "
                           f"{bottom[0].shape[1]}")
        top[0].reshape(bottom[1].shape[0], self.outputs, self.group, self.group)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.bins = self.read_bins(bottom, roi.group_bins, self.group)
        roi.group_forward(bottom[0].data, self.bins, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            roi.group_backward(top[0].diff, self.bins, bottom[0].diff)
