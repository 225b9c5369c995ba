"""Loss scaling, for fp16 (Micikevicius et al., Mixed Precision Training): gradients too small for 16 bits survive."""
import math
from typing import Any

from spp.errors import SolverError

FIRST = 2.0 ** 16
PATIENCE = 2000         # updates without an overflow before a larger scale is tried


class LossScale:
    """Keeps a net's `loss_scale`, a power of two: halved at an overflow, doubled after PATIENCE updates without."""

    def __init__(self, net: Any) -> None:
        self._net = net
        self.restore({"value": FIRST, "updates": 0})

    def unscale(self) -> bool:
        """Divide the parameters' gradients by the scale they were computed with, and set the next one.

        Returns whether all are finite; if not, they are left as they are, not to be used. Waits for the device.
        Raises SolverError where they overflow without any scaling.
        """
        device, diffs = self._net.context.backend, [entry.blob.diff for entry in self._net.learnable]
        squares = sum(device.number(device.xp.vdot(diff, diff)) for diff in diffs)
        if not math.isfinite(float(squares)):
            if self.value <= 1:
                raise SolverError("gradients overflow fp16 without any loss scaling: training has diverged; lower "
                                  "base_lr, or take another precision")
            self.restore({"value": self.value / 2, "updates": 0})
            return False
        for diff in diffs:
            diff *= 1 / self.value
        self.updates += 1
        if self.updates == PATIENCE:
            self.restore({"value": self.value * 2, "updates": 0})
        return True

    def state(self) -> dict[str, Any]:
        """What resuming needs."""
        return {"value": self.value, "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.value: float = state["value"]
        self.updates: int = state["updates"]        # since the value last changed
        self._net.loss_scale = self.value
