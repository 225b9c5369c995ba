"""Solver types by name (Caffe's SolverRegistry): history arrays, checks of the solver's parameters, and updates."""
from typing import Any, Callable, NamedTuple, Sequence

from spp.backend.types import UpdateStep
from spp.errors import SolverError
from spp.ops import update
from spp.ops.update import Arrays


class Rule(NamedTuple):
    """An update rule. `histories`: arrays of the parameter's size that it keeps for each parameter.

    `function` is of spp.ops.update, and `numbers(p)` are its last arguments for a SolverParameter. `fractions`: the
    fields of the SolverParameter that must be at least 0 and below 1.
    """

    histories: int
    function: Callable[..., None]
    numbers: Callable[[Any], tuple[Any, ...]]
    has_momentum: bool = True
    fractions: tuple[str, ...] = ()

    def update(self, data: Arrays, diff: Arrays, histories: Sequence[Arrays], step: UpdateStep, p: Any) -> None:
        """Change data and the histories, a list of each kind, by the gradients `diff` and a SolverParameter."""
        self.function(data, diff, *histories, step, *self.numbers(p))


RULES = {
    "SGD": Rule(1, update.sgd, lambda p: (p.momentum,)),
    "Nesterov": Rule(1, update.nesterov, lambda p: (p.momentum,)),
    "AdaGrad": Rule(1, update.adagrad, lambda p: (p.delta,), has_momentum=False),
    "RMSProp": Rule(1, update.rmsprop, lambda p: (p.rms_decay, p.delta), has_momentum=False, fractions=("rms_decay",)),
    "AdaDelta": Rule(2, update.adadelta, lambda p: (p.momentum, p.delta)),
    "Adam": Rule(2, update.adam, lambda p: ((p.momentum, p.momentum2), p.delta), fractions=("momentum", "momentum2")),
}


def rule(p: Any) -> Rule:
    """The rule of a SolverParameter's type; raises SolverError for an unknown type or invalid parameters."""
    if p.type not in RULES:
        raise SolverError(f"unknown solver type {p.type!r}; known types: {', '.join(RULES)}")
    result = RULES[p.type]
    if p.momentum and not result.has_momentum:
        raise SolverError(f"momentum cannot be used with solver type {p.type}; found {p.momentum:g}, remove it")
    for name in result.fractions:
        if not 0 <= getattr(p, name) < 1:
            raise SolverError(f"solver type {p.type} needs 0 <= {name} < 1, found {getattr(p, name):g}")
    return result
