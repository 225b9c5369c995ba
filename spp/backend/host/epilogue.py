"""How the host applies an Epilogue: as rows of values that a kernel reads, or to a finished array."""
import numpy as np

from spp.backend.host.scratch import scratch
from spp.backend.types import Epilogue


def epilogue_rows(epilogue: Epilogue, outputs: int, dtype: np.dtype) -> np.ndarray:
    """Three rows of `outputs` values: bias, scale and shift, neutral if the epilogue has none; in scratch memory."""
    rows = scratch("convolution.epilogue", (3, outputs), dtype)
    for row, values, neutral in zip(rows, epilogue, (0, 1, -0.0)):      # -0 + 0 would be 0
        row[:] = neutral if values is None else values
    return rows


def minimum(epilogue: Epilogue, dtype: np.dtype) -> np.floating:
    """The value that smaller results become: 0 with a ReLU, minus infinity without."""
    return dtype.type(0 if epilogue.relu else -np.inf)


def apply_epilogue(y: np.ndarray, epilogue: Epilogue) -> None:
    """Apply an epilogue in place to `y` (... x O)."""
    bias, scale, shift, relu = epilogue
    if bias is not None:
        y += bias
    if scale is not None:
        y *= scale
        y += shift
    if relu:
        np.maximum(y, 0, out=y)
