"""Prototxt: what is read, and the whole message of everything that is refused."""
import random

import pytest

from folders import GOLDEN
from spp.errors import ProtoError
from spp.proto import caffe_pb2, parse_net, parse_solver, read_net, read_solver, to_text, where, write_text

PROTOTXT = sorted(GOLDEN.rglob("*.prototxt"))

CONV = """name: "n"  # a comment with { and "
layer {
  name: "conv1" type: 'Convolution'
  convolution_param {
    num_output: 3
    %s
  }
}
"""
IN_CONV = "F:6: layer 'conv1' (Convolution): "
ENGINES = "use one of DEFAULT, CAFFE, CUDNN (no quotes)"
UINT = "must be an integer from 0 to 4294967295, found"
# What stands in line 6 of CONV, and the message.
CONV_ERRORS = [
    ("kernel_sise: 3", "ConvolutionParameter has no field 'kernel_sise'; did you mean 'kernel_size'?"),
    ("Kernel_Size: 3", "ConvolutionParameter has no field 'Kernel_Size'; did you mean 'kernel_size'?"),
    ("lr_mult: 3", "ConvolutionParameter has no field 'lr_mult'; its fields are num_output, bias_term, pad, "
     "kernel_size, group, stride, weight_filler, bias_filler, pad_h, pad_w, kernel_h, kernel_w, stride_h, "
     "stride_w, engine, axis, force_nd_im2col, dilation"),
    ("std: 0.01", "ConvolutionParameter has no field 'std'; it belongs in weight_filler or bias_filler"),
    ("top: 'x'", "ConvolutionParameter has no field 'top'; "
     "LayerParameter has it: is a '}' missing before it?"),
    ("num_output: 4", "ConvolutionParameter.num_output is given again (first in line 5); keep one"),
    ("kernel_size: abc", f"ConvolutionParameter.kernel_size {UINT} abc"),
    ("kernel_size: -1", f"ConvolutionParameter.kernel_size {UINT} -1"),
    ("kernel_size: 1.5", f"ConvolutionParameter.kernel_size {UINT} 1.5"),
    ("kernel_size: [3, x]", f"ConvolutionParameter.kernel_size {UINT} x"),
    ("kernel_size 3", "a ':' is missing after 'kernel_size'"),
    ("axis: 3000000000", "ConvolutionParameter.axis must be an integer from -2147483648 to 2147483647, "
     "found 3000000000"),
    ("bias_term: yes", "ConvolutionParameter.bias_term must be true or false, found yes"),
    ("weight_filler: 3", "ConvolutionParameter.weight_filler must be a block in braces, found 3"),
    ("weight_filler { std: big }", "FillerParameter.std must be a number, found big"),
    ("weight_filler { type: xavier }", "FillerParameter.type must be a string in quotes, found xavier"),
    ("weight_filler { type: 'C:\\dir' }", "bad escape in 'C:\\dir'; write a backslash as \\\\"),
    ("weight_filler { type: '\\xff' }", "the string that ends here is not UTF-8"),
    ("weight_filler { type: \"a }", 'the string "a } has no closing quote'),
    ("engine: FAST", f"ConvolutionParameter.engine has no value FAST; {ENGINES}"),
    ("engine: 7", f"ConvolutionParameter.engine has no value 7; {ENGINES}"),
    ("engine: 'CAFFE'", f"ConvolutionParameter.engine has no value 'CAFFE'; {ENGINES}"),
    ("= 3", "unexpected =; expected 'name: value' or 'name { ... }'"),
    (">", "this '>' does not close the '{' of line 4"),
]
NET_FIELDS = "name, layers, input, input_dim, force_backward, state, debug_info, input_shape, layer"
V0_FIELDS = ", ".join(caffe_pb2.V0LayerParameter.DESCRIPTOR.fields_by_name)
# The whole text, and the message behind "F".
NET_ERRORS = [
    ("foo: 1", f":1: NetParameter has no field 'foo'; its fields are {NET_FIELDS}"),
    ("layer {\n}\n bottom: 'x'", ":3: NetParameter has no field 'bottom'; it belongs in layer"),
    ("layer {\n name: 'a' } }\n", ":2: this '}' closes nothing; remove it"),
    ("name: 'n'\nlayer {\n name: 'a'\n",
     ":2: layer 'a': the 'layer' block that begins here is never closed; add a '}'"),
    ("state <\n level: 1", ":1: the 'state' block that begins here is never closed; add a '>'"),
    ("input: 'x'\ninput_dim: [1,\n2", ":2: the list of 'input_dim' that begins here has no ']'"),
    ("layer {\n name: 'a'\n type: 'Convolution'\n convolution_param {\n pad: 1\n}\nlayer {\n name: 'b' }\n",
     ":7: layer 'a' (Convolution): a 'layer' block begins inside another; "
     "a '}' seems to be missing for the 'layer' block of line 1"),
    ("layer { type: 'Clip'\n clip_param { min: 1 } }",
     ":2: layer without name (Clip): 'clip_param' needs 'max'"),
    ("layer { clip_param { } }", ":1: layer without name: 'clip_param' needs 'min' and 'max'"),
    ("layer { name: 'a' }\nlayer { name: 'b' shape: [{ dim: 1 }] }",
     ":2: layer 'b': LayerParameter has no field 'shape'; it belongs in blobs or dummy_data_param or "
     "reshape_param or input_param or parameter_param"),
    ("layer { input_param {\n shape: [{ dim: 1 },\n{ dan: 2 }] } }",
     ":3: layer without name: BlobShape has no field 'dan'; its fields are dim"),
    ("layer { spp_param { bin_rule: BOTH } }", ":1: layer without name: "
     "SPPParameter.bin_rule has no value BOTH; use one of AUTO, SLIDING, APPENDIX_A (no quotes)"),
    ("layer { loss_param { } loss_param { } }", ":1: layer without name: "
     "LayerParameter.loss_param is given again (first in line 1); keep one"),
    ("layer: 3", ":1: NetParameter.layer must be a block in braces, found 3"),
    ("layers { name: 'a' type: 'ReLU' }", ":1: layer 'a' (ReLU): the type 'ReLU' is in quotes; "
     "write 'layer' instead of 'layers', or the type as in 2014"),
    ("layers { layer { name: 'a' type: 'relu' slope: 1 } }", ":1: layer 'a' (relu): "
     f"V0LayerParameter has no field 'slope'; its fields are {V0_FIELDS}"),
    ("name:", ":1: unexpected end of the file; expected 'name: value' or 'name { ... }'"),
    ("net: 'a.prototxt'\nbase_lr: 1", ": this is a solver, not a net; give the net's own file, a.prototxt"),
    ("base_lr: 1", ": this is a solver, not a net; give the net's own file"),
    ("layer { } layers { }", ": has both 'layer' and 'layers' blocks; write all of them as 'layer'"),
]
SOLVER_ERRORS = [
    ("base_rl: 1", ":1: SolverParameter has no field 'base_rl'; did you mean 'base_lr'?"),
    ("base_lr: '1'", ":1: SolverParameter.base_lr must be a number, found '1'"),
    ("random_seed: 0.5", ":1: SolverParameter.random_seed must be an integer, found 0.5"),
    ("solver_mode: TPU", ":1: SolverParameter.solver_mode has no value TPU; use one of CPU, GPU (no quotes)"),
    ("name: 'n' layer { }", ": this is a net, not a solver; give the solver whose 'net' field names it"),
    ("net_param {\n layer { name: 'r' type: 'ReLU' relu_param { slop: 1 } } }",
     ":2: layer 'r' (ReLU): ReLUParameter has no field 'slop'; its fields are negative_slope, engine"),
]


