"""An affine map per channel: what a Scale layer, a Bias layer and a BatchNorm layer with stored statistics compute."""
from typing import NamedTuple

from spp import backend
from spp.backend.types import Array, Epilogue


class Affine(NamedTuple):
    """y = (x - shift) * scale + bias; each is a number or an array with one value per channel."""

    shift: Array = 0
    scale: Array = 1
    bias: Array = 0

    def then(self, other: "Affine") -> "Affine":
        """Both maps as one, `self` first."""
        return other if self is IDENTITY else self.with_epilogue(other.epilogue())

    def with_epilogue(self, epilogue: Epilogue) -> "Affine":
        """This map and the one of the epilogue (without its ReLU) as one."""
        if epilogue.scale is None:
            return self
        return Affine(self.shift, self.scale * epilogue.scale,
                      (self.bias + epilogue.bias) * epilogue.scale + epilogue.shift)

    def epilogue(self, relu: bool = False) -> Epilogue:
        """This map, then max(y, 0) if `relu`, as the epilogue of the result that it maps."""
        if self is IDENTITY:
            return Epilogue(relu=relu)
        return Epilogue(-self.shift, self.scale, self.bias, relu)

    def forward(self, x: Array, y: Array, axis: int, num_axes: int, relu: bool = False) -> None:
        """Write y, or max(y, 0) if `relu`. The channels are the `num_axes` axes of x from `axis` on; y may be x."""
        backend.of(x).channel_affine(x, self.shift, self.scale, self.bias, y, axis, num_axes, relu=relu)


IDENTITY = Affine()


def add_bias(epilogue: Epilogue, bias: Array | None, channels: int, like: Array) -> Epilogue:
    """The epilogue of a sum to which a layer first adds its own bias (one value per channel, or None).

    Returns arrays of `channels` values on the device and with the dtype of `like`, as the backends expect them.
    """
    if epilogue.scale is None:
        return Epilogue(bias, relu=epilogue.relu)
    xp = backend.of(like).xp
    numbers = epilogue.bias if bias is None else bias + epilogue.bias, epilogue.scale, epilogue.shift
    first, scale, shift = (xp.ascontiguousarray(xp.broadcast_to(xp.asarray(values, like.dtype), (channels,)))
                           for values in numbers)
    return Epilogue(first, scale, shift, epilogue.relu)
