"""tools/train_net as a user runs it: results, files, resuming, signals, exit codes and messages."""
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from programs import ROOT, command, error_of, process, run, training_folder
from spp.training.reporting import read_history


@pytest.fixture
def folder(tmp_path) -> Path:
    return training_folder(tmp_path)


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "solver.prototxt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


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


def test_a_second_interrupt_may_come_while_a_kernel_is_loaded(tmp_path):
    # LLVM's callback swallows an exception: the kernel would be missing, and its call a segmentation fault
    code = """if True:
        import os, signal
        from types import SimpleNamespace
        import numba
        from numba.core.codegen import CPUCodeLibrary

        def interrupted(module):
            if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                os.kill(os.getpid(), signal.SIGINT)
        CPUCodeLibrary._object_getbuffer_hook = staticmethod(interrupted)
        from spp_tools import train_net
        with train_net._signals(SimpleNamespace(request_stop=lambda: None)):
            numba.njit(lambda x: x + 1)(1)
            numba.njit(lambda x: x + 2)(1)
        """
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 130 and result.stderr.endswith("\ninterrupted\n"), result
    assert "Traceback" not in result.stderr


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
    output = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:      # Linux's way to say that the other end is closed
            part = b""
        if not part:
            break
        output += part
    os.close(master)
    assert process.wait(60) == 0
    text = output.decode()
    assert "20/20" in text and "img/s" in text and "lr 0.1" in text
    assert "iteration 20: test net 0: accuracy 1, loss" in text and "] Solving" not in text
    assert "] Solving tiny" in (folder / "runs" / "train.log").read_text()
