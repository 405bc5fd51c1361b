// Convolution as implicit GEMM: a matrix product whose A matrix, the im2col patches, is never materialised; groups = 1.
// compile: REAL=float TILE_M=128 TILE_N=64 | REAL=float TILE_M=128 TILE_N=32 | REAL=float TILE_M=64 TILE_N=64
// compile: REAL=float TF32=1 TILE_M=128 TILE_N=64 | REAL=float TF32=1 TILE_M=128 TILE_N=32
// compile: REAL=float TF32=1 TILE_M=64 TILE_N=64 | REAL=double TILE_M=64 TILE_N=64
// needs: conv_shape.cuh
// needs: digits.cuh
// needs: ptx.cuh
// needs: gemm.cuh
//
// Thread mapping: a thread block of 128 threads for a tile of the GEMM's M x N result, see gemm.cuh.
//   gemm_forward          M: output pixels        N: output channels  K: tap, input channel   (fprop)
//   gemm_backward_x       M: input pixels         N: input channels   K: tap, output channel  (dgrad)
//   gemm_backward_weight  M: tap, input channel   N: output channels  K: output pixels        (wgrad)
// With strides, the input pixels of dgrad fall into stride_h * stride_w phases, each of which meets a fixed subset of
// the taps: a phase is a convolution of its own, with stride 1. Where the tiles alone would not fill a GPU, K is split
// into slices along gridDim.z (split-K), which column_sums.cu adds in order. Global loads are vectors of four where
// channels and addresses allow, else scalar and predicated. Pixels and taps are divided out once; from one K tile to
// the next they are advanced by addition.
//
// Flops: 2 M N K, less the taps that no row of a tile meets: where a tile's rows are the images at one pixel, that is
// every tap on the padding. Bytes (float): 12 KB from the caches for a K tile of 262 kflop (128 x 64); from memory each
// feature map once where it fits the second-level cache. One input channel would leave most of a tile empty (3x3: K = 9
// of 16 forward, M = 9 of 64 for the weights), so its forward pass and weight gradient are in conv2d.cu.
// Considered: im2col in memory (kernel_h * kernel_w times the bytes); Winograd (2.25 times fewer products for 3x3,
// worse rounding, a kernel of its own); staging in registers, with a transposing store to shared memory (15 to 28 % more
// time with TF32, 4 to 7 % in float32); cp.async by the first-level cache (26 % more time).
//
// On an H100 (256 images, 3x3; rates without taps on the padding), us forward, input and weight gradient, with the sums
// of split-K: 14x14x32 to 64 channels 49, 62, 60 (34, 27, 28 TFLOP/s), with TF32 23, 46, 29 (73, 37, 57); 7x7x64 to 128
// 51, 56, 57, with TF32 23, 29, 27; 3x3x128 to 256 39, 37, 34, with TF32 21, 20, 20. In float32 cuDNN took 1.1 to 3.1
// times as long, with TF32 0.6 to 1.7 times. A large product of cuBLAS reaches 52 TFLOP/s, with TF32 397. What bounds
// the TF32 path is the second-level cache (70 % of its throughput) and the latency of its loads.

#define OUTSIDE (-(1 << 30))
// Thread blocks a multiprocessor: leaves registers enough that none spill.
#define BLOCKS (sizeof(real) == 8 ? 2 : TILE_M * TILE_N > 4096 ? 3 : 4)
#define WEIGHT_BLOCKS (sizeof(real) == 8 ? 2 : TILE_M > 64 ? 3 : 4)

// ---- pixels and taps ------------------------------------------------------------------------------------------------

// A row of the GEMM tile: the row of the output it is written to, and the input pixel that its first tap reads, as an
// offset and as coordinates.
struct alignas(16) GemmRow {
    int output, offset, h, w;
};

struct Range {
    int first, count;
};

// One axis of a convolution: output i reads input start + i * step + shift + tap * spread, if that is in [0, size).
struct Axis {
    int size, outputs, taps, start, step, spread;
    int first_output, output_step;  // output i is element first_output + i * output_step of the array it is written to
    int first_tap, tap_step;        // likewise for the taps and the array of the weights
    int shift;                      // of the taps that are left after trimming

