"""The ReLU that stops at 6; y may be x, and dx may be dy."""
from typing import Any

from spp import backend
from spp.ops import neuron


def forward(x: Any, y: Any, negative_slope: float) -> None:
    """y = min(max(x, 0), 6) + negative_slope * min(x, 0)."""
    neuron.relu_forward(x, y, negative_slope)
    backend.of(x).xp.minimum(y, 6, out=y)


def backward(dy: Any, y: Any, dx: Any, negative_slope: float) -> None:
    """dx = dy where 0 < y < 6, negative_slope * dy below, 0 above; the slope must not be negative."""
    device = backend.of(y)
    flat = device.scratch_like("relu6.flat", y, bool)
    device.xp.greater_equal(y, 6, out=flat)
    neuron.relu_backward(dy, y, dx, negative_slope)
    device.xp.copyto(dx, 0, where=flat)
