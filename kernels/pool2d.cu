// Pooling of NHWC maps, forward and backward.
// compile: REAL=float | REAL=double
// needs: pool2d.cuh
//
// Thread mapping: one thread for up to four contiguous channels of one pixel of what is written, thread blocks of 256,
// channels innermost: where the channels are a multiple of four, loads and stores are vectors of 16 bytes, and a warp's
// are coalesced. Each output element is written once, by one thread, without atomics: always the same bits.
//   max_pool, avg_pool                    any window; a thread walks its window, row by row
//   max_pool_backward, avg_pool_backward  gather: a thread walks the windows that cover its element of dx
//   max_pool_2x2(_backward), avg_pool_2x2 windows of 2 x 2 side by side, as image networks have them; backward, a
//                                         thread writes the elements of its window, or of an odd edge without one
//   global_avg_pool                       a thread block for one image and 32 channels
//
// Bytes of the 2 x 2 kernels for E elements of x in float32: maximum 5.25 E each way (argmax included), average 5 E.
// Flops: less than one a byte, bound by memory. Overlapping windows read x kernel / stride times along an axis, all but
// once from a cache.
//
// Considered: scatter with atomics (the order of additions would change from run to run); a mask of dx's size instead
// of the argmax (more bytes); tiles of x in shared memory for overlapping windows (the first-level cache already serves
// them); windows of 2 x 2 by the general kernels (about ten integer divisions a thread more).
//
// In a training step on an H200, for 256 maps of 28 x 28 x 32 (25.7 MB) and of 14 x 14 x 64, max_pool_2x2 took 6.5 and
// 3.9 us, max_pool_2x2_backward 8.5 and 4.8.

#define FEW_TAPS 64  // averages of so many elements are summed in `real`, longer ones in double, as on the CPU

// ---- windows --------------------------------------------------------------------------------------------------------

// One axis of a pooling: `out` windows of `kernel` taps, `dilation` apart, over `size` elements.
struct Axis {
    int size, out, kernel, stride, before, dilation;

    // Where the first tap of a window lies; negative on the leading padding, never at or beyond `size`.
    __device__ __forceinline__ int start(int window) const { return window * stride - before; }

    // The taps of a window inside the map: from first_tap to end_tap, none if that is not larger.
    __device__ __forceinline__ int first_tap(int start) const {
        return start < 0 ? (dilation - 1 - start) / dilation : 0;
    }
    __device__ __forceinline__ int end_tap(int start) const {
        return min(kernel, (size - start + dilation - 1) / dilation);
    }

    // The windows that reach over a position: from first_window to last_window, none if that is smaller.
    __device__ __forceinline__ int first_window(int position) const {
        const int beyond = position + before - dilation * (kernel - 1);
        return beyond > 0 ? (beyond + stride - 1) / stride : 0;
    }
    __device__ __forceinline__ int last_window(int position) const {
        return min(out - 1, (position + before) / stride);
    }

    // The tap with which a window that reaches over a position meets it, -1 if it passes between two taps.
    __device__ __forceinline__ int tap(int window, int position) const {
        const int distance = position - start(window), tap = distance / dilation;
        return tap * dilation == distance ? tap : -1;
    }

    // How many elements an average counts along this axis: those inside the map, or inside the padded map.
    __device__ __forceinline__ int counted(int window, int counted_before, int counted_after) const {
        return min(start(window) + kernel, size + counted_after) - max(start(window), -counted_before);
    }
};

// ---- maximum --------------------------------------------------------------------------------------------------------

