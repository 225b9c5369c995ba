"""Checks of a layer: gradients, sizes that change, in-place work, images one by one, single precision.

For tests of your own layers. The layer may be a class registered with `spp.layers.register`, or a Python layer:

    import spp
    from spp.testing import check_layer

    class Double(spp.Layer):
        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].shape)

        def forward(self, bottom, top):
            top[0].data[...] = 2 * bottom[0].data

        def backward(self, top, propagate_down, bottom):
            bottom[0].diff[...] = 2 * top[0].diff

    def test_double():
        check_layer(Double, "", [(2, 3, 5, 4)])
"""
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from spp.blob import Blob
from spp.errors import SppError
from spp.layers import TRAIN, Layer, layer_class, types
from spp.net import Net
from spp.proto import to_text
from spp.proto.text import parse_net

Shapes = Sequence[tuple[int, ...]]


@dataclass
class Case:
    """A layer with its parameters and the shapes of its bottoms; see `check_layer` for the fields."""

    type: str
    params: str = ""
    shapes: Shapes = ((2, 3, 5, 4),)
    tops: int = 1
    phase: int = TRAIN
    labels: Mapping[int, int] = field(default_factory=dict)
    positive: bool = False
    by_image: bool = True
    gradient: bool = True
    other: Shapes | None = None
    device: str = "cpu"

    def __str__(self) -> str:
        return " ".join([f"layer {self.type}", *self.params.split()])

    def text(self, tops: Sequence[str] = ()) -> str:
        """The prototxt of a net with inputs x0, x1 ..., the layer 'l', and its tops y0, y1 ... or `tops`."""
        sizes = " ".join("shape { %s }" % " ".join(f"dim: {size}" for size in shape) for shape in self.shapes)
        inputs = [f"x{i}" for i in range(len(self.shapes))]
        outputs = tops or [f"y{i}" for i in range(self.tops)]
        lines = [*(f"bottom: '{name}'" for name in inputs), *(f"top: '{name}'" for name in outputs), self.params]
        return (f"force_backward: true layer {{ name: 'in' type: 'Input' input_param {{ {sizes} }} "
                + " ".join(f"top: '{name}'" for name in inputs)
                + f" }} layer {{ name: 'l' type: '{self.type}' {' '.join(lines)} }}")

    def values(self, index: int, shape: Sequence[int], seed: int = 0) -> Any:
        """Distinct values of bottom `index` (no ties, none near 0), in a random order; or class indices."""
        rng = np.random.default_rng([seed, index])
        if index in self.labels:
            return rng.integers(0, self.labels[index], shape)
        values = np.linspace(0.11 if self.positive else -1.93, 2.17, int(np.prod(shape)))
        return rng.permutation(values + 0.0013 * index).reshape(shape)     # distinct between bottoms too

    def fill(self, net: Net, shapes: Shapes | None = None, seed: int = 0) -> None:
        """Reshape the net's inputs and write `values` into them."""
        for i, shape in enumerate(shapes or self.shapes):
            net.blobs[f"x{i}"].reshape(shape)
            net.blobs[f"x{i}"].data[...] = self.values(i, shape, seed)

    def net(self, dtype: Any = np.float64, tops: Sequence[str] = ()) -> Net:
        """The net of `text`, with its inputs filled."""
        net = Net(parse_net(self.text(tops)), self.phase, dtype=dtype, seed=3, device=self.device)
        self.fill(net)
        return net


def check_layer(layer: type[Layer] | str, param: str = "", shapes: Shapes = ((2, 3, 5, 4),), **facts: Any) -> None:
    """Run all checks on a layer; raises AssertionError with the layer, the check, the index and both values.

    layer: a class that `spp.layers.register` knows, such a type's name, or a Python layer: any other subclass of
        spp.layers.Layer that is at the top level of an importable module.
    param: the layer's parameters as in a prototxt, "power_param { power: 2 }"; of a Python layer
        "python_param { param_str: '2' }".
    shapes: the shapes of the bottoms. Keep them small: each element is moved twice for the central differences.
    tops: the number of tops (1).
    phase: TRAIN (0, the default) or TEST (1).
    labels: which bottoms hold class indices, and how many classes there are: {1: 5}. They get no gradient.
    positive: whether the bottoms may have positive values alone (False).
    by_image: whether axis 0 of all bottoms and tops counts images that do not influence each other (True).
    gradient: whether the layer has a gradient (True); otherwise backward must leave the gradients of the bottoms 0.
    other: shapes to change to and back; by default one more image, and 2 more along each axis after the channels.

    The values of the bottoms are distinct and not near 0. Parameters whose `lr_mult` is 0 are not checked.
    """
    case = Case(*_described(layer, param), shapes, **facts)
    for check in CHECKS:
        try:
            check(case)
        except (AssertionError, SppError):
            raise
        except Exception as error:
            raise AssertionError(f"{case}: {check.__name__}: {type(error).__name__}: {error}") from error


