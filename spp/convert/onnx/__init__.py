"""Conversions to and from ONNX; onnx is imported when one of them runs."""
from typing import Any, Mapping, Sequence


def export(net: Any, weights: str | Sequence[str] | None, output: str, notes: Mapping[str, str] | None = None) -> None:
    """Write a net (the path of a prototxt, or a Net of phase TEST) with its weights as an ONNX file.

    notes: further entries of metadata_props, such as the means and the scale of the input. Raises ConvertError, and
    writes nothing, for a layer that standard operators cannot express, and if onnx is not installed.
    """
    from spp.convert.onnx.exporter import model
    model.export(net, weights, output, notes)


def to_model(net: Any, notes: Mapping[str, str] | None = None) -> Any:
    """The ModelProto of a Net of phase TEST, checked by onnx; raises ConvertError as `export`."""
    from spp.convert.onnx.exporter import model
    return model.to_model(net, notes)


def read(path: str, shapes: Mapping[str, Sequence[int]] | None = None) -> Any:
    """The net of an ONNX file as a NetParameter whose layers hold their weights.

    shapes: sizes of inputs, for those that the file leaves open. Raises ConvertError for an operator or attribute
    that no layer computes exactly, and if onnx or onnxruntime is not installed.
    """
    from spp.convert.onnx.importer import model
    return model.read(path, shapes)


def convert(path: str, prototxt: str, weights: str, shapes: Mapping[str, Sequence[int]] | None = None) -> None:
    """Write the net of an ONNX file as a prototxt and its weights as a caffemodel; both or neither.

    Raises ConvertError as `read`.
    """
    from spp.convert import caffe_files
    caffe_files.write(read(path, shapes), prototxt, weights)
