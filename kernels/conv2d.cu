// Convolution straight from its definition: every option, any channels; and the weight gradient of few input channels.
// compile: REAL=float | REAL=double
// needs: conv_shape.cuh
//
// Thread mapping:
//   direct_forward          a thread for each element of y
//   direct_forward_quads    a thread for four neighbouring channels of y (of one group)
//   direct_backward_x       a thread for each element of dx
//   direct_backward_weight  a block for one row of the weights, 32 of its columns and one piece of the output rows,
//                           which its 8 warps take in turn
//   few_backward_weight     a block for 16 rows of the weights, 32 columns and one piece of the output positions, which
//                           its 8 warps take in turn (groups = 1)
// The weight gradients write one partial result a piece, which column_sums adds in order. Taps outside the map are
// skipped.
//
// Flops: 2 * taps * input channels of a group, for each element of y. Bytes: each array once from memory if it fits the
// second-level cache; from the first-level cache two loads a multiply-add (direct_forward_quads: one vector and one
// number for four, enough for few channels, where the pass is bound by writing y). So groups come here, and what is too
// narrow for the tiles of conv2d_gemm.cu. In few_backward_weight a thread keeps 16 sums of one column: each element of
// dy is loaded once for 16 multiply-adds, whose other factors, the patch, are broadcast from shared memory as 4
// vectors.
// Considered: a matrix product for each group (most have too few channels for its tiles), weights in shared memory (a
// 3x3 kernel of one channel is 1 KB: the first-level cache holds it), shuffles for the patch (16 instead of 4
// instructions). Not yet timed on a GPU.

#define WARPS 8
#define PATCH 16      // rows of the weights, of which few_backward_weight keeps a sum each
#define POSITIONS 64  // of which it holds the patches in shared memory

// ---- element by element ---------------------------------------------------------------------------------------------

// y[n, i, j, channel ... channel + WIDTH - 1]; WIDTH divides the channels of a group.
template <int WIDTH>
__device__ __forceinline__ void forward(
    const real* __restrict__ x, const real* __restrict__ weight, const real* __restrict__ bias, real* __restrict__ y,
    const ConvShape& s
) {
    const unsigned lanes = s.out_channels / WIDTH;
    const long long item = global_index();
    if (item >= (long long)s.batch * s.out_height * s.out_width * lanes) return;
    const unsigned position = (unsigned)item / lanes, line = position / s.out_width;
    const int channel = WIDTH * ((unsigned)item - position * lanes), j = position - line * s.out_width;
    const int n = line / s.out_height, i = line - n * s.out_height;
    const int inner = s.in_channels / s.groups, first = channel / (s.out_channels / s.groups) * inner;
    Lanes<real, WIDTH> sums;
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) sums.at[k] = bias ? bias[channel + k] : real(0);
    const bool vector = reinterpret_cast<unsigned long long>(weight) % alignof(Lanes<real, WIDTH>) == 0;
    for (int p = 0; p < s.kernel_h; ++p) {
        const int row = i * s.stride_h - s.pad_top + p * s.dilation_h;
        if ((unsigned)row >= (unsigned)s.height) continue;
        for (int q = 0; q < s.kernel_w; ++q) {
            const int column = j * s.stride_w - s.pad_left + q * s.dilation_w;
            if ((unsigned)column >= (unsigned)s.width) continue;
            const real* from = x + ((n * s.height + row) * s.width + column) * s.in_channels + first;
            const real* weights = weight + (p * s.kernel_w + q) * inner * s.out_channels + channel;
            for (int c = 0; c < inner; ++c) {
                Lanes<real, WIDTH> factors;
                if (vector) {
                    factors = *reinterpret_cast<const Lanes<real, WIDTH>*>(weights + c * s.out_channels);
                } else {
#pragma unroll
                    for (int k = 0; k < WIDTH; ++k) factors.at[k] = weights[c * s.out_channels + k];
                }
#pragma unroll
                for (int k = 0; k < WIDTH; ++k) sums.at[k] += from[c] * factors.at[k];
            }
        }
    }
    reinterpret_cast<Lanes<real, WIDTH>*>(y)[item] = sums;
}

extern "C" __global__ void __launch_bounds__(256, 4) direct_forward(
    const real* __restrict__ x, const real* __restrict__ weight, const real* __restrict__ bias, real* __restrict__ y,
    const __grid_constant__ ConvShape s
) {
    forward<1>(x, weight, bias, y, s);
}

