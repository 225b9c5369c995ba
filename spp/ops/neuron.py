"""Elementwise functions of one array (Caffe's neuron layers): y may be x, and dx may be dy unless stated otherwise.

Arrays have one shape and one floating dtype.
"""
import numpy as np

from spp import backend
from spp.backend.types import Array


def relu_forward(x: Array, y: Array, negative_slope: float) -> None:
    """y = max(x, 0) + negative_slope * min(x, 0)."""
    backend.of(x).relu(x, y, negative_slope)


def relu_backward(dy: Array, x: Array, dx: Array, negative_slope: float) -> None:
    """dx = dy where x > 0, else negative_slope * dy. `x` may be the output if the slope is not negative."""
    backend.of(x).relu_backward(dy, x, dx, negative_slope)


def relu6_forward(x: Array, y: Array, negative_slope: float) -> None:
    """y = min(max(x, 0), 6) + negative_slope * min(x, 0) (MobileNet's ReLU6)."""
    relu_forward(x, y, negative_slope)
    backend.of(x).xp.minimum(y, 6, out=y)


def relu6_backward(dy: Array, y: Array, dx: Array, negative_slope: float) -> None:
    """dx = dy where 0 < y < 6, negative_slope * dy below, 0 above; the slope must not be negative."""
    device = backend.of(y)
    flat = device.scratch_like("neuron.flat", y, bool)
    device.xp.greater_equal(y, 6, out=flat)
    relu_backward(dy, y, dx, negative_slope)
    device.xp.copyto(dx, 0, where=flat)


def prelu_forward(x: Array, slope: Array, y: Array) -> None:
    """y = max(x, 0) + slope * min(x, 0); slope: one value per channel (axis 1), or an array without axes for all."""
    device = backend.of(x)
    below = device.scratch_like("neuron.below", x)
    device.xp.minimum(x, 0, out=below)
    device.channel_affine(below, 0, slope, 0, below, 1, slope.ndim)
    device.xp.maximum(x, 0, out=y)
    y += below


def prelu_backward(dy: Array, x: Array, slope: Array, dx: Array) -> None:
    """dx = dy where x > 0, else slope * dy."""
    device = backend.of(x)
    slopes = device.scratch_like("neuron.slope", x)
    device.xp.greater(x, 0, out=slopes)
    device.channel_affine(slopes, 0, 1 - slope, slope, slopes, 1, slope.ndim)
    device.xp.multiply(dy, slopes, out=dx)


def prelu_slope_gradient(dy: Array, x: Array, slope: Array) -> Array:
    """The gradient of the slope, float64 in its shape: the sum of dy * min(x, 0) over its elements."""
    device = backend.of(x)
    below = device.scratch_like("neuron.below", x)
    device.xp.minimum(x, 0, out=below)
    return device.channel_dots(dy, below, 1, slope.ndim)


def elu_forward(x: Array, y: Array, alpha: float) -> None:
    """y = x where x > 0, else alpha * (e^x - 1)."""
    device = backend.of(x)
    below = device.scratch_like("neuron.below", x)
    device.xp.minimum(x, 0, out=below)
    device.xp.expm1(below, out=below)
    below *= alpha
    device.xp.maximum(x, 0, out=y)
    y += below


def elu_backward(dy: Array, x: Array, dx: Array, alpha: float) -> None:
    """dx = dy where x > 0, else dy * alpha * e^x."""
    device = backend.of(x)
    slope, above = device.scratch_like("neuron.slope", x), device.scratch_like("neuron.above", x)
    device.xp.minimum(x, 0, out=slope)
    device.xp.exp(slope, out=slope)
    slope *= alpha
    if alpha != 1:      # up to here the slope is alpha where x > 0
        device.xp.greater(x, 0, out=above)
        above *= 1 - alpha
        slope += above
    device.xp.multiply(dy, slope, out=dx)


def sigmoid_forward(x: Array, y: Array) -> None:
    """y = 1 / (1 + e^-x), computed as (tanh(x / 2) + 1) / 2, which cannot overflow."""
    xp = backend.of(x).xp
    xp.multiply(x, 0.5, out=y)
    xp.tanh(y, out=y)
    y *= 0.5
    y += 0.5


def sigmoid_backward(dy: Array, y: Array, dx: Array) -> None:
    """dx = dy * y * (1 - y)."""
    device = backend.of(y)
    slope = device.scratch_like("neuron.slope", y)
    device.xp.subtract(1, y, out=slope)
    slope *= y
    device.xp.multiply(dy, slope, out=dx)


def swish_forward(x: Array, y: Array, beta: float) -> None:
    """y = x * sigmoid(beta * x)."""
    device = backend.of(x)
    gate = device.scratch_like("neuron.gate", x)
    device.xp.multiply(x, beta, out=gate)
    sigmoid_forward(gate, gate)
    device.xp.multiply(x, gate, out=y)


def swish_backward(dy: Array, x: Array, dx: Array, beta: float) -> None:
    """dx = dy * s * (1 + beta * x * (1 - s)), where s = sigmoid(beta * x)."""
    device = backend.of(x)
    gate, slope = device.scratch_like("neuron.gate", x), device.scratch_like("neuron.slope", x)
    device.xp.multiply(x, beta, out=gate)
    sigmoid_forward(gate, gate)
    device.xp.subtract(1, gate, out=slope)
    slope *= x
    slope *= beta
    slope += 1
    slope *= gate
    device.xp.multiply(dy, slope, out=dx)


def tanh_forward(x: Array, y: Array) -> None:
    """y = tanh(x)."""
    backend.of(x).xp.tanh(x, out=y)


