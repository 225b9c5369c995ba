"""The types of cuda-convnet's sections as layers of Caffe.

docs/conversion.md says which statement of cuda-convnet's documentation or code each rule follows.
"""
from typing import Any

from spp.convert.cuda_convnet.context import CudaConvnetImporter, imports
from spp.convert.cuda_convnet.sections import Section
from spp.layers.base import format_shape
from spp.ops.spp import is_exact
from spp.proto import caffe_pb2


@imports("data")
def data(importer: CudaConvnetImporter, section: Section) -> None:
    readers = [other.text("type") for other in importer.layers.values()
               if section.name in other.names("inputs", [])]
    shape = importer.shapes.get(section.name)
    if shape is None and importer.shapes and set(readers) == {"cost.logreg"}:       # labels: one per image
        shape = next(iter(importer.shapes.values()))[:1]
    if shape is None:
        raise section.error("type", "only the data provider knows the size of its images: give the shape "
                                    f"(as {section.name}=128,3,224,224)")
    layer = importer.add_layer("Input", section.name, [], input_param={"shape": [{"dim": shape}]})
    if readers and all(kind.startswith("cost.") for kind in readers):
        layer.include.add(phase=caffe_pb2.TRAIN)
    importer.blobs[section.name] = section.name, shape[1:]


