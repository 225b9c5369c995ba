"""Detection on a GPU: convolutions of a whole image, SPP of 2,000 windows, and the fully connected layers.

ZF-5 SPP on an image of aspect 4:3 with a shorter side of 688 pixels, or at five scales with each window pooled at one
of them. Contenders: spp; torch with a loop over the windows; torchvision's roi_pool, called once per pyramid level;
R-CNN's method, in which every window passes through the whole net, here in spp. The task `windows` is the pooling of
the windows alone. Prints tables, and writes all times to gpu_detection.json beside this file, or to --output.

  make bench-gpu, or: python benchmarks/gpu_detection.py [--tasks windows] [--precisions fp32] [--small --device cpu]
"""
import json
import statistics
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np

import gpu
import nets
import turns
from spp import backend
from spp.backend.types import Bins
from spp.boxes import to_half_open
from spp.errors import SppError
from spp.layers import TEST
from spp.net import Net
from spp.ops import spp

TASKS = ("windows", "1-scale", "5-scales")
SCALES = {"windows": (688,), "1-scale": (688,), "5-scales": (480, 576, 688, 864, 1200)}
WINDOWS, CHANNELS, LEVELS, STRIDE = 2000, 256, (6, 3, 2, 1), 16
R_CNN_BATCH = 100
CONTENDERS = {"spp": turns.Contender(""), "torch loop": turns.Contender("adaptive_max_pool2d", ("torch",)),
              "torchvision": turns.Contender("roi_pool", ("torch", "torchvision")),
              "R-CNN": turns.Contender("spp, each window as an image")}
FEATURES = CHANNELS * sum(bins * bins for bins in LEVELS)


def windows_on(height: int, width: int, count: int) -> np.ndarray:
    """Windows on a map, (count, 4): left, top, right, bottom, all inclusive; each side has at least 2 pixels."""
    rng = np.random.default_rng(height)
    sides = np.stack([rng.integers(2, size + 1, count) for size in (width, height)], 1)
    corners = (rng.random((count, 2)) * (np.array([width, height]) - sides + 1)).astype(np.int64)
    return np.concatenate([corners, corners + sides - 1], 1).astype(np.float32)


