// Pooling of NHWC maps, forward and backward.
// compile: REAL=float | REAL=double
//
// Thread mapping: one thread for up to four neighbouring channels of one position of what is written, blocks of 256,
// channels innermost: where the channels are a multiple of four, each access of a thread is a vector of 16 bytes and a
// warp's are consecutive. Each output element is written once, by one thread, without atomics: always the same bits.
//   max_pool, avg_pool                    any window; a thread walks its window, row by row
//   max_pool_backward, avg_pool_backward  gather: a thread walks the windows that cover its element of dx
//   max_pool_2x2(_backward), avg_pool_2x2 windows of 2 x 2 side by side, as image networks have them; backward, a
//                                         thread writes the elements of its window, or of an odd edge without one
//   global_avg_pool                       a block for one image and 32 channels
//
// Bytes of the 2 x 2 kernels for E elements of x in float32: maximum 5.25 E each way (argmax included), average 5 E.
// Flops: less than one a byte, bound by memory. Overlapping windows read x kernel / stride times along an axis, all but
// once from a cache.
//
// Considered: scatter with atomics (the order of additions would change from run to run); a mask of dx's size instead
// of the argmax (more bytes); tiles of x in shared memory for overlapping windows (the first-level cache already serves
// them); windows of 2 x 2 by the general kernels (about ten integer divisions a thread more). Not yet timed on a GPU.

#define FEW_TAPS 64  // averages of so many elements are summed in `real`, longer ones in double, as on the CPU

// ---- positions and windows ------------------------------------------------------------------------------------------

// Up to four channels of one position of a map: what a thread works on.
struct Place {
    int n, row, column, channel, count;
};

// Place number `item` of maps of rows x columns; there are batch * rows * columns * quads of them.
__device__ __forceinline__ Place place_of(unsigned item, int rows, int columns, int channels) {
    const unsigned quads = (channels + 3u) / 4, position = item / quads, line = position / columns;
    const int channel = 4 * (item - position * quads);
    return {int(line / rows), int(line % rows), int(position - line * columns), channel, min(4, channels - channel)};
}

__device__ __forceinline__ int place_count(int batch, int rows, int columns, int channels) {
    return batch * rows * columns * ((channels + 3) / 4);
}

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

// The running maximum of four channels: NaN wins, and of equal values the one that came first.
struct Best {
    Quad<real> value;
    Quad<int> tap;

    __device__ __forceinline__ void meet(const Quad<real>& other, int other_tap) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
            if (other.at[k] > value.at[k] || other.at[k] != other.at[k]) {
                value.at[k] = other.at[k];
                tap.at[k] = other_tap;
            }
    }
};

// The index of the winning tap goes to the one of `argmax8` (for up to 256 taps) and `argmax32` that is not null.
extern "C" __global__ void __launch_bounds__(256) max_pool(
    const real* __restrict__ x, real* __restrict__ y, unsigned char* __restrict__ argmax8, int* __restrict__ argmax32,
    int batch, int channels,
    int height, int out_height, int kernel_h, int stride_h, int top, int dilation_h,
    int width, int out_width, int kernel_w, int stride_w, int left, int dilation_w) {
    const Axis rows = {height, out_height, kernel_h, stride_h, top, dilation_h};
    const Axis columns = {width, out_width, kernel_w, stride_w, left, dilation_w};
    const long long item = global_index();
    if (item >= place_count(batch, out_height, out_width, channels)) return;
    const Place at = place_of(item, out_height, out_width, channels);
    const bool whole =
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
            best.meet(load_quad(x + from, at.count, whole), p * kernel_w + q);
        }
    }

    const int to = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
    store_quad(y + to, best.value, at.count, whole);
    if (argmax8) {
        Quad<unsigned char> narrow;
#pragma unroll
        for (int k = 0; k < 4; ++k) narrow.at[k] = (unsigned char)best.tap.at[k];
        store_quad(argmax8 + to, narrow, at.count, whole);
    } else {
        store_quad(argmax32 + to, best.tap, at.count, whole);
    }
}

