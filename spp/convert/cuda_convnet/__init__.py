"""Nets of cuda-convnet as prototxt and solver."""