    __device__ __forceinline__ int at(int origin, int tap) const { return origin + shift + tap * spread; }

    // Cuts off the taps that fall on padding for every output whose tap 0 is in [low, high]; those left are contiguous.
    __device__ __forceinline__ void trim(int low, int high) {
        int skipped = 0;
        while (skipped < taps && !meets(low, high, skipped)) ++skipped;
        while (taps > skipped && !meets(low, high, taps - 1)) --taps;
        taps -= skipped;
        first_tap += skipped * tap_step;
        shift = skipped * spread;
    }
    __device__ __forceinline__ bool meets(int low, int high, int tap) const {
        return high + tap * spread >= 0 && low + tap * spread < size;
    }

    // The outputs for which one of the taps from `low` to `high` is inside the input (spread > 0).
    __device__ __forceinline__ Range outputs_inside(int low, int high) const {
        const int below = -(start + high * spread), reach = size - 1 - (start + low * spread);
        const int first = below > 0 ? (below + step - 1) / step : 0;
        const int last = reach < 0 ? -1 : min(outputs - 1, reach / step);
        return {first, max(0, last - first + 1)};
    }
};

__device__ __forceinline__ Axis forward_axis(int size, int out, int kernel, int stride, int before, int dilation) {
    return {size, out, kernel, -before, stride, dilation, 0, 1, 0, 1, 0};
}

// Of the gradient of inputs phase, phase + stride ...: the taps that lead from them to an output are `tap_step` apart.
__device__ __forceinline__ Axis backward_axis(
    int size, int out, int kernel, int stride, int before, int dilation, int phase
) {
    int first_tap = 0, tap_step = 1;
    while (first_tap < kernel && (phase + before - first_tap * dilation) % stride != 0) ++first_tap;
    while (tap_step * dilation % stride != 0) ++tap_step;
    const int taps = (kernel - first_tap + tap_step - 1) / tap_step;
    const int start = (phase + before - first_tap * dilation) / stride, spread = -(tap_step * dilation / stride);
    return {out, (size - phase + stride - 1) / stride, taps, start, 1, spread, phase, stride, first_tap, tap_step, 0};
}

// Fills the table of the tile's rows, and trims the axes to the taps that any of them meets. The GEMM's M index is
// (row, column, image) if images_innermost, else (image, row, column).
__device__ __forceinline__ void make_rows(
    GemmRow (&rows)[TILE_M], Axis& h, Axis& w, int batch, int channels, int output_h, int output_w,
    int images_innermost
) {
    const int first = blockIdx.x * TILE_M, count = min(TILE_M, batch * h.outputs * w.outputs - first);
    if (threadIdx.x < TILE_M) {
        GemmRow row = {-1, 0, OUTSIDE, OUTSIDE};
        if ((int)threadIdx.x < count) {
            const Radix radix = images_innermost ? Radix{w.outputs, batch} : Radix{h.outputs, w.outputs};
            const Digits at = radix.digits(first + threadIdx.x);
            const int n = images_innermost ? at.low : at.high;
            const int i = images_innermost ? at.high : at.middle, j = images_innermost ? at.middle : at.low;
            row.h = h.start + i * h.step;
            row.w = w.start + j * w.step;
            row.offset = ((n * h.size + row.h) * w.size + row.w) * channels;
            const int line = n * output_h + h.first_output + i * h.output_step;
            row.output = line * output_w + w.first_output + j * w.output_step;
        }
        rows[threadIdx.x] = row;
    }
    __syncthreads();
    int h_low = h.start, h_high = h.start + (h.outputs - 1) * h.step;
    int w_low = w.start, w_high = w.start + (w.outputs - 1) * w.step;
    if (images_innermost && count > 0) {
        h_low = rows[0].h, h_high = rows[count - 1].h;
        if (h_low == h_high) w_low = rows[0].w, w_high = rows[count - 1].w;
    }
    h.trim(h_low, h_high);
    w.trim(w_low, w_high);
}

// Offset of weight[tap, 0, 0], of which `size` elements belong to one tap.
__device__ __forceinline__ int tap_offset(const Axis& h, const Axis& w, int kernel_w, const Digits& k, int size) {
    const int row = h.first_tap + k.high * h.tap_step, column = w.first_tap + k.middle * w.tap_step;
    return (row * kernel_w + column) * size;
}

