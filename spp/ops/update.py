"""Solvers' update rules: each changes all parameters in one pass.

`data`, `diff` and each history are lists, not empty, of one array per parameter, in C order and of one floating dtype:
a rule reads `diff` and changes `data` and its histories. It computes with g = scale * diff + decay * data, or
decay * sign(data) for L1: Caffe's ClipGradients and Normalize (`step.scale`) and Regularize. Sources: Caffe's solvers
of the same names (ComputeUpdateValue).
"""
import math
from typing import Sequence

from spp import backend
from spp.backend.types import Array, UpdateStep

Arrays = Sequence[Array]


def sgd(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, momentum: float) -> None:
    """history = momentum * history + rate * g; data -= history."""
    backend.of(data[0]).update("sgd", (data, diff, history), step, (momentum,))


def nesterov(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, momentum: float) -> None:
    """h = momentum * history + rate * g; data -= (1 + momentum) * h - momentum * history; history = h."""
    backend.of(data[0]).update("nesterov", (data, diff, history), step, (momentum,))


def adagrad(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, delta: float) -> None:
    """history += g^2; data -= rate * g / (sqrt(history) + delta)."""
    backend.of(data[0]).update("adagrad", (data, diff, history), step, (delta,))


def rmsprop(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, rms_decay: float, delta: float) -> None:
    """history = rms_decay * history + (1 - rms_decay) * g^2; data -= rate * g / (sqrt(history) + delta)."""
    backend.of(data[0]).update("rmsprop", (data, diff, history), step, (delta, rms_decay, 1 - rms_decay))


def adadelta(data: Arrays, diff: Arrays, gradients: Arrays, updates: Arrays, step: UpdateStep, momentum: float,
             delta: float) -> None:
    """u = g * sqrt((updates + delta) / (gradients + delta)); data -= rate * u.

    Before this, gradients = momentum * gradients + (1 - momentum) * g^2; after it, `updates` likewise with u^2.
    """
    backend.of(data[0]).update("adadelta", (data, diff, gradients, updates), step, (delta, momentum, 1 - momentum))


def adam(data: Arrays, diff: Arrays, first: Arrays, second: Arrays, step: UpdateStep, momenta: tuple[float, float],
         delta: float) -> None:
    """data -= rate * sqrt(1 - m2^t) / (1 - m1^t) * first / (sqrt(second) + delta), t = iteration + 1.

    Before this, first = m1 * first + (1 - m1) * g and second = m2 * second + (1 - m2) * g^2; m1, m2: `momenta`.
    """
    t, (momentum, momentum2) = step.iteration + 1, momenta
    correction = math.sqrt(1 - momentum2 ** t) / (1 - momentum ** t)
    step = step._replace(rate=[rate * correction for rate in step.rate])
    numbers = delta, momentum, 1 - momentum, momentum2, 1 - momentum2
    backend.of(data[0]).update("adam", (data, diff, first, second), step, numbers)
