// Direct convolution: every option, any channels; and few input channels, forward and weight gradient.
// compile: REAL=float | REAL=double
// needs: conv_shape.cuh
// needs: digits.cuh
//
// Thread mapping:
//   direct_forward          a thread for each element of y
//   direct_forward_vec4     a thread for four contiguous channels of y (of one group)
//   direct_backward_x       a thread for each element of dx
//   direct_backward_weight  a thread block for one row of the weights, as a (tap, input channel) x (output channel)
//                           matrix, 32 of its columns and one split-K slice of the output rows, over which its 8 warps
//                           stride
//   few_channels_forward    a thread block for 32 columns of at most 16 rows of the weights and a slice of the output
//                           pixels, of which it takes 64 at a time: a half warp for a pixel, 2 columns a lane
//   few_channels_backward_weight
//                           a thread block for a tile of 16 rows x 32 columns of the weights and one split-K slice of
//                           the output pixels, half warps as before (both: groups = 1)
// The weight gradients write a partial result for each slice, which column_sums adds in order. Taps outside the map are
// skipped; those of few channels are zeros.
//
// Flops: 2 * taps * input channels of a group, for each element of y. Bytes: each array once from memory if it fits the
// second-level cache; from the first-level cache two loads a multiply-add (direct_forward_vec4: one vector load and one
// scalar load for four). So groups come here, and what is too narrow for the tiles of conv2d_gemm.cu.
// Of few channels a thread keeps 16 rows x 2 columns in registers, of the weights or of their gradient's sums: a vector
// of the im2col patches, a broadcast from shared memory, meets 8 multiply-adds; vectors beyond the rows are left out.
// What these passes must hide is latency: 4 blocks a multiprocessor have 64 registers a thread, the patches of the next
// tile are loaded during the multiply-adds of this one, and dy is loaded one tile ahead of its use. A warp's part of a
// tile of a 3x3 kernel on one channel is some 260 instructions forward and 290 for the gradient (counted in the machine
// code for sm_90), of which 96 are multiply-adds.
// What was before took, on an H200 (float, batch 256, 28x28, 3x3 kernel of one channel, 32 filters, where y is written
// or read in 7 to 8 us): 46 us in direct_forward_vec4, which serves groups alone since; 34 us (24 with y in the
// second-level cache) in a gradient with one column a thread, 2 blocks of 83 registers a multiprocessor and no loads
// ahead. Now: 12.3 and 13.1 us, and 5.5 for the sum of the gradient's slices.
// Considered: a matrix product for each group (most have too few channels for its tiles), weights in shared memory (a
// 3x3 kernel of one channel is 1 KB: the first-level cache holds it), shuffles for the patch (16 instead of 4
// instructions), one column a thread (twice the broadcasts), four (64 registers for their weights alone), contiguous
// columns as vectors (a second path for odd channels and any address, to save one load or store in two).

#define WARPS 8
// Of few channels: 256 threads are 4 vectors of the patches x 64 pixels, or 16 half warps x 2 columns each of 32.
#define TILE_M 16  // rows of the weights
#define TILE_K 64  // output pixels, whose im2col patches are in shared memory
#define PIXELS 4   // TILE_K / 16: of a half warp
#define BLOCKS (sizeof(real) == 4 ? 4 : 2)  // a multiprocessor, that registers must suffice for

// ---- element by element ---------------------------------------------------------------------------------------------

// y[n, i, j, channel ... channel + WIDTH - 1]; WIDTH divides the channels of a group.
template <int WIDTH>
__device__ __forceinline__ void forward(
    const real* __restrict__ x, const real* __restrict__ weight, const real* __restrict__ bias, real* __restrict__ y,
    const ConvShape& s
) {
    const unsigned vectors = s.out_channels / WIDTH;
    const long long item = global_index();
    if (item >= (long long)s.batch * s.out_height * s.out_width * vectors) return;
    const unsigned pixel = (unsigned)item / vectors, line = pixel / s.out_width;
    const int channel = WIDTH * ((unsigned)item - pixel * vectors), j = pixel - line * s.out_width;
    const int n = line / s.out_height, i = line - n * s.out_height;
    const int inner = s.in_channels / s.groups, first = channel / (s.out_channels / s.groups) * inner;
    Vec<real, WIDTH> sums;
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) sums.at[k] = bias ? bias[channel + k] : real(0);
    const bool vector = reinterpret_cast<unsigned long long>(weight) % alignof(Vec<real, WIDTH>) == 0;
    for (int p = 0; p < s.kernel_h; ++p) {
        const int row = i * s.stride_h - s.pad_top + p * s.dilation_h;
        if ((unsigned)row >= (unsigned)s.height) continue;
        for (int q = 0; q < s.kernel_w; ++q) {
            const int column = j * s.stride_w - s.pad_left + q * s.dilation_w;
            if ((unsigned)column >= (unsigned)s.width) continue;
            const real* from = x + ((n * s.height + row) * s.width + column) * s.in_channels + first;
            const real* weights = weight + (p * s.kernel_w + q) * inner * s.out_channels + channel;
            for (int c = 0; c < inner; ++c) {
                Vec<real, WIDTH> factors;
                if (vector) {
                    factors = *reinterpret_cast<const Vec<real, WIDTH>*>(weights + c * s.out_channels);
                } else {
#pragma unroll
                    for (int k = 0; k < WIDTH; ++k) factors.at[k] = weights[c * s.out_channels + k];
                }
#pragma unroll
                for (int k = 0; k < WIDTH; ++k) sums.at[k] += from[c] * factors.at[k];
            }
        }
    }
    reinterpret_cast<Vec<real, WIDTH>*>(y)[item] = sums;
}

