"""Dropout."""
from typing import Sequence

from spp.backend.types import Array
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import TRAIN
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import neuron


@register("Dropout")
class Dropout(Neuron):
    """In TRAIN each value is 0 with probability dropout_ratio, else x / (1 - dropout_ratio); in TEST a copy.

    Caffe: Dropout. With scale_train: false (Fast R-CNN) TRAIN does not divide; TEST multiplies by 1 - dropout_ratio.
    Raises NetError unless 0 <= dropout_ratio < 1.
    """

    ratio: float
    scale_train: bool
    mask: Array | None      # 0 or the factor, of the last forward in TRAIN

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ratio = self.param.dropout_param.dropout_ratio
        self.scale_train = self.param.dropout_param.scale_train
        if not 0 <= self.ratio < 1:
            raise NetError(f"dropout_ratio must be at least 0 and below 1, found {self.ratio:g}")
        self.mask = None
        if self.phase == TRAIN:
            self.random_stream()

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].data, top[0].data
        if self.phase == TRAIN:
            if self.mask is None or self.mask.shape != x.shape:
                self.mask = self.context.backend.xp.empty(x.shape, self.context.dtype)
            factor = 1 / (1 - self.ratio) if self.scale_train else 1.0
            neuron.draw_mask(self.random_stream(), self.ratio, factor, self.mask)
            neuron.scale_by_mask(x, self.mask, y)
        else:
            self._test(x, y)

    def _test(self, x: Array, y: Array) -> None:
        """Forward in TEST; backward with (dy, dx)."""
        if not self.scale_train:
            neuron.scale_by_mask(x, 1 - self.ratio, y)
        elif y is not x:
            y[...] = x

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            if self.phase == TRAIN:
                neuron.scale_by_mask(top[0].diff, self.mask, bottom[0].diff)
            else:
                self._test(top[0].diff, bottom[0].diff)
