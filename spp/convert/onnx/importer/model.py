"""ONNX files to prototxt and caffemodel: graphs of the common operators of convolutional networks."""
import logging
import re
from typing import Any, Iterator, Mapping, Sequence

import numpy as np

from spp.convert.extras import need
from spp.convert.onnx import metadata
from spp.convert.onnx.importer.graph import FoldedGraph, Shape, node_error, onnx
from spp.convert.onnx.importer.context import IMPORTERS, OnnxImporter
from spp.convert.onnx.importer.tidy import tidy
from spp.convert.registry import import_modules
from spp.errors import ConvertError, NetError, SppError
from spp.layers.base import format_shape
from spp.net import Net

import_modules("spp.convert.onnx.importer")
log = logging.getLogger("spp.convert")

OTHER_SIZES = ((1, 19, 27), (2, 45, 8), (1, 64, 101))   # added to batch, height and width: the net must be right there


def read(path: str, shapes: Mapping[str, Sequence[int]] | None = None) -> Any:
    """See spp.convert.onnx.read."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:       # protobuf's and onnx's errors have no base class in common
        raise ConvertError(f"{path}: no valid ONNX file: {' '.join(str(error).split())}") from error
    try:
        sizes, open_axes = _input_shapes(model, shapes or {})
        param = metadata.read(model)
        if param is None:
            return _from_operators(model, path, sizes, list(_larger(sizes, open_axes)), bool(shapes))
        if shapes:
            _set_input_shapes(param, sizes)
        return param
    except SppError as error:
        raise ConvertError(f"{path}: {error}") from error


def _set_input_shapes(param: Any, sizes: Mapping[str, Shape]) -> None:
    """Write the sizes of the inputs into the Input layers."""
    for layer in param.layer:
        if layer.type == "Input":
            del layer.input_param.shape[:]
            for top in layer.top:
                layer.input_param.shape.add(dim=sizes[top])


def _from_operators(model: Any, path: str, sizes: Mapping[str, Shape], larger: Sequence[Mapping[str, Shape]],
                    fixed: bool) -> Any:
    """The net of a graph, built node by node and compared with onnxruntime."""
    if model.functions:
        model = need("onnx.inliner", "onnx").inline_local_functions(model)
    importer = OnnxImporter(model, sizes, larger, fixed)
    for name, shape in sizes.items():
        importer.add_layer("Input", importer.unique(name), [], [name], input_param={"shape": [{"dim": shape}]})
        importer.blobs[name] = name
    for node in importer.folded.nodes:
        if node.op_type not in IMPORTERS:
            raise node_error(node, "no layer type is known to compute this operator")
        IMPORTERS[node.op_type](importer, node)
    _name_outputs(importer)
    _check_shapes(importer)
    tidy(importer.param, {importer.blobs[name] for name in importer.folded.outputs})
    _check_values(importer, path)
    return importer.param


def _input_shapes(model: Any, shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Shape], dict[str, list[int]]]:
    """Each input's shape, from `shapes` or from the file (where spp notes the prototxt's), and its open axes."""
    constants = {entry.name for entry in model.graph.initializer}
    notes = {entry.key: entry.value for entry in model.metadata_props}
    entries = {entry.name: entry for entry in model.graph.input if entry.name not in constants}
    unknown = set(shapes) - set(entries)
    if unknown:
        raise ConvertError(f"no input {sorted(unknown)[0]!r}; the inputs are {', '.join(entries)}")
    sizes, open_axes = {}, {}
    for name, entry in entries.items():
        kind = entry.type.tensor_type
        if kind.elem_type != onnx.TensorProto.FLOAT or not kind.HasField("shape"):
            raise ConvertError(f"input {name!r} must be a tensor of float32 with a shape, as Caffe's blobs are")
        declared = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        open_axes[name] = [axis for axis, size in enumerate(declared) if size is None]
        note = notes.get(f"input.{name}", "")
        if name in shapes:
            shape: list[int | None] = list(shapes[name])
        elif re.fullmatch(r"\d+(x\d+)*", note):
            shape = [int(size) for size in note.split("x")]
        else:
            shape = [1 if axis == 0 and size is None else size for axis, size in enumerate(declared)]
        if len(shape) != len(declared) or None in shape or any(
                size not in (None, chosen) for size, chosen in zip(declared, shape)):
            words = " x ".join("?" if size is None else str(size) for size in declared)
            raise ConvertError(f"input {name!r} is {words}; give its sizes (as {name}=1,3,224,224)")
        sizes[name] = tuple(int(size) for size in shape if size is not None)
    return sizes, open_axes


def _larger(sizes: Mapping[str, Shape], open_axes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Shape]]:
    """Larger sizes of the inputs, if all inputs are maps and the file leaves sizes open."""
    if any(len(shape) != 4 for shape in sizes.values()) or not any(open_axes.values()):
        return      # how the sizes of inputs that are no maps depend on each other is unknown
    for batch, *more in OTHER_SIZES:
        extra = [batch, 0, *more]
        yield {name: tuple(size + (extra[axis] if axis in open_axes[name] else 0) for axis, size in enumerate(shape))
               for name, shape in sizes.items()}


def _name_outputs(importer: OnnxImporter) -> None:
    """Rename the blobs of the graph's outputs to the outputs; an input, or a blob of two outputs, gets a Split."""
    for output in importer.folded.outputs:
        blob = importer.blobs.get(output)
        if blob is None:
            raise ConvertError(f"output {output!r} is a constant, or a padded map")
        if blob == output:
            continue
        if blob in importer.folded.inputs or blob in importer.folded.outputs:
            importer.add_layer("Split", importer.unique(output), [blob], [output])
            importer.blobs[output] = output
            continue
        for layer in importer.param.layer:
            for names in (layer.bottom, layer.top):
                names[:] = [output if name == blob else name for name in names]
        importer.blobs = {tensor: output if name == blob else name for tensor, name in importer.blobs.items()}


