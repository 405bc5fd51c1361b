// Losses of numbers with their gradients: squared error, Huber's, binary cross-entropy of a sigmoid.
// compile: REAL=float | REAL=double
//
// Thread mapping: a grid-stride loop over the elements, at least four turns before there is a second block of 256; at
// most 1024 blocks. The loss has two stages of a fixed order: a block's threads, then in another launch the blocks; a
// batch of up to 1024 elements is the work of a single block, and that launch is all.
// Bytes an element (float32): 12. Operations an element: about 10, with an exponential and a logarithm 60.
// All arithmetic is in double: a batch of targets is small, and the sum of squares of many needs its digits.
//
// Considered: four elements a thread and vector loads (a row of targets has one to some tens of elements: the launch is
// most of the cost); a kernel for each loss (the choice is uniform over a launch, so no warp diverges).
// Not timed on a GPU.

#define NOT_A_NUMBER __longlong_as_double(0x7ff8000000000000LL)

struct Term {
    double loss, slope;
};

// Loss and gradient of an element. kind: 0 squared error, 1 Huber's, 2 binary cross-entropy, in which `positive` is the
// weight of a target of 1.
__device__ __forceinline__ Term term_of(int kind, double x, double target, double delta, double positive) {
    if (kind < 2) {
        const double error = x - target, size = fabs(error);
        if (kind == 0) return {error * error, 2 * error};
        if (size > delta) return {delta * (size - 0.5 * delta), error > 0 ? delta : -delta};
        return {0.5 * error * error, error};
    }
    const double tail = exp(-fabs(x)), log_one = log1p(tail), small = tail / (1 + tail), large = 1 / (1 + tail);
    const double p = x >= 0 ? large : small, q = x >= 0 ? small : large;
    const double of_one = log_one + (x < 0 ? -x : 0), of_zero = log_one + (x > 0 ? x : 0);
    return {positive * target * of_one + (1 - target) * of_zero, (1 - target) * p - positive * target * q};
}

// What losses are multiplied by: `scale`, divided by the sum of the rows' weights; NaN if that is 0, as 0 / 0.
__device__ __forceinline__ double scale_of(const double* weight_sum, double scale) {
    if (!weight_sum) return scale;
    return *weight_sum != 0 ? scale / *weight_sum : NOT_A_NUMBER;
}

// The sum of the rows' weights, by one block.
extern "C" __global__ void __launch_bounds__(256) sum_weights(const real* weights, int rows, double* sum) {
    __shared__ double scratch[32];
    double total = 0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x) total += weights[row];
    total = block_sum(total, scratch);
    if (threadIdx.x == 0) *sum = total;
}

// The gradient, and one of these (the others are null): the loss of each element; or the loss, by a single block; or
// each block's part of it, without the scale. sample_weight (a number a row) and pos_weight (one a column) may be null.
extern "C" __global__ void __launch_bounds__(256)
    elementwise_loss(const real* __restrict__ outputs, const real* __restrict__ targets,
                     const real* __restrict__ sample_weight, const real* __restrict__ pos_weight,
                     const double* weight_sum, double fixed_scale, int kind, double delta, int elements, int columns,
                     real* __restrict__ gradient, real* losses, double* partial, real* loss) {
    __shared__ double scratch[32];
    const double scale = scale_of(weight_sum, fixed_scale);
    double sum = 0;
    for (long long at = global_index(); at < elements; at += (long long)gridDim.x * blockDim.x) {
        const int row = (int)at / columns, column = (int)at - row * columns;
        const double weight = sample_weight ? (double)sample_weight[row] : 1.0;
        const double positive = pos_weight ? (double)pos_weight[column] : 1.0;
        const Term term = term_of(kind, outputs[at], targets[at], delta, positive);
        gradient[at] = real(scale * weight * term.slope);
        if (losses) losses[at] = real(weight * term.loss);
        sum += weight * term.loss;
    }
    if (losses) return;
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        if (loss) *loss = real(sum * scale);
        else partial[blockIdx.x] = sum;
    }
}

// The blocks' parts of the loss, by one block.
extern "C" __global__ void __launch_bounds__(256)
    add_parts(const double* partial, int count, const double* weight_sum, double fixed_scale, real* loss) {
    __shared__ double scratch[32];
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *loss = real(sum * scale_of(weight_sum, fixed_scale));
}