extern "C" __global__ void __launch_bounds__(256, 4) direct_forward(
    const real* __restrict__ x, const real* __restrict__ weight, const real* __restrict__ bias, real* __restrict__ y,
    const __grid_constant__ ConvShape s
) {
    forward<1>(x, weight, bias, y, s);
}

// y is aligned to 16 bytes: an array of its own.
extern "C" __global__ void __launch_bounds__(256, 4) direct_forward_vec4(
    const real* __restrict__ x, const real* __restrict__ weight, const real* __restrict__ bias, real* __restrict__ y,
    const __grid_constant__ ConvShape s
) {
    forward<4>(x, weight, bias, y, s);
}

extern "C" __global__ void __launch_bounds__(256, 4) direct_backward_x(
    const real* __restrict__ dy, const real* __restrict__ weight, real* __restrict__ dx,
    const __grid_constant__ ConvShape s
) {
    const long long item = global_index();
    if (item >= (long long)s.batch * s.height * s.width * s.in_channels) return;
    const unsigned pixel = (unsigned)item / s.in_channels, line = pixel / s.width;
    const int channel = (unsigned)item - pixel * s.in_channels, column = pixel - line * s.width;
    const int n = line / s.height, row = line - n * s.height;
    const int inner = s.in_channels / s.groups, outer = s.out_channels / s.groups, group = channel / inner;
    real sum = 0;
    for (int p = 0; p < s.kernel_h; ++p) {
        const int below = row + s.pad_top - p * s.dilation_h, i = below / s.stride_h;
        if (below < 0 || i * s.stride_h != below || i >= s.out_height) continue;
        for (int q = 0; q < s.kernel_w; ++q) {
            const int right = column + s.pad_left - q * s.dilation_w, j = right / s.stride_w;
            if (right < 0 || j * s.stride_w != right || j >= s.out_width) continue;
            const real* from = dy + ((n * s.out_height + i) * s.out_width + j) * s.out_channels + group * outer;
            const int tap = (p * s.kernel_w + q) * inner + channel - group * inner;
            const real* factors = weight + tap * s.out_channels + group * outer;
            for (int o = 0; o < outer; ++o) sum += from[o] * factors[o];
        }
    }
    dx[item] = sum;
}

// ---- the weight gradient --------------------------------------------------------------------------------------------

// Grid: (row of the weights, 32 output channels), slices of the batch * out_height rows of dy. partial: (slices,
// *weight.shape).
extern "C" __global__ void __launch_bounds__(256, 4) direct_backward_weight(
    const real* __restrict__ dy, const real* __restrict__ x, real* __restrict__ partial, int slice_rows,
    const __grid_constant__ ConvShape s
) {
    __shared__ real totals[WARPS][32];
    const int blocks = (s.out_channels + 31) / 32, weight_row = blockIdx.x / blocks;
    const int channel = (blockIdx.x - weight_row * blocks) * 32 + threadIdx.x, inner = s.in_channels / s.groups;
    const int tap = weight_row / inner, p = tap / s.kernel_w, q = tap - p * s.kernel_w;
    real sum = 0;
    if (channel < s.out_channels) {
        const int from = channel / (s.out_channels / s.groups) * inner + weight_row - tap * inner;
        const int first = blockIdx.y * slice_rows, last = min(s.batch * s.out_height, first + slice_rows);
        for (int line = first + threadIdx.y; line < last; line += WARPS) {
            const int n = line / s.out_height, i = line - n * s.out_height;
            const int row = i * s.stride_h - s.pad_top + p * s.dilation_h;
            if ((unsigned)row >= (unsigned)s.height) continue;
            for (int j = 0; j < s.out_width; ++j) {
                const int column = j * s.stride_w - s.pad_left + q * s.dilation_w;
                if ((unsigned)column >= (unsigned)s.width) continue;
                const real value = x[((n * s.height + row) * s.width + column) * s.in_channels + from];
                sum += value * dy[(line * s.out_width + j) * s.out_channels + channel];
            }
        }
    }
    totals[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || channel >= s.out_channels) return;
    double total = 0;
    for (int warp = 0; warp < WARPS; ++warp) total += totals[warp][threadIdx.x];
    const long long size = (long long)s.kernel_h * s.kernel_w * inner * s.out_channels;
    partial[blockIdx.y * size + weight_row * s.out_channels + channel] = (real)total;
}

