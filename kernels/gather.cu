// The batch of a training step: rows of a data set gathered in a given order, augmented and scaled in one pass.
// compile: REAL=float | REAL=double
//
// Thread mapping: blockIdx.x is a row of the batch, over whose elements a thread block of 256 strides, or gridDim.y of
// them where rows are long. Loads (backwards in a mirrored image) and stores are coalesced. One thread of a block draws
// the augmentation, two Philox counters, and broadcasts it through shared memory. The first block of a row writes its
// label.
// Bytes an element (uint8 to float32): 5, and what scale and offset take, which stay in the cache. Operations an
// element: about 50, two integer divisions among them. For some hundred small images the launch is most of the cost.
//
// What the CPU refuses cannot be refused here, as that would mean waiting for the device: a start out of range is moved
// into it, and an entry of `order` out of range stands for row 0; the rows concerned get the label -1.
//
// Considered: four elements a thread and vector stores (an image moved sideways is not aligned where it is read, and a
// warp's stores of 128 bytes are whole lines already); every thread drawing for itself (no barrier, but more
// instructions than all else it does); loads that leave no trace in the cache, as a pixel is read once an epoch (a
// batch takes less than a hundredth of it). Fused into the first convolution, the batch would not go through memory at
// all.
//
// In training steps on an H200, gather_images takes 5.2 us for 256 augmented images of 28 x 28, without augmentation
// 3.7 for 128 and 6.6 for 1,024.

#define AUGMENT 3u  // number of the random stream, gpunet/ops/random
#define NOT_A_NUMBER __longlong_as_double(0x7ff8000000000000LL)

// What happens to an image: moved, then mirrored, then a square of it set to zero.
struct Augmentation {
    int down, right, mirror, top, left;
};

// A number in [0, n) by a random word.
__device__ __forceinline__ int choose(unsigned word, int n) { return (int)__umulhi(word, (unsigned)n); }

__device__ __forceinline__ Augmentation draw(int row, int height, int width, bool flip, int shift, int cutout,
                                             unsigned long long seed, unsigned step) {
    unsigned first[4], second[4];
    counter_words(seed, AUGMENT, step, 2ULL * row, first);
    counter_words(seed, AUGMENT, step, 2ULL * row + 1, second);
    Augmentation drawn;
    drawn.mirror = flip && first[0] >= 0x80000000u;
    drawn.down = choose(first[1], 2 * shift + 1) - shift;
    drawn.right = choose(first[2], 2 * shift + 1) - shift;
    drawn.top = choose(second[0], height) - cutout / 2;
    drawn.left = choose(second[1], width) - cutout / 2;
    return drawn;
}

// Which row of the data set is row blockIdx.x of these gridDim.x rows, the first of which is row `first_row` of the
// batch; writes its label, or -1 if there is none.
__device__ __forceinline__ int gathered_row(const long long* order, int order_size, const long long* start_pointer,
                                            long long start, int first_row, const int* labels, int* batch_labels,
                                            int n) {
    const long long wanted = value_or(start_pointer, start) + first_row;
    const long long first = max(0LL, min(wanted, (long long)order_size - gridDim.x));
    const long long entry = order[first + blockIdx.x];
    const bool inside = entry >= 0 && entry < n;
    const int row = inside ? (int)entry : 0;
    if (blockIdx.y == 0 && threadIdx.x == 0) batch_labels[blockIdx.x] = inside && first == wanted ? labels[row] : -1;
    return row;
}

// images (n, height, width, channels), x (gridDim.x, height, width, channels). scale and offset: a number a pixel and
// channel, or one a channel, or null for the default.
extern "C" __global__ void __launch_bounds__(256)
    gather_images(const unsigned char* images, const int* labels, const long long* order, int n, int order_size,
                  const long long* start_pointer, long long start, int first_row, int height, int width, int channels,
                  const real* scale, unsigned scale_size, real default_scale, const real* offset, unsigned offset_size,
                  int flip, int shift, int cutout, unsigned long long seed, const long long* step_pointer,
                  long long step, real* x, int* batch_labels) {
    __shared__ Augmentation drawn;
    const int row = gathered_row(order, order_size, start_pointer, start, first_row, labels, batch_labels, n);
    if (threadIdx.x == 0) {
        const unsigned word = (unsigned)value_or(step_pointer, step);
        const int number = first_row + (int)blockIdx.x;
        if (flip || shift || cutout) drawn = draw(number, height, width, flip, shift, cutout, seed, word);
        else drawn = Augmentation{0, 0, 0, 0, 0};
    }
    __syncthreads();
    const Augmentation change = drawn;
    const unsigned line = width * channels, pixels = height * line;
    const unsigned char* image = images + (long long)row * pixels;
    real* out = x + (long long)blockIdx.x * pixels;
    for (unsigned at = blockIdx.y * blockDim.x + threadIdx.x; at < pixels; at += gridDim.y * blockDim.x) {
        const int i = at / line, within = at - i * line, j = within / channels, channel = within - j * channels;
        const int from_i = i - change.down, from_j = (change.mirror ? width - 1 - j : j) - change.right;
        const bool seen = from_i >= 0 && from_i < height && from_j >= 0 && from_j < width;
        const bool cut = i >= change.top && i < change.top + cutout && j >= change.left && j < change.left + cutout;
        const real pixel = seen && !cut ? real(image[(from_i * width + from_j) * channels + channel]) : real(0);
        const real factor = scale ? scale[scale_size == pixels ? at : channel] : default_scale;
        const real summand = offset ? offset[offset_size == pixels ? at : channel] : real(0);
        out[at] = add_rn(mul_rn(pixel, factor), summand);
    }
}

// features (n, length) of T, gathered as they are into x (gridDim.x, length).
template <typename T>
__device__ __forceinline__ void gather_row(const T* features, unsigned length, int row, real* x) {
    const T* from = features + (long long)row * length;
    real* out = x + (long long)blockIdx.x * length;
    for (unsigned at = blockIdx.y * blockDim.x + threadIdx.x; at < length; at += gridDim.y * blockDim.x)
        out[at] = real(from[at]);
}

extern "C" __global__ void __launch_bounds__(256)
    gather_float(const float* features, const int* labels, const long long* order, int n, int order_size,
                 const long long* start_pointer, long long start, int first_row, unsigned length, real* x,
                 int* batch_labels) {
    const int row = gathered_row(order, order_size, start_pointer, start, first_row, labels, batch_labels, n);
    gather_row(features, length, row, x);
}

extern "C" __global__ void __launch_bounds__(256)
    gather_double(const double* features, const int* labels, const long long* order, int n, int order_size,
                  const long long* start_pointer, long long start, int first_row, unsigned length, real* x,
                  int* batch_labels) {
    const int row = gathered_row(order, order_size, start_pointer, start, first_row, labels, batch_labels, n);
    gather_row(features, length, row, x);
}

// targets (n, columns), gathered into y (rows, columns), a thread an element: some hundred bytes, so that the launch is
// the cost. What has no row is NaN.
extern "C" __global__ void __launch_bounds__(256)
    gather_targets(const real* targets, const long long* order, int n, int order_size, const long long* start_pointer,
                   long long start, int rows, unsigned columns, real* y) {
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x, row = at / columns;
    if (row >= (unsigned)rows) return;
    const long long wanted = value_or(start_pointer, start);
    const long long first = max(0LL, min(wanted, (long long)order_size - rows));
    const long long entry = order[first + row];
    const bool there = first == wanted && entry >= 0 && entry < n;
    y[at] = there ? targets[entry * columns + (at - row * columns)] : real(NOT_A_NUMBER);
}
