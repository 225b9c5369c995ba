"""Nets and weights to and from torch and ONNX; what a conversion needs besides spp is loaded when it runs."""
from typing import Any

from spp.convert.extras import need


def torch_module(net: Any) -> Any:
    """A torch.nn.Module, in eval mode, with the function and the weights of a Net of phase TEST.

    It takes the net's inputs in their order and returns a dict of its outputs, as tensors by blob name. Raises
    ConvertError for a layer that it cannot compute, and where torch is not installed.
    """
    need("torch", "torch")
    from spp.convert.torch import export as torch_export
    return torch_export.module(net)


def torch_source(net: Any) -> str:
    """The Python source, needing torch only, of the class that `torch_module` makes; raises as that does."""
    need("torch", "torch")
    from spp.convert.torch import export as torch_export
    return torch_export.source(net)