@imports("conv")
def conv(importer: CudaConvnetImporter, section: Section) -> None:
    inputs = importer.inputs(section)
    section.refuse("randsparse", "the channels of its filters are chosen at random")
    if section.text("sharedbiases", "true").lower() not in ("true", "1"):
        raise section.error("sharedbiases", "Caffe has no bias for each place")
    maps, shapes = [], set()
    for i, (blob, shape) in enumerate(inputs):
        channels, filters, kernel, group, pad, stride = (section.wholes(option, len(inputs), default)[i] for (
            option, default) in (("channels", None), ("filters", None), ("filterSize", None), ("groups", 1),
                                 ("padding", 0), ("stride", 1)))
        length = importer.image(section, blob, shape, channels) + 2 * pad - kernel
        if length < 0 or stride < 1:
            raise section.error("filtersize", f"a filter of {kernel} with stride {stride} does not fit into "
                                              f"{format_shape(shape)} with padding {pad}")
        partial = length % stride != 0         # cuda-convnet rounds up, Caffe down
        param: dict[str, Any] = {"num_output": filters * group, "kernel_size": [kernel]}
        for field, value, usual in (("stride", [stride], [1]), ("group", group, 1),
                                    ("pad", [pad + stride * partial], [0])):
            if value != usual:
                param[field] = value
        count = -(-length // stride) + 1
        shapes.add((filters * group, count, count))
        top = importer.weights(section, "Convolution", blob, param, i, len(inputs) == 1, "_all" if partial else "")
        # padding that is larger by a stride gives the last window, and a first one, which is cut off
        maps.append(importer.cut(top, f"{top}_all", 1, keep=1, top=top) if partial else top)
    if len(shapes) > 1:
        raise section.error("inputs", "its inputs give maps of different shapes")
    importer.finish(section, importer.summed(section, maps), shapes.pop())


@imports("fc")
def fc(importer: CudaConvnetImporter, section: Section) -> None:
    inputs, outputs = importer.inputs(section), section.whole("outputs")
    alike = all(len(set(section.names(option, [""]))) == 1 for option in ("initw", "epsw", "momw", "wc"))
    if alike and len(inputs) > 1:
        inputs = [importer.joined(section.names("inputs"), f"{section.name}_inputs")]
    products = [importer.weights(section, "InnerProduct", blob, {"num_output": outputs}, i, len(inputs) == 1)
                for i, (blob, _) in enumerate(inputs)]
    importer.finish(section, importer.summed(section, products), (outputs,))


@imports("pool")
def pool(importer: CudaConvnetImporter, section: Section) -> None:
    (blob, shape), = importer.inputs(section, 1)
    size = importer.image(section, blob, shape, section.whole("channels"))
    method = {"max": "MAX", "avg": "AVE"}.get(section.text("pool"))
    if method is None:
        raise section.error("pool", f"pool={section.text('pool')} is none of max and avg")
    kernel, stride = section.whole("sizex"), section.whole("stride")
    start, windows = section.whole("start", 0), section.whole("outputsx", 0)
    if not 1 <= stride <= kernel:
        raise section.error("stride", f"stride must be 1 to sizeX, {kernel}; found {stride}")
    source = blob
    if start > 0:       # rows and columns before it are left out
        blob, size = importer.cut(f"{section.name}_start", blob, start, keep=1), size - start
    pad = max(0, -start)
    windows = windows or -(-(size + pad - kernel) // stride) + 1
    up, down = (_windows(size, kernel, pad, stride, ceil) for ceil in (True, False))
    if pad and method == "AVE":
        raise section.error("start", "start is negative, and if a window leaves the map cuda-convnet's average is of "
                                     "the map only, Caffe's of the padding too")
    if pad >= kernel:
        raise section.error("start", f"start={start} puts windows of {kernel} wholly outside the map")
    if windows > up and windows != down:
        raise section.error("outputsx", f"outputsX={windows}: Caffe has {up} windows of {kernel} with stride "
                                        f"{stride} on this map, and none that starts outside it")
    top, param = section.name, {"pool": method, "kernel_size": kernel}
    param |= {field: value for field, value, default in (
        ("stride", stride, 1), ("pad", pad, 0), ("round_mode", int(windows == down != up), 0)) if value != default}
    if windows in (up, down):
        importer.add_layer("Pooling", top, [blob], pooling_param=param)
    else:
        importer.add_layer("Pooling", top, [blob], [f"{top}_all"], pooling_param=param)
        importer.cut(f"{top}_outputs", f"{top}_all", windows, keep=0, top=top)
    if not start and kernel == -(-size // windows) and is_exact(size, windows) and (
            windows == 1 or stride == size // windows) and section.text("neuron", "ident") == "ident":
        importer.levels[section.name] = source, windows, method
    importer.finish(section, top, (shape[0], windows, windows))


@imports("cmrnorm", "rnorm")
def norm(importer: CudaConvnetImporter, section: Section) -> None:
    """LRN across channels (cmrnorm), or within each (rnorm)."""
    within, k = section.text("type") == "rnorm", section.number("mindiv", 1.0)
    if within and k != 1:
        raise section.error("mindiv", "Caffe's LRN within a channel adds 1, no other minDiv")
    (blob, shape), = importer.inputs(section, 1)
    importer.image(section, blob, shape, section.whole("channels"))
    size = section.whole("size" if section.has("size") else "sizex")
    if size % 2 == 0:
        raise section.error("size", f"size={size}: Caffe's LRN has an odd local_size")
    if section.text("blocked", "false").lower() in ("true", "1"):
        raise section.error("blocked", "blocked=true normalises by a block of maps, Caffe by neighbours")
    importer.add_layer("LRN", section.name, [blob], lrn_param={
        "local_size": size, "alpha": section.number("scale"), "beta": section.number("pow"),
        **({"norm_region": "WITHIN_CHANNEL"} if within else {"k": k} if k != 1 else {})})
    importer.finish(section, section.name, shape)


@imports("neuron")
def neuron(importer: CudaConvnetImporter, section: Section) -> None:
    (blob, shape), = importer.inputs(section, 1)
    importer.blobs[section.name] = importer.neuron(section, blob, section.name), shape


@imports("eltsum", "eltmax")
def elementwise(importer: CudaConvnetImporter, section: Section) -> None:
    param: dict[str, Any] = {"operation": "MAX"}
    if section.text("type") == "eltsum":
        coeffs = section.listed("coeffs", len(section.names("inputs")), 1.0)
        param = {"coeff": coeffs} if set(coeffs) != {1.0} else {}
    inputs = importer.inputs(section)
    if len(inputs) < 2 or len({shape for _, shape in inputs}) > 1:
        raise section.error("inputs", "needs two inputs or more of one shape, found "
                            + ", ".join(format_shape(shape) for _, shape in inputs))
    importer.add_layer("Eltwise", section.name, [blob for blob, _ in inputs], eltwise_param=param)
    importer.finish(section, section.name, inputs[0][1])


@imports("concat", "pass")
def concat(importer: CudaConvnetImporter, section: Section) -> None:
    inputs = importer.inputs(section)
    if len({shape[1:] for _, shape in inputs}) == 1:
        importer.add_layer("Concat", section.name, [blob for blob, _ in inputs])
        importer.finish(section, section.name, (sum(shape[0] for _, shape in inputs), *inputs[0][1][1:]))
    else:
        importer.finish(section, *importer.joined(section.names("inputs"), section.name))


@imports("dropout", "dropout2")
def dropout(importer: CudaConvnetImporter, section: Section) -> None:
    """Dropout that scales in training (dropout), or in testing (dropout2)."""
    (blob, shape), = importer.inputs(section, 1)
    if section.text("enable", "true").lower() in ("true", "1"):
        scaling = {"scale_train": False} if section.text("type") == "dropout2" else {}
        importer.add_layer("Dropout", section.name, [blob],
                           dropout_param={"dropout_ratio": 1 - section.number("keep", 0.5), **scaling})
        blob = section.name
    importer.finish(section, blob, shape)


@imports("softmax")
def softmax(importer: CudaConvnetImporter, section: Section) -> None:
    (blob, shape), = importer.inputs(section, 1)
    layer = importer.add_layer("Softmax", section.name, [blob])
    readers = [other for other in importer.layers.values() if section.name in other.names("inputs", [])]
    if readers and all(other.text("type", "") == "cost.logreg" for other in readers):
        layer.include.add(phase=caffe_pb2.TEST)     # in training SoftmaxWithLoss computes it
    importer.finish(section, section.name, shape)


@imports("cost.logreg")
def cost_logreg(importer: CudaConvnetImporter, section: Section) -> None:
    (labels, _), _ = importer.inputs(section, 2)
    probabilities = importer.layers[section.names("inputs")[1]]
    if probabilities.text("type") != "softmax":
        raise section.error("inputs", "its second input must be a softmax layer")
    scores = importer.blobs[probabilities.names("inputs")[0]][0]
    importer.cost(section, "SoftmaxWithLoss", [scores, labels])


@imports("cost.bce")
def cost_bce(importer: CudaConvnetImporter, section: Section) -> None:
    (targets, _), _ = importer.inputs(section, 2)
    source = importer.layers[section.names("inputs")[1]]
    if source.text("neuron", "ident") != "logistic" or section.number("posweight", 1.0) != 1:
        raise section.error("inputs", "only the output of neuron=logistic, with posWeight=1, is Caffe's "
                                      "SigmoidCrossEntropyLoss")
    if importer.readers[source.name] > 1:
        raise section.error("inputs", f"{source.name} has other readers too; the loss reads it before logistic")
    scores = importer.blobs[source.name][0]
    sigmoid = next(layer for layer in importer.param.layer if layer.name == f"{source.name}_neuron")
    sigmoid.top[:] = [sigmoid.name]         # the loss reads the scores
    importer.cost(section, "SigmoidCrossEntropyLoss", [scores, targets])


@imports("cost.sum2")
def cost_sum2(importer: CudaConvnetImporter, section: Section) -> None:
    (blob, _), = importer.inputs(section, 1)
    sums = importer.add_layer("Reduction", f"{section.name}_each", [blob], reduction_param={"operation": 3, "axis": 1})
    sums.include.add(phase=caffe_pb2.TRAIN)
    importer.cost(section, "Reduction", [sums.name], reduction_param={"operation": 4})


def _windows(size: int, kernel: int, pad: int, stride: int, ceil: bool) -> int:
    """The number of windows of Caffe's Pooling along an axis; not positive if the kernel does not fit."""
    length = size + 2 * pad - kernel
    count = (-(-length // stride) if ceil else length // stride) + 1
    return count - 1 if pad and (count - 1) * stride >= size + pad else count
