"""caffe.Net: a net by its prototxt, with blobs and parameters as NumPy arrays, run whole or in part."""
import functools
import os
import warnings
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, Callable, Iterator, Sequence

import numpy as np

import spp.net
from spp import host_copy, weights as weight_files
from spp.blob import Blob
from spp.layers.base import host_views
from spp.pycaffe import common
from spp.pycaffe.common import CaffeError, caffe_errors, readable

Arrays = dict[str, np.ndarray]


class OnDevice:
    """Base of Net and Solver, which synchronises the caller's arrays with the memory of `_all_blobs` on a GPU."""

    _all_blobs: list[Blob]

    @contextmanager
    def _engine(self) -> Iterator[None]:
        """Surround the engine's work, whose errors become CaffeErrors."""
        with caffe_errors(), host_copy.device_access(self._all_blobs):
            yield

    def _with_host_access(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, surrounded as the caller's code within the engine's work."""
        @functools.wraps(function)
        def run(*args: Any) -> Any:
            with host_copy.host_access(self._all_blobs):
                return function(*args)
        return run


class Net(OnDevice):
    """Net(network_file, phase, level=0, stages=None, weights=None), or the old form Net(network_file, weights, phase).

    Public attributes: `blobs` (name to Blob), `params` (layer name to its Blobs), `layers`, `layer_dict`, `inputs`,
    `outputs`, `top_names`, `bottom_names` and `blob_loss_weights`. A Blob's `data` and `diff` are float32 arrays that
    share the net's memory: the net uses what is written into them, and they outlive the net. Arrays of 4 axes have
    the shape N x C x H x W and are stored channels-last, so that `reshape(-1)` makes a copy. On a GPU the arrays are
    copies on the host, in C order, that are synchronised with the net's memory.

    Raises CaffeError, a RuntimeError, for a missing file and for any error in the net.
    """

    @caffe_errors()
    def __init__(self, network_file: str | os.PathLike[str], phase: Any, level: Any = 0,
                 stages: Sequence[str] | None = None, weights: Any = None) -> None:
        if isinstance(phase, (str, os.PathLike)):
            warnings.warn("Net(file, weights, phase) is deprecated; write Net(file, phase, weights=weights)",
                          DeprecationWarning, stacklevel=3)
            phase, level, weights = level, 0, phase
        path = readable(network_file)
        self._adopt(spp.net.Net(path, phase, level, stages or (), readable(weights) if weights is not None else None,
                                common.device(), seed=common.next_seed(), rank=common.solver_rank()))
        weakref.finalize(self, self._net.close)     # the threads of data layers would run on

    @classmethod
    def of(cls, net: spp.net.Net, owner: Any) -> "Net":
        """A caffe.Net for an existing spp.net.Net, which its owner closes."""
        result = cls.__new__(cls)
        result._adopt(net)
        result._owner = owner
        return result

    _owner: Any = None

    def _adopt(self, net: spp.net.Net) -> None:
        self._net = net
        self.name = net.name
        self._all_blobs = [*net.blobs.values(), *(blob for layer in net.layers for blob in layer.blobs)]
        self.layers = [_host_layer(layer) for layer in net.layers]
        self.blobs: OrderedDict[str, Blob] = OrderedDict(
            (name, host_copy.host_view(b)) for name, b in net.blobs.items())
        self.params = OrderedDict((layer.name, layer.blobs) for layer in self.layers if layer.name in net.params)
        self.inputs, self.outputs = list(net.inputs), list(net.outputs)
        self.layer_dict = OrderedDict((layer.name, layer) for layer in self.layers)
        self.top_names = OrderedDict((layer.name, list(layer.param.top)) for layer in net.layers)
        self.bottom_names = OrderedDict((layer.name, list(layer.param.bottom)) for layer in net.layers)
        self.blob_loss_weights = OrderedDict((name, net.loss_weights.get(name, 0.0)) for name in net.blobs)
        self._layer_names = [layer.name for layer in net.layers]
        self._blob_names = list(self.blobs)
        self._blobs = list(self.blobs.values())
        self._inputs = [self._blob_names.index(name) for name in self.inputs]
        self._outputs = [self._blob_names.index(name) for name in self.outputs]
        self._loss_shapes: dict[str, Any] = {}
        self._set_loss_diffs()

    # --- forward

    @caffe_errors()
    def forward(self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None,
                **kwargs: Any) -> Arrays:
        """Run the net, or its layers from `start` to `end` (names, both inclusive).

        Keyword arguments are inputs by name. Returns the outputs, or the tops of layer `end`, and the blobs named in
        `blobs`: name to array, sharing the net's memory. An input with another height and width than its blob
        reshapes the net; its batch size must be the blob's. Raises CaffeError for unknown names and wrong shapes.
        """
        first = self._number(start) if start is not None else 0
        last = self._number(end) if end is not None else len(self.layers) - 1
        names = [*(self.top_names[end] if end is not None else self.outputs), *(blobs or ())]
        self._check_blobs(names)
        if kwargs:
            self._check_inputs(kwargs)
            for name, values in kwargs.items():
                self._set_input(name, np.asarray(values))
        self._forward(first, last)
        return {name: self.blobs[name].data for name in names}

    def _check_inputs(self, arguments: dict[str, Any]) -> None:
        if set(arguments) != set(self.inputs) or not arguments:
            raise CaffeError(f"Input blob arguments do not match net inputs. The inputs are {_listed(self.inputs)}, "
                             f"the arguments {_listed(arguments)}")

    def _set_input(self, name: str, values: np.ndarray) -> None:
        blob = self.blobs[name]
        if values.shape[:1] != blob.shape[:1]:
            raise CaffeError(f"Input is not batch sized: {name!r} has the shape {values.shape}, the blob has "
                             f"{blob.shape}; set another by net.blobs[{name!r}].reshape(...), or use forward_all")
        if values.ndim == len(blob.shape):
            blob.reshape(values.shape)
        blob.data[...] = values

    def _forward(self, first: int, last: int) -> float:
        """Run the layers from index `first` to `last`; returns their loss."""
        with self._engine():
            self._net.forward_layers(first, last)
            return self._net.loss_of_layers(first, last)

    @caffe_errors()
    def forward_all(self, blobs: Sequence[str] | None = None, **kwargs: Any) -> Arrays:
        """Run the net on any number of images, batch by batch; the last batch is padded with zeros.

        Returns copies, with one row per image (one per batch for outputs without a batch axis, such as a loss).
        """
        self._check_inputs(kwargs)
        return self._joined([_copies(self.forward(blobs, **batch)) for batch in self._batches(kwargs)], kwargs)

    # --- backward

    @caffe_errors()
    def backward(self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None,
                 **kwargs: Any) -> Arrays:
        """Run the net backward, or its layers from `start` down to `end` (names, both inclusive).

        Keyword arguments are outputs' diffs by name. Without one, the diff of a loss is its loss weight or what was
        last written into it, and the diff of another output is what was written into it. Gradients of parameters
        accumulate until `clear_param_diffs`. Returns the diffs of the inputs, or of the bottoms of layer `end`, and of
        the blobs named in `diffs`. Warns if there is neither a loss nor a diff other than zero.
        """
        first = self._number(start) if start is not None else len(self.layers) - 1
        last = self._number(end) if end is not None else 0
        names = [*(self.bottom_names[end] if end is not None else self.inputs), *(diffs or ())]
        self._check_blobs(names)
        if kwargs:
            if set(kwargs) != set(self.outputs):
                raise CaffeError(f"Top diff arguments do not match net outputs. The outputs are "
                                 f"{_listed(self.outputs)}, the arguments {_listed(kwargs)}")
            for name, values in kwargs.items():
                blob = self.blobs[name]
                if blob.shape == ():
                    values = np.reshape(values, ())
                if np.shape(values)[:1] != blob.shape[:1]:
                    raise CaffeError(f"Diff is not batch sized: {name!r} has the shape {np.shape(values)}, "
                                     f"the blob {blob.shape}")
                blob.diff[...] = values
        computed = self._backward(first, last)
        if not computed:
            warnings.warn("backward computed nothing: the net has no loss that needs a gradient here; for that of an "
                          "output, write force_backward: true in the prototxt and set the output's diff",
                          RuntimeWarning, stacklevel=3)
        elif not self._has_gradient(first, last):
            tops = self.top_names[start] if start is not None else self.outputs
            warnings.warn(f"backward gave zeros: there is no loss here, and the diff of {_listed(tops)} is zero; set "
                          f"it first, as in net.blobs[{tops[0]!r}].diff[...] = 1", RuntimeWarning, stacklevel=3)
        return {name: self.blobs[name].diff for name in names}

    def _backward(self, first: int, last: int) -> int:
        """Run the layers from index `first` down to `last` backward; returns how many had a gradient to compute."""
        if any(self.blobs[name].shape != shape for name, shape in self._loss_shapes.items()):
            self._set_loss_diffs()
        with self._engine():
            return self._net.backward_layers(first, last)

    def _set_loss_diffs(self) -> None:
        """Set the losses' diffs to their loss weights, initially and after a change of shape."""
        with self._engine():
            self._net.set_loss_diffs()
        self._loss_shapes = {name: self.blobs[name].shape for name, weight in self.blob_loss_weights.items() if weight}

    def _has_gradient(self, first: int, last: int) -> bool:
        """Whether the layers have a loss or a top with a non-zero diff, from which backward can start."""
        names = {name for i in range(last, first + 1) for name in self._net.layers[i].param.top}
        with self._net.context.backend.use():
            return (any(layer.is_loss for layer in self._net.layers[last:first + 1])
                    or any(blob.has_diff and bool(blob.diff.any()) for blob in map(self._net.blob, names)))

    @caffe_errors()
    def forward_backward_all(self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None,
                             **kwargs: Any) -> tuple[Arrays, Arrays]:
        """Run the net forward and backward on any number of images, batch by batch, as `forward_all` does.

        Keyword arguments are inputs and outputs' diffs by name. Returns copies: outputs, and inputs' diffs.
        """
        inputs = {name: kwargs[name] for name in self.inputs if name in kwargs}
        tops = {name: kwargs[name] for name in self.outputs if name in kwargs}
        if not inputs or len(inputs) + len(tops) < len(kwargs):
            raise CaffeError(f"Input blob arguments do not match net inputs and outputs, {_listed(self.inputs)} and "
                             f"{_listed(self.outputs)}: the arguments are {_listed(kwargs)}")
        all_outputs, all_diffs = [], []
        for batch, top_batch in zip_longest(self._batches(inputs), self._batches(tops) if tops else ()):
            all_outputs.append(_copies(self.forward(blobs, **batch)))
            all_diffs.append(_copies(self.backward(diffs, **top_batch or {})))
        return self._joined(all_outputs, inputs), self._joined(all_diffs, inputs)

    def _batches(self, arrays: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The arrays in batches of their blobs' size; the last batch is padded with zeros."""
        self._check_blobs(arrays)
        count = _count(arrays)
        for name, values in arrays.items():
            if len(values) != count:
                raise CaffeError(f"all arrays must have as many rows: {name!r} has {len(values)}, the first {count}")
        size = self.blobs[next(iter(arrays))].shape[0]
        for begin in range(0, count, size):
            batch = {}
            for name, values in arrays.items():
                part = np.asarray(values[begin:begin + size])
                batch[name] = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
            yield batch

    def _joined(self, batches: list[Arrays], inputs: dict[str, Any]) -> Arrays:
        """The batches of each name in one array, without the rows that pad the last one."""
        size, count = self.blobs[next(iter(inputs))].shape[0], _count(inputs)
        joined = {name: np.concatenate([batch[name] for batch in batches]) for name in (batches[0] if batches else ())}
        return {name: values[:count] if len(batches[0][name]) == size else values for name, values in joined.items()}

    # --- names

    def _number(self, layer: str) -> int:
        if layer not in self._layer_names:
            raise CaffeError(f"no layer {layer!r} in net {self.name!r}; its layers are {_listed(self._layer_names)}")
        return self._layer_names.index(layer)

    def _check_blobs(self, names: Any) -> None:
        for name in names:
            self._net.blob(name)

    # --- the rest

    def reshape(self) -> None:
        """Reshape all blobs after an input was reshaped; forward does it too."""
        with self._engine():
            self._net.reshape()

    def clear_param_diffs(self) -> None:
        """Set the gradients of all parameters to 0."""
        with self._engine():
            self._net.clear_param_diffs()

    def copy_from(self, weights: str | os.PathLike[str]) -> None:
        """Load weights by layer name from a .caffemodel, binary or HDF5."""
        with self._engine():
            self._net.copy_from(readable(weights))

    def share_with(self, other: "Net") -> None:
        """Share the memory of another net's weights, for layers of the same name."""
        with self._engine(), other._engine():
            self._net.share_with(other._net)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write layers and weights to a .caffemodel (HDF5 if the name ends in .h5)."""
        with self._engine():
            self._net.save(os.fspath(path))

    def save_hdf5(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to an HDF5 file of any name."""
        with self._engine(), self._net.context.backend.use():
            weight_files.write_hdf5(self._net, os.fspath(path))

    def load_hdf5(self, path: str | os.PathLike[str]) -> None:
        """Load weights by layer name from an HDF5 file; raises CaffeError for another file."""
        if not weight_files.is_hdf5(readable(path)):
            raise CaffeError(f"{os.fspath(path)}: is no HDF5 file; copy_from loads a binary .caffemodel")
        with self._engine():
            self._net.copy_from(os.fspath(path))

    @caffe_errors()
    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Set the examples of a net whose first layer is MemoryData: float32, n x C x H x W, and n labels.

        n must be a multiple of the layer's batch_size. The arrays are not copied.
        """
        first: Any = self._net.layers[0]
        if first.type != "MemoryData":
            raise CaffeError(f"set_input_arrays may only be called if the first layer is a MemoryData layer; it is "
                             f"{first.name!r} ({first.type})")
        first.set_input_arrays(data, labels)

    def before_forward(self, function: Callable[[int], Any]) -> None:
        """Call `function(layer index)` before each layer's forward."""
        self._net.before_forward.append(self._with_host_access(function))

    def after_forward(self, function: Callable[[int], Any]) -> None:
        """Call `function(layer index)` after each layer's forward."""
        self._net.after_forward.append(self._with_host_access(function))

    def before_backward(self, function: Callable[[int], Any]) -> None:
        """Call `function(layer index)` before each layer's backward, even if it has no gradient to compute."""
        self._net.before_backward.append(self._with_host_access(function))

    def after_backward(self, function: Callable[[int], Any]) -> None:
        """Call `function(layer index)` after each layer's backward."""
        self._net.after_backward.append(self._with_host_access(function))


class _HostLayer:
    """A layer of a net on a GPU whose parameters are NumPy arrays."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.blobs = host_views(layer.blobs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def _host_layer(layer: Any) -> Any:
    return _HostLayer(layer) if layer.context.backend.asynchronous else layer


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"


def _count(arrays: dict[str, Any]) -> int:
    return len(next(iter(arrays.values())))


def _copies(arrays: Arrays) -> Arrays:
    return {name: np.array(np.atleast_1d(values)) for name, values in arrays.items()}
