"""Loops over time: LSTM, its single step, and the plain RNN. T steps, N streams, H outputs.

What all steps have in common - the product of the inputs with their weights - is done before, and is in `gates`.
`cont` (T x N) is 0 where a sequence begins: what came before counts for nothing.
"""
from typing import Any

from spp import backend
from spp.ops import inner_product, neuron


def lstm_forward(gates: Any, cont: Any, weight: Any, h0: Any, c0: Any, h: Any, cells: Any, previous: Any) -> None:
    """Write to `h` (T x N x H) and `cells` (T + 1 x N x H, the first is c0); `gates` becomes its activations.

    gates: T x N x 4 H, the four gates (input, forget, output, candidate) before their functions, without the
    part of the hidden state; weight: 4 H x H; h0, c0: N x H; `previous` (T x N x H) gets what of h each step
    begins with.
    """
    cells[0] = c0
    device = backend.of(h)
    xp, from_hidden = device.xp, device.scratch_like("recurrent.from_hidden", gates[0])
    for t in range(len(h)):
        xp.multiply(h[t - 1] if t else h0, cont[t][:, None], out=previous[t])
        inner_product.forward(previous[t], weight, from_hidden)
        gates[t] += from_hidden
        lstm_unit_forward(cells[t], gates[t], cont[t], gates[t], cells[t + 1], h[t])


def lstm_backward(dy: Any, gates: Any, cont: Any, weight: Any, cells: Any, dh: Any, dc: Any, dgates: Any) -> None:
    """Write to `dgates` the gradient of the gates before their functions, from that of all h, `dy`.

    dh, dc: N x H, hold the gradient of the last hidden state and cell from outside, and get that of h0 and c0.
    """
    for t in reversed(range(len(dy))):
        dh += dy[t]
        lstm_unit_backward(dh, dc, cells[t], gates[t], cont[t], cells[t + 1], dc, dgates[t])
        inner_product.backward_data(dgates[t], weight, dh)
        dh *= cont[t][:, None]


def lstm_unit_forward(c_prev: Any, gates: Any, cont: Any, activations: Any, c: Any, h: Any) -> None:
    """c = cont * f * c_prev + i * g, h = o * tanh(c).

    c_prev, c, h: ... x H; gates: ... x 4 H, before their functions; cont: ...; `activations` (may be `gates`)
    gets i, f, o = sigmoid and g = tanh of the gates.
    """
    device = backend.of(gates)
    xp, size = device.xp, c.shape[-1]
    neuron.sigmoid_forward(gates[..., :3 * size], activations[..., :3 * size])
    neuron.tanh_forward(gates[..., 3 * size:], activations[..., 3 * size:])
    i, f, o, g = _four(activations)
    xp.multiply(f, c_prev, out=c)
    c *= cont[..., None]
    new = device.scratch("recurrent.new", c.shape, c.dtype)
    xp.multiply(i, g, out=new)
    c += new
    xp.tanh(c, out=h)
    h *= o


def lstm_unit_backward(dh: Any, dc: Any, c_prev: Any, activations: Any, cont: Any, c: Any, dc_prev: Any,
                       dgates: Any) -> None:
    """Write to `dc_prev` (may be `dc`) and `dgates`, the gradient of the gates before their functions."""
    device = backend.of(c)
    xp = device.xp
    i, f, o, g = _four(activations)
    di, df, do, dg = _four(dgates)
    tanh_c, total, slope = device.scratch("recurrent.unit", (3, *c.shape), c.dtype)
    xp.tanh(c, out=tanh_c)
    xp.multiply(dh, o, out=total)
    _times_tanh_slope(xp, total, tanh_c, slope)
    total += dc
    xp.multiply(total, g, out=di)
    _times_sigmoid_slope(xp, di, i, slope)
    xp.multiply(dh, tanh_c, out=do)
    _times_sigmoid_slope(xp, do, o, slope)
    xp.multiply(total, i, out=dg)
    _times_tanh_slope(xp, dg, g, slope)
    total *= cont[..., None]
    xp.multiply(total, c_prev, out=df)
    _times_sigmoid_slope(xp, df, f, slope)
    xp.multiply(total, f, out=dc_prev)


def _times_sigmoid_slope(xp: Any, gradient: Any, y: Any, slope: Any) -> None:
    """gradient *= y * (1 - y), the slope of a sigmoid from its output; `slope` is memory of that shape."""
    xp.subtract(1, y, out=slope)
    gradient *= y
    gradient *= slope


def _times_tanh_slope(xp: Any, gradient: Any, y: Any, slope: Any) -> None:
    """gradient *= 1 - y^2, the slope of tanh from its output; `slope` is memory of that shape."""
    xp.multiply(y, y, out=slope)
    xp.subtract(1, slope, out=slope)
    gradient *= slope


def _four(gates: Any) -> list[Any]:
    """Views of the gates: input, forget, output, candidate."""
    size = gates.shape[-1] // 4
    return [gates[..., k * size:(k + 1) * size] for k in range(4)]


def rnn_forward(sums: Any, cont: Any, weight: Any, h0: Any, previous: Any) -> None:
    """h = tanh(sums + weight (cont * h before)), step by step, in place of `sums` (T x N x H).

    weight: H x H; h0: N x H; `previous` (T x N x H) gets what of h each step begins with.
    """
    h, device = sums, backend.of(sums)
    xp, from_hidden = device.xp, device.scratch_like("recurrent.from_hidden", h[0])
    for t in range(len(h)):
        xp.multiply(h[t - 1] if t else h0, cont[t][:, None], out=previous[t])
        inner_product.forward(previous[t], weight, from_hidden)
        h[t] += from_hidden
        xp.tanh(h[t], out=h[t])


def rnn_backward(h: Any, cont: Any, weight: Any, dh: Any, dsums: Any) -> None:
    """Turn `dsums`, the gradient of all h, into that of what tanh is taken of.

    dh: N x H, holds the gradient of the last h from outside, and gets that of h0.
    """
    device = backend.of(h)
    slope = device.scratch("recurrent.slope", dh.shape, dh.dtype)
    for t in reversed(range(len(h))):
        dsums[t] += dh
        _times_tanh_slope(device.xp, dsums[t], h[t], slope)
        inner_product.backward_data(dsums[t], weight, dh)
        dh *= cont[t][:, None]
