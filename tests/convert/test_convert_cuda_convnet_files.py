"""cuda-convnet's files as a whole: net and solver, the program, and what is refused."""
import re

import numpy as np
import pytest

from cuda_convnet_files import DATA, conv5, image, net_of, written
from programs import error_of, process, run
from spp.convert import cuda_convnet
from spp.errors import ConvertError
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto import read_solver

LABELS = "[labels]\ntype=data\ndataIdx=1\n"
WHOLE = DATA + LABELS + conv5() + """
[rnorm1]
type=cmrnorm
inputs=conv5
channels=16
size=5
[drop]
type=dropout2
keep=0.6
inputs=rnorm1
[fc10]
type=fc
inputs=drop
outputs=10
initW=0.01
initB=-7
gpu=0
[probs]
type=softmax
inputs=fc10
[logprob]
type=cost.logreg
inputs=labels,probs
"""
PARAMS = """# rates
[conv5]
epsW=0.002
epsB=0.004
momW=0.9
momB=0.9
wc=0.004
wball=0.0
[rnorm1]
scale=0.1
pow=0.75
[fc10]
epsW=const[base=0.001]
epsB=0.001
momW=0.9
momB=0.9
wc=0.001
dropout=0.25
[logprob]
coeff=2
topk=5
"""


def test_net_and_solver(tmp_path):
    definition, parameters = written(tmp_path, WHOLE, PARAMS)
    prototxt, solver = str(tmp_path / "out.prototxt"), str(tmp_path / "out_solver.prototxt")
    cuda_convnet.convert(definition, parameters, prototxt, solver, {"data": (4, 3, 13, 13)})
    rates = read_solver(solver)
    settings = rates.net, rates.base_lr, rates.momentum, rates.weight_decay, rates.lr_policy
    assert settings == ("out.prototxt", *map(np.float32, (0.002, 0.9, 0.004)), "fixed")
    net = Net(prototxt, TRAIN, device="cpu", seed=2)
    multiples = {entry.name: (entry.lr_mult, entry.decay_mult) for entry in net.learnable}
    assert multiples == {"conv5[0]": (1, 1), "conv5[1]": (2, 0), "fc10[0]": (0.5, 0.25), "fc10[1]": (0.5, 0)}
    drops = [layer.param.dropout_param for layer in net.layers if layer.type == "Dropout"]
    assert [(round(p.dropout_ratio, 6), p.scale_train) for p in drops] == [(0.4, False), (0.25, False)]
    assert net.blobs["labels"].shape == (4,) and "probs" not in net.blobs
    x, labels = image((4, 3, 13, 13)), np.array([3, 1, 0, 9], np.float32)
    net.forward(data=x, labels=labels)
    scores = net.blobs["fc10"].data.astype(np.float64)
    losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(4), labels.astype(int)]
    np.testing.assert_allclose(net.loss, 2 * losses.mean(), rtol=1e-4)
    test = Net(prototxt, TEST, device="cpu", seed=2)
    assert test.inputs == ["data"] and test.outputs == ["probs"]
    test.forward(data=x)
    np.testing.assert_allclose(test.blobs["drop"].data, 0.6 * test.blobs["rnorm1"].data, rtol=1e-5)


def test_the_program(tmp_path):
    written(tmp_path, WHOLE, PARAMS)
    result = process("convert_net", "--model", "net.cfg", "--params", "params.cfg", "--from", "cuda-convnet",
                     "--shape", "data=4,3,13,13", "--output", "out.prototxt", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "Wrote out.prototxt and out_solver.prototxt\n"), result.stderr
    assert read_solver(str(tmp_path / "out_solver.prototxt")).net == "out.prototxt"
    assert Net(str(tmp_path / "out.prototxt"), TEST, device="cpu").outputs == ["probs"]
    result = run("convert_net", "--model", "net.cfg", "--from", "cuda-convnet", "--output", "no.prototxt", "--weights",
                 "w", cwd=tmp_path)
    assert error_of(result) == "error: cuda-convnet's weights cannot be read; leave out --weights"
    assert not (tmp_path / "no.prototxt").exists()


def test_shared_weights(tmp_path):
    text = DATA + """
[a]
type=fc
inputs=data
outputs=5
initW=0.4
[b]
type=fc
inputs=a
outputs=5
weightSource=a
"""
    params = "".join(f"[{name}]\nepsW={rate}\nepsB=0.1\nmomW=0.5\nmomB=0.5\nwc=0\n"
                     for name, rate in (("a", 1), ("b", 2)))
    net = net_of(tmp_path, text, (2, 5), params)
    assert np.shares_memory(net.params["a"][0].data, net.params["b"][0].data)
    assert not np.shares_memory(net.params["a"][1].data, net.params["b"][1].data)
    multiples = [(entry.name, round(entry.lr_mult, 6)) for entry in net.learnable]
    assert multiples == [("a[0]", 1), ("a[1]", 0.1), ("b[1]", 0.1)]