// ---- few input channels, one group ----------------------------------------------------------------------------------

// What a row of the weights meets, from input pixel (i * stride_h, j * stride_w) of output pixel (i, j): the element
// that is so many rows and columns, together `offset` elements, further.
struct alignas(16) Tap {
    int row, column;
    unsigned offset;
};

// The taps of a block's rows of the weights, and a tile of pixels as a step. Shared memory, as registers are scarce.
struct Steps {
    Tap taps[TILE_M];
    Digits tile;

    __device__ __forceinline__ void fill(int first_row, const ConvShape& s) {
        if (threadIdx.x >= TILE_M) return;
        const Digits at = Radix{s.kernel_w, s.in_channels}.digits(first_row + threadIdx.x);
        const int row = at.high * s.dilation_h - s.pad_top, column = at.middle * s.dilation_w - s.pad_left;
        const unsigned offset = ((unsigned)row * s.width + column) * s.in_channels + at.low;
        taps[threadIdx.x] = {at.high < s.kernel_h ? row : -0x7fffffff - 1, column, offset};  // or outside, for any i
        if (threadIdx.x == 0) tile = Radix{s.out_height, s.out_width}.digits(TILE_K);
    }
};

typedef Vec4<real> Patches[TILE_M / 4][TILE_K];

// A thread's part of the patches: vector `part` of every 64th pixel. Lanes are contiguous pixels, and a
// warp has one `part`: those beyond the rows of the weights are no work.
struct Staging {
    int part, lane;
    Digits at;
    Vec4<real> vec;

    __device__ __forceinline__ Staging(int first, const ConvShape& s)
        : part(threadIdx.x / TILE_K), lane(threadIdx.x % TILE_K),
          at(Radix{s.out_height, s.out_width}.digits(first + lane)) {}

    // The next tile, of which so many pixels exist.
    __device__ __forceinline__ void load(
        const real* __restrict__ x, const Steps& steps, int pixels, const ConvShape& s
    ) {
        const int i = at.middle * s.stride_h, j = at.low * s.stride_w;
        const unsigned from = (((unsigned)at.high * s.height + i) * s.width + j) * s.in_channels;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const Tap tap = steps.taps[4 * part + e];
            const bool inside = lane < pixels && (unsigned)(i + tap.row) < (unsigned)s.height &&
                                (unsigned)(j + tap.column) < (unsigned)s.width;
            vec.at[e] = inside ? x[from + tap.offset] : real(0);
        }
        Radix{s.out_height, s.out_width}.add(at, steps.tile);
    }
    __device__ __forceinline__ void store(Patches& patches) const { patches[part][lane] = vec; }
};

// Grid: 32 output channels, slices of the batch * out_height * out_width pixels of y.
extern "C" __global__ void __launch_bounds__(256, BLOCKS) few_channels_forward(
    const real* __restrict__ x, const real* __restrict__ weight, const real* __restrict__ bias, real* __restrict__ y,
    int slice_pixels, const __grid_constant__ ConvShape s
) {
    __shared__ Steps steps;
    __shared__ Patches patches[2];
    const int first = blockIdx.y * slice_pixels;
    const int last = min(s.batch * s.out_height * s.out_width, first + slice_pixels);
    const int rows = s.kernel_h * s.kernel_w * s.in_channels;
    const int channel = blockIdx.x * 32 + threadIdx.x % 16, half_warp = threadIdx.x / 16;
    steps.fill(0, s);
    real weights[TILE_M][2], start[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        const bool exists = channel + 16 * c < s.out_channels;
        start[c] = exists && bias ? bias[channel + 16 * c] : real(0);
#pragma unroll
        for (int k = 0; k < TILE_M; ++k)
            weights[k][c] = exists && k < rows ? weight[k * s.out_channels + channel + 16 * c] : real(0);
    }
    __syncthreads();

    Staging staging(first, s);
    const bool stages = 4 * staging.part < rows;
    if (stages) staging.load(x, steps, last - first, s), staging.store(patches[0]);
    __syncthreads();
    for (int tile = first, buffer = 0; tile < last; tile += TILE_K, buffer ^= 1) {
        const bool more = stages && tile + TILE_K < last;
        if (more) staging.load(x, steps, last - tile - TILE_K, s);
        real sums[PIXELS][2];
#pragma unroll
        for (int k = 0; k < PIXELS; ++k) sums[k][0] = start[0], sums[k][1] = start[1];
#pragma unroll
        for (int part = 0; part < TILE_M / 4; ++part) {
            if (part > 0 && 4 * part >= rows) break;
#pragma unroll
            for (int k = 0; k < PIXELS; ++k) {
                const Vec4<real> patch = patches[buffer][part][k * 16 + half_warp];
#pragma unroll
                for (int e = 0; e < 4; ++e)
#pragma unroll
                    for (int c = 0; c < 2; ++c) sums[k][c] += patch.at[e] * weights[4 * part + e][c];
            }
        }
#pragma unroll
        for (int k = 0; k < PIXELS; ++k) {
            const int pixel = tile + k * 16 + half_warp;
#pragma unroll
            for (int c = 0; c < 2; ++c)
                if (pixel < last && channel + 16 * c < s.out_channels)
                    y[pixel * s.out_channels + channel + 16 * c] = sums[k][c];
        }
        if (more) staging.store(patches[buffer ^ 1]);
        __syncthreads();
    }
}

