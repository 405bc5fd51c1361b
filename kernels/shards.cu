// Sums over the shards of a batch, in their order, and the facts of each: loss, correct predictions, weight.
// compile: REAL=float | REAL=double
//
// Thread mapping: sum_shards a thread a column, thread blocks of 256, loads of a row are coalesced; record_shard one
// thread block, which sums the weights of the labels; weigh_shards one thread, as there are some tens of shards.
// Bytes: each element once. Operations: one mul-add in double an element, and a conversion: bound by memory, but for GPUs
// with few double units.
//
// Considered: four columns a thread and vector loads (a warp's 32 floats are a full line already); a tree over the
// shards (no gain for some tens of them, and the order would not be that of the CPU); compensated sums in `real` (four
// additions for one). Not timed on a GPU.

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

// facts (at least 3): loss, correct, and the number of rows or, with `weight`, (classes,), the sum of its entries for the
// labels of the rows; a label that is none has the weight NaN.
extern "C" __global__ void __launch_bounds__(256) record_shard(
    real* facts, const real* loss, const long long* correct, int rows, const int* labels, const real* weight,
    int classes) {
    __shared__ double sums[256];
    double total = 0;
    for (int row = threadIdx.x; weight && row < rows; row += 256) {
        const int label = labels[row];
        const double nan = 0.0 / (double)(classes - classes);
        total += label >= 0 && label < classes ? (double)weight[label] : nan;
    }
    sums[threadIdx.x] = total;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x > 0) return;
    facts[0] = *loss;
    facts[1] = real(*correct);
    facts[2] = weight ? real(sums[0]) : real(rows);
}

// facts (shards, columns): the share of each shard in the sum of the weights, and the sum of the correct predictions.
extern "C" __global__ void weigh_shards(
    const real* facts, double* weights, long long* correct, int shards, int columns) {
    double total = 0;
    long long count = 0;
    for (int shard = 0; shard < shards; ++shard) {
        total += facts[(long long)shard * columns + 2];
        count += (long long)facts[(long long)shard * columns + 1];
    }
    for (int shard = 0; shard < shards; ++shard) weights[shard] = facts[(long long)shard * columns + 2] / total;
    *correct = count;
}
