"""From a type name in a prototxt to the class that computes it."""
import difflib
from typing import Any, Callable

from spp.errors import NetError
from spp.layers.base import Context, Layer

_classes: dict[str, type[Layer]] = {}

# Layer types that forks of Caffe have and this project has not.
_FORKS = {
    "SSD": "AnnotatedData DetectionEvaluate MultiBoxLoss VideoData",
    "ParseNet": "BN Grouping ParseEvaluate ParseOutput UnPooling",
    "NVIDIA": "AnnotatedData DetectNetTransformation DetectionEvaluate L1Loss MultiBoxLoss TRT VideoData",
    "Intel": "AnnotatedData BoxAnnotatorOHEM BoxData DetectionEvaluate EvalDetection MnActivation MultiBoxLoss "
             "RegionLoss SmoothL1LossOHEM SoftmaxWithLossOHEM SpatialDropout VideoData",
    "R-FCN": "BoxAnnotatorOHEM SmoothL1LossOHEM SoftmaxWithLossOHEM",
    "PSPNet": "BN", "SegNet": "BN DenseImageData",
    "OpenCV": "Accum Correlation DataAugmentation FlowWarp MaxUnpool Padding PriorBoxClustered Proposal Region Resize "
              "Shift",
}


def forks_with(type_name: str) -> list[str]:
    """The forks of Caffe that have a layer type which this project lacks."""
    return [fork for fork, names in _FORKS.items() if type_name in names.split()]


def register(type_name: str) -> Callable[[type[Layer]], type[Layer]]:
    """Class decorator: make `type: "<type_name>"` mean this class. A name can be taken once."""
    def enter(cls: type[Layer]) -> type[Layer]:
        if type_name in _classes:
            raise ValueError(f"layer type {type_name!r} is registered already, as {_classes[type_name].__name__}")
        _classes[type_name] = cls
        return cls
    return enter


def types() -> list[str]:
    """All registered type names, sorted."""
    return sorted(_classes)


def layer_class(type_name: str) -> type[Layer]:
    """The class of a type name; raises NetError that names the forks that have the type, or the nearest known type."""
    if type_name not in _classes:
        forks = forks_with(type_name)
        if forks:
            raise NetError(
                f"layer type {type_name!r} is not Caffe's but a fork's ({', '.join(forks)}), and is not here; write "
                f"it as a Python layer: type: 'Python' python_param {{ module: 'my_layers' layer: '{type_name}' }}, "
                f"and in my_layers.py beside the prototxt a class {type_name}(spp.layers.Layer) with setup, reshape, "
                f"forward and backward")
        near = difflib.get_close_matches(type_name, _classes, 1, 0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"known types: {', '.join(types())}"
        raise NetError(f"unknown layer type {type_name!r}; {hint}")
    return _classes[type_name]


def create(param: Any, context: Context) -> Layer:
    """The layer that a LayerParameter describes."""
    return layer_class(param.type)(param, context)
