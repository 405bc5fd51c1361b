// Random words by their counter, see gpunet/ops/random.
// compile: REAL=float
//
// Thread mapping: one thread per counter, which gives four words, thread blocks of 256. Bytes per word: 4. Operations
// per word: about 25, of which 5 are products of 32 x 32 -> 64 bits. Not timed on a GPU.

extern "C" __global__ void philox_words(unsigned* out, int n, unsigned long long seed, unsigned stream,
                                        const long long* step_pointer, long long step) {
    const long long counter = global_index(), first = 4 * counter;
    if (first >= n) return;
    unsigned words[4];
    counter_words(seed, stream, (unsigned)value_or(step_pointer, step), counter, words);
#pragma unroll
    for (int k = 0; k < 4; ++k)
        if (first + k < n) out[first + k] = words[k];
}