def check_gradient(case: Case) -> None:
    """Backward is the derivative of forward, by all bottoms and parameters."""
    net = case.net()
    bottoms = _bottoms(case, net)
    if not case.gradient:
        net.forward()
        net.backward()
        for name, blob in bottoms.items():
            _compare(case, "no gradient", f"gradient of {name}", blob.diff, np.zeros(blob.shape))
        return
    if not check_gradients(net, bottoms | _learned(net), what=str(case)):
        raise AssertionError(f"{case}: gradient: there is no element that it could be checked by")


def check_accumulation(case: Case) -> None:
    """Backward adds to the gradients of parameters, and overwrites those of bottoms."""
    net = case.net()
    net.forward()
    for name in net.outputs:
        net.blobs[name].diff[...] = 0.7
    net.backward()
    bottoms, learned = _bottoms(case, net), _learned(net)
    once = {name: np.array(blob.diff) for name, blob in (bottoms | learned).items()}
    net.backward()
    for name, blob in learned.items():
        if not once[name].any():
            raise AssertionError(f"{case}: accumulation: gradient of {name} is 0 everywhere")
        _compare(case, "accumulation after two backwards", f"gradient of {name}", blob.diff, 2 * once[name], 1e-12)
    for name, blob in bottoms.items():
        _compare(case, "a second backward must overwrite", f"gradient of {name}", blob.diff, once[name])


def check_other_size(case: Case) -> None:
    """Another size gives what a new net gives, and the first size again what it gave before."""
    net = case.net()
    state, before = net.state(), _forward(net)
    other = case.other or [(s[0] + 1, *s[1:2], *(size + 2 for size in s[2:])) for s in case.shapes]
    case.fill(net, other, seed=1)
    resized = _forward(net)
    if not net.state():
        fresh = replace(case, shapes=other).net()
        case.fill(fresh, other, seed=1)
        for mine, theirs in zip(net.params.get("l", []), fresh.params.get("l", [])):
            theirs.data[...] = mine.data
        _compare_all(case, "other size", resized, _forward(fresh))
    case.fill(net)
    net.restore(state)
    _compare_all(case, "first size again", _forward(net), before)


def check_in_place(case: Case) -> None:
    """In place the layer computes what it computes otherwise, or the net refuses it."""
    if len(case.shapes) != 1 or case.tops != 1:
        return
    apart = case.net()
    if not apart.layers[-1].in_place:
        _must_refuse(case, "in place", "cannot work in place", lambda: case.net(tops=["x0"]))
        return
    same = case.net(tops=["x0"])
    apart.forward()
    same.forward()
    _compare(case, "in place", "top 0", same.blobs["x0"].data, apart.blobs["y0"].data)
    if case.gradient:
        apart.blobs["y0"].diff[...] = same.blobs["x0"].diff[...] = case.values(5, apart.blobs["y0"].shape)
        apart.backward()
        same.backward()
        _compare(case, "in place", "gradient of bottom 0", same.blobs["x0"].diff, apart.blobs["x0"].diff, 1e-12)


def check_images(case: Case) -> None:
    """A batch gives what its images give one by one."""
    if not case.by_image:
        return
    net = case.net()
    whole = _forward(net)
    for n in range(case.shapes[0][0]):
        for i, shape in enumerate(case.shapes):
            net.blobs[f"x{i}"].reshape(1, *shape[1:])
            net.blobs[f"x{i}"].data[...] = case.values(i, shape)[n:n + 1]
        _compare_all(case, f"image {n} alone", _forward(net), {name: batch[n:n + 1] for name, batch in whole.items()},
                     1e-12, 1e-14)


def check_single_precision(case: Case) -> None:
    """A net of float32 has outputs of float32, near those of float64."""
    single, double = _forward(case.net(np.float32)), _forward(case.net())
    for name, data in single.items():
        if data.dtype != np.float32:
            raise AssertionError(f"{case}: single precision: {name} is of {data.dtype}, expected float32")
    _compare_all(case, "single precision", single, double, 1e-4, 1e-5)


def check_unknown_parameter(case: Case) -> None:
    """A parameter that no layer has is an error that names it."""
    _must_refuse(case, "unknown parameter", "no_such_thing",
                 lambda: parse_net(case.text().replace("name: 'l'", "name: 'l' no_such_thing: 1")))


