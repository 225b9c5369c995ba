"""Convolutions that oneDNN does, and how to do them without it."""
import pytest

import convolutions
from spp.backend.host import onednn
from spp.backend.host.onednn import library as onednn_library

needs_library = pytest.mark.skipif(not onednn.available(), reason='oneDNN is absent: pip install "spp[onednn]"')
CASES = [       # as in convolutions.py: input N x C x ..., outputs, kernel, stride, pad, dilation, group
    *(case for case in convolutions.CASES if len(case[0]) == 4),
    ((1, 3, 35, 30), 96, (7, 7), (2, 2), (1, 1), (1, 1), 1),
    ((3, 3, 41, 38), 24, (11, 9), (4, 3), (0, 2), (1, 1), 1),
    ((2, 48, 17, 15), 33, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((2, 20, 12, 19), 50, (5, 5), (1, 1), (0, 0), (1, 1), 1),
    ((2, 64, 12, 9), 48, (3, 3), (1, 2), (1, 0), (2, 3), 1),
    ((2, 96, 13, 11), 64, (5, 3), (1, 1), (2, 1), (1, 1), 2),
    ((2, 64, 9, 7), 64, (3, 3), (1, 1), (1, 1), (1, 1), 16),
    ((2, 40, 14, 10), 40, (3, 3), (2, 2), (1, 1), (1, 1), 40),          # depthwise
]
CASE = CASES[-4]
GROUPED = CASES[-3]


def without(monkeypatch, compute, *args):
    """The same without oneDNN."""
    with monkeypatch.context() as patch:
        patch.setattr(onednn_library, "_load", lambda: None)
        return compute(*args)
