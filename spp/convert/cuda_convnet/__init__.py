"""Nets of cuda-convnet as prototxt and solver."""
from spp.convert.cuda_convnet.model import convert, read

__all__ = ["convert", "read"]
