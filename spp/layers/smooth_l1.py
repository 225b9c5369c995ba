"""SmoothL1Loss."""
from spp.errors import NetError
from spp.layers.base import Layer, dims
from spp.layers.registry import register
from spp.ops import smooth_l1


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
        if not self.sigma > 0:
            raise NetError(f"smooth_l1_loss_param's sigma must be above 0, found {self.sigma:g}")

    def reshape(self, bottom, top):
        first = bottom[0]
        for i, blob in enumerate(bottom[1:], 1):
            if blob.count != first.count or blob.shape[:1] != first.shape[:1] or not first.shape:
                raise NetError(f"bottoms must have one shape: bottom 0 is {dims(first.shape)}, bottom {i} is "
                               f"{dims(blob.shape)}")
        top[0].reshape(())

    def forward(self, bottom, top):
        shape = bottom[0].shape
        pred, target, *weights = (blob.data.reshape(shape) for blob in bottom)
        self.inside, outside = (weights + [None, None])[:2]
        self.outside = outside
        self.difference = pred - target
        if self.inside is not None:
            self.difference *= self.inside
        top[0].data[...] = smooth_l1.forward(self.difference, self.sigma, outside) / max(shape[0], 1)

    def backward(self, top, propagate_down, bottom):
        if not any(propagate_down[:2]):
            return
        gradient = smooth_l1.backward(self.difference, self.sigma)
        for weight in (self.inside, self.outside):
            if weight is not None:
                gradient *= weight
        gradient *= self.context.backend.number(top[0].diff) / max(bottom[0].shape[0], 1)
        for i, sign in ((0, 1), (1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * gradient.reshape(bottom[i].shape)
