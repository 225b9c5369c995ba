"""The net and the solver that a cuda-convnet definition becomes, and the table of the sections' importers."""
import math
import re
from collections import Counter
from typing import Any, Callable, Mapping, Sequence

from spp.convert.cuda_convnet.sections import Section
from spp.convert.net_builder import NetBuilder, remove_layers
from spp.convert.registry import registrar
from spp.errors import ConvertError
from spp.layers.base import format_shape
from spp.proto import caffe_pb2


def _power(**numbers: float) -> list[tuple[str, dict[str, Any]]]:
    """A Power layer, or none if it would multiply by 1."""
    return [] if numbers == {"scale": 1.0} else [("Power", {"power_param": numbers})]


# By neuron, the layers that compute it, with their parameters, for its numbers.
NEURONS: dict[str, Callable[..., list[tuple[str, dict[str, Any]]]]] = {
    "ident": lambda: [],
    "relu": lambda: [("ReLU", {})],
    "logistic": lambda: [("Sigmoid", {})],
    "abs": lambda: [("AbsVal", {})],
    "softrelu": lambda: [("BNLL", {})],
    "square": lambda: _power(power=2),
    "sqrt": lambda: _power(power=0.5),
    "log[a]": lambda a: [("Log", {"log_param": {"shift": a}})],
    "tanh[a,b]": lambda a, b: [*_power(scale=b), ("TanH", {}), *_power(scale=a)],
    "abstanh[a,b]": lambda a, b: [*_power(scale=b), ("TanH", {}), ("AbsVal", {}), *_power(scale=a)],
    "brelu[a]": lambda a: [("Clip", {"clip_param": {"min": 0.0, "max": a}})],
    "linear[a,b]": lambda a, b: [("Power", {"power_param": {"scale": a, "shift": b}})],
}
PARAMS = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param"}
Shape = tuple[int, ...]


