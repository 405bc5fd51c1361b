// Batch normalisation of (rows, channels) matrices, forward and backward.
// compile: REAL=float | REAL=double
//
// Three launches each way: partial_* reduces slices of rows to partial results, finish_* combines those into a few
// coefficients for each channel, apply_* uses these element by element. Inference needs no statistics: there
// running_statistics takes the place of the first two. If the rows are a part of a batch, part_* combines the slices
// into what the other parts are told, and finish_* takes all parts as slices. How the rows are sliced and the order of all additions depend on
// the shape alone, and nothing is atomic: always the same bits.
//
// Thread mapping of partial_* and apply_*: thread blocks of 256, where threadIdx.x stands for four channels (8 threads
// from 32 channels up, fewer and still a power of two for narrow matrices) and threadIdx.y strides over rows. A thread
// keeps four rows in flight, each a vectorized load of 16 bytes where the channels are a multiple of four; a warp reads
// whole lines of 128 bytes from 32 channels up, and contiguous rows below. finish_*: thread blocks of 4 channels by 64
// threads along y.
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
// in every block). Not yet timed on a GPU.

// ---- slices of rows -------------------------------------------------------------------------------------------------

// What a thread of partial_* and apply_* works on: up to four channels (none if `count` is not positive) of the
// `length` rows of a slice.
struct WorkItem {
    int channel, count, start, length;
};

__device__ __forceinline__ WorkItem work_item(int rows, int channels, int slice_rows) {
    const unsigned tiles = ((channels + 3u) / 4 + blockDim.x - 1) / blockDim.x;
    const int channel = 4 * (blockIdx.x % tiles * blockDim.x + threadIdx.x), start = blockIdx.x / tiles * slice_rows;
    return {channel, min(4, channels - channel), start, min(slice_rows, rows - start)};
}

// Row number j of the four that a thread has in flight, from `first` on.
__device__ __forceinline__ int row_of(int first, int j) { return first + j * (int)blockDim.y; }

// Those four rows; zeros for the ones beyond the slice. `from` is the slice's first row, at the thread's channel.
__device__ __forceinline__ void load_rows(
    Vec4<real> (&values)[4], const real* from, int first, const WorkItem& item, int channels, bool vectorized) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        values[j] = {};
        if (row_of(first, j) < item.length)
            values[j] = load_vec4(from + row_of(first, j) * channels, item.count, vectorized);
    }
}

// Sums of each of N values over threadIdx.y (blockDim.y is a power of two), valid where that is 0. Every thread of the
// block must call it; `scratch` is shared memory for N values of each thread.
template <int N>
__device__ __forceinline__ void sum_over_y(double (&values)[N], double* scratch) {
    const int threads = blockDim.x * blockDim.y, me = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (int k = 0; k < N; ++k) scratch[k * threads + me] = values[k];
#pragma unroll 1
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.y >= half) continue;
#pragma unroll
        for (int k = 0; k < N; ++k) scratch[k * threads + me] += scratch[k * threads + me + half * blockDim.x];
    }
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] = scratch[k * threads + me];  // valid ones: the thread's own
}

// ---- forward --------------------------------------------------------------------------------------------------------

// Of each slice, as (slices, channels): the mean, and the sum of squared deviations from it.
extern "C" __global__ void __launch_bounds__(256) partial_statistics(
    const real* __restrict__ x, double* __restrict__ means, double* __restrict__ squares, int rows, int channels,
    int slice_rows) {
    __shared__ double scratch[8 * 256];
    const WorkItem item = work_item(rows, channels, slice_rows);
    const bool vectorized = channels % 4 == 0 && is_aligned(x);
    const real* const from = x + item.start * channels + item.channel;

    Vec4<real> shift = {};
    if (item.count > 0) shift = load_vec4(from, item.count, vectorized);
    double sums[8] = {};  // of the deviations, of their squares
    for (int first = threadIdx.y; item.count > 0 && first < item.length; first = row_of(first, 4)) {
        Vec4<real> d[4];
        load_rows(d, from, first, item, channels, vectorized);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (row_of(first, j) < item.length) d[j].at[k] -= shift.at[k];
            const real d0 = d[0].at[k], d1 = d[1].at[k], d2 = d[2].at[k], d3 = d[3].at[k];
            sums[k] += (d0 + d1) + (d2 + d3);
            sums[4 + k] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
        }
    }
    sum_over_y(sums, scratch);
    if (threadIdx.y > 0) return;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (k >= item.count) continue;
        const int to = item.start / slice_rows * channels + item.channel + k;
        const double offset = sums[k] / item.length;
        means[to] = shift.at[k] + offset;
        squares[to] = sums[4 + k] - offset * sums[k];
    }
}

