// Batch normalisation of (rows, channels) matrices, forward and backward.
// compile: REAL=float | REAL=double
// needs: batchnorm.cuh
//
// Three launches each way: partial_* reduces slices of rows to partial results, finish_* combines those into a few
// coefficients for each channel, apply_* uses these element by element. Inference needs no statistics: there
// running_statistics takes the place of the first two. If the rows are a part of a batch, part_* combines the slices
// into what the other parts are told, and finish_* takes all parts as slices. How the rows are sliced and the order of
// all additions depend on the shape alone, and nothing is atomic: always the same bits.
//
// Thread mapping of partial_* and apply_*: thread blocks of 256, where threadIdx.x stands for four channels (8 threads
// from 32 channels up, fewer and still a power of two for narrow matrices) and threadIdx.y strides over rows. A thread
// keeps four rows in flight, each a vectorized load of 16 bytes where the channels are a multiple of four; a warp reads
// whole lines of 128 bytes from 32 channels up, and contiguous rows below. There are about as many slices as make one
// wave of blocks on an H200, four for each multiprocessor. part_*, finish_*: thread blocks of 4 channels by up to 256
// threads along y, each of which reads at most three slices, all at once: what they take is latency.
//
// Bytes for E elements in float32: 12 E forward and 20 E backward, where the second reading of x and dy may come from
// the second-level cache. Flops: 7 E forward, 10 E backward: bound by memory.
//
// Rounding: deviations are taken from the first row of the slice, which is off the slice's mean by at most sqrt(rows of
// the slice) of its standard deviations, whatever the data; four rows at a time are added in `real`, everything else in
// double. E[x^2] - E[x]^2 would lose all digits of a channel whose mean is large against its deviation.
//
// Considered: sums shifted by the running mean (far off in the first steps, and the result then depends on the past);
// Welford's update row by row (a division a row); one block for a channel (reads x once for small maps, but leaves most
// of the device idle with few channels); finishing in the prologue of apply_* (saves a launch, repeats the combination
// in every block).
//
// Before, there were up to twice as many slices, which is two waves of partial_gradients with its 79 registers then;
// finish_* had 64 threads along y that read twelve slices each; sums over y were a tree in shared memory. In a training
// step on an H200, for 256 maps of 28 x 28 x 32 (25.7 MB) and of 14 x 14 x 64, that took: partial_statistics 9.1 and
// 7.4 us, finish_statistics 6.1 and 4.8, apply_statistics 10.4 and 5.3, partial_gradients 16.5 and 10.3,
// finish_gradients 5.4 and 3.9, apply_gradients 17.5 and 6.3; for 7 x 7 x 128 and smaller 3 to 5 us. Now:
// partial_statistics 5.9 and 4.4, finish_statistics 3.5 and 3.2, finish_gradients 2.9 and 2.6; smaller maps 2 to 4 us.

// ---- four at a time -------------------------------------------------------------------------------------------------

// Row, or slice, number j of the four that a thread has in flight, from `first` on.
__device__ __forceinline__ int row_of(int first, int j) { return first + j * (int)blockDim.y; }

// Those four rows; zeros for the ones beyond the slice. `corner`: offset of its first row, at the thread's channel.
__device__ __forceinline__ void load_rows(
    Vec4<real> (&values)[4], const real* from, int corner, int first, const RowSlice& slice, int channels,
    bool vectorized) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        values[j] = {};
        if (row_of(first, j) < slice.length)
            values[j] = load_vec4(from + (corner + row_of(first, j) * channels), slice.count, vectorized);
    }
}

// One channel's partial results of four slices; zeros for the ones beyond the last. `from` is the first slice's.
__device__ __forceinline__ void load_partial(
    double (&values)[4], const double* from, int first, int channels, int slices) {
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = row_of(first, j) < slices ? from[row_of(first, j) * channels] : 0.0;
}

// ---- forward --------------------------------------------------------------------------------------------------------