def tanh_backward(dy: Array, y: Array, dx: Array) -> None:
    """dx = dy * (1 - y^2)."""
    device = backend.of(y)
    slope = device.scratch_like("neuron.slope", y)
    device.xp.multiply(y, y, out=slope)
    device.xp.subtract(1, slope, out=slope)
    device.xp.multiply(dy, slope, out=dx)


def bnll_forward(x: Array, y: Array) -> None:
    """y = log(1 + e^x), computed as max(x, 0) + log(1 + e^-|x|), which cannot overflow."""
    rest = bnll_rest(x)
    backend.of(x).xp.maximum(x, 0, out=y)
    y += rest


def bnll_rest(x: Array) -> Array:
    """log(1 + e^-|x|), in a scratch buffer."""
    device = backend.of(x)
    rest = device.scratch_like("neuron.rest", x)
    device.xp.absolute(x, out=rest)
    device.xp.negative(rest, out=rest)
    device.xp.exp(rest, out=rest)
    device.xp.log1p(rest, out=rest)
    return rest


def bnll_backward(dy: Array, x: Array, dx: Array) -> None:
    """dx = dy / (1 + e^-x)."""
    device = backend.of(x)
    divisor = device.scratch_like("neuron.divisor", x)
    device.xp.maximum(x, -50, out=divisor)      # e^50 is finite, and 1 / e^50 negligible
    device.xp.negative(divisor, out=divisor)
    device.xp.exp(divisor, out=divisor)
    divisor += 1
    device.xp.divide(dy, divisor, out=dx)


def absolute_forward(x: Array, y: Array) -> None:
    """y = |x|."""
    backend.of(x).xp.absolute(x, out=y)


def absolute_backward(dy: Array, x: Array, dx: Array) -> None:
    """dx = dy * sign(x); dx must not be dy."""
    backend.of(x).xp.sign(x, out=dx)
    dx *= dy


def clip_forward(x: Array, y: Array, minimum: float, maximum: float) -> None:
    """y = max(minimum, min(x, maximum)); NaN stays NaN."""
    xp = backend.of(x).xp
    xp.minimum(x, maximum, out=y)
    xp.maximum(y, minimum, out=y)


def clip_backward(dy: Array, x: Array, dx: Array, minimum: float, maximum: float) -> None:
    """dx = 0 where x < minimum or x > maximum, else dy."""
    device = backend.of(x)
    below, above = (device.scratch_like(f"neuron.{name}", x, bool) for name in ("below", "above"))
    device.xp.less(x, minimum, out=below)
    device.xp.greater(x, maximum, out=above)
    below |= above      # both are false for NaN
    if dx is not dy:
        dx[...] = dy
    device.xp.copyto(dx, 0, where=below)


def exp_forward(x: Array, y: Array, log_base: float, scale: float, shift: float) -> None:
    """y = base ^ (shift + scale * x)."""
    xp = backend.of(x).xp
    xp.multiply(x, log_base * scale, out=y)
    y += log_base * shift
    xp.exp(y, out=y)


def exp_backward(dy: Array, y: Array, dx: Array, log_base: float, scale: float, shift: float) -> None:
    """dx = dy * y * scale * log(base); the shift is in y already."""
    xp = backend.of(y).xp
    xp.multiply(dy, y, out=dx)
    dx *= log_base * scale


def log_forward(x: Array, y: Array, log_base: float, scale: float, shift: float) -> None:
    """y = log(shift + scale * x) / log(base)."""
    xp = backend.of(x).xp
    xp.multiply(x, scale, out=y)
    y += shift
    xp.log(y, out=y)
    y /= log_base


def log_backward(dy: Array, x: Array, dx: Array, log_base: float, scale: float, shift: float) -> None:
    """dx = dy * scale / (shift + scale * x) / log(base)."""
    device = backend.of(x)
    divisor = device.scratch_like("neuron.divisor", x)
    device.xp.multiply(x, scale, out=divisor)
    divisor += shift
    device.xp.divide(dy, divisor, out=dx)
    dx *= scale / log_base


def power_forward(x: Array, y: Array, power: float, scale: float, shift: float) -> None:
    """y = (shift + scale * x) ^ power; if power * scale is 0, the constant shift ^ power (1 if power is 0)."""
    if power * scale == 0:
        y[...] = 1.0 if power == 0 else shift ** power
        return
    xp = backend.of(x).xp
    xp.multiply(x, scale, out=y)
    y += shift
    if power != 1:
        xp.power(y, power, out=y)


def power_backward(dy: Array, x: Array, dx: Array, power: float, scale: float, shift: float) -> None:
    """dx = dy * power * scale * (shift + scale * x) ^ (power - 1); 0 for a constant."""
    device = backend.of(x)
    if power * scale == 0:
        dx[...] = 0
    elif power == 1:
        device.xp.multiply(dy, scale, out=dx)
    else:
        slope = device.scratch_like("neuron.slope", x)
        power_forward(x, slope, power - 1, scale, shift)
        slope *= power * scale
        device.xp.multiply(dy, slope, out=dx)


def threshold_forward(x: Array, y: Array, threshold: float) -> None:
    """y = 1 where x > threshold, else 0."""
    backend.of(x).xp.greater(x, threshold, out=y)


def draw_mask(stream: np.random.Generator, ratio: float, value: float, mask: Array) -> None:
    """Each element of mask = 0 with probability `ratio`, else `value` (Caffe's Dropout). stream: the layer's own."""
    backend.of(mask).draw_mask(stream, ratio, value, mask)


def scale_by_mask(x: Array, mask: Array, y: Array) -> None:
    """y = x * mask: dropout's forward pass; its backward pass with (dy, mask, dx)."""
    backend.of(x).xp.multiply(x, mask, out=y)
