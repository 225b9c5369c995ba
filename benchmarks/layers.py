"""Layer by layer: the share of the processor's peak that convolutions and inner products reach.

For every Convolution and InnerProduct layer of a net: forward, gradient of the input and gradient of the weights, in
GFLOP/s, as a share of one large matrix product (sgemm of NumPy's BLAS on all cores), and beside the same operation in
torch channels_last. Writes layers.json beside this file.

  make bench, or: python benchmarks/layers.py [--nets zf5_spp ...] [--batches 1 32] [--rounds 5]
"""
import argparse
import json
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np

import nets
import turns

OPERATIONS = ("forward", "input's gradient", "weights' gradient")
CONTENDERS = {"spp": turns.Contender("as installed, with oneDNN where it is installed"),
              "torch": turns.Contender("eager, channels_last", ("torch",))}
PEAK = "sgemm"
SIDE = 3072         # of the matrices of the peak


def layers_of(name: str, batch: int) -> list[dict[str, Any]]:
    """Name, type, shapes and FLOP of each Convolution and InnerProduct layer of a net."""
    from spp.inspection.flops import layer_flops
    from spp.net import Net

    net = Net(nets.inference(name, batch))
    rows = []
    for layer, bottom, top in zip(net.layers, net.bottoms, net.tops):
        if layer.type in ("Convolution", "InnerProduct"):
            p = layer.param.convolution_param
            rows.append({"name": layer.name, "type": layer.type, "x": bottom[0].shape, "y": top[0].shape,
                         "weight": layer.blobs[0].shape, "bias": len(layer.blobs) > 1,
                         "stride": p.stride[0] if p.stride else 1, "pad": p.pad[0] if p.pad else 0, "group": p.group,
                         "flop": layer_flops(layer, bottom, top)})
    return rows


def make(contender: str, task: str) -> Callable[[], Any] | None:
    """task: sgemm, or a layer as JSON with its `operation`."""
    if task == PEAK:
        return _sgemm() if contender == "spp" else None
    layer = json.loads(task)
    return (_spp if contender == "spp" else _torch)(layer)


def _sgemm() -> Callable[[], Any]:
    a = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out)


def _arrays(layer: dict[str, Any]) -> Any:
    rng = np.random.default_rng(0)
    return (rng.normal(size=layer[name]).astype(np.float32) for name in ("x", "weight", "y"))


def _spp(layer: dict[str, Any]) -> Callable[[], Any]:
    from spp.blob import Blob
    from spp.backend.types import Epilogue, Geometry
    from spp.ops import convolution, inner_product

    x, y = Blob(tuple(layer["x"])), Blob(tuple(layer["y"]))
    weight = Blob(tuple(layer["weight"]), channels_last=False)
    bias = np.zeros(layer["y"][1], np.float32) if layer["bias"] else None
    for blob, values in zip((x, weight, y), _arrays(layer)):
        blob.data[...] = values
        blob.diff[...] = values
    dbias = None if bias is None else np.zeros_like(bias)
    if layer["type"] == "InnerProduct":
        return {
            "forward": lambda: inner_product.forward(x.data, weight.data, y.data, Epilogue(bias)),
            "input's gradient": lambda: inner_product.backward_data(y.diff, weight.data, x.diff),
            "weights' gradient": lambda: inner_product.backward_weights(x.data, y.diff, weight.diff),
        }[layer["operation"]]
    geometry = Geometry(weight.shape[2:], (layer["stride"],) * 2, (layer["pad"],) * 2, (1, 1), layer["group"])
    return {
        "forward": lambda: convolution.forward(x.data, weight.data, y.data, geometry, Epilogue(bias)),
        "input's gradient": lambda: convolution.backward_data(y.diff, weight.data, x.diff, geometry),
        "weights' gradient": lambda: convolution.backward_weights(x.data, y.diff, weight.diff, dbias, geometry),
    }[layer["operation"]]


def _torch(layer: dict[str, Any]) -> Callable[[], Any]:
    import torch
    from torch.nn import functional

    x, weight, y = (torch.from_numpy(array) for array in _arrays(layer))
    if layer["type"] == "InnerProduct":
        x, y = x.flatten(1), y.flatten(1)
        bias = torch.zeros(len(weight)) if layer["bias"] else None
        return {"forward": lambda: functional.linear(x, weight, bias), "input's gradient": lambda: y @ weight,
                "weights' gradient": lambda: y.T @ x}[layer["operation"]]
    x, weight, y = (tensor.to(memory_format=torch.channels_last) for tensor in (x, weight, y))
    bias = torch.zeros(len(weight)) if layer["bias"] else None
    group, stride, pad = layer["group"], [layer["stride"]] * 2, [layer["pad"]] * 2
    if layer["operation"] == "forward":
        return lambda: functional.conv2d(x, weight, bias, stride, pad, 1, group)
    mask = [layer["operation"] == "input's gradient", layer["operation"] == "weights' gradient",
            layer["operation"] == "weights' gradient" and layer["bias"]]
    sizes = [len(weight)] if layer["bias"] else None
    return lambda: torch.ops.aten.convolution_backward(y, x, weight, sizes, stride, pad, [1, 1], False, [0, 0], group,
                                                       mask)


def _rate(layer: dict[str, Any], result: dict[str, Any]) -> float:
    """GFLOP/s."""
    return layer["flop"] / float(np.median(result["seconds"])) / 1e9


def main() -> None:
    if "--work" in sys.argv:        # a contender's process
        turns.main(__file__, None, {}, CONTENDERS, make)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=nets.NETS, default=["zf5_spp"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each operation (default: 5)")
    args = parser.parse_args()
    contenders = turns.present(CONTENDERS)
    only_spp = {"spp": contenders["spp"]}
    seconds = turns.measure(__file__, PEAK, turns.Task(1), only_spp, args.rounds, "spp")["spp"]["seconds"]
    peak = 2 * SIDE ** 3 / float(np.median(seconds)) / 1e9
    print(f"sgemm of {SIDE} x {SIDE}: {peak:.0f} GFLOP/s")
    record: dict[str, Any] = {**turns.machine(), "rounds": args.rounds, "sgemm_gflops": peak, "layers": []}
    for name in args.nets:
        for batch in args.batches:
            print(f"\n{name}, batch {batch:<6}" + "".join(f"{operation:>34}" for operation in OPERATIONS))
            print(" " * 22 + "    GFLOP/s   of peak   by torch's" * len(OPERATIONS))
            for i, layer in enumerate(layers_of(name, batch)):
                print(f"  {layer['name']:<20}", end="", flush=True)
                for operation in OPERATIONS:
                    if i == 0 and operation == "input's gradient":      # images need none
                        print(" " * 34, end="")
                        continue
                    task = json.dumps({**layer, "operation": operation})
                    results = turns.measure(__file__, task, turns.Task(1), contenders, args.rounds, "spp")
                    rate = _rate(layer, results["spp"])
                    ratio = results.get("torch", {}).get("ours_is_times_as_fast")
                    print(f"{rate:11.0f}{rate / peak:10.0%}{ratio or float('nan'):13.2f}", end="", flush=True)
                    record["layers"].append({"net": name, "batch": batch, "layer": layer["name"], "gflops": rate,
                                             "operation": operation, "share_of_peak": rate / peak,
                                             "times_torch": ratio, **results})
                print()
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
