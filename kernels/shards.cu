// Sums over the shards of a batch, in their order.
// compile: REAL=float | REAL=double
//
// Thread mapping: a thread a column, thread blocks of 256; loads of a row are coalesced.
// Bytes: each element once. Operations: one mul-add in double an element, and a conversion: bound by memory, but for GPUs
// with few double units.
//
// Considered: four columns a thread and vector loads (a warp's 32 floats are a full line already); a tree over the
// shards (no gain for some tens of them, and the order would not be that of the CPU); compensated sums in `real` (four
// additions for one). Not yet timed on a GPU.

// out[column] = the sum of weights[shard] * rows[shard, column], rows (shards, columns). The product is rounded before
// it is added, as on the CPU.
extern "C" __global__ void __launch_bounds__(256) sum_shards(
    const real* __restrict__ rows, const double* __restrict__ weights, real* __restrict__ out, int shards, int columns) {
    const long long column = global_index();
    if (column >= columns) return;
    double total = 0;
    for (int shard = 0; shard < shards; ++shard)
        total = add_rn(total, mul_rn(weights[shard], (double)rows[(long long)shard * columns + column]));
    out[column] = (real)total;
}
