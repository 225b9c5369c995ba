"""The programs in tools/, run as a user runs them: help, results, files, signals, exit codes and messages."""
import fcntl
import importlib
import io
import json
import os
import pty
import re
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spp.data import images
from spp.reporting import read_history

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / "tools"
PROGRAMS = sorted(path.stem for path in TOOLS.glob("*.py") if path.stem not in ("__init__", "common"))

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


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a net and a solver that train in no time."""
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return tmp_path


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "solver.prototxt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


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
     "error: argument --iterations: '0' is not a whole number from 1 up; see train_net --help"),
    ("train_net", ["--solver", "s", "--snapshot", "x", "--resume"],
     "error: argument --resume: not allowed with argument --snapshot; see train_net --help"),
    ("train_net", ["--solver", "s", "--snapshot", "x", "--weights", "w"],
     "error: give --snapshot to go on, or --weights to start from them, not both; see train_net --help"),
    ("test_net", ["--model", "m"],
     "error: the following arguments are required: --weights; see test_net --help"),
    ("plot_training", [], "error: the following arguments are required: LOG; see plot_training --help"),
    ("demo", ["--iterations", "x"],
     "error: argument --iterations: 'x' is not a whole number from 1 up; see demo --help")])
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


# --- train_net

def test_train_net_trains_logs_and_takes_snapshots(folder):
    result = process("train_net", "--solver", "solver.prototxt", cwd=folder)
    assert result.returncode == 0 and result.stdout == "", result
    texts = [line.split("] ", 1)[1] for line in result.stderr.splitlines()]
    assert texts[:3] == ["Solving tiny", "Learning Rate Policy: fixed", "Iteration 0, Testing net (#0)"]
    assert texts[-1] == "Optimization Done."
    assert (folder / "runs" / "train.log").read_text() == result.stderr
    assert {path.name for path in (folder / "runs").iterdir()} == {
        "train.log", "history.jsonl", "tiny_iter_10.caffemodel", "tiny_iter_10.solverstate",
        "tiny_iter_20.caffemodel", "tiny_iter_20.solverstate"}
    rows = read_history(str(folder / "runs" / "history.jsonl"))
    assert [row["iteration"] for row in rows if row["kind"] == "train"] == [0, 5, 10, 15, 20]
    tests = [row for row in rows if row["kind"] == "test"]
    assert [row["iteration"] for row in tests] == [0, 10, 20]
    assert tests[-1]["loss"] < tests[0]["loss"] and tests[-1]["outputs"]["accuracy"] == 1


def test_train_net_resumes_from_the_newest_snapshot_as_if_it_had_not_stopped(folder):
    whole = run("train_net", "--solver", "solver.prototxt", "--log-dir", "whole", cwd=folder)
    assert whole.returncode == 0
    expected = (folder / "runs" / "tiny_iter_20.caffemodel").read_bytes()
    for path in (folder / "runs").iterdir():
        path.unlink()

    first = run("train_net", "--solver", "solver.prototxt", "--resume", "--iterations", "10", cwd=folder)
    assert first.returncode == 0
    assert first.stderr.startswith("no snapshot runs/tiny_iter_N.solverstate: starting afresh\n")
    second = run("train_net", "--solver", "solver.prototxt", "--resume", cwd=folder)
    assert second.returncode == 0
    assert "] Resuming from runs/tiny_iter_10.solverstate\n" in second.stderr
    assert (folder / "runs" / "tiny_iter_20.caffemodel").read_bytes() == expected
    log = (folder / "runs" / "train.log").read_text()
    assert log == first.stderr.split("\n", 1)[1] + second.stderr

    def losses(path: Path) -> list[tuple[str, int, float]]:
        return [(row["kind"], row["iteration"], row["loss"]) for row in read_history(str(path))
                if row["kind"] == "train" and row["iteration"] % 10]
    assert losses(folder / "runs" / "history.jsonl") == losses(folder / "whole" / "history.jsonl")


def test_train_net_goes_on_from_a_given_snapshot(folder):
    assert run("train_net", "--solver", "solver.prototxt", cwd=folder).returncode == 0
    result = run("train_net", "--solver", "solver.prototxt", "--snapshot", "runs/tiny_iter_10.solverstate",
                 "--iterations", 12, cwd=folder)
    assert result.returncode == 0 and "] Iteration 10, Testing net (#0)\n" in result.stderr
    assert (folder / "runs" / "tiny_iter_12.solverstate").exists()


def test_a_new_training_keeps_the_log_before_it(folder):
    first = run("train_net", "--solver", "solver.prototxt", cwd=folder)
    second = run("train_net", "--solver", "solver.prototxt", "--iterations", 10, cwd=folder)
    assert (folder / "runs" / "train.previous.log").read_text() == first.stderr
    assert (folder / "runs" / "train.log").read_text() == second.stderr
    assert (folder / "runs" / "history.previous.jsonl").exists()


def test_train_net_starts_from_weights(folder):
    assert run("train_net", "--solver", "solver.prototxt", cwd=folder).returncode == 0
    result = run("train_net", "--solver", "solver.prototxt", "--iterations", 1, "--log-dir", "tuned",
                 "--weights", "runs/tiny_iter_10.caffemodel,runs/tiny_iter_20.caffemodel", cwd=folder)
    assert result.returncode == 0
    trained = read_history(str(folder / "runs" / "history.jsonl"))[-1]
    tuned = read_history(str(folder / "tuned" / "history.jsonl"))[0]
    assert tuned["kind"] == "test" and tuned["loss"] == pytest.approx(trained["loss"], abs=0.02)


def test_train_net_takes_level_and_stage(folder):
    result = run("train_net", "--solver", "solver.prototxt", "--iterations", 1, "--stage", "extra", "--level", 2,
                 cwd=folder)
    assert result.returncode == 0, result
    rows = read_history(str(folder / "runs" / "history.jsonl"))
    by_kind = {row["kind"]: row["outputs"] for row in rows}
    assert len(by_kind["train"]["fc_staged"]) == 20 and "fc_staged" not in by_kind["test"]


def test_train_net_finds_the_net_from_elsewhere(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    result = run("train_net", "--solver", folder / "solver.prototxt", "--iterations", 1, cwd=elsewhere)
    assert result.returncode == 0 and (elsewhere / "runs" / "tiny_iter_1.caffemodel").exists()


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """A training without end, under way."""
    process = subprocess.Popen(command("train_net", "--solver", "solver.prototxt", "--iterations", 10 ** 9,
                                       *arguments), cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "Iteration 5 " in line:
            return process
    raise AssertionError("the training ended by itself")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_finishes_the_iteration_and_takes_a_snapshot(folder, number):
    change(folder, "snapshot: 10 ", "")
    with start(folder) as process:
        process.send_signal(number)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping after this iteration and a snapshot; Ctrl-C again stops at once\n" in log
    assert log.endswith("] Optimization stopped early.\n")
    states = list((folder / "runs").glob("*.solverstate"))
    assert len(states) == 1
    resumed = run("train_net", "--solver", "solver.prototxt", "--resume", "--iterations", 1, cwd=folder)
    assert resumed.returncode == 0 and f"Resuming from runs/{states[0].name}" in resumed.stderr


def test_a_second_interrupt_stops_at_once(folder):
    # one endless test after the stop was asked for would not do; a slow iteration does
    change(folder, "snapshot: 10 ", "")
    change(folder, "display: 5", "display: 5 iter_size: 1000000000")
    process = subprocess.Popen(command("train_net", "--solver", "solver.prototxt"), cwd=folder,
                               stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stderr is not None
        while "Test net output #1" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        while "stopping after" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 130 and log.endswith("interrupted\n") and "Traceback" not in log
    assert not list((folder / "runs").glob("*.solverstate"))


def test_hangup_takes_a_snapshot_and_goes_on(folder):
    change(folder, "snapshot: 10 ", "")
    with start(folder) as process:
        process.send_signal(signal.SIGHUP)
        for line in process.stderr or ():
            if "Snapshotting solver state" in line:
                break
        assert process.poll() is None
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert len(list((folder / "runs").glob("*.solverstate"))) == 2


def test_a_diverged_training_stops_and_keeps_its_snapshot(folder):
    change(folder, "base_lr: 0.1", "base_lr: 0.1 weight_decay: 1e-3 gamma: 1e30 stepvalue: 11")
    change(folder, '"fixed"', '"multistep"')
    result = process("train_net", "--solver", "solver.prototxt", "--iterations", 100, cwd=folder)
    message = error_of(result)
    assert "diverged" in message and "snapshot is of iteration 10" in message and "lower base_lr" in message
    assert (folder / "runs" / "tiny_iter_10.solverstate").exists()


@pytest.mark.parametrize("old, new, message", [
    ("net.prototxt", "gone.prototxt", "error: File not found: gone.prototxt"),
    ('"fixed"', '"fixt"', "error: unknown lr_policy 'fixt'; known policies: "),
    ("display: 5", "dislpay: 5", "error: solver.prototxt:5: .*dislpay.*display"),
    ("runs/tiny", "/dev/null/x", "error: .*/dev/null")])
def test_a_wrong_solver(folder, old, new, message):
    change(folder, old, new)
    assert re.match(message, error_of(run("train_net", "--solver", "solver.prototxt", cwd=folder)))


def test_a_missing_solver_names_the_one_that_comes_with_spp(folder):
    message = error_of(run("train_net", "--solver", "zf5_spp_solver.prototxt", cwd=folder))
    assert message == (f"error: File not found: zf5_spp_solver.prototxt (looked from {folder}); "
                       f"spp's own is {ROOT / 'prototxt' / 'zf5_spp_solver.prototxt'}")
    assert error_of(run("train_net", "--solver", "x", cwd=folder)).endswith("check the path")


def test_the_main_command_without_data_says_how_to_make_it(folder):
    message = error_of(process("train_net", "--solver", ROOT / "prototxt" / "zf5_spp_solver.prototxt", cwd=folder))
    assert re.search(r"zf5_spp_train_val\.prototxt:\d+: layer 'data' \(Data\): LMDB 'data/ilsvrc12_train_lmdb' "
                     r"not found .*tools/convert_imageset .*data/ilsvrc12_train_lmdb.*make demo", message)


def test_a_terminal_gets_a_bar_instead_of_the_log(folder):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen(command("train_net", "--solver", "solver.prototxt"), cwd=folder, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:      # Linux's way to say that the other end is closed
            part = b""
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "20/20" in text and "img/s" in text and "lr 0.1" in text
    assert "iteration 20: test net 0: accuracy 1, loss" in text and "] Solving" not in text
    assert "] Solving tiny" in (folder / "runs" / "train.log").read_text()


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
        "error: ./history.jsonl: holds nothing yet; train_net writes a line at every display and every test")
