"""The weights of a net as the tensors of a torch state_dict, and back; as NumPy arrays, so that it needs no torch.

The tensors have the names and shapes of the module that spp.convert.torch_module returns. The metadata, a dict of JSON
values, has the sums and their weight of each BatchNorm, so that converting back returns the same bits, and the
entries that the caller adds.
"""
from typing import Any, Callable, Iterator, Mapping

import numpy as np

from spp.convert import batch_norm
from spp.convert.torch.names import attributes, folded_scales, tensors
from spp.errors import ConvertError
from spp.layers import Layer
from spp.layers.base import format_shape

Arrays = dict[str, np.ndarray]
STATISTICS = ("mean", "variance", "weight")     # of a BatchNorm, in the metadata


def from_net(net: Any) -> tuple[Arrays, dict[str, Any]]:
    """The state_dict of a Net, and its metadata."""
    arrays: Arrays = {}
    statistics = {}
    for layer, attribute, scale in _layers(net):
        if layer.type == "BatchNorm":
            statistics[attribute] = _write_batch_norm(layer, attribute, scale, arrays)
            continue
        for key, blob, change in _parameters(layer, attribute):
            arrays[key] = np.ascontiguousarray(change(_host(blob)))
            if key.endswith(".bias_ih_l0"):     # Caffe has one bias where torch has two
                arrays[key.replace("_ih_", "_hh_")] = np.zeros_like(arrays[key])
    return arrays, {"net": net.name, "batch_norm": statistics} if statistics else {"net": net.name}


def into_net(net: Any, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any], source: str) -> None:
    """Set a Net's weights to those of a state_dict; `source` names it in messages.

    Raises ConvertError, and changes nothing, for a tensor that is missing, unused, or of another shape, and for
    different tensors of a shared parameter.
    """
    state = _State(arrays, source)
    values: list[tuple[Any, np.ndarray, str]] = []
    for layer, attribute, scale in _layers(net):
        if layer.type == "BatchNorm":
            values += _read_batch_norm(layer, attribute, scale, state, metadata.get("batch_norm", {}).get(attribute))
            continue
        for key, blob, change in _parameters(layer, attribute):
            shape = change(_host(blob)).shape
            array = state.take(key, shape)
            if key.endswith(".bias_ih_l0"):
                other = state.take(key.replace("_ih_", "_hh_"), shape, np.zeros(shape))
                array = array + other if other.any() else array
            values.append((blob, change(array), key))
    state.check_all_used(net)
    written: dict[int, tuple[np.ndarray, str]] = {}
    for blob, array, key in values:
        first = written.setdefault(id(blob.memory), (array, key))
        if not np.array_equal(first[0].ravel(), array.ravel(), equal_nan=True):
            raise ConvertError(f"{source}: tensors {first[1]!r} and {key!r} differ, but in net {net.name!r} they are "
                               "one shared parameter; make them equal, or give the layers parameters of their own")
    for blob, array, _ in values:
        blob.data[...] = blob.backend.from_host(array.astype(blob.dtype).reshape(blob.shape))


class _State:
    """The tensors of a state_dict, and the keys of those that were used."""

    def __init__(self, arrays: Mapping[str, np.ndarray], source: str) -> None:
        self.arrays, self.source = arrays, source
        self.used: set[str] = set()

    def take(self, key: str, shape: tuple[int, ...], default: np.ndarray | None = None) -> np.ndarray:
        """The tensor of a key, which must have this shape."""
        if key not in self.arrays:
            if default is not None:
                return default
            raise ConvertError(f"{self.source}: there is no tensor {key!r}; it has {_some(list(self.arrays))}")
        array = self.arrays[key]
        if array.shape != shape:
            raise ConvertError(f"{self.source}: tensor {key!r} is {format_shape(array.shape)}, the net needs "
                               f"{format_shape(shape)}")
        if array.dtype.kind != "f":
            raise ConvertError(f"{self.source}: tensor {key!r} has the dtype {array.dtype}; weights are floats")
        self.used.add(key)
        return array

    def check_all_used(self, net: Any) -> None:
        left = [key for key in self.arrays if key not in self.used and not key.endswith("num_batches_tracked")]
        if left:
            raise ConvertError(f"{self.source}: no layer of net {net.name!r} has a place for {_some(left)}; are they "
                               "the weights of another net?")


