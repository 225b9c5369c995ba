"""The nets of the benchmarks in torch: a module that computes a NetParameter with torch's own layers.

This is not spp.convert.torch_module, which would handicap torch: its source keeps every activation until forward
returns, its ReLUs are out-of-place, and it has neither a loss nor batch normalisation in training mode.
"""
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _WithinChannels(nn.Module):
    """Caffe's LRN with norm_region WITHIN_CHANNEL."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.alpha * functional.avg_pool2d(x * x, self.size, 1, self.size // 2)) ** -self.beta


class _Pyramid(nn.Module):
    """Spatial pyramid pooling: the bins x bins maxima of all levels, concatenated."""

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([functional.adaptive_max_pool2d(x, bins).flatten(1) for bins in self.levels], 1)


class TorchNet(nn.Module):
    """The net of a NetParameter with the layer types of nets.py; `forward` takes the net's inputs in their order.

    The parameters get their shapes in the first forward. `modules_of` has the torch module of each layer by name.
    """

    def __init__(self, param: Any) -> None:
        super().__init__()
        self.inputs: list[str] = []
        self.steps: list[tuple[nn.Module, list[str], str]] = []
        self.modules_of: dict[str, nn.Module] = {}
        self.parts = nn.ModuleList()
        scaled = {layer.bottom[0] for layer in param.layer if layer.type == "Scale"}
        for layer in param.layer:
            if layer.type == "Input":
                self.inputs += layer.top
            elif layer.type != "Scale":         # part of its BatchNorm
                module = _module(layer, layer.bottom[0] in scaled)
                self.parts.append(module)
                self.modules_of[layer.name] = module[-1] if isinstance(module, nn.Sequential) else module
                self.steps.append((module, list(layer.bottom), layer.top[0]))
        self.last_use = {name: i for i, (_, bottoms, _) in enumerate(self.steps) for name in bottoms}

    def forward(self, *inputs: Tensor) -> Tensor:
        blobs = dict(zip(self.inputs, inputs))
        top = ""
        for i, (module, bottoms, top) in enumerate(self.steps):
            output = module(*(blobs[name] for name in bottoms))
            for name in bottoms:
                if self.last_use[name] == i:
                    blobs.pop(name, None)       # frees its memory, as in a net written by hand
            blobs[top] = output
        return blobs[top]


def _module(layer: Any, scaled: bool) -> nn.Module:
    in_place = list(layer.bottom) == list(layer.top)
    if layer.type == "Convolution":
        p = layer.convolution_param
        return nn.LazyConv2d(p.num_output, p.kernel_size[0], p.stride[0] if p.stride else 1,
                             p.pad[0] if p.pad else 0, groups=p.group, bias=p.bias_term)
    if layer.type == "InnerProduct":
        q = layer.inner_product_param
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(q.num_output, q.bias_term))
    if layer.type == "ReLU":
        return nn.ReLU(inplace=in_place)
    if layer.type == "Dropout":
        return nn.Dropout(layer.dropout_param.dropout_ratio)
    if layer.type == "BatchNorm":
        return nn.LazyBatchNorm2d(layer.batch_norm_param.eps, affine=scaled)
    if layer.type == "LRN":
        n = layer.lrn_param
        within = n.norm_region == n.WITHIN_CHANNEL
        return (_WithinChannels(n.local_size, n.alpha, n.beta) if within else
                nn.LocalResponseNorm(n.local_size, n.alpha, n.beta, n.k))
    if layer.type == "Pooling":
        r = layer.pooling_param
        if r.global_pooling:
            return nn.AdaptiveAvgPool2d(1)
        return nn.MaxPool2d(r.kernel_size, r.stride, r.pad, ceil_mode=r.round_mode == r.CEIL)
    if layer.type == "SPP":
        return _Pyramid(list(layer.spp_param.bins))
    functions = {"Concat": lambda *x: torch.cat(x, 1), "Eltwise": lambda x, y: x + y,
                 "Softmax": lambda x: functional.softmax(x, 1),
                 "SoftmaxWithLoss": lambda x, label: functional.cross_entropy(x.flatten(1), label)}
    return _Function(functions[layer.type])


class _Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(*x)


def load(net: TorchNet, params: dict[str, list[Any]]) -> None:
    """Load the parameters of a Net, NumPy arrays by layer name, into a TorchNet that has run once."""
    with torch.no_grad():
        for name, arrays in params.items():
            scale = re.fullmatch("scale_(.*)", name)
            module = net.modules_of.get(f"bn_{scale[1]}" if scale else name)
            assert module is not None, name
            values = [torch.from_numpy(array) for array in arrays]
            if isinstance(module, nn.BatchNorm2d) and not scale:
                factor = 1 / float(values[2]) if float(values[2]) else 0.0
                targets, values = [module.running_mean, module.running_var], [v * factor for v in values[:2]]
            else:
                targets = [parameter for parameter in (module.weight, module.bias) if parameter is not None]
            for target, value in zip(targets, values, strict=True):
                target.copy_(value.reshape(target.shape))