// The index of the winning tap goes to the one of `argmax8` (for up to 256 taps) and `argmax32` that is not null.
extern "C" __global__ void __launch_bounds__(256) max_pool(
    const real* __restrict__ x, real* __restrict__ y, unsigned char* __restrict__ argmax8, int* __restrict__ argmax32,
    int batch, int channels,
    int height, int out_height, int kernel_h, int stride_h, int top, int dilation_h,
    int width, int out_width, int kernel_w, int stride_w, int left, int dilation_w) {
    const Axis rows = {height, out_height, kernel_h, stride_h, top, dilation_h};
    const Axis columns = {width, out_width, kernel_w, stride_w, left, dilation_w};
    const long long index = global_index();
    if (index >= work_items(batch, out_height, out_width, channels)) return;
    const WorkItem at = work_item(index, out_height, out_width, channels);
    const bool vectorized =
        channels % 4 == 0 && is_aligned(x) && is_aligned(y) && is_aligned(argmax8) && is_aligned(argmax32);

    const int start_row = rows.start(at.row), first_p = rows.first_tap(start_row), end_p = rows.end_tap(start_row);
    const int start_column = columns.start(at.column), first_q = columns.first_tap(start_column);
    const int end_q = columns.end_tap(start_column);
    const int first = first_p < end_p && first_q < end_q ? first_p * kernel_w + first_q : 0;
    const real lowest = real(-1) / real(0);
    Best best = {{lowest, lowest, lowest, lowest}, {first, first, first, first}};
    for (int p = first_p; p < end_p; ++p) {
        const int line = (at.n * height + start_row + p * dilation_h) * width + start_column;
#pragma unroll 2
        for (int q = first_q; q < end_q; ++q) {
            const int from = (line + q * dilation_w) * channels + at.channel;
            best.meet(load_vec4(x + from, at.count, vectorized), p * kernel_w + q);
        }
    }

    const int to = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
    store_vec4(y + to, best.value, at.count, vectorized);
    if (argmax8) {
        Vec4<unsigned char> narrow;
#pragma unroll
        for (int k = 0; k < 4; ++k) narrow.at[k] = (unsigned char)best.tap.at[k];
        store_vec4(argmax8 + to, narrow, at.count, vectorized);
    } else {
        store_vec4(argmax32 + to, best.tap, at.count, vectorized);
    }
}

// An argmax that is no tap of the window belongs to no element: nothing is read or written for it.
template <typename Tap>
__device__ __forceinline__ void gather_maxima(
    const real* dy, const Tap* argmax, real* dx, int batch, int channels, const Axis& rows, const Axis& columns) {
    const long long index = global_index();
    if (index >= work_items(batch, rows.size, columns.size, channels)) return;
    const WorkItem at = work_item(index, rows.size, columns.size, channels);
    const bool vectorized = channels % 4 == 0 && is_aligned(dy) && is_aligned(argmax) && is_aligned(dx);

    const int first_j = columns.first_window(at.column), last_j = columns.last_window(at.column);
    const int last_i = rows.last_window(at.row);
    Vec4<real> total = {};
    for (int i = rows.first_window(at.row); i <= last_i; ++i) {
        const int p = rows.tap(i, at.row);
        if (p < 0) continue;
        for (int j = first_j; j <= last_j; ++j) {
            const int q = columns.tap(j, at.column);
            if (q < 0) continue;
            const int from = ((at.n * rows.out + i) * columns.out + j) * channels + at.channel;
            const Vec4<real> d = load_vec4(dy + from, at.count, vectorized);
            const Vec4<Tap> won = load_vec4(argmax + from, at.count, vectorized);
#pragma unroll
            for (int k = 0; k < 4; ++k) total.at[k] += won.at[k] == p * columns.kernel + q ? d.at[k] : real(0);
        }
    }
    const int to = ((at.n * rows.size + at.row) * columns.size + at.column) * channels + at.channel;
    store_vec4(dx + to, total, at.count, vectorized);
}

extern "C" __global__ void __launch_bounds__(256) max_pool_backward(
    const real* __restrict__ dy, const unsigned char* __restrict__ argmax8, const int* __restrict__ argmax32,
    real* __restrict__ dx, int batch, int channels,
    int height, int out_height, int kernel_h, int stride_h, int top, int dilation_h,
    int width, int out_width, int kernel_w, int stride_w, int left, int dilation_w) {
    const Axis rows = {height, out_height, kernel_h, stride_h, top, dilation_h};
    const Axis columns = {width, out_width, kernel_w, stride_w, left, dilation_w};
    if (argmax8)
        gather_maxima(dy, argmax8, dx, batch, channels, rows, columns);
    else
        gather_maxima(dy, argmax32, dx, batch, channels, rows, columns);
}