class CudaConvnetImporter(NetBuilder):
    """The net that is built section by section.

    blobs: the blob of each section and its shape without the batch. levels: for sections that may be levels of a
    pyramid, their source, bins and method. rates: the learning rate and weight decay by layer and parameter index.
    """

    def __init__(self, name: str, layers: dict[str, Section], shapes: Mapping[str, Sequence[int]],
                 learns: bool) -> None:
        super().__init__(name)
        self.layers, self.learns = layers, learns
        self.shapes = {key: tuple(shape) for key, shape in shapes.items()}
        unknown = [key for key in shapes if key not in layers or layers[key].text("type", "") != "data"]
        if unknown:
            raise ConvertError(f"a shape is given for {unknown[0]!r}, which is no data layer")
        self.readers = Counter(name for section in layers.values() for name in section.names("inputs", []))
        self.blobs: dict[str, tuple[str, Shape]] = {}
        self.levels: dict[str, tuple[str, int, str]] = {}
        self.rates: dict[tuple[str, int], tuple[float, float]] = {}
        self.momenta: set[float] = set()

    def inputs(self, section: Section, count: int | None = None) -> list[tuple[str, Shape]]:
        """The blobs of the section's inputs with their shapes."""
        names = section.names("inputs")
        for name in names:
            if name not in self.blobs:
                raise section.error("inputs", f"input {name!r} is not defined before this layer")
        if count is not None and len(names) != count:
            raise section.error("inputs", f"takes {count} input(s), found {len(names)}")
        return [self.blobs[name] for name in names]

    def image(self, section: Section, blob: str, shape: Shape, channels: int) -> int:
        """The height, and width, of an input that is an image; its channels are as the section says."""
        if len(shape) != 3 or shape[0] != channels or shape[1] != shape[2]:
            raise section.error("channels", f"channels={channels}: the input {blob!r} is "
                                            f"{format_shape(shape)}, not {channels} square maps")
        return shape[1]

    def finish(self, section: Section, blob: str, shape: Shape) -> None:
        """Apply the section's dropout (of a fork's parameter files) and neuron, and set the section's blob."""
        rate = section.number("dropout", 0.0)
        if rate:
            self.add_layer("Dropout", f"{section.name}_dropout", [blob], [blob],
                           dropout_param={"dropout_ratio": rate, "scale_train": False})
        self.blobs[section.name] = self.neuron(section, blob), shape

    def neuron(self, section: Section, blob: str, first: str | None = None) -> str:
        """Add the layers of the section's neuron, in place or with `first` as the first top; returns the last top."""
        text = section.text("neuron", "ident").replace(" ", "")
        match = re.fullmatch(r"(\w+)(?:\[([^\]]*)\])?", text)
        base, values = (match[1], (match[2] or "").split(",") if match[2] else []) if match else (text, [])
        known = next((key for key in NEURONS if key.split("[")[0] == base), None)
        if known is None or len(values) != len(re.findall(r"[ab]", known.partition("[")[2])):
            raise section.error("neuron", f"neuron={text} cannot be converted; known are {', '.join(NEURONS)}")
        numbers = [section.as_number("neuron", value) for value in values]
        for count, (kind, params) in enumerate(NEURONS[known](*numbers), 1):
            name = f"{section.name}_neuron" + (str(count) if count > 1 else "")
            top = first or (name if kind == "AbsVal" else blob)
            first = None
            self.add_layer(kind, name, [blob], [top], **params)
            blob = top
        return blob

    def cut(self, name: str, blob: str, at: int, keep: int, top: str | None = None) -> str:
        """The part of a map before (keep 0) or from (keep 1) row and column `at` on; `top` is its name, if given."""
        for axis, side in ((2, "rows"), (3, "columns")):
            tops = [f"{name}_{side}_{part}" for part in range(2)]
            if top and axis == 3:
                tops[keep] = top
            self.add_layer("Slice", f"{name}_{side}", [blob], tops, slice_param={"axis": axis, "slice_point": [at]})
            self.add_layer("Silence", f"{name}_{side}_rest", [tops[1 - keep]], [])
            blob = tops[keep]
        return blob

    def weights(self, section: Section, kind: str, blob: str, param: dict[str, Any], index: int = 0,
                alone: bool = True, suffix: str = "") -> str:
        """Add a layer with weights for the section's input number `index`, or for all of them (`alone`).

        The layer of the first input has the bias. The top's name is the layer's and the suffix. Returns the layer's
        name.
        """
        for option in ("initwfunc", "initbfunc"):
            section.refuse(option, "its Python function computes the weights; load them from a caffemodel instead")
        for option in ("wball", "wcnormmax", "wcnormmin", "updateperiod"):
            section.refuse(option, "Caffe's solver neither bounds the norm of weights nor delays an update")
        name, count = section.name if alone else f"{section.name}_{index}", len(section.names("inputs"))
        std, bias = section.listed("initw", count, 0.01)[index], section.number("initb", 0.0)
        biases = {"bias_term": False} if index else {"bias_filler": {"value": bias}} if bias else {}
        fields: dict[str, Any] = {PARAMS[kind]: {
            **param, "weight_filler": {"type": "gaussian", "std": std}, **biases}}
        layer = self.add_layer(kind, name, [blob], [name + suffix], **fields)
        if self.learns:
            self.rates[name, 0] = section.schedules("epsw", count)[index], section.listed("wc", count, 0.0)[index]
            self.momenta |= {section.listed("momw", count)[index], section.number("momb")}
            if not index:
                self.rates[name, 1] = section.schedules("epsb", 1)[0], 0.0
        if section.text("weightsource", ""):
            self.share(section, layer, section.text("weightsource"), alone and count == 1)
        return name

    def share(self, section: Section, layer: Any, source: str, alone: bool) -> None:
        """Share the weight matrix of the layer `source`, with its rate and decay; biases are not shared."""
        owner = next((other for other in self.param.layer if other.name == source.removesuffix("[0]")
                      and other.type == layer.type), None)
        if not alone or owner is None or owner.name == layer.name:
            raise section.error("weightsource", f"weightSource={source}: only the single weight matrix of an earlier "
                                                "layer of the same type can be shared")
        for sharer in (owner, layer):
            if not sharer.param:
                sharer.param.add()
            sharer.param[0].name = f"{owner.name}/weights"
        self.rates.pop((layer.name, 0), None)

    def summed(self, section: Section, blobs: list[str]) -> str:
        """The blob of the sum of several blobs."""
        if len(blobs) == 1:
            return blobs[0]
        self.add_layer("Eltwise", section.name, blobs)
        return section.name

    def joined(self, names: Sequence[str], name: str) -> tuple[str, Shape]:
        """Concatenate the flattened outputs of sections; an SPP layer if they are the levels of one map's pyramid."""
        units = sum(math.prod(self.blobs[each][1]) for each in names)
        levels = [self.levels[each] for each in names if each in self.levels and self.readers[each] == 1]
        if len(levels) == len(names) and len({(source, method) for source, _, method in levels}) == 1:
            source, _, method = levels[0]
            remove_layers(self.param, names)
            self.add_layer("SPP", name, [source], spp_param={
                "bins": [bins for _, bins, _ in levels], **({"pool": "AVE"} if method == "AVE" else {})})
            return name, (units,)
        flat = [self.blobs[each][0] if len(self.blobs[each][1]) == 1 else self.add_layer(
            "Flatten", f"{each}_flat", [self.blobs[each][0]]).name for each in names]
        return self.add_layer("Concat", name, flat).name, (units,)

    def cost(self, section: Section, kind: str, bottoms: list[str], **params: Any) -> None:
        """Add a loss layer, for phase TRAIN."""
        coeff = section.number("coeff", 1.0)
        layer = self.add_layer(kind, section.name, bottoms, **params)
        if coeff != 1 or kind == "Reduction":
            layer.loss_weight.append(coeff)
        layer.include.add(phase=caffe_pb2.TRAIN)

    # --- solver

    def solver(self) -> Any:
        """The solver; the rates and decays of the parameters become multiples of the first layer's."""
        result = caffe_pb2.SolverParameter(type="SGD", lr_policy="fixed")
        if len(self.momenta) > 1:
            momenta = ", ".join(f"{momentum:g}" for momentum in sorted(self.momenta))
            raise ConvertError(f"momW and momB are {momenta}, and a solver of Caffe has one momentum for all")
        result.momentum = next(iter(self.momenta), 0.0)
        result.base_lr = next((rate for rate, _ in self.rates.values() if rate), 0.0)
        result.weight_decay = next((decay for _, decay in self.rates.values() if decay), 0.0)
        specs = {layer.name: layer.param for layer in self.param.layer}
        for (name, i), (rate, decay) in self.rates.items():
            while len(specs[name]) <= i:
                specs[name].add()
            for field, value, base in (("lr_mult", rate, result.base_lr), ("decay_mult", decay, result.weight_decay)):
                multiple = float(f"{value / base:.7g}") if base else 1.0
                if multiple != 1:
                    setattr(specs[name][i], field, multiple)
        return result


Import = Callable[[CudaConvnetImporter, Section], None]
IMPORTERS: dict[str, Import] = {}      # by section type
imports = registrar(IMPORTERS)