@pytest.mark.parametrize("line, message", CONV_ERRORS)
def test_error_in_a_layer(line, message):
    with pytest.raises(ProtoError) as caught:
        parse_net(CONV % line, "F")
    assert str(caught.value) == IN_CONV + message


@pytest.mark.parametrize("text, message", NET_ERRORS)
def test_error_in_a_net(text, message):
    with pytest.raises(ProtoError) as caught:
        parse_net(text, "F")
    assert str(caught.value) == "F" + message


@pytest.mark.parametrize("text, message", SOLVER_ERRORS)
def test_error_in_a_solver(text, message):
    with pytest.raises(ProtoError) as caught:
        parse_solver(text, "F")
    assert str(caught.value) == "F" + message


def test_any_damage_gives_one_line():
    """Whatever is cut out of or put into a prototxt, the answer is a message or a net."""
    rng = random.Random(5)
    texts = [path.read_text()[:4000] for path in PROTOTXT]
    bits = [*"{}<>[]:,#\\\n'", '"', "layer {", "layers {", "name", "3"]
    refused = 0
    for _ in range(600):
        text = rng.choice(texts)
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(["", rng.choice(bits)]) + text[place + rng.randrange(4):]
        try:
            rng.choice((parse_net, parse_solver))(text, "F")
        except ProtoError as error:
            refused += 1
            assert str(error).startswith("F:") and "\n" not in str(error)
    assert refused > 300