// With `relu`, a maximum that is not positive becomes zero, and its argmax NO_TAP, so that no gradient passes.
extern "C" __global__ void __launch_bounds__(256) max_pool_2x2(
    const real* __restrict__ x, real* __restrict__ y, unsigned char* __restrict__ argmax, int batch, int height,
    int width, int channels, int relu) {
    const int out_height = height / 2, out_width = width / 2;
    const long long index = global_index();
    if (index >= work_items(batch, out_height, out_width, channels)) return;
    const WorkItem at = work_item(index, out_height, out_width, channels);
    const bool vectorized = channels % 4 == 0 && is_aligned(x) && is_aligned(y) && is_aligned(argmax);

    Vec4<real> taps[4];
    load_window(taps, x, at, height, width, channels, vectorized);
    const int to = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
    store_maximum(taps, relu, y + to, argmax + to, at.count, vectorized);
}

extern "C" __global__ void __launch_bounds__(256) max_pool_2x2_backward(
    const real* __restrict__ dy, const unsigned char* __restrict__ argmax, real* __restrict__ dx, int batch, int height,
    int width, int channels) {
    const int out_height = height / 2, out_width = width / 2;
    const long long index = global_index();
    if (index >= work_items(batch, height - out_height, width - out_width, channels)) return;
    const WorkItem at = work_item(index, height - out_height, width - out_width, channels);
    const bool vectorized = channels % 4 == 0 && is_aligned(dy) && is_aligned(argmax) && is_aligned(dx);

    Vec4<real> d;
    Vec4<unsigned char> won;
    load_window_gradient(d, won, dy, argmax, at, out_height, out_width, channels, vectorized);
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) {
        const int row = 2 * at.row + tap / 2, column = 2 * at.column + tap % 2;
        if (row >= height || column >= width) continue;
        const int to = ((at.n * height + row) * width + column) * channels + at.channel;
        store_vec4(dx + to, share_of(tap, d, won), at.count, vectorized);
    }
}

// ---- average --------------------------------------------------------------------------------------------------------

// The part of a window inside the map, for the channels of one thread.
struct Box {
    int rows, columns, row_stride, column_stride, count;
    bool vectorized;
};

template <typename Sum>
__device__ __forceinline__ Vec4<real> mean_of(const real* from, const Box& box, int counted) {
    Vec4<Sum> total = {};
    for (int row = 0; row < box.rows; ++row)
#pragma unroll 2
        for (int column = 0; column < box.columns; ++column) {
            const int offset = row * box.row_stride + column * box.column_stride;
            const Vec4<real> value = load_vec4(from + offset, box.count, box.vectorized);
#pragma unroll
            for (int k = 0; k < 4; ++k) total.at[k] += value.at[k];
        }
    Vec4<real> mean;
#pragma unroll
    for (int k = 0; k < 4; ++k) mean.at[k] = real(total.at[k] / Sum(counted));
    return mean;
}

// `counted_*` is how much of the padding on each side an average counts: all or nothing.
extern "C" __global__ void __launch_bounds__(256) avg_pool(
    const real* __restrict__ x, real* __restrict__ y, int batch, int channels,
    int height, int out_height, int kernel_h, int stride_h, int top, int counted_top, int counted_bottom,
    int width, int out_width, int kernel_w, int stride_w, int left, int counted_left, int counted_right) {
    const Axis rows = {height, out_height, kernel_h, stride_h, top, 1};
    const Axis columns = {width, out_width, kernel_w, stride_w, left, 1};
    const long long index = global_index();
    if (index >= work_items(batch, out_height, out_width, channels)) return;
    const WorkItem at = work_item(index, out_height, out_width, channels);
    const bool vectorized = channels % 4 == 0 && is_aligned(x) && is_aligned(y);

    const int start_row = rows.start(at.row), first_row = max(start_row, 0);
    const int end_row = min(start_row + kernel_h, height);
    const int start_column = columns.start(at.column), first_column = max(start_column, 0);
    const int end_column = min(start_column + kernel_w, width);
    const int counted = rows.counted(at.row, counted_top, counted_bottom) *
                        columns.counted(at.column, counted_left, counted_right);
    const Box box = {end_row - first_row, end_column - first_column, width * channels, channels, at.count, vectorized};
    const real* from = x + ((at.n * height + first_row) * width + first_column) * channels + at.channel;
    const Vec4<real> mean = kernel_h * kernel_w <= FEW_TAPS ? mean_of<real>(from, box, counted)
                                                            : mean_of<double>(from, box, counted);
    const int to = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
    store_vec4(y + to, mean, at.count, vectorized);
}

