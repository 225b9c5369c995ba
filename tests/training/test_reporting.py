"""Log lines, history and progress: what they write for the events of a training."""
import io
import json
import re
from types import SimpleNamespace

import pytest

from spp.errors import SppError
from spp.training.reporting import History, Listener, LogLines, PacedListener, Progress, output_text, read_history

# the patterns with which Caffe's parse_log.py reads a log
ITERATION = re.compile(r"Iteration (\d+)")
TRAIN_OUTPUT = re.compile(r"Train net output #(\d+): (\S+) = ([\.\deE+-]+)")
TEST_OUTPUT = re.compile(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)")
RATE = re.compile(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)")


def a_solver(iteration: int = 0) -> SimpleNamespace:
    return SimpleNamespace(iter=iteration, max_iter=40, net=SimpleNamespace(name="ZF-5 SPP"),
                           param=SimpleNamespace(lr_policy="plateau", display=20))


def train(listener: Listener, solver: SimpleNamespace, until: int) -> None:
    """The events of iterations `solver.iter` to `until`: a display every 20, a test every 40, a snapshot."""
    listener.on_start(solver)
    while True:
        i = solver.iter
        if i % 40 == 0:
            listener.on_test_batch(solver, 0, 1, 1)
            listener.on_test(solver, i, 0, [("accuracy", 0.125, 0.0), ("loss", 2.5, 1.0)], None)
        if i == until:
            break
        if i % 20 == 0:
            listener.on_display(solver, i, 2.25, 0.01, [("loss", 2.5, 0.5)])
        solver.iter += 1
        listener.on_step(solver, solver.iter, 2.25, 0.01, 128)
    listener.on_snapshot(solver, f"s/zf_iter_{until}.caffemodel")
    listener.on_snapshot(solver, f"s/zf_iter_{until}.solverstate")
    listener.on_end(solver, "done")


def logged(*lines: str) -> str:
    """The texts of log lines, without glog's prefix."""
    return "\n".join(line.split("] ", 1)[1] for line in "".join(lines).splitlines())


def test_a_listener_hears_everything_and_does_nothing():
    train(Listener(), a_solver(), 40)
    Listener().on_message(a_solver(), "text")


# --- log lines

def test_log_lines_say_what_caffe_says():
    stream, second = io.StringIO(), io.StringIO()
    train(LogLines(stream, second), a_solver(), 40)
    assert stream.getvalue() == second.getvalue()
    text = re.sub(r"\([\d.e+-]+ iter/s, [\d.e+-]+s/", "(R iter/s, Ss/", logged(stream.getvalue()))
    assert text == "\n".join([
        "Solving ZF-5 SPP",
        "Learning Rate Policy: plateau",
        "Iteration 0, Testing net (#0)",
        "    Test net output #0: accuracy = 0.125",
        "    Test net output #1: loss = 2.5 (* 1 = 2.5 loss)",
        "Iteration 0 (R iter/s, Ss/20 iters), loss = 2.25",
        "    Train net output #0: loss = 2.5 (* 0.5 = 1.25 loss)",
        "Iteration 0, lr = 0.01",
        "Iteration 20 (R iter/s, Ss/20 iters), loss = 2.25",
        "    Train net output #0: loss = 2.5 (* 0.5 = 1.25 loss)",
        "Iteration 20, lr = 0.01",
        "Iteration 40, Testing net (#0)",
        "    Test net output #0: accuracy = 0.125",
        "    Test net output #1: loss = 2.5 (* 1 = 2.5 loss)",
        "Snapshotting to binary proto file s/zf_iter_40.caffemodel",
        "Snapshotting solver state to binary proto file s/zf_iter_40.solverstate",
        "Optimization Done."])


def test_log_lines_of_rarer_events():
    stream = io.StringIO()
    lines, solver = LogLines(stream), a_solver()
    lines.on_test(solver, 7, 1, [("x", float("nan"), 0.0)], 1.5)
    lines.on_snapshot(solver, "p_iter_7.solverstate.h5")
    lines.on_message(solver, "Iteration 7, loss = 3")
    lines.on_end(solver, "stopped")
    assert logged(stream.getvalue()).splitlines() == [
        "Iteration 7, Testing net (#1)", "Test loss: 1.5", "    Test net output #0: x = nan",
        "Snapshotting solver state to HDF5 file p_iter_7.solverstate.h5",
        "Iteration 7, loss = 3", "Optimization stopped early."]


def test_log_lines_have_the_columns_that_parse_log_reads():
    stream = io.StringIO()
    train(LogLines(stream), a_solver(), 40)
    lines = stream.getvalue().splitlines()
    for line in lines:
        assert re.match(r"I[01]\d[0-3]\d [0-2]\d:[0-5]\d:[0-5]\d\.\d{6} +\d+ solver\.py:1\] ", line)
    # parse_log takes month and day, then the time, from the first two words
    day, clock = lines[0].split()[:2]
    assert 1 <= int(day[1:3]) <= 12 and 1 <= int(day[3:]) <= 31
    assert [len(part) for part in clock.split(":")] == [2, 2, 9]

    def numbers(pattern: re.Pattern[str]) -> list[tuple[str, ...]]:
        return [match.groups() for match in map(pattern.search, lines) if match]
    assert [g[0] for g in numbers(ITERATION)] == ["0", "0", "0", "20", "20", "40"]
    assert numbers(TRAIN_OUTPUT) == [("0", "loss", "2.5")] * 2
    assert numbers(TEST_OUTPUT) == [("0", "accuracy", "0.125"), ("1", "loss", "2.5")] * 2
    assert [g[0] for g in numbers(RATE)] == ["0.01"] * 2


