"""Names in torch of Caffe's layers, and which of their parameters are which tensors of a state_dict."""
import keyword
import re
from typing import Any

from spp.errors import ConvertError
from spp.layers import Layer

# Attributes of torch.nn.Module, which no layer may have.
RESERVED = frozenset("""T_destination add_module apply bfloat16 bool buffers call_super_init children compile cpu cuda
    double dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half
    ipu load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to to_empty
    train training type xpu zero_grad""".split())

# The tensors that a layer's blobs become, in order. Other types have param0, param1 ...
TENSORS = {**dict.fromkeys(("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution",
                            "InnerProduct", "Embed"), ("weight", "bias")),
           "Bias": ("bias",), "PReLU": ("weight",), "Normalize": ("weight",), "Parameter": ("",)}


def identifier(name: str, reserved: set[str]) -> str:
    """A Python identifier similar to `name` that is not in `reserved`."""
    word = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
    if word[0].isdigit() or word.startswith("__"):
        word = "x" + word
    while word in reserved or keyword.iskeyword(word):
        word += "_"
    return word


def attributes(layers: list[Layer]) -> dict[str, str]:
    """The attribute of the module for each layer, by the layer's name; raises ConvertError if two have one name."""
    names: dict[str, str] = {}
    for layer in layers:
        if layer.name in names:
            raise ConvertError(f"two layers are named {layer.name!r}; give each a name of its own")
        names[layer.name] = identifier(layer.name, {*RESERVED, *names.values()})
    return names


def tensors(layer: Layer) -> list[str]:
    """The names, after the attribute's, of the tensors that the layer's blobs become; not for BatchNorm."""
    if layer.type == "Scale":
        return ["weight", "bias"][2 - len(layer.blobs):] if len(layer.param.bottom) > 1 else ["weight", "bias"]
    if layer.type in ("LSTM", "RNN"):
        static = ["weight_static"] if len(layer.blobs) == (4 if layer.type == "LSTM" else 6) else []
        return ["weight_ih_l0", "bias_ih_l0", *static, "weight_hh_l0", "weight_out", "bias_out"]
    return list(TENSORS.get(layer.type) or (f"param{i}" for i in range(len(layer.blobs))))


def folded_scales(net: Any) -> dict[str, Layer]:
    """The Scale layers over channels that are the only readers of a BatchNorm, by the BatchNorm's name."""
    scales = {}
    for i, layer in enumerate(net.layers):
        if layer.type != "BatchNorm" or len(layer.blobs) != 3:
            continue
        reader = next((later for later in net.layers[i + 1:] if layer.param.top[0] in later.param.bottom), None)
        if reader is not None and reader.type == "Scale" and len(reader.param.bottom) == 1:
            if reader.param.scale_param.axis in (1, 1 - len(net.bottoms[i][0].shape)) \
                    and reader.blobs[0].shape == layer.blobs[0].shape:
                scales[layer.name] = reader
    return scales
