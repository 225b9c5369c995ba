// Between float arrays N x C x P (images, channels, pixels) and N x P x C ones of a 16-bit type, which is how
// cuDNN's tensor cores like them: converted and transposed in one pass, tile by tile through shared memory.
// Compiled by half.py, with -DFP16 for IEEE's type, else for bfloat16. Only operations on integers: no header.

typedef unsigned short bits16;
union Value { float number; unsigned bits; };

#define TILE 32
#define ROWS 8      // of a tile, that the 256 threads of a block do at once

#ifdef FP16
static __device__ bits16 narrowed(float number) {
    Value value; value.number = number;
    unsigned sign = value.bits >> 16 & 0x8000u, size = value.bits & 0x7fffffffu;
    if (size > 0x7f800000u)                         // NaN
        return sign | 0x7e00u;
    if (size >= 0x47800000u)                        // 65536 and more
        return sign | 0x7c00u;
    if (size < 0x38800000u) {                       // below 2^-14: multiples of 2^-24, which is what 0.5 has too
        value.bits = size;
        value.number += 0.5f;
        return sign | (value.bits - 0x3f000000u);
    }
    size -= 0x38000000u;
    return sign | (size + 0xfffu + (size >> 13 & 1u)) >> 13;
}

static __device__ float widened(bits16 half) {
    Value value;
    unsigned sign = (half & 0x8000u) << 16, size = half & 0x7fffu;
    if (size < 0x400u) {
        value.number = size * 5.9604644775390625e-8f;       // 2^-24
        value.bits |= sign;
    } else {
        value.bits = sign | (size >= 0x7c00u ? 0x7f800000u | (size & 0x3ffu) << 13 : (size << 13) + 0x38000000u);
    }
    return value.number;
}
#else
static __device__ bits16 narrowed(float number) {
    Value value; value.number = number;
    if ((value.bits & 0x7fffffffu) > 0x7f800000u)   // NaN, which rounding could make infinity of
        return value.bits >> 16 | 0x40u;
    return (value.bits + 0x7fffu + (value.bits >> 16 & 1u)) >> 16;
}

static __device__ float widened(bits16 half) {
    Value value; value.bits = (unsigned)half << 16;
    return value.number;
}
#endif

// Each of `count` tiles: up to TILE channels by TILE pixels of one image.
#define FOR_EACH_TILE \
    int across = (pixels + TILE - 1) / TILE, down = (channels + TILE - 1) / TILE; \
    int column = threadIdx.x % TILE, row = threadIdx.x / TILE; \
    for (long long t = blockIdx.x; t < count; t += gridDim.x)
#define PLACE_TILE \
    int pixel = (int)(t % across) * TILE, channel = (int)(t / across % down) * TILE; \
    long long image = t / across / down

extern "C" __global__ void narrow(long long count, const float *x, bits16 *out, int channels, int pixels) {
    __shared__ bits16 tile[TILE][TILE + 1];
    FOR_EACH_TILE {
        PLACE_TILE;
        for (int r = row; r < TILE; r += ROWS)
            if (channel + r < channels && pixel + column < pixels)
                tile[r][column] = narrowed(x[(image * channels + channel + r) * pixels + pixel + column]);
        __syncthreads();
        for (int r = row; r < TILE; r += ROWS)
            if (pixel + r < pixels && channel + column < channels)
                out[(image * pixels + pixel + r) * channels + channel + column] = tile[column][r];
        __syncthreads();
    }
}

// y = in, + bias[channel] if `biased`, * scale[channel] + shift[channel] if `scaled`, + y if `add`, and 0 if that is
// negative and `relu`.
extern "C" __global__ void widen(long long count, const bits16 *in, float *y, const float *bias, const float *scale,
                                 const float *shift, int channels, int pixels, int biased, int scaled, int add,
                                 int relu) {
    __shared__ bits16 tile[TILE][TILE + 1];
    FOR_EACH_TILE {
        PLACE_TILE;
        for (int r = row; r < TILE; r += ROWS)
            if (pixel + r < pixels && channel + column < channels)
                tile[r][column] = in[(image * pixels + pixel + r) * channels + channel + column];
        __syncthreads();
        for (int r = row; r < TILE; r += ROWS)
            if (channel + r < channels && pixel + column < pixels) {
                float *target = y + (image * channels + channel + r) * pixels + pixel + column;
                float value = widened(tile[column][r]);
                if (biased)
                    value += bias[channel + r];
                if (scaled)
                    value = value * scale[channel + r] + shift[channel + r];
                if (add)
                    value += *target;
                *target = relu && value <= 0 ? 0 : value;   // NaN stays NaN
            }
        __syncthreads();
    }
}
