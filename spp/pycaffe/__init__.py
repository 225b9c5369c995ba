"""Caffe's Python module: `import spp.pycaffe as caffe`.

`python -m spp.pycaffe script.py` runs a script that says `import caffe`, as it is.
"""
from spp.layers import TEST, TRAIN, Layer
from spp.layers import types as layer_type_list
from spp.pycaffe import classifier, coord_map, detector, draw, io, net_spec, proto
from spp.pycaffe.classifier import Classifier
from spp.pycaffe.common import (NCCL, CaffeError, Timer, has_nccl, init_log, log, set_device, set_mode_cpu,
                                set_mode_gpu, set_multiprocess, set_random_seed, set_solver_count, set_solver_rank,
                                solver_count, solver_rank)
from spp.pycaffe.detector import Detector
from spp.pycaffe.net import Net
from spp.pycaffe.net_spec import NetSpec, layers, params, to_proto
from spp.pycaffe.solver import (AdaDeltaSolver, AdaGradSolver, AdamSolver, NesterovSolver, RMSPropSolver, SGDSolver,
                                get_solver)

__version__ = "1.0.0"       # of the Caffe that this stands for

__all__ = [
    "NCCL", "TEST", "TRAIN", "AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "CaffeError", "Classifier", "Detector",
    "Layer", "NesterovSolver", "Net", "NetSpec", "RMSPropSolver", "SGDSolver", "Timer", "classifier", "coord_map",
    "detector", "draw", "get_solver", "has_nccl", "init_log", "io", "layer_type_list", "layers", "log", "net_spec",
    "params", "proto", "set_device", "set_mode_cpu", "set_mode_gpu", "set_multiprocess", "set_random_seed",
    "set_solver_count", "set_solver_rank", "solver_count", "solver_rank", "to_proto"]
