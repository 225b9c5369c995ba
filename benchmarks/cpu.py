"""Whole nets on the CPU: images per second of spp and of the rivals that are installed.

ZF-5 SPP with and without its LRN layers, AlexNet, VGG-16, SqueezeNet and ResNet-18, in inference
with batches of 1 and 32 and in training steps of 32 (forward, backward, SGD with momentum and weight decay);
ZF-5 SPP trained at 180, 224 and 448 pixels; conv1 to conv5 of ZF-5 on one image of 688 x 917; 2,000 windows of a
43 x 58 map pooled to {6, 3, 2, 1} bins.
The torch nets are the same layer by layer (torch_nets.py); OpenCV reads our prototxt and weights, onnxruntime and
OpenVINO the ONNX file that spp writes.

  make bench, or: python benchmarks/cpu.py [--rounds 5] [--tasks "zf5_spp training 32" ...] [--contenders spp ...]
  (the rivals: pip install -e '.[bench]')
"""
import os
import tempfile
from typing import Any, Callable

import numpy as np

import turns

TASKS: dict[str, turns.Task] = {}
for _net in ("zf5_spp", "zf5_spp without LRN", "alexnet", "vgg16", "squeezenet", "resnet18"):
    for _kind, _batch in (("inference", 1), ("inference", 32), ("training", 32)):
        TASKS[f"{_net} {_kind} {_batch}"] = turns.Task(_batch, large=_net == "vgg16" and _batch == 32)
for _side in (180, 224, 448):
    TASKS[f"zf5_spp training 8 at {_side}"] = turns.Task(8)
TASKS["conv1-5 at 688x917"] = turns.Task(1)
TASKS["conv1-5 at 688x917 without LRN"] = turns.Task(1)
TASKS["2000 windows"] = turns.Task(2000, "windows")
CONTENDERS = {
    "spp": turns.Contender("as installed, with oneDNN where it is installed"),
    "spp without oneDNN": turns.Contender("SPP_ONEDNN=0", ("cffi",), {"SPP_ONEDNN": "0"}),
    "spp exact": turns.Contender("SPP_EXACT=1: no algorithmic shortcuts", (), {"SPP_EXACT": "1"}),
    "torch": turns.Contender("eager, N x C x H x W", ("torch",)),
    "torch channels_last": turns.Contender("eager, fused SGD", ("torch",)),
    "torch compiled": turns.Contender("torch.compile, channels_last, fused SGD", ("torch",)),
    "OpenCV": turns.Contender("its DNN module, from prototxt and caffemodel", ("cv2",)),
    "onnxruntime": turns.Contender("from ONNX", ("onnx", "onnxruntime")),
    "OpenVINO": turns.Contender("float32, from ONNX", ("onnx", "openvino")),
}
RATE = 1e-4         # small, since the input is noise
LEVELS, CHANNELS, MAP, WINDOWS = (6, 3, 2, 1), 256, (43, 58), 2000


