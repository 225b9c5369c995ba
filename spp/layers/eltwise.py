"""Sums and products of several bottoms: Eltwise, Axpy."""
from typing import Sequence

from spp.backend.types import Array, Epilogue
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import RELU, FusingLayer, Layer, format_shape
from spp.layers.registry import register
from spp.ops import eltwise


@register("Eltwise")
class Eltwise(FusingLayer):
    """The elementwise PROD, SUM (with coeff) or MAX of bottoms of one shape (Caffe: Eltwise).

    Raises NetError for other shapes, for another number of coeff, for coeff without SUM, and for PROD or MAX in place.
    """

    bottoms = (2, None)
    in_place = True
    coeffs: list[float]     # per bottom, for SUM
    winner: Array | None    # int32, the index of the bottom with the maximum, of the last forward

    @property
    def operation(self) -> str:
        """SUM, PROD or MAX."""
        p = self.param.eltwise_param
        return p.EltwiseOp.Name(p.operation)

    @property
    def fuses(self) -> Sequence[str]:
        return (RELU,) if self.operation == "SUM" else ()

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.eltwise_param
        if len(p.coeff) not in (0, len(bottom)):
            raise NetError(f"eltwise_param needs no coeff, or one for each of the {len(bottom)} bottoms; "
                           f"found {len(p.coeff)}")
        if p.coeff and self.operation != "SUM":
            raise NetError(f"eltwise_param's coeff goes with operation SUM only, found {self.operation}")
        self.coeffs = list(p.coeff) or [1.0] * len(bottom)
        if self.operation != "SUM" and self.param.top and self.param.top[0] in self.param.bottom:
            raise NetError(f"Eltwise {self.operation} cannot work in place: its backward needs the bottoms")
        self.winner = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for i, blob in enumerate(bottom[1:], 1):
            if blob.shape != bottom[0].shape:
                raise NetError(f"bottoms must have one shape: bottom 0 is {format_shape(bottom[0].shape)}, "
                               f"bottom {i} is {format_shape(blob.shape)}")
        top[0].reshape(bottom[0].shape)

    def forward_fused(self, bottom: Sequence[Blob], top: Sequence[Blob], epilogue: Epilogue) -> None:
        xs = [blob.data for blob in bottom]
        if self.operation == "SUM":
            eltwise.sum_forward(xs, self.coeffs, top[0].data, epilogue.relu)
        elif self.operation == "PROD":
            eltwise.prod_forward(xs, top[0].data)
        else:
            if self.winner is None or self.winner.shape != top[0].shape:
                self.winner = self.context.backend.xp.empty(top[0].shape, "int32")
            eltwise.max_forward(xs, top[0].data, self.winner)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        # a bottom whose gradient is the top's own array (in place) is written last: the others still read it
        order = sorted(range(len(bottom)), key=lambda i: bottom[i].diff is top[0].diff if propagate_down[i] else False)
        for i in order:
            if not propagate_down[i]:
                continue
            dy, dx = top[0].diff, bottom[i].diff
            if self.operation == "SUM":
                self.context.backend.xp.multiply(dy, self.coeffs[i], out=dx)
            elif self.operation == "PROD":
                eltwise.prod_backward(dy, [b.data for b in bottom], top[0].data, i,
                                      self.param.eltwise_param.stable_prod_grad, dx)
            else:
                eltwise.max_backward(dy, self.winner, i, dx)


@register("Axpy")
class Axpy(Layer):
    """a * x + y with one factor a per image and channel (SENet: Axpy).

    Bottoms: a, N x C (x 1 x 1); x and y, N x C x ...; the top has the shape of x. Raises NetError for other shapes.
    """

    bottoms = (3, 3)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scale, x, y = (blob.shape for blob in bottom)
        if x != y or len(x) < 2:
            raise NetError(f"bottoms 1 and 2 must have one shape N x C x ..., found {format_shape(x)} and "
                           f"{format_shape(y)}")
        if scale[:2] != x[:2] or bottom[0].count != x[0] * x[1]:
            raise NetError(f"bottom 0 must have one number for each of {x[0]} x {x[1]} channels, found shape "
                           f"{format_shape(scale)}")
        top[0].reshape(x)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, x, y = (blob.data for blob in bottom)
        eltwise.axpy_forward(a, x, y, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].diff
        if propagate_down[0]:
            eltwise.axpy_backward_factor(dy, bottom[1].data, bottom[0].diff)
        if propagate_down[1]:
            eltwise.axpy_backward_data(dy, bottom[0].data, bottom[1].diff)
        if propagate_down[2]:
            bottom[2].diff[...] = dy