@pytest.mark.parametrize("value, weight, text", [
    (0.5, 0, "x = 0.5"), (2, 0.3, "x = 2 (* 0.3 = 0.6 loss)"), (1e-7, 0, "x = 1e-07"),
    (1 / 3, 1, "x = 0.333333 (* 1 = 0.333333 loss)"), (1234567.0, 0, "x = 1.23457e+06")])
def test_an_output_is_printed_as_a_c_stream_prints_it(value, weight, text):
    assert output_text("x", value, weight) == text


# --- pace

def test_the_pace_leaves_out_what_is_not_training(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("spp.training.reporting.time.perf_counter", lambda: now[0])
    listener, solver = PacedListener(), a_solver()
    now[0] += 2
    listener.on_step(solver, 1, 2.25, 0.01, 128)
    now[0] += 50
    listener.on_test(solver, 1, 0, [], None)
    now[0] += 3
    listener.on_step(solver, 2, 2.25, 0.01, 64)
    assert listener.take_pace() == (2, 192, 5.0)
    assert listener.take_pace() == (0, 0, 0.0)


# --- history

def test_the_history_holds_displays_and_tests(tmp_path):
    path = str(tmp_path / "history.jsonl")
    train(History(path), a_solver(), 40)
    rows = read_history(path)
    assert [(row["kind"], row["iteration"]) for row in rows] == [
        ("test", 0), ("train", 0), ("train", 20), ("test", 40)]
    test, first, second, _ = rows
    assert set(first) == {"kind", "iteration", "loss", "lr", "seconds", "images_per_second", "outputs"}
    assert first["loss"] == 2.25 and first["lr"] == 0.01 and first["outputs"] == {"loss": 2.5}
    assert first["images_per_second"] is None and second["images_per_second"] > 0
    assert set(test) == {"kind", "iteration", "net", "loss", "seconds", "outputs"}
    assert test["net"] == 0 and test["outputs"] == {"accuracy": 0.125, "loss": 2.5}
    assert test["loss"] == 2.5      # from the weighted outputs, where the solver does not compute it


def test_the_history_counts_images_a_second_without_tests(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("spp.training.reporting.time.perf_counter", lambda: now[0])
    history, solver = History(str(tmp_path / "h.jsonl")), a_solver()
    history.on_start(solver)
    for _ in range(4):
        now[0] += 0.5
        history.on_step(solver, 1, 1.0, 0.1, 32)
    now[0] += 1000
    history.on_test(solver, 4, 0, [], None)
    history.on_display(solver, 4, 1.0, 0.1, [])
    rows = read_history(history.path)
    assert rows[1]["images_per_second"] == 64.0 and rows[0]["loss"] is None


def test_the_history_takes_repeated_names_and_numbers_that_json_lacks(tmp_path):
    history = History(str(tmp_path / "h.jsonl"))
    outputs = [("a", 0.25, 0.0), ("a", float("nan"), 0.0), ("b", float("inf"), 0.0)]
    history.on_test(a_solver(), 3, 0, outputs, 4.0)
    with open(history.path, encoding="utf-8") as file:
        row = json.loads(file.read(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert row["outputs"] == {"a": [0.25, None], "b": None} and row["loss"] == 4.0


def test_a_resumed_history_drops_what_lies_beyond_the_snapshot_and_goes_on(tmp_path):
    path = str(tmp_path / "h.jsonl")
    train(History(path), a_solver(), 60)
    before = read_history(path)
    assert [row["iteration"] for row in before] == [0, 0, 20, 40, 40]
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"kind": "train", "iter')       # kill -9 in the middle of a line
    train(History(path), a_solver(20), 80)
    rows = read_history(path)
    assert [(row["kind"], row["iteration"]) for row in rows] == [
        ("test", 0), ("train", 0), ("train", 20), ("test", 40), ("train", 40), ("train", 60), ("test", 80)]
    assert rows[:2] == before[:2] and rows[2] != before[2]      # iteration 20 was run again
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


def test_a_new_training_keeps_the_history_before_it(tmp_path):
    path = str(tmp_path / "history.jsonl")
    train(History(path), a_solver(), 60)
    old = read_history(path)
    train(History(path), a_solver(), 20)
    assert len(read_history(path)) == 2
    assert read_history(str(tmp_path / "history.previous.jsonl")) == old


@pytest.mark.parametrize("content, message", [
    (b'{"kind": "train"}\n{"kind": "train", "iteration": 1}\n', "h.jsonl:1: not a line of a training history"),
    (b"layer {\n}\n", "h.jsonl:1: not a line of a training history"),
    (b"\xff\xfe", "h.jsonl: cannot be read as a training history: 'utf-8' codec"),
    (None, "h.jsonl: cannot be read as a training history: .*No such file")])
def test_what_is_no_history_is_refused(tmp_path, content, message):
    path = tmp_path / "h.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SppError, match=message):
        read_history(str(path))


# --- progress

def test_the_bar_shows_loss_rate_speed_and_events():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.on_message(a_solver(20), "before the start")
    solver = a_solver(20)
    train(progress, solver, 40)
    text = stream.getvalue()
    assert text.startswith("before the start\n")
    assert "iteration 40: test net 0: accuracy 0.125, loss 2.5" in text
    assert "iteration 40: snapshot s/zf_iter_40.solverstate" in text
    assert "40/40" in text and "20/40" in text
    assert re.search(r"loss 2\.25, lr 0\.01, \d+ img/s", text)
    assert "test net 0, batch 1 of 1" in text