def net_of(task: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """The NetParameter of a task, its images and their labels."""
    import nets

    rng = np.random.default_rng(0)
    if task.startswith("conv1-5"):
        param, shape = nets.parts("zf5_spp", 1, 12800)[0], (1, 3, 688, 917)
        del param.layer[0].input_param.shape[0].dim[:]
        param.layer[0].input_param.shape[0].dim.extend(shape)
    else:
        what, _, side = task.replace(" without LRN", "").partition(" at ")
        name, kind, batch = what.split()
        build = nets.training if kind == "training" else nets.inference
        param = build(name, int(batch), int(side) if side else None)
        shape = tuple(param.layer[0].input_param.shape[0].dim)
    if "without LRN" in task:
        remove_lrn(param)
    return param, rng.normal(0, 60, shape).astype(np.float32), rng.integers(0, 1000, shape[0])


def remove_lrn(param: Any) -> None:
    """Take the LRN layers out of a NetParameter."""
    source = {layer.top[0]: layer.bottom[0] for layer in param.layer if layer.type == "LRN"}
    others = [layer for layer in param.layer if layer.type != "LRN"]
    for layer in others:
        for i, name in enumerate(layer.bottom):
            layer.bottom[i] = source.get(name, name)
    del param.layer[:]
    param.layer.extend(others)


def net_with_statistics(param: Any) -> Any:
    """A Net whose BatchNorm layers have the variance 1; with the initial 0, values would overflow."""
    from spp.net import Net

    net = Net(param, seed=0)
    for layer in net.layers:
        if layer.type == "BatchNorm":
            for blob in layer.blobs[1:]:
                blob.data[...] = 1
    return net


def windows() -> np.ndarray:
    """y0, y1, x0, x1 of windows of all sizes on the map, half-open."""
    rng = np.random.default_rng(0)
    ends = [np.sort(np.stack([rng.integers(0, side, WINDOWS), rng.integers(0, side, WINDOWS)]), 0) for side in MAP]
    return np.stack([ends[0][0], ends[0][1] + 1, ends[1][0], ends[1][1] + 1], 1)


def spp_task(task: str) -> Callable[[], Any]:
    from spp.proto import caffe_pb2
    from spp.solver import Solver

    if task == "2000 windows":
        return spp_windows()
    param, images, labels = net_of(task)
    if "training" not in task:
        net = net_with_statistics(param)
        net.blobs["data"].data[...] = images
        return net.forward
    solver = Solver(caffe_pb2.SolverParameter(net_param=param, base_lr=RATE, lr_policy="fixed", momentum=0.9,
                                              weight_decay=5e-4, random_seed=0))
    solver.net.blobs["data"].data[...], solver.net.blobs["label"].data[...] = images, labels
    return lambda: solver.step(1)


def spp_windows() -> Callable[[], Any]:
    from spp.backend.types import Bins
    from spp.blob import Blob
    from spp.ops import spp

    x = Blob((1, CHANNELS, *MAP))
    x.data[...] = np.random.default_rng(0).normal(size=x.shape)
    boxes, y = windows(), np.empty((WINDOWS, CHANNELS, sum(n * n for n in LEVELS)), np.float32)
    image = np.zeros(WINDOWS, np.int32)

    def pool() -> None:
        bins = Bins(image, *spp.window_bins(boxes, LEVELS))
        spp.windows_forward(x.data, bins, LEVELS, y)
    return pool


def torch_task(task: str, contender: str) -> Callable[[], Any] | None:
    import torch
    from torch.nn import functional

    import torch_nets

    if task == "2000 windows":
        if contender != "torch":
            return None
        x, boxes = torch.randn(1, CHANNELS, *MAP), windows().tolist()

        def pool() -> None:
            for y0, y1, x0, x1 in boxes:
                part = x[:, :, y0:y1, x0:x1]
                torch.cat([functional.adaptive_max_pool2d(part, n).flatten(1) for n in LEVELS], 1)
        return pool
    param, images, labels = net_of(task)
    layout = torch.contiguous_format if contender == "torch" else torch.channels_last
    net: Any = torch_nets.TorchNet(param)
    inputs = [torch.from_numpy(images).to(memory_format=layout)]
    if "training" in task:
        inputs.append(torch.from_numpy(labels))
    with torch.no_grad():
        net(*inputs)            # gives the parameters their shapes
        for weight in net.parameters():
            weight.normal_(0, 0.01)
    net = net.to(memory_format=layout).train("training" in task)
    run = torch.compile(net) if contender == "torch compiled" else net
    if "training" not in task:
        def infer() -> None:
            with torch.inference_mode():
                run(*inputs)
        return infer
    optimizer = torch.optim.SGD(net.parameters(), RATE, 0.9, weight_decay=5e-4,
                                fused=None if contender == "torch" else True)

    def train() -> None:
        optimizer.zero_grad()
        run(*inputs).backward()
        optimizer.step()
    return train


def file_task(task: str, contender: str) -> Callable[[], Any] | None:
    """Rivals that read the net from files; they support inference only."""
    from spp.proto import write_text

    if "training" in task or task == "2000 windows":
        return None
    param, images, _ = net_of(task)
    folder = tempfile.mkdtemp(prefix="spp-bench-")
    model = os.path.join(folder, "net")
    net = net_with_statistics(param)
    if contender == "OpenCV":
        import cv2

        if any(layer.type == "SPP" and layer.spp_param.bins for layer in param.layer):
            param = with_pooling_layers(param)
        write_text(param, f"{model}.prototxt")
        net.save(f"{model}.caffemodel")
        loaded = cv2.dnn.readNetFromCaffe(f"{model}.prototxt", f"{model}.caffemodel")
        loaded.setInput(images)
        return loaded.forward
    from spp.convert import onnx

    onnx.export(net, None, f"{model}.onnx")
    if contender == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        session = onnxruntime.InferenceSession(f"{model}.onnx", options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"data": images})
    import openvino

    core = openvino.Core()
    loaded = core.read_model(f"{model}.onnx")
    loaded.reshape(list(images.shape))
    compiled = core.compile_model(loaded, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT":
                                                  "LATENCY" if len(images) == 1 else "THROUGHPUT"})
    request = compiled.create_infer_request()
    return lambda: request.infer([images])


def with_pooling_layers(param: Any) -> Any:
    """The net with its SPP layer replaced by Pooling, Flatten and Concat layers, which OpenCV supports."""
    from spp.proto import parse_net

    result = parse_net("")
    for layer in param.layer:
        if layer.type != "SPP":
            result.layer.add().CopyFrom(layer)
            continue
        tops = []
        for n in layer.spp_param.bins:
            size, step = -(-13 // n), 13 // n           # a map of 13 x 13, as at 224
            result.MergeFrom(parse_net(f"""
                layer {{ name: "spp{n}" type: "Pooling" bottom: "{layer.bottom[0]}" top: "spp{n}"
                         pooling_param {{ pool: MAX kernel_size: {size} stride: {step} }} }}
                layer {{ name: "flat{n}" type: "Flatten" bottom: "spp{n}" top: "flat{n}" }}"""))
            tops.append(f'bottom: "flat{n}"')
        result.MergeFrom(parse_net(f"""layer {{ name: "{layer.name}" type: "Concat" {' '.join(tops)}
                                       top: "{layer.top[0]}" }}"""))
    return result


def make(contender: str, task: str) -> Callable[[], Any] | None:
    if contender.startswith("spp"):
        return spp_task(task)
    return torch_task(task, contender) if contender.startswith("torch") else file_task(task, contender)


if __name__ == "__main__":
    turns.main(__file__, __doc__, TASKS, CONTENDERS, make)
