"""`make demo` in little: the same photographs and programs, a handful of iterations."""
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from folders import ROOT
from spp.data import images
from spp.data.database import Database
from spp_tools import demo as program


def demo(folder: Path, *arguments: str) -> str:
    result = subprocess.run([sys.executable, str(ROOT / "tools" / "demo.py"), *arguments], cwd=folder,
                            capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def pixels(path: Path) -> np.ndarray:
    return images.decode(path.read_bytes())


def test_the_demo_trains_tests_at_three_sizes_and_draws(tmp_path):
    text = demo(tmp_path, "--iterations", "20")
    for command in ("convert_imageset", "train_net", "plot_training"):
        assert re.search(rf"^\$ tools/{command} ", text, re.MULTILINE)
    figures = re.findall(r"^  (.+?)  +([\d.]+)%", text, re.MULTILINE)
    assert [name for name, _ in figures] == [
        "64 x 64, a size it was trained at", "96 x 96, a size it was never trained at",
        "whole rectangles, one at a time", "chance"]
    # the demo prints what test_net computes
    accuracies = [float(value) for value in re.findall(r"^accuracy = (\S+)$", text, re.MULTILINE)]
    assert [f"{100 * value:.1f}" for value in accuracies] == [value for _, value in figures[:3]]
    assert figures[3][1] == "8.3" and accuracies[0] > 0.1      # a little better than chance after 20 iterations

    databases = [Database(str(tmp_path / "demo" / f"{part}_lmdb")) for part in ("train", "test")]
    assert [len(database) for database in databases] == [1200, 300]
    for database in databases:
        database.close()
    assert pixels(tmp_path / "demo" / "training.png").shape == (1000, 900, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]


def test_the_crops_of_training_and_test_do_not_overlap(tmp_path, monkeypatch):
    """A photograph whose pixels tell their column: all training crops are left of all test crops."""
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "ramp.png"
    ramp = [[(x % 256, x // 256, 0) for x in range(401)]] * 120
    cv2.imwrite(str(photo), np.array(ramp, np.uint8))
    shapes = program.cut_photos([photo])
    columns = {}
    for part in program.CROPS:
        folder = tmp_path / "demo" / "photos" / part / "ramp"
        crops = [pixels(path).astype(int) for path in folder.iterdir()]
        assert len(crops) == program.CROPS[part]
        columns[part] = {int(c) for crop in crops for c in crop[0, :, 0] + 256 * crop[0, :, 1]}
        ratios = [crop.shape[1] / crop.shape[0] for crop in crops]
        assert min(ratios) < 0.75 and max(ratios) > 1.33
    assert max(columns["train"]) < 200 <= min(columns["test"])
    assert shapes > 15
