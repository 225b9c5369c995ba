"""Writing nets in Python: NetSpec, layers (`L.Convolution(...)`), params (`P.Pooling.MAX`), to_proto."""
import difflib
from collections import Counter, OrderedDict
from typing import Any

from spp.proto import caffe_pb2
from spp.pycaffe.common import CaffeError, CaffeTypeError

# from a layer type to the field that holds its parameters: Convolution to convolution_param
_fields: Any = caffe_pb2.LayerParameter.DESCRIPTOR.fields
PARAM_FIELDS = {field.message_type.name.removesuffix("Parameter"): field.name
                for field in _fields if field.name.endswith("_param")}


class Top:
    """Output number `n` of a Function."""

    def __init__(self, fn: "Function", n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> caffe_pb2.NetParameter:
        """The net that computes this top."""
        return to_proto(self)


class Function:
    """A layer under construction: its type, the Tops it reads, its parameters as keyword arguments, and its `tops`."""

    def __init__(self, type_name: str, inputs: tuple[Top, ...], params: dict[str, Any]) -> None:
        for i, bottom in enumerate(inputs):
            if not isinstance(bottom, Top):
                raise CaffeTypeError(f"{type_name} input {i} is not a Top (type is {type(bottom)})")
        self.type_name = type_name
        self.inputs = inputs
        self.params = dict(params)
        self.ntop = self.params.pop("ntop", 1)
        self.in_place = self.params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))


class Layers:
    """`L.<Type>(*bottoms, ntop=1, in_place=False, **params)` creates a layer of any type.

    Returns its Top, a tuple of Tops if `ntop` is not 1, and the Function itself if `ntop` is 0. Parameters are those
    of the type's own block, fields of LayerParameter, or whole blocks (`convolution_param=dict(...)`).
    """

    def __getattr__(self, type_name: str) -> Any:
        if type_name.startswith("__"):
            raise AttributeError(type_name)

        def make(*inputs: Top, **params: Any) -> Any:
            fn = Function(type_name, inputs, params)
            return fn if fn.ntop == 0 else fn.tops[0] if fn.ntop == 1 else fn.tops
        return make


class Parameters:
    """`P.<Name>` is the message <Name>Parameter, for its enums: P.Pooling.MAX."""

    def __getattr__(self, name: str) -> Any:
        if not hasattr(caffe_pb2, name + "Parameter"):
            raise AttributeError(f"caffe_pb2 has no {name}Parameter, which params.{name} refers to")
        return getattr(caffe_pb2, name + "Parameter")


layers = Layers()
params = Parameters()


class NetSpec:
    """A net under construction: `n.conv1 = L.Convolution(n.data, ...)`; attribute names name tops and layers."""

    tops: OrderedDict[str, Any]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name not in self.tops:
            raise AttributeError(f"the NetSpec has no top {name!r}; its tops are {', '.join(self.tops) or 'none'}")
        return self.tops[name]

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    __setitem__, __getitem__, __delitem__ = __setattr__, __getattr__, __delattr__

    def to_proto(self) -> caffe_pb2.NetParameter:
        """The net as a NetParameter; raises CaffeError for a parameter that its layer does not have."""
        return _proto(list(self.tops.values()), {top: name for name, top in self.tops.items()})


def to_proto(*tops: Any) -> caffe_pb2.NetParameter:
    """The net that computes these tops; layers and blobs are named by type and number: Convolution1."""
    return _proto(list(tops), {})


def _proto(tops: list[Any], names: dict[Any, str]) -> caffe_pb2.NetParameter:
    writer = _Writer(names)
    for top in tops:
        writer.add(top.fn if isinstance(top, Top) else top)
    return caffe_pb2.NetParameter(layer=writer.layers.values())


class _Writer:
    """Turns Functions into LayerParameters, each after its inputs, and names the unnamed ones."""

    def __init__(self, names: dict[Any, str]) -> None:
        self.names = names
        self.layers: OrderedDict[Function, caffe_pb2.LayerParameter] = OrderedDict()
        self.numbers: Counter[str] = Counter()

    def add(self, fn: Function) -> None:
        """Append the layer of a Function, after the layers of its inputs, unless it is there already."""
        if fn in self.layers:
            return
        layer = caffe_pb2.LayerParameter(type=fn.type_name)
        for bottom in fn.inputs:
            self.add(bottom.fn)
            layer.bottom.append(self.layers[bottom.fn].top[bottom.n])
        layer.top.extend(layer.bottom if fn.in_place else [self.name(top, fn) for top in fn.tops])
        layer.name = self.name(fn.tops[0] if fn.tops else fn, fn)
        for key, value in fn.params.items():
            _assign_param(layer, key, value)
        self.layers[fn] = layer

    def name(self, item: Any, fn: Function) -> str:
        """The name of a Top or Function; a new one of type and number if it has none."""
        if item not in self.names:
            self.numbers[fn.type_name] += 1
            self.names[item] = f"{fn.type_name}{self.numbers[fn.type_name]}"
        return self.names[item]


def _assign_param(layer: caffe_pb2.LayerParameter, key: str, value: Any) -> None:
    """Set a parameter in the block of the layer's type, or, if that has no such field, in the layer itself."""
    block = PARAM_FIELDS.get(layer.type)
    block_fields = getattr(layer, block).DESCRIPTOR.fields_by_name if block else {}
    if block and not key.endswith("param") and key in block_fields:
        _assign(getattr(layer, block), key, value)
    elif key in layer.DESCRIPTOR.fields_by_name:
        _assign(layer, key, value)
    else:
        near = difflib.get_close_matches(key, [*block_fields, *layer.DESCRIPTOR.fields_by_name], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"{block or 'LayerParameter'} has no such field"
        raise CaffeError(f"layer {layer.name!r} ({layer.type}): unknown parameter {key!r}; {hint}")


def _assign(message: Any, name: str, value: Any) -> None:
    """Set a field: a message from a dict, a repeated field from a list or a single value."""
    if name not in message.DESCRIPTOR.fields_by_name:
        near = difflib.get_close_matches(name, list(message.DESCRIPTOR.fields_by_name), 1)
        raise CaffeError(f"{message.DESCRIPTOR.name} has no field {name!r}"
                         + (f"; did you mean {near[0]!r}?" if near else ""))
    field = getattr(message, name)
    try:
        if hasattr(field, "extend"):
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(item, dict):
                    _fill(field.add(), item)
                else:
                    field.append(item)
        elif isinstance(value, dict):
            _fill(field, value)
        elif hasattr(field, "CopyFrom"):
            field.CopyFrom(value)
        else:
            setattr(message, name, value)
    except (TypeError, ValueError, AttributeError) as error:
        raise CaffeTypeError(f"{message.DESCRIPTOR.name}'s {name} cannot be {value!r}: {error}") from error


def _fill(message: Any, values: dict[str, Any]) -> None:
    message.SetInParent()
    for name, value in values.items():
        _assign(message, name, value)