// Grid: 32 output channels, 16 rows of the weights, slices of the batch * out_height * out_width pixels of dy.
// partial: (slices, *weight.shape).
extern "C" __global__ void __launch_bounds__(256, BLOCKS) few_channels_backward_weight(
    const real* __restrict__ dy, const real* __restrict__ x, real* __restrict__ partial, int slice_pixels,
    const __grid_constant__ ConvShape s
) {
    __shared__ Steps steps;
    __shared__ union {
        Patches patches[2];
        real totals[WARPS][TILE_M][32];  // at the end
    } shared;
    const int first = blockIdx.z * slice_pixels;
    const int last = min(s.batch * s.out_height * s.out_width, first + slice_pixels);
    const int first_row = blockIdx.y * TILE_M, rows = s.kernel_h * s.kernel_w * s.in_channels - first_row;
    const int channel = blockIdx.x * 32 + threadIdx.x % 16, half_warp = threadIdx.x / 16;
    steps.fill(first_row, s);
    __syncthreads();

    real values[PIXELS][2], sums[TILE_M][2] = {};
    const auto load = [&](int k, int pixel) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const bool exists = pixel < last && channel + 16 * c < s.out_channels;
            values[k][c] = exists ? dy[pixel * s.out_channels + channel + 16 * c] : real(0);
        }
    };
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) load(k, first + k * 16 + half_warp);
    Staging staging(first, s);
    const bool stages = 4 * staging.part < rows;
    if (stages) staging.load(x, steps, last - first, s), staging.store(shared.patches[0]);
    __syncthreads();
    for (int tile = first, buffer = 0; tile < last; tile += TILE_K, buffer ^= 1) {
        const bool more = stages && tile + TILE_K < last;
        if (more) staging.load(x, steps, last - tile - TILE_K, s);
#pragma unroll
        for (int pair = 0; pair < PIXELS; pair += 2) {
#pragma unroll
            for (int part = 0; part < TILE_M / 4; ++part) {
                if (part > 0 && 4 * part >= rows) break;
#pragma unroll
                for (int k = pair; k < pair + 2; ++k) {
                    const Vec4<real> patch = shared.patches[buffer][part][k * 16 + half_warp];
#pragma unroll
                    for (int e = 0; e < 4; ++e)
#pragma unroll
                        for (int c = 0; c < 2; ++c) sums[4 * part + e][c] += patch.at[e] * values[k][c];
                }
            }
#pragma unroll
            for (int k = pair; k < pair + 2; ++k) load(k, tile + TILE_K + k * 16 + half_warp);  // a tile ahead
        }
        if (more) staging.store(shared.patches[buffer ^ 1]);
        __syncthreads();
    }

    // A lane adds both half warps' sums of its column of 32, and gives away those of the other.
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
#pragma unroll
    for (int k = 0; k < TILE_M; ++k) {
        const real lower = sums[k][0], upper = sums[k][1];
        const real others = __shfl_xor_sync(FULL_WARP, lane < 16 ? upper : lower, 16);
        shared.totals[warp][k][lane] = (lane < 16 ? lower : upper) + others;
    }
    __syncthreads();
    if (column >= s.out_channels) return;
    for (int k = warp; k < min(TILE_M, rows); k += WARPS) {
        double total = 0;
        for (int other = 0; other < WARPS; ++other) total += shared.totals[other][k][lane];
        const long long row = (long long)blockIdx.z * (first_row + rows) + first_row + k;
        partial[row * s.out_channels + column] = (real)total;
    }
}