def make(contender: str, name: str) -> Callable[[], Any] | None:
    """The function to time. name: task, precision, device; for tests also a divisor of all sizes and the number of
    windows.
    """
    task, precision, device, *rest = name.split()
    shrink, count = (int(rest[0]), int(rest[1])) if rest else (1, WINDOWS)
    sizes = [(side // shrink, side * 4 // 3 // shrink) for side in SCALES[task]]
    if contender == "R-CNN":
        return None if task == "windows" else _r_cnn(precision, device, count, 224 // shrink)
    maps, classifier = nets.parts("zf5_spp", count, FEATURES)
    images = [np.random.default_rng(side).normal(0, 60, (1, 3, side, wide)).astype(np.float32) for side, wide in sizes]
    if contender == "spp":
        return _spp(maps, classifier, task, precision, device, images, count)
    return _torch(maps, classifier, task, precision, device, images, count, roi_pool=contender == "torchvision")


def pyramids(x: Any, windows: np.ndarray, features: Any) -> None:
    """features (count x FEATURES) = the SPP of each window on the map x, 1 x C x H x W."""
    used = backend.of(x)
    edges = spp.window_bins(to_half_open(windows.astype(int)), LEVELS)
    table = Bins(*map(used.from_host, (np.zeros(len(windows), np.int32), *edges)))
    counts = [bins * bins for bins in LEVELS]
    pooled = used.xp.empty((len(windows), x.shape[1], sum(counts)), x.dtype)
    spp.windows_forward(x, table, LEVELS, pooled)
    spp.flatten_forward(pooled, counts, features)


def looped(x: Any, windows: np.ndarray) -> Any:
    """The same in torch, one window and one level at a time."""
    import torch
    from torch.nn import functional
    rows = []
    for left, top, right, bottom in windows.astype(int):
        window = x[:, :, top:bottom + 1, left:right + 1]
        rows.append(torch.cat([functional.adaptive_max_pool2d(window, bins).flatten(1) for bins in LEVELS], 1))
    return torch.cat(rows)


def roi_pooled(x: Any, boxes: Any) -> Any:
    """The same in torchvision; boxes: image index and window, (count, 5), on the device."""
    import torch
    from torchvision.ops import roi_pool
    return torch.cat([roi_pool(x, boxes, bins).flatten(1) for bins in LEVELS], 1)


def _shares(count: int, scales: int) -> list[slice]:
    """The windows that are pooled at each scale."""
    return [slice(i * count // scales, (i + 1) * count // scales) for i in range(scales)]


def _spp(maps: Any, classifier: Any, task: str, precision: str, device: str, images: list[np.ndarray],
         count: int) -> Callable[[], Any]:
    first = Net(maps, TEST, device=device, precision=precision)
    second = Net(classifier, TEST, device=device, precision=precision)
    used = first.context.backend
    features = second.blobs[second.inputs[0]]
    windows_at = []
    with used.use():
        inputs = [used.from_host(image) for image in images]
        for x, share in zip(inputs, _shares(count, len(inputs))):       # not timed, for torch neither
            first.forward(**{first.inputs[0]: x})
            height, width = first.tops[-1][0].shape[2:]
            windows_at.append((share, windows_on(height, width, share.stop - share.start)))

    def run() -> None:
        with used.use():
            for x, (share, windows) in zip(inputs, windows_at):
                if task != "windows":
                    first.forward(**{first.inputs[0]: x})
                pyramids(first.tops[-1][0].data, windows, features.data[share])
            if task != "windows":
                second.forward()
            if used.asynchronous:
                used.xp.cuda.get_current_stream().synchronize()
    return run


def _r_cnn(precision: str, device: str, count: int, side: int) -> Callable[[], Any]:
    batch = min(R_CNN_BATCH, count)
    net = Net(nets.inference("zf5_spp", batch, side), TEST, device=device, precision=precision)
    used = net.context.backend

    def run() -> None:          # without cropping and warping the windows
        with used.use():
            for _ in range(count // batch):
                net.forward()
            if used.asynchronous:
                used.xp.cuda.get_current_stream().synchronize()
    return run


def _torch(maps: Any, classifier: Any, task: str, precision: str, device: str, images: list[np.ndarray], count: int,
           *, roi_pool: bool) -> Callable[[], Any]:
    import torch

    import torch_nets
    on_gpu = device.startswith("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    first, second = (torch_nets.TorchNet(param).to(device).eval() for param in (maps, classifier))
    inputs = [torch.from_numpy(image).to(device) for image in images]
    with torch.inference_mode():
        maps_of = [first(x) for x in inputs]
        second(torch.zeros(2, FEATURES, device=device))
    windows_at = [windows_on(x.shape[2], x.shape[3], share.stop - share.start)
                  for x, share in zip(maps_of, _shares(count, len(maps_of)))]
    boxes = [torch.from_numpy(np.insert(windows, 0, 0, 1)).to(device) for windows in windows_at]

    def pooled(x: Any, index: int) -> Any:
        return roi_pooled(x.float(), boxes[index]) if roi_pool else looped(x, windows_at[index])

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16,
                                                    enabled=precision == "bf16"):
            if task == "windows":
                pooled(maps_of[0], 0)
            else:
                second(torch.cat([pooled(first(x), i) for i, x in enumerate(inputs)]))
        if on_gpu:
            torch.cuda.synchronize()
    return run


def main() -> int:
    if "--work" in sys.argv:        # a contender's process
        turns.main(__file__, None, {}, CONTENDERS, make)
        return 0
    args = gpu.parser_for(__file__, __doc__, TASKS, CONTENDERS).parse_args()
    try:
        record: dict[str, Any] = {**turns.machine(), "gpu": gpu.name_of(args.device), "rounds": args.rounds,
                                  "tasks": {}}
    except SppError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    contenders = turns.present({name: CONTENDERS[name] for name in args.contenders})
    for task in args.tasks:
        for precision in args.precisions if task != "windows" else args.precisions[:1]:
            name = f"{task} {precision} {args.device}{' 8 6' if args.small else ''}"
            what = turns.Task(6 if args.small else WINDOWS, "windows")
            results = record["tasks"][name] = turns.measure(__file__, name, what, contenders, args.rounds, "spp")
            turns.report(name, what, results, "spp")
            if task == "windows" and "spp" in results:
                seconds = statistics.median(results["spp"]["seconds"])
                print(f"    spp: {seconds * 1e3:.3f} ms, {4 * what.count * FEATURES / seconds / 1e9:.0f} GB/s written")
            Path(args.output).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
