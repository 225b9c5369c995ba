"""An affine map of each channel: what a batch normalisation of stored statistics, a Scale and a Bias layer are."""
from typing import Any, NamedTuple

from spp import backend


class Affine(NamedTuple):
    """y = (x - shift) * scale + bias, each a number or one value a channel."""

    shift: Any = 0
    scale: Any = 1
    bias: Any = 0

    def then(self, other: "Affine") -> "Affine":
        """Both maps, this one first, as one."""
        return Affine(self.shift, self.scale * other.scale, (self.bias - other.shift) * other.scale + other.bias)

    def forward(self, x: Any, y: Any, first: int, last: int, relu: bool = False) -> None:
        """Write y, max(y, 0) if `relu`; the channels are the axes first .. last - 1 of x, and y may be x."""
        backend.of(x).channel_affine(x, self.shift, self.scale, self.bias, y, first, last, relu)

    def after_sum(self, bias: Any, channels: int, like: Any) -> list[Any]:
        """bias, scale and shift, one value a channel, arrays of the device and the dtype of `like`.

        (sum + bias) * scale + shift is this map of sum + the given bias, which may be None.
        """
        xp = backend.of(like).xp
        numbers = (0 if bias is None else bias) - self.shift, self.scale, self.bias
        return [xp.ascontiguousarray(xp.broadcast_to(xp.asarray(values, like.dtype), (channels,)))
                for values in numbers]
