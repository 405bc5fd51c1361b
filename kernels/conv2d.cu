// Direct convolution: every option, any channels; and the weight gradient of few input channels.
// compile: REAL=float | REAL=double
// needs: conv_shape.cuh
//
// Thread mapping:
//   direct_forward          a thread for each element of y
//   direct_forward_vec4     a thread for four contiguous channels of y (of one group)
//   direct_backward_x       a thread for each element of dx
//   direct_backward_weight  a thread block for one row of the weights, as a (tap, input channel) x (output channel)
//                           matrix, 32 of its columns and one split-K slice of the output rows, over which its 8 warps
//                           stride
//   few_channels_backward_weight
//                           a thread block for a tile of 16 rows x 32 columns of the weights and one split-K slice of
//                           the output pixels, over which its 8 warps stride (groups = 1)
// The weight gradients write a partial result for each slice, which column_sums adds in order. Taps outside the map are
// skipped.
//
// Flops: 2 * taps * input channels of a group, for each element of y. Bytes: each array once from memory if it fits the
// second-level cache; from the first-level cache two loads a multiply-add (direct_forward_vec4: one vector load and one
// scalar load for four, enough for few channels, where the pass is bound by writing y). So groups come here, and what
// is too narrow for the tiles of conv2d_gemm.cu. In few_channels_backward_weight a thread has 16 accumulators of one
// column: each element of dy is loaded once for 16 multiply-adds, whose other factors, an im2col patch, are broadcast
// from shared memory as 4 vectors.
// Considered: a matrix product for each group (most have too few channels for its tiles), weights in shared memory (a
// 3x3 kernel of one channel is 1 KB: the first-level cache holds it), shuffles for the patch (16 instead of 4
// instructions). Not yet timed on a GPU.

#define WARPS 8
#define TILE_M 16  // of few_channels_backward_weight: rows of the weights, an accumulator of each thread for each
#define TILE_K 64  // output pixels, whose im2col patches are in shared memory

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

// Grid: 32 output channels, 16 rows of the weights, slices of the batch * out_height * out_width pixels of dy.
// partial: (slices, *weight.shape).
extern "C" __global__ void __launch_bounds__(256, 2) few_channels_backward_weight(
    const real* __restrict__ dy, const real* __restrict__ x, real* __restrict__ partial, int slice_pixels,
    const __grid_constant__ ConvShape s
) {
    __shared__ Vec4<real> patches[TILE_K][TILE_M / 4];
    __shared__ real totals[WARPS][TILE_M][32];
    const int first = blockIdx.z * slice_pixels;
    const int last = min(s.batch * s.out_height * s.out_width, first + slice_pixels);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channel = blockIdx.x * 32 + lane;

    // This thread loads element `mine` of the patches of every 16th pixel, from pixel (n, i, j) on.
    const int mine = threadIdx.x % TILE_M, weight_row = blockIdx.y * TILE_M + mine;
    const int tap = weight_row / s.in_channels, p = tap / s.kernel_w, q = tap - p * s.kernel_w;
    const int c = weight_row - tap * s.in_channels;
    const int shift_h = p * s.dilation_h - s.pad_top, shift_w = q * s.dilation_w - s.pad_left;
    int pixel = first + threadIdx.x / TILE_M, line = pixel / s.out_width, j = pixel - line * s.out_width;
    int n = line / s.out_height, i = line - n * s.out_height;

    real sums[TILE_M] = {};
    for (int start = first; start < last; start += TILE_K) {
        for (int at = threadIdx.x / TILE_M; at < TILE_K; at += 256 / TILE_M) {
            const int row = i * s.stride_h + shift_h, column = j * s.stride_w + shift_w;
            const bool inside = pixel < last && p < s.kernel_h && (unsigned)row < (unsigned)s.height &&
                                (unsigned)column < (unsigned)s.width;
            patches[at][mine / 4].at[mine % 4] =
                inside ? x[((n * s.height + row) * s.width + column) * s.in_channels + c] : real(0);
            pixel += 256 / TILE_M;
            for (j += 256 / TILE_M; j >= s.out_width; j -= s.out_width)
                if (++i == s.out_height) i = 0, ++n;
        }
        real values[TILE_K / WARPS];
#pragma unroll
        for (int k = 0; k < TILE_K / WARPS; ++k) {
            const int at = start + k * WARPS + warp;
            values[k] = at < last && channel < s.out_channels ? dy[at * s.out_channels + channel] : real(0);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TILE_K / WARPS; ++k) {
#pragma unroll
            for (int part = 0; part < TILE_M / 4; ++part) {
                const Vec4<real> patch = patches[k * WARPS + warp][part];
#pragma unroll
                for (int e = 0; e < 4; ++e) sums[4 * part + e] += patch.at[e] * values[k];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < TILE_M; ++k) totals[warp][k][lane] = sums[k];
    __syncthreads();
    if (channel >= s.out_channels) return;
    const int rows = s.kernel_h * s.kernel_w * s.in_channels;
    for (int k = warp; k < TILE_M && blockIdx.y * TILE_M + k < rows; k += WARPS) {
        double total = 0;
        for (int other = 0; other < WARPS; ++other) total += totals[other][k][lane];
        const int row = blockIdx.y * TILE_M + k;
        partial[((long long)blockIdx.z * rows + row) * s.out_channels + channel] = (real)total;
    }
}
