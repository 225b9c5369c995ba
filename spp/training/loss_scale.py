"""Loss scaling for fp16 (Micikevicius et al., Mixed Precision Training): keeps small gradients representable."""
import math
from typing import Any

from spp.errors import SolverError

INITIAL = 2.0 ** 16
PATIENCE = 2000         # updates without an overflow before a larger scale is tried


class LossScale:
    """Adapts a net's `loss_scale`, a power of two: halves it at an overflow, doubles it after PATIENCE updates."""

    def __init__(self, net: Any) -> None:
        self._net = net
        self.restore({"value": INITIAL, "updates": 0})

    def unscale(self) -> bool:
        """Divide the parameters' gradients by their scale, and set the next scale.

        Returns whether all gradients are finite; if not, they are unchanged and must not be applied. Waits for the
        device. Raises SolverError if gradients overflow without scaling.
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
        """The state for snapshots, as JSON values."""
        return {"value": self.value, "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state`."""
        self.value: float = state["value"]
        self.updates: int = state["updates"]        # since the value last changed
        self._net.loss_scale = self.value
