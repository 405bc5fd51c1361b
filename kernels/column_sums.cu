// Sums over the rows of a matrix: bias gradients, and the second pass of every split-K product.
// compile: REAL=float | REAL=double
//
// Thread mapping: a thread block for 32 columns and one slice of the rows; its blockDim.y warps take chunks of 8 rows
// in turn, then the first warp adds the partial sums of the others. The order depends on the sizes alone. A matrix of
// many rows is reduced in two launches: each slice to a row of a small matrix, and that to the result.
// Bytes: each element once, coalesced. Flops: one an element, bound by memory. Chunks are added in `real`, all else in
// double: a conversion for every 8 elements, which matters on GPUs with few double units.
// Considered: a warp a column (strided access), vectorized loads (need aligned rows of a multiple of 4, and a warp's 32
// floats are a full line already), a tree over the warps (8 additions are not worth it). Not yet timed on a GPU.

#define WARPS 8  // at most
#define CHUNK 8

// y[slice, column] = start[column % period] + the sum of x[row, column] over the rows of the slice; start may be null.
extern "C" __global__ void __launch_bounds__(256) column_sums(
    const real* __restrict__ x, const real* __restrict__ start, real* __restrict__ y,
    int rows, int columns, int slice_rows, int period
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
    if (start) total += start[column % period];
    y[blockIdx.y * (long long)columns + column] = (real)total;
}
