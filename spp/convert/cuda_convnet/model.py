"""cuda-convnet's layer definition and layer parameters (Krizhevsky's .cfg files) to a prototxt and a solver."""
import os
from typing import Any, Mapping, Sequence

from spp.atomic import replacing
from spp.convert.cuda_convnet.context import IMPORTERS, CudaConvnetImporter
from spp.convert.cuda_convnet.sections import sections
from spp.convert.registry import import_modules
from spp.errors import ConvertError
from spp.proto import to_text

import_modules("spp.convert.cuda_convnet")

REASONS = {
    "local": "its filters differ from place to place, and Caffe has no layer for that",
    "cnorm": "Caffe has no layer of contrast normalisation (by the variance)",
    "cmpool": "Caffe has no layer of pooling across maps",
    "sfc": "Caffe has no fully connected layer in parts",
    **dict.fromkeys(("nailbed", "blur", "href", "resize", "rscale", "crop", "rgb2yuv", "rgb2lab"),
                    "it prepares images; do that before the net, in transform_param or a tool"),
    **dict.fromkeys(("cost.ce", "cost.dce"), "Caffe's losses take another form of labels, or report other numbers"),
}
# Options of speed, devices and reports, which do not change what is computed.
IGNORED = ("gpu", "partialsum", "sumwidth", "dataidx", "topk", "supereps", "supermom")


def convert(definition: str, parameters: str | None, prototxt: str, solver: str | None,
            shapes: Mapping[str, Sequence[int]]) -> None:
    """Write the net of a layer definition file, and from the layer parameters its solver; both or neither.

    shapes: of the data layers, with the batch: images N x C x H x W with H = W. Raises ConvertError for a layer
    or an option that Caffe lacks; the message has its file and line.
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
    options = sections(parameters) if parameters is not None else {}
    for name, section in options.items():
        if name not in layers:
            raise ConvertError(f"{section.where}: no layer {name!r} in {definition}")
        layers[name].add(section)
    name = os.path.splitext(os.path.basename(definition))[0]
    importer = CudaConvnetImporter(name, layers, shapes, learns=parameters is not None)
    for section in layers.values():
        kind = section.text("type")
        if kind not in IMPORTERS:
            reason = REASONS.get(kind, f"no such type is known; known are {', '.join(IMPORTERS)}")
            raise section.error("type", f"type={kind} cannot be converted: {reason}")
        IMPORTERS[kind](importer, section)
        section.check_all_read(IGNORED)
    return importer.param, importer.solver()
