"""Running the programs of tools/, and a net and a solver that train in no time."""
import importlib
import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from folders import ROOT

TOOLS = ROOT / "tools"

NET = """
name: "tiny"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "fc_staged" type: "InnerProduct" bottom: "data" top: "fc_staged" include { stage: "extra" min_level: 2 }
  inner_product_param { num_output: 5 } }
"""
SOLVER = """
net: "net.prototxt"
test_iter: 2 test_interval: 10
base_lr: 0.1 lr_policy: "fixed" momentum: 0.9
display: 5 max_iter: 20
snapshot: 10 snapshot_prefix: "runs/tiny"
random_seed: 1
"""


def command(program: str, *arguments: object) -> list[str]:
    return [sys.executable, str(TOOLS / f"{program}.py"), *map(str, arguments)]


def process(program: str, *arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a user does."""
    return subprocess.run(command(program, *arguments), cwd=cwd, env={**os.environ, **env}, capture_output=True,
                          text=True, timeout=120)


def run(program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same without a process of its own, which takes a second to start."""
    main = importlib.import_module(f"spp_tools.{program}").main
    out, err, before = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(cwd)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main([str(argument) for argument in arguments])
            except SystemExit as end:
                code = end.code
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess([program], code, out.getvalue(), err.getvalue())


def error_of(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a user's mistake is answered with."""
    assert result.returncode == 1, result
    lines = [line for line in result.stderr.splitlines() if not re.match(r"I\d{4} ", line)]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def training_folder(folder: Path) -> Path:
    """The folder with NET and SOLVER in it."""
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)
    return folder
