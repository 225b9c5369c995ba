"""Convolution over two spatial axes on the host, one file a kernel."""