// (shift, scale, offset), each (channels,), for y = (x - shift) * scale + offset. x - shift is exact where it matters,
// and what the mean loses as a `real` goes into the offset.
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
#pragma unroll 4
    for (int slice = threadIdx.y; channel < channels && slice < slices; slice += blockDim.y) {
        const double length = min(slice_rows, rows - slice * slice_rows);
        const double d = means[slice * channels + channel] - origin;
        sums[0] += length * d;
        sums[1] += squares[slice * channels + channel] + length * d * d;
    }
    sum_over_y(sums, scratch);
    const double offset = sums[0] / rows, spread = sums[1] - offset * sums[0];
    return {origin + offset, spread < 0.0 ? 0.0 : spread};  // below zero by rounding only; NaN stays
}

// Of a part of a batch, as (2, channels): the mean, and the sum of squared deviations from it.
extern "C" __global__ void __launch_bounds__(256) part_statistics(
    const double* __restrict__ means, const double* __restrict__ squares, double* __restrict__ part, int rows,
    int channels, int slice_rows, int slices) {
    __shared__ double scratch[2 * 256];
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    const Statistics found = combined(means, squares, rows, channels, slice_rows, slices, scratch);
    if (threadIdx.y > 0 || channel >= channels) return;
    part[channel] = found.mean;
    part[channels + channel] = found.squared;
}

// Moves the running statistics in place, the variance as its unbiased estimate.
extern "C" __global__ void __launch_bounds__(256) finish_statistics(
    const double* __restrict__ means, const double* __restrict__ squares, const real* __restrict__ gamma,
    const real* __restrict__ beta, real* __restrict__ running_mean, real* __restrict__ running_var,
    double* __restrict__ mean, double* __restrict__ inv_std, real* __restrict__ coefficients, int rows, int channels,
    int slice_rows, int slices, double momentum, double eps) {
    __shared__ double scratch[2 * 256];
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    const Statistics found = combined(means, squares, rows, channels, slice_rows, slices, scratch);
    if (threadIdx.y > 0 || channel >= channels) return;
    const double scale = 1.0 / sqrt(found.squared / rows + eps);
    running_mean[channel] = real((1.0 - momentum) * running_mean[channel] + momentum * found.mean);
    running_var[channel] = real((1.0 - momentum) * running_var[channel] + momentum * (found.squared / (rows - 1)));
    mean[channel] = found.mean;
    inv_std[channel] = scale;
    store_coefficients(coefficients, channel, channels, found.mean, scale, gamma[channel], beta[channel]);
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
    const WorkItem item = work_item(rows, channels, slice_rows);
    if (item.count <= 0) return;
    const bool vectorized = channels % 4 == 0 && is_aligned(x) && is_aligned(coefficients) && is_aligned(y);
    const Vec4<real> shift = load_vec4(coefficients + item.channel, item.count, vectorized);
    const Vec4<real> scale = load_vec4(coefficients + channels + item.channel, item.count, vectorized);
    const Vec4<real> offset = load_vec4(coefficients + 2 * channels + item.channel, item.count, vectorized);
    const int corner = item.start * channels + item.channel;
    for (int first = threadIdx.y; first < item.length; first = row_of(first, 4)) {
        Vec4<real> values[4];
        load_rows(values, x + corner, first, item, channels, vectorized);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (row_of(first, j) >= item.length) continue;
#pragma unroll
            for (int k = 0; k < 4; ++k)
                values[j].at[k] = (values[j].at[k] - shift.at[k]) * scale.at[k] + offset.at[k];
            store_vec4(y + corner + row_of(first, j) * channels, values[j], item.count, vectorized);
        }
    }
}

// ---- backward -------------------------------------------------------------------------------------------------------