// ---- operands: what A and B are -------------------------------------------------------------------------------------

using PatchTile = KMajorTile<TILE_M>;

// The rows of this thread's vectors of A. Tensor cores leave registers enough to keep them there.
struct ThreadRows {
#if TENSOR_CORES
    GemmRow kept[TILE_M / PASS];

    __device__ __forceinline__ ThreadRows(const GemmRow* rows) {
#pragma unroll
        for (int i = 0; i < TILE_M / PASS; ++i) kept[i] = rows[KMajorThreadMap().mn + i * PASS];
    }
    __device__ __forceinline__ const GemmRow& operator[](int i) const { return kept[i]; }
#else
    const GemmRow* rows;

    __device__ __forceinline__ ThreadRows(const GemmRow* rows) : rows(rows + KMajorThreadMap().mn) {}
    __device__ __forceinline__ const GemmRow& operator[](int i) const { return rows[i * PASS]; }
#endif
};

// A of the forward pass and of the input gradient: im2col patches of a feature map, with k as (tap row, tap column,
// channel).
struct PatchIterator {
    const real* map;
    Axis h, w;
    int channels;
    bool vectorized;
    ThreadRows rows;
    Radix radix;
    Digits k, step;

    __device__ __forceinline__ PatchIterator(
        const real* map, const GemmRow* rows, const Axis& h, const Axis& w, int channels, int first_tile
    ) : map(map), h(h), w(w), channels(channels), vectorized(is_vectorizable(map, channels)), rows(rows),
        radix{max(1, w.taps), channels}, k(radix.digits(first_tile * TILE_K + KMajorThreadMap().k)),
        step(radix.digits(TILE_K)) {}

    __device__ __forceinline__ void copy(PatchTile& tile) const {
        copy_k_major(tile, map, vectorized, radix, k, [&](const Digits& at, int i) {
            const GemmRow row = rows[i];
            const int below = h.at(0, at.high), right = w.at(0, at.middle);
            const bool on_map =
                (unsigned)(row.h + below) < (unsigned)h.size && (unsigned)(row.w + right) < (unsigned)w.size;
            const int from = row.offset + (below * w.size + right) * channels + at.low;
            return Source{from, at.high < h.taps && on_map};
        });
    }
    __device__ __forceinline__ void advance() { radix.add(k, step); }
};

// B of the forward pass is weight[tap, input channel, column], MN-major.
struct ForwardOperands {
    using WeightTile = MNMajorTile<TILE_N>;
    PatchIterator patches;
    const real* weight;
    int kernel_w, column, columns;
    bool vectorized;
    Digits k;

    __device__ __forceinline__ ForwardOperands(
        const PatchIterator& patches, const real* weight, int kernel_w, int column, int columns, int first_tile
    ) : patches(patches), weight(weight), kernel_w(kernel_w), column(column), columns(columns),
        vectorized(is_vectorizable(weight, columns)),
        k(patches.radix.digits(first_tile * TILE_K + MNMajorThreadMap().k)) {}

    __device__ __forceinline__ void copy(Stage<PatchTile, WeightTile>& stage) const {
        patches.copy(stage.a);
        const int tap = tap_offset(patches.h, patches.w, kernel_w, k, patches.channels * columns);
        const int count = k.high < patches.h.taps ? columns - column : 0;
        copy_mn_major(stage.b, weight, tap + k.low * columns + column, count, vectorized);
    }
    __device__ __forceinline__ void advance() {
        patches.advance();
        patches.radix.add(k, patches.step);
    }
};

// B of the input gradient is weight[tap, column, output channel], K-major.
struct BackwardXOperands {
    using WeightTile = KMajorTile<TILE_N>;
    PatchIterator patches;
    const real* weight;
    int kernel_w, column, columns;
    bool vectorized;

    __device__ __forceinline__ void copy(Stage<PatchTile, WeightTile>& stage) const {
        patches.copy(stage.a);
        copy_k_major(stage.b, weight, vectorized, patches.radix, patches.k, [&](const Digits& at, int i) {
            const int in_channel = column + KMajorThreadMap().mn + i * PASS, channels = patches.channels;
            const int tap = tap_offset(patches.h, patches.w, kernel_w, at, channels * columns);
            return Source{tap + in_channel * channels + at.low, at.high < patches.h.taps && in_channel < columns};
        });
    }
    __device__ __forceinline__ void advance() { patches.advance(); }
};

