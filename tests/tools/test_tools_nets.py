"""Programs about a net: time_net, summarize_net, draw_net; and layer costs."""
import os
import re
import shutil

import pytest

import golden
from programs import error_of, run, training_folder
from spp.inspection import drawing
from spp.inspection import flops
from spp.net import Net
from spp.proto.text import parse_net

SQUEEZENET = golden.path("squeezenet", "deploy.prototxt")
CONVS = """
name: "convs" input: "x" input_shape { dim: 2 dim: 4 dim: 9 dim: 7 }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 group: 2 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "deconv" type: "Deconvolution" bottom: "conv" top: "deconv" convolution_param { num_output: 5
  kernel_size: 2 bias_term: false } }
layer { name: "pool" type: "Pooling" bottom: "deconv" top: "pool" pooling_param { pool: AVE kernel_size: 3 } }
layer { name: "global" type: "Pooling" bottom: "pool" top: "global" pooling_param { global_pooling: true } }
layer { name: "norm" type: "LRN" bottom: "pool" top: "norm" lrn_param { local_size: 3 } }
layer { name: "spp" type: "SPP" bottom: "norm" top: "spp" spp_param { bins: 2 bins: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "spp" top: "ip" inner_product_param { num_output: 11 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


def test_flops():
    net = Net(parse_net(CONVS))
    costs = {cost.name: cost for cost in flops.costs(net)}
    assert net.blobs["conv"].shape == (2, 6, 4, 3) and net.blobs["deconv"].shape == (2, 5, 5, 4)
    assert net.blobs["pool"].shape == (2, 5, 3, 2)
    conv, pool = 2 * 6 * 4 * 3, 2 * 5 * 3 * 2
    expected = {
        "input": 0, "conv": conv * (2 * 2 * 3 * 2 + 1), "relu": conv, "deconv": conv * 2 * 5 * 2 * 2, "pool": pool * 9,
        "global": 2 * 5 * 6, "norm": pool * 8, "spp": pool * 2, "ip": 22 * (2 * 25 + 1), "prob": 22 * 4}
    assert {name: cost.flops for name, cost in costs.items() if "split" not in name} == expected
    assert costs["pool_pool_0_split"].flops == 0
    assert costs["conv"].parameters == 6 * 2 * 3 * 2 + 6 and costs["conv"].shapes == [(2, 6, 4, 3)]
    assert costs["conv"].memory == 4 * (conv + 78)
    assert costs["relu"].memory == 0 and costs["pool_pool_0_split"].memory == 0


def test_flops_of_squeezenet():
    """Iandola et al. give no count; 26 convolutions worked out by hand from the deploy file's shapes."""
    costs = flops.costs(Net(SQUEEZENET))
    convolutions = [cost for cost in costs if cost.type == "Convolution"]
    assert len(convolutions) == 26 and sum(cost.parameters for cost in costs) == 1235496
    assert convolutions[0].flops == 64 * 113 * 113 * (2 * 27 + 1)
    assert convolutions[-1].flops == 1000 * 14 * 14 * (2 * 512 + 1)


# --- time_net

def test_time_net_prints_the_lines_of_caffe_time(tmp_path):
    folder = training_folder(tmp_path)
    result = run("time_net", "--model", "net.prototxt", "--iterations", 3, cwd=folder)
    assert result.returncode == 0, result
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"Initial loss: 0\.[67]\d+", lines[1])
    for words in ("Performing Forward", "Performing Backward", "*** Benchmark begins ***", "Testing for 3 iterations.",
                  "Average time per layer: ", "*** Benchmark ends ***"):
        assert lines.count(words) == 1
    rows = re.findall(r"(?m)^ *(\S+)\t(forward|backward): ([\d.e-]+) ms\.", result.stdout)
    assert [(name, what) for name, what, _ in rows] == [
        (name, what) for name in ("data", "fc", "loss") for what in ("forward", "backward")]
    assert all(float(value) > 0 for _, _, value in rows)
    assert len(re.findall(r"(?m)^Iteration: \d forward-backward time: [\d.]+ ms\.$", result.stdout)) == 3
    for words in ("Average Forward pass", "Average Backward pass", "Average Forward-Backward", "Total Time"):
        assert re.search(rf"(?m)^{words}: [\d.e-]+ ms\.$", result.stdout)
    assert "(with 8 parameters)" in result.stdout


def test_time_net_of_a_deploy_net_with_another_batch(tmp_path):
    (tmp_path / "net.prototxt").write_text(CONVS)
    result = run("time_net", "--model", "net.prototxt", "--iterations", 1, "--phase", "TEST", "--batch", 200,
                 cwd=tmp_path)
    assert result.returncode == 0, result
    assert "The net has no loss, so there is no backward pass to time." in result.stdout
    assert "\tbackward" not in result.stdout
    gflop = re.search(r"(?m)^ *conv\tforward: \S+ ms\.\t +([\d.]+) GFLOP\t +([\d.]+) GFLOP/s\t +([\d.]+) MB$",
                      result.stdout)
    assert gflop and float(gflop[1]) == pytest.approx(200 * 72 * 25 / 1e9, abs=1e-4)
    assert float(gflop[3]) == pytest.approx(4 * (200 * 72 + 78) / 1e6, abs=1e-3)


