// Sums over the rows of a matrix: bias gradients, and the second pass of every split-K product.
// compile: REAL=float | REAL=double
//
// Thread mapping of column_sums: a thread block for 32 columns and one slice of the rows; its blockDim.y warps take
// chunks of 8 rows in turn, then the first warp adds the partial sums of the others. The order depends on the sizes
// alone. A matrix of many rows is reduced in two launches: each slice to a row of a small matrix, and that to the
// result.
// add_rows, for few rows and many columns: a thread for four columns.
// Bytes: each element once, coalesced. Flops: one an element, bound by memory. Chunks are added in `real`, all else in
// double: a conversion for every 8 elements, which matters on GPUs with few double units.
// Considered: a warp a column (strided access), a tree over the warps (8 additions are not worth it). With few rows,
// thread blocks of one warp are bound by latency: on an H200, two rows of 802,816 columns (9.6 MB, 2 us from the
// caches) took 16 us in column_sums; four take 3.6 in add_rows.

#define WARPS 8  // at most
#define CHUNK 8

// y[slice, column] = the sum of x[row, column] over the rows of the slice.
extern "C" __global__ void __launch_bounds__(256) column_sums(
    const real* __restrict__ x, real* __restrict__ y, int rows, int columns, int slice_rows
) {
    __shared__ double totals[WARPS][32];
    const long long column = (long long)blockIdx.x * 32 + threadIdx.x;
    const int first = blockIdx.y * slice_rows, last = min(rows, first + slice_rows), warps = blockDim.y;
    double total = 0;
    if (column < columns) {
        for (int row = first + threadIdx.y * CHUNK; row < last; row += warps * CHUNK) {
            const real* from = x + (long long)row * columns + column;
            real sum = 0;
#pragma unroll
            for (int k = 0; k < CHUNK; ++k)
                if (row + k < last) sum += from[(long long)k * columns];
            total += sum;
        }
    }
    totals[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y > 0 || column >= columns) return;
    for (int warp = 1; warp < warps; ++warp) total += totals[warp][threadIdx.x];
    y[blockIdx.y * (long long)columns + column] = (real)total;
}

// y[column] = start[column % period] + the sum of x[row, column] over all rows, in the order and with the rounding of
// column_sums; start may be null.
extern "C" __global__ void __launch_bounds__(256) add_rows(
    const real* __restrict__ x, const real* __restrict__ start, real* __restrict__ y, int rows, int columns, int period
) {
    const long long column = 4 * global_index();
    if (column >= columns) return;
    const int count = min(4LL, columns - column);
    const bool vectorized = columns % 4 == 0 && is_aligned(x) && is_aligned(y);
    double totals[4] = {};
    for (int row = 0; row < rows; row += CHUNK) {
        Vec4<real> loaded[CHUNK], sum = {};
#pragma unroll
        for (int k = 0; k < CHUNK; ++k) {
            loaded[k] = {};
            if (row + k < rows) loaded[k] = load_vec4(x + (row + k) * (long long)columns + column, count, vectorized);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
            for (int k = 0; k < CHUNK; ++k) sum.at[e] += loaded[k].at[e];
            totals[e] += sum.at[e];
        }
    }
    Vec4<real> result;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        if (start && e < count) totals[e] += start[(column + e) % period];
        result.at[e] = (real)totals[e];
    }
    store_vec4(y + column, result, count, vectorized);
}