extern "C" __global__ void __launch_bounds__(256) avg_pool_backward(
    const real* __restrict__ dy, real* __restrict__ dx, int batch, int channels,
    int height, int out_height, int kernel_h, int stride_h, int top, int counted_top, int counted_bottom,
    int width, int out_width, int kernel_w, int stride_w, int left, int counted_left, int counted_right) {
    const Axis rows = {height, out_height, kernel_h, stride_h, top, 1};
    const Axis columns = {width, out_width, kernel_w, stride_w, left, 1};
    const long long index = global_index();
    if (index >= work_items(batch, height, width, channels)) return;
    const WorkItem at = work_item(index, height, width, channels);
    const bool vectorized = channels % 4 == 0 && is_aligned(dy) && is_aligned(dx);

    const int first_j = columns.first_window(at.column), last_j = columns.last_window(at.column);
    const int last_i = rows.last_window(at.row);
    Vec4<real> total = {};
    for (int i = rows.first_window(at.row); i <= last_i; ++i) {
        const int counted_rows = rows.counted(i, counted_top, counted_bottom);
        for (int j = first_j; j <= last_j; ++j) {
            const real share = real(1) / real(counted_rows * columns.counted(j, counted_left, counted_right));
            const int from = ((at.n * out_height + i) * out_width + j) * channels + at.channel;
            const Vec4<real> d = load_vec4(dy + from, at.count, vectorized);
#pragma unroll
            for (int k = 0; k < 4; ++k) total.at[k] += d.at[k] * share;
        }
    }
    store_vec4(
        dx + ((at.n * height + at.row) * width + at.column) * channels + at.channel, total, at.count, vectorized);
}

extern "C" __global__ void __launch_bounds__(256) avg_pool_2x2(
    const real* __restrict__ x, real* __restrict__ y, int batch, int height, int width, int channels) {
    const int out_height = height / 2, out_width = width / 2;
    const long long index = global_index();
    if (index >= work_items(batch, out_height, out_width, channels)) return;
    const WorkItem at = work_item(index, out_height, out_width, channels);
    const bool vectorized = channels % 4 == 0 && is_aligned(x) && is_aligned(y);

    Vec4<real> taps[4];
    load_window(taps, x, at, height, width, channels, vectorized);
    Vec4<real> mean;
#pragma unroll
    for (int k = 0; k < 4; ++k)
        mean.at[k] = ((taps[0].at[k] + taps[1].at[k]) + (taps[2].at[k] + taps[3].at[k])) * real(0.25);
    const int to = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
    store_vec4(y + to, mean, at.count, vectorized);
}

// Mean over a whole map, meant for more than FEW_TAPS elements. Thread block: 8 threads of 4 channels by 32
// along y, each of which adds every 32nd pixel in double; the 32 sums of a channel are then added in a tree.
extern "C" __global__ void __launch_bounds__(256) global_avg_pool(
    const real* __restrict__ x, real* __restrict__ y, int positions, int channels) {
    __shared__ double sums[4][32][8];
    const int tiles = (channels + 31) / 32, n = blockIdx.x / tiles;
    const int channel = blockIdx.x % tiles * 32 + 4 * threadIdx.x, count = min(4, channels - channel);
    const bool vectorized = channels % 4 == 0 && is_aligned(x) && is_aligned(y);
    const int member = threadIdx.y;

    Vec4<double> total = {};
    if (count > 0) {
        const real* map = x + n * positions * channels + channel;
#pragma unroll 2
        for (int position = member; position < positions; position += 32) {
            const Vec4<real> value = load_vec4(map + position * channels, count, vectorized);
#pragma unroll
            for (int k = 0; k < 4; ++k) total.at[k] += value.at[k];
        }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[k][member][threadIdx.x] = total.at[k];
#pragma unroll 1
    for (int half = 16; half > 0; half >>= 1) {
        __syncthreads();
        if (member >= half) continue;
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[k][member][threadIdx.x] += sums[k][member + half][threadIdx.x];
    }
    if (member > 0 || count <= 0) return;
    Vec4<real> mean;  // where threadIdx.y is 0, a thread reads only what it has written itself
#pragma unroll
    for (int k = 0; k < 4; ++k) mean.at[k] = real(sums[k][0][threadIdx.x] / positions);
    store_vec4(y + n * channels + channel, mean, count, vectorized);
}
