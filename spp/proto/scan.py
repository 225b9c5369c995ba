"""Positions in a prototxt: the tree of its fields with their lines, parsed without the schema."""
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<space>\s+ | \#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*')
      | (?P<open_string>["'][^\n]*)
      | (?P<mark>[{}<>\[\]:,;])
      | (?P<word>[^\s{}<>\[\]:,;\#"']+)""", re.VERBOSE)
_CLOSING = {"}": "{", ">": "<", "]": "["}

Place = tuple[int, int]     # line and column, from 1
_END: Place = (1 << 60, 0)


@dataclass
class Token:
    """A token of a prototxt."""

    kind: str               # string, open_string, mark or word
    text: str
    place: Place


@dataclass
class TextField:
    """One `name: value` (once for every value of a list), or one `name { ... }`."""

    name: str
    place: Place
    value: str | None = None        # as written, with quotes; None for a block
    last: Place = _END              # position of the value, or of the closing brace
    fields: list["TextField"] = field(default_factory=list)

    def all(self, *names: str) -> list["TextField"]:
        """The fields of these names directly inside."""
        return [child for child in self.fields if child.name in names]

    def text(self, name: str) -> str | None:
        """The first value of this name directly inside, without quotes."""
        for child in self.all(name):
            if child.value:
                return child.value[1:-1] if child.value[0] in "\"'" else child.value
        return None


@dataclass
class SyntaxFault:
    """Unbalanced brackets or quotes: noticed at `noticed`; `place` is where a reader should look."""

    noticed: Place
    place: Place
    message: str


@dataclass
class Tree:
    """The fields of a text; `root` has the outermost ones."""

    root: TextField
    fault: SyntaxFault | None     # the first one; the tree ends there

    def path(self, place: Place) -> list[TextField]:
        """The fields that contain a place, from the outermost to the innermost."""
        path: list[TextField] = []
        inside = self.root
        while True:
            before = [child for child in inside.fields if child.place <= place]
            if not before or before[-1].last < place:
                return path
            inside = before[-1]
            path.append(inside)

    def layers(self) -> list[TextField]:
        """The layers' blocks, of a net or of the nets inside a solver."""
        nets = [self.root, *self.root.all("net_param", "train_net_param", "test_net_param")]
        return [layer for net in nets for layer in net.all("layer", "layers")]


def layer_name(layer: TextField) -> str | None:
    """The `name` of a layer's block."""
    return _layer_text(layer, "name")


def layer_words(layer: TextField) -> str:
    """A layer's name and type for a message: "layer 'conv1' (Convolution)"."""
    name, kind = layer_name(layer), _layer_text(layer, "type")
    return (f"layer {name!r}" if name else "layer without name") + (f" ({kind})" if kind else "")


def _layer_text(layer: TextField, name: str) -> str | None:
    for block in [layer, *layer.all("layer")]:      # V0 has name and type in an inner block
        if (text := block.text(name)) is not None:
            return text
    return None


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text, without whitespace and comments."""
    line, start = 1, 0
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "space":
            yield Token(str(match.lastgroup), match[0], (line, match.start() - start + 1))
        elif "\n" in match[0]:
            line += match[0].count("\n")
            start = match.start() + match[0].rindex("\n") + 1


def scan(text: str) -> Tree:
    """The tree of a text's fields, up to the first fault of brackets or quotes."""
    root = TextField("", (0, 0))
    opened: list[tuple[Token, TextField, Token | None]] = []    # bracket, the field it opens, the name before it
    name: Token | None = None                               # read, but its value is not yet
    token = Token("mark", "", (1, 1))
    for token in tokens(text):
        here = token.place
        inside = opened[-1][1] if opened else root
        in_list = bool(opened) and opened[-1][0].text == "["
        if token.kind == "open_string":
            begin = token.text.strip() if len(token.text) < 40 else token.text[:40] + "..."
            return Tree(root, SyntaxFault(here, here, f"the string {begin} has no closing quote"))
        if token.text == "[":
            opened.append((token, inside, name))
        elif token.text in ("{", "<"):
            block = TextField(name.text if name else "", name.place if name and not in_list else here)
            if block.name in ("layer", "layers") and block.name in [around.name for _, around, _ in opened]:
                return Tree(root, SyntaxFault(block.place, block.place,
                                              f"a '{block.name}' block begins inside another; a '}}' seems to be "
                                              f"missing for the '{inside.name}' block of line {inside.place[0]}"))
            inside.fields.append(block)
            opened.append((token, block, name))
            name = None
        elif token.text in _CLOSING:
            if name and not in_list:
                inside.fields.append(TextField(name.text, name.place, "", here))
            if not opened:
                return Tree(root, SyntaxFault(here, here, f"this '{token.text}' closes nothing; remove it"))
            bracket, block, name = opened.pop()
            if bracket.text != _CLOSING[token.text]:
                return Tree(root, SyntaxFault(here, here, f"this '{token.text}' does not close the "
                                                          f"'{bracket.text}' of line {bracket.place[0]}"))
            if bracket.text != "[":
                block.last = here
            if not opened or opened[-1][0].text != "[":
                name = None
        elif token.kind == "mark":
            continue
        elif name is None:
            name = token if token.kind == "word" else None      # another string continues the previous one
        else:
            inside.fields.append(TextField(name.text, name.place, token.text, here))
            name = name if in_list else None
    if opened:
        bracket, block, listed = opened[-1]
        if bracket.text == "[":
            what = f"the list of '{listed.text if listed else ''}' that begins here has no ']'"
            return Tree(root, SyntaxFault(token.place, bracket.place, what))
        closing = "}" if bracket.text == "{" else ">"
        what = f"the '{block.name}' block that begins here is never closed; add a '{closing}'"
        return Tree(root, SyntaxFault(token.place, block.place, what))
    return Tree(root, None)