// Of the weight gradient, A is x at (output pixel, tap, input channel) and B is dy at (output pixel, column), both
// MN-major: k is an output pixel.
struct BackwardWeightOperands {
    using XTile = MNMajorTile<TILE_M>;
    using DyTile = MNMajorTile<TILE_N>;
    const real *x, *dy;
    Axis h, w;
    Digits first, k, step;  // (image, row, column) of the first k, and of this thread's, counted from there
    Radix radix;
    Digits row[TILE_M / PASS];  // (tap row, tap column, channel) of this thread's vectors
    Radix taps;
    int batch, column, columns;
    bool x_vectorized, dy_vectorized;

    __device__ __forceinline__ void copy(Stage<XTile, DyTile>& stage) const {
        const MNMajorThreadMap map;
        const int n = k.high, i = first.middle + k.middle, j = first.low + k.low;
        const int y0 = h.start + i * h.step, x0 = w.start + j * w.step;
        const bool inside = n < batch;
        const auto source = [&](const Digits& at) {
            const int at_y = h.at(y0, at.high), at_x = w.at(x0, at.middle);
            const bool on_map = (unsigned)at_y < (unsigned)h.size && (unsigned)at_x < (unsigned)w.size;
            const int from = ((n * h.size + at_y) * w.size + at_x) * taps.lows + at.low;
            return Source{from, inside && at.high < h.taps && on_map};
        };
#pragma unroll
        for (int v = 0; v < TILE_M / PASS; ++v) {
            real* const to = &stage.a.at[map.k][map.mn + v * PASS];
            if (x_vectorized) {
                const Source from = source(row[v]);
                copy_vec4(to, x + from.offset, from.inside);
                continue;
            }
            Digits at = row[v];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const Source from = source(at);
                copy_element(to + e, x + from.offset, from.inside);
                taps.next(at);
            }
        }
        const int pixel = (n * h.outputs + i) * w.outputs + j;
        copy_mn_major(stage.b, dy, pixel * columns + column, inside ? columns - column : 0, dy_vectorized);
    }
    __device__ __forceinline__ void advance() { radix.add(k, step); }
};

// ---- kernels; x, y and so on as in gpunet/ops/conv2d ----------------------------------------------------------------

// Grid: tiles along M, tiles along N, split-K slices. With one slice, y is the result; else slice s is written to y[s],
// without bias.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm_forward(
    const real* __restrict__ x, const real* __restrict__ weight, const real* __restrict__ bias, real* __restrict__ y,
    int images_innermost, const __grid_constant__ ConvShape s
) {
    using Operands = ForwardOperands;
    __shared__ Stage<PatchTile, Operands::WeightTile> stages[STAGES];
    __shared__ GemmRow rows[TILE_M];
    Axis h = forward_axis(s.height, s.out_height, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h);
    Axis w = forward_axis(s.width, s.out_width, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w);
    make_rows(rows, h, w, s.batch, s.in_channels, s.out_height, s.out_width, images_innermost);
    const SplitKSlice slice(h.taps * w.taps * s.in_channels, blockIdx.z, gridDim.z);
    const int column = blockIdx.y * TILE_N;
    const PatchIterator patches(x, rows, h, w, s.in_channels, slice.first_tile);
    Operands operands(patches, weight, s.kernel_w, column, s.out_channels, slice.first_tile);
    Accumulators<PatchTile, Operands::WeightTile> accumulators;
    main_loop(accumulators, operands, slice.tiles, stages);
    real* const to = y + (long long)blockIdx.z * s.batch * s.out_height * s.out_width * s.out_channels;
    epilogue(accumulators, &rows[0].output, 4, gridDim.z == 1 ? bias : nullptr, to, column, s.out_channels);
}

