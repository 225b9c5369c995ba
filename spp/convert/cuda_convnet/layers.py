"""cuda-convnet's layer definition and layer parameters (Krizhevsky's .cfg files) to a prototxt and a solver.

docs/conversion.md says which statement of cuda-convnet's documentation or code each rule follows.
"""
import os
from typing import Any, Callable, Mapping, Sequence

from spp.atomic import replacing
from spp.convert.cuda_convnet.net import Net
from spp.convert.cuda_convnet.text import Section, sections
from spp.errors import ConvertError
from spp.ops.spp import is_exact
from spp.proto import caffe_pb2, to_text

REASONS = {
    "local": "its filters differ from place to place, and Caffe has no layer for that",
    "cnorm": "contrast normalisation (by the variance) is none of Caffe's layers",
    "cmpool": "pooling across maps is none of Caffe's layers",
    "sfc": "a fully connected layer in parts is none of Caffe's layers",
    **dict.fromkeys(("nailbed", "blur", "href", "resize", "rscale", "crop", "rgb2yuv", "rgb2lab"),
                    "it prepares images; do that before the net, in transform_param or a tool"),
    **dict.fromkeys(("cost.ce", "cost.dce"), "Caffe's losses take another form of labels, or report other numbers"),
}
# Options that say how, or on what, to compute, or what to report; not what is computed.
NO_MATTER = ("gpu", "partialsum", "sumwidth", "dataidx", "topk", "supereps", "supermom")


def convert(definition: str, parameters: str | None, prototxt: str, solver: str | None,
            shapes: Mapping[str, Sequence[int]]) -> None:
    """Write the net of a layer definition file, and from the layer parameters its solver; both or neither.

    shapes: of the data layers, with the batch: images N x C x H x W with H = W. Raises ConvertError for a layer
    or an option that Caffe has not; the message has its file and line.
    """
    net, rates = read(definition, parameters, shapes)
    with replacing(prototxt, ConvertError) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(to_text(net))
        if solver is not None:
            rates.net = os.path.relpath(prototxt, os.path.dirname(solver) or ".")
            with replacing(solver, ConvertError) as other, open(other, "w", encoding="utf-8") as file:
                file.write(to_text(rates))


def read(definition: str, parameters: str | None, shapes: Mapping[str, Sequence[int]]) -> tuple[Any, Any]:
    """The NetParameter, and the SolverParameter (with parameters: rate, momentum and decay); raises as `convert`."""
    layers = sections(definition)
    given = sections(parameters) if parameters is not None else {}
    for name, section in given.items():
        if name not in layers:
            raise ConvertError(f"{section.where}: no layer {name!r} in {definition}")
        layers[name].add(section)
    net = _Layers(os.path.splitext(os.path.basename(definition))[0], layers, shapes, parameters is not None)
    for section in layers.values():
        kind = section.text("type")
        if kind not in net.kinds:
            reason = REASONS.get(kind, f"no such type is known; known are {', '.join(net.kinds)}")
            raise section.error("type", f"type={kind} cannot be converted: {reason}")
        net.kinds[kind](section)
        section.check_all_read(NO_MATTER)
    rates = net.solver()
    return net.param, rates


