"""SmoothL1Loss."""
from typing import Sequence

from spp.backend.types import Array
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.registry import register
from spp.ops import losses, smooth_l1


@register("SmoothL1Loss")
class SmoothL1Loss(Layer):
    """sum of w_out * f(w_in * (bottom 0 - bottom 1)) / N, f the smooth L1 function with sigma (Fast R-CNN, Sec. 2.3).

    Bottoms: prediction, target, and maybe w_in (SSD's weights, Fast R-CNN's inside weights) and w_out (its outside
    weights), all of one shape N x ...; the top has no axes. The first two get gradients. For a weight other than 0
    and 1, SSD's layer leaves the weight out of the gradient; this layer does not. Raises NetError for other shapes,
    or a sigma that is not above 0.
    """

    bottoms = (2, 4)
    tops = (0, 1)
    is_loss = True
    sigma: float
    difference: Blob        # w_in * (bottom 0 - bottom 1), kept for backward

    def differentiable(self, bottom: int) -> bool:
        return bottom < 2

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.sigma = self.param.smooth_l1_loss_param.sigma
        self.difference = self.buffer()
        if not self.sigma > 0:
            raise NetError(f"smooth_l1_loss_param's sigma must be above 0, found {self.sigma:g}")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        for i, blob in enumerate(bottom[1:], 1):
            if blob.count != bottom[0].count or blob.shape[:1] != shape[:1] or not shape:
                raise NetError(f"bottoms must have one shape: bottom 0 is {format_shape(shape)}, bottom {i} is "
                               f"{format_shape(blob.shape)}")
        self.difference.reshape(shape)
        top[0].reshape(())

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        difference, target = self.difference.data, self._values(bottom, 1)
        smooth_l1.difference(bottom[0].data, target, self._values(bottom, 2), difference)
        total = smooth_l1.forward(difference, self.sigma, self._values(bottom, 3))
        top[0].data[...] = total / max(len(difference), 1)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not any(propagate_down[:2]):
            return
        gradient = smooth_l1.backward(self.difference.data, self.sigma)
        for i in range(2, len(bottom)):
            gradient *= self._values(bottom, i)
        gradient *= self.context.backend.number(top[0].diff) / max(len(gradient), 1)
        for i, sign in ((0, 1), (1, -1)):
            if propagate_down[i]:
                losses.euclidean_backward(gradient, sign, bottom[i].diff)

    @staticmethod
    def _values(bottom: Sequence[Blob], i: int) -> Array | None:
        """The values of bottom i in the shape of bottom 0, or None if the layer has no such bottom."""
        return losses.in_shape(bottom[i].data, bottom[0].shape, f"smooth_l1.{i}") if i < len(bottom) else None
