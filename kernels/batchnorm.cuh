// What batch normalisation and its fusion with max pooling share, for sources that name this file as needed: slices of
// rows and sums over them, and the application of a channel's coefficients.

// How many blocks of 256 threads a multiprocessor is to hold of a kernel that sums over slices: as many as the launch
// counts on (_BLOCKS in gpunet/ops/batchnorm/cuda.py), of up to 64 registers a thread; in double registers are wider. On
// Blackwell the compiler would spill some of them.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int RESIDENT = sizeof(real) == 4 ? 3 : 2;
#else
constexpr int RESIDENT = sizeof(real) == 4 ? 4 : 2;
#endif

// ---- slices of rows -------------------------------------------------------------------------------------------------

// What a thread works on of a (rows, channels) matrix that is cut into slices of rows: up to four channels of the
// `length` rows of slice number blockIdx.y, in steps of blockDim.y; no rows where `count` is not positive.
struct RowSlice {
    int channel, count, start, length;
};

__device__ __forceinline__ RowSlice row_slice(int rows, int channels, int slice_rows) {
    const int channel = 4 * (blockIdx.x * blockDim.x + threadIdx.x), start = blockIdx.y * slice_rows;
    const int count = min(4, channels - channel);
    return {channel, count, start, count > 0 ? min(slice_rows, rows - start) : 0};
}

// Of each of N values the sum over the lanes of a warp that have this lane's threadIdx.x, valid where no lower one has.
template <int N>
__device__ __forceinline__ void sum_over_lanes(double (&values)[N]) {
    for (int distance = 16; distance >= (int)blockDim.x; distance /= 2)
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] += __shfl_down_sync(FULL_WARP, values[k], distance);
}

// Sums of each of N values over threadIdx.y, valid where that is 0: over the lanes of each warp, then over the warps.
// Every thread of the block must call it, whose width is a power of two up to 32 and whose threads are whole warps.
// `scratch` is shared memory for N values of each threadIdx.x and warp, of which there are at most 128.
template <int N>
__device__ __forceinline__ void sum_over_y(double (&values)[N], double* scratch) {
    const int me = threadIdx.y * blockDim.x + threadIdx.x, lane = me % 32, warp = me / 32;
    const int sums = blockDim.x * blockDim.y / 32 * blockDim.x;
    sum_over_lanes(values);
    if (lane < (int)blockDim.x)
#pragma unroll
        for (int k = 0; k < N; ++k) scratch[k * sums + warp * blockDim.x + lane] = values[k];
    __syncthreads();
    if (warp > 0) return;
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] = 0.0;
#pragma unroll
    for (int from = lane; from < lane + 128; from += 32)
#pragma unroll
        for (int k = 0; k < N; ++k)
            if (from < sums) values[k] += scratch[k * sums + from];
    sum_over_lanes(values);
}

// ---- coefficients ---------------------------------------------------------------------------------------------------

// y of four channels. x - shift is exact where it matters.
struct Normalisation {
    Vec4<real> shift, scale, offset;

    __device__ __forceinline__ Vec4<real> of(const Vec4<real>& x) const {
        Vec4<real> y;
#pragma unroll
        for (int k = 0; k < 4; ++k) y.at[k] = (x.at[k] - shift.at[k]) * scale.at[k] + offset.at[k];
        return y;
    }
};

// From `coefficients` of (3, channels), as are `count` channels from `channel` on.
__device__ __forceinline__ Normalisation load_normalisation(
    const real* coefficients, int channel, int channels, int count, bool vectorized) {
    const real* from = coefficients + channel;
    return {load_vec4(from, count, vectorized), load_vec4(from + channels, count, vectorized),
            load_vec4(from + 2 * channels, count, vectorized)};
}

// dx of four channels; in inference it does not depend on x.
struct Gradient {
    Vec4<real> shift, scale, offset, slope;

    __device__ __forceinline__ Vec4<real> of(const Vec4<real>& dy, const Vec4<real>& x, bool training) const {
        Vec4<real> dx;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            dx.at[k] = dy.at[k] * scale.at[k];
            if (training) dx.at[k] += offset.at[k] + (x.at[k] - shift.at[k]) * slope.at[k];
        }
        return dx;
    }
};

// From `coefficients` of (4, channels).
__device__ __forceinline__ Gradient load_gradient(
    const real* coefficients, int channel, int channels, int count, bool vectorized) {
    const real* from = coefficients + channel;
    return {load_vec4(from, count, vectorized), load_vec4(from + channels, count, vectorized),
            load_vec4(from + 2 * channels, count, vectorized), load_vec4(from + 3 * channels, count, vectorized)};
}

// ---- sums of a gradient ---------------------------------------------------------------------------------------------

// The mean as a `real`.
__device__ __forceinline__ Vec4<real> load_shift(const double* mean, const RowSlice& slice) {
    Vec4<real> shift = {};
#pragma unroll
    for (int k = 0; k < 4; ++k)
        if (k < slice.count) shift.at[k] = real(mean[slice.channel + k]);
    return shift;
}

// Adds the threads' sums over a slice of dy and of dy * (x - shift), and writes both as (slices, channels). Every
// thread of the block must call it, of 256 threads; `scratch` is as for sum_over_y.
__device__ __forceinline__ void store_sums(
    double (&totals)[8], double* sums, double* products, const RowSlice& slice, int channels, double* scratch) {
    sum_over_y(totals, scratch);
    if (threadIdx.y > 0) return;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (k >= slice.count) continue;
        const int to = blockIdx.y * channels + slice.channel + k;
        sums[to] = totals[k];
        products[to] = totals[4 + k];
    }
}