def _layers(net: Any) -> Iterator[tuple[Layer, str, Layer | None]]:
    """Layers with parameters, each with its attribute and, for a BatchNorm, the Scale that is folded into it."""
    names, scales = attributes(net.layers), folded_scales(net)
    folded = {scale.name for scale in scales.values()}
    for layer in net.layers:
        if layer.blobs and layer.name not in folded:
            yield layer, names[layer.name], scales.get(layer.name)


def _parameters(layer: Layer, attribute: str) -> Iterator[tuple[str, Any, Callable[[Any], np.ndarray]]]:
    """Key, blob, and the change of its array to torch's form, which also changes torch's array to Caffe's order."""
    changes: dict[str, Callable[[Any], np.ndarray]] = {"LSTM": swap_gates, "PReLU": np.ravel}
    for blob, name in zip(layer.blobs, tensors(layer)):
        yield f"{attribute}.{name}" if name else attribute, blob, changes.get(layer.type, np.asarray)


def swap_gates(array: np.ndarray) -> np.ndarray:
    """Caffe's gates i, f, o, g in rows as torch's i, f, g, o; and back."""
    return array.reshape(4, -1, *array.shape[1:])[[0, 1, 3, 2]].reshape(array.shape)


def _write_batch_norm(layer: Layer, attribute: str, scale: Layer | None, arrays: Arrays) -> dict[str, Any]:
    """Add torch's tensors of a BatchNorm; returns the metadata: Caffe's sums."""
    learned = scale.blobs if scale else layer.blobs[3:]
    if learned:
        arrays[f"{attribute}.weight"] = _host(learned[0])
        arrays[f"{attribute}.bias"] = _host(learned[1]) if len(learned) > 1 else np.zeros_like(_host(learned[0]))
    sums = [_host(blob) for blob in layer.blobs[:3]]
    for name, array in zip(("running_mean", "running_var"), batch_norm.means(*sums)):
        arrays[f"{attribute}.{name}"] = array
    arrays[f"{attribute}.num_batches_tracked"] = np.zeros((), np.int64)
    return {name: batch_norm.encode(array) for name, array in zip(STATISTICS, sums)}


def _read_batch_norm(layer: Layer, attribute: str, scale: Layer | None, state: _State,
                     stored: Any) -> Iterator[tuple[Any, np.ndarray, str]]:
    """The values of a BatchNorm's blobs, and of its Scale's."""
    learned, channels = scale.blobs if scale else layer.blobs[3:], layer.blobs[0].shape
    for blob, name in zip(learned, ("weight", "bias")):
        yield blob, state.take(f"{attribute}.{name}", channels), f"{attribute}.{name}"
    if len(learned) == 1 and state.take(f"{attribute}.bias", channels, np.zeros(channels)).any():
        raise ConvertError(f"{state.source}: tensor '{attribute}.bias' is not 0, and layer "
                           f"{(scale or layer).name!r} has no bias; set bias_term: true in the prototxt")
    running = [state.take(f"{attribute}.{name}", channels) for name in ("running_mean", "running_var")]
    try:
        sums = batch_norm.sums(running, [batch_norm.decode(stored[name]) for name in STATISTICS] if stored else [],
                               layer.param.batch_norm_param.moving_average_fraction)
    except (KeyError, TypeError, ValueError) as error:
        raise ConvertError(f"{state.source}: its metadata of {attribute!r} is damaged; convert the weights again, or "
                           "remove it") from error
    for i, array in enumerate(sums):
        yield layer.blobs[i], array, f"{attribute} (statistics)"


def _host(blob: Any) -> np.ndarray:
    return np.array(blob.backend.to_host(blob.data))


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "") if keys else "no tensors"
