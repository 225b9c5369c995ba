"""Parameter updates: one pass over each parameter's memory. What each rule computes is said in spp.ops.update."""
from typing import Sequence

import numba
import numpy as np

Arrays = Sequence[np.ndarray]
Numbers = Sequence[float]


@numba.njit(inline="always")
def _gradient(diff, w, decay, l1, scale):
    return scale * diff + decay * (np.sign(w) if l1 else w)


@numba.njit(parallel=True, cache=True, nogil=True)
def _sgd(data, diff, history, l1, scale, decay, rate, momentum):
    for i in numba.prange(data.size):
        step = momentum * history[i] + rate * _gradient(diff[i], data[i], decay, l1, scale)
        history[i] = step
        data[i] -= step


@numba.njit(parallel=True, cache=True, nogil=True)
def _nesterov(data, diff, history, l1, scale, decay, rate, momentum):
    for i in numba.prange(data.size):
        before = history[i]
        step = momentum * before + rate * _gradient(diff[i], data[i], decay, l1, scale)
        history[i] = step
        data[i] -= step + momentum * (step - before)


@numba.njit(parallel=True, cache=True, nogil=True)
def _adagrad(data, diff, history, l1, scale, decay, rate, delta):
    for i in numba.prange(data.size):
        gradient = _gradient(diff[i], data[i], decay, l1, scale)
        squares = history[i] + gradient * gradient
        history[i] = squares
        data[i] -= rate * gradient / (np.sqrt(squares) + delta)


@numba.njit(parallel=True, cache=True, nogil=True)
def _rmsprop(data, diff, history, l1, scale, decay, rate, delta, past, present):
    for i in numba.prange(data.size):
        gradient = _gradient(diff[i], data[i], decay, l1, scale)
        squares = past * history[i] + present * gradient * gradient
        history[i] = squares
        data[i] -= rate * gradient / (np.sqrt(squares) + delta)


@numba.njit(parallel=True, cache=True, nogil=True)
def _adadelta(data, diff, gradients, updates, l1, scale, decay, rate, delta, past, present):
    for i in numba.prange(data.size):
        gradient = _gradient(diff[i], data[i], decay, l1, scale)
        squares = past * gradients[i] + present * gradient * gradient
        step = gradient * np.sqrt((updates[i] + delta) / (squares + delta))
        gradients[i] = squares
        updates[i] = past * updates[i] + present * step * step
        data[i] -= rate * step


@numba.njit(parallel=True, cache=True, nogil=True)
def _adam(data, diff, first, second, l1, scale, decay, rate, delta, past1, present1, past2, present2):
    for i in numba.prange(data.size):
        gradient = _gradient(diff[i], data[i], decay, l1, scale)
        mean = past1 * first[i] + present1 * gradient
        square = past2 * second[i] + present2 * gradient * gradient
        first[i] = mean
        second[i] = square
        data[i] -= rate * mean / (np.sqrt(square) + delta)


def _run(kernel, arrays: tuple[Arrays, ...], rates: Numbers, decays: Numbers, l1: bool, scale: float,
         *numbers: float) -> None:
    """A kernel for each parameter: its data, diff and histories, and numbers of the arrays' own type.

    A Python float would make a kernel compute in double precision.
    """
    for of_parameter, rate, decay in zip(zip(*arrays), rates, decays):
        kind = of_parameter[0].dtype.type
        kernel(*(array.reshape(-1) for array in of_parameter), l1, kind(scale), kind(decay), kind(rate),
               *(kind(number) for number in numbers))


def sgd_update(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, momentum: float, decay: Numbers, l1: bool,
               scale: float) -> None:
    """SGD with momentum."""
    _run(_sgd, (data, diff, history), rate, decay, l1, scale, momentum)


def nesterov_update(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, momentum: float, decay: Numbers,
                    l1: bool, scale: float) -> None:
    """SGD with Nesterov's momentum."""
    _run(_nesterov, (data, diff, history), rate, decay, l1, scale, momentum)


def adagrad_update(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, delta: float, decay: Numbers, l1: bool,
                   scale: float) -> None:
    """AdaGrad."""
    _run(_adagrad, (data, diff, history), rate, decay, l1, scale, delta)


def rmsprop_update(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, rms_decay: float, delta: float,
                   decay: Numbers, l1: bool, scale: float) -> None:
    """RMSProp."""
    _run(_rmsprop, (data, diff, history), rate, decay, l1, scale, delta, rms_decay, 1 - rms_decay)


def adadelta_update(data: Arrays, diff: Arrays, gradients: Arrays, updates: Arrays, rate: Numbers, momentum: float,
                    delta: float, decay: Numbers, l1: bool, scale: float) -> None:
    """AdaDelta."""
    _run(_adadelta, (data, diff, gradients, updates), rate, decay, l1, scale, delta, momentum, 1 - momentum)


def adam_update(data: Arrays, diff: Arrays, first: Arrays, second: Arrays, rate: Numbers, momentum: float,
                momentum2: float, delta: float, decay: Numbers, l1: bool, scale: float) -> None:
    """Adam; `rate` is corrected for the bias already."""
    _run(_adam, (data, diff, first, second), rate, decay, l1, scale, delta, momentum, 1 - momentum,
         momentum2, 1 - momentum2)
