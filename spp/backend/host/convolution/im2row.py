"""Convolution over two spatial axes: receptive fields gathered into rows, then a matrix product (im2row + GEMM).

The work is cut into blocks of output pixels whose rows stay in the cache, and each of Numba's threads does one
fixed part of the blocks with buffers of its own: results repeat to the bit for one number of threads.
Functions for other numbers of spatial axes are in convolution_nd.py, for depthwise convolution in
convolution_depthwise.py, with fewer multiplications in winograd.py; the three functions at the end choose.
"""
import numba
import numpy as np

from spp.backend.host.convolution import depthwise
from spp.backend.host.convolution import nd
from spp.backend.host.onednn import convolution as onednn
from spp.backend.host.onednn import products as onednn_products
from spp.backend.host.convolution import winograd
from spp.backend.host.blas import one_thread, product
from spp.backend.host.channels import channel_sums
from spp.backend.host.layout import load_channels_last, store
from spp.backend.host.onednn.products import execute
from spp.backend.host.pixels import bias_scale_shift, flat_pixels, pixels
from spp.backend.host.scratch import scratch
from spp.backend.host.threads import by_one_if_short

BLOCK_PIXELS = 256         # output pixels a block, forward and for weight gradients
BAND_BYTES = 16 << 20      # the rows of one image, or one band of it, in the gradient of the input

NO_WEIGHTS = np.zeros((0, 0, 0), np.float32)

Numbers = tuple[int, ...]


@numba.njit(cache=True, nogil=True)
def _im2row(x, image_shape, group, first, out_shape, geometry, rows):
    """Row r of `rows` becomes the receptive field of output pixel `first + r`: kh x kw x channels of the group.

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
    while r < pixels:       # a piece of a row of the output at a time; from low to high, runs lie wholly in the image
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
def _row2im(rows, image, top, bottom, dx, image_shape, group, first, out_shape, geometry):
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
def _columns(matrix, first, last, group, width, buffer):
    """One group's columns of rows `first` to `last` - 1: a view where there is one group, else in `buffer`."""
    if matrix.shape[1] == width:
        return matrix[first:last]
    part = buffer[:last - first]
    for r in range(last - first):
        source = matrix[first + r, group * width:(group + 1) * width]
        for c in range(width):
            part[r, c] = source[c]
    return part


@numba.njit(cache=True, nogil=True)
def _is_pointwise(geometry, groups):
    """Whether the rows of im2row would be the input's own pixels: a 1 x 1 kernel, stride 1, no pad."""
    kh, kw, stride_h, stride_w, pad_h, pad_w, _, _ = geometry
    return groups == 1 and kh * kw * stride_h * stride_w == 1 and pad_h + pad_w == 0


