"""Parameter updates: one pass over each parameter's memory. spp.ops.update documents the rules."""
from typing import Callable, Sequence

import numba
import numpy as np

from spp.backend.types import Array, UpdateStep

Arrays = Sequence[np.ndarray]


@numba.njit(inline="always")
def _gradient(diff: float, w: float, decay: float, l1: bool, scale: float) -> float:
    return scale * diff + decay * (np.sign(w) if l1 else w)


@numba.njit(parallel=True, cache=True, nogil=True)
def _sgd(data: Array, diff: Array, history: Array, l1: bool, scale: float, decay: float, rate: float,
         momentum: float) -> None:
    for i in numba.prange(data.size):
        step = momentum * history[i] + rate * _gradient(diff[i], data[i], decay, l1, scale)
        history[i] = step
        data[i] -= step


@numba.njit(parallel=True, cache=True, nogil=True)
def _nesterov(data: Array, diff: Array, history: Array, l1: bool, scale: float, decay: float, rate: float,
              momentum: float) -> None:
    for i in numba.prange(data.size):
        before = history[i]
        step = momentum * before + rate * _gradient(diff[i], data[i], decay, l1, scale)
        history[i] = step
        data[i] -= step + momentum * (step - before)


@numba.njit(parallel=True, cache=True, nogil=True)
def _adagrad(data: Array, diff: Array, history: Array, l1: bool, scale: float, decay: float, rate: float,
             delta: float) -> None:
    for i in numba.prange(data.size):
        gradient = _gradient(diff[i], data[i], decay, l1, scale)
        squares = history[i] + gradient * gradient
        history[i] = squares
        data[i] -= rate * gradient / (np.sqrt(squares) + delta)


@numba.njit(parallel=True, cache=True, nogil=True)
def _rmsprop(data: Array, diff: Array, history: Array, l1: bool, scale: float, decay: float, rate: float, delta: float,
             past: float, present: float) -> None:
    for i in numba.prange(data.size):
        gradient = _gradient(diff[i], data[i], decay, l1, scale)
        squares = past * history[i] + present * gradient * gradient
        history[i] = squares
        data[i] -= rate * gradient / (np.sqrt(squares) + delta)


@numba.njit(parallel=True, cache=True, nogil=True)
def _adadelta(data: Array, diff: Array, gradients: Array, updates: Array, l1: bool, scale: float, decay: float,
              rate: float, delta: float, past: float, present: float) -> None:
    for i in numba.prange(data.size):
        gradient = _gradient(diff[i], data[i], decay, l1, scale)
        squares = past * gradients[i] + present * gradient * gradient
        step = gradient * np.sqrt((updates[i] + delta) / (squares + delta))
        gradients[i] = squares
        updates[i] = past * updates[i] + present * step * step
        data[i] -= rate * step


@numba.njit(parallel=True, cache=True, nogil=True)
def _adam(data: Array, diff: Array, first: Array, second: Array, l1: bool, scale: float, decay: float, rate: float,
          delta: float, past1: float, present1: float, past2: float, present2: float) -> None:
    for i in numba.prange(data.size):
        gradient = _gradient(diff[i], data[i], decay, l1, scale)
        mean = past1 * first[i] + present1 * gradient
        square = past2 * second[i] + present2 * gradient * gradient
        first[i] = mean
        second[i] = square
        data[i] -= rate * mean / (np.sqrt(square) + delta)


def _run(kernel: Callable[..., None], arrays: tuple[Arrays, ...], step: UpdateStep, *numbers: float) -> None:
    """Run a kernel for each parameter on its data, diff and histories, with numbers of the arrays' own dtype.

    A Python float would make a kernel compute in double precision.
    """
    for parameter, rate, decay in zip(zip(*arrays), step.rate, step.decay):
        real = parameter[0].dtype.type
        kernel(*(array.reshape(-1) for array in parameter), step.l1, real(step.scale), real(decay), real(rate),
               *(real(number) for number in numbers))


def sgd_update(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, momentum: float) -> None:
    """SGD with momentum."""
    _run(_sgd, (data, diff, history), step, momentum)


def nesterov_update(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, momentum: float) -> None:
    """SGD with Nesterov's momentum."""
    _run(_nesterov, (data, diff, history), step, momentum)


def adagrad_update(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, delta: float) -> None:
    """AdaGrad."""
    _run(_adagrad, (data, diff, history), step, delta)


def rmsprop_update(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, rms_decay: float,
                   delta: float) -> None:
    """RMSProp."""
    _run(_rmsprop, (data, diff, history), step, delta, rms_decay, 1 - rms_decay)


def adadelta_update(data: Arrays, diff: Arrays, gradients: Arrays, updates: Arrays, step: UpdateStep,
                    momentum: float, delta: float) -> None:
    """AdaDelta."""
    _run(_adadelta, (data, diff, gradients, updates), step, delta, momentum, 1 - momentum)


def adam_update(data: Arrays, diff: Arrays, first: Arrays, second: Arrays, step: UpdateStep,
                momenta: tuple[float, float], delta: float) -> None:
    """Adam; `step.rate` includes the correction of the bias."""
    momentum, momentum2 = momenta
    _run(_adam, (data, diff, first, second), step, delta, momentum, 1 - momentum, momentum2, 1 - momentum2)
