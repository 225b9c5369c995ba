"""spp: Caffe you can pip install, and the complete SPP-net system built on it."""

__version__ = "0.1.0"
