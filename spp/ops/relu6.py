"""The ReLU with maximum 6 (MobileNet's ReLU6); y may be x, and dx may be dy."""
from spp import backend
from spp.backend.types import Array
from spp.ops import neuron


def forward(x: Array, y: Array, negative_slope: float) -> None:
    """y = min(max(x, 0), 6) + negative_slope * min(x, 0)."""
    neuron.relu_forward(x, y, negative_slope)
    backend.of(x).xp.minimum(y, 6, out=y)


def backward(dy: Array, y: Array, dx: Array, negative_slope: float) -> None:
    """dx = dy where 0 < y < 6, negative_slope * dy below, 0 above; the slope must not be negative."""
    device = backend.of(y)
    flat = device.scratch_like("relu6.flat", y, bool)
    device.xp.greater_equal(y, 6, out=flat)
    neuron.relu_backward(dy, y, dx, negative_slope)
    device.xp.copyto(dx, 0, where=flat)