// An argmax that is no tap of the window belongs to no element: nothing is read or written for it.
template <typename Tap>
__device__ __forceinline__ void gather_maxima(
    const real* dy, const Tap* argmax, real* dx, int batch, int channels, const Axis& rows, const Axis& columns) {
    const long long item = global_index();
    if (item >= place_count(batch, rows.size, columns.size, channels)) return;
    const Place at = place_of(item, rows.size, columns.size, channels);
    const bool whole = channels % 4 == 0 && is_aligned(dy) && is_aligned(argmax) && is_aligned(dx);

    const int first_j = columns.first_window(at.column), last_j = columns.last_window(at.column);
    const int last_i = rows.last_window(at.row);
    Quad<real> total = {};
    for (int i = rows.first_window(at.row); i <= last_i; ++i) {
        const int p = rows.tap(i, at.row);
        if (p < 0) continue;
        for (int j = first_j; j <= last_j; ++j) {
            const int q = columns.tap(j, at.column);
            if (q < 0) continue;
            const int from = ((at.n * rows.out + i) * columns.out + j) * channels + at.channel;
            const Quad<real> d = load_quad(dy + from, at.count, whole);
            const Quad<Tap> won = load_quad(argmax + from, at.count, whole);
#pragma unroll
            for (int k = 0; k < 4; ++k) total.at[k] += won.at[k] == p * columns.kernel + q ? d.at[k] : real(0);
        }
    }
    const int to = ((at.n * rows.size + at.row) * columns.size + at.column) * channels + at.channel;
    store_quad(dx + to, total, at.count, whole);
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

extern "C" __global__ void __launch_bounds__(256) max_pool_2x2(
    const real* __restrict__ x, real* __restrict__ y, unsigned char* __restrict__ argmax, int batch, int height,
    int width, int channels) {
    const int out_height = height / 2, out_width = width / 2;
    const long long item = global_index();
    if (item >= place_count(batch, out_height, out_width, channels)) return;
    const Place at = place_of(item, out_height, out_width, channels);
    const bool whole = channels % 4 == 0 && is_aligned(x) && is_aligned(y) && is_aligned(argmax);

    const real* upper = x + ((at.n * height + 2 * at.row) * width + 2 * at.column) * channels + at.channel;
    const real* lower = upper + width * channels;
    const Quad<real> b = load_quad(upper + channels, at.count, whole);
    const Quad<real> c = load_quad(lower, at.count, whole), d = load_quad(lower + channels, at.count, whole);
    Best best = {load_quad(upper, at.count, whole), {}};
    best.meet(b, 1);
    best.meet(c, 2);
    best.meet(d, 3);
    const int to = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
    store_quad(y + to, best.value, at.count, whole);
    Quad<unsigned char> narrow;
#pragma unroll
    for (int k = 0; k < 4; ++k) narrow.at[k] = (unsigned char)best.tap.at[k];
    store_quad(argmax + to, narrow, at.count, whole);
}

extern "C" __global__ void __launch_bounds__(256) max_pool_2x2_backward(
    const real* __restrict__ dy, const unsigned char* __restrict__ argmax, real* __restrict__ dx, int batch, int height,
    int width, int channels) {
    const int out_height = height / 2, out_width = width / 2;
    const long long item = global_index();
    if (item >= place_count(batch, height - out_height, width - out_width, channels)) return;
    const Place at = place_of(item, height - out_height, width - out_width, channels);
    const bool whole = channels % 4 == 0 && is_aligned(dy) && is_aligned(argmax) && is_aligned(dx);

    Quad<real> d = {};  // at an odd edge there is no window, and all taps are zero
    Quad<unsigned char> won = {};
    if (at.row < out_height && at.column < out_width) {
        const int from = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
        d = load_quad(dy + from, at.count, whole);
        won = load_quad(argmax + from, at.count, whole);
    }
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) {
        const int row = 2 * at.row + tap / 2, column = 2 * at.column + tap % 2;
        if (row >= height || column >= width) continue;
        Quad<real> share;
#pragma unroll
        for (int k = 0; k < 4; ++k) share.at[k] = won.at[k] == tap ? d.at[k] : real(0);
        store_quad(dx + ((at.n * height + row) * width + column) * channels + at.channel, share, at.count, whole);
    }
}

// ---- average --------------------------------------------------------------------------------------------------------

// The part of a window inside the map, for the channels of one thread.
struct Box {
    int rows, columns, row_stride, column_stride, count;
    bool whole;
};

template <typename Sum>
__device__ __forceinline__ Quad<real> mean_of(const real* from, const Box& box, int counted) {
    Quad<Sum> total = {};
    for (int row = 0; row < box.rows; ++row)
#pragma unroll 2
        for (int column = 0; column < box.columns; ++column) {
            const int offset = row * box.row_stride + column * box.column_stride;
            const Quad<real> value = load_quad(from + offset, box.count, box.whole);
#pragma unroll
            for (int k = 0; k < 4; ++k) total.at[k] += value.at[k];
        }
    Quad<real> mean;
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
    const long long item = global_index();
    if (item >= place_count(batch, out_height, out_width, channels)) return;
    const Place at = place_of(item, out_height, out_width, channels);
    const bool whole = channels % 4 == 0 && is_aligned(x) && is_aligned(y);

    const int start_row = rows.start(at.row), first_row = max(start_row, 0);
    const int end_row = min(start_row + kernel_h, height);
    const int start_column = columns.start(at.column), first_column = max(start_column, 0);
    const int end_column = min(start_column + kernel_w, width);
    const int counted = rows.counted(at.row, counted_top, counted_bottom) *
                        columns.counted(at.column, counted_left, counted_right);
    const Box box = {end_row - first_row, end_column - first_column, width * channels, channels, at.count, whole};
    const real* from = x + ((at.n * height + first_row) * width + first_column) * channels + at.channel;
    const Quad<real> mean = kernel_h * kernel_w <= FEW_TAPS ? mean_of<real>(from, box, counted)
                                                            : mean_of<double>(from, box, counted);
    const int to = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
    store_quad(y + to, mean, at.count, whole);
}

