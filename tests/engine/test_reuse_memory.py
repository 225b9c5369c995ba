"""Nets whose blobs take each other's memory: the same outputs, little memory, and errors instead of wrong values."""
import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from public_nets import CASES
from spp.blob import Memory
from spp.errors import NetError
from spp.layers import TEST, TRAIN
from spp.memory import Allocation, plan_offsets
from spp.net import Net
from spp.proto.text import parse_net

FILL = "weight_filler { type: 'gaussian' std: 0.5 } bias_filler { type: 'uniform' min: -1 max: 1 }"
SHARERS = f"""
layer {{ name: 'x' type: 'Input' top: 'x' top: 'label' input_param {{ shape {{ dim: 2 dim: 3 dim: 8 dim: 6 }}
  shape {{ dim: 2 }} }} }}
layer {{ name: 'a' type: 'Convolution' bottom: 'x' top: 'a'
  convolution_param {{ num_output: 4 kernel_size: 1 {FILL} }} }}
layer {{ name: 'r' type: 'TanH' bottom: 'a' top: 'a' }}
layer {{ name: 'flat' type: 'Flatten' bottom: 'a' top: 'flat' }}
layer {{ name: 'fc' type: 'InnerProduct' bottom: 'flat' top: 'fc' inner_product_param {{ num_output: 12 {FILL} }} }}
layer {{ name: 'map' type: 'Reshape' bottom: 'fc' top: 'map'
  reshape_param {{ shape {{ dim: 0 dim: 3 dim: 2 dim: 2 }} }} }}
layer {{ name: 'one' type: 'Concat' bottom: 'map' top: 'one' }}
layer {{ name: 'exp' type: 'Exp' bottom: 'one' top: 'exp' }}
layer {{ name: 'b' type: 'InnerProduct' bottom: 'exp' top: 'b' inner_product_param {{ num_output: 12 {FILL} }} }}
layer {{ name: 'sum' type: 'Eltwise' bottom: 'fc' bottom: 'b' top: 'sum' }}
layer {{ name: 'scores' type: 'InnerProduct' bottom: 'sum' top: 'scores'
  inner_product_param {{ num_output: 5 {FILL} }} }}
layer {{ name: 'late' type: 'Reduction' bottom: 'x' top: 'late' reduction_param {{ axis: 1 }} }}
layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'scores' bottom: 'label' top: 'loss' }}
layer {{ name: 'hit' type: 'Accuracy' bottom: 'scores' bottom: 'label' top: 'hit' }}
"""
LINE = """
layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
layer { name: 'a' type: 'Power' bottom: 'x' top: 'a' power_param { shift: 1 } }
layer { name: 'b' type: 'Power' bottom: 'a' top: 'b' power_param { scale: 2 } }
layer { name: 'c' type: 'Power' bottom: 'b' top: 'c' power_param { shift: 1 } }
layer { name: 'd' type: 'Power' bottom: 'c' top: 'd' power_param { scale: 2 } }
"""


def pair(text, **arguments):
    """The net that reuses memory, and the same without."""
    return (Net(parse_net(text), TEST, seed=1, reuse_memory=True, **arguments),
            Net(parse_net(text), TEST, seed=1))


def poison(net):
    """NaN into all memory that lives from one forward pass only."""
    for name, blob in net.blobs.items():
        flat = blob.memory.flat
        if name not in net.inputs and flat is not None:
            (flat if flat.base is None else flat.base)[...] = np.nan


def allocated_bytes(net):
    """Bytes of all arrays that store the net's blobs."""
    arrays = [blob.memory.flat for blob in net.blobs.values() if blob.memory.flat is not None]
    bases = {id(array if array.base is None else array.base): array for array in arrays}
    return sum((array if array.base is None else array.base).nbytes for array in bases.values())


def most_alive(net):
    """Bytes of the largest set of blobs alive at once; inputs always are, outputs from their layer on."""
    spans: dict[int, tuple[int, int, int]] = {}      # by place in memory: bytes, first and last layer
    for i, layer in enumerate(net.layers):
        for name in [*layer.param.bottom, *layer.param.top]:
            blob = net.blobs[name]
            size, first, last = spans.get(blob.data.ctypes.data, (0, i, i))
            last = len(net.layers) if name in net.outputs else i
            spans[blob.data.ctypes.data] = max(size, blob.data.nbytes), 0 if name in net.inputs else first, last
    for name in net.inputs:
        size, first, _ = spans[net.blobs[name].data.ctypes.data]
        spans[net.blobs[name].data.ctypes.data] = size, first, len(net.layers)
    return max(sum(size for size, first, last in spans.values() if first <= i <= last)
               for i in range(len(net.layers)))


