"""A net of one layer of a type, between inputs x0, x1 ... and tops y0, y1 ..."""
import numpy as np
import pytest

from spp.errors import NetError
from spp.layers import TRAIN
from spp.net import Net
from spp.proto.text import parse_net


def layer_net(body, *shapes, tops=1, phase=TRAIN, dtype=np.float64, in_place=False, following=""):
    """A Net of `body` ("type: 'Scale' ..."), which gives gradients to all inputs that can have one.

    `following` is the prototxt of whole layers that come after it in the net.
    """
    inputs = " ".join(f"top: 'x{i}'" for i in range(len(shapes)))
    sizes = " ".join("shape { %s }" % " ".join(f"dim: {size}" for size in shape) for shape in shapes)
    bottoms = " ".join(f"bottom: 'x{i}'" for i in range(len(shapes)))
    names = " ".join(f"top: '{'x' if in_place else 'y'}{i}'" for i in range(tops))
    first = f"layer {{ name: 'in' type: 'Input' {inputs} input_param {{ {sizes} }} }}" if shapes else ""
    return Net(parse_net(f"force_backward: true {first} layer {{ name: 'l' {bottoms} {names} {body} }} {following}"),
               phase, dtype=dtype, seed=1)


def forward(net, *xs):
    """Copies of all outputs y for these inputs; a single output is not put into a list."""
    net.forward(**{f"x{i}": np.asarray(x) for i, x in enumerate(xs)})
    tops = [np.array(net.blobs[name].data) for name in sorted(net.blobs) if name.startswith("y")]
    return tops[0] if len(tops) == 1 else tops


def backward(net, *dys):
    """A copy of input 0's gradient, from the gradients of the tops; parameter gradients start at 0."""
    net.blobs["x0"].diff[...] = np.nan      # must be overwritten
    for i, dy in enumerate(dys):
        net.blobs[f"y{i}"].diff[...] = dy
    net.clear_param_diffs()
    net.backward()
    return np.array(net.blobs["x0"].diff)


def refusal(do, *args, **kwargs):
    """The message, without the layer's name and type, of the NetError that this raises."""
    with pytest.raises(NetError) as caught:
        do(*args, **kwargs)
    where, _, message = str(caught.value).partition("): ")
    assert where.startswith("layer 'l' (")
    return message