extern "C" __global__ void __launch_bounds__(256) avg_pool_backward(
    const real* __restrict__ dy, real* __restrict__ dx, int batch, int channels,
    int height, int out_height, int kernel_h, int stride_h, int top, int counted_top, int counted_bottom,
    int width, int out_width, int kernel_w, int stride_w, int left, int counted_left, int counted_right) {
    const Axis rows = {height, out_height, kernel_h, stride_h, top, 1};
    const Axis columns = {width, out_width, kernel_w, stride_w, left, 1};
    const long long item = global_index();
    if (item >= place_count(batch, height, width, channels)) return;
    const Place at = place_of(item, height, width, channels);
    const bool whole = channels % 4 == 0 && is_aligned(dy) && is_aligned(dx);

    const int first_j = columns.first_window(at.column), last_j = columns.last_window(at.column);
    const int last_i = rows.last_window(at.row);
    Quad<real> total = {};
    for (int i = rows.first_window(at.row); i <= last_i; ++i) {
        const int counted_rows = rows.counted(i, counted_top, counted_bottom);
        for (int j = first_j; j <= last_j; ++j) {
            const real share = real(1) / real(counted_rows * columns.counted(j, counted_left, counted_right));
            const int from = ((at.n * out_height + i) * out_width + j) * channels + at.channel;
            const Quad<real> d = load_quad(dy + from, at.count, whole);
#pragma unroll
            for (int k = 0; k < 4; ++k) total.at[k] += d.at[k] * share;
        }
    }
    store_quad(dx + ((at.n * height + at.row) * width + at.column) * channels + at.channel, total, at.count, whole);
}

extern "C" __global__ void __launch_bounds__(256) avg_pool_2x2(
    const real* __restrict__ x, real* __restrict__ y, int batch, int height, int width, int channels) {
    const int out_height = height / 2, out_width = width / 2;
    const long long item = global_index();
    if (item >= place_count(batch, out_height, out_width, channels)) return;
    const Place at = place_of(item, out_height, out_width, channels);
    const bool whole = channels % 4 == 0 && is_aligned(x) && is_aligned(y);

    const real* upper = x + ((at.n * height + 2 * at.row) * width + 2 * at.column) * channels + at.channel;
    const real* lower = upper + width * channels;
    const Quad<real> a = load_quad(upper, at.count, whole), b = load_quad(upper + channels, at.count, whole);
    const Quad<real> c = load_quad(lower, at.count, whole), d = load_quad(lower + channels, at.count, whole);
    Quad<real> mean;
#pragma unroll
    for (int k = 0; k < 4; ++k) mean.at[k] = ((a.at[k] + b.at[k]) + (c.at[k] + d.at[k])) * real(0.25);
    const int to = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
    store_quad(y + to, mean, at.count, whole);
}

// Mean over a whole map, meant for more than FEW_TAPS elements. Block: 8 threads of 4 channels by 32 lanes. Each lane
// adds every 32nd position in double; the 32 sums of a channel are then added in a tree.
extern "C" __global__ void __launch_bounds__(256) global_avg_pool(
    const real* __restrict__ x, real* __restrict__ y, int positions, int channels) {
    __shared__ double sums[4][32][8];
    const int tiles = (channels + 31) / 32, n = blockIdx.x / tiles;
    const int channel = blockIdx.x % tiles * 32 + 4 * threadIdx.x, count = min(4, channels - channel);
    const bool whole = channels % 4 == 0 && is_aligned(x) && is_aligned(y);
    const int lane = threadIdx.y;

    Quad<double> total = {};
    if (count > 0) {
        const real* map = x + n * positions * channels + channel;
#pragma unroll 2
        for (int position = lane; position < positions; position += 32) {
            const Quad<real> value = load_quad(map + position * channels, count, whole);
#pragma unroll
            for (int k = 0; k < 4; ++k) total.at[k] += value.at[k];
        }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[k][lane][threadIdx.x] = total.at[k];
#pragma unroll 1
    for (int half = 16; half > 0; half >>= 1) {
        __syncthreads();
        if (lane >= half) continue;
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[k][lane][threadIdx.x] += sums[k][lane + half][threadIdx.x];
    }
    if (lane > 0 || count <= 0) return;
    Quad<real> mean;  // a thread of lane 0 reads only what it has written itself
#pragma unroll
    for (int k = 0; k < 4; ++k) mean.at[k] = real(sums[k][0][threadIdx.x] / positions);
    store_quad(y + n * channels + channel, mean, count, whole);
}
