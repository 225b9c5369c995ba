"""An ONNX model as a net."""
