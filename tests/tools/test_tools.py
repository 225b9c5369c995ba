"""The programs in tools/, run as a user runs them: help, launcher, test_net, plot_training."""
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from programs import NET, TOOLS, error_of, process, run, training_folder
from spp.data import images

PROGRAMS = sorted(path.stem for path in TOOLS.glob("*.py") if path.stem not in ("__init__", "common"))


@pytest.fixture
def folder(tmp_path) -> Path:
    return training_folder(tmp_path)


# --- every program

@pytest.mark.parametrize("program", PROGRAMS)
def test_help_teaches_with_an_example(program, tmp_path):
    result = process(program, "--help", cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(f"usage: {program} ")
    assert re.search(rf"^  {program}\b", result.stdout, re.MULTILINE), "no example"


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_is_a_link_to_the_launcher(program):
    link = TOOLS / program
    assert link.is_symlink() and os.readlink(link) == "launch"
    assert (TOOLS / "launch").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("program, arguments, message", [
    ("train_net", [], "error: the following arguments are required: --solver; see train_net --help"),
    ("train_net", ["--solver", "s", "--iterations", "0"],
     "error: argument --iterations: '0' is not an integer of at least 1; see train_net --help"),
    ("train_net", ["--solver", "s", "--snapshot", "x", "--resume"],
     "error: argument --resume: not allowed with argument --snapshot; see train_net --help"),
    ("train_net", ["--solver", "s", "--snapshot", "x", "--weights", "w"],
     "error: give --snapshot to resume, or --weights to start from them, not both; see train_net --help"),
    ("test_net", ["--model", "m"],
     "error: the following arguments are required: --weights; see test_net --help"),
    ("plot_training", [], "error: the following arguments are required: LOG; see plot_training --help"),
    ("demo", ["--iterations", "x"],
     "error: argument --iterations: 'x' is not an integer of at least 1; see demo --help")])
def test_wrong_arguments(program, arguments, message, tmp_path):
    assert error_of(run(program, *arguments, cwd=tmp_path)) == message


# --- the launcher

@pytest.fixture
def clone(tmp_path) -> Path:
    """A clone in a folder with a space, with one program, and a Makefile whose `setup` makes .venv."""
    root = tmp_path / "a clone"
    (root / "tools").mkdir(parents=True)
    (root / "tools" / "launch").write_bytes((TOOLS / "launch").read_bytes())
    (root / "tools" / "launch").chmod(0o755)
    (root / "tools" / "train_net").symlink_to("launch")
    (root / "tools" / "train_net.py").write_text("import os, sys\nprint(os.getcwd(), sys.argv[1:])\n")
    (root / "Makefile").write_text("setup:\n\t@echo making it\n\t@mkdir -p .venv/bin\n"
                                   f"\t@ln -s {sys.executable} .venv/bin/python\n\t@touch .venv/.ready\n")
    return root


def test_the_launcher_makes_the_environment_once_and_stays_in_the_users_folder(clone, tmp_path):
    words = [str(clone / "tools" / "train_net"), "--solver", "a b.prototxt"]
    first = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert first.stdout == f"{tmp_path} ['--solver', 'a b.prototxt']\n", first
    assert first.stderr == f"train_net: no environment in {clone}/.venv yet: running make setup\nmaking it\n"
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (again.stdout, again.stderr) == (first.stdout, "")


def test_the_launcher_follows_a_link_from_elsewhere(clone, tmp_path):
    subprocess.run(["make", "setup"], cwd=clone, check=True, capture_output=True)
    (tmp_path / "train_net").symlink_to(clone / "tools" / "train_net")
    result = subprocess.run([str(tmp_path / "train_net")], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout == f"{tmp_path} []\n"


def test_the_launcher_itself_is_no_program(clone):
    result = subprocess.run([str(clone / "tools" / "launch")], capture_output=True, text=True)
    assert error_of(result) == f"error: {clone}/tools has no program launch.py"


# --- test_net

@pytest.fixture
def trained(folder) -> Path:
    """A net that reads seven photos of two classes from an LMDB in batches of three, and its weights."""
    for number in range(7):
        photos = folder / "photos" / "ab"[number % 2]
        photos.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(photos / f"{number}.png"), np.full((4, 4, 3), 40 + 120 * (number % 2), np.uint8))
    assert process("convert_imageset", "photos", "photos_lmdb", cwd=folder).returncode == 0
    data = '''layer { name: "data" type: "Data" top: "data" top: "label"
      data_param { source: "photos_lmdb" backend: LMDB batch_size: 3 }
      transform_param { mean_value: 100 scale: 0.02 } }\n'''
    layers = NET[NET.index('layer { name: "fc"'):]
    (folder / "net.prototxt").write_text('name: "photos"\n' + data + layers)
    assert run("train_net", "--solver", "solver.prototxt", cwd=folder).returncode == 0
    return folder


def test_test_net_runs_once_over_the_database(trained):
    result = process("test_net", "--model", "net.prototxt", "--weights", "runs/tiny_iter_20.caffemodel", cwd=trained)
    assert result.returncode == 0 and result.stderr == "", result
    lines = result.stdout.splitlines()
    assert lines[0] == "Running for 3 iterations."
    assert re.fullmatch(r"Loss: [\d.e-]+", lines[1])
    loss = lines[1].removeprefix("Loss: ")
    assert lines[2:4] == ["accuracy = 1", f"loss = {loss} (* 1 = {loss} loss)"]
    assert re.fullmatch(r"9 images in [\d.]+ s, [\d.]+ images/s; 2 of them twice, to fill the last batch", lines[4])


def test_test_net_takes_iterations_level_and_stage(trained):
    result = run("test_net", "--model", "net.prototxt", "--weights", "runs/tiny_iter_20.caffemodel",
                 "--iterations", 2, "--stage", "extra", "--level", 2, cwd=trained)
    assert result.returncode == 0, result
    lines = result.stdout.splitlines()
    assert lines[0] == "Running for 2 iterations." and lines[-1].startswith("6 images in ")
    assert sum(line.startswith("fc_staged = ") for line in lines) == 15


def test_test_net_without_a_database_runs_50_iterations(folder):
    assert run("train_net", "--solver", "solver.prototxt", cwd=folder).returncode == 0
    result = run("test_net", "--model", "net.prototxt", "--weights", "runs/tiny_iter_20.caffemodel", cwd=folder)
    lines = result.stdout.splitlines()
    assert lines[0] == "Running for 50 iterations." and re.fullmatch(r"200 images in .* images/s", lines[-1])


@pytest.mark.parametrize("model, weights, message", [
    ("gone", "w", "File not found: gone .*check the path"), ("net.prototxt", "gone", "gone.*check the path"),
    ("net.prototxt", "solver.prototxt", "solver.prototxt: .*text")])
def test_test_net_with_wrong_files(folder, model, weights, message):
    assert re.search(message, error_of(run("test_net", "--model", model, "--weights", weights, cwd=folder)))


# --- plot_training

@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """Two log folders."""
    root = tmp_path_factory.mktemp("logs")
    for name, speed in (("single", 1.0), ("multi", 2.0)):
        (root / name).mkdir()
        rows: list[dict[str, Any]] = [
            {"kind": "train", "iteration": i, "loss": 3 / (1 + speed * i), "lr": 0.1 / (1 + i // 5),
             "seconds": i, "images_per_second": None, "outputs": {}} for i in range(10)]
        rows += [{"kind": "test", "iteration": i, "net": net, "loss": None if i else 3.0, "seconds": i,
                  "outputs": {"accuracy": i / 10, "accuracy_top5": 1.0, "loss": 1.0, "prob": [0.5, None]}}
                 for i in (0, 5) for net in (0, 1)]
        (root / name / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_plot_training_draws_one_or_several(logs, tmp_path):
    one = process("plot_training", logs / "single", cwd=tmp_path)
    assert (one.returncode, one.stdout, one.stderr) == (0, "training.png\n", "")
    two = run("plot_training", logs / "single", logs / "multi" / "history.jsonl", "--output", "two.png",
              cwd=tmp_path)
    assert (two.returncode, two.stdout) == (0, "two.png\n")
    pictures = [images.decode((tmp_path / name).read_bytes()) for name in ("training.png", "two.png")]
    assert all(picture.shape == (1000, 900, 3) for picture in pictures)
    # the second colour of matplotlib, orange (BGR), is there only where there is a second training
    orange = [(np.abs(picture.astype(int) - (14, 127, 255)).max(2) < 8).sum() for picture in pictures]
    assert orange[0] == 0 and orange[1] > 200


def test_plot_training_without_matplotlib(logs, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    result = process("plot_training", logs / "single", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert error_of(result) == "error: drawing needs matplotlib: pip install 'spp[plot]'"


def test_plot_training_with_wrong_files(tmp_path):
    assert "cannot be read as a training history" in error_of(run("plot_training", "gone", cwd=tmp_path))
    (tmp_path / "history.jsonl").write_text("")
    assert error_of(run("plot_training", ".", cwd=tmp_path)) == (
        "error: ./history.jsonl: is still empty; train_net writes a line at every display and every test")