@pytest.mark.parametrize("make, shapes", CASES, ids=[make.__name__ for make, _ in CASES])
def test_public_nets_need_little_memory_at_any_size(make, shapes):
    reusing, plain = pair(make())
    largest = 0
    for shape in [*shapes, shapes[0]]:
        inputs = {reusing.inputs[0]: np.random.default_rng(0).normal(size=shape)}
        if "cont" in reusing.inputs:
            inputs["cont"] = np.ones(shape[:2])
        poison(reusing)
        outputs, expected = reusing.forward(**inputs), plain.forward(**inputs)
        for name in expected:
            np.testing.assert_array_equal(outputs[name], expected[name])
        largest = max(largest, most_alive(plain))
        assert allocated_bytes(reusing) <= 1.2 * largest
    assert allocated_bytes(plain) > 1.2 * allocated_bytes(reusing)
    assert not any(blob.has_diff for blob in reusing.blobs.values())


def test_blobs_that_share_memory_and_layers_in_place():
    reusing, plain = pair(SHARERS)
    rng = np.random.default_rng(0)
    for shape in [(2, 3, 8, 6), (3, 3, 8, 6), (1, 3, 8, 6)]:
        inputs = {"x": rng.normal(size=shape), "label": rng.integers(0, 5, shape[0])}
        for _ in range(2):
            poison(reusing)
            outputs, expected = reusing.forward(**inputs), plain.forward(**inputs)
            assert list(outputs) == ["hit", "late", "loss"]
            for name in expected:
                np.testing.assert_array_equal(outputs[name], expected[name])
        assert reusing.loss == plain.loss
        np.testing.assert_array_equal(reusing.blobs["x"].data, inputs["x"].astype(np.float32))


def test_a_blob_that_is_overwritten_cannot_be_read():
    net = pair(LINE)[0]
    net.forward(x=np.ones((2, 3, 5, 4)))
    np.testing.assert_array_equal(net.blobs["d"].data, np.full((2, 3, 5, 4), 10))
    np.testing.assert_array_equal(net.blobs["c"].data, np.full((2, 3, 5, 4), 5))     # not overwritten yet
    for name in "ab":
        with pytest.raises(NetError, match=f"blob '{name}' is overwritten: with reuse_memory others have taken its "
                           f"memory; add '{name}' to the Net's keep, or build the Net without reuse_memory"):
            net.blobs[name].data
    net.forward_layers(4, 4)
    np.testing.assert_array_equal(net.blobs["d"].data, np.full((2, 3, 5, 4), 10))
    with pytest.raises(NetError, match="layer 'c' .Power.: blob 'b' is overwritten"):
        net.forward_layers(3, 4)


def test_blobs_to_keep():
    net = pair(LINE, keep=["a"])[0]
    for shape in [(2, 3, 5, 4), (1, 3, 8, 9)]:
        net.forward(x=np.ones(shape))
        np.testing.assert_array_equal(net.blobs["a"].data, np.full(shape, 2))
        np.testing.assert_array_equal(net.blobs["d"].data, np.full(shape, 10))
    with pytest.raises(NetError, match="blob 'b' is overwritten"):
        net.blobs["b"].data


def test_hooks_see_the_blobs_of_their_layer():
    net = pair(LINE)[0]
    maxima: list[float] = []
    net.after_forward.append(lambda i: maxima.extend(float(blob.data.max()) for blob in net.tops[i]))
    net.forward(x=np.ones((2, 3, 5, 4)))
    assert maxima == [1, 2, 4, 5, 10]


