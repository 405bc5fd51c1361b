// Batch normalisation of NHWC maps, maximum of windows of 2 x 2 side by side and ReLU in one, forward and backward.
// compile: REAL=float | REAL=double
// needs: batchnorm.cuh
// needs: pool2d.cuh
//
// The statistics are those of batchnorm.cu, whose partial_statistics and finish_statistics or running_statistics come
// before normalise_and_pool. Backward, partial_pooled_gradients takes the place of partial_gradients before
// finish_gradients, and apply_pooled_gradients that of apply_gradients. Neither the normalised map nor its gradient is
// ever stored: the first is pooled as it is computed, the second is dy at the maxima and zero elsewhere.
//
// Thread mapping: normalise_and_pool, apply_pooled_gradients: one thread for up to four channels of a window, as the
// 2 x 2 kernels of pool2d.cu; backward, also of what an odd edge has of one. A thread has seven or ten loads in flight,
// vectors of 16 bytes where the channels are a multiple of four, and a warp's are coalesced.
// partial_pooled_gradients: that of batchnorm.cu, with windows for rows and one at a time, which is six loads.
//
// Bytes for E elements of x in float32: 5.25 E and the statistics' 4 E forward (the two ops: 17.25 E), 5.25 E and
// 9.25 E backward (25.25 E), where the second reading may come from the second-level cache. Flops: 4 E forward, 1 E
// and 5 E backward: bound by memory.
//
// The kernels of the two ops took in a training step on an H200, for 256 maps of 28 x 28 x 32 (25.7 MB) and of
// 14 x 14 x 64: apply_statistics 10.4 and 5.3 us, max_pool_2x2 6.5 and 3.9; max_pool_2x2_backward 8.5 and 4.8,
// partial_gradients 16.5 and 10.3, apply_gradients 17.5 and 6.3. Those here take: normalise_and_pool 6.5
// and 4.2, partial_pooled_gradients 12.3 and 7.5, apply_pooled_gradients 12.5 and 6.2.
//
// Rounding: y and argmax have the bits of the two ops, whose code this is. Products are rounded to `real`, and all sums
// are in double.
//
// Considered: only x at the maxima, by loads of single elements (a sector of 32 bytes holds eight channels, and nine in
// ten would be read where all taps win equally often); x at the maxima from y (lost where gamma is zero or small); x at
// the maxima stored by the forward pass (E bytes more there, 3 E fewer here, but memory held in between); a walk along
// the windows of a slice without divisions (there are one or two for 16 elements).

// Offset of the upper left element of window number `window` of all maps of height x width.
__device__ __forceinline__ int window_corner(unsigned window, int height, int width, int channels) {
    const unsigned across = width / 2, line = window / across, down = height / 2;
    const unsigned row = 2 * line + (height % 2 ? line / down : 0);  // an odd map has one row more than its windows
    return (row * width + 2 * (window - line * across)) * channels;
}

extern "C" __global__ void __launch_bounds__(256) normalise_and_pool(
    const real* __restrict__ x, const real* __restrict__ coefficients, real* __restrict__ y,
    unsigned char* __restrict__ argmax, int batch, int height, int width, int channels, int relu) {
    const int out_height = height / 2, out_width = width / 2;
    const long long index = global_index();
    if (index >= work_items(batch, out_height, out_width, channels)) return;
    const WorkItem at = work_item(index, out_height, out_width, channels);
    const bool vectorized =
        channels % 4 == 0 && is_aligned(x) && is_aligned(coefficients) && is_aligned(y) && is_aligned(argmax);

    Vec4<real> taps[4];
    load_window(taps, x, at, height, width, channels, vectorized);
    const Normalisation normalised = load_normalisation(coefficients, at.channel, channels, at.count, vectorized);
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) taps[tap] = normalised.of(taps[tap]);
    const int to = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
    store_maximum(taps, relu, y + to, argmax + to, at.count, vectorized);
}

