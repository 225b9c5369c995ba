"""Solvers' update rules, each over all parameters, in one pass.

Arrays are lists, at least one long, of one array a parameter, in C order: `data` and its histories are changed,
`diff` is read. `rate` and `decay` are lists of one number a parameter, other numbers plain floats. Every rule works on
g = scale * diff + decay * data (l1: sign(data)), which is what Caffe's ClipGradients and Normalize (`scale`) and
Regularize make of the gradient, and does what ComputeUpdateValue and Update do.
"""
import math
from typing import Any, Sequence

from spp import backend

Arrays = Sequence[Any]
Numbers = Sequence[float]


def sgd(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, momentum: float, decay: Numbers, l1: bool,
        scale: float) -> None:
    """history = momentum * history + rate * g; data -= history (Caffe: SGDSolver)."""
    backend.of(data[0]).sgd_update(data, diff, history, rate, momentum, decay, l1, scale)


def nesterov(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, momentum: float, decay: Numbers, l1: bool,
             scale: float) -> None:
    """h = momentum * history + rate * g; data -= (1 + momentum) * h - momentum * history; history = h."""
    backend.of(data[0]).nesterov_update(data, diff, history, rate, momentum, decay, l1, scale)


def adagrad(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, delta: float, decay: Numbers, l1: bool,
            scale: float) -> None:
    """history += g^2; data -= rate * g / (sqrt(history) + delta)."""
    backend.of(data[0]).adagrad_update(data, diff, history, rate, delta, decay, l1, scale)


def rmsprop(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, rms_decay: float, delta: float,
            decay: Numbers, l1: bool, scale: float) -> None:
    """history = rms_decay * history + (1 - rms_decay) * g^2; data -= rate * g / (sqrt(history) + delta)."""
    backend.of(data[0]).rmsprop_update(data, diff, history, rate, rms_decay, delta, decay, l1, scale)


def adadelta(data: Arrays, diff: Arrays, gradients: Arrays, updates: Arrays, rate: Numbers, momentum: float,
             delta: float, decay: Numbers, l1: bool, scale: float) -> None:
    """u = g * sqrt((updates + delta) / (gradients + delta)); data -= rate * u.

    Before it `gradients` takes g^2 in, after it `updates` takes u^2, both as m * old + (1 - m) * new with
    m = momentum.
    """
    backend.of(data[0]).adadelta_update(data, diff, gradients, updates, rate, momentum, delta, decay, l1, scale)


def adam(data: Arrays, diff: Arrays, first: Arrays, second: Arrays, iteration: int, rate: Numbers, momentum: float,
         momentum2: float, delta: float, decay: Numbers, l1: bool, scale: float) -> None:
    """first and second take g and g^2 in, with momentum and momentum2 as the weights of the past;
    data -= rate * sqrt(1 - momentum2^t) / (1 - momentum^t) * first / (sqrt(second) + delta).

    t is `iteration` + 1, the iteration's own number from 0 up being `iteration`.
    """
    t = iteration + 1
    correction = math.sqrt(1 - momentum2 ** t) / (1 - momentum ** t)
    rates = [value * correction for value in rate]
    backend.of(data[0]).adam_update(data, diff, first, second, rates, momentum, momentum2, delta, decay, l1, scale)
