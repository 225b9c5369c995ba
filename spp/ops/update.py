"""Solvers' update rules, over one parameter, in one pass.

Arrays are flat views of one parameter: `data` and its history are changed, `diff` is read. Numbers are plain
floats. Every rule works on g = scale * diff + decay * data (l1: sign(data)), which is what Caffe's ClipGradients
and Normalize (`scale`) and Regularize make of the gradient, and does what ComputeUpdateValue and Update do.
"""
import math
from typing import Any

from spp import backend


def sgd(data: Any, diff: Any, history: Any, rate: float, momentum: float, decay: float, l1: bool,
        scale: float) -> None:
    """history = momentum * history + rate * g; data -= history (Caffe: SGDSolver)."""
    backend.of(data).sgd_update(data, diff, history, rate, momentum, decay, l1, scale)


def nesterov(data: Any, diff: Any, history: Any, rate: float, momentum: float, decay: float, l1: bool,
             scale: float) -> None:
    """h = momentum * history + rate * g; data -= (1 + momentum) * h - momentum * history; history = h."""
    backend.of(data).nesterov_update(data, diff, history, rate, momentum, decay, l1, scale)


def adagrad(data: Any, diff: Any, history: Any, rate: float, delta: float, decay: float, l1: bool,
            scale: float) -> None:
    """history += g^2; data -= rate * g / (sqrt(history) + delta)."""
    backend.of(data).adagrad_update(data, diff, history, rate, delta, decay, l1, scale)


def rmsprop(data: Any, diff: Any, history: Any, rate: float, rms_decay: float, delta: float, decay: float, l1: bool,
            scale: float) -> None:
    """history = rms_decay * history + (1 - rms_decay) * g^2; data -= rate * g / (sqrt(history) + delta)."""
    backend.of(data).rmsprop_update(data, diff, history, rate, rms_decay, delta, decay, l1, scale)


def adadelta(data: Any, diff: Any, gradients: Any, updates: Any, rate: float, momentum: float, delta: float,
             decay: float, l1: bool, scale: float) -> None:
    """u = g * sqrt((updates + delta) / (gradients + delta)); data -= rate * u.

    Before it `gradients` takes g^2 in, after it `updates` takes u^2, both as m * old + (1 - m) * new with
    m = momentum.
    """
    backend.of(data).adadelta_update(data, diff, gradients, updates, rate, momentum, delta, decay, l1, scale)


def adam(data: Any, diff: Any, first: Any, second: Any, iteration: int, rate: float, momentum: float,
         momentum2: float, delta: float, decay: float, l1: bool, scale: float) -> None:
    """first and second take g and g^2 in, with momentum and momentum2 as the weights of the past;
    data -= rate * sqrt(1 - momentum2^t) / (1 - momentum^t) * first / (sqrt(second) + delta).

    t is `iteration` + 1, the iteration's own number from 0 up being `iteration`.
    """
    t = iteration + 1
    rate *= math.sqrt(1 - momentum2 ** t) / (1 - momentum ** t)
    backend.of(data).adam_update(data, diff, first, second, rate, momentum, momentum2, delta, decay, l1, scale)
