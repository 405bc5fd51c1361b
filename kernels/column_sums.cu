// Sums over the rows of a matrix: bias gradients, and the second pass of every sum that was taken in pieces.
// compile: REAL=float | REAL=double
//
// Thread mapping: a block for 32 columns and one piece of the rows; its blockDim.y warps take runs of 8 rows in turn,
// then the first warp adds the others' totals. The order depends on the sizes alone. A matrix of many rows is summed in
// two launches: pieces to a small matrix, and that to the result.
// Bytes: each element once. Flops: one an element, bound by memory. Runs are added in `real`, all else in double: a
// conversion for every 8 elements, which matters on GPUs with few double units.
// Considered: a warp a column (strided access), float4 loads (needs aligned rows of a multiple of 4, and a warp's 32
// floats are a full line already), a tree over the warps (8 additions are not worth it). Not yet timed on a GPU.

#define WARPS 8  // at most
#define RUN 8

// y[piece, column] = the sum over the rows of the piece of x[row, column] + start[column % period]; start may be null.
extern "C" __global__ void __launch_bounds__(256) column_sums(
    const real* __restrict__ x, const real* __restrict__ start, real* __restrict__ y,
    int rows, int columns, int piece_rows, int period
) {
    __shared__ double totals[WARPS][32];
    const long long column = (long long)blockIdx.x * 32 + threadIdx.x;
    const int first = blockIdx.y * piece_rows, last = min(rows, first + piece_rows), warps = blockDim.y;
    double total = 0;
    if (column < columns) {
        for (int row = first + threadIdx.y * RUN; row < last; row += warps * RUN) {
            const real* from = x + (long long)row * columns + column;
            real run = 0;
#pragma unroll
            for (int k = 0; k < RUN; ++k)
                if (row + k < last) run += from[(long long)k * columns];
            total += run;
        }
    }
    totals[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y > 0 || column >= columns) return;
    for (int warp = 1; warp < warps; ++warp) total += totals[warp][threadIdx.x];
    if (start) total += start[column % period];
    y[blockIdx.y * (long long)columns + column] = (real)total;
}