def test_sizes_that_depend_on_values():
    """What a Filter lets through cannot be planned for."""
    text = LINE + """
        layer { name: 's' type: 'Input' top: 's' input_param { shape { dim: 2 } } }
        layer { name: 'pick' type: 'Power' bottom: 's' top: 'pick' power_param { scale: 1 } }
        layer { name: 'f' type: 'Filter' bottom: 'd' bottom: 'pick' top: 'f' }
        layer { name: 'e' type: 'Power' bottom: 'f' top: 'e' power_param { shift: 1 } }
        layer { name: 'g' type: 'Power' bottom: 'e' top: 'g' power_param { scale: 2 } }"""
    reusing, plain = pair(text)
    rng = np.random.default_rng(0)
    for picked in ([1, 0], [1, 1], [0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1]):
        inputs = {"x": rng.normal(size=(len(picked), 3, 5, 4)), "s": np.array(picked)}
        poison(reusing)
        outputs, expected = reusing.forward(**inputs), plain.forward(**inputs)
        np.testing.assert_array_equal(outputs["g"], expected["g"])
        assert len(outputs["g"]) == sum(picked)


def test_what_a_layer_fills_once_stays():
    text = LINE.replace("Input", "DummyData").replace(
        "input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } }",
        "dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: 'constant' value: 3 } }")
    net = pair(text)[0]
    for _ in range(2):
        assert (net.forward()["d"] == 18).all()


def test_a_size_that_does_not_fit_leaves_no_wrong_values():
    net = pair(SHARERS)[0]
    net.forward()
    for shape, message in [((2, 3, 8, 6), None), ((2, 4, 8, 6), "layer 'a' .Convolution.: the weights take 3 input")]:
        if message:
            with pytest.raises(NetError, match=message):
                net.forward(x=np.ones(shape))
        with pytest.raises(NetError, match="blob 'a' is overwritten"):
            net.blobs["a"].data


def test_wrong_arguments():
    with pytest.raises(NetError, match="reuse_memory needs phase TEST: training goes backward, and that needs all "
                       "blobs"):
        Net(parse_net(LINE), TRAIN, reuse_memory=True)
    with pytest.raises(NetError, match="no blob 'z' in net ''; its blobs are x, a, b, c, d"):
        Net(parse_net(LINE), TEST, reuse_memory=True, keep=["z"])
    with pytest.raises(NetError, match="a net with reuse_memory has no backward pass: that needs all blobs; build it "
                       "without"):
        Net(parse_net("force_backward: true " + LINE), TEST, reuse_memory=True).backward()


def test_the_memory_is_given_back_with_the_net():
    net = pair(LINE)[0]
    net.forward()
    reference = weakref.ref(net.blobs["d"].memory)
    gc.disable()
    try:
        del net
        assert reference() is None       # no cycle holds it until the garbage collector comes
    finally:
        gc.enable()


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_no_place_is_given_twice_at_a_time(spans):
    allocations = [Allocation(Memory(), "", count, min(a, b), max(a, b)) for count, a, b in spans]
    size = plan_offsets(allocations)
    for i, one in enumerate(allocations):
        assert 0 <= one.start and one.start + one.count <= size
        cells = set(range(one.start, one.start + one.count))
        for other in allocations[:i]:
            both = cells & set(range(other.start, other.start + other.count))
            assert not (both and max(one.first, other.first) <= min(one.last, other.last))
            assert ((other.memory, "") in one.overwrites) == ((one.memory, "") in other.overwrites) == bool(both)


def test_layout_of_a_line_takes_two_places():
    allocations = [Allocation(Memory(), "", 64, i, i + 1) for i in range(10)]
    assert plan_offsets(allocations) == 128
    assert [allocation.start for allocation in allocations] == [0, 64] * 5


def test_blobs_of_a_python_layer_stay():
    """The user's code may keep a reference from one forward to the next."""
    text = LINE.replace("layer { name: 'b' type: 'Power' bottom: 'a' top: 'b' power_param { scale: 2 } }",
                        "layer { name: 'b' type: 'Python' bottom: 'a' top: 'b' "
                        "python_param { module: 'python_layers' layer: 'Times' param_str: '2' } }")
    net, plain = pair(text)
    x = np.arange(120, dtype=np.float32).reshape(2, 3, 5, 4)
    net.forward(x=x), plain.forward(x=x)
    for name in ("a", "b", "d"):
        np.testing.assert_array_equal(net.blobs[name].data, plain.blobs[name].data)
    builtin, _ = pair(LINE)
    builtin.forward(x=x)
    with pytest.raises(NetError, match="blob 'b' is overwritten"):
        builtin.blobs["b"].data