// Grid: tiles along M of the largest phase, tiles along N, phases times split-K slices. Slices as above.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm_backward_x(
    const real* __restrict__ dy, const real* __restrict__ weight, real* __restrict__ dx, int images_innermost,
    const __grid_constant__ ConvShape s
) {
    using Operands = BackwardXOperands;
    __shared__ Stage<PatchTile, Operands::WeightTile> stages[STAGES];
    __shared__ GemmRow rows[TILE_M];
    const int phases = s.stride_h * s.stride_w, phase = blockIdx.z % phases, slice_index = blockIdx.z / phases;
    Axis h = backward_axis(
        s.height, s.out_height, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h, phase / s.stride_w);
    Axis w = backward_axis(
        s.width, s.out_width, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w, phase % s.stride_w);
    make_rows(rows, h, w, s.batch, s.out_channels, s.height, s.width, images_innermost);
    const SplitKSlice slice(h.taps * w.taps * s.out_channels, slice_index, gridDim.z / phases);
    const int column = blockIdx.y * TILE_N;
    const PatchIterator patches(dy, rows, h, w, s.out_channels, slice.first_tile);
    Operands operands = {
        patches, weight, s.kernel_w, column, s.in_channels, is_vectorizable(weight, s.out_channels)};
    Accumulators<PatchTile, Operands::WeightTile> accumulators;
    main_loop(accumulators, operands, slice.tiles, stages);
    real* const to = dx + (long long)slice_index * s.batch * s.height * s.width * s.in_channels;
    epilogue(accumulators, &rows[0].output, 4, nullptr, to, column, s.in_channels);
}

// Grid: tiles along M, tiles along N, split-K slices. K is the output pixels for which a tap of this tile is inside x.
extern "C" __global__ void __launch_bounds__(THREADS, WEIGHT_BLOCKS) gemm_backward_weight(
    const real* __restrict__ dy, const real* __restrict__ x, real* __restrict__ dweight,
    const __grid_constant__ ConvShape s
) {
    using Operands = BackwardWeightOperands;
    __shared__ Stage<Operands::XTile, Operands::DyTile> stages[STAGES];
    __shared__ int output_rows[TILE_M];
    const Axis h = forward_axis(s.height, s.out_height, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h);
    const Axis w = forward_axis(s.width, s.out_width, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w);
    const int all_rows = s.kernel_h * s.kernel_w * s.in_channels, first_row = blockIdx.x * TILE_M;
    const int last_row = min(all_rows, first_row + TILE_M) - 1, column = blockIdx.y * TILE_N;
    if (threadIdx.x < TILE_M) {
        const int row = first_row + threadIdx.x;
        output_rows[threadIdx.x] = row <= last_row ? row : -1;
    }
    __syncthreads();  // a slice without K tiles has no other
    const Radix taps = {s.kernel_w, s.in_channels};
    const Digits low = taps.digits(first_row), high = taps.digits(last_row);
    const Range lines = h.outputs_inside(low.high, high.high);
    const Range pixels =
        low.high == high.high ? w.outputs_inside(low.middle, high.middle) : w.outputs_inside(0, s.kernel_w - 1);
    const SplitKSlice slice(s.batch * lines.count * pixels.count, blockIdx.z, gridDim.z);

    Operands operands;
    operands.x = x, operands.dy = dy, operands.h = h, operands.w = w, operands.batch = s.batch, operands.taps = taps;
    operands.column = column, operands.columns = s.out_channels;
    operands.x_vectorized = is_vectorizable(x, s.in_channels);
    operands.dy_vectorized = is_vectorizable(dy, s.out_channels);
    const MNMajorThreadMap thread_map;
    operands.radix = {max(1, lines.count), max(1, pixels.count)};
    operands.first = {0, lines.first, pixels.first};
    operands.k = operands.radix.digits(slice.first_tile * TILE_K + thread_map.k);
    operands.step = operands.radix.digits(TILE_K);
#pragma unroll
    for (int i = 0; i < TILE_M / PASS; ++i)
        operands.row[i] = taps.digits(first_row + thread_map.mn + i * PASS);

    Accumulators<Operands::XTile, Operands::DyTile> accumulators;
    main_loop(accumulators, operands, slice.tiles, stages);
    real* const to = dweight + (long long)blockIdx.z * all_rows * s.out_channels;
    epilogue(accumulators, output_rows, 1, nullptr, to, column, s.out_channels);
}
