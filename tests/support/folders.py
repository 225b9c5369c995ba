"""Folders that the tests read."""
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
PROTOTXT = ROOT / "prototxt"
# Weights and images that are too large for the repository.
DATA = Path(os.environ.get("SPP_TEST_DATA") or ROOT.parent / "shared" / "data")
