"""Axpy."""
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.registry import register


@register("Axpy")
class Axpy(Layer):
    """a * x + y, a one number for each image and channel (SENet: Axpy). Bottoms: a N x C (x 1 x 1), x, y."""

    bottoms = (3, 3)

    def reshape(self, bottom, top):
        scale, x, y = (blob.shape for blob in bottom)
        if x != y or len(x) < 2:
            raise NetError(f"bottoms 1 and 2 must have one shape N x C x ..., found {format_shape(x)} and "
                           f"{format_shape(y)}")
        if scale[:2] != x[:2] or bottom[0].count != x[0] * x[1]:
            raise NetError(f"bottom 0 must have one number for each of {x[0]} x {x[1]} channels, found shape "
                           f"{format_shape(scale)}")
        top[0].reshape(x)

    def forward(self, bottom, top):
        x, y = bottom[1].data, top[0].data
        self.context.backend.xp.multiply(x, self._scale(bottom), out=y)
        y += bottom[2].data

    def backward(self, top, propagate_down, bottom):
        dy, x = top[0].diff, bottom[1].data
        if propagate_down[0]:
            product = self.context.backend.scratch_like("axpy.product", x)
            self.context.backend.xp.multiply(dy, x, out=product)
            bottom[0].diff[...] = product.sum(tuple(range(2, x.ndim))).reshape(bottom[0].shape)
        if propagate_down[1]:
            self.context.backend.xp.multiply(dy, self._scale(bottom), out=bottom[1].diff)
        if propagate_down[2]:
            bottom[2].diff[...] = dy

    @staticmethod
    def _scale(bottom):
        x = bottom[1].shape
        return bottom[0].data.reshape(*x[:2], *[1] * (len(x) - 2))