def _check_shapes(importer: OnnxImporter) -> None:
    """Build the net, and compare the shape of each blob with that of its tensor."""
    net = Net(importer.param, device="cpu")
    for tensor, name in importer.blobs.items():
        if tensor in importer.folded.types and net.blobs[name].shape != importer.shape(tensor):
            node = importer.folded.producer[tensor]
            raise node_error(node, f"its output is {format_shape(importer.shape(tensor))}, but the output of Caffe's "
                                   f"layers is {format_shape(net.blobs[name].shape)}")


def _check_values(importer: OnnxImporter, path: str) -> None:
    """Compare the net with onnxruntime on random inputs, at its sizes and at larger ones if they vary."""
    run = need("onnxruntime", "onnx").InferenceSession(path, providers=["CPUExecutionProvider"])
    for folded in [importer.folded, *importer.others[:1]]:
        wrong = _wrong_output(importer, folded, run)
        sizes = ", ".join(f"{name} {format_shape(shape)}" for name, shape in folded.inputs.items())
        if wrong and folded is not importer.folded and importer.fixed:
            log.warning("%s: the net is right for the given sizes only; for %s it is not", path, sizes)
        elif wrong:
            remedy = "" if folded is importer.folded else "; give the input's sizes to convert it for those only"
            raise ConvertError(f"output {wrong!r}: for {sizes} the net computes other values than "
                               f"onnxruntime{remedy}")


def _wrong_output(importer: OnnxImporter, folded: FoldedGraph, run: Any) -> str | None:
    """The first output whose values differ from onnxruntime's, at the sizes of a graph; None if all are equal."""
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in folded.inputs.items()}
    net = Net(importer.param, device="cpu")       # a new one begins new sequences
    try:
        expected = run.run(folded.outputs, inputs)
    except Exception as error:      # regions of random numbers, say
        log.warning("the net was not compared with onnxruntime, which does not accept random inputs: %s", error)
        return None
    try:
        with np.errstate(all="ignore"):
            net.forward(**inputs)
    except NetError:
        return folded.outputs[0]
    for name, values in zip(folded.outputs, expected):
        data = net.blobs[importer.blobs[name]].data
        if data.shape != values.shape or not np.allclose(
                data, values, rtol=0, atol=1e-3 * np.nanmax(np.abs(values), initial=1), equal_nan=True):
            return name
    return None
