"""The learnable parameters of a net; those with the same name share memory (Caffe's AppendParam)."""
from dataclasses import dataclass
from typing import Any, Callable, ContextManager, Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers import Layer
from spp.proto import caffe_pb2


@dataclass
class LearnableParam:
    """A parameter that a solver updates, with its multipliers of the learning rate and of the weight decay."""

    blob: Blob
    name: str
    lr_mult: float
    decay_mult: float


def collect(layers: Sequence[Layer], error_context: Callable[[Any], ContextManager[None]]
            ) -> tuple[list[LearnableParam], dict[int, LearnableParam]]:
    """The learnable parameters in layer order, and the one of every layer's blob, by the blob's id.

    Parameters with the same name share memory afterwards: all their blobs map to the LearnableParam of the owner, the
    first layer with that name. `error_context(layer.param)` adds the layer to an error's message. Raises NetError if
    parameters with the same name differ in size or multipliers.
    """
    learnable: list[LearnableParam] = []
    of_blob: dict[int, LearnableParam] = {}
    owners: dict[str, tuple[Layer, int, LearnableParam]] = {}
    for layer in layers:
        with error_context(layer.param):
            specs = layer.param.param
            if len(specs) > len(layer.blobs):
                raise NetError(f"too many param blocks: {len(specs)} for {len(layer.blobs)} parameter(s)")
            for i, blob in enumerate(layer.blobs):
                spec = specs[i] if i < len(specs) else caffe_pb2.ParamSpec()
                if spec.name in owners:
                    _share(layer, i, spec, *owners[spec.name])
                    of_blob[id(blob)] = owners[spec.name][2]
                    continue
                param = LearnableParam(blob, f"{layer.name}[{i}]", spec.lr_mult, spec.decay_mult)
                learnable.append(param)
                of_blob[id(blob)] = param
                if spec.name:
                    owners[spec.name] = (layer, i, param)
    return learnable, of_blob


def _share(layer: Layer, index: int, spec: Any, owner: Layer, owner_index: int, param: LearnableParam) -> None:
    """Let a layer's blob share the memory of its owner's; `param` is the owner's, and takes over multipliers."""
    mine, theirs = layer.blobs[index], owner.blobs[owner_index]
    permissive = spec.share_mode == spec.PERMISSIVE
    fits = mine.count == theirs.count if permissive else mine.shape == theirs.shape
    if not fits:
        raise NetError(f"cannot share param {spec.name!r} owned by layer {owner.name!r}: "
                       f"{'count' if permissive else 'shape'} mismatch, the owner's shape is {theirs.shape}, "
                       f"this layer's is {mine.shape}")
    owner_spec = owner.param.param[owner_index]
    for field in ("lr_mult", "decay_mult"):
        if spec.HasField(field):
            value = getattr(spec, field)
            if owner_spec.HasField(field) and value != getattr(param, field):
                raise NetError(f"shared param {spec.name!r} has mismatched {field}: {value:g} here, "
                               f"{getattr(param, field):g} in its owner, layer {owner.name!r}")
            setattr(param, field, value)
    mine.share_data(theirs)
    mine.share_diff(theirs)