class _Layers(Net):
    """How each type of section becomes layers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.kinds: dict[str, Callable[[Section], None]] = {
            "data": self._data, "conv": self._conv, "fc": self._fc, "pool": self._pool, "cmrnorm": self._cmrnorm,
            "rnorm": self._rnorm, "neuron": self._neuron, "eltsum": self._eltsum, "eltmax": self._eltmax,
            "concat": self._concat, "pass": self._concat, "dropout": self._dropout, "dropout2": self._dropout2,
            "softmax": self._softmax, "cost.logreg": self._cost_logreg, "cost.bce": self._cost_bce,
            "cost.sum2": self._cost_sum2}

    def _data(self, section: Section) -> None:
        readers = [other.text("type") for other in self.layers.values()
                   if section.name in other.names("inputs", [])]
        shape = self.shapes.get(section.name)
        if shape is None and self.shapes and set(readers) == {"cost.logreg"}:       # labels: one an image
            shape = next(iter(self.shapes.values()))[:1]
        if shape is None:
            raise section.error("type", "how large its images are, only the data provider knows: give the shape "
                                        f"(as {section.name}=128,3,224,224)")
        layer = self.add("Input", section.name, [])
        layer.input_param.shape.add(dim=shape)
        if readers and all(kind.startswith("cost.") for kind in readers):
            layer.include.add(phase=caffe_pb2.TRAIN)
        self.made[section.name] = section.name, shape[1:]

    def _conv(self, section: Section) -> None:
        inputs = self.inputs(section)
        section.refuse("randsparse", "which channels its filters see is drawn at random")
        if section.text("sharedbiases", "true").lower() not in ("true", "1"):
            raise section.error("sharedbiases", "a bias for each place is none of Caffe's parameters")
        made, shapes = [], set()
        for i, (blob, shape) in enumerate(inputs):
            channels, filters, kernel = (section.listed(option, len(inputs), whole=True)[i]
                                         for option in ("channels", "filters", "filterSize"))
            group, pad, stride = (section.listed(option, len(inputs), default, whole=True)[i]
                                  for option, default in (("groups", 1), ("padding", 0), ("stride", 1)))
            room = self.image(section, blob, shape, channels) + 2 * pad - kernel
            if room < 0 or stride < 1:
                raise section.error("filtersize", f"a filter of {kernel} with stride {stride} does not fit into "
                                                  f"{' x '.join(map(str, shape))} with padding {pad}")
            beyond = room % stride != 0         # cuda-convnet rounds up, Caffe down
            param: dict[str, Any] = {"num_output": filters * group, "kernel_size": [kernel]}
            for field, value, usual in (("stride", [stride], [1]), ("group", group, 1),
                                        ("pad", [pad + stride * beyond], [0])):
                if value != usual:
                    param[field] = value
            count = -(-room // stride) + 1
            shapes.add((filters * group, count, count))
            top = self.weights(section, "Convolution", "convolution_param", blob, param, i, len(inputs) == 1,
                               "_all" if beyond else "")
            # padding that is a stride too wide gives the last window, and a first one that goes
            made.append(self.cut(top, f"{top}_all", 1, keep=1, top=top) if beyond else top)
        if len(shapes) > 1:
            raise section.error("inputs", "its inputs give maps of different shapes")
        self.finish(section, self.summed(section, made), shapes.pop())

    def _fc(self, section: Section) -> None:
        inputs, outputs = self.inputs(section), section.whole("outputs")
        alike = all(len(set(section.names(option, [""]))) == 1 for option in ("initw", "epsw", "momw", "wc"))
        if alike and len(inputs) > 1:
            inputs = [self.joined(section.names("inputs"), f"{section.name}_inputs")]
        made = [self.weights(section, "InnerProduct", "inner_product_param", blob, {"num_output": outputs}, i,
                             len(inputs) == 1) for i, (blob, _) in enumerate(inputs)]
        self.finish(section, self.summed(section, made), (outputs,))

    def _pool(self, section: Section) -> None:
        (blob, shape), = self.inputs(section, 1)
        size = self.image(section, blob, shape, section.whole("channels"))
        method = {"max": "MAX", "avg": "AVE"}.get(section.text("pool"))
        if method is None:
            raise section.error("pool", f"pool={section.text('pool')} is none of max and avg")
        kernel, stride = section.whole("sizex"), section.whole("stride")
        start, wanted = section.whole("start", 0), section.whole("outputsx", 0)
        if not 1 <= stride <= kernel:
            raise section.error("stride", f"stride must be 1 to sizeX, {kernel}; found {stride}")
        source = blob
        if start > 0:       # rows and columns before it are left out
            blob, size = self.cut(f"{section.name}_start", blob, start, keep=1), size - start
        pad = max(0, -start)
        wanted = wanted or -(-(size + pad - kernel) // stride) + 1
        up, down = (_windows(size, kernel, pad, stride, rounding) for rounding in (True, False))
        param: dict[str, Any] = {"pool": 0 if method == "MAX" else 1, "kernel_size": kernel}
        if stride != 1:
            param["stride"] = stride
        if pad:
            if method == "AVE":
                raise section.error("start", "start is negative, and where a window leaves the map cuda-convnet's "
                                             "average is of the map alone, Caffe's of the padding too")
            if pad >= kernel:
                raise section.error("start", f"start={start} puts windows of {kernel} wholly outside the map")
            param["pad"] = pad
        if wanted != up and wanted == down:
            param["round_mode"] = 1
        elif wanted > up:
            raise section.error("outputsx", f"outputsX={wanted}: Caffe has {up} windows of {kernel} with stride "
                                            f"{stride} on this map, and none that begins beyond it")
        top = section.name
        if wanted in (up, down):
            self.add("Pooling", top, [blob], pooling_param=param)
        else:
            self.add("Pooling", top, [blob], f"{top}_all", pooling_param=param)
            self.cut(f"{top}_outputs", f"{top}_all", wanted, keep=0, top=top)
        window = -(-size // wanted)
        if not start and kernel == window and is_exact(size, wanted) and (wanted == 1 or stride == size // wanted) \
                and section.text("neuron", "ident") == "ident":
            self.levels[section.name] = source, wanted, method
        self.finish(section, top, (shape[0], wanted, wanted))

    def _cmrnorm(self, section: Section) -> None:
        k = section.number("mindiv", 1.0)
        self._norm(section, {"k": k} if k != 1 else {})

    def _rnorm(self, section: Section) -> None:
        if section.number("mindiv", 1.0) != 1:
            raise section.error("mindiv", "Caffe's LRN within a channel adds 1, no other minDiv")
        self._norm(section, {"norm_region": 1})

    def _norm(self, section: Section, more: dict[str, Any]) -> None:
        (blob, shape), = self.inputs(section, 1)
        self.image(section, blob, shape, section.whole("channels"))
        size = section.whole("size" if section.has("size") else "sizex")
        if size % 2 == 0:
            raise section.error("size", f"size={size}: Caffe's LRN has an odd local_size")
        if section.text("blocked", "false").lower() in ("true", "1"):
            raise section.error("blocked", "blocked=true normalises by a block of maps, Caffe by neighbours")
        self.add("LRN", section.name, [blob], lrn_param={"local_size": size, "alpha": section.number("scale"),
                                                         "beta": section.number("pow"), **more})
        self.finish(section, section.name, shape)

    def _neuron(self, section: Section) -> None:
        (blob, shape), = self.inputs(section, 1)
        self.made[section.name] = self.neuron(section, blob, section.name), shape

    def _eltsum(self, section: Section) -> None:
        coeffs = section.listed("coeffs", len(section.names("inputs")), 1.0)
        self._elementwise(section, {"coeff": coeffs} if set(coeffs) != {1.0} else {})

    def _eltmax(self, section: Section) -> None:
        self._elementwise(section, {"operation": 2})

    def _elementwise(self, section: Section, param: dict[str, Any]) -> None:
        inputs = self.inputs(section)
        if len(inputs) < 2 or len({shape for _, shape in inputs}) > 1:
            raise section.error("inputs", "needs two inputs or more of one shape, found "
                                + ", ".join(" x ".join(map(str, shape)) for _, shape in inputs))
        self.add("Eltwise", section.name, [blob for blob, _ in inputs], eltwise_param=param)
        self.finish(section, section.name, inputs[0][1])

    def _concat(self, section: Section) -> None:
        inputs = self.inputs(section)
        if len({shape[1:] for _, shape in inputs}) == 1:
            self.add("Concat", section.name, [blob for blob, _ in inputs])
            shape = (sum(shape[0] for _, shape in inputs), *inputs[0][1][1:])
            self.finish(section, section.name, shape)
            return
        self.finish(section, *self.joined(section.names("inputs"), section.name))

    _pass = _concat

    def _dropout(self, section: Section) -> None:
        self._drop(section, scale_train=True)

    def _dropout2(self, section: Section) -> None:
        self._drop(section, scale_train=False)

    def _drop(self, section: Section, scale_train: bool) -> None:
        (blob, shape), = self.inputs(section, 1)
        if section.text("enable", "true").lower() in ("true", "1"):
            keep = section.number("keep", 0.5)
            self.add("Dropout", section.name, [blob], dropout_param={
                "dropout_ratio": 1 - keep, **({} if scale_train else {"scale_train": False})})
            blob = section.name
        self.finish(section, blob, shape)

    def _softmax(self, section: Section) -> None:
        (blob, shape), = self.inputs(section, 1)
        layer = self.add("Softmax", section.name, [blob])
        readers = [other for other in self.layers.values() if section.name in other.names("inputs", [])]
        if readers and all(other.text("type", "") == "cost.logreg" for other in readers):
            layer.include.add(phase=caffe_pb2.TEST)     # in training SoftmaxWithLoss has its own
        self.finish(section, section.name, shape)

    def _cost_logreg(self, section: Section) -> None:
        (labels, _), _ = self.inputs(section, 2)
        probabilities = self.layers[section.names("inputs")[1]]
        if probabilities.text("type") != "softmax":
            raise section.error("inputs", "its second input must be a softmax layer")
        scores = self.made[probabilities.names("inputs")[0]][0]
        self.cost(section, "SoftmaxWithLoss", [scores, labels])

    def _cost_bce(self, section: Section) -> None:
        (targets, _), _ = self.inputs(section, 2)
        source = self.layers[section.names("inputs")[1]]
        if source.text("neuron", "ident") != "logistic" or section.number("posweight", 1.0) != 1:
            raise section.error("inputs", "only the output of neuron=logistic, with posWeight=1, is Caffe's "
                                          "SigmoidCrossEntropyLoss")
        if self.readers[source.name] > 1:
            raise section.error("inputs", f"{source.name} has other readers too; the loss reads it before logistic")
        scores = self.made[source.name][0]
        sigmoid = next(layer for layer in self.param.layer if layer.name == f"{source.name}_neuron")
        sigmoid.top[:] = [sigmoid.name]         # the loss reads the scores
        self.cost(section, "SigmoidCrossEntropyLoss", [scores, targets])

    def _cost_sum2(self, section: Section) -> None:
        (blob, _), = self.inputs(section, 1)
        each = self.add("Reduction", f"{section.name}_each", [blob], reduction_param={"operation": 3, "axis": 1})
        each.include.add(phase=caffe_pb2.TRAIN)
        self.cost(section, "Reduction", [each.name], reduction_param={"operation": 4})


def _windows(size: int, kernel: int, pad: int, stride: int, up: bool) -> int:
    """The number of windows that Caffe's Pooling has along an axis."""
    room = size + 2 * pad - kernel
    count = (-(-room // stride) if up else room // stride) + 1
    return count - 1 if pad and (count - 1) * stride >= size + pad else count
