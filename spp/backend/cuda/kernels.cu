// The kernels for GPUs. kernels.py compiles them once per type `real` (float, double) and defines the constants:
// BLOCK, the number of threads of a block; PLANES, TILE, CHANNELS, NEAR and CHUNK, the work of a thread or block.
// No header is needed.
//
// Arrays are in C order (N x C x H x W), so that adjacent threads work on adjacent elements of a row; a plane is
// one channel of one image. Every kernel loops over `count` elements or items in strides of the whole grid, so that
// the result does not depend on the grid. One thread gathers the gradient of one element of dx, in the same order of
// additions as the host: no atomic additions, and the same result in every run.

// The elements of this thread.
#define FOR_EACH(i, count) \
    for (long long i = (long long)blockIdx.x * BLOCK + threadIdx.x; i < (count); i += (long long)BLOCK * gridDim.x)

// The items of this block, all of whose threads work on one item together.
#define FOR_EACH_BY_BLOCK(i, count) \
    for (long long i = blockIdx.x; i < (count); i += gridDim.x)

// a / b and the remainder; in 32 bits if a allows it, which is several times as fast on a GPU.
__device__ inline long long divide(long long a, int b, int &remainder) {
    if (a < 0x80000000LL) {
        unsigned quotient = (unsigned)a / (unsigned)b;
        remainder = (int)((unsigned)a - quotient * (unsigned)b);
        return quotient;
    }
    remainder = (int)(a % b);
    return a / b;
}

