"""Solvers' update rules, over one parameter; all numbers but the arrays are plain floats."""
from typing import Any

from spp import backend


def sgd(data: Any, diff: Any, history: Any, rate: float, momentum: float, decay: float, l1: bool,
        scale: float) -> None:
    """g = scale * diff + decay * data (L1: sign(data)); history = momentum * history + rate * g; data -= history.

    Caffe's SGDSolver: Normalize and clip (`scale`), Regularize, ComputeUpdateValue and Update in one pass. The four
    arrays are flat views of one parameter.
    """
    backend.of(data).sgd_update(data, diff, history, rate, momentum, decay, l1, scale)
