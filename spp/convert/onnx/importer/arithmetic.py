"""ONNX operators of several arrays: Eltwise if their shapes are equal; Scale, Bias or Power if one is broadcast."""
from typing import Any, Sequence

import numpy as np

from spp.convert.net_builder import set_weights
from spp.convert.onnx.importer.context import OnnxImporter, imports
from spp.convert.onnx.importer.graph import Shape, node_error
from spp.convert.onnx.importer.operators import FLOAT_MAX, clipped, edit_axes
from spp.proto import arrays


@imports("Add", "Mul", "Sub", "Div")
def arithmetic(importer: OnnxImporter, node: Any) -> None:
    constants = [importer.const(name) for name in node.input]
    if constants[1] is not None:
        _with_constant(importer, node, node.input[0], constants[1])
    elif constants[0] is not None:
        _constant_first(importer, node, constants[0])
    else:
        _of_blobs(importer, node)


def _with_constant(importer: OnnxImporter, node: Any, x: str, value: np.ndarray) -> None:
    """x (op) a number, or an array along adjacent axes."""
    op, blob = node.op_type, importer.blob(x, node)
    if op == "Add" and _takes_bias(importer, node, x, value):
        return
    if op == "Div":
        value, op = 1 / value.astype(np.float64), "Mul"
    elif op == "Sub":
        value, op = -value, "Add"
    if value.size == 1:
        number = float(value.ravel()[0])
        importer.add("Power", node, [blob], power_param={"scale" if op == "Mul" else "shift": number})
        return
    first, last = _span(importer, node, importer.shape(x), value.shape)
    axes = {"axis": first} if first != 1 else {}
    if last - first != 1:
        axes["num_axes"] = last - first
    _scale_or_bias(importer, node, [blob], axes, [value.reshape(importer.shape(x)[first:last])])


def _scale_or_bias(importer: OnnxImporter, node: Any, bottoms: list[str], axes: dict[str, int],
                   weights: Sequence[np.ndarray] = ()) -> None:
    """A Scale layer for a product or quotient, a Bias layer for a sum or difference."""
    kind = "Scale" if node.op_type in ("Mul", "Div") else "Bias"
    params: dict[str, Any] = {f"{kind.lower()}_param": axes}
    importer.add(kind, node, bottoms, weights=weights, **params)


def _takes_bias(importer: OnnxImporter, node: Any, x: str, value: np.ndarray) -> bool:
    """Whether the constant became the bias of the InnerProduct before, which had none and no other reader."""
    layer = next((layer for layer in importer.param.layer if layer.top[:1] == [importer.blobs[x]]), None)
    if layer is None or layer.type != "InnerProduct" or len(layer.blobs) > 1 or importer.readers[x] != 1:
        return False
    outputs = layer.inner_product_param.num_output
    if value.size != outputs or value.shape[-1] != outputs:
        return False
    layer.inner_product_param.ClearField("bias_term")
    set_weights(layer, [arrays.from_proto(layer.blobs[0]), value.ravel()])
    del importer.blobs[x]
    layer.top[0] = importer.blobs[node.output[0]] = node.output[0]
    return True


def _constant_first(importer: OnnxImporter, node: Any, value: np.ndarray) -> None:
    if node.op_type in ("Add", "Mul"):
        _with_constant(importer, node, node.input[1], value)
        return
    if value.size != 1:
        raise node_error(node, f"a constant array of {value.shape} {node.op_type} what is computed; only a number can "
                               "come first")
    blob, number = importer.blob(node.input[1], node), float(value.ravel()[0])
    if node.op_type == "Sub":
        importer.add("Power", node, [blob], power_param={"scale": -1.0, "shift": number})
        return
    between = importer.within(node) if number != 1 else node.output[0]
    importer.add("Power", node, [blob], between, power_param={"power": -1})
    if number != 1:
        importer.add("Power", node, [between], power_param={"scale": number})


