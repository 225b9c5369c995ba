"""Solver types by name (Caffe's SolverRegistry): history arrays, checks of the solver's parameters, and updates."""
from dataclasses import dataclass
from typing import Any, Callable, Sequence

from spp.backend.types import UpdateStep
from spp.errors import SolverError
from spp.ops import update
from spp.ops.update import Arrays


def _no_check(p: Any) -> None:
    """Any parameters are valid."""


def _no_momentum(p: Any) -> None:
    if p.momentum:
        raise SolverError(f"momentum cannot be used with solver type {p.type}; found {p.momentum:g}, remove it")


def _rmsprop_numbers(p: Any) -> None:
    _no_momentum(p)
    if not 0 <= p.rms_decay < 1:
        raise SolverError(f"solver type RMSProp needs an rms_decay of at least 0 and below 1, found {p.rms_decay:g}")


def _adam_numbers(p: Any) -> None:
    for name in ("momentum", "momentum2"):
        if not 0 <= getattr(p, name) < 1:
            raise SolverError(f"solver type Adam needs a {name} of at least 0 and below 1, found "
                              f"{getattr(p, name):g}")


@dataclass(frozen=True)
class Rule:
    """An update rule. `histories`: arrays of the parameter's size that it keeps for each parameter.

    `update(data, diff, histories, step, p)` changes data and the histories, a list of each kind; `p` is the
    SolverParameter, the other arguments are those of spp.ops.update. `check(p)` raises SolverError.
    """

    histories: int
    update: Callable[..., None]
    check: Callable[[Any], None] = _no_check


def _sgd(data: Arrays, diff: Arrays, histories: Sequence[Arrays], step: UpdateStep, p: Any) -> None:
    update.sgd(data, diff, histories[0], step, p.momentum)


def _nesterov(data: Arrays, diff: Arrays, histories: Sequence[Arrays], step: UpdateStep, p: Any) -> None:
    update.nesterov(data, diff, histories[0], step, p.momentum)


def _adagrad(data: Arrays, diff: Arrays, histories: Sequence[Arrays], step: UpdateStep, p: Any) -> None:
    update.adagrad(data, diff, histories[0], step, p.delta)


def _rmsprop(data: Arrays, diff: Arrays, histories: Sequence[Arrays], step: UpdateStep, p: Any) -> None:
    update.rmsprop(data, diff, histories[0], step, p.rms_decay, p.delta)


def _adadelta(data: Arrays, diff: Arrays, histories: Sequence[Arrays], step: UpdateStep, p: Any) -> None:
    update.adadelta(data, diff, histories[0], histories[1], step, p.momentum, p.delta)


def _adam(data: Arrays, diff: Arrays, histories: Sequence[Arrays], step: UpdateStep, p: Any) -> None:
    update.adam(data, diff, histories[0], histories[1], step, (p.momentum, p.momentum2), p.delta)


RULES = {
    "SGD": Rule(1, _sgd),
    "Nesterov": Rule(1, _nesterov),
    "AdaGrad": Rule(1, _adagrad, _no_momentum),
    "RMSProp": Rule(1, _rmsprop, _rmsprop_numbers),
    "AdaDelta": Rule(2, _adadelta),
    "Adam": Rule(2, _adam, _adam_numbers),
}


def rule(p: Any) -> Rule:
    """The rule of a SolverParameter's type; raises SolverError for an unknown type or invalid parameters."""
    if p.type not in RULES:
        raise SolverError(f"unknown solver type {p.type!r}; known types: {', '.join(RULES)}")
    result = RULES[p.type]
    result.check(p)
    return result