CHECKS = (check_gradient, check_accumulation, check_other_size, check_in_place, check_images, check_single_precision,
          check_unknown_parameter)


def check_gradients(net: Net, blobs: Mapping[str, Blob], step: float = 1e-5, tolerance: float = 1e-6,
                    what: str = "net") -> int:
    """Compare the gradients of sum(weight * output) with central differences, by every element of `blobs`.

    The outputs are weighted with fixed random numbers, so that errors cannot cancel, and a loss with its loss weight.
    net: of float64. tolerance: relative to the derivative, absolute where that is below 1. Returns the number of
    elements; raises AssertionError for the first one that differs.
    """
    net.forward()
    rng, states = np.random.default_rng(7), net.state()
    weights = {name: rng.normal(size=net.blobs[name].shape) if not net.loss_weights.get(name)
               else np.full(net.blobs[name].shape, net.loss_weights[name]) for name in net.outputs}

    def objective() -> float:
        net.restore(states)
        net.forward()
        return sum(float((weights[name] * net.blobs[name].data).sum()) for name in net.outputs)

    objective()
    for name, weight in weights.items():
        net.blobs[name].diff[...] = weight
    net.clear_param_diffs()
    net.backward()
    gradients = {name: np.array(blob.diff) for name, blob in blobs.items()}
    for name, blob in blobs.items():
        for index in np.ndindex(*blob.shape):
            value, objectives = blob.data[index], []
            for moved in (value + step, value - step):
                blob.data[index] = moved
                objectives.append(objective())
            blob.data[index] = value
            expected, gradient = (objectives[0] - objectives[1]) / (2 * step), float(gradients[name][index])
            if not abs(gradient - expected) <= tolerance * max(1.0, abs(expected), abs(gradient)):
                raise AssertionError(f"{what}: gradient of {name} at {list(index)} is {gradient:.10g} by backward, "
                                     f"{expected:.10g} by central differences")
    return sum(blob.count for blob in blobs.values())


def _described(layer: type[Layer] | str, param: str) -> tuple[str, str]:
    """Type name and parameters of a layer."""
    if isinstance(layer, str):
        return layer, param
    for name in types():
        if layer_class(name) is layer:
            return name, param
    if "." in layer.__qualname__:       # a net looks for Python layers by module and name
        raise SppError(f"check_layer: {layer.__qualname__} is not at the top level of its module; move it there")
    message = parse_net(f"layer {{ {param} }}").layer[0]
    message.python_param.module, message.python_param.layer = layer.__module__, layer.__name__
    return "Python", to_text(message)


def _forward(net: Net) -> dict[str, Any]:
    """Run the net; returns copies of the layer's tops by name."""
    net.forward()
    return {f"top {name[1:]}": np.array(net.blobs[name].data) for name in net.outputs if name.startswith("y")}


def _bottoms(case: Case, net: Net) -> dict[str, Blob]:
    """The bottoms that get a gradient."""
    return {f"bottom {i}": net.blobs[f"x{i}"] for i in range(len(case.shapes)) if i not in case.labels}


def _learned(net: Net) -> dict[str, Blob]:
    """The parameters that a solver learns: not BatchNorm's statistics."""
    return {f"parameter {i}": entry.blob for i, entry in enumerate(net.learnable) if entry.lr_mult}


def _compare_all(case: Case, check: str, actual: Mapping[str, Any], expected: Mapping[str, Any],
                 relative: float = 0, absolute: float = 0) -> None:
    for name, values in expected.items():
        _compare(case, check, name, actual[name], values, relative, absolute)


def _compare(case: Case, check: str, what: str, actual: Any, expected: Any, relative: float = 0,
             absolute: float = 0) -> None:
    """Raise AssertionError for the first element that is not within the tolerances; NaN equals NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        raise AssertionError(f"{case}: {check}: {what} has shape {actual.shape}, expected {expected.shape}")
    for index in np.argwhere(~np.isclose(actual, expected, relative, absolute, equal_nan=True)).tolist():
        raise AssertionError(f"{case}: {check}: {what} at {index} is {actual[tuple(index)]:.10g}, expected "
                             f"{expected[tuple(index)]:.10g}")


def _must_refuse(case: Case, check: str, message: str, function: Callable[[], Any]) -> None:
    error = "missing"
    try:
        function()
    except SppError as raised:
        error = str(raised)
    if message not in error:
        raise AssertionError(f"{case}: {check}: the error is {error!r}, expected {message!r}")