// Of each slice, as (slices, channels): the mean, and the sum of squared deviations from it.
extern "C" __global__ void __launch_bounds__(256, RESIDENT) partial_statistics(
    const real* __restrict__ x, double* __restrict__ means, double* __restrict__ squares, int rows, int channels,
    int slice_rows) {
    __shared__ double scratch[8 * 64];
    const RowSlice slice = row_slice(rows, channels, slice_rows);
    const bool vectorized = channels % 4 == 0 && is_aligned(x);
    const int corner = slice.start * channels + slice.channel;

    Vec4<real> shift = {};
    if (slice.count > 0) shift = load_vec4(x + corner, slice.count, vectorized);
    double sums[8] = {};  // of the deviations, of their squares
    for (int first = threadIdx.y; first < slice.length; first = row_of(first, 4)) {
        Vec4<real> d[4];
        load_rows(d, x, corner, first, slice, channels, vectorized);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (row_of(first, j) < slice.length) d[j].at[k] -= shift.at[k];
            const real d0 = d[0].at[k], d1 = d[1].at[k], d2 = d[2].at[k], d3 = d[3].at[k];
            sums[k] += (d0 + d1) + (d2 + d3);
            sums[4 + k] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
        }
    }
    sum_over_y(sums, scratch);
    if (threadIdx.y > 0) return;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (k >= slice.count) continue;
        const int to = blockIdx.y * channels + slice.channel + k;
        const double offset = sums[k] / slice.length;
        means[to] = shift.at[k] + offset;
        squares[to] = sums[4 + k] - offset * sums[k];
    }
}

// (shift, scale, offset), each (channels,), for y = (x - shift) * scale + offset. What the mean loses as a `real` goes
// into the offset.
__device__ __forceinline__ void store_coefficients(
    real* coefficients, int channel, int channels, double mean, double inv_std, double gamma, double beta) {
    const real shift = real(mean);
    coefficients[channel] = shift;
    coefficients[channels + channel] = real(gamma * inv_std);
    coefficients[2 * channels + channel] = real(beta - (mean - shift) * gamma * inv_std);
}

// Mean and variance of all rows from those of the slices: within the slices plus between them (Chan, Golub & LeVeque,
// 1983). Deviations of the slices' means are taken from the first one, so that a constant channel has a variance of
// exactly zero. Every thread of the block must call it; what it returns is valid where threadIdx.y is 0.
struct Statistics {
    double mean, squared;  // `squared`: sum of squared deviations from the mean
};

__device__ __forceinline__ Statistics combined(
    const double* means, const double* squares, int rows, int channels, int slice_rows, int slices, double* scratch) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    const double origin = channel < channels ? means[channel] : 0.0;
    double sums[2] = {};  // of the deviations of rows from `origin`, of their squares
    for (int first = threadIdx.y; channel < channels && first < slices; first = row_of(first, 4)) {
        double d[4], squared[4];
        load_partial(d, means + channel, first, channels, slices);
        load_partial(squared, squares + channel, first, channels, slices);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (row_of(first, j) >= slices) continue;
            const double length = min(slice_rows, rows - row_of(first, j) * slice_rows);
            d[j] -= origin;
            sums[0] += length * d[j];
            sums[1] += squared[j] + length * d[j] * d[j];
        }
    }
    sum_over_y(sums, scratch);
    const double offset = sums[0] / rows, spread = sums[1] - offset * sums[0];
    return {origin + offset, spread < 0.0 ? 0.0 : spread};  // below zero by rounding only; NaN stays
}

// Of a part of a batch, as (2, channels): the mean, and the sum of squared deviations from it.
extern "C" __global__ void __launch_bounds__(1024, 1) part_statistics(
    const double* __restrict__ means, const double* __restrict__ squares, double* __restrict__ part, int rows,
    int channels, int slice_rows, int slices) {
    __shared__ double scratch[2 * 128];
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    const Statistics found = combined(means, squares, rows, channels, slice_rows, slices, scratch);
    if (threadIdx.y > 0 || channel >= channels) return;
    part[channel] = found.mean;
    part[channels + channel] = found.squared;
}

