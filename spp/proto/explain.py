"""Error messages for prototxt: from protobuf's parse error to the place, the problem and the remedy."""
import difflib
import re
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.text_format import ParseError

from spp.proto import caffe_pb2
from spp.proto.scan import Place, Tree, layer_words, scan, tokens

_KINDS = {
    FieldDescriptor.CPPTYPE_INT32: "an integer from -2147483648 to 2147483647",
    FieldDescriptor.CPPTYPE_UINT32: "an integer from 0 to 4294967295",
    FieldDescriptor.CPPTYPE_INT64: "an integer",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_STRING: "a string in quotes",
    FieldDescriptor.CPPTYPE_MESSAGE: "a block in braces",
}
FORKS = 11000       # the first number of the fields that only forks of Caffe have
_ESCAPE = re.compile(r"""\\(?:[abfnrtv\\'"]|[0-3]?[0-7]{1,2}|x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4})""")
_NET_FIELDS = ("layer", "layers", "input")


def explain(error: ParseError, text: str, source: str, message: Message) -> str:
    """The message for `error`, which protobuf raised when it parsed `text` into `message`."""
    tree = scan(text)
    mixed = _other_kind(tree, message.DESCRIPTOR)
    if mixed:
        return f"{source}: {mixed}"
    place = (error.GetLine() or 1, error.GetColumn() or 1)
    if tree.fault and tree.fault.noticed <= place:
        return located(source, tree, tree.fault.place, tree.fault.message)
    what = _what(str(error), text, tree, place, message.DESCRIPTOR)
    return located(source, tree, place, what)


def located(source: str, tree: Tree, place: Place, what: str) -> str:
    """`what`, after the file, the line and the layer of a place."""
    path = [block for block in tree.path(place) if block.value is None]
    layer = next((f"{layer_words(block)}: " for block in path if block.name in ("layer", "layers")), "")
    return f"{source}:{place[0]}: {layer}{what}"


def bad_escape(text: str, source: str) -> str | None:
    """The message for an invalid escape, as in a Windows path; protobuf accepts some of them."""
    for token in tokens(text):
        if token.kind == "string" and "\\" in _ESCAPE.sub("", token.text):
            return located(source, scan(text), token.place, f"bad escape in {token.text}; write a backslash as \\\\")
    return None


def missing_fields(text: str, source: str, missing: list[str]) -> str:
    """The message for required fields that are not set: paths such as layer[2].clip_param.min."""
    tree = scan(text)
    inside = tree.root
    parts = missing[0].split(".")
    for part in parts[:-1]:
        name, _, index = part.rstrip("]").partition("[")
        inside = inside.all(name)[int(index or 0)]
    names = " and ".join(f"'{path.split('.')[-1]}'" for path in missing if path.split(".")[:-1] == parts[:-1])
    return located(source, tree, inside.place, f"'{inside.name}' needs {names}")


def _other_kind(tree: Tree, expected: Any) -> str | None:
    """The message if the text is a solver instead of a net, or a net instead of a solver; else None."""
    names = [child.name for child in tree.root.fields]
    has_layers = any(name in _NET_FIELDS for name in names)
    if expected.name == "SolverParameter" and has_layers:
        return "this is a net, not a solver; give the solver whose 'net' field names it"
    solver_only = [name for name in names if name in caffe_pb2.SolverParameter.DESCRIPTOR.fields_by_name
                   and name not in expected.fields_by_name]
    if expected.name == "NetParameter" and solver_only and not has_layers:
        net = tree.root.text("net") or tree.root.text("train_net")
        return ("this is a solver, not a net; give the net's own file" + (f", {net}" if net else ""))
    return None


def _what(error: str, text: str, tree: Tree, place: Place, root: Any) -> str:
    path = tree.path(place)
    around = [root]                         # the messages of the blocks that contain the place
    known = None                            # the descriptor of the innermost field
    for block in path:
        known = around[-1].fields_by_name.get(block.name)
        if known is None or known.message_type is None:
            break
        around.append(known.message_type)
    unknown = re.search(r'Message type "(.*)" has no field named "(.*)"', error)
    if unknown:
        while around[-1].full_name != unknown[1]:
            around.pop()
        return _unknown_field(unknown[2], around)

    if "Couldn't parse string" in error:
        return "the string that ends here is not UTF-8"
    token_text = next((token.text for token in tokens(text) if token.place == place), "end of the file")
    if known is None:
        return f"unexpected {token_text}; expected 'name: value' or 'name {{ ... }}'"
    if "should not have multiple" in error:
        first = [tree.root, *path][-2].all(known.name)[0]
        return f"{_words(known)} is given again (first in line {first.place[0]}); keep one"
    return _wrong_value(error, known, token_text)


def _unknown_field(name: str, around: list[Any]) -> str:
    inside = around[-1]
    words = f"{inside.name} has no field '{name}'"
    children = [child.name for child in inside.fields if child.name != "layers"
                and child.message_type and name in child.message_type.fields_by_name]
    if children:
        return f"{words}; it belongs in {' or '.join(children)}"
    for outer in around[-2::-1]:
        if name in outer.fields_by_name:
            return f"{words}; {outer.name} has it: is a '}}' missing before it?"
    fields = {known.removesuffix("_param"): known for known in inside.fields_by_name}
    close = difflib.get_close_matches(name.lower().removesuffix("_param"), fields, 1, 0.75)
    if close:
        return f"{words}; did you mean '{fields[close[0]]}'?"
    known = [field.name for field in inside.fields if field.number < FORKS]
    return f"{words}; its fields are {', '.join(known)}"


def _wrong_value(error: str, field: Any, value: str) -> str:
    if 'Expected ":"' in error:
        return f"a ':' is missing after '{field.name}'"
    if field.full_name == "caffe.V1LayerParameter.type" and value[0] in "\"'":
        return f"the type {value} is in quotes; write 'layer' instead of 'layers', or the type as in 2014"
    if field.enum_type:
        values = ", ".join(known.name for known in field.enum_type.values if known.number < FORKS)
        return f"{_words(field)} has no value {value}; use one of {values} (no quotes)"
    return f"{_words(field)} must be {_KINDS[field.cpp_type]}, found {value}"


def _words(field: Any) -> str:
    return f"{field.containing_type.name}.{field.name}"
