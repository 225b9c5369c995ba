"""SqueezeNet v1.1: its prototxt, and its public weights where the machine has them."""
import pytest

import golden
from folders import DATA

FOLDER = DATA / "squeezenet_v1.1"
WEIGHTS = FOLDER / "squeezenet_v1.1.caffemodel"
WORDS = FOLDER / "synset.txt"       # the names of the classes
DEPLOY = golden.path("squeezenet", "deploy.prototxt")
needs_weights = pytest.mark.skipif(
    not WEIGHTS.exists(), reason=f"no {WEIGHTS}: SPP_TEST_DATA names the folder that holds squeezenet_v1.1/")