// y is aligned to 16 bytes: an array of its own.
extern "C" __global__ void __launch_bounds__(256, 4) direct_forward_quads(
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
    const unsigned position = (unsigned)item / s.in_channels, line = position / s.width;
    const int channel = (unsigned)item - position * s.in_channels, column = position - line * s.width;
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

// Grid: (row of the weights, 32 output channels), pieces of the batch * out_height rows of dy. partial: (pieces,
// *weight.shape).
extern "C" __global__ void __launch_bounds__(256, 4) direct_backward_weight(
    const real* __restrict__ dy, const real* __restrict__ x, real* __restrict__ partial, int piece_lines,
    const __grid_constant__ ConvShape s
) {
    __shared__ real totals[WARPS][32];
    const int blocks = (s.out_channels + 31) / 32, weight_row = blockIdx.x / blocks;
    const int channel = (blockIdx.x - weight_row * blocks) * 32 + threadIdx.x, inner = s.in_channels / s.groups;
    const int tap = weight_row / inner, p = tap / s.kernel_w, q = tap - p * s.kernel_w;
    real sum = 0;
    if (channel < s.out_channels) {
        const int from = channel / (s.out_channels / s.groups) * inner + weight_row - tap * inner;
        const int first = blockIdx.y * piece_lines, last = min(s.batch * s.out_height, first + piece_lines);
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

// Grid: 32 output channels, 16 rows of the weights, pieces of the batch * out_height * out_width positions of dy.
// partial: (pieces, *weight.shape).
extern "C" __global__ void __launch_bounds__(256, 2) few_backward_weight(
    const real* __restrict__ dy, const real* __restrict__ x, real* __restrict__ partial, int piece_positions,
    const __grid_constant__ ConvShape s
) {
    __shared__ Quad<real> patches[POSITIONS][PATCH / 4];
    __shared__ real totals[WARPS][PATCH][32];
    const int first = blockIdx.z * piece_positions;
    const int last = min(s.batch * s.out_height * s.out_width, first + piece_positions);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channel = blockIdx.x * 32 + lane;

    // This thread fetches element `mine` of the patches of every 16th position, from position (n, i, j) on.
    const int mine = threadIdx.x % PATCH, weight_row = blockIdx.y * PATCH + mine;
    const int tap = weight_row / s.in_channels, p = tap / s.kernel_w, q = tap - p * s.kernel_w;
    const int c = weight_row - tap * s.in_channels;
    const int shift_h = p * s.dilation_h - s.pad_top, shift_w = q * s.dilation_w - s.pad_left;
    int position = first + threadIdx.x / PATCH, line = position / s.out_width, j = position - line * s.out_width;
    int n = line / s.out_height, i = line - n * s.out_height;

    real sums[PATCH] = {};
    for (int start = first; start < last; start += POSITIONS) {
        for (int at = threadIdx.x / PATCH; at < POSITIONS; at += 256 / PATCH) {
            const int row = i * s.stride_h + shift_h, column = j * s.stride_w + shift_w;
            const bool inside = position < last && p < s.kernel_h && (unsigned)row < (unsigned)s.height &&
                                (unsigned)column < (unsigned)s.width;
            patches[at][mine / 4].at[mine % 4] =
                inside ? x[((n * s.height + row) * s.width + column) * s.in_channels + c] : real(0);
            position += 256 / PATCH;
            for (j += 256 / PATCH; j >= s.out_width; j -= s.out_width)
                if (++i == s.out_height) i = 0, ++n;
        }
        real values[POSITIONS / WARPS];
#pragma unroll
        for (int k = 0; k < POSITIONS / WARPS; ++k) {
            const int at = start + k * WARPS + warp;
            values[k] = at < last && channel < s.out_channels ? dy[at * s.out_channels + channel] : real(0);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < POSITIONS / WARPS; ++k) {
#pragma unroll
            for (int part = 0; part < PATCH / 4; ++part) {
                const Quad<real> patch = patches[k * WARPS + warp][part];
#pragma unroll
                for (int e = 0; e < 4; ++e) sums[4 * part + e] += patch.at[e] * values[k];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < PATCH; ++k) totals[warp][k][lane] = sums[k];
    __syncthreads();
    if (channel >= s.out_channels) return;
    const int rows = s.kernel_h * s.kernel_w * s.in_channels;
    for (int k = warp; k < PATCH && blockIdx.y * PATCH + k < rows; k += WARPS) {
        double total = 0;
        for (int other = 0; other < WARPS; ++other) total += totals[other][k][lane];
        const int row = blockIdx.y * PATCH + k;
        partial[((long long)blockIdx.z * rows + row) * s.out_channels + channel] = (real)total;
    }
}
