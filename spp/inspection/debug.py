"""What `debug_info` prints: the mean size of every value and gradient, layer by layer, in Caffe's words."""
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import numpy as np

from spp.blob import Blob

Tell = Callable[[str], None]


@contextmanager
def told(net: Any, tell: Tell) -> Iterator[None]:
    """While the block runs, `tell` gets a line for the mean size of every top and parameter after a layer's forward,
    and of every gradient after its backward. Of layers that work in place each shows its own values.
    """
    def after_forward(index: int) -> None:
        layer = net.layers[index]
        for name, blob in zip(layer.param.top, net.tops[index]):
            tell(f"    [Forward] Layer {layer.name}, top blob {name} data: {_mean_size(blob, 'data'):g}")
        for i, blob in enumerate(layer.blobs):
            name = layer.param.param[i].name if i < len(layer.param.param) else ""
            tell(f"    [Forward] Layer {layer.name}, param blob {name or i} data: {_mean_size(blob, 'data'):g}")

    def after_backward(index: int) -> None:
        layer, wanted = net.layers[index], net.propagates_down(index)
        if wanted is None:
            return
        for name, blob, written in zip(layer.param.bottom, net.bottoms[index], wanted):
            if written:
                tell(f"    [Backward] Layer {layer.name}, bottom blob {name} diff: {_mean_size(blob, 'diff'):g}")
        for i, blob in enumerate(layer.blobs):
            if layer.param_propagate_down[i]:
                tell(f"    [Backward] Layer {layer.name}, param blob {i} diff: {_mean_size(blob, 'diff'):g}")

    net.after_forward.append(after_forward)
    net.after_backward.append(after_backward)
    try:
        yield
    finally:
        net.after_forward.remove(after_forward)
        net.after_backward.remove(after_backward)


def tell_norms(net: Any, tell: Tell) -> None:
    """The line with the norms of all learnable parameters and of all their gradients."""
    blobs = [entry.blob for entry in net.learnable]
    sizes = [[_host(blob, which).astype(np.float64).reshape(-1) for blob in blobs] for which in ("data", "diff")]
    l1 = ", ".join(f"{sum(np.abs(values).sum() for values in part):g}" for part in sizes)
    l2 = ", ".join(f"{np.sqrt(sum(values @ values for values in part)):g}" for part in sizes)
    tell(f"    [Backward] All net params (data, diff): L1 norm = ({l1}); L2 norm = ({l2})")


def _host(blob: Blob, which: str) -> np.ndarray:
    return blob.backend.to_host(getattr(blob, which))


def _mean_size(blob: Blob, which: str) -> float:
    values = _host(blob, which)
    return float(np.abs(values).mean(dtype=np.float64)) if values.size else 0.0