// Sums over each slice of the windows, as (slices, channels), of dy and of dy * (x at the maximum - shift), where shift
// is the mean as a `real`. A window that ReLU has cut counts as zero, whatever its x and dy.
extern "C" __global__ void __launch_bounds__(256, RESIDENT) partial_pooled_gradients(
    const real* __restrict__ dy, const real* __restrict__ x, const unsigned char* __restrict__ argmax,
    const double* __restrict__ mean, double* __restrict__ sums, double* __restrict__ products, int windows, int height,
    int width, int channels, int slice_rows) {
    __shared__ double scratch[8 * 64];
    const RowSlice slice = row_slice(windows, channels, slice_rows);
    const bool vectorized = channels % 4 == 0 && is_aligned(dy) && is_aligned(x) && is_aligned(argmax);
    const Vec4<real> shift = load_shift(mean, slice);
    double totals[8] = {};
    const int end = slice.start + slice.length;
    for (int window = slice.start + threadIdx.y; window < end; window += blockDim.y) {
        const int from = window * channels + slice.channel;
        const int corner = window_corner(window, height, width, channels) + slice.channel;
        Vec4<real> taps[4];
#pragma unroll
        for (int tap = 0; tap < 4; ++tap)
            taps[tap] = load_vec4(x + (corner + (tap / 2 * width + tap % 2) * channels), slice.count, vectorized);
        const Vec4<real> d = load_vec4(dy + from, slice.count, vectorized);
        const Vec4<unsigned char> won = load_vec4(argmax + from, slice.count, vectorized);  // last: it is unpacked here
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const bool cut = won.at[k] == NO_TAP;
            const real upper = won.at[k] == 1 ? taps[1].at[k] : taps[0].at[k];
            const real lower = won.at[k] == 3 ? taps[3].at[k] : taps[2].at[k];
            const real centred = (won.at[k] >= 2 ? lower : upper) - shift.at[k];
            totals[k] += cut ? real(0) : d.at[k];
            totals[4 + k] += cut ? real(0) : d.at[k] * centred;
        }
    }
    store_sums(totals, sums, products, slice, channels, scratch);
}

// In inference dx does not depend on x, which is then not read.
extern "C" __global__ void __launch_bounds__(256) apply_pooled_gradients(
    const real* __restrict__ dy, const real* __restrict__ x, const unsigned char* __restrict__ argmax,
    const real* __restrict__ coefficients, real* __restrict__ dx, int batch, int height, int width, int channels,
    int training) {
    const int out_height = height / 2, out_width = width / 2;
    const long long index = global_index();
    if (index >= work_items(batch, height - out_height, width - out_width, channels)) return;
    const WorkItem at = work_item(index, height - out_height, width - out_width, channels);
    const bool vectorized = channels % 4 == 0 && is_aligned(dy) && is_aligned(x) && is_aligned(argmax) &&
                            is_aligned(coefficients) && is_aligned(dx);

    const int corner = ((at.n * height + 2 * at.row) * width + 2 * at.column) * channels + at.channel;
    const bool below = 2 * at.row + 1 < height, beside = 2 * at.column + 1 < width;
    Vec4<real> taps[4] = {};
#pragma unroll
    for (int tap = 0; tap < 4; ++tap)
        if (training && (below || tap / 2 == 0) && (beside || tap % 2 == 0))
            taps[tap] = load_vec4(x + (corner + (tap / 2 * width + tap % 2) * channels), at.count, vectorized);
    const Gradient gradient = load_gradient(coefficients, at.channel, channels, at.count, vectorized);
    Vec4<real> d;
    Vec4<unsigned char> won;
    load_window_gradient(d, won, dy, argmax, at, out_height, out_width, channels, vectorized);
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) {
        if ((!below && tap / 2 == 1) || (!beside && tap % 2 == 1)) continue;
        const Vec4<real> share = gradient.of(share_of(tap, d, won), taps[tap], training);
        store_vec4(dx + (corner + (tap / 2 * width + tap % 2) * channels), share, at.count, vectorized);
    }
}
