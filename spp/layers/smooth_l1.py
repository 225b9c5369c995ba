"""SmoothL1Loss."""
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.registry import register
from spp.ops import smooth_l1
from spp.ops.losses import in_shape


@register("SmoothL1Loss")
class SmoothL1Loss(Layer):
    """Sum of w_out * f(w_in * (bottom 0 - bottom 1)) / N, f the smooth L1 function with sigma.

    Bottoms: prediction, target, and of the same shape w_in (SSD's, Fast R-CNN's inside weights) and w_out (its
    outside weights). Gradients go to the first two; where a weight of SSD's is neither 0 nor 1, SSD forgets it
    in backward, and this layer does not.
    """

    bottoms = (2, 4)
    tops = (0, 1)
    is_loss = True

    @staticmethod
    def differentiable(bottom):
        return bottom < 2

    def setup(self, bottom, top):
        self.sigma = self.param.smooth_l1_loss_param.sigma
        self.difference = Blob((), self.context.dtype, self.context.backend)
        if not self.sigma > 0:
            raise NetError(f"smooth_l1_loss_param's sigma must be above 0, found {self.sigma:g}")

    def reshape(self, bottom, top):
        first = bottom[0]
        for i, blob in enumerate(bottom[1:], 1):
            if blob.count != first.count or blob.shape[:1] != first.shape[:1] or not first.shape:
                raise NetError(f"bottoms must have one shape: bottom 0 is {format_shape(first.shape)}, bottom {i} is "
                               f"{format_shape(blob.shape)}")
        self.difference.reshape(first.shape)
        top[0].reshape(())

    def forward(self, bottom, top):
        difference = self.difference.data
        self.context.backend.xp.subtract(bottom[0].data, self._of(bottom, 1), out=difference)
        if len(bottom) > 2:
            difference *= self._of(bottom, 2)
        outside = self._of(bottom, 3) if len(bottom) > 3 else None
        top[0].data[...] = smooth_l1.forward(difference, self.sigma, outside) / max(len(difference), 1)

    def backward(self, top, propagate_down, bottom):
        if not any(propagate_down[:2]):
            return
        gradient = smooth_l1.backward(self.difference.data, self.sigma)
        for i in range(2, len(bottom)):
            gradient *= self._of(bottom, i)
        gradient *= self.context.backend.number(top[0].diff) / max(len(gradient), 1)
        for i, sign in ((0, 1), (1, -1)):
            if propagate_down[i]:
                dx = bottom[i].diff
                self.context.backend.xp.multiply(in_shape(gradient, dx.shape, "smooth_l1.0"), sign, out=dx)

    @staticmethod
    def _of(bottom, i):
        """A bottom's values in the shape of bottom 0."""
        return in_shape(bottom[i].data, bottom[0].shape, f"smooth_l1.{i}")