// The sum over the threads of the block of one value per thread, returned in all threads; always in the same order.
__device__ inline double block_sum(double value) {
    __shared__ double sums[BLOCK];
    sums[threadIdx.x] = value;
    __syncthreads();
    for (int half = BLOCK / 2; half; half /= 2) {
        if (threadIdx.x < half)
            sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    double total = sums[0];
    __syncthreads();        // all threads have read it before the next call writes
    return total;
}

// The largest over the threads of the block of one value per thread, returned in all threads.
__device__ inline real block_max(real value) {
    __shared__ real largest[BLOCK];
    largest[threadIdx.x] = value;
    __syncthreads();
    for (int half = BLOCK / 2; half; half /= 2) {
        if (threadIdx.x < half)
            largest[threadIdx.x] = max(largest[threadIdx.x], largest[threadIdx.x + half]);
        __syncthreads();
    }
    real found = largest[0];
    __syncthreads();
    return found;
}

// --- elementwise (elementwise.py)

extern "C" __global__ void relu(long long count, const real *x, real *y, real slope) {
    FOR_EACH(i, count) {
        real value = x[i], below = slope == 0 ? real(0) : slope * value;    // 0 for minus infinity too
        y[i] = value <= 0 ? below : value;                                  // NaN stays NaN
    }
}

extern "C" __global__ void relu_backward(long long count, const real *dy, const real *x, real *dx, real slope) {
    FOR_EACH(i, count)
        dx[i] = x[i] > 0 ? dy[i] : slope * dy[i];
}

extern "C" __global__ void weighted_sum(long long count, const real *x, real a, const real *z, real b, real *y,
                                        bool relu) {
    FOR_EACH(i, count) {
        const real value = a * x[i] + b * z[i];
        y[i] = relu && value <= 0 ? real(0) : value;        // NaN stays NaN
    }
}

// --- dropout (dropout.py)

// Philox 4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3; 2011): four random words from a key
// and a counter.
__device__ inline void philox(unsigned long long key, unsigned long long counter, unsigned word[4]) {
    unsigned key0 = (unsigned)key, key1 = (unsigned)(key >> 32);
    word[0] = (unsigned)counter, word[1] = (unsigned)(counter >> 32), word[2] = word[3] = 0;
    for (int round = 0; round < 10; ++round) {
        unsigned long long a = 0xD2511F53ULL * word[0], b = 0xCD9E8D57ULL * word[2];
        unsigned w1 = word[1], w3 = word[3];
        word[0] = (unsigned)(b >> 32) ^ w1 ^ key0, word[1] = (unsigned)b;
        word[2] = (unsigned)(a >> 32) ^ w3 ^ key1, word[3] = (unsigned)a;
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
}

// mask = value with probability 1 - ratio, else 0; four elements per counter.
extern "C" __global__ void draw_mask(long long count, unsigned long long key, float ratio, real value, real *mask) {
    FOR_EACH(quad, (count + 3) / 4) {
        unsigned word[4];
        philox(key, quad, word);
        for (int k = 0; k < 4 && 4 * quad + k < count; ++k)
            mask[4 * quad + k] = (word[k] >> 8) * (1.0f / 16777216) >= ratio ? value : real(0);
    }
}

// --- pooling over tables of regions (pooling.py)

// Half-open intervals of a map's depth, rows and columns.
struct Region { int z0, z1, y0, y1, x0, x1; };

#define FOR_EACH_POSITION(position, r) \
    for (int z = (r).z0; z < (r).z1; ++z) \
        for (int h = (r).y0; h < (r).y1; ++h) \
            for (int position = (z * height + h) * width + (r).x0, end = position + (r).x1 - (r).x0; \
                 position < end; ++position)

// A thread pools one region in PLANES planes, so that the table is read less often: i counts the regions, then the
// groups of planes. argmax is written if `keep`.

extern "C" __global__ void max_pool(long long count, const real *x, const int *regions, real *y, int *argmax,
                                    bool keep, int planes, int n_regions, int depth, int height, int width) {
    FOR_EACH(i, count) {
        int b;
        const int first = (int)divide(i, n_regions, b) * PLANES;
        const Region r = ((const Region *)regions)[b];
        for (int plane = first; plane < min(first + PLANES, planes); ++plane) {
            const real *map = x + (long long)plane * depth * height * width;
            int where = (r.z0 * height + r.y0) * width + r.x0;
            real best = map[where];
            FOR_EACH_POSITION(position, r) {
                const real value = map[position];
                if (value > best || value != value)
                    best = value, where = position;
            }
            y[(long long)plane * n_regions + b] = best;
            if (keep)
                argmax[(long long)plane * n_regions + b] = where;
        }
    }
}

// For many more regions than positions. x: N x positions x channels, so that a warp reads TILE channels of a position
// at once, wherever its region is. An item is TILE regions of TILE channels, transposed in shared memory, so that a
// warp also writes adjacent elements.
extern "C" __global__ void max_pool_by_tile(long long count, const real *x, const int *regions, real *y, int *argmax,
                                            bool keep, int channels, int n_regions, int depth, int height,
                                            int width) {
    __shared__ real best_of[TILE][TILE + 1];        // one more, else a column would be in one memory bank
    __shared__ int where_of[TILE][TILE + 1];
    const int lane = threadIdx.x % TILE, warp = threadIdx.x / TILE;
    FOR_EACH_BY_BLOCK(item, count) {
        int first_b, first_c;
        const long long n = divide(divide(item, (n_regions + TILE - 1) / TILE, first_b), (channels + TILE - 1) / TILE,
                                   first_c);
        first_b *= TILE, first_c *= TILE;
        for (int i = warp; i < TILE; i += BLOCK / TILE)
            if (first_b + i < n_regions && first_c + lane < channels) {
                const real *map = x + n * depth * height * width * channels + first_c + lane;
                const Region r = ((const Region *)regions)[first_b + i];
                int where = (r.z0 * height + r.y0) * width + r.x0;
                real best = map[(long long)where * channels];
                FOR_EACH_POSITION(position, r) {
                    const real value = map[(long long)position * channels];
                    if (value > best || value != value)
                        best = value, where = position;
                }
                best_of[i][lane] = best;
                where_of[i][lane] = where;
            }
        __syncthreads();
        for (int i = warp; i < TILE; i += BLOCK / TILE)
            if (first_c + i < channels && first_b + lane < n_regions) {
                const long long out = (n * channels + first_c + i) * n_regions + first_b + lane;
                y[out] = best_of[lane][i];
                if (keep)
                    argmax[out] = where_of[lane][i];
            }
        __syncthreads();
    }
}

extern "C" __global__ void average_pool(long long count, const real *x, const int *regions, const int *divisors,
                                        real *y, int planes, int n_regions, int depth, int height, int width) {
    FOR_EACH(i, count) {
        int b;
        const int first = (int)divide(i, n_regions, b) * PLANES;
        const Region r = ((const Region *)regions)[b];
        for (int plane = first; plane < min(first + PLANES, planes); ++plane) {
            const real *map = x + (long long)plane * depth * height * width;
            real total = 0;
            FOR_EACH_POSITION(position, r)
                total += map[position];
            y[(long long)plane * n_regions + b] = total / (real)divisors[b];
        }
    }
}

extern "C" __global__ void sample_pool(long long count, const real *x, const int *regions, const real *uniform,
                                       real *y, int *argmax, int planes, int n_regions, int depth, int height,
                                       int width) {
    FOR_EACH(i, count) {
        int b;
        const int first = (int)divide(i, n_regions, b) * PLANES;
        const Region r = ((const Region *)regions)[b];
        for (int plane = first; plane < min(first + PLANES, planes); ++plane) {
            const real *map = x + (long long)plane * depth * height * width;
            const long long out = (long long)plane * n_regions + b;
            real total = 0;
            FOR_EACH_POSITION(position, r)
                total += map[position];
            int where = (r.z0 * height + r.y0) * width + r.x0;
            real chosen = map[where], passed = 0;
            const real target = total * uniform[out];
            FOR_EACH_POSITION(position, r) {
                const real value = map[position];
                if (value > 0 && passed <= target)
                    chosen = value, where = position, passed += value;
            }
            y[out] = total != total ? total : chosen;
            argmax[out] = where;
        }
    }
}

// The regions that position p of a map of `size` is in are members[starts[p]] .. members[starts[p + 1] - 1].
extern "C" __global__ void max_pool_backward(long long count, const real *dy, const int *argmax, const int *starts,
                                             const int *members, real *dx, int n_regions, int size) {
    FOR_EACH(i, count) {
        int position;
        const long long plane = divide(i, size, position) * n_regions;
        real total = 0;
        for (int k = starts[position], end = starts[position + 1]; k < end; ++k)
            total += argmax[plane + members[k]] == position ? dy[plane + members[k]] : real(0);
        dx[i] = total;
    }
}

extern "C" __global__ void average_pool_backward(long long count, const real *dy, const int *divisors,
                                                 const int *starts, const int *members, real *dx, int n_regions,
                                                 int size) {
    FOR_EACH(i, count) {
        int position;
        const long long plane = divide(i, size, position) * n_regions;
        real total = 0;
        for (int k = starts[position], end = starts[position + 1]; k < end; ++k)
            total += dy[plane + members[k]] * (real(1) / (real)divisors[members[k]]);
        dx[i] = total;
    }
}

// --- pooling of regions of interest (roi.py); bins are half-open intervals of rows (R x p) and columns (R x q)

// Sets r, c, p, q and the bin's borders for element i of an array R x C x p x q.
#define BIN_OF_ELEMENT \
    int q, p, c; \
    const long long above = divide(divide(i, n_columns, q), n_rows, p), r = divide(above, channels, c); \
    const int *row = rows + 2 * (r * n_rows + p), *column = columns + 2 * (r * n_columns + q); \
    const int top = row[0], bottom = row[1], left = column[0], right = column[1]

extern "C" __global__ void roi_max_pool(long long count, const real *x, const int *image, const int *rows,
                                        const int *columns, real *y, int *argmax, bool keep, int channels,
                                        int n_rows, int n_columns, int height, int width) {
    FOR_EACH(i, count) {
        BIN_OF_ELEMENT;
        const real *map = x + ((long long)image[r] * channels + c) * height * width;
        bool empty = top >= bottom || left >= right;
        int where = empty ? -1 : top * width + left;
        real best = empty ? real(0) : map[where];
        for (int h = top; h < bottom; ++h)
            for (int w = left; w < right; ++w) {
                real value = map[h * width + w];
                if (value > best || value != value)
                    best = value, where = h * width + w;
            }
        y[i] = best;
        if (keep)
            argmax[i] = where;
    }
}

// y: R x C x n_bins; bins: which of a region's n_edges rows and columns a bin has.
extern "C" __global__ void roi_max_pyramid(long long count, const real *x, const int *image, const int *rows,
                                           const int *columns, const int *bins, real *y, int channels, int n_bins,
                                           int n_edges, int height, int width) {
    FOR_EACH(i, count) {
        int b, c;
        const long long r = divide(divide(i, n_bins, b), channels, c);
        const int *row = rows + 2 * (r * n_edges + bins[2 * b]), *column = columns + 2 * (r * n_edges + bins[2 * b + 1]);
        const real *map = x + ((long long)image[r] * channels + c) * height * width;
        real best = map[row[0] * width + column[0]];
        for (int h = row[0]; h < row[1]; ++h)
            for (int w = column[0]; w < column[1]; ++w) {
                const real value = map[h * width + w];
                if (value > best || value != value)
                    best = value;
            }
        y[i] = best;
    }
}

// A thread reads the bins that contain its position, of its image's regions; the threads of a warp read nearly the
// same bins.
extern "C" __global__ void roi_max_pool_backward(long long count, const real *dy, const int *argmax,
                                                 const int *image, const int *rows, const int *columns, real *dx,
                                                 int n_regions, int channels, int n_rows, int n_columns, int height,
                                                 int width) {
    FOR_EACH(i, count) {
        int w, h, c;
        const long long n = divide(divide(divide(i, width, w), height, h), channels, c);
        real total = 0;
        for (int r = 0; r < n_regions; ++r) {
            if (image[r] != n)
                continue;
            const int *row = rows + 2LL * r * n_rows, *column = columns + 2LL * r * n_columns;
            if (h < row[0] || h >= row[2 * n_rows - 1] || w < column[0] || w >= column[2 * n_columns - 1])
                continue;       // outside of the region: bins are in ascending order
            const long long first = ((long long)r * channels + c) * n_rows * n_columns;
            for (int p = 0; p < n_rows; ++p) {
                if (h < row[2 * p] || h >= row[2 * p + 1])
                    continue;
                for (int q = 0; q < n_columns; ++q) {
                    const long long bin = first + (long long)p * n_columns + q;
                    if (column[2 * q] <= w && w < column[2 * q + 1] && argmax[bin] == h * width + w)
                        total += dy[bin];
                }
            }
        }
        dx[i] = total;
    }
}

// y: R x C x bins x bins; x: N x (C * bins * bins) x H x W.
extern "C" __global__ void roi_group_average(long long count, const real *x, const int *image, const int *rows,
                                             const int *columns, real *y, int channels, int n_bins, int height,
                                             int width) {
    FOR_EACH(i, count) {
        const int n_rows = n_bins, n_columns = n_bins;
        BIN_OF_ELEMENT;
        const long long plane = (((long long)image[r] * channels + c) * n_bins + p) * n_bins + q;
        const real *map = x + plane * height * width;
        real total = 0;
        for (int h = top; h < bottom; ++h)
            for (int w = left; w < right; ++w)
                total += map[h * width + w];
        y[i] = top < bottom && left < right ? total / (real)((bottom - top) * (right - left)) : real(0);
    }
}

extern "C" __global__ void roi_group_average_backward(long long count, const real *dy, const int *image,
                                                      const int *rows, const int *columns, real *dx, int n_regions,
                                                      int channels, int n_bins, int height, int width) {
    FOR_EACH(i, count) {
        int w, h, q, p, c;
        const long long n = divide(divide(divide(divide(divide(i, width, w), height, h), n_bins, q), n_bins, p),
                                   channels, c);
        real total = 0;
        for (int r = 0; r < n_regions; ++r) {
            const int *row = rows + 2 * ((long long)r * n_bins + p);
            const int *column = columns + 2 * ((long long)r * n_bins + q);
            if (image[r] == n && row[0] <= h && h < row[1] && column[0] <= w && w < column[1])
                total += dy[(((long long)r * channels + c) * n_bins + p) * n_bins + q]
                    / (real)((row[1] - row[0]) * (column[1] - column[0]));
        }
        dx[i] = total;
    }
}

// --- local response normalization (lrn.py); x is N x C x size

__device__ inline real power_of(real scale, real beta) {
    return beta == real(0.75) ? sqrt(sqrt(scale)) / scale : pow(scale, -beta);
}

// map: the position in the image's channel 0.
__device__ inline real scale_across(const real *map, int c, int channels, int size, int half, real a, real k) {
    real scale = k;
    for (int other = max(c - half, 0); other < min(c + half + 1, channels); ++other) {
        real value = map[(long long)other * size];
        scale += a * (value * value);
    }
    return scale;
}

// A thread works on CHANNELS adjacent channels at one position, which share their inputs. i counts the positions, then
// the groups of channels, then the images.
#define FOR_EACH_CHANNEL(c, group) \
    for (int c = (group) * CHANNELS; c < min((group) * CHANNELS + CHANNELS, channels); ++c)

extern "C" __global__ void lrn_across(long long count, const real *x, real *y, int channels, int groups, int size,
                                      int half, real a, real beta, real k) {
    FOR_EACH(i, count) {
        int position, group;
        const long long map = divide(divide(i, size, position), groups, group) * channels * size + position;
        FOR_EACH_CHANNEL(c, group) {
            const long long at = map + (long long)c * size;
            y[at] = x[at] * power_of(scale_across(x + map, c, channels, size, half, a, k), beta);
        }
    }
}

// First pass backward: ratio = dy * y / scale, and dx = dy * scale^-beta.
extern "C" __global__ void lrn_across_ratio(long long count, const real *dy, const real *x, real *ratio, real *dx,
                                            int channels, int groups, int size, int half, real a, real beta,
                                            real k) {
    FOR_EACH(i, count) {
        int position, group;
        const long long map = divide(divide(i, size, position), groups, group) * channels * size + position;
        FOR_EACH_CHANNEL(c, group) {
            const long long at = map + (long long)c * size;
            const real scale = scale_across(x + map, c, channels, size, half, a, k), power = power_of(scale, beta);
            const real gradient = dy[at];
            ratio[at] = gradient * x[at] * power / scale;
            dx[at] = gradient * power;
        }
    }
}

// Second pass backward: dx -= 2 a beta * x * the sum of the ratios in the window.
extern "C" __global__ void lrn_across_backward(long long count, const real *ratio, const real *x, real *dx,
                                               int channels, int groups, int size, int half, real a, real beta) {
    const real factor = a * beta + a * beta;
    FOR_EACH(i, count) {
        int position, group;
        const long long map = divide(divide(i, size, position), groups, group) * channels * size + position;
        FOR_EACH_CHANNEL(c, group) {
            const long long at = map + (long long)c * size;
            real total = 0;
            for (int other = max(c - half, 0); other < min(c + half + 1, channels); ++other)
                total += ratio[map + (long long)other * size];
            dx[at] -= factor * x[at] * total;
        }
    }
}

// Both passes at once, without memory for the ratios, for windows of at most NEAR to each side: the block of a tile,
// TILE channels of TILE positions, computes the ratios of its own channels and of those around. dx must not be dy.
extern "C" __global__ void lrn_across_backward_by_tile(long long count, const real *dy, const real *x, real *dx,
                                                       int channels, int size, int across, int down, int half, real a,
                                                       real beta, real k) {
    __shared__ real ratio[TILE + 2 * NEAR][TILE], passed[TILE + 2 * NEAR][TILE];
    const real factor = a * beta + a * beta;
    const int lane = threadIdx.x % TILE, warp = threadIdx.x / TILE;
    FOR_EACH_BY_BLOCK(item, count) {
        int position, first;
        const long long image = divide(divide(item, across, position), down, first) * channels * size;
        position = position * TILE + lane, first = first * TILE - half;
        const real *map = x + image + position;
        for (int i = warp; i < TILE + 2 * half; i += BLOCK / TILE) {
            const int c = first + i;
            if (position >= size || c < 0 || c >= channels)
                continue;
            const real scale = scale_across(map, c, channels, size, half, a, k);
            passed[i][lane] = dy[image + (long long)c * size + position] * power_of(scale, beta);
            ratio[i][lane] = passed[i][lane] * map[(long long)c * size] / scale;
        }
        __syncthreads();
        for (int i = half + warp; i < TILE + half; i += BLOCK / TILE) {
            const int c = first + i;
            if (position >= size || c >= channels)
                continue;
            real total = 0;
            for (int other = max(c - half, 0); other < min(c + half + 1, channels); ++other)
                total += ratio[other - first][lane];
            dx[image + (long long)c * size + position] = passed[i][lane] - factor * map[(long long)c * size] * total;
        }
        __syncthreads();
    }
}

// The sum of the map's values, or of their squares, in the window around row h and column w.
__device__ inline real window_sum(const real *map, bool squared, int h, int w, int height, int width, int half) {
    real total = 0;
    for (int j = max(w - half, 0); j < min(w + half + 1, width); ++j) {
        real sum = 0;
        for (int i = max(h - half, 0); i < min(h + half + 1, height); ++i) {
            real value = map[i * width + j];
            sum += squared ? value * value : value;
        }
        total += sum;
    }
    return total;
}

// Sets row h, column w and the map of element i.
#define PLACE_OF_ELEMENT \
    int h, w; \
    const long long map = divide(divide(i, width, w), height, h) * height * width

extern "C" __global__ void lrn_within(long long count, const real *x, real *y, int height, int width, int half,
                                      real a, real beta) {
    FOR_EACH(i, count) {
        PLACE_OF_ELEMENT;
        y[i] = x[i] * power_of(1 + a * window_sum(x + map, true, h, w, height, width, half), beta);
    }
}

extern "C" __global__ void lrn_within_ratio(long long count, const real *dy, const real *x, real *ratio, real *dx,
                                            int height, int width, int half, real a, real beta) {
    FOR_EACH(i, count) {
        PLACE_OF_ELEMENT;
        const real scale = 1 + a * window_sum(x + map, true, h, w, height, width, half);
        const real passed = dy[i] * power_of(scale, beta);
        ratio[i] = passed * x[i] / scale;
        dx[i] = passed;
    }
}

extern "C" __global__ void lrn_within_backward(long long count, const real *ratio, const real *x, real *dx,
                                               int height, int width, int half, real a, real beta) {
    const real factor = a * beta + a * beta;
    FOR_EACH(i, count) {
        PLACE_OF_ELEMENT;
        dx[i] -= factor * x[i] * window_sum(ratio + map, false, h, w, height, width, half);
    }
}

// Both passes at once, like lrn_across_backward_by_tile: a tile is TILE columns of BLOCK / TILE rows.
extern "C" __global__ void lrn_within_backward_by_tile(long long count, const real *dy, const real *x, real *dx,
                                                       int height, int width, int across, int down, int half, real a,
                                                       real beta) {
    __shared__ real ratio[BLOCK / TILE + 2 * NEAR][TILE + 2 * NEAR], passed[BLOCK / TILE + 2 * NEAR][TILE + 2 * NEAR];
    const real factor = a * beta + a * beta;
    const int rows = BLOCK / TILE + 2 * half, columns = TILE + 2 * half;
    FOR_EACH_BY_BLOCK(item, count) {
        int top, left;
        const long long map = divide(divide(item, across, left), down, top) * height * width;
        top = top * (BLOCK / TILE) - half, left = left * TILE - half;
        for (int cell = threadIdx.x; cell < rows * columns; cell += BLOCK) {
            const int i = cell / columns, j = cell % columns, h = top + i, w = left + j;
            ratio[i][j] = 0;        // beyond the border
            if (h < 0 || h >= height || w < 0 || w >= width)
                continue;
            const real scale = 1 + a * window_sum(x + map, true, h, w, height, width, half);
            passed[i][j] = dy[map + h * width + w] * power_of(scale, beta);
            ratio[i][j] = passed[i][j] * x[map + h * width + w] / scale;
        }
        __syncthreads();
        const int i = threadIdx.x / TILE + half, j = threadIdx.x % TILE + half, h = top + i, w = left + j;
        if (h < height && w < width) {
            real total = 0;
            for (int column = j - half; column <= j + half; ++column) {
                real sum = 0;
                for (int row = i - half; row <= i + half; ++row)
                    sum += ratio[row][column];
                total += sum;
            }
            dx[map + h * width + w] = passed[i][j] - factor * x[map + h * width + w] * total;
        }
        __syncthreads();
    }
}

// --- bilinear resizing (resize.py); an axis: per output pixel two input pixels, and the second's weight

extern "C" __global__ void bilinear(long long count, const real *x, const int *top, const int *bottom,
                                    const real *down, const int *left, const int *right, const real *across, real *y,
                                    int height, int width, int out_height, int out_width) {
    FOR_EACH(i, count) {
        int h, w;
        const real *map = x + divide(divide(i, out_width, w), out_height, h) * height * width;
        const real *above = map + top[h] * width, *below = map + bottom[h] * width;
        const int l = left[w], r = right[w];
        const real v = down[h], u = across[w], one = 1;
        y[i] = (one - v) * ((one - u) * above[l] + u * above[r]) + v * ((one - u) * below[l] + u * below[r]);
    }
}

// The first index from which on all of the ascending values are at least k.
__device__ inline int first_from(const int *values, int n, int k) {
    int low = 0;
    while (low < n) {
        int middle = (low + n) / 2;
        if (values[middle] < k)
            low = middle + 1;
        else
            n = middle;
    }
    return low;
}

// Both pixels of an axis ascend, so that the outputs that depend on a pixel are adjacent.
extern "C" __global__ void bilinear_backward(long long count, const real *dy, const int *top, const int *bottom,
                                             const real *down, const int *left, const int *right,
                                             const real *across, real *dx, int height, int width, int out_height,
                                             int out_width) {
    const real one = 1;
    FOR_EACH(i, count) {
        int h, w;
        const real *map = dy + divide(divide(i, width, w), height, h) * out_height * out_width;
        const int first_row = first_from(bottom, out_height, h), last_row = first_from(top, out_height, h + 1);
        const int first_column = first_from(right, out_width, w), last_column = first_from(left, out_width, w + 1);
        real total = 0;
        for (int row = first_row; row < last_row; ++row)
            for (int column = first_column; column < last_column; ++column) {
                const real g = map[row * out_width + column], v = down[row], u = across[column];
                const real by_column = (left[column] == w ? one - u : 0) + (right[column] == w ? u : 0);
                total += ((top[row] == h ? one - v : 0) + (bottom[row] == h ? v : 0)) * by_column * g;
            }
        dx[i] = total;
    }
}

// --- statistics and affine maps of channels (channels.py); x is outer x channels x inner

// Elements from .. to - 1 of a channel (outer x inner) belong to this part of it; an item is a part of a channel.
#define PART_OF_CHANNEL \
    int part; \
    const long long c = divide(item, parts, part), length = (long long)outer * inner; \
    const long long from = part * length / parts, to = (part + 1) * length / parts

// The index in memory of element e of channel c.
#define AT(e) (quotient = divide(e, inner, rest), (quotient * channels + c) * inner + rest)

// For each part the sum of x * z, or of x unless `dots`.
extern "C" __global__ void channel_sums(long long count, const real *x, const real *z, bool dots, double *sums,
                                        int outer, int channels, int inner, int parts) {
    FOR_EACH_BY_BLOCK(item, count) {
        PART_OF_CHANNEL;
        double total = 0;
        for (long long e = from + threadIdx.x; e < to; e += BLOCK) {
            int rest;
            long long quotient, at = AT(e);
            total += dots ? (double)x[at] * (double)z[at] : (double)x[at];
        }
        total = block_sum(total);
        if (threadIdx.x == 0)
            sums[item] = total;
    }
}

// For each part the sum of the differences from the channel's first element, and of their squares: the squares of
// values far from 0 would cancel.
extern "C" __global__ void channel_squares(long long count, const real *x, double *sums, double *squares, int outer,
                                           int channels, int inner, int parts) {
    FOR_EACH_BY_BLOCK(item, count) {
        PART_OF_CHANNEL;
        const double first = x[c * inner];
        double total = 0, square = 0;
        for (long long e = from + threadIdx.x; e < to; e += BLOCK) {
            int rest;
            long long quotient, at = AT(e);
            double step = x[at] - first;
            total += step, square += step * step;
        }
        total = block_sum(total), square = block_sum(square);
        if (threadIdx.x == 0)
            sums[item] = total, squares[item] = square;
    }
}

extern "C" __global__ void sum_of_parts(long long count, const double *sums, double *out, int parts) {
    FOR_EACH(i, count) {
        double total = 0;
        for (int part = 0; part < parts; ++part)
            total += sums[i * parts + part];
        out[i] = total;
    }
}

extern "C" __global__ void moments_of_parts(long long count, const real *x, const double *sums,
                                            const double *squares, double *mean, double *variance, int inner,
                                            int parts, double length) {
    FOR_EACH(c, count) {
        double total = 0, square = 0;
        for (int part = 0; part < parts; ++part)
            total += sums[c * parts + part], square += squares[c * parts + part];
        const double step = total / length, found = square / length - step * step;
        mean[c] = x[c * inner] + step;
        variance[c] = found < 0 ? 0 : found;
    }
}

// One value per channel, or one for all channels: `..._by` is then 0, else 1.
extern "C" __global__ void channel_affine(long long count, const real *x, const real *shift, const real *scale,
                                          const real *bias, real *y, int channels, int inner, int shift_by,
                                          int scale_by, int bias_by, bool relu) {
    FOR_EACH(i, count) {
        int rest, c;
        divide(divide(i, inner, rest), channels, c);
        const real value = (x[i] - shift[c * shift_by]) * scale[c * scale_by] + bias[c * bias_by];
        y[i] = relu && value <= 0 ? real(0) : value;        // NaN stays NaN
    }
}

extern "C" __global__ void channel_combine(long long count, const real *x, const real *a, const real *z,
                                           const real *shift, const real *b, const real *c, real *y, int channels,
                                           int inner, int a_by, int shift_by, int b_by, int c_by) {
    FOR_EACH(i, count) {
        int rest, k;
        divide(divide(i, inner, rest), channels, k);
        y[i] = a[k * a_by] * x[i] + b[k * b_by] * (z[i] - shift[k * shift_by]) + c[k * c_by];
    }
}

// --- softmax and its loss (softmax.py); x is outer x classes x inner

// One thread per position: for many positions, which are adjacent.
extern "C" __global__ void softmax_by_thread(long long count, const real *x, real *y, int classes, int inner) {
    FOR_EACH(i, count) {
        int rest;
        const long long start = divide(i, inner, rest) * classes * inner + rest;
        const long long end = start + (long long)classes * inner;
        real largest = x[start];
        for (long long at = start; at < end; at += inner)
            largest = max(largest, x[at]);
        double total = 0;
        for (long long at = start; at < end; at += inner)
            total += y[at] = exp(x[at] - largest);
        const real sum = total;
        for (long long at = start; at < end; at += inner)
            y[at] /= sum;
    }
}

// One block per position: for many classes, which are adjacent or nearly so.
extern "C" __global__ void softmax_by_block(long long count, const real *x, real *y, int classes, int inner) {
    FOR_EACH_BY_BLOCK(i, count) {
        int rest;
        const long long start = divide(i, inner, rest) * classes * inner + rest;
        real largest = x[start];
        for (int k = threadIdx.x; k < classes; k += BLOCK)
            largest = max(largest, x[start + (long long)k * inner]);
        largest = block_max(largest);
        double total = 0;
        for (int k = threadIdx.x; k < classes; k += BLOCK) {
            const long long at = start + (long long)k * inner;
            total += y[at] = exp(x[at] - largest);
        }
        const real sum = block_sum(total);
        for (int k = threadIdx.x; k < classes; k += BLOCK)
            y[start + (long long)k * inner] /= sum;
    }
}

extern "C" __global__ void softmax_backward_by_thread(long long count, const real *dy, const real *y, real *dx,
                                                      int classes, int inner) {
    FOR_EACH(i, count) {
        int rest;
        const long long start = divide(i, inner, rest) * classes * inner + rest;
        const long long end = start + (long long)classes * inner;
        double total = 0;
        for (long long at = start; at < end; at += inner)
            total += dy[at] * y[at];
        const real sum = total;
        for (long long at = start; at < end; at += inner)
            dx[at] = (dy[at] - sum) * y[at];
    }
}

extern "C" __global__ void softmax_backward_by_block(long long count, const real *dy, const real *y, real *dx,
                                                     int classes, int inner) {
    FOR_EACH_BY_BLOCK(i, count) {
        int rest;
        const long long start = divide(i, inner, rest) * classes * inner + rest;
        double total = 0;
        for (int k = threadIdx.x; k < classes; k += BLOCK)
            total += dy[start + (long long)k * inner] * y[start + (long long)k * inner];
        const real sum = block_sum(total);
        for (int k = threadIdx.x; k < classes; k += BLOCK) {
            const long long at = start + (long long)k * inner;
            dx[at] = (dy[at] - sum) * y[at];
        }
    }
}

// For each part of the positions the sum of -log(max(probability of the label, least)), if counted.
extern "C" __global__ void softmax_loss(long long parts, const real *prob, const long long *labels,
                                        const bool *counted, double *sums, long long positions, int classes,
                                        int inner, real least) {
    FOR_EACH_BY_BLOCK(part, parts) {
        double total = 0;
        const long long end = (part + 1) * positions / parts;
        for (long long i = part * positions / parts + threadIdx.x; i < end; i += BLOCK) {
            int rest;
            const real p = prob[(divide(i, inner, rest) * classes + labels[i]) * inner + rest];
            total -= log(p < least ? least : p) * (counted[i] ? 1 : 0);
        }
        total = block_sum(total);
        if (threadIdx.x == 0)
            sums[part] = total;
    }
}

extern "C" __global__ void softmax_loss_backward(long long count, const real *prob, const long long *labels,
                                                 const bool *counted, const real *scale, real *dx,
                                                 int classes, int inner) {
    FOR_EACH(i, count) {
        int rest, k;
        const long long position = divide(divide(i, inner, rest), classes, k) * inner + rest;
        const real difference = labels[position] == k ? prob[i] - 1 : prob[i];
        dx[i] = difference * (counted[position] ? *scale : real(0));
    }
}

// --- rows added and elements written at indices (rows.py)

// y[index[i]] += rows[i], rows of `length` elements: the block of an index's first occurrence adds all of them, in
// their order. It searches BLOCK indices at a time.
extern "C" __global__ void add_rows(long long count, const real *rows, const long long *index, real *y,
                                    long long y_rows, int length) {
    __shared__ bool same[BLOCK], any;
    FOR_EACH_BY_BLOCK(i, count) {
        const long long target = index[i];
        bool first = target >= 0 && target < y_rows;
        for (long long start = 0; first && start < count; start += BLOCK) {
            __syncthreads();        // all threads have read `any`
            if (threadIdx.x == 0)
                any = false;
            __syncthreads();
            same[threadIdx.x] = start + threadIdx.x < count && index[start + threadIdx.x] == target;
            if (same[threadIdx.x])
                any = true;
            __syncthreads();
            for (int k = 0; any && first && k < BLOCK; ++k) {
                if (!same[k])
                    continue;
                first = start + k >= i;     // the block of an earlier occurrence adds this row
                for (int at = threadIdx.x; first && at < length; at += BLOCK)
                    y[target * length + at] += rows[(start + k) * length + at];
            }
        }
        __syncthreads();
    }
}

// --- non-maximum suppression (nms.py)

__device__ inline real area_of(const real *box) {
    return box[2] >= box[0] && box[3] >= box[1] ? (box[2] - box[0]) * (box[3] - box[1]) : real(0);
}

// One block, box after box: overlaps[j] is the largest overlap of box j with any box kept so far.
extern "C" __global__ void nms(long long boxes, const real *box, double threshold, double eta, double *overlaps,
                               bool *kept) {
    for (long long j = threadIdx.x; j < boxes; j += BLOCK)
        overlaps[j] = 0;
    __syncthreads();
    for (long long i = 0; i < boxes; ++i) {
        const bool keep = !(overlaps[i] > 0 && overlaps[i] > threshold);
        if (threadIdx.x == 0)
            kept[i] = keep;
        if (!keep)
            continue;
        const real *a = box + 4 * i;
        const double area = area_of(a);
        for (long long j = i + 1 + threadIdx.x; j < boxes; j += BLOCK) {
            const real *b = box + 4 * j;
            const real width = min(a[2], b[2]) - max(a[0], b[0]), height = min(a[3], b[3]) - max(a[1], b[1]);
            if (width > 0 && height > 0) {
                const real shared = width * height;
                const double overlap = shared / ((double)area_of(b) + area - shared);
                if (overlap > overlaps[j])
                    overlaps[j] = overlap;
            }
        }
        if (eta < 1 && threshold > 0.5)
            threshold *= eta;
        __syncthreads();
    }
}

// --- solvers' updates of all parameters in one launch (update.py)

// A row of the device table: addresses of data, gradient and up to two histories, size, number of the first chunk.
struct Parameter { real *data; const real *diff; real *first, *second; long long size, chunk; };

// The elements start .. stop - 1 of a parameter.
struct Part { Parameter of; real rate, decay; long long start, stop; };

// Chunk number `chunk` of all parameters. numbers: the rates of all parameters, then their decays.
__device__ inline Part part_of(long long chunk, const long long *table, const real *numbers, int parameters) {
    const Parameter *parameter = (const Parameter *)table;
    int low = 0, high = parameters;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (parameter[middle].chunk <= chunk)
            low = middle;
        else
            high = middle;
    }
    const Parameter found = parameter[low];
    const long long start = (chunk - found.chunk) * CHUNK;
    return {found, numbers[low], numbers[parameters + low], start, min(start + CHUNK, found.size)};
}

#define FOR_EACH_OF_PART(i, part) \
    for (long long i = (part).start + threadIdx.x; i < (part).stop; i += BLOCK)

// The gradient after clipping, averaging and regularization.
__device__ inline real regularised(const Part &part, long long i, bool l1, real scale) {
    const real value = part.of.data[i], sign = value > 0 ? real(1) : value < 0 ? real(-1) : value;
    return scale * part.of.diff[i] + part.decay * (l1 ? sign : value);
}

extern "C" __global__ void sgd_update(long long chunks, const long long *table, const real *numbers, int parameters,
                                      bool l1, real scale, real momentum) {
    FOR_EACH_BY_BLOCK(chunk, chunks) {
        const Part part = part_of(chunk, table, numbers, parameters);
        real *data = part.of.data, *first = part.of.first;
        FOR_EACH_OF_PART(i, part) {
            const real step = momentum * first[i] + part.rate * regularised(part, i, l1, scale);
            first[i] = step;
            data[i] -= step;
        }
    }
}

extern "C" __global__ void nesterov_update(long long chunks, const long long *table, const real *numbers,
                                           int parameters, bool l1, real scale, real momentum) {
    FOR_EACH_BY_BLOCK(chunk, chunks) {
        const Part part = part_of(chunk, table, numbers, parameters);
        real *data = part.of.data, *first = part.of.first;
        FOR_EACH_OF_PART(i, part) {
            const real before = first[i], step = momentum * before + part.rate * regularised(part, i, l1, scale);
            first[i] = step;
            data[i] -= step + momentum * (step - before);
        }
    }
}

extern "C" __global__ void adagrad_update(long long chunks, const long long *table, const real *numbers,
                                          int parameters, bool l1, real scale, real delta) {
    FOR_EACH_BY_BLOCK(chunk, chunks) {
        const Part part = part_of(chunk, table, numbers, parameters);
        real *data = part.of.data, *first = part.of.first;
        FOR_EACH_OF_PART(i, part) {
            const real gradient = regularised(part, i, l1, scale), squares = first[i] + gradient * gradient;
            first[i] = squares;
            data[i] -= part.rate * gradient / (sqrt(squares) + delta);
        }
    }
}

extern "C" __global__ void rmsprop_update(long long chunks, const long long *table, const real *numbers,
                                          int parameters, bool l1, real scale, real delta, real past, real present) {
    FOR_EACH_BY_BLOCK(chunk, chunks) {
        const Part part = part_of(chunk, table, numbers, parameters);
        real *data = part.of.data, *first = part.of.first;
        FOR_EACH_OF_PART(i, part) {
            const real gradient = regularised(part, i, l1, scale);
            const real squares = past * first[i] + present * gradient * gradient;
            first[i] = squares;
            data[i] -= part.rate * gradient / (sqrt(squares) + delta);
        }
    }
}

extern "C" __global__ void adadelta_update(long long chunks, const long long *table, const real *numbers,
                                           int parameters, bool l1, real scale, real delta, real past,
                                           real present) {
    FOR_EACH_BY_BLOCK(chunk, chunks) {
        const Part part = part_of(chunk, table, numbers, parameters);
        real *data = part.of.data, *first = part.of.first, *second = part.of.second;
        FOR_EACH_OF_PART(i, part) {
            const real gradient = regularised(part, i, l1, scale);
            const real squares = past * first[i] + present * gradient * gradient;
            const real step = gradient * sqrt((second[i] + delta) / (squares + delta));
            first[i] = squares;
            second[i] = past * second[i] + present * step * step;
            data[i] -= part.rate * step;
        }
    }
}

extern "C" __global__ void adam_update(long long chunks, const long long *table, const real *numbers, int parameters,
                                       bool l1, real scale, real delta, real past, real present, real past_square,
                                       real present_square) {
    FOR_EACH_BY_BLOCK(chunk, chunks) {
        const Part part = part_of(chunk, table, numbers, parameters);
        real *data = part.of.data, *first = part.of.first, *second = part.of.second;
        FOR_EACH_OF_PART(i, part) {
            const real gradient = regularised(part, i, l1, scale);
            const real mean = past * first[i] + present * gradient;
            const real square = past_square * second[i] + present_square * gradient * gradient;
            first[i] = mean;
            second[i] = square;
            data[i] -= part.rate * mean / (sqrt(square) + delta);
        }
    }
}

// --- windows of a convolution as columns (im2col.py): C x kernel_h x kernel_w x N x out_height x out_width

extern "C" __global__ void im2col(long long count, const real *x, real *columns, int channels, int height, int width,
                                  int kernel_h, int kernel_w, int images, int out_height, int out_width,
                                  int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w) {
    FOR_EACH(i, count) {        // one window of a plane per thread
        int h, w, n;
        const long long c = divide(divide(divide(i, out_width, w), out_height, h), images, n);
        const long long windows = (long long)images * out_height * out_width;
        const real *map = x + (n * channels + c) * height * width;
        real *column = columns + c * kernel_h * kernel_w * windows + ((long long)n * out_height + h) * out_width + w;
        for (int tap_h = 0; tap_h < kernel_h; ++tap_h)
            for (int tap_w = 0; tap_w < kernel_w; ++tap_w, column += windows) {
                const int row = h * stride_h - pad_h + tap_h * dilation_h;
                const int at = w * stride_w - pad_w + tap_w * dilation_w;
                const bool inside = row >= 0 && row < height && at >= 0 && at < width;
                *column = inside ? map[row * width + at] : real(0);
            }
    }
}

extern "C" __global__ void col2im(long long count, const real *columns, real *x, int channels, int height, int width,
                                  int kernel_h, int kernel_w, int images, int out_height, int out_width,
                                  int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w) {
    FOR_EACH(i, count) {        // one pixel per thread: the sum over the taps that read it
        int h, w, c;
        const long long n = divide(divide(divide(i, width, w), height, h), channels, c);
        const long long windows = (long long)images * out_height * out_width;
        const real *column = columns + (long long)c * kernel_h * kernel_w * windows + n * out_height * out_width;
        real total = 0;
        for (int tap_h = 0; tap_h < kernel_h; ++tap_h)
            for (int tap_w = 0; tap_w < kernel_w; ++tap_w, column += windows) {
                const int down = h + pad_h - tap_h * dilation_h, along = w + pad_w - tap_w * dilation_w;
                if (down < 0 || along < 0 || down % stride_h || along % stride_w)
                    continue;
                const int row = down / stride_h, at = along / stride_w;
                if (row < out_height && at < out_width)
                    total += column[row * out_width + at];
            }
        x[i] = total;
    }
}

// last[k] = the largest i with index[i] = k. A maximum of whole numbers does not depend on the order.
extern "C" __global__ void last_of_index(long long count, const long long *index, long long *last, long long size) {
    FOR_EACH(i, count)
        if (index[i] >= 0 && index[i] < size)
            atomicMax(last + index[i], i);
}

extern "C" __global__ void put_last(long long count, const real *values, const long long *index,
                                    const long long *last, real *y, long long size) {
    FOR_EACH(i, count)
        if (index[i] >= 0 && index[i] < size && last[index[i]] == i)
            y[index[i]] = values[i];
}

// --- what follows a convolution (convolution.py)

struct alignas(16) Four { real value[4]; };

// y (N x channels x inner, on a multiple of 16 bytes) = (y + bias) * scale + shift, then the ReLU, each
// optional. Four adjacent elements per thread: memory is read in whole lines, and the channel computed once.
extern "C" __global__ void convolution_finish(long long count, real *y, const real *bias, const real *scale,
                                              const real *shift, int channels, int inner, bool biased, bool scaled,
                                              bool relu) {
    FOR_EACH(four, (count + 3) / 4) {
        int rest, c;
        divide(divide(4 * four, inner, rest), channels, c);
        real *target = y + 4 * four;
        const int n = (int)min(4LL, count - 4 * four);
        Four values;
        if (n == 4)
            values = *(const Four *)target;
        else
            for (int k = 0; k < n; ++k)
                values.value[k] = target[k];
        for (int k = 0; k < n; ++k) {
            real value = biased ? values.value[k] + bias[c] : values.value[k];
            if (scaled)
                value = value * scale[c] + shift[c];
            values.value[k] = relu && value <= 0 ? real(0) : value;     // NaN stays NaN
            if (++rest == inner)
                rest = 0, c = c + 1 == channels ? 0 : c + 1;
        }
        if (n == 4)
            *(Four *)target = values;
        else
            for (int k = 0; k < n; ++k)
                target[k] = values.value[k];
    }
}

// --- from images to a net's input (transform.py)

// images: uint8, N x height x width x C. y (N x C x height x width) = (images + shift - mean) * scale, flipped if
// mirrored. place: row and column of an image's first pixel in the mean, which is mean_width pixels wide. mean_by: the
// distance of the means of adjacent pixels, 0 if all pixels have the same mean.
extern "C" __global__ void transform(long long count, const unsigned char *images, const bool *mirrored,
                                     const float *shift, const int *place, const float *mean, int mean_width,
                                     int mean_by, float scale, real *y, int height, int width, int channels) {
    FOR_EACH(i, count) {
        int w, h, c;
        const long long n = divide(divide(divide(i, width, w), height, h), channels, c);
        const int column = mirrored[n] ? width - 1 - w : w;
        const float value = images[((n * height + h) * width + column) * channels + c] + shift[n * channels + c];
        const long long under = (long long)(place[2 * n] + h) * mean_width + place[2 * n + 1] + column;
        y[i] = (value - mean[under * mean_by + c]) * scale;
    }
}