// Moves the running statistics in place, the variance as its unbiased estimate.
extern "C" __global__ void __launch_bounds__(1024, 1) finish_statistics(
    const double* __restrict__ means, const double* __restrict__ squares, const real* __restrict__ gamma,
    const real* __restrict__ beta, real* __restrict__ running_mean, real* __restrict__ running_var,
    double* __restrict__ mean, double* __restrict__ inv_std, real* __restrict__ coefficients, int rows, int channels,
    int slice_rows, int slices, double momentum, double eps) {
    __shared__ double scratch[2 * 128];
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    const bool writes = threadIdx.y == 0 && channel < channels;
    // Read before the slices are combined: these loads and those wait together.
    const real factor = writes ? gamma[channel] : real(0), added = writes ? beta[channel] : real(0);
    const real old_mean = writes ? running_mean[channel] : real(0), old_var = writes ? running_var[channel] : real(0);
    const Statistics found = combined(means, squares, rows, channels, slice_rows, slices, scratch);
    if (!writes) return;
    const double scale = 1.0 / sqrt(found.squared / rows + eps);
    running_mean[channel] = real((1.0 - momentum) * old_mean + momentum * found.mean);
    running_var[channel] = real((1.0 - momentum) * old_var + momentum * (found.squared / (rows - 1)));
    mean[channel] = found.mean;
    inv_std[channel] = scale;
    store_coefficients(coefficients, channel, channels, found.mean, scale, factor, added);
}

// Inference: what finish_statistics gives, from the running statistics. One thread a channel.
extern "C" __global__ void __launch_bounds__(256) running_statistics(
    const real* __restrict__ gamma, const real* __restrict__ beta, const real* __restrict__ running_mean,
    const real* __restrict__ running_var, double* __restrict__ mean, double* __restrict__ inv_std,
    real* __restrict__ coefficients, int channels, double eps) {
    const long long index = global_index();
    if (index >= channels) return;
    const int channel = index;
    mean[channel] = running_mean[channel];
    inv_std[channel] = 1.0 / sqrt(running_var[channel] + eps);
    store_coefficients(
        coefficients, channel, channels, mean[channel], inv_std[channel], gamma[channel], beta[channel]);
}

extern "C" __global__ void __launch_bounds__(256) apply_statistics(
    const real* __restrict__ x, const real* __restrict__ coefficients, real* __restrict__ y, int rows, int channels,
    int slice_rows) {
    const RowSlice slice = row_slice(rows, channels, slice_rows);
    if (slice.count <= 0) return;
    const bool vectorized = channels % 4 == 0 && is_aligned(x) && is_aligned(coefficients) && is_aligned(y);
    const Normalisation normalised =
        load_normalisation(coefficients, slice.channel, channels, slice.count, vectorized);
    const int corner = slice.start * channels + slice.channel;
    for (int first = threadIdx.y; first < slice.length; first = row_of(first, 4)) {
        Vec4<real> values[4];
        load_rows(values, x, corner, first, slice, channels, vectorized);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (row_of(first, j) >= slice.length) continue;
            const Vec4<real> result = normalised.of(values[j]);
            store_vec4(y + (corner + row_of(first, j) * channels), result, slice.count, vectorized);
        }
    }
}

// ---- backward -------------------------------------------------------------------------------------------------------

// Sums over each slice, as (slices, channels), of dy and of dy * (x - shift), where shift is the mean as a `real`.
extern "C" __global__ void __launch_bounds__(256, RESIDENT) partial_gradients(
    const real* __restrict__ dy, const real* __restrict__ x, const double* __restrict__ mean, double* __restrict__ sums,
    double* __restrict__ products, int rows, int channels, int slice_rows) {
    __shared__ double scratch[8 * 64];
    const RowSlice slice = row_slice(rows, channels, slice_rows);
    const bool vectorized = channels % 4 == 0 && is_aligned(dy) && is_aligned(x);
    const int corner = slice.start * channels + slice.channel;

    const Vec4<real> shift = load_shift(mean, slice);
    double totals[8] = {};
    for (int first = threadIdx.y; first < slice.length; first = row_of(first, 4)) {
        Vec4<real> d[4], centred[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {  // as load_rows, of both in turn: with fewer registers
            d[j] = centred[j] = {};
            if (row_of(first, j) >= slice.length) continue;
            const int from = corner + row_of(first, j) * channels;
            d[j] = load_vec4(dy + from, slice.count, vectorized);
            centred[j] = load_vec4(x + from, slice.count, vectorized);
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int j = 0; j < 4; ++j) centred[j].at[k] -= shift.at[k];  // beyond the slice d is zero
            totals[k] += (d[0].at[k] + d[1].at[k]) + (d[2].at[k] + d[3].at[k]);
            totals[4 + k] += (d[0].at[k] * centred[0].at[k] + d[1].at[k] * centred[1].at[k]) +
                           (d[2].at[k] * centred[2].at[k] + d[3].at[k] * centred[3].at[k]);
        }
    }
    store_sums(totals, sums, products, slice, channels, scratch);
}

