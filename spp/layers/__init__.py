"""One class per Caffe layer type: parameters, shapes and state; the arithmetic is in spp.ops."""
import importlib
import pkgutil

from spp.layers.base import TEST, TRAIN, Blobs, Context, Layer, canonical_axis
from spp.layers.registry import create, layer_class, register, types

__all__ = ["TEST", "TRAIN", "Blobs", "Context", "Layer", "canonical_axis", "create", "layer_class", "register",
           "types"]

for _module in pkgutil.iter_modules(__path__):      # importing a module registers its layer types
    importlib.import_module(f"{__name__}.{_module.name}")