// Sums over each slice, as (slices, channels), of dy and of dy * (x - shift), where shift is the mean as a `real`.
extern "C" __global__ void __launch_bounds__(256) partial_gradients(
    const real* __restrict__ dy, const real* __restrict__ x, const double* __restrict__ mean, double* __restrict__ sums,
    double* __restrict__ products, int rows, int channels, int slice_rows) {
    __shared__ double scratch[8 * 256];
    const WorkItem item = work_item(rows, channels, slice_rows);
    const bool vectorized = channels % 4 == 0 && is_aligned(dy) && is_aligned(x);
    const int corner = item.start * channels + item.channel;

    Vec4<real> shift = {};
#pragma unroll
    for (int k = 0; k < 4; ++k)
        if (k < item.count) shift.at[k] = real(mean[item.channel + k]);
    double totals[8] = {};
    for (int first = threadIdx.y; item.count > 0 && first < item.length; first = row_of(first, 4)) {
        Vec4<real> d[4], centred[4];
        load_rows(d, dy + corner, first, item, channels, vectorized);
        load_rows(centred, x + corner, first, item, channels, vectorized);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int j = 0; j < 4; ++j) centred[j].at[k] -= shift.at[k];  // beyond the slice d is zero
            totals[k] += (d[0].at[k] + d[1].at[k]) + (d[2].at[k] + d[3].at[k]);
            totals[4 + k] += (d[0].at[k] * centred[0].at[k] + d[1].at[k] * centred[1].at[k]) +
                           (d[2].at[k] * centred[2].at[k] + d[3].at[k] * centred[3].at[k]);
        }
    }
    sum_over_y(totals, scratch);
    if (threadIdx.y > 0) return;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (k >= item.count) continue;
        const int to = item.start / slice_rows * channels + item.channel + k;
        sums[to] = totals[k];
        products[to] = totals[4 + k];
    }
}

// The sums over all slices, valid where threadIdx.y is 0; every thread of the block must call it.
__device__ __forceinline__ void sum_slices(
    double (&totals)[2], const double* sums, const double* products, int channels, int slices, double* scratch) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
#pragma unroll 4
    for (int slice = threadIdx.y; channel < channels && slice < slices; slice += blockDim.y) {
        totals[0] += sums[slice * channels + channel];
        totals[1] += products[slice * channels + channel];
    }
    sum_over_y(totals, scratch);
}

// Of a part of a batch, as (2, channels): both sums.
extern "C" __global__ void __launch_bounds__(256) part_gradients(
    const double* __restrict__ sums, const double* __restrict__ products, double* __restrict__ part, int channels,
    int slices) {
    __shared__ double scratch[2 * 256];
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    double totals[2] = {};
    sum_slices(totals, sums, products, channels, slices, scratch);
    if (threadIdx.y > 0 || channel >= channels) return;
    part[channel] = totals[0];
    part[channels + channel] = totals[1];
}

// dgamma, dbeta, and (shift, scale, offset, slope), each (channels,), for the dx of training,
// dy * scale + offset + (x - shift) * slope, and the one of inference, dy * scale.
extern "C" __global__ void __launch_bounds__(256) finish_gradients(
    const double* __restrict__ sums, const double* __restrict__ products, const real* __restrict__ gamma,
    const double* __restrict__ mean, const double* __restrict__ inv_std, real* __restrict__ dgamma,
    real* __restrict__ dbeta, real* __restrict__ coefficients, int rows, int channels, int slices) {
    __shared__ double scratch[2 * 256];
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    double totals[2] = {};
    sum_slices(totals, sums, products, channels, slices, scratch);
    if (threadIdx.y > 0 || channel >= channels) return;
    const real shift = real(mean[channel]);
    const double lost = mean[channel] - shift, total = totals[0];
    const double product = (totals[1] - lost * total) * inv_std[channel], scale = gamma[channel] * inv_std[channel];
    const double slope = -scale * inv_std[channel] * product / rows;
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
    const WorkItem item = work_item(rows, channels, slice_rows);
    if (item.count <= 0) return;
    const bool vectorized =
        channels % 4 == 0 && is_aligned(dy) && is_aligned(x) && is_aligned(coefficients) && is_aligned(dx);
    const Vec4<real> shift = load_vec4(coefficients + item.channel, item.count, vectorized);
    const Vec4<real> scale = load_vec4(coefficients + channels + item.channel, item.count, vectorized);
    const Vec4<real> offset = load_vec4(coefficients + 2 * channels + item.channel, item.count, vectorized);
    const Vec4<real> slope = load_vec4(coefficients + 3 * channels + item.channel, item.count, vectorized);
    const int corner = item.start * channels + item.channel;
    for (int first = threadIdx.y; first < item.length; first = row_of(first, 4)) {
        Vec4<real> d[4], values[4] = {};
        load_rows(d, dy + corner, first, item, channels, vectorized);
        if (training) load_rows(values, x + corner, first, item, channels, vectorized);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (row_of(first, j) >= item.length) continue;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                d[j].at[k] *= scale.at[k];
                if (training) d[j].at[k] += offset.at[k] + (values[j].at[k] - shift.at[k]) * slope.at[k];
            }
            store_vec4(dx + corner + row_of(first, j) * channels, d[j], item.count, vectorized);
        }
    }
}