def test_escapes():
    assert parse_net(r"""name: "a\"\\ \'\n\t\101\x42" """).name == "a\"\\ '\n\tAB"


def test_a_good_text():
    net = parse_net(CONV % "kernel_size: [3, 5] weight_filler < type: 'x' \"y\"; std: 1.e-2f, >")
    assert net.layer[0].convolution_param.kernel_size == [3, 5]
    assert net.layer[0].convolution_param.weight_filler.type == "xy"
    assert net.layer[0].convolution_param.weight_filler.std == pytest.approx(0.01)


@pytest.mark.parametrize("path", PROTOTXT, ids=lambda path: str(path.relative_to(GOLDEN)))
def test_golden_prototxt_reads_and_goes_round(path, tmp_path):
    read = read_solver if "solver" in path.name else read_net
    message = read(path)
    write_text(message, tmp_path / "copy.prototxt")
    assert read(tmp_path / "copy.prototxt") == message


def test_there_are_golden_prototxt():
    assert len(PROTOTXT) >= 150


def test_text_keeps_floats_short_and_letters_readable():
    text = to_text(caffe_pb2.SolverParameter(base_lr=0.1, snapshot_prefix="größe"))
    assert text == 'base_lr: 0.1\nsnapshot_prefix: "größe"\n'


# --- files ---

@pytest.mark.parametrize("read, expected", [
    (read_net, "a net's prototxt; weights are given separately"), (read_solver, "a solver's prototxt")])
def test_files_that_are_no_prototxt(tmp_path, read, expected):
    weights = caffe_pb2.NetParameter(name="n", layer=[caffe_pb2.LayerParameter(name="a")]).SerializeToString()
    path = tmp_path / "file"
    for data, content in [
        (weights, "this is a caffemodel, not text"),
        (caffe_pb2.SolverState(iter=3, learned_net='n').SerializeToString(),
         "this is a solverstate, not text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "this is an HDF5 file, not text"),
        (bytes(range(200)), "this is binary data of an unknown kind, not text"),
        ('name: "n"'.encode("utf-16"), "this is text in UTF-16, not text"),
        (b"", "this is an empty file (or comments only)"),
        (b" # nothing\n", "this is an empty file (or comments only)"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ProtoError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: {content}; give {expected}"


@pytest.mark.parametrize("read", [read_net, read_solver])
def test_missing_file_and_folder(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    for path, message in [
        ("no.prototxt", f"File not found: no.prototxt (looked from {tmp_path}); check the path"),
        (tmp_path / "no", f"File not found: {tmp_path / 'no'}; check the path"),
        (tmp_path, f"{tmp_path}: is a folder, not a file; give a file inside it"),
        (tmp_path / "is" / "in", f"{tmp_path / 'is' / 'in'}: cannot be read: Not a directory"),
    ]:
        (tmp_path / "is").write_text("a file")
        with pytest.raises(ProtoError) as caught:
            read(path)
        assert str(caught.value) == message


def test_encodings(tmp_path):
    """Comments may hold any bytes, as in Caffe; a byte order mark is passed over; strings are UTF-8."""
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"\xef\xbb\xbf# \xc4\xe3\xba\xc3\r\nname: \"gr\xc3\xb6\xc3\x9fe\"\r\n")
    assert read_net(path).name == "größe"
    path.write_bytes(b"# x\nname: \"\xc4\xe3\"\n")
    with pytest.raises(ProtoError) as caught:
        read_net(path)
    assert str(caught.value) == f'{path}:2: "\ufffd\ufffd" is not UTF-8; save the file so'


def test_where(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text("# layer { name: 'no' }\nname: 'relu'\nlayer {\n name: \"a # {\"\n}\n"
                    "layer { include { phase: TRAIN } name: 'relu' }\nlayers { layer {\n name: 'old' } }\n"
                    "layer { name: 'relu' }\n")
    assert where(path, "a # {") == f"{path}:3"
    assert where(path, "relu") == f"{path}:6"
    assert where(str(path), "old") == f"{path}:7"
    assert where(path, "no") == str(path)
    assert where("<text>", "a") == "<text>"
    path.write_text("base_lr: 1\nnet_param {\n layer { name: 'in' }\n}")
    assert where(path, "in") == f"{path}:3"


def test_write_text_refuses(tmp_path):
    path = tmp_path / "no" / "net.prototxt"
    with pytest.raises(ProtoError) as caught:
        write_text(caffe_pb2.NetParameter(), path)
    assert str(caught.value) == f"{path}: cannot be written: there is no folder {path.parent}; make it first"
