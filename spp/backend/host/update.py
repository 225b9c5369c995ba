"""Parameter updates: one pass over each parameter's memory. spp.ops.update documents the rules."""
from typing import Callable, Sequence

import numba
import numpy as np

from spp.backend.types import Array, UpdateStep


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


KERNELS: dict[str, Callable[..., None]] = {"sgd": _sgd, "nesterov": _nesterov, "adagrad": _adagrad,
                                           "rmsprop": _rmsprop, "adadelta": _adadelta, "adam": _adam}


def update(rule: str, arrays: Sequence[Sequence[np.ndarray]], step: UpdateStep, numbers: Sequence[float]) -> None:
    """Change all parameters by a rule: sgd, nesterov, adagrad, rmsprop, adadelta or adam.

    arrays: data, diff and one or two histories, each with one array per parameter. numbers: the rule's own, in the
    order of its kernel; they are rounded to the arrays' dtype, as a Python float would make a kernel compute in double
    precision.
    """
    for parameter, rate, decay in zip(zip(*arrays), step.rate, step.decay):
        real = parameter[0].dtype.type
        KERNELS[rule](*(array.reshape(-1) for array in parameter), step.l1, real(step.scale), real(decay), real(rate),
                      *map(real, numbers))