def _of_blobs(importer: OnnxImporter, node: Any) -> None:
    (a, b), op = node.input, node.op_type
    shape, other, out = (importer.shape(name) for name in (a, b, node.output[0]))
    large, small = (a, b) if shape == out else (b, a)
    if importer.shape(large) != out or op in ("Sub", "Div") and large is b:
        raise node_error(node, f"shapes {shape} and {other} are both repeated, or the first is")
    first_blob, blob = importer.blob(large, node), importer.blob(small, node)
    if op == "Div" or op == "Sub" and shape != other:
        importer.add("Power", node, [blob], inverse := importer.within(node),
                     power_param={"power": -1} if op == "Div" else {"scale": -1})
        blob = inverse
    if shape == other:
        coeff = {"coeff": [1.0, -1.0]} if op == "Sub" else {}
        importer.add("Eltwise", node, [first_blob, blob],
                     eltwise_param={"operation": "PROD"} if op in ("Mul", "Div") else coeff)
        return
    axis, blob = _operand(importer, node, blob, importer.shape(small), out)
    _scale_or_bias(importer, node, [first_blob, blob], {"axis": axis})


def _operand(importer: OnnxImporter, node: Any, blob: str, small: Shape, out: Shape) -> tuple[int, str]:
    """The result's first axis that the operand has, and a blob of the operand without outer axes of 1."""
    offset = len(out) - len(small)
    aligned = (1,) * offset + small
    meets = [axis for axis, size in enumerate(aligned) if size == out[axis] and (size > 1 or offset == axis == 0)]
    if not meets:
        raise node_error(node, f"an array of one element, {small}, computed from the inputs")
    first, last = meets[0], meets[-1] + 1
    for axis in range(first, last):
        if aligned[axis] != out[axis]:
            importer.add("Tile", node, [blob], top := importer.within(node),
                         tile_param={"axis": axis - offset, "tiles": out[axis]})
            blob = top
    away = [axis - offset for axis in range(len(out) - 1, offset - 1, -1) if not first <= axis < last]
    if away:
        edit_axes(importer, node, blob, away, adds=False, last=(top := importer.within(node)))
        blob = top
    return first, blob


def _span(importer: OnnxImporter, node: Any, shape: Shape, constant: Shape) -> tuple[int, int]:
    """The adjacent axes of x that a constant has, as first and last + 1."""
    aligned = (1,) * (len(shape) - len(constant)) + constant
    meets = [axis for axis, size in enumerate(aligned) if size > 1]
    if len(aligned) == len(shape) and meets:
        first, last = meets[0], meets[-1] + 1
        if aligned[first:last] == shape[first:last]:
            return first, last
    raise node_error(node, f"a constant of {constant} does not have adjacent axes of {shape}")


@imports("Pow")
def power(importer: OnnxImporter, node: Any) -> None:
    value = importer.const(node.input[1])
    if value is None or value.size != 1:
        raise node_error(node, "only one constant number can be the exponent")
    importer.add("Power", node, power_param={"power": float(value.ravel()[0])})


@imports("Sum", "Max", "Min")
def many(importer: OnnxImporter, node: Any) -> None:
    constants = [importer.const(name) for name in node.input]
    if len(constants) == 2 and node.op_type != "Sum" and constants[1] is not None and constants[1].size == 1:
        limit = float(constants[1].ravel()[0])
        clipped(importer, node, node.input[0], *((limit, FLOAT_MAX) if node.op_type == "Max" else (-FLOAT_MAX, limit)))
        return
    bottoms = importer.bottoms(node)
    if node.op_type == "Min" or len({importer.shape(name) for name in node.input}) > 1:
        raise node_error(node, "Caffe's Eltwise has SUM, PROD and MAX of arrays of one shape")
    if len(bottoms) == 1:
        importer.blobs[node.output[0]] = bottoms[0]
    else:
        importer.add("Eltwise", node, bottoms, eltwise_param={"operation": 2} if node.op_type == "Max" else {})