def test_time_net_sets_the_batch_of_every_kind_of_data():
    from spp_tools.time_net import set_batch
    net = parse_net("""
        layer { name: "a" type: "Data" top: "a" data_param { batch_size: 3 } }
        layer { name: "b" type: "ImageData" top: "b" image_data_param { batch_size: 3 } }
        layer { name: "c" type: "DummyData" top: "c" dummy_data_param { num: 3 channels: 1 height: 1 width: 1 } }
        layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 3 dim: 2 } shape { } } }
        layer { name: "e" type: "Input" top: "e" input_param { shape { dim: 3 dim: 2 } } }""")
    set_batch(net, 8)
    assert [net.layer[0].data_param.batch_size, net.layer[1].image_data_param.batch_size,
            net.layer[2].dummy_data_param.num[0]] == [8, 8, 8]
    assert [list(shape.dim) for shape in [*net.layer[3].dummy_data_param.shape, *net.layer[4].input_param.shape]] == [
        [8, 2], [], [8, 2]]
    assert not net.layer[4].HasField("data_param")


# --- summarize_net

def test_summarize_net(tmp_path):
    (tmp_path / "net.prototxt").write_text(CONVS)
    result = run("summarize_net", "net.prototxt", cwd=tmp_path)
    assert result.returncode == 0, result
    lines = result.stdout.splitlines()
    assert lines[0] == "convs, phase TEST; inputs: x; outputs: global, prob"
    assert [line.split()[0] for line in lines[3:-2]] == ["input", "conv", "relu", "deconv", "pool", "global", "norm",
                                                         "spp", "ip", "prob"]
    assert lines[1].split() == ["layer", "type", "bottoms", "tops", "shape", "parameters", "MFLOP", "MB"]
    assert lines[4].split() == ["conv", "Convolution", "x", "conv", "2x6x4x3", "78", "0.004", "0.001"]
    assert lines[5].split()[:5] == ["relu", "ReLU", "conv", "conv*", "2x6x4x3"]
    assert lines[9].split()[:4] == ["norm", "LRN", "pool", "norm"]      # not the part that Net split off
    assert lines[-1].split()[:3] == ["10", "layers", str(78 + 120 + 25 * 11 + 11)]
    assert len(set(map(len, lines[1:3] + lines[-1:]))) == 1
    training_folder(tmp_path)
    assert "label" in run("summarize_net", "net.prototxt", "--phase", "TRAIN", cwd=tmp_path).stdout
    assert error_of(run("summarize_net", "x", cwd=tmp_path)).startswith("error: File not found: x")


# --- draw_net

def test_draw_net_writes_text_for_graphviz(tmp_path):
    (tmp_path / "net.prototxt").write_text(CONVS)
    result = run("draw_net", "net.prototxt", "net.dot", "--rankdir", "TB", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout == "net.dot\n", result
    words = (tmp_path / "net.dot").read_text()
    assert words.startswith('digraph "convs" {\n  rankdir=TB;') and words.endswith("}\n")
    assert 'label="conv\\nConvolution 6\\nkernel 3x2, stride 2"' in words
    assert 'label="pool\\nPooling AVE\\nkernel 3"' in words and 'label="spp\\nSPP\\nbins 2, 1"' in words
    edges = {tuple(edge) for edge in re.findall(r"^  (\S+) -> (\S+);$", words, re.M)}
    assert {("layer_1", "layer_2"), ("layer_2", '"blob_conv"'), ('"blob_conv"', "layer_3")} <= edges
    assert ("layer_1", '"blob_conv"') not in edges       # the ReLU works in-place, after the convolution
    assert len(re.findall(r'"blob_pool" \[', words)) == 1
    assert {('"blob_pool"', "layer_5"), ('"blob_pool"', "layer_6")} <= edges
    assert ("layer_9", '"blob_prob"') in edges


def test_a_blob_that_two_phases_make_has_two_edges(tmp_path):
    text = """layer { name: "a" type: "Data" top: "data" include { phase: TRAIN } }
        layer { name: "a" type: "Data" top: "data" include { phase: TEST } }
        layer { name: "say \\"x\\"" type: "Silence" bottom: "data" }"""
    (tmp_path / "net.prototxt").write_text(text)
    words = drawing.to_dot(parse_net(text), shapes={"data": (2, 3)})
    assert 'layer_0 -> "blob_data";' in words and 'layer_1 -> "blob_data";' in words
    assert 'label="data\\n2 x 3"' in words and 'label="say \\"x\\"\\nSilence"' in words
    assert run("draw_net", "net.prototxt", "net.gv", "--phase", "TEST", cwd=tmp_path).returncode == 0
    assert (tmp_path / "net.gv").read_text().count("Data") == 1


def test_pictures_need_graphviz(tmp_path, monkeypatch):
    (tmp_path / "net.prototxt").write_text(CONVS)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert error_of(run("draw_net", "net.prototxt", "net.png", cwd=tmp_path)) == (
        "error: net.png: drawing needs Graphviz's program 'dot'; install graphviz, or write a .dot file, or print the "
        "net as a table with summarize_net")
    assert "net.jpg: cannot tell what to write" in error_of(run("draw_net", "net.prototxt", "net.jpg", cwd=tmp_path))
    dot = tmp_path / "dot"
    dot.write_text("#!/bin/sh\n/bin/echo \"$1\"; /bin/cat\n")
    dot.chmod(0o755)
    assert run("draw_net", "net.prototxt", "net.svg", cwd=tmp_path).returncode == 0
    assert (tmp_path / "net.svg").read_text().startswith('-Tsvg\ndigraph "convs"')
    dot.write_text("#!/bin/sh\n/bin/echo broken >&2; exit 3\n")
    assert error_of(run("draw_net", "net.prototxt", "net.pdf", cwd=tmp_path)) == (
        "error: net.pdf: dot -Tpdf failed: broken; write a .dot file instead and look at it")
    assert not os.path.exists(tmp_path / "net.pdf")


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz's program dot is not installed")
def test_a_picture(tmp_path):
    assert run("draw_net", SQUEEZENET, "net.png", cwd=tmp_path).returncode == 0
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
