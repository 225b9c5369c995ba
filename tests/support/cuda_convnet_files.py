"""cuda-convnet's files, and nets read from them."""
import numpy as np

from spp.convert import cuda_convnet
from spp.layers import TEST
from spp.net import Net

DATA = "[data]\ntype=data\ndataIdx=0\n"


def written(folder, layers, params=None):
    """The paths of a definition and, maybe, a parameter file."""
    definition, parameters = folder / "net.cfg", folder / "params.cfg"
    definition.write_text(layers)
    if params is not None:
        parameters.write_text(params)
    return str(definition), str(parameters) if params is not None else None


def net_of(folder, layers, shape, params=None, phase=TEST, **more):
    """The net, seeded, of a definition whose data have this shape."""
    definition, parameters = written(folder, layers, params)
    param, _ = cuda_convnet.read(definition, parameters, {"data": shape, **more})
    return Net(param, phase, device="cpu", seed=4)


def image(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv5(neuron="relu"):
    return f"""
[conv5]
type=conv
inputs=data
channels=3
filters=16
padding=1
stride=1
filterSize=3
initW=0.3
initB=0.2
neuron={neuron}
partialSum=1
sharedBiases=1
"""
