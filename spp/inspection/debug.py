"""The lines of `debug_info`: mean absolute values of all blobs and gradients, layer by layer, in Caffe's words."""
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import numpy as np

from spp.blob import Blob

Log = Callable[[str], None]


@contextmanager
def logging_values(net: Any, log: Log) -> Iterator[None]:
    """While the block runs, log the mean absolute value of each top and parameter after a layer's forward, and of
    each gradient after its backward. In-place layers log their own values, since hooks turn fusion off.
    """
    def after_forward(index: int) -> None:
        layer = net.layers[index]
        for name, blob in zip(layer.param.top, net.tops[index]):
            log(f"    [Forward] Layer {layer.name}, top blob {name} data: {_mean_abs(blob, 'data'):g}")
        for i, blob in enumerate(layer.blobs):
            name = layer.param.param[i].name if i < len(layer.param.param) else ""
            log(f"    [Forward] Layer {layer.name}, param blob {name or i} data: {_mean_abs(blob, 'data'):g}")

    def after_backward(index: int) -> None:
        layer, propagate_down = net.layers[index], net.propagates_down(index)
        if propagate_down is None:
            return
        for name, blob, computed in zip(layer.param.bottom, net.bottoms[index], propagate_down):
            if computed:
                log(f"    [Backward] Layer {layer.name}, bottom blob {name} diff: {_mean_abs(blob, 'diff'):g}")
        for i, blob in enumerate(layer.blobs):
            if layer.param_propagate_down[i]:
                log(f"    [Backward] Layer {layer.name}, param blob {i} diff: {_mean_abs(blob, 'diff'):g}")

    net.after_forward.append(after_forward)
    net.after_backward.append(after_backward)
    try:
        yield
    finally:
        net.after_forward.remove(after_forward)
        net.after_backward.remove(after_backward)


def log_norms(net: Any, log: Log) -> None:
    """Log the norms of all learnable parameters and of all their gradients."""
    blobs = [entry.blob for entry in net.learnable]
    arrays = [[_host(blob, which).astype(np.float64).reshape(-1) for blob in blobs] for which in ("data", "diff")]
    l1 = ", ".join(f"{sum(np.abs(values).sum() for values in part):g}" for part in arrays)
    l2 = ", ".join(f"{np.sqrt(sum(values @ values for values in part)):g}" for part in arrays)
    log(f"    [Backward] All net params (data, diff): L1 norm = ({l1}); L2 norm = ({l2})")


def _host(blob: Blob, which: str) -> np.ndarray:
    return blob.backend.to_host(getattr(blob, which))


def _mean_abs(blob: Blob, which: str) -> float:
    values = _host(blob, which)
    return float(np.abs(values).mean(dtype=np.float64)) if values.size else 0.0
