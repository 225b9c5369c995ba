"""Scripts written for Caffe, run as they are by `python -m spp.pycaffe`: the examples, and what scripts rely on."""
import os
import re
import subprocess
import sys

import cv2
import pytest

import squeezenet
from folders import ROOT
from spp.pycaffe.__main__ import main

EXAMPLES = ROOT / "examples"


def run(tmp_path, *arguments, code=0, **variables):
    """Run `python -m spp.pycaffe` from another folder; its standard output and error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), **variables}
    done = subprocess.run([sys.executable, "-m", "spp.pycaffe", *map(str, arguments)], cwd=tmp_path,
                          capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


SCRIPT = """
import os
import sys
import caffe
import caffe.io
import caffe.draw
import caffe.proto.caffe_pb2 as messages
import neighbour
from caffe import layers as L, params as P
from caffe.proto import caffe_pb2
from caffe.coord_map import crop
from caffe.net_spec import Top
from google.protobuf import text_format

assert __name__ == "__main__" and sys.modules["__main__"].caffe is caffe
print(sys.argv, os.path.basename(__file__), sys.path[0] == os.path.dirname(os.path.abspath(__file__)))
print(caffe.io is sys.modules["caffe.io"], messages is caffe_pb2 is caffe.proto.caffe_pb2 is caffe.io.caffe_pb2)
print(neighbour.NET_IS_CAFFES)
net = caffe_pb2.NetParameter()
text_format.Merge(str(caffe.to_proto(L.Pooling(L.Input(), pool=P.Pooling.AVE))), net)
print(net.layer[1].pooling_param.pool, isinstance(L.Input(), Top), callable(crop))
caffe.log("a line of the script")
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def script(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    (folder / "neighbour.py").write_text("import caffe\nNET_IS_CAFFES = caffe.Net.__module__ == 'spp.pycaffe.net'\n")
    return folder / "script.py"


def test_what_a_script_finds(script, tmp_path):
    out, error = run(tmp_path, script, 3, "--flag", code=3)
    assert out.splitlines() == [f"{[str(script), '3', '--flag']} script.py True", "True True", "True", "1 True True"]
    assert re.fullmatch(r"I\d{4} [\d:.]+ +\d+ script.py:\d+\] a line of the script\n", error)


def test_a_python_layer_beside_its_prototxt(tmp_path):
    """The solver, its net and the layer's module are in other folders than the script and the current one."""
    model, scripts = tmp_path / "model", tmp_path / "scripts"
    model.mkdir()
    scripts.mkdir()
    (model / "mylayer.py").write_text("import caffe\nclass Ones(caffe.Layer):\n"
                                      "    def setup(self, bottom, top):\n        pass\n"
                                      "    def reshape(self, bottom, top):\n        top[0].reshape(2, 3)\n"
                                      "    def forward(self, bottom, top):\n        top[0].data[...] = 1\n")
    (model / "net.prototxt").write_text("layer { name: 'l' type: 'Python' top: 'x' python_param { module: 'mylayer' "
                                        "layer: 'Ones' } }\nlayer { name: 'ip' type: 'InnerProduct' bottom: 'x' "
                                        "top: 'loss' loss_weight: 1 inner_product_param { num_output: 1 } }")
    (model / "solver.prototxt").write_text("net: 'model/net.prototxt' base_lr: 0.5 lr_policy: 'fixed'")
    (scripts / "train.py").write_text("import caffe, sys\nsolver = caffe.SGDSolver(sys.argv[1])\nsolver.step(1)\n"
                                      "print(solver.net.params['ip'][0].data.tolist())\n")
    out, _ = run(tmp_path, scripts / "train.py", model / "solver.prototxt")
    assert out == "[[-1.0, -1.0, -1.0]]\n"        # every one of 2 outputs has the gradient 1 x 1


def test_nothing_to_run(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("usage: python -m spp.pycaffe SCRIPT")
    with pytest.raises(SystemExit, match="python -m spp.pycaffe: cannot open 'nowhere.py': no such file"):
        main(["nowhere.py"])
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "example: python -m spp.pycaffe examples/net_surgery.py" in capsys.readouterr().out


def test_an_uncaught_error_is_shown_and_the_log_silenced(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("import os\nos.environ['GLOG_minloglevel'] = '2'\nimport caffe\ncaffe.log('not shown')\n"
                    "caffe.Net('nowhere.prototxt', caffe.TEST)\n")
    _, error = run(tmp_path, path, code=1)
    assert 'bad.py", line 5' in error and "not shown" not in error.replace("caffe.log('not shown')", "")
    assert "CaffeError: Could not open file nowhere.prototxt" in error.splitlines()[-1]


# --- the examples

def test_net_surgery(tmp_path):
    out, error = run(tmp_path, EXAMPLES / "net_surgery.py")
    assert "fc2: (32, 560) -> fc2-conv: (32, 16, 7, 5)" in out and "gives 9 x 13 places" in out
    assert float(out.split()[-1]) < 1e-5
    assert [line.split("] ")[1] for line in error.splitlines()] == [f"Ignoring source layer fc{i}" for i in (2, 3)]


def test_python_data_layer(tmp_path):
    out, _ = run(tmp_path, EXAMPLES / "python_data_layer.py")
    assert "the Python layer gave 6400 images" in out and float(out.split()[-1]) > 0.95


def test_lenet_netspec(tmp_path):
    out, error = run(tmp_path, EXAMPLES / "lenet_netspec.py", "--images", 500, "--iterations", 4, "--folder", tmp_path)
    assert "('data', (64, 1, 28, 28))" in out and re.search(r"iteration 4: train loss \d", out)
    assert re.search(r"test accuracy: [01]\.\d+\n", out)
    assert f"weights: {tmp_path}/lenet_iter_4.caffemodel" in out and (tmp_path / "lenet_iter_4.solverstate").exists()
    assert re.search(r"\] Iteration 0 \(.*\), loss = 2\.\d", error)


def test_classify_photo(tmp_path):
    out, _ = run(tmp_path, EXAMPLES / "classify_photo.py")
    assert out.splitlines()[0] == "sky.ppm: 120 x 90 pixels, 6 classes" and out.splitlines()[1].endswith("  red")


@squeezenet.needs_weights
def test_classify_photo_by_a_model(tmp_path):
    skimage_data = pytest.importorskip("skimage.data")
    photo = tmp_path / "cat.png"
    cv2.imwrite(str(photo), skimage_data.chelsea()[:, :, ::-1])
    out, _ = run(tmp_path, EXAMPLES / "classify_photo.py", photo, "--model",
                 squeezenet.DEPLOY, "--weights", squeezenet.WEIGHTS, "--labels", squeezenet.WORDS)
    assert out.splitlines()[0] == "cat.png: 451 x 300 pixels, 1000 classes"
    assert "cat" in " ".join(out.splitlines()[1:4])
