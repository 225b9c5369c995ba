"""`import caffe` as another name of spp.pycaffe."""
import sys

import spp.proto
import spp.pycaffe


def install() -> None:
    """Make `import caffe` mean spp.pycaffe in this process, its submodules included."""
    for name, module in list(sys.modules.items()):
        if name == "spp.pycaffe" or name.startswith("spp.pycaffe."):
            sys.modules["caffe" + name[len("spp.pycaffe"):]] = module
    sys.modules["caffe.proto"] = spp.proto
    sys.modules["caffe.proto.caffe_pb2"] = spp.proto.caffe_pb2
    sys.modules["caffe.pycaffe"] = sys.modules["caffe._caffe"] = spp.pycaffe