@numba.njit(cache=True, nogil=True, parallel=True)
def _forward(x, weight, last_pass, y, shape, apart, geometry, lowest, rows, out, calls):
    """`weight` is groups x outputs x K, `rows` parts x block x K, `out` parts x block x outputs of a group.

    `y` is flat, of images x height x width pixels (`shape`) that lie `apart`. `calls`: a row a part, how oneDNN
    multiplies (onednn_products.py); none: BLAS does.
    `last_pass`: bias, scale and shift by all outputs. What is below `lowest` becomes `lowest`: 0 for a ReLU, minus
    infinity for none.
    """
    parts, block, k = rows.shape
    outputs = out.shape[2]
    groups = last_pass.shape[1] // outputs
    pixels = shape[0] * shape[1] * shape[2]
    flat_x = x.reshape(-1)
    blocks = -(-pixels // block)
    pointwise = _is_pointwise(geometry, groups)
    for part in numba.prange(parts):
        for b in range(part * blocks // parts, (part + 1) * blocks // parts):
            first, last = b * block, min(pixels, (b + 1) * block)
            for group in range(groups):
                if pointwise and not len(calls):
                    fields = flat_x[first * k:last * k].reshape(last - first, k)
                else:
                    fields = rows[part, :last - first]
                    _im2row(flat_x, x.shape[1:], group, first, shape[1:], geometry, fields)
                result = out[part, :last - first]
                if len(calls):
                    execute(calls[part])
                else:
                    product(fields, weight[group].T, result)
                low, high = group * outputs, (group + 1) * outputs
                bias, scale, shift = last_pass[0, low:high], last_pass[1, low:high], last_pass[2, low:high]
                for r in range(last - first):
                    start = (first + r) * apart
                    source, target = result[r], y[start + low:start + high]
                    for c in range(outputs):
                        value = (source[c] + bias[c]) * scale[c] + shift[c]
                        target[c] = lowest if value <= lowest else value


@numba.njit(cache=True, nogil=True, parallel=True)
def _backward_data(dy, weight, dx, geometry, bands, rows, buffer):
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
                    fields = rows[part, :last - first]
                    product(gradient, weight[group], fields)
                    _row2im(fields, image, top, bottom, flat_dx, dx.shape[1:], group, first, dy.shape[1:3], geometry)


@numba.njit(cache=True, nogil=True, parallel=True)
def _backward_weights(x, dy, dweight, dbias, geometry, rows, buffer, sums):
    """`dweight` parts x groups x outputs x K and `dbias` parts x all outputs receive one sum a part."""
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
                    fields = flat_x[first * k:last * k].reshape(last - first, k)
                else:
                    fields = rows[part, :last - first]
                    _im2row(flat_x, x.shape[1:], group, first, dy.shape[1:3], geometry, fields)
                gradient = _columns(flat_dy, first, last, group, outputs, buffer[part])
                product(gradient.T, fields, sums[part])
                for o in range(outputs):
                    for c in range(k):
                        dweight[part, group, o, c] += sums[part, o, c]
            block_bias[:] = 0       # a sum of its own a block: the error grows less than in one long sum
            for r in range(first, last):
                for c in range(block_bias.size):
                    block_bias[c] += flat_dy[r, c]
            dbias[part] += block_bias


@numba.njit(cache=True, nogil=True, parallel=True)
def _taps_first(weight, out):
    """outputs x channels x taps becomes outputs x taps x channels."""
    outputs, channels, taps = weight.shape
    for o in numba.prange(outputs):
        for t in range(taps):
            for c in range(channels):
                out[o, t, c] = weight[o, c, t]


@numba.njit(cache=True, nogil=True, parallel=True)
def _add_parts(sums, dweight):
    """Add parts x outputs x taps x channels, summed over the parts in order, to outputs x channels x taps."""
    parts, outputs, taps, channels = sums.shape
    for o in numba.prange(outputs):
        for t in range(taps):
            for c in range(channels):
                total = sums[0, o, t, c]
                for part in range(1, parts):
                    total += sums[part, o, t, c]
                dweight[o, c, t] += total


def _geometry(weight: np.ndarray, stride: Numbers, pad: Numbers, dilation: Numbers) -> Numbers:
    """Kernel, stride, pad and dilation, each as height and width: what the kernels call `geometry`."""
    return tuple(int(v) for v in (*weight.shape[2:], *stride, *pad, *dilation))


def _taps_first_weight(weight: np.ndarray, group: int) -> np.ndarray:
    """Caffe's outputs x channels x kh x kw as groups x outputs of a group x (kh x kw x channels)."""
    outputs, channels, kh, kw = weight.shape
    weight = np.ascontiguousarray(weight).reshape(outputs, channels, kh * kw)
    if kh * kw > 1 and channels > 1:
        reordered = scratch("convolution.weight", (outputs, kh * kw, channels), weight.dtype)
        _taps_first(weight, reordered)
        weight = reordered
    return weight.reshape(group, outputs // group, -1)


def _blocks(pixels: int) -> tuple[int, int]:
    """Number of parts, and of pixels a block: at most BLOCK_PIXELS, and as many blocks for every part."""
    parts = max(1, min(numba.get_num_threads(), pixels))
    blocks = -(-pixels // (parts * BLOCK_PIXELS)) * parts
    return parts, max(1, -(-pixels // max(1, blocks)))


def _is_depthwise(weight: np.ndarray, group: int) -> bool:
    return weight.shape[:2] == (group, 1) and group > 1


@by_one_if_short(lambda x, weight, bias, y, *_: y.size * weight[0].size / 90_000)
def convolution_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, y: np.ndarray,
                        stride: Numbers, pad: Numbers, dilation: Numbers, group: int, relu: bool = False,
                        precision: str = "fp32", scale: np.ndarray | None = None,
                        shift: np.ndarray | None = None) -> None:
    """Write to `y` (N x O x ...) the cross-correlation of `x` (N x C x ...) with `weight` (O x C/group x ...).

    Any number of spatial axes, any strides; `stride`, `pad`, `dilation` have one number a spatial axis. One
    floating-point dtype. The size of `y` says how many windows there are; what lies outside of `x` is zero.
    `scale` and `shift` (O each, or neither): what then becomes of y is y * scale + shift, for each output.
    `relu`: what is below 0 becomes 0 in the end, NaN stays. The host computes in the dtype given, whatever the
    `precision`.
    """
    if x.ndim != 4:
        return nd.forward(x, weight, bias, y, stride, pad, dilation, group, relu, scale, shift)
    one_thread()
    geometry = _geometry(weight, stride, pad, dilation)
    source, out = load_channels_last(x, "convolution.x"), pixels(y, "convolution.y")
    lowest = x.dtype.type(0 if relu else -np.inf)
    plan = onednn.plan("forward", source, out, weight, geometry, group, relu, scale is not None)
    if plan and scale is None and bias is not None and bias.flags.c_contiguous:
        last_pass = bias[np.newaxis]
    else:
        last_pass = bias_scale_shift(bias, scale, shift, len(weight), x.dtype)
    if plan:
        plan.forward(source, weight, last_pass, out)
    elif winograd.pays(source, out, weight, geometry, group, "forward"):
        winograd.forward(source, weight, last_pass, out, geometry, group, lowest)
    elif _is_depthwise(weight, group):
        depthwise.forward(source, weight, last_pass, out, geometry, lowest)
    else:
        parts, block = _blocks(out.size // len(weight))
        outputs, k = len(weight) // group, weight[0].size
        rows = scratch("convolution.rows", (parts, block, k), x.dtype)
        result = scratch("convolution.product", (parts, block, outputs), x.dtype)
        products = None
        if group == 1 and x.dtype == np.float32 and out.size:
            products = onednn_products.of(parts, 1, block, k, outputs, turned=True)
        if products is None:
            grouped, calls = _taps_first_weight(weight, group), onednn_products.NO_CALLS
        else:
            grouped = NO_WEIGHTS
            calls = products.calls(rows, products.weights(weight, lambda: _taps_first_weight(weight, 1),
                                                          (weight, "im2row")), result)
        _forward(source, grouped, last_pass, *flat_pixels(out), geometry, lowest, rows, result, calls)
        onednn_products.check(calls)
    store(out.transpose(0, 3, 1, 2), y)


@by_one_if_short(lambda dy, weight, *_: dy.size * weight[0].size / 90_000)
def convolution_backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, stride: Numbers, pad: Numbers,
                              dilation: Numbers, group: int, precision: str = "fp32") -> None:
    """Write to `dx` the gradient of the input of `convolution_forward`, from the output's, `dy`."""
    if dy.ndim != 4:
        return nd.backward_data(dy, weight, dx, stride, pad, dilation, group)
    one_thread()
    geometry = _geometry(weight, stride, pad, dilation)
    source, out = load_channels_last(dy, "convolution.y"), load_channels_last(dx, "convolution.x")
    plan = onednn.plan("backward_data", out, source, weight, geometry, group)
    if plan:
        plan.backward_data(source, weight, out)
    elif winograd.pays(out, source, weight, geometry, group, "backward_data"):
        winograd.backward_data(source, weight, out, geometry, group)
    elif _is_depthwise(weight, group):
        depthwise.backward_data(source, weight, out, geometry)
    else:
        grouped = _taps_first_weight(weight, group)
        count, height = out.shape[:2]
        out_height, out_width = source.shape[1:3]
        parts = numba.get_num_threads()
        bytes_an_image = out_height * out_width * grouped.shape[2] * dy.itemsize
        bands = max(1, min(height, max(-(-parts // max(1, count)), -(-bytes_an_image // BAND_BYTES))))
        reach = -(-height // bands) - 1 + (geometry[0] - 1) * geometry[6]
        pixels = min(out_height, reach // geometry[2] + 1) * out_width
        rows = scratch("convolution.rows", (parts, pixels, grouped.shape[2]), dy.dtype)
        buffer = scratch("convolution.product", (parts, pixels, grouped.shape[1]), dy.dtype)
        _backward_data(source, grouped, out, geometry, bands, rows, buffer)
    store(out.transpose(0, 3, 1, 2), dx)


def convolution_backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, dbias: np.ndarray | None,
                                 stride: Numbers, pad: Numbers, dilation: Numbers, group: int,
                                 precision: str = "fp32") -> None:
    """Add to `dweight` and `dbias` the gradients of the parameters of `convolution_forward`."""
    if x.ndim != 4:
        return nd.backward_weights(x, dy, dweight, dbias, stride, pad, dilation, group)
    one_thread()
    geometry = _geometry(dweight, stride, pad, dilation)
    source, gradient = load_channels_last(x, "convolution.x"), load_channels_last(dy, "convolution.y")
    plan = onednn.plan("backward_weights", source, gradient, dweight, geometry, group)
    if plan:
        return plan.backward_weights(source, gradient, dweight, dbias)
    if winograd.pays(source, gradient, dweight, geometry, group, "backward_weights"):
        winograd.backward_weights(source, gradient, dweight, geometry, group)
        if dbias is not None:
            dbias += channel_sums(dy, 1, 1)
        return
    outputs, channels = dweight.shape[:2]
    taps = geometry[0] * geometry[1]
    parts, block = _blocks(dy.size // outputs)
    bias_sums = scratch("convolution.dbias", (parts, outputs), x.dtype)
    if _is_depthwise(dweight, group):
        depthwise.backward_weights(source, gradient, dweight, bias_sums, geometry)
    else:
        shape = outputs // group, taps * channels
        rows = scratch("convolution.rows", (parts, block, shape[1]), x.dtype)
        buffer = scratch("convolution.product", (parts, block, shape[0]), x.dtype)
        block_sums = scratch("convolution.weight", (parts, *shape), x.dtype)
        sums = scratch("convolution.dweight", (parts, group, *shape), x.dtype)
        _backward_weights(source, gradient, sums, bias_sums, geometry, rows, buffer, block_sums)
        flat = np.ascontiguousarray(dweight).reshape(outputs, channels, taps)
        _add_parts(sums.reshape(parts, outputs, taps, channels), flat)
        store(flat.reshape(dweight.shape), dweight)
    if dbias is not None:
        dbias += bias_sums.sum(0)
