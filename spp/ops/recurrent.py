"""Loops over time: LSTM, its single step, and the plain RNN (Caffe's LSTM, LSTMUnit and RNN).

T steps, N streams, H outputs; all arrays have one floating dtype. The product of the inputs with their weights, which
needs no loop, is computed before and passed as `gates` or `sums`. `cont` (T x N) is 0 where a sequence begins, which
resets the state, and 1 elsewhere.
"""
from typing import Any, NamedTuple

from spp import backend
from spp.backend.types import Array
from spp.ops import inner_product, neuron


class State(NamedTuple):
    """The hidden state and the cell of an LSTM, or their gradients: N x H each."""

    h: Array
    c: Array


def lstm_forward(gates: Array, cont: Array, weight: Array, initial: State, h: Array, cells: Array,
                 previous: Array) -> None:
    """Write to `h` (T x N x H) and to `cells` (T + 1 x N x H, the first is initial.c); activate `gates` in place.

    gates: T x N x 4 H, the four gates (input, forget, output, candidate) before their functions, without the
    contribution of the hidden state; weight: 4 H x H; `previous` (T x N x H) receives the hidden state at the
    beginning of each step, after the reset.
    """
    cells[0] = initial.c
    device = backend.of(h)
    xp, from_hidden = device.xp, device.scratch_like("recurrent.from_hidden", gates[0])
    for t in range(len(h)):
        xp.multiply(h[t - 1] if t else initial.h, cont[t][:, None], out=previous[t])
        inner_product.forward(previous[t], weight, from_hidden)
        gates[t] += from_hidden
        lstm_unit_forward(cells[t], gates[t], cont[t], gates[t], cells[t + 1], h[t])


def lstm_backward(dy: Array, gates: Array, cont: Array, weight: Array, cells: Array, dstate: State,
                  dgates: Array) -> None:
    """Write to `dgates` the gradient of the gates before their functions, from `dy`, the gradient of all h.

    dstate: on entry the gradient of the last hidden state and cell from outside, on return that of the initial ones.
    """
    dh, dc = dstate
    for t in reversed(range(len(dy))):
        dh += dy[t]
        lstm_unit_backward(dstate, cells[t], gates[t], cont[t], cells[t + 1], dc, dgates[t])
        inner_product.backward_data(dgates[t], weight, dh)
        dh *= cont[t][:, None]


def lstm_unit_forward(c_prev: Array, gates: Array, cont: Array, activations: Array, c: Array, h: Array) -> None:
    """c = cont * f * c_prev + i * g, h = o * tanh(c).

    c_prev, c, h: ... x H; gates: ... x 4 H, before their functions; cont: ...; `activations` (may be `gates`)
    receives i, f, o = sigmoid and g = tanh of the gates.
    """
    device = backend.of(gates)
    xp, size = device.xp, c.shape[-1]
    neuron.sigmoid_forward(gates[..., :3 * size], activations[..., :3 * size])
    neuron.tanh_forward(gates[..., 3 * size:], activations[..., 3 * size:])
    i, f, o, g = _split(activations)
    xp.multiply(f, c_prev, out=c)
    c *= cont[..., None]
    new = device.scratch("recurrent.new", c.shape, c.dtype)
    xp.multiply(i, g, out=new)
    c += new
    xp.tanh(c, out=h)
    h *= o


def lstm_unit_backward(dstate: State, c_prev: Array, activations: Array, cont: Array, c: Array, dc_prev: Array,
                       dgates: Array) -> None:
    """Write to `dc_prev` (may be `dstate.c`) and `dgates`, the gradient of the gates before their functions."""
    device, (dh, dc) = backend.of(c), dstate
    xp = device.xp
    i, f, o, g = _split(activations)
    di, df, do, dg = _split(dgates)
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


def _times_sigmoid_slope(xp: Any, gradient: Array, y: Array, slope: Array) -> None:
    """gradient *= y * (1 - y), the slope of a sigmoid from its output; `slope` is a buffer of that shape."""
    xp.subtract(1, y, out=slope)
    gradient *= y
    gradient *= slope


def _times_tanh_slope(xp: Any, gradient: Array, y: Array, slope: Array) -> None:
    """gradient *= 1 - y^2, the slope of tanh from its output; `slope` is a buffer of that shape."""
    xp.multiply(y, y, out=slope)
    xp.subtract(1, slope, out=slope)
    gradient *= slope


def _split(gates: Array) -> list[Array]:
    """Views of the four gates: input, forget, output, candidate."""
    size = gates.shape[-1] // 4
    return [gates[..., k * size:(k + 1) * size] for k in range(4)]


def rnn_forward(sums: Array, cont: Array, weight: Array, h0: Array, previous: Array) -> None:
    """h[t] = tanh(sums[t] + weight (cont[t] * h[t - 1])), written over `sums` (T x N x H).

    weight: H x H; h0: N x H; `previous` (T x N x H) receives the hidden state that begins each step, after the reset.
    """
    h, device = sums, backend.of(sums)
    xp, from_hidden = device.xp, device.scratch_like("recurrent.from_hidden", h[0])
    for t in range(len(h)):
        xp.multiply(h[t - 1] if t else h0, cont[t][:, None], out=previous[t])
        inner_product.forward(previous[t], weight, from_hidden)
        h[t] += from_hidden
        xp.tanh(h[t], out=h[t])


def rnn_backward(h: Array, cont: Array, weight: Array, dh: Array, dsums: Array) -> None:
    """Replace `dsums`, on entry the gradient of all h, by the gradient of the sums (the arguments of tanh).

    dh: N x H, on entry the gradient of the last h from outside, on return that of h0.
    """
    device = backend.of(h)
    slope = device.scratch("recurrent.slope", dh.shape, dh.dtype)
    for t in reversed(range(len(h))):
        dsums[t] += dh
        _times_tanh_slope(device.xp, dsums[t], h[t], slope)
        inner_product.backward_data(dsums[t], weight, dh)
        dh *= cont[t][:, None]
