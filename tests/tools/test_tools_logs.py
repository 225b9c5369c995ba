"""parse_log on Caffe's and our logs, and the three programs that upgrade old files."""
import csv
import re

import numpy as np
import pytest

import golden
from programs import error_of, run, training_folder
from spp.proto import caffe_pb2, read_net, read_net_binary, read_solver, write_binary

CAFFE_LOG = """Log file created at: 2016/12/31 23:59:50
I1231 23:59:50.000000 25210 caffe.cpp:217] Using GPUs 0
I1231 23:59:58.500000 25210 solver.cpp:279] Solving LeNet
I1231 23:59:58.500000 25210 solver.cpp:280] Learning Rate Policy: inv
I1231 23:59:58.600000 25210 solver.cpp:337] Iteration 0, Testing net (#0)
I1231 23:59:59.000000 25210 solver.cpp:404]     Test net output #0: accuracy = 0.0945
I1231 23:59:59.000000 25210 solver.cpp:404]     Test net output #1: loss = 2.38094 (* 1 = 2.38094 loss)
I1231 23:59:59.000000 25210 solver.cpp:337] Iteration 0, Testing net (#1)
I1231 23:59:59.100000 25210 solver.cpp:404]     Test net output #0: accuracy = 0.5
I1231 23:59:59.500000 25210 solver.cpp:228] Iteration 0, loss = 2.40262
I1231 23:59:59.500000 25210 solver.cpp:244]     Train net output #0: loss = 2.40262 (* 1 = 2.40262 loss)
I1231 23:59:59.500000 25210 sgd_solver.cpp:106] Iteration 0, lr = 0.01
I0101 00:00:08.500000 25210 solver.cpp:228] Iteration 100 (11.1 iter/s, 9s/100 iters), loss = nan
I0101 00:00:08.500000 25210 solver.cpp:244]     Train net output #0: loss = nan (* 1 = nan loss)
I0101 00:00:08.500000 25210 solver.cpp:244]     Train net output #1: prob = 1.5e-05
I0101 00:00:08.500000 25210 solver.cpp:244]     Train net output #2: prob = -inf
I0101 00:00:08.500000 25210 sgd_solver.cpp:106] Iteration 100, lr = 0.00992565
I0101 00:00:09.000000 25210 solver.cpp:337] Iteration 150, Testing net (#0)
I0101 00:00:09.500000 25210 solver.cpp:404]     Test net output #0: accuracy = 0.9
"""


def rows_of(path, delimiter=","):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


def test_caffes_log(tmp_path):
    (tmp_path / "lenet.log").write_text(CAFFE_LOG)
    result = run("parse_log", "lenet.log", "tables", cwd=tmp_path)
    assert result.returncode == 0, result
    assert result.stdout.splitlines() == ["2 rows written to tables/lenet.log.train",
                                          "2 rows written to tables/lenet.log.test",
                                          "1 rows written to tables/lenet.log.test1"]
    assert rows_of(tmp_path / "tables" / "lenet.log.train") == [
        ["NumIters", "Seconds", "LearningRate", "loss", "prob", "prob[1]"],
        ["0", "1", "0.01", "2.40262", "", ""], ["100", "10", "0.00992565", "nan", "1.5e-05", "-inf"]]
    assert rows_of(tmp_path / "tables" / "lenet.log.test") == [
        ["NumIters", "Seconds", "LearningRate", "accuracy", "loss"],
        ["0", "0.5", "0.01", "0.0945", "2.38094"], ["150", "11", "0.00992565", "0.9", ""]]
    assert rows_of(tmp_path / "tables" / "lenet.log.test1")[1] == ["0", "0.6", "0.01", "0.5"]
    run("parse_log", "lenet.log", "tables", "--delimiter", ";", cwd=tmp_path)
    assert rows_of(tmp_path / "tables" / "lenet.log.train", ";")[1][:3] == ["0", "1", "0.01"]


def test_glogs_prefix_with_a_year(tmp_path):
    (tmp_path / "log").write_text(re.sub(r"(?m)^I(\d{4}) ", r"I2016\1 ", CAFFE_LOG))
    run("parse_log", "log", ".", cwd=tmp_path)
    assert [row[1] for row in rows_of(tmp_path / "log.train")] == ["Seconds", "1", "10"]


