"""Nets and weights to and from torch and ONNX, and from cuda-convnet; other libraries are imported when needed."""
from spp.convert.torch import module as torch_module
from spp.convert.torch import source as torch_source

__all__ = ["torch_module", "torch_source"]
