"""Fillers: the initial values of parameters (Caffe's filler.hpp)."""
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import numpy as np

from spp.errors import NetError

PART = 1 << 20      # numbers that a thread draws at once, in about 5 ms


def _between(low: float, high: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    values = rng.random(shape, np.float32)      # takes half the time of float64; an fc6 has 50 million weights
    values *= high - low
    values += low
    return values


def _normal(mean: float, std: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    values = np.empty(shape, np.float32)
    flat = values.reshape(-1)

    def draw(piece: np.ndarray, stream: np.random.Generator) -> None:
        stream.standard_normal(out=piece, dtype=np.float32)
        piece *= std
        piece += mean

    pieces = [flat[start:start + PART] for start in range(0, flat.size, PART)]
    # each piece has its own stream, so that the numbers do not depend on the number of threads; the streams are
    # created before any is used, because a jump starts from the current state of the first one
    generator: Any = rng.bit_generator
    streams = [rng, *(np.random.Generator(generator.jumped(i)) for i in range(1, len(pieces)))]
    if len(pieces) > 1:
        with ThreadPoolExecutor(os.cpu_count()) as team:
            list(team.map(draw, pieces, streams))
    else:
        list(map(draw, pieces, streams))
    return values


def _constant(shape: tuple[int, ...], p: Any, rng: np.random.Generator) -> np.ndarray:
    return np.full(shape, p.value, np.float32)


def _uniform(shape: tuple[int, ...], p: Any, rng: np.random.Generator) -> np.ndarray:
    return _between(p.min, p.max, shape, rng)


def _gaussian(shape: tuple[int, ...], p: Any, rng: np.random.Generator) -> np.ndarray:
    values = _normal(p.mean, p.std, shape, rng)
    if p.sparse >= 0:
        # as in Caffe: about `sparse` non-zero weights per output
        values *= rng.random(shape) < p.sparse / shape[0]
    return values


def _fan(shape: tuple[int, ...], p: Any) -> float:
    count = math.prod(shape)
    fan_in = count / shape[0]
    fan_out = count / shape[1] if len(shape) > 1 else count
    norm = p.VarianceNorm.Name(p.variance_norm)
    return {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}[norm]


def _xavier(shape: tuple[int, ...], p: Any, rng: np.random.Generator) -> np.ndarray:
    limit = math.sqrt(3 / _fan(shape, p))
    return _between(-limit, limit, shape, rng)


def _msra(shape: tuple[int, ...], p: Any, rng: np.random.Generator) -> np.ndarray:
    return _normal(0, math.sqrt(2 / _fan(shape, p)), shape, rng)


def _positive_unitball(shape: tuple[int, ...], p: Any, rng: np.random.Generator) -> np.ndarray:
    values = rng.random(shape)
    return values / values.reshape(shape[0], -1).sum(1).reshape(-1, *[1] * (len(shape) - 1))


def _bilinear(shape: tuple[int, ...], p: Any, rng: np.random.Generator) -> np.ndarray:
    size = shape[3]
    factor = math.ceil(size / 2)
    centre = (size - 1) / (2 * factor)
    tent = 1 - np.abs(np.arange(size) / factor - centre)
    return np.broadcast_to(tent[:, None] * tent, shape)


FILLERS: dict[str, Callable[[tuple[int, ...], Any, np.random.Generator], np.ndarray]] = {
    "constant": _constant, "uniform": _uniform, "gaussian": _gaussian, "xavier": _xavier, "msra": _msra,
    "positive_unitball": _positive_unitball, "bilinear": _bilinear}


def check(shape: tuple[int, ...], param: Any) -> None:
    """Raise NetError for an unknown filler, or one that does not support the shape."""
    if param.type not in FILLERS:
        raise NetError(f"unknown filler {param.type!r}; known fillers: {', '.join(sorted(FILLERS))}")
    if param.sparse != -1 and param.type != "gaussian":
        raise NetError(f"filler {param.type!r} does not take 'sparse'; only 'gaussian' does")
    if param.type == "bilinear" and (len(shape) != 4 or shape[2] != shape[3]):
        raise NetError(f"filler 'bilinear' needs a 4-axis parameter with a square kernel, found shape {shape}")


def fill(shape: tuple[int, ...], param: Any, rng: np.random.Generator) -> np.ndarray:
    """Initial values, float32 or float64, by a FillerParameter. Raises NetError as `check` does."""
    check(shape, param)
    return FILLERS[param.type](shape, param, rng)
