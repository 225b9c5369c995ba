"""The layer types of Caffe's forks as torch source."""
from typing import Any

from spp.convert.torch.exporter.context import TorchExporter, exports, number

Texts = list[str]


@exports("Normalize")
def normalize(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    count = layer.blobs[0].count
    return [f"{exporter.own(layer, f'Normalize({count}, {layer.across}, {number(layer.eps)})')}({x[0]})"]


@exports("Permute")
def permute(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    return [f"{x[0]}.permute({', '.join(map(str, layer.order))})"]


@exports("Reorg")
def reorg(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    return [f"{'reorg_reverse' if layer.reverse else 'reorg'}({x[0]}, {layer.stride})"]


@exports("ShuffleChannel")
def shuffle(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    return [f"{x[0]}.unflatten(1, ({layer.group}, -1)).transpose(1, 2).flatten(1, 2)"]


@exports("Axpy")
def axpy(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    return [f"along({x[1]}, {x[0]}.flatten(1), 0) * {x[1]} + {x[2]}"]


@exports("Interp")
def interp(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p = layer.param.interp_param
    factors = p.HasField("zoom_factor") or p.HasField("shrink_factor")
    size = None if factors else (p.height, p.width)
    return [f"interp({x[0]}, {size}, {p.zoom_factor}, {p.shrink_factor}, {-p.pad_beg}, {-p.pad_end})"]


@exports("Upsample")
def upsample(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p, (high, wide) = layer.param.upsample_param, layer.scale
    if len(x) == 1:
        return [f"{x[0]}.repeat_interleave({high}, 2).repeat_interleave({wide}, 3)"]
    if p.HasField("upsample_h"):
        return [f"unpool({x[0]}, {x[1]}, {p.upsample_h}, {p.upsample_w})"]
    rows, columns = (f"{x[0]}.shape[{axis}] * {factor}{' - 1' if less else ''}"
                     for axis, factor, less in ((2, high, p.pad_out_h), (3, wide, p.pad_out_w)))
    return [f"unpool({x[0]}, {x[1]}, {rows}, {columns})"]


@exports("ROIPooling")
def roi_pooling(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    return [f"roi_max_pool({x[0]}, {x[1]}, {tuple(layer.pooled)!r}, {number(layer.scale)})"]


@exports("PSROIPooling")
def psroi_pooling(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    return [f"roi_group_average({x[0]}, {x[1]}, {layer.outputs}, {layer.group}, {number(layer.scale)})"]


@exports("PriorBox")
def prior_box(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p, boxes = layer.param.prior_box_param, [tuple(row) for row in layer.sizes.tolist()]
    variance = [float(number(v)) for v in layer.variance]
    return [f"prior_boxes({x[0]}, {x[1]}, {boxes!r}, {variance!r}, image_size={layer.image!r}, step={layer.step!r}, "
            f"offset={number(p.offset)}, clip={p.clip})"]
