"""Learning-rate policies (Caffe's lr_policy), and `plateau`."""
import math
from dataclasses import asdict, dataclass
from typing import Any, Callable

from spp.errors import SolverError


POLICIES: dict[str, Callable[[Any, int], float]] = {
    "fixed": lambda p, iteration: p.base_lr,
    "step": lambda p, iteration: p.base_lr * p.gamma ** (iteration // p.stepsize),
    "exp": lambda p, iteration: p.base_lr * p.gamma ** iteration,
    "inv": lambda p, iteration: p.base_lr * (1 + p.gamma * iteration) ** -p.power,
    "multistep": lambda p, iteration: p.base_lr * p.gamma ** current_step(p, iteration),
    "poly": lambda p, iteration: p.base_lr * max(0.0, 1 - iteration / p.max_iter) ** p.power,
    "sigmoid": lambda p, iteration: p.base_lr / (1 + math.exp(-p.gamma * (iteration - p.stepsize))),
}
NEEDS = {"fixed": (), "step": ("gamma", "stepsize"), "exp": ("gamma",), "inv": ("gamma", "power"),
         "multistep": ("gamma", "stepvalue"), "poly": ("power", "max_iter"), "sigmoid": ("gamma", "stepsize"),
         "plateau": ("gamma",)}


def check(p: Any) -> None:
    """Raise SolverError if a SolverParameter's policy is unknown, or if a parameter of the policy is missing."""
    if p.lr_policy not in NEEDS:
        error = f"unknown lr_policy {p.lr_policy!r}" if p.lr_policy else "the solver gives no lr_policy"
        raise SolverError(f"{error}; known policies: {', '.join(sorted(NEEDS))}")
    if p.lr_policy == "plateau" and p.plateau_winsize:
        raise SolverError("plateau_winsize is SSD's plateau, which watches the training loss; here lr_policy plateau "
                          "watches a test output: replace it by plateau_param { patience: ... }")
    for field in ("base_lr", *NEEDS[p.lr_policy]):
        present = len(p.stepvalue) if field == "stepvalue" else p.HasField(field)
        if not present:
            raise SolverError(f"lr_policy {p.lr_policy!r} needs {field}, which the solver does not give")
    if p.lr_policy == "step" and p.stepsize <= 0:
        raise SolverError(f"stepsize must be positive, found {p.stepsize}")


def current_step(p: Any, iteration: int) -> int:
    """The number of a multistep policy's stepvalues that the iteration has reached."""
    return sum(iteration >= value for value in p.stepvalue)


@dataclass
class Plateau:
    """Policy "plateau": the rate is multiplied by gamma when a test output has stopped improving.

    After `patience` tests in a row without an improvement by more than min_delta over the best one, the
    rate drops; at most max_drops times (paper Sec. 3.1: divided by 10 twice when the error plateaus).
    """

    best: float | None = None
    waited: int = 0
    drops: int = 0

    def observe(self, p: Any, error: float) -> bool:
        """Record a test result (smaller is better); returns whether the rate dropped."""
        plateau = p.plateau_param
        if self.best is None or error < self.best - plateau.min_delta:
            self.best, self.waited = error, 0
            return False
        self.waited += 1
        if self.waited < plateau.patience or self.drops >= plateau.max_drops:
            return False
        self.waited = 0
        self.drops += 1
        return True

    def rate(self, p: Any) -> float:
        """The current learning rate."""
        return p.base_lr * p.gamma ** self.drops

    def state(self) -> dict[str, Any]:
        """The state for snapshots, as JSON values."""
        return asdict(self)
