"""Convolution over two spatial axes: receptive fields gathered into rows, then a matrix product (im2row + GEMM).

The work is cut into blocks of output pixels whose rows stay in the cache, and each of Numba's threads does one
fixed part of the blocks with buffers of its own: results repeat to the bit for one number of threads.
Images are N x H x W x C, C-contiguous unless said otherwise, of one floating dtype. `geometry` is Geometry.flat in
the kernels.
"""
import numba
import numpy as np

from spp.backend.host import onednn
from spp.backend.host.blas import product
from spp.backend.host.layout import store
from spp.backend.host.onednn import NO_CALLS, execute
from spp.backend.host.layout import flat_pixels
from spp.backend.host.scratch import scratch
from spp.backend.types import Array, Geometry, Numbers

BLOCK_PIXELS = 256         # output pixels per block, forward and for weight gradients
BAND_BYTES = 16 << 20      # of the rows of one image, or one band of it, in the gradient of the input

NO_WEIGHTS = np.zeros((0, 0, 0), np.float32)


@numba.njit(cache=True, nogil=True)
def _im2row(x: Array, image_shape: Numbers, group: int, first: int, out_shape: Numbers, geometry: Numbers,
            rows: Array) -> None:
    """Write the receptive field of output pixel `first + r`, kh x kw x channels of the group, to row r of `rows`.

    `x` is the flat N x H x W x C batch; pixels outside of the image are zeros.
    """
    kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = geometry
    height, width, channels = image_shape
    out_height, out_width = out_shape
    pixels, k = rows.shape
    flat, step = rows.reshape(-1), stride_w * channels
    depth = k // (kh * kw)
    # Taps side by side in memory are copied in one run.
    taps, run = (1, kw) if dilation_w == 1 and depth == channels else (kw, 1)
    length = run * depth
    r = 0
    while r < pixels:       # a piece of a row of the output at a time; from low to high, runs are wholly in the image
        image, line = (first + r) // (out_height * out_width), (first + r) // out_width % out_height
        column = (first + r) % out_width
        count = min(out_width - column, pixels - r)
        for i in range(kh):
            iy = line * stride_h - pad_h + i * dilation_h
            for j in range(taps):
                ix = column * stride_w - pad_w + j * dilation_w
                start = ((image * height + iy) * width + ix) * channels + group * depth
                to = r * k + (i * taps + j) * length
                low = high = count
                if 0 <= iy < height:
                    low = min(count, max(0, -(ix // stride_w)))
                    high = max(low, min(count, (width - run - ix) // stride_w + 1))
                for p in range(low, high):
                    at, place = start + p * step, to + p * k
                    source, target = x[at:at + length], flat[place:place + length]
                    for c in range(length):
                        target[c] = source[c]
                for border in range(count - (high - low)):
                    p = border if border < low else border + high - low
                    left = ix + p * stride_w
                    for c in range(length):
                        inside = 0 <= iy < height and 0 <= left + c // depth < width
                        flat[to + p * k + c] = x[start + p * step + c] if inside else 0
        r += count


@numba.njit(cache=True, nogil=True)
def _row2im(rows: Array, image: int, top: int, bottom: int, dx: Array, image_shape: Numbers, group: int, first: int,
            out_shape: Numbers, geometry: Numbers) -> None:
    """Add rows, laid out as by `_im2row`, to rows `top` to `bottom` - 1 of one image of the flat batch `dx`.

    Row r belongs to pixel `first + r` of this image's output.
    """
    kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = geometry
    height, width, channels = image_shape
    out_width = out_shape[1]
    depth = rows.shape[1] // (kh * kw)
    taps, run = (1, kw) if dilation_w == 1 and depth == channels else (kw, 1)
    length = run * depth
    for r in range(rows.shape[0]):
        pixel = first + r
        above = pixel // out_width * stride_h - pad_h
        left = pixel % out_width * stride_w - pad_w
        for i in range(kh):
            iy = above + i * dilation_h
            if iy < top or iy >= bottom:
                continue
            for j in range(taps):
                ix = left + j * dilation_w
                if ix + run <= 0 or ix >= width:
                    continue
                before = max(0, -ix) * depth
                inside = min(run, width - ix) * depth - before
                start = ((image * height + iy) * width + max(0, ix)) * channels + group * depth
                target = dx[start:start + inside]
                source = rows[r, (i * taps + j) * length + before:(i * taps + j) * length + before + inside]
                for c in range(inside):
                    target[c] += source[c]


@numba.njit(cache=True, nogil=True)
def _columns(matrix: Array, first: int, last: int, group: int, width: int, buffer: Array) -> Array:
    """One group's columns of rows `first` to `last` - 1: a view if there is one group, else in `buffer`."""
    if matrix.shape[1] == width:
        return matrix[first:last]
    part = buffer[:last - first]
    for r in range(last - first):
        source = matrix[first + r, group * width:(group + 1) * width]
        for c in range(width):
            part[r, c] = source[c]
    return part


@numba.njit(cache=True, nogil=True)
def _is_pointwise(geometry: Numbers, groups: Array) -> bool:
    """Whether the rows of _im2row would be the input's own pixels: a 1 x 1 kernel, stride 1, no pad."""
    kh, kw, stride_h, stride_w, pad_h, pad_w, _, _ = geometry
    return groups == 1 and kh * kw * stride_h * stride_w == 1 and pad_h + pad_w == 0


@numba.njit(cache=True, nogil=True, parallel=True)
def _forward(x: Array, weight: Array, epilogue: Array, y: Array, shape: Numbers, pixel_stride: int, geometry: Numbers,
             minimum: np.floating, rows: Array, out: Array, calls: Array) -> None:
    """`weight` is groups x outputs x K, `rows` parts x block x K, `out` parts x block x outputs of a group.

    `y` is flat, of images x height x width pixels (`shape`), `pixel_stride` elements from one to the next. `calls`:
    a row per part, with which oneDNN multiplies; without rows BLAS does.
    `epilogue`: rows of bias, scale and shift for all outputs. Smaller values become `minimum`: 0 with a ReLU, minus
    infinity without.
    """
    parts, block, k = rows.shape
    outputs = out.shape[2]
    groups = epilogue.shape[1] // outputs
    pixels = shape[0] * shape[1] * shape[2]
    flat_x = x.reshape(-1)
    blocks = -(-pixels // block)
    pointwise = _is_pointwise(geometry, groups)
    for part in numba.prange(parts):
        for b in range(part * blocks // parts, (part + 1) * blocks // parts):
            first, last = b * block, min(pixels, (b + 1) * block)
            for group in range(groups):
                if pointwise and not len(calls):
                    patches = flat_x[first * k:last * k].reshape(last - first, k)
                else:
                    patches = rows[part, :last - first]
                    _im2row(flat_x, x.shape[1:], group, first, shape[1:], geometry, patches)
                result = out[part, :last - first]
                if len(calls):
                    execute(calls[part])
                else:
                    product(patches, weight[group].T, result)
                low, high = group * outputs, (group + 1) * outputs
                bias, scale, shift = epilogue[0, low:high], epilogue[1, low:high], epilogue[2, low:high]
                for r in range(last - first):
                    start = (first + r) * pixel_stride
                    source, target = result[r], y[start + low:start + high]
                    for c in range(outputs):
                        value = (source[c] + bias[c]) * scale[c] + shift[c]
                        target[c] = minimum if value <= minimum else value


@numba.njit(cache=True, nogil=True, parallel=True)
def _backward_data(dy: Array, weight: Array, dx: Array, geometry: Numbers, bands: int, rows: Array,
                   buffer: Array) -> None:
    """Each of `bands` equal bands of each image of `dx` is one task, `rows` parts x pixels x K its buffer."""
    groups, outputs, k = weight.shape
    parts = rows.shape[0]
    kh, _, stride, _, pad, _, dilation, _ = geometry
    count, height, width, channels = dx.shape
    out_height, out_width = dy.shape[1:3]
    flat_dx, flat_dy = dx.reshape(-1), dy.reshape(count * out_height * out_width, groups * outputs)
    tasks = count * bands
    pointwise = _is_pointwise(geometry, groups)
    for part in numba.prange(parts):
        for task in range(part * tasks // parts, (part + 1) * tasks // parts):
            image, band = task // bands, task % bands
            top, bottom = band * height // bands, (band + 1) * height // bands
            # the rows of dy whose receptive fields touch the band
            first = max(0, -(-(top + pad - (kh - 1) * dilation) // stride)) * out_width
            last = max(min(out_height, (bottom - 1 + pad) // stride + 1) * out_width, first)
            target = flat_dx[(image * height + top) * width * channels:(image * height + bottom) * width * channels]
            if not pointwise:
                target[:] = 0
            for group in range(groups):
                start = image * out_height * out_width
                gradient = _columns(flat_dy, start + first, start + last, group, outputs, buffer[part])
                if pointwise:
                    product(gradient, weight[group], target.reshape(last - first, k))
                else:
                    patches = rows[part, :last - first]
                    product(gradient, weight[group], patches)
                    _row2im(patches, image, top, bottom, flat_dx, dx.shape[1:], group, first, dy.shape[1:3], geometry)


@numba.njit(cache=True, nogil=True, parallel=True)
def _backward_weights(x: Array, dy: Array, dweight: Array, dbias: Array, geometry: Numbers, rows: Array, buffer: Array,
                      sums: Array) -> None:
    """Write one sum per part to `dweight`, parts x groups x outputs x K, and `dbias`, parts x all outputs."""
    parts, groups, outputs, k = dweight.shape
    block = rows.shape[1]
    pixels = dy.shape[0] * dy.shape[1] * dy.shape[2]
    flat_x, flat_dy = x.reshape(-1), dy.reshape(pixels, groups * outputs)
    blocks = -(-pixels // block)
    pointwise = _is_pointwise(geometry, groups)
    for part in numba.prange(parts):
        dweight[part] = 0
        dbias[part] = 0
        block_bias = np.empty_like(dbias[part])
        for b in range(part * blocks // parts, (part + 1) * blocks // parts):
            first, last = b * block, min(pixels, (b + 1) * block)
            for group in range(groups):
                if pointwise:
                    patches = flat_x[first * k:last * k].reshape(last - first, k)
                else:
                    patches = rows[part, :last - first]
                    _im2row(flat_x, x.shape[1:], group, first, dy.shape[1:3], geometry, patches)
                gradient = _columns(flat_dy, first, last, group, outputs, buffer[part])
                product(gradient.T, patches, sums[part])
                for o in range(outputs):
                    for c in range(k):
                        dweight[part, group, o, c] += sums[part, o, c]
            block_bias[:] = 0       # a sum of its own per block: the error grows less than in one long sum
            for r in range(first, last):
                for c in range(block_bias.size):
                    block_bias[c] += flat_dy[r, c]
            dbias[part] += block_bias


@numba.njit(cache=True, nogil=True, parallel=True)
def _taps_first(weight: Array, out: Array) -> None:
    """Transpose outputs x channels x taps to outputs x taps x channels."""
    outputs, channels, taps = weight.shape
    for o in numba.prange(outputs):
        for t in range(taps):
            for c in range(channels):
                out[o, t, c] = weight[o, c, t]


@numba.njit(cache=True, nogil=True, parallel=True)
def _add_parts(sums: Array, dweight: Array) -> None:
    """Add parts x outputs x taps x channels, summed over the parts in order, to outputs x channels x taps."""
    parts, outputs, taps, channels = sums.shape
    for o in numba.prange(outputs):
        for t in range(taps):
            for c in range(channels):
                total = sums[0, o, t, c]
                for part in range(1, parts):
                    total += sums[part, o, t, c]
                dweight[o, c, t] += total


def _taps_first_weight(weight: np.ndarray, group: int) -> np.ndarray:
    """Caffe's outputs x channels x kh x kw as groups x outputs of a group x (kh x kw x channels)."""
    outputs, channels, kh, kw = weight.shape
    weight = np.ascontiguousarray(weight).reshape(outputs, channels, kh * kw)
    if kh * kw > 1 and channels > 1:
        reordered = scratch("convolution.weight", (outputs, kh * kw, channels), weight.dtype)
        _taps_first(weight, reordered)
        weight = reordered
    return weight.reshape(group, outputs // group, -1)


def blocks_of(pixels: int) -> tuple[int, int]:
    """The number of parts, and of pixels per block: at most BLOCK_PIXELS, and as many blocks for every part."""
    parts = max(1, min(numba.get_num_threads(), pixels))
    blocks = -(-pixels // (parts * BLOCK_PIXELS)) * parts
    return parts, max(1, -(-pixels // max(1, blocks)))


def forward(x: np.ndarray, weight: np.ndarray, epilogue: np.ndarray, y: np.ndarray, geometry: Geometry,
            minimum: np.floating) -> None:
    """Write to `y`, as `pixels` returns it, at least `minimum`; `epilogue`: rows of bias, scale and shift."""
    group = geometry.group
    parts, block = blocks_of(y.size // len(weight))
    outputs, k = len(weight) // group, weight[0].size
    rows = scratch("convolution.rows", (parts, block, k), x.dtype)
    result = scratch("convolution.product", (parts, block, outputs), x.dtype)
    products = None
    if group == 1 and x.dtype == np.float32 and y.size:
        products = onednn.prepare_products(parts, 1, block, k, outputs, transposed=True)
    if products is None:
        grouped, calls = _taps_first_weight(weight, group), NO_CALLS
    else:
        ordered = products.weights(weight, lambda: _taps_first_weight(weight, 1), (weight, "im2row"))
        grouped, calls = NO_WEIGHTS, products.calls(rows, ordered, result)
    _forward(x, grouped, epilogue, *flat_pixels(y), geometry.flat, minimum, rows, result, calls)
    onednn.check(calls)


def backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, geometry: Geometry) -> None:
    """Write the input's gradient to `dx`."""
    grouped = _taps_first_weight(weight, geometry.group)
    count, height = dx.shape[:2]
    out_height, out_width = dy.shape[1:3]
    parts = numba.get_num_threads()
    bytes_per_image = out_height * out_width * grouped.shape[2] * dy.itemsize
    bands = max(1, min(height, max(-(-parts // max(1, count)), -(-bytes_per_image // BAND_BYTES))))
    reach = -(-height // bands) - 1 + (geometry.kernel[0] - 1) * geometry.dilation[0]
    pixels = min(out_height, reach // geometry.stride[0] + 1) * out_width
    rows = scratch("convolution.rows", (parts, pixels, grouped.shape[2]), dy.dtype)
    buffer = scratch("convolution.product", (parts, pixels, grouped.shape[1]), dy.dtype)
    _backward_data(dy, grouped, dx, geometry.flat, bands, rows, buffer)


def backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, dbias: np.ndarray | None,
                     geometry: Geometry) -> None:
    """Add the parameters' gradients to `dweight`, and to `dbias` unless it is None."""
    group, (outputs, channels, kh, kw) = geometry.group, dweight.shape
    parts, block = blocks_of(dy.size // outputs)
    shape = outputs // group, kh * kw * channels
    rows = scratch("convolution.rows", (parts, block, shape[1]), x.dtype)
    buffer = scratch("convolution.product", (parts, block, shape[0]), x.dtype)
    block_sums = scratch("convolution.weight", (parts, *shape), x.dtype)
    sums = scratch("convolution.dweight", (parts, group, *shape), x.dtype)
    bias_sums = scratch("convolution.dbias", (parts, outputs), x.dtype)
    _backward_weights(x, dy, sums, bias_sums, geometry.flat, rows, buffer, block_sums)
    flat = np.ascontiguousarray(dweight).reshape(outputs, channels, kh * kw)
    _add_parts(sums.reshape(parts, outputs, kh * kw, channels), flat)
    store(flat.reshape(dweight.shape), dweight)
    if dbias is not None:
        dbias += bias_sums.sum(0)
