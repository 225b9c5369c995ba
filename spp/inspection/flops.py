"""What each layer of a net costs: floating-point operations, parameters, memory."""
import math
from dataclasses import dataclass
from typing import Any, Sequence

from spp.blob import Blob

# Operations per element of the first top (of bottom 0 for a loss) in a forward; 0 for layers that only copy or share
# memory. An exp, log, power or square root counts as one operation, as does a comparison. A type that is not here
# counts one per element, or none if the layer has no bottom.
PER_ELEMENT = {
    "Accuracy": 0, "BatchReindex": 0, "Concat": 0, "Crop": 0, "Dropout": 0, "Embed": 0, "Filter": 0, "Flatten": 0,
    "HDF5Output": 0, "Im2col": 0, "Permute": 0, "Reorg": 0, "Reshape": 0, "Silence": 0, "Slice": 0, "Split": 0,
    "Tile": 0,
    "BNLL": 3, "BatchNorm": 2, "ELU": 3, "MVN": 5, "Normalize": 3, "Power": 3, "Sigmoid": 3, "Softmax": 4,
    "SoftmaxWithLoss": 4, "Swish": 4, "TanH": 3,
}


@dataclass(frozen=True)
class Cost:
    """The cost of one layer.

    shapes: of the tops. flops: of a forward; a multiply-add counts as two. memory: bytes of the parameters and of the
    tops that share no memory, with their gradients if these are allocated.
    """

    name: str
    type: str
    shapes: list[tuple[int, ...]]
    parameters: int
    flops: int
    memory: int


def costs(net: Any) -> list[Cost]:
    """The costs of a net's layers in order, at the present shapes of its blobs. A shared parameter counts once."""
    result = []
    for layer, bottom, top in zip(net.layers, net.bottoms, net.tops):
        params = [blob for blob in layer.blobs if not blob.shared]
        own = [blob for blob in top if not blob.shared and not any(blob is other for other in bottom)]
        memory = sum(blob.count * blob.dtype.itemsize * (2 if blob.has_diff else 1) for blob in [*params, *own])
        result.append(Cost(layer.name, layer.type, [blob.shape for blob in top],
                           sum(blob.count for blob in params), layer_flops(layer, bottom, top), memory))
    return result


def layer_flops(layer: Any, bottom: Sequence[Blob], top: Sequence[Blob]) -> int:
    """Operations of one layer's forward; a multiply-add counts as two."""
    param = layer.param
    outputs = top[0].count if top else 0
    weights = layer.blobs[0] if layer.blobs else None
    if layer.type in ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "Deconvolution"):
        # each element of the top (Deconvolution: of the bottom) is multiplied by the weights of one filter
        maps = bottom if layer.type == "Deconvolution" else top
        filter_size = math.prod(weights.shape[1:]) if weights else 0
        return 2 * sum(blob.count for blob in maps) * filter_size + _bias(layer, top)
    if layer.type == "InnerProduct" and weights:
        return 2 * outputs * (weights.count // param.inner_product_param.num_output) + _bias(layer, top)
    if layer.type in ("LSTM", "RNN"):
        steps = math.prod(bottom[0].shape[:2])      # time x streams: each is multiplied by all weights
        return 2 * steps * sum(blob.count for blob in layer.blobs)
    if layer.type == "Pooling":
        return outputs * math.prod(layer.kernel or bottom[0].shape[2:])
    if layer.type == "SPP":
        p = param.spp_param
        return bottom[0].count * (len(p.bins) or p.pyramid_height)      # each level reads all values
    if layer.type == "LRN":
        p = param.lrn_param
        window = p.local_size if p.norm_region == p.ACROSS_CHANNELS else p.local_size ** 2
        return outputs * (window + 5)       # squares, their sum; times alpha, plus k, power, product
    if layer.type in ("Eltwise", "Bias"):
        return outputs * max(1, len(bottom) - 1)
    if layer.type == "Scale":
        return outputs * (2 if param.scale_param.bias_term else 1)
    elements = bottom[0].count if layer.is_loss and bottom else outputs
    return PER_ELEMENT.get(layer.type, 1 if bottom else 0) * elements


def _bias(layer: Any, top: Sequence[Blob]) -> int:
    return sum(blob.count for blob in top) if len(layer.blobs) > 1 else 0