def test_our_log_of_a_training_that_was_resumed(tmp_path):
    folder = training_folder(tmp_path)
    assert run("train_net", "--solver", "solver.prototxt", "--iterations", 10, cwd=folder).returncode == 0
    assert run("train_net", "--solver", "solver.prototxt", "--resume", cwd=folder).returncode == 0
    assert run("parse_log", "runs/train.log", "runs", cwd=folder).returncode == 0
    train, test = rows_of(folder / "runs" / "train.log.train"), rows_of(folder / "runs" / "train.log.test")
    assert train[0] == ["NumIters", "Seconds", "LearningRate", "loss"]
    assert [row[0] for row in train[1:]] == ["0", "5", "10", "15", "20"]
    assert {row[2] for row in train[1:]} == {"0.1"}
    losses = [float(row[3]) for row in train[1:]]
    assert losses[-1] < losses[0]
    assert test[0] == ["NumIters", "Seconds", "LearningRate", "accuracy", "loss"]
    assert [row[0] for row in test[1:]] == ["0", "10", "20"] and test[-1][3] == "1"


def test_a_log_of_something_else(tmp_path):
    (tmp_path / "log").write_text("I0101 00:00:08.500000 1 net.cpp:1] Creating Layer\n")
    assert error_of(run("parse_log", "log", ".", cwd=tmp_path)) == (
        "error: log: has no line such as 'Iteration 100, ...' followed by 'Train net output #0: loss = 1.5'; give a "
        "log of a training whose solver has display or test_interval")
    assert error_of(run("parse_log", "none", ".", cwd=tmp_path)) == "error: none: No such file or directory"
    assert "--delimiter takes one character" in error_of(run("parse_log", "log", ".", "--delimiter", "", cwd=tmp_path))


# --- upgrades

@pytest.mark.parametrize("program, source, read", [
    ("upgrade_net_proto_text", "v0", read_net), ("upgrade_net_proto_text", "v1", read_net),
    ("upgrade_solver_proto_text", "old_solver", read_solver)])
def test_upgrades_of_text(tmp_path, program, source, read):
    result = run(program, golden.path("graphs", f"{source}.prototxt"), "new.prototxt", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.endswith("to new.prototxt\n"), result
    text = (tmp_path / "new.prototxt").read_text()
    assert "layers {" not in text and "solver_type" not in text
    assert read(tmp_path / "new.prototxt") == read(golden.path("graphs", f"{source}_upgraded.prototxt"))


def test_upgrade_of_weights(tmp_path):
    old = caffe_pb2.NetParameter(name="old")
    layer = old.layers.add(name="fc", type=caffe_pb2.V1LayerParameter.INNER_PRODUCT, blobs_lr=[1, 2])
    layer.blobs.add(num=1, channels=1, height=2, width=3, data=np.arange(6))
    write_binary(old, tmp_path / "old.caffemodel")
    result = run("upgrade_net_proto_binary", "old.caffemodel", "new.caffemodel", cwd=tmp_path)
    assert result.returncode == 0, result
    raw = caffe_pb2.NetParameter.FromString((tmp_path / "new.caffemodel").read_bytes())
    assert not raw.layers and raw.layer[0].type == "InnerProduct"
    assert [spec.lr_mult for spec in raw.layer[0].param] == [1, 2]
    assert list(raw.layer[0].blobs[0].data) == [0, 1, 2, 3, 4, 5]
    assert raw == read_net_binary(tmp_path / "old.caffemodel")


@pytest.mark.parametrize("program", ["upgrade_net_proto_text", "upgrade_net_proto_binary",
                                     "upgrade_solver_proto_text"])
def test_upgrades_of_what_is_none(tmp_path, program):
    (tmp_path / "in").write_text("layers { layer { } ")
    error_of(run(program, "in", "out", cwd=tmp_path))
    assert not (tmp_path / "out").exists()
    assert "File not found: none" in error_of(run(program, "none", "out", cwd=tmp_path))