// The sums over all slices, valid where threadIdx.y is 0; every thread of the block must call it.
__device__ __forceinline__ void sum_slices(
    double (&totals)[2], const double* sums, const double* products, int channels, int slices, double* scratch) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    for (int first = threadIdx.y; channel < channels && first < slices; first = row_of(first, 4)) {
        double d[4], product[4];
        load_partial(d, sums + channel, first, channels, slices);
        load_partial(product, products + channel, first, channels, slices);
        totals[0] += (d[0] + d[1]) + (d[2] + d[3]);
        totals[1] += (product[0] + product[1]) + (product[2] + product[3]);
    }
    sum_over_y(totals, scratch);
}

// Of a part of a batch, as (2, channels): both sums.
extern "C" __global__ void __launch_bounds__(1024, 1) part_gradients(
    const double* __restrict__ sums, const double* __restrict__ products, double* __restrict__ part, int channels,
    int slices) {
    __shared__ double scratch[2 * 128];
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    double totals[2] = {};
    sum_slices(totals, sums, products, channels, slices, scratch);
    if (threadIdx.y > 0 || channel >= channels) return;
    part[channel] = totals[0];
    part[channels + channel] = totals[1];
}

// dgamma, dbeta, and (shift, scale, offset, slope), each (channels,), for the dx of training,
// dy * scale + offset + (x - shift) * slope, and the one of inference, dy * scale.
extern "C" __global__ void __launch_bounds__(1024, 1) finish_gradients(
    const double* __restrict__ sums, const double* __restrict__ products, const real* __restrict__ gamma,
    const double* __restrict__ mean, const double* __restrict__ inv_std, real* __restrict__ dgamma,
    real* __restrict__ dbeta, real* __restrict__ coefficients, int rows, int channels, int slices) {
    __shared__ double scratch[2 * 128];
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    const bool writes = threadIdx.y == 0 && channel < channels;
    // Read before the slices are summed: these loads and those wait together.
    const double centre = writes ? mean[channel] : 0.0, by = writes ? inv_std[channel] : 0.0;
    const real factor = writes ? gamma[channel] : real(0);
    double totals[2] = {};
    sum_slices(totals, sums, products, channels, slices, scratch);
    if (!writes) return;
    const real shift = real(centre);
    const double lost = centre - shift, total = totals[0];
    const double product = (totals[1] - lost * total) * by, scale = factor * by;
    const double slope = -scale * by * product / rows;
    dgamma[channel] = real(product);
    dbeta[channel] = real(total);
    coefficients[channel] = shift;
    coefficients[channels + channel] = real(scale);
    coefficients[2 * channels + channel] = real(-scale * total / rows - lost * slope);
    coefficients[3 * channels + channel] = real(slope);
}

// In inference dx does not depend on x, which is then not read.
extern "C" __global__ void __launch_bounds__(256) apply_gradients(
    const real* __restrict__ dy, const real* __restrict__ x, const real* __restrict__ coefficients,
    real* __restrict__ dx, int rows, int channels, int slice_rows, int training) {
    const RowSlice slice = row_slice(rows, channels, slice_rows);
    if (slice.count <= 0) return;
    const bool vectorized =
        channels % 4 == 0 && is_aligned(dy) && is_aligned(x) && is_aligned(coefficients) && is_aligned(dx);
    const Gradient gradient = load_gradient(coefficients, slice.channel, channels, slice.count, vectorized);
    const int corner = slice.start * channels + slice.channel;
    for (int first = threadIdx.y; first < slice.length; first = row_of(first, 4)) {
        Vec4<real> d[4], values[4] = {};
        load_rows(d, dy, corner, first, slice, channels, vectorized);
        if (training) load_rows(values, x, corner, first, slice, channels, vectorized);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (row_of(first, j) >= slice.length) continue;
            const Vec4<real> result = gradient.of(d[j], values[j], training);
            store_vec4(dx + (corner + row_of(first, j) * channels), result, slice.count, vectorized);
        }
    }
}
