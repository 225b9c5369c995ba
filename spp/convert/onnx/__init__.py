"""Conversions to and from ONNX."""
