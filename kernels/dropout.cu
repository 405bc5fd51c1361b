// Dropout and its gradient; the mask is a function of (seed, stream, step, index), bit for bit that of the CPU.
// compile: REAL=float | REAL=double
//
// Thread mapping: one thread for each Philox counter, that is four contiguous elements, thread blocks of 256. Loads and
// stores are vectorized where arrays are aligned: 16 bytes of float32 and four mask bytes at a time.
// Bytes an element (float32): 9 in either direction. Operations an element: forward about 25 (a quarter of a Philox
// block), backward 1: bound by memory.
//
// Considered: a thread an element (four times the random numbers, or three of four words thrown away); a mask of bits
// (an eighth of its bytes, but the mask is an output of the op, the same array as on the CPU); no mask at all, drawn
// again by the backward pass (saves a byte of nine either way for a second Philox).
//
// In a training step on an H200, 256 x 512 elements took 1.7 us, backward 1.3: launches, mostly.

// ---- kernels -------------------------------------------------------------------------------------------------------

// An element is multiplied by `scale` or by zero, not chosen: a NaN must stay one.

// Keeps what has a random word of at least `threshold`, times `scale`. The first element has word `lead` of
// `first_counter`; unless that is word 0, a thread draws two counters.
extern "C" __global__ void __launch_bounds__(256)
    dropout(const real* __restrict__ x, real* __restrict__ y, unsigned char* __restrict__ mask, int n,
            unsigned threshold, real scale, unsigned long long seed, unsigned stream, const long long* step_pointer,
            long long step, unsigned long long first_counter, int lead) {
    const long long counter = global_index(), first = 4 * counter;
    if (first >= n) return;
    const int count = (int)min(4LL, n - first);
    const bool vectorized = count == 4 && is_aligned(x) && is_aligned(y) && is_aligned(mask);
    Vec4<real> values = load_vec4(x + first, count, vectorized);
    Vec4<unsigned char> kept;
    unsigned words[8];
    const unsigned number = (unsigned)value_or(step_pointer, step);
    counter_words(seed, stream, number, first_counter + counter, words);
    if (lead) {
        counter_words(seed, stream, number, first_counter + counter + 1, words + 4);
#pragma unroll 1
        for (int j = 0; j < lead; ++j) {
#pragma unroll
            for (int k = 0; k < 7; ++k) words[k] = words[k + 1];
        }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        kept.at[k] = words[k] >= threshold;
        values.at[k] *= kept.at[k] ? scale : real(0);
    }
    store_vec4(y + first, values, count, vectorized);
    store_vec4(mask + first, kept, count, vectorized);
}

extern "C" __global__ void __launch_bounds__(256)
    dropout_backward(const real* __restrict__ dy, const unsigned char* __restrict__ mask, real* __restrict__ dx, int n,
                     real scale) {
    const long long first = 4 * global_index();
    if (first >= n) return;
    const int count = (int)min(4LL, n - first);
    const bool vectorized = count == 4 && is_aligned(dy) && is_aligned(mask) && is_aligned(dx);
    Vec4<real> values = load_vec4(dy + first, count, vectorized);
    const Vec4<unsigned char> kept = load_vec4(mask + first, count, vectorized);
#pragma unroll
    for (int k = 0; k < 4; ++k) values.at[k] *= kept.at[k] ? scale : real(0);
    store_vec4(dx + first, values, count, vectorized);
}
