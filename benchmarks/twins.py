"""The same net in torch: a module that does what a NetParameter says, layer by layer, on torch's own operations."""
import re
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class _WithinChannels(nn.Module):
    """Caffe's LRN over a window of each channel by itself."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x):
        return x * (1 + self.alpha * functional.avg_pool2d(x * x, self.size, 1, self.size // 2)) ** -self.beta


class _Pyramid(nn.Module):
    """Levels of bins x bins maxima, one after the other."""

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x):
        return torch.cat([functional.adaptive_max_pool2d(x, bins).flatten(1) for bins in self.levels], 1)


class Twin(nn.Module):
    """The net of a NetParameter, as far as the nets of nets.py need; `forward` takes its inputs in their order.

    Its parameters have their shapes after a first forward. `modules_of[layer's name]` are those with parameters.
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
            elif layer.type != "Scale":         # done by its BatchNorm
                module = _module(layer, layer.bottom[0] in scaled)
                self.parts.append(module)
                self.modules_of[layer.name] = module[-1] if isinstance(module, nn.Sequential) else module
                self.steps.append((module, list(layer.bottom), layer.top[0]))
        self.last_use = {name: i for i, (_, bottoms, _) in enumerate(self.steps) for name in bottoms}

    def forward(self, *inputs):
        blobs = dict(zip(self.inputs, inputs))
        top = ""
        for i, (module, bottoms, top) in enumerate(self.steps):
            made = module(*(blobs[name] for name in bottoms))
            for name in bottoms:
                if self.last_use[name] == i:
                    blobs.pop(name, None)       # as a net written by hand would let go of it
            blobs[top] = made
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

    def forward(self, *x):
        return self.function(*x)


def load(twin: Twin, params: dict[str, list[Any]]) -> None:
    """Give the twin, which has run once, a Net's parameters: NumPy arrays by layer name."""
    with torch.no_grad():
        for name, arrays in params.items():
            scale = re.fullmatch("scale_(.*)", name)
            module = twin.modules_of.get(f"bn_{scale[1]}" if scale else name)
            assert module is not None, name
            values = [torch.from_numpy(array) for array in arrays]
            if isinstance(module, nn.BatchNorm2d) and not scale:
                factor = 1 / float(values[2]) if float(values[2]) else 0.0
                targets, values = [module.running_mean, module.running_var], [v * factor for v in values[:2]]
            else:
                targets = [parameter for parameter in (module.weight, module.bias) if parameter is not None]
            for target, value in zip(targets, values, strict=True):
                target.copy_(value.reshape(target.shape))