CONV = DATA + "[c]\ntype=conv\ninputs=data\nchannels=3\nfilters=16\nfilterSize=3\n"
POOL = DATA + "[p]\ntype=pool\ninputs=data\nchannels=3\nsizeX=3\nstride=2\n"
RATES = "[c]\nepsW=0.1\nepsB=0.1\nmomW=0.9\nmomB=0.9\nwc=0\n"


@pytest.mark.parametrize("text, params, reason", [
    (CONV.replace("=conv", "=local"), None, "net.cfg:5: layer 'c': type=local cannot be converted: its filters"),
    (CONV.replace("=conv", "=cnorm"), None, "type=cnorm cannot be converted: Caffe has no layer of"),
    (CONV.replace("=conv", "=convolution"), None, "type=convolution cannot be converted: no such type is known"),
    (CONV + "colour=1\n", None, "net.cfg:10: layer 'c': option colour of type=conv is not known"),
    (CONV + "sharedBiases=false\n", None, "no bias for each place"),
    (CONV + "randSparse=1\n", None, "randSparse".lower() + " cannot be converted"),
    (CONV + "initWFunc=w.make(1)\n", None, "load them from a caffemodel"),
    (CONV + "neuron=nrelu\n", None, "neuron=nrelu cannot be converted; known are ident, relu"),
    (CONV + "neuron=tanh[1]\n", None, "neuron=tanh[1] cannot be converted"),
    (CONV.replace("channels=3", "channels=4"), None, "channels=4: the input 'data' is 3 x 12 x 12"),
    (CONV.replace("inputs=data", "inputs=dat"), None, "net.cfg:6: layer 'c': input 'dat' is not defined before"),
    (CONV.replace("filterSize=3\n", ""), None, "net.cfg:4: layer 'c': option filterSize is missing"),
    (CONV.replace("filters=16", "filters=x"), None, "filters: 'x' is no number"),
    (CONV.replace("filters=16", "filters=1,2,3"), None, "filters needs one number, or one for each of 1 inputs"),
    (CONV + "[c]\ntype=conv\n", None, "net.cfg:10: a second section [c]; the first is in line 4"),
    (CONV + "what is this\n", None, "net.cfg:10: 'what is this' is neither a [section] nor"),
    (CONV, RATES.replace("momB=0.9", "momB=0.5"), "momW and momB are 0.5, 0.9, and a solver of Caffe has one"),
    (CONV, RATES.replace("epsW=0.1", "epsW=exp[base=0.1;tgtFactor=10]"), "a schedule depends on the length of"),
    (CONV, RATES + "wball=2\n", "params.cfg:7: layer 'c': wball cannot be converted: Caffe's solver neither"),
    (CONV, RATES.replace("[c]", "[d]"), "params.cfg:1: no layer 'd' in"),
    (CONV, "[c]\nepsW=0.1\n", "option momw is missing"),
    (POOL + "pool=maxabs\n", None, "pool=maxabs is none of max and avg"),
    (POOL + "pool=avg\nstart=-1\n", None, "cuda-convnet's average is of the map only"),
    (POOL + "pool=max\noutputsX=9\n", None, "outputsX=9: Caffe has 6 windows"),
    (DATA + "[n]\ntype=cmrnorm\ninputs=data\nchannels=3\nsize=4\nscale=1\npow=1\n", None, "an odd local_size"),
    (DATA + "[n]\ntype=rnorm\ninputs=data\nchannels=3\nsize=3\nscale=1\npow=1\nminDiv=2\n", None, "no other minDiv"),
    (DATA + "[n]\ntype=cmrnorm\ninputs=data\nchannels=3\nsize=3\n", None, "option scale is missing"),
    ("# nothing\n", None, "no [section] in it"),
    ("[images]\ntype=data\n", None, "is given for 'data', which is no data layer"),
])
def test_what_is_in_the_way_is_named_and_nothing_written(tmp_path, text, params, reason):
    definition, parameters = written(tmp_path, text, params)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConvertError, match=re.escape(reason)) as caught:
        cuda_convnet.convert(definition, parameters, str(tmp_path / "out.prototxt"), str(tmp_path / "solver.prototxt"),
                             {"data": (2, 3, 12, 12)})
    assert "\n" not in str(caught.value) and sorted(tmp_path.iterdir()) == before


def test_the_size_of_the_images_is_asked_for(tmp_path):
    with pytest.raises(ConvertError, match=re.escape("give the shape (as data=128,3,224,224)")):
        cuda_convnet.read(written(tmp_path, CONV)[0], None, {})
